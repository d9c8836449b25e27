//! The program as a process: results, exit codes, interruption, messages.

mod snapshots;

use std::{
    collections::HashMap,
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use crate::common::{model_path, png, program::*};
use serde_json::Value;

/// The user id of `nobody`: permissions do not apply to root.
const NOBODY: u32 = 65_534;

#[test]
fn a_run_writes_tables_and_its_summary_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    write_images(&images, 250);
    let summary = json(&mut run(&images, &output, &["--csv", "-k", "5"]));
    assert_eq!(
        (&summary["images"], &summary["inferred"], &summary["components"]),
        (&250.into(), &250.into(), &5.into())
    );
    assert_eq!((&summary["labels"], &summary["rejects"], &summary["version"]), (&3.into(), &0.into(), &1.into()));
    for (name, place) in summary["files"].as_object().unwrap() {
        let place = place.as_str().unwrap();
        assert!(place.contains('*') || Path::new(place).exists(), "{name}: {place}");
    }
    let again = json(&mut run(&images, &output, &["--csv", "-k", "5"]));
    assert_eq!((&again["up_to_date"], &again["inferred"], &again["version"]), (&true.into(), &0.into(), &1.into()));

    let shown = finish(pomona().arg("show").arg(&output));
    let text = String::from_utf8(shown.stdout).unwrap();
    for expected in ["label 0", "250", "pc_0", "No rejects", "label 0/00000.png", "tiny.onnx, 24 features"] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    let changed = finish(&mut run(&images, &output, &["-k", "4"]));
    let said = String::from_utf8(changed.stderr).unwrap();
    assert!(said.contains("250 images; no image is inferred again"), "{said}");
    let text = String::from_utf8(changed.stdout).unwrap();
    for expected in [
        "Version 2",
        "4 components explain",
        "pd.read_parquet",
        "SELECT * FROM",
        "0 images inferred, 250 reused from earlier runs",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    write_images(&images, 300);
    let outputs = ["1", "2", "5"].map(|threads| {
        let output = dir.path().join(threads);
        json(&mut run(
            &images,
            &output,
            &["--threads", threads, "--shard-size", "40", "--csv", "--partition-by-label"],
        ));
        tables(&output)
    });
    assert!(outputs[0].len() > 20);
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(outputs[0], outputs[2]);
}

/// From file to scores with the built-in model: kernels, eigenvectors and projection with each instruction set.
#[test]
fn every_instruction_set_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    assert!(finish(pomona().args(["demo", "--images-only", "--views", "1"]).arg(dir.path())).status.success());
    // Scalar code takes a second per image on processors without fused multiply-add.
    let varieties: Vec<_> = fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().path()).collect();
    varieties[5..].iter().for_each(|variety| fs::remove_dir_all(variety).unwrap());
    let made: Vec<_> = pomona_kernels::Instructions::available()
        .into_iter()
        .map(|instructions| {
            let output = dir.path().join(instructions.name());
            let mut command = pomona();
            command.arg("run").arg(&images).arg(&output).env("POMONA_INSTRUCTIONS", instructions.name());
            assert_eq!(json(&mut command)["images"], 5);
            tables(&output)
        })
        .collect();
    assert!(made[0].len() > 6);
    assert!(made.iter().all(|tables| *tables == made[0]));
}

/// Kills runs at many moments. Finished shards are neither lost nor written again.
#[test]
fn a_killed_run_is_continued_with_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    let (images, undisturbed) = (dir.path().join("images"), dir.path().join("undisturbed"));
    write_images(&images, 1_200);
    let options = ["--shard-size", "24", "--csv", "--threads", "2"];
    json(&mut run(&images, &undisturbed, &options));
    let whole = count_files(&undisturbed);
    let expected = tables_of_any_version(&undisturbed);

    let (mut kills, mut reused) = (0, 0);
    for round in 0..8 {
        let output = dir.path().join(format!("killed-{round}"));
        // Several kills in a row, spread over the whole run for any speed of the machine.
        for kill in 0..3 {
            let mut child =
                run(&images, &output, &options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let enough = whole * (round * 3 + kill + 1) / 26;
            while count_files(&output) < enough && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                kills += 1;
            }
            child.wait().unwrap();
        }
        let finished = finished_shards(&output);
        let already: u64 = finished.values().map(|(rows, _)| rows).sum();
        let summary = json(&mut run(&images, &output, &options));
        if summary["up_to_date"] == false {
            assert_eq!(summary["inferred"].as_u64().unwrap() + already, 1_200);
            reused += finished.len();
        }
        for (shard, (_, stamp)) in &finished {
            assert_eq!(stamp_of(&output.join("shards").join(shard)), *stamp, "{shard} was written again");
        }
        assert_eq!(tables_of_any_version(&output), expected, "round {round}");
        assert!(!output.join(".tmp").exists());
    }
    assert!(kills >= 12 && reused > 50, "{kills} kills, {reused} shards reused");
}

/// The number of files that a run has written so far.
fn stamp_of(shard: &Path) -> (u64, SystemTime) {
    let metadata = fs::metadata(shard.join("features.parquet")).unwrap();
    (metadata.ino(), metadata.modified().unwrap())
}

/// Rows of each finished shard, and inode and time of its features file.
fn finished_shards(output: &Path) -> HashMap<String, (u64, (u64, SystemTime))> {
    let Ok(shards) = fs::read_dir(output.join("shards")) else { return HashMap::new() };
    shards
        .map(|shard| shard.unwrap().path())
        .filter_map(|shard| {
            let record: Value = serde_json::from_slice(&fs::read(shard.join("shard.json")).ok()?).unwrap();
            let name = shard.file_name().unwrap().to_str().unwrap().to_owned();
            Some((name, (record["rows"].as_u64().unwrap(), stamp_of(&shard))))
        })
        .collect()
}

#[test]
fn ctrl_c_keeps_finished_images() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    write_images(&images, 400);
    // With the embedded model and one shard, a run spends most of its time in the middle of that shard.
    let run = || {
        let mut command = pomona();
        command.arg("run").arg(&images).arg(&output).args(["--threads", "1"]);
        command
    };
    for doubled in 0..9 {
        let mut child = run().stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100 << doubled));
        let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(interrupted.success());
        let status = child.wait().unwrap();
        if output.join("partials").exists() {
            assert_eq!(status.code(), Some(130));
            break;
        }
        // Before the program has set its handler, the signal ends it. Before the first image, there is nothing to keep.
        assert!(status.code() == Some(130) || status.signal().is_some(), "{status}");
    }
    assert!(output.join("partials").exists());
    let summary = json(&mut run());
    let (copied, inferred) = (summary["copied"].as_u64().unwrap(), summary["inferred"].as_u64().unwrap());
    assert!(copied > 0 && copied + inferred == 400, "{summary}");
    // The store removes a folder with its last file.
    assert!(!output.join("partials").exists());
}

#[test]
fn unreadable_images_become_rows_of_the_rejects_table() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    write_images(&images, 100);
    let bad = images.join("bad");
    fs::create_dir(&bad).unwrap();
    fs::write(bad.join("empty.jpg"), "").unwrap();
    fs::write(bad.join("text.jpg"), "not an image").unwrap();
    fs::write(bad.join("truncated.png"), &png(0)[..60]).unwrap();
    fs::File::create(bad.join("too large.jpg")).unwrap().set_len(200 << 20).unwrap();
    let mut bomb = std::io::Cursor::new(Vec::new());
    image::GrayImage::new(30_000, 3_000).write_to(&mut bomb, image::ImageFormat::Png).unwrap();
    fs::write(bad.join("bomb.png"), bomb.into_inner()).unwrap();
    fs::write(bad.join("secret.png"), png(1)).unwrap();
    fs::set_permissions(bad.join("secret.png"), fs::Permissions::from_mode(0o000)).unwrap();
    for folder in [dir.path(), &images] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let name = std::ffi::OsString::from(bad.join("no-utf8-"));
    let mut name = std::os::unix::ffi::OsStringExt::into_vec(name);
    name.push(0xff);
    let name: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(name);
    fs::write(PathBuf::from(name), png(2)).unwrap();

    // There may be no way for nobody to the folder of this checkout.
    let files = [PathBuf::from(env!("CARGO_BIN_EXE_pomona")), model_path("tiny")];
    assert!(finish(Command::new("install").args(["-m", "755"]).args(files).arg(dir.path())).status.success());
    let mut command = Command::new(dir.path().join("pomona"));
    command.arg("run").args([&images, &output]).args(["--max-reject-percent", "20", "--model"]);
    command.arg(dir.path().join("tiny.onnx")).stdin(Stdio::null());
    if fs::metadata(dir.path()).unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    let summary = json(&mut command);
    assert_eq!((&summary["images"], &summary["rejects"]), (&101.into(), &6.into()));
    let text = String::from_utf8(finish(pomona().arg("show").arg(&output).args(["-n", "20"])).stdout).unwrap();
    for (path, reason) in [
        ("bad/empty.jpg", "empty"),
        ("bad/text.jpg", "not_an_image"),
        ("bad/truncated.png", "truncated"),
        ("bad/too large.jpg", "too_large"),
        ("bad/bomb.png", "too_large"),
        ("bad/secret.png", "no_permission"),
    ] {
        let line =
            text.lines().find(|line| line.trim_start().starts_with(path) && !line.contains("[")).unwrap_or_default();
        assert!(line.contains(reason), "{path}: {reason} expected in {line:?} of\n{text}");
    }

    let text = fails(&mut run(&images, &dir.path().join("strict"), &[]), 1, "Dataset.TooManyRejects");
    assert!(text.contains("--max-reject-percent"), "{text}");
}

#[test]
fn wrong_usage_and_failures_have_exit_codes_and_advice() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    write_images(&images, 10);
    for options in [
        vec!["--variance", "2"],
        vec!["--components", "0"],
        vec!["--components", "3", "--variance", "0.5"],
        vec!["--max-reject-percent", "101"],
        vec!["--threads", "0"],
        vec!["--feature-range", "7"],
        vec!["--shard-size", "0"],
        vec!["--shard-size", "4000000"],
        vec!["--nonsense"],
    ] {
        let text = fails(&mut run(&images, &output, &options), 2, "error");
        assert!(!output.exists(), "{options:?}: {text}");
    }
    fails(pomona().args(["run", "only-one-argument"]), 2, "OUTPUT");

    fails(&mut run(&dir.path().join("nowhere"), &output, &[]), 1, "Input.NotFound");
    fails(&mut run(&images.join("label 0/00000.png"), &output, &[]), 1, "is a file");
    fails(&mut run(&images, &images.join("results"), &[]), 1, "Input.Overlap");
    fails(&mut run(&images, dir.path(), &[]), 1, "Input.Overlap");
    let text = fails(&mut run(&images, &output, &["-k", "10"]), 1, "Pca.TooManyComponents");
    assert!(text.contains("1 to 9 are possible") && text.contains("help:"), "{text}");

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fails(&mut run(&empty, &dir.path().join("r1"), &[]), 1, "Input.Empty");
    fs::write(empty.join("one.png"), png(1)).unwrap();
    fails(&mut run(&empty, &dir.path().join("r2"), &[]), 1, "Pca.TooFewImages");

    let occupied = dir.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("thesis.docx"), "important").unwrap();
    fails(&mut run(&images, &occupied, &[]), 1, "Output.Occupied");
    assert_eq!(fs::read_dir(&occupied).unwrap().count(), 1, "nothing was added");
    fails(pomona().arg("show").arg(&occupied), 1, "Output.NoVersion");
    fails(pomona().arg("show").arg(dir.path().join("nowhere")), 1, "Output.NoVersion");

    let mut command = pomona();
    command.arg("run").arg(&images).arg(&output).arg("--model").arg(images.join("label 0/00000.png"));
    fails(&mut command, 1, "Model.Invalid");
}

#[test]
fn ten_thousand_files_in_a_folder_with_special_characters() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    let odd = images.join("Äpfel \"rot\" & 'grün' 苹果");
    fs::create_dir_all(&odd).unwrap();
    let bodies: Vec<_> = (0..50).map(png).collect();
    for i in 0..10_000 {
        fs::write(odd.join(format!("{i}.png")), &bodies[i % 50]).unwrap();
    }
    let summary = json(&mut run(&images, &output, &["--partition-by-label", "--csv"]));
    assert_eq!((&summary["images"], &summary["labels"]), (&10_000.into(), &1.into()));
    let folder = output.join("pca/v=00000001/label=Äpfel %22rot%22 & %27grün%27 苹果");
    assert!(fs::read_dir(folder).unwrap().count() > 3);
    let csv = fs::read_to_string(output.join("csv/v=00000001/result.csv")).unwrap();
    assert_eq!(csv.lines().count(), 10_001);
    assert!(csv.contains("\"Äpfel \"\"rot\"\" & 'grün' 苹果/0.png\""));
}

#[test]
fn two_demos_have_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let hashes: Vec<_> = ["a", "b"]
        .iter()
        .map(|name| {
            let folder = dir.path().join(name);
            let output =
                finish(pomona().arg("demo").arg(&folder).args(["--views", "6", "--model"]).arg(model_path("tiny")));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            tables(&folder.join("results"))
        })
        .collect();
    assert!(hashes[0].len() > 5);
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn an_estimate_agrees_with_its_simulation_and_checks_its_arguments() {
    let all = json(pomona().args(["estimate", "--images", "22688"]));
    assert_eq!(all["shards"], 92);
    let simulated = all["simulated_seconds"].as_f64().unwrap() / all["seconds"].as_f64().unwrap();
    assert!((0.7..1.4).contains(&simulated), "{simulated}");
    fails(pomona().args(["estimate", "--images", "5", "--region", "mars-1"]), 2, "Input.Invalid");
    fails(pomona().args(["estimate", "--images", "0"]), 2, "expected 1 to 100,000,000,000");
}

#[test]
fn a_model_that_the_kernels_cannot_run_is_noted_once_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    write_images(&images, 12);
    let notes = |model: &str, options: &[&str]| {
        let mut command = pomona();
        let output = dir.path().join(format!("{model}{}", options.join("")));
        let done =
            finish(command.arg("run").arg(&images).arg(output).arg("--model").arg(model_path(model)).args(options));
        let errors = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{errors}");
        let summary: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
        assert_eq!(summary["images"] == 12, options.contains(&"--json"), "JSON stands alone on standard output");
        assert!(!String::from_utf8_lossy(&done.stdout).contains("note:"));
        errors
    };
    for options in [&[][..], &["--json"]] {
        let errors = notes("log", options);
        assert_eq!(errors.matches("note:").count(), 1, "{errors}");
        assert!(errors.contains("log.onnx runs on tract") && errors.contains("\n  reason: node "), "{errors}");
    }
    assert_eq!(notes("tiny", &["--json"]), "");
    // tract was requested, so there is nothing to note.
    assert_eq!(notes("log", &["--json", "--engine", "tract"]), "");
}

#[test]
fn a_run_leaves_a_report_and_a_receipt() {
    let dir = tempfile::tempdir().unwrap();
    write_images(&dir.path().join("in"), 12);
    let output = dir.path().join("out");
    let summary = json(&mut run(&dir.path().join("in"), &output, &[]));
    let report = PathBuf::from(summary["files"]["report"].as_str().unwrap());
    let page = fs::read_to_string(&report).unwrap();
    assert!(
        page.contains("All 12 images are drawn") && page.contains("data:image/jpeg;base64,") && page.len() < 5_000_000
    );
    // Beside the folders is the newest report: this one.
    assert_eq!(summary["files"]["newest_report"], output.join("report.html").to_str().unwrap());
    assert_eq!(fs::read_to_string(output.join("report.html")).unwrap(), page);
    let folder = report.parent().unwrap();
    for plot in ["scree.png", "scatter.png"] {
        assert_eq!(&fs::read(folder.join(plot)).unwrap()[1..4], b"PNG");
    }
    let receipt: Value = serde_json::from_slice(&fs::read(folder.join("receipt.json")).unwrap()).unwrap();
    assert_eq!((&receipt["images"], &receipt["at"]["place"]), (&12.into(), &"own_machine".into()));
    let stages: Vec<_> =
        receipt["lines"].as_array().unwrap().iter().map(|line| line["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["plan", "featurize", "merge", "reduce", "project", "publish"]);

    // A run without changes writes no report.
    let again = json(&mut run(&dir.path().join("in"), &output, &[]));
    assert_eq!((&again["up_to_date"], &again["files"]["report"]), (&true.into(), &Value::Null));
}

/// `xdg-open` is a script that writes what it is asked to open to a file.
#[cfg(target_os = "linux")]
#[test]
fn the_report_is_opened_in_the_browser_if_there_is_one() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    write_images(&dir.path().join("in"), 12);
    let (output, programs, opened) = (dir.path().join("out"), dir.path().join("bin"), dir.path().join("opened"));
    let summary = json(&mut run(&dir.path().join("in"), &output, &[]));
    fs::create_dir(&programs).unwrap();
    let show = |arguments: &[&str]| {
        let mut command = pomona();
        command.arg("show").arg(&output).arg("--open").args(arguments).env("PATH", &programs);
        let done = finish(&mut command);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    // Without a browser, the path remains.
    let (printed, note) = show(&[]);
    assert_eq!(printed, format!("{}\n", output.join("report.html").display()));
    assert!(note.starts_with("note: no browser could be started"), "{note}");

    let script = format!("#!/bin/sh\nprintf %s \"$1\" > '{}'\n", opened.display());
    fs::write(programs.join("xdg-open"), script).unwrap();
    fs::set_permissions(programs.join("xdg-open"), fs::Permissions::from_mode(0o755)).unwrap();
    let of_run = summary["files"]["report"].as_str().unwrap();
    for (arguments, path) in [(&[][..], output.join("report.html")), (&["--version", "1"][..], PathBuf::from(of_run))] {
        let _ = fs::remove_file(&opened);
        let (printed, _) = show(arguments);
        assert_eq!(printed, format!("{}\n", path.display()));
        let wanted = path.to_str().unwrap();
        let is_opened = || fs::read_to_string(&opened).is_ok_and(|opened| opened == wanted);
        assert!((0..100).any(|_| is_opened() || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            false
        }));
    }

    fs::remove_file(output.join("report.html")).unwrap();
    fails(pomona().arg("show").arg(&output).arg("--open"), 2, "Input.Invalid");
    fails(pomona().arg("show").arg(&output).args(["--open", "--json"]), 2, "cannot be used with");
}
