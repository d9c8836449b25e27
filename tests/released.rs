//! An output of release 0.1.0 (tests/golden/release-0.1.0, made by its program): shown, compared, continued, erased from,
//! vacuumed and checked.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use crate::common::{
    model_path,
    program::{json, pomona, success, tables_of_any_version},
};
use serde_json::Value;

const OPTIONS: [&str; 5] = ["--components", "5", "--csv", "--max-reject-percent", "5"];

/// A copy of the fixture, with the modification times that its etags have.
struct Released {
    dir: tempfile::TempDir,
}

impl Released {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/release-0.1.0");
        for entry in walkdir::WalkDir::new(&fixture) {
            let entry = entry.unwrap();
            let to = dir.path().join(entry.path().strip_prefix(&fixture).unwrap());
            if entry.file_type().is_dir() {
                fs::create_dir_all(to).unwrap();
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
        let times: BTreeMap<String, u64> =
            serde_json::from_slice(&fs::read(fixture.join("mtimes.json")).unwrap()).unwrap();
        for (path, nanoseconds) in times {
            let file = File::options().write(true).open(dir.path().join("images").join(path)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)).unwrap();
        }
        Released { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command in the folder that release 0.1.0 was started in: it recorded `images` as its input.
    fn command(&self, name: &str) -> Command {
        let mut command = pomona();
        command.current_dir(self.dir.path()).arg(name);
        command
    }

    fn run(&self, output: &str) -> Command {
        let mut command = self.command("run");
        command.args(["images", output, "--model"]).arg(model_path("tiny")).args(OPTIONS);
        command
    }

    fn marker(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("output/pomona.json")).unwrap()).unwrap()
    }
}

fn manifest(output: &Path, version: u64) -> Value {
    json(pomona().arg("show").arg(output).args(["--version", &version.to_string()]))
}

#[test]
fn it_is_shown_and_compared_without_a_change() {
    let released = Released::new();
    let output = released.path("output");
    let before = files(&output);
    let shown = manifest(&output, 2);
    assert_eq!((&shown["format"], &shown["version"]), (&1.into(), &2.into()));
    success(released.command("show").arg("output").output().unwrap());
    success(released.command("log").arg("output").output().unwrap());
    let diff = json(released.command("diff").args(["output", "1", "2"]));
    assert_eq!(diff["added"], serde_json::json!(["apple/08.png"]));
    assert_eq!(diff["changed"], serde_json::json!(["Äpfel rot/02.png"]));
    assert_eq!(diff["removed"], serde_json::json!(["fruit/kiwi/03.png"]));
    assert_eq!(files(&output), before);
}

#[test]
fn it_is_continued_only_on_request_and_the_result_is_that_of_a_fresh_run() {
    let released = Released::new();
    let refused = released.run("output").output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("Dataset.UpgradeNeeded"), "{said}");
    assert_eq!(released.marker()["format"], 1);

    let done = json(released.run("output").arg("--upgrade"));
    assert_eq!((&done["version"], &done["rejects"]), (&3.into(), &1.into()));
    assert_eq!(done["inferred"], done["images"]);
    assert_eq!(released.marker()["format"], 2);
    json(released.run("fresh").args(["--shard-size", "6"]));
    assert_eq!(newest(&released.path("output")), newest(&released.path("fresh")));
    // The old versions are readable, and a second run has nothing to do.
    assert_eq!(manifest(&released.path("output"), 1)["format"], 1);
    json(released.command("diff").args(["output", "2", "3"]));
    assert_eq!(json(&mut released.run("output"))["up_to_date"], true);

    // What a vacuum leaves is the new version.
    let vacuum = ["output", "--keep-versions", "1", "--older-than", "0"];
    let vacuumed = json(released.command("vacuum").args(vacuum));
    assert_eq!(vacuumed["removed"], serde_json::json!([1, 2]));
    assert_eq!(json(&mut released.run("output"))["up_to_date"], true);
    let left = files(&released.path("output"));
    let old = left.keys().find(|key| key.contains("moments.parquet") || key.starts_with("moments/"));
    assert_eq!(old, None);
    assert_eq!(tables_of_any_version(&released.path("output")), tables_of_any_version(&released.path("fresh")));
}

#[test]
fn it_is_vacuumed_as_it_is() {
    let released = Released::new();
    let vacuum = ["output", "--keep-versions", "1", "--older-than", "0"];
    assert_eq!(json(released.command("vacuum").args(vacuum))["removed"], serde_json::json!([1]));
    assert_eq!(manifest(&released.path("output"), 2)["images"], manifest(&Released::new().path("output"), 2)["images"]);
    success(released.command("show").arg("output").output().unwrap());
}

#[test]
fn images_are_erased_from_it() {
    let released = Released::new();
    fs::remove_file(released.path("images/apple/01.png")).unwrap();
    let erase = || {
        let mut command = released.command("erase");
        command.args(["output", "apple/01.png", "--input", "images", "--upgrade", "--model"]);
        command.arg(model_path("tiny"));
        command
    };
    let erased = json(&mut erase());
    assert_eq!((&erased["version"], &erased["removed_versions"]), (&3.into(), &serde_json::json!([1, 2])));
    for (file, body) in files(&released.path("output")) {
        let found = body.windows(12).any(|window| window == b"apple/01.png");
        assert!(!found, "{file}");
    }
    json(released.run("fresh").args(["--shard-size", "6"]));
    assert_eq!(newest(&released.path("output")), newest(&released.path("fresh")));
}

/// The tables of the newest version, with `v=*` instead of its number in the paths.
fn newest(output: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let tables = tables_of_any_version(output).into_iter();
    tables.filter(|(path, _)| path.to_string_lossy().contains("v=*")).collect()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.unwrap().into_path());
    let files = files.filter(|path| path.is_file() && !path.to_string_lossy().contains("/.tmp"));
    files.map(|path| (path.strip_prefix(folder).unwrap().display().to_string(), fs::read(path).unwrap())).collect()
}
