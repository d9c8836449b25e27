//! The commands for versions: log, diff, show, vacuum, erase; and watch.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use crate::common::{png, program::*};
use serde_json::{Value, json as value};

/// Images and an output with two versions: the second adds one image, replaces one and removes one.
fn two_versions(dir: &Path) -> (PathBuf, PathBuf) {
    let (images, output) = (dir.join("images"), dir.join("results"));
    write_images(&images, 120);
    json(&mut run(&images, &output, &["--shard-size", "20"]));
    fs::write(images.join("label 0/new.png"), png(500)).unwrap();
    fs::write(images.join("label 0/00003.png"), png(501)).unwrap();
    fs::remove_file(images.join("label 1/00110.png")).unwrap();
    let second = json(&mut run(&images, &output, &["--shard-size", "20"]));
    assert_eq!((&second["added"], &second["changed"], &second["removed"]), (&1.into(), &1.into(), &1.into()));
    (images, output)
}

fn text(command: &mut std::process::Command) -> String {
    let output = finish(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn log_and_diff_print_the_changes_of_each_version() {
    let dir = tempfile::tempdir().unwrap();
    let (_, output) = two_versions(dir.path());
    let log = text(pomona().arg("log").arg(&output));
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        ["version", "finished", "images", "added", "changed", "removed", "reused", "rejects", "explained", "seconds"]
    );
    // Version, date, time, images, added, changed, removed, reused, rejects.
    assert_eq!(
        [lines[1][0], lines[1][3], lines[1][4], lines[1][5], lines[1][6], lines[1][7]],
        ["1", "120", "120", "0", "0", "0"]
    );
    assert_eq!(
        [lines[2][0], lines[2][3], lines[2][4], lines[2][5], lines[2][6], lines[2][7]],
        ["2", "120", "1", "1", "1", "118"]
    );
    let json_log = json(pomona().arg("log").arg(&output));
    assert_eq!(
        (&json_log[1]["version"], &json_log[1]["parent"], &json_log[1]["inferred"]),
        (&2.into(), &1.into(), &2.into())
    );

    let shown = text(pomona().arg("diff").arg(&output).args(["1", "2"]));
    for expected in ["+ label 0/new.png", "~ label 0/00003.png", "- label 1/00110.png", "24 angles: largest ", "pc_0"] {
        assert!(shown.contains(expected), "{expected} is not in:\n{shown}");
    }
    let diff = json(pomona().arg("diff").arg(&output).args(["2", "1"]));
    assert_eq!((&diff["added"], &diff["removed"]), (&value!(["label 1/00110.png"]), &value!(["label 0/new.png"])));
    assert!(
        fails(pomona().arg("diff").arg(&output).args(["1", "7"]), 1, "Output.NoVersion").contains("there are: 1, 2")
    );

    let old = json(pomona().arg("show").arg(&output).args(["--version", "1"]));
    assert_eq!((&old["version"], &old["images"]), (&1.into(), &120.into()));
    assert!(
        text(pomona().arg("show").arg(&output).args(["--version", "1"])).contains("pca/v=00000001/part-00000.parquet")
    );
}

#[test]
fn vacuum_deletes_nothing_in_a_dry_run_and_then_what_it_printed() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = two_versions(dir.path());
    let young = json(pomona().arg("vacuum").arg(&output).args(["--keep-versions", "1"]));
    assert_eq!((&young["kept"], &young["removed"], &young["objects"]), (&value!([1, 2]), &value!([]), &0.into()));
    let vacuum = |more: &[&str]| {
        let mut command = pomona();
        command.arg("vacuum").arg(&output).args(["--keep-versions", "1", "--older-than", "0"]).args(more);
        command
    };
    let before = tables(&output);
    let printed = text(&mut vacuum(&["--dry-run"]));
    assert!(printed.contains("Nothing was deleted (dry run). A vacuum would delete:\n  versions  1\n"), "{printed}");
    assert_eq!(tables(&output), before);
    let done = json(&mut vacuum(&[]));
    assert_eq!((&done["kept"], &done["removed"]), (&value!([2]), &value!([1])));
    assert!(!output.join("pca/v=00000001").exists() && output.join("pca/v=00000002/_SUCCESS").exists());
    assert!(
        fails(pomona().arg("show").arg(&output).args(["--version", "1"]), 1, "Output.NoVersion")
            .contains("has been removed")
    );
    fs::write(images.join("label 0/later.png"), png(600)).unwrap();
    assert_eq!(json(&mut run(&images, &output, &["--shard-size", "20"]))["inferred"], 1);
}

#[test]
fn erase_prints_the_files_that_it_deleted_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = two_versions(dir.path());
    let erase = |more: &[&str]| {
        let mut command = pomona();
        command
            .arg("erase")
            .arg(&output)
            .args(["label 0/00050.png", "--model"])
            .arg(crate::common::model_path("tiny"))
            .args(more);
        command
    };
    assert!(fails(&mut erase(&[]), 2, "Input.Invalid").contains("still in the input"));
    fs::remove_file(images.join("label 0/00050.png")).unwrap();
    let erased = json(&mut erase(&[]));
    assert_eq!(
        (&erased["version"], &erased["removed_versions"], &erased["rewritten"]),
        (&3.into(), &value!([1, 2]), &true.into())
    );
    assert!(!erased["checked"].as_array().unwrap().is_empty());
    for file in erased["deleted"].as_array().unwrap() {
        assert!(!output.join(file.as_str().unwrap()).exists(), "{file}");
    }
    for (path, body) in tables(&output) {
        assert!(!body.windows(17).any(|w| w == b"label 0/00050.png"), "{}", path.display());
    }
    assert!(fails(&mut erase(&[]), 1, "Input.UnknownKey").contains("erased already"));
}

/// Ends the process even if the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn watch_runs_again_when_images_change_and_continues_after_a_failed_run() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    write_images(&images, 30);
    let mut command = pomona();
    command.arg("watch").arg(&images).arg(&output).args(["--debounce", "0.2", "--json", "--model"]);
    command.arg(crate::common::model_path("tiny")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = Running(command.spawn().unwrap());
    let mut errors = BufReader::new(watch.0.stderr.take().unwrap()).lines();
    let stdout = watch.0.stdout.take().unwrap();
    let mut summaries = serde_json::Deserializer::from_reader(BufReader::new(stdout)).into_iter::<Value>();
    let mut next = || summaries.next().unwrap().unwrap();
    let mut wait_for = |what: &str| errors.by_ref().map(Result::unwrap).find(|line| line.contains(what)).unwrap();

    assert_eq!(next()["images"], 30);
    wait_for("watching");
    fs::write(images.join("label 0/new.png"), png(500)).unwrap();
    assert_eq!(next()["inferred"], 1);
    wait_for("watching");
    // Too many rejects: the run fails, watching continues. A rename adds and removes all of them at once.
    let (aside, bad) = (dir.path().join("bad"), images.join("bad"));
    fs::create_dir(&aside).unwrap();
    for i in 0..5 {
        fs::write(aside.join(format!("{i}.png")), "no image").unwrap();
    }
    fs::rename(&aside, &bad).unwrap();
    wait_for("Dataset.TooManyRejects");
    wait_for("watching");
    fs::remove_file(images.join("label 0/00000.png")).unwrap();
    fs::rename(&bad, &aside).unwrap();
    let last = next();
    assert_eq!((&last["images"], &last["removed"], &last["rejects"]), (&30.into(), &1.into(), &0.into()));
    let pid = watch.0.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(watch.0.wait().unwrap().code(), Some(0));
}

#[test]
fn watching_a_bucket_fails_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let error = fails(pomona().args(["watch", "s3://fruit/images/"]).arg(dir.path()), 2, "Input.Invalid");
    assert!(error.contains("docs/deploy.md"), "{error}");
}
