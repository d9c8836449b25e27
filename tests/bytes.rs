//! The bytes of the tables, on record: of the demo, and of a history of runs with additions, deletions, a reject, a kept basis
//! and a rebuild. A change that is to leave results alone must leave this file's snapshot alone.
//!
//! The tables are those of image revision 3 (libjpeg-turbo's pixels, thumbnails). Before revision 2, the record equalled what the
//! program of release 0.1.0 writes.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::common::program::{finish, pomona, tables};
use sha2::{Digest, Sha256};

const VIEWS: u32 = 6;

/// All files below a folder, in order of their paths.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap);
    let mut files: Vec<_> =
        entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.path().to_owned()).collect();
    files.sort();
    files
}

/// Copies a file with its modification time, which is part of its etag.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
    let modified = fs::metadata(from).unwrap().modified().unwrap();
    File::options().write(true).open(to).unwrap().set_modified(modified).unwrap();
}

fn hashes(output: &Path, name: &str) -> String {
    let hash = |body: &[u8]| Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let tables = tables(output).into_iter().filter(|(path, _)| path.components().count() > 1);
    tables.map(|(path, body)| format!("{}  {name}/{}\n", hash(&body), path.display())).collect()
}

#[test]
fn the_tables_of_the_demo_and_of_a_history_have_the_bytes_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let (demo, images, output) = (dir.path().join("demo"), dir.path().join("images"), dir.path().join("results"));
    assert!(finish(pomona().arg("demo").arg(&demo).args(["--views", &VIEWS.to_string()])).status.success());
    let run = |options: &[&str]| {
        let done = finish(
            pomona().arg("run").arg(&images).arg(&output).args(["-k", "20", "--shard-size", "64"]).args(options),
        );
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let all = demo.join("images");
    let place = |file: &Path| images.join(file.strip_prefix(&all).unwrap());
    let (later, first): (Vec<_>, Vec<_>) =
        files(&all).into_iter().partition(|file| file.file_name().unwrap().to_string_lossy().starts_with('1'));
    first.iter().for_each(|file| copy(file, &place(file)));
    run(&["--csv"]);

    let broken = images.join("broken.jpg");
    fs::write(&broken, "broken\n").unwrap();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    File::options().write(true).open(&broken).unwrap().set_modified(modified).unwrap();
    run(&["--csv"]);

    later.iter().for_each(|file| copy(file, &place(file)));
    run(&[]);

    let removed = files(&images).into_iter().filter(|file| *file != broken);
    removed.skip(16).step_by(17).for_each(|file| fs::remove_file(file).unwrap());
    run(&["--refit", "never"]);

    fs::remove_file(&broken).unwrap();
    run(&["--partition-by-label", "--rebuild", "--csv"]);

    insta::assert_snapshot!(hashes(&demo.join("results"), "demo") + &hashes(&output, "history"));
}
