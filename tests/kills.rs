//! Runs and erasures that are killed at random and at chosen moments.
//!
//! `POMONA_KILLS=300 cargo test --release --workspace --test all kills::` kills more often; `make soak` does.
#![cfg(unix)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::common::{model_path, png, program::*};

/// Kills per kind; a third of those of runs is between the claim of a version and its publication.
fn kills() -> usize {
    std::env::var("POMONA_KILLS").map_or(24, |n| n.parse().unwrap())
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills the process as soon as `now` is true; false if it ended before.
fn kill_when(mut child: Child, now: impl Fn() -> bool) -> bool {
    let mut killed = false;
    while child.try_wait().unwrap().is_none() {
        if now() {
            child.kill().unwrap();
            killed = true;
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    child.wait().unwrap();
    killed
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether a run has claimed a version that it has not published.
fn is_claimed(output: &Path) -> bool {
    let names = names(&output.join("versions"));
    let claims = names.iter().filter_map(|name| name.strip_suffix(".claim"));
    let newest = claims.max().map(str::to_owned);
    newest.is_some_and(|number| !names.contains(&format!("{number}.json")))
}

/// The tables that a reader of the newest version sees, with `v=*` instead of its number in the paths.
fn readable(output: &Path) -> BTreeMap<String, Vec<u8>> {
    let shown = json(pomona().arg("show").arg(output));
    let version = format!("v={:08}", shown["version"].as_u64().unwrap());
    let mut files = BTreeMap::new();
    for (path, body) in tables(output) {
        let path = path.to_string_lossy().into_owned();
        if path.contains(&version) {
            files.insert(path.replace(&version, "v=*"), body);
        }
    }
    for key in ["basis", "moments"] {
        let file = shown[key]["key"].as_str().unwrap();
        files.insert(file.to_owned(), fs::read(output.join(file)).unwrap());
    }
    for group in shown["groups"].as_array().unwrap() {
        let folder = PathBuf::from("groups").join(group["id"].as_str().unwrap());
        for name in names(&output.join(&folder)) {
            let file = folder.join(name);
            files.insert(file.to_string_lossy().into_owned(), fs::read(output.join(&file)).unwrap());
        }
    }
    files
}

/// A dead process holds nobody up: a vacuum can start.
fn nobody_is_in_the_way(output: &Path) {
    if output.join("pomona.json").exists() {
        let vacuum = finish(pomona().arg("vacuum").arg(output).arg("--dry-run"));
        assert!(vacuum.status.success(), "{}", String::from_utf8_lossy(&vacuum.stderr));
    }
}

#[test]
fn killed_runs_end_with_the_tables_of_an_undisturbed_one() {
    let dir = tempfile::tempdir().unwrap();
    let (images, undisturbed) = (dir.path().join("images"), dir.path().join("undisturbed"));
    write_images(&images, 600);
    let options = ["--shard-size", "12", "--csv", "--threads", "2"];
    json(&mut run(&images, &undisturbed, &options));
    let (expected, whole) = (readable(&undisturbed), count_files(&undisturbed));
    let mut random = fastrand::Rng::with_seed(12);
    let (mut killed, mut while_claimed, mut round) = (0, 0, 0);
    while killed < kills() {
        let output = dir.path().join(format!("round-{round}"));
        round += 1;
        assert!(round < 20 * kills(), "the runs end before they are killed");
        for kill in 0..3 {
            let child = start(&mut run(&images, &output, &options));
            if kill == 1 {
                // After the claim, a few files later.
                let at = std::cell::Cell::new(None);
                let later = random.usize(0..60);
                let hit = kill_when(child, || {
                    if at.get().is_none() && is_claimed(&output) {
                        at.set(Some(count_files(&output) + later));
                    }
                    at.get().is_some_and(|at| count_files(&output) >= at)
                });
                while_claimed += usize::from(hit && is_claimed(&output));
                killed += usize::from(hit);
            } else {
                let enough = random.usize(1..whole);
                killed += usize::from(kill_when(child, || count_files(&output) >= enough));
            }
            nobody_is_in_the_way(&output);
        }
        json(&mut run(&images, &output, &options));
        assert_eq!(readable(&output), expected, "round {round}");
        fs::remove_dir_all(&output).unwrap();
    }
    println!("{killed} kills in {round} rounds, {while_claimed} between claim and publication");
    assert!(while_claimed >= kills() / 5, "{while_claimed} of {killed}");
}

#[test]
fn killed_erasures_are_completed_by_the_same_command() {
    let dir = tempfile::tempdir().unwrap();
    let (images, fresh) = (dir.path().join("images"), dir.path().join("fresh"));
    write_images(&images, 120);
    let options = ["--shard-size", "12", "-k", "5"];
    json(&mut run(&images, &fresh, &options));
    let expected = readable(&fresh);
    let person = "label 0/jane doe.png";
    let mut random = fastrand::Rng::with_seed(13);
    let (mut killed, mut round) = (0, 0);
    while killed < kills() / 2 {
        let output = dir.path().join(format!("round-{round}"));
        round += 1;
        assert!(round < 20 * kills(), "the erasures end before they are killed");
        json(&mut run(&images, &output, &options));
        fs::write(images.join(person), png(4_711)).unwrap();
        json(&mut run(&images, &output, &options));
        fs::remove_file(images.join(person)).unwrap();
        let erase = || {
            let mut command = pomona();
            command.arg("erase").arg(&output).arg(person).arg("--model").arg(model_path("tiny"));
            command
        };
        for _ in 0..2 {
            let (most, fewest) =
                (count_files(&output) + random.usize(0..60), random.usize(1..count_files(&output).max(2)));
            let rises = random.bool();
            // Files come first, with the new version, and are deleted then.
            let hit = kill_when(start(&mut erase()), || {
                let now = count_files(&output);
                if rises { now >= most } else { now <= fewest }
            });
            killed += usize::from(hit);
            nobody_is_in_the_way(&output);
        }
        let last = finish(&mut erase());
        // A killed one may have been complete.
        let text = String::from_utf8_lossy(&last.stderr);
        assert!(last.status.success() || text.contains("Input.UnknownKey"), "{text}");
        assert_eq!(readable(&output), expected);
        for entry in walkdir::WalkDir::new(&output).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file())
        {
            let bytes = fs::read(entry.path()).unwrap();
            assert!(!bytes.windows(8).any(|window| window == b"jane doe"), "{}", entry.path().display());
        }
        fs::remove_dir_all(&output).unwrap();
    }
    println!("{killed} kills in {round} rounds");
}
