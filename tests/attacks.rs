//! Promises under attack: foreign inputs, erasure, locks of dead processes, stores that fail.
#![cfg(unix)]

use std::{
    fs,
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use crate::common::{engine, images, key, png, program::*, run_until, small_shards, stores::*};
use pomona::{ErrorKind, dataset::settings::Settings, stages::Stores, store::MemoryStore};
use serde_json::{Value, json as value};

/// Files below the output with `text` in their bytes or, for Parquet, in one of their columns.
fn files_with(output: &Path, text: &str) -> Vec<PathBuf> {
    let needle = text.as_bytes();
    let files = walkdir::WalkDir::new(output).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file());
    let holds = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle)
    };
    files.map(|entry| entry.path().to_owned()).filter(|path| holds(path)).collect()
}

fn current_images(output: &Path) -> Value {
    json(pomona().arg("show").arg(output))["images"].clone()
}

#[test]
fn an_erase_reads_the_input_of_the_output_wherever_it_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write_images(&a.join("photos"), 40);
    for i in 0..30 {
        let path = b.join(format!("photos/other/{i}.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, png(900 + i)).unwrap();
    }
    let mut first = run(Path::new("photos"), Path::new("results"), &["-k", "3"]);
    success(finish(first.current_dir(&a)));
    fs::remove_file(a.join("photos/label 0/00007.png")).unwrap();
    let erased = json(erase(Path::new("../a/results"), &["label 0/00007.png"]).current_dir(&b));
    assert_eq!(erased["removed_versions"], value!([1]));
    assert_eq!(current_images(&a.join("results")), 39);
    assert_eq!(files_with(&a.join("results"), "other/"), Vec::<PathBuf>::new());
    let fresh = dir.path().join("fresh");
    json(&mut run(&a.join("photos"), &fresh, &["-k", "3"]));
    assert_eq!(tables_of_any_version(&a.join("results")), tables_of_any_version(&fresh));
}

#[test]
fn another_input_is_refused_until_it_is_said_again() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, other, output) = (dir.path().join("photos"), dir.path().join("other"), dir.path().join("results"));
    write_images(&photos, 30);
    write_images(&other, 31);
    json(&mut run(&photos, &output, &[]));
    fails(&mut run(&other, &output, &[]), 1, "Input.Moved");
    // Another folder in the same place.
    fs::rename(&photos, dir.path().join("aside")).unwrap();
    fs::rename(&other, &photos).unwrap();
    let refused = fails(&mut run(&photos, &output, &[]), 1, "Input.Moved");
    assert!(refused.contains("--input-moved"), "{refused}");
    fails(&mut erase(&output, &["label 0/00001.png"]), 1, "Input.Moved");
    assert_eq!(current_images(&output), 30);
    assert_eq!(json(&mut run(&photos, &output, &["--input-moved"]))["images"], 31);
    assert_eq!(json(&mut run(&photos, &output, &[]))["up_to_date"], true);
    // The same folder under another name, and a link to it.
    fs::rename(&photos, &other).unwrap();
    symlink(&other, &photos).unwrap();
    assert_eq!(json(&mut run(&photos, &output, &[]))["up_to_date"], true);
}

#[test]
fn images_that_vanish_at_once_are_refused_until_it_is_said_again() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, output) = (dir.path().join("photos"), dir.path().join("results"));
    write_images(&photos, 120);
    json(&mut run(&photos, &output, &["--shard-size", "16"]));
    for i in 0..61 {
        fs::remove_file(photos.join(format!("label 0/{i:05}.png"))).unwrap();
    }
    let refused = fails(&mut run(&photos, &output, &["--shard-size", "16"]), 1, "Input.Vanished");
    assert!(refused.contains("61 of 120") && refused.contains("--accept-deletions"), "{refused}");
    fails(&mut erase(&output, &["label 0/00001.png"]), 1, "Input.Vanished");
    // As many others have come: the number of images alone says nothing.
    for i in 0..61 {
        fs::write(photos.join(format!("label 0/new-{i:05}.png")), png(7_000 + i)).unwrap();
    }
    fails(&mut run(&photos, &output, &["--shard-size", "16"]), 1, "Input.Vanished");
    assert_eq!(current_images(&output), 120);
    let done = json(&mut run(&photos, &output, &["--shard-size", "16", "--accept-deletions"]));
    assert_eq!((&done["images"], &done["removed"]), (&120.into(), &61.into()));
}

#[test]
fn an_image_beside_a_linked_folder_is_erased() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, real, output) = (dir.path().join("in"), dir.path().join("real"), dir.path().join("out"));
    for i in 0..30 {
        for (folder, seed) in
            [(real.join("apple"), i), (photos.join("Apple Golden"), 100 + i), (photos.join("Kiwi"), 200 + i)]
        {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("{i}.png")), png(seed)).unwrap();
        }
    }
    symlink(real.join("apple"), photos.join("Apple")).unwrap();
    json(&mut run(&photos, &output, &["--shard-size", "8", "-k", "5"]));
    fs::remove_file(photos.join("Apple Golden/1.png")).unwrap();
    let erased = json(&mut erase(&output, &["Apple Golden/1.png"]));
    assert_eq!(erased["removed_versions"], value!([1]));
    assert_eq!(files_with(&output, "Apple Golden/1.png"), Vec::<PathBuf>::new());
    let paths = show_paths(&output);
    assert!(paths.is_sorted(), "{paths:?}");
    assert_eq!(paths.len(), 89);
}

#[test]
fn an_erase_of_an_unknown_key_is_an_error_with_the_nearest_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, output) = (dir.path().join("in"), dir.path().join("out"));
    write_images(&photos, 20);
    fs::write(photos.join("label 0/Zo\u{eb}.png"), png(77)).unwrap();
    json(&mut run(&photos, &output, &[]));
    fs::remove_file(photos.join("label 0/00003.png")).unwrap();
    for (wrong, near) in [
        ("label 0/00003.PNG", "label 0/00003.png"),
        ("./label 0/00003.png", "label 0/00003.png"),
        ("Label 0/00003.png", "label 0/00003.png"),
        ("label 0/Zoe\u{308}.png", "label 0/Zo\u{eb}.png"),
    ] {
        let error = fails(&mut erase(&output, &[wrong]), 1, "Input.UnknownKey");
        assert!(error.contains(near), "{near} is not in:\n{error}");
    }
    assert_eq!(json(pomona().arg("log").arg(&output)).as_array().unwrap().len(), 1);

    let before = tables(&output);
    let planned = json(&mut erase(&output, &["label 0/00003.png", "--dry-run"]));
    assert_eq!(planned["removed_versions"], value!([1]));
    assert!(!planned["deleted"].as_array().unwrap().is_empty());
    assert_eq!(tables(&output), before);

    let list = dir.path().join("keys.txt");
    fs::write(&list, "label 0/00003.png\n\nlabel 0/00004.png\n").unwrap();
    fs::remove_file(photos.join("label 0/00004.png")).unwrap();
    let erased = json(&mut erase(&output, &["--from-file", list.to_str().unwrap()]));
    assert_eq!(erased["keys"], value!(["label 0/00003.png", "label 0/00004.png"]));
    assert_eq!(show_paths(&output).len(), 19);
}

/// Starts a run of the built-in model, waits until it has listed its images, and sends it a signal.
fn signalled(photos: &Path, output: &Path, signal: &str) -> std::process::ExitStatus {
    let mut command = pomona();
    command.arg("run").arg(photos).arg(output).args(["--shard-size", "8", "--threads", "1"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let lists_work = || {
        let runs = fs::read_dir(output.join("runs"));
        let plans = runs.into_iter().flatten().map(|run| run.unwrap().path().join("plan.json"));
        plans.filter(|plan| plan.exists()).count() > 0
    };
    while !lists_work() {
        assert!(child.try_wait().unwrap().is_none(), "the run has ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap()
}

fn many_photos(folder: &Path, n: u64) {
    let image = image::RgbImage::from_fn(600, 500, |x, y| image::Rgb([(x * y) as u8, x as u8, y as u8]));
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Jpeg).unwrap();
    fs::create_dir_all(folder).unwrap();
    for i in 0..n {
        let mut body = file.get_ref().clone();
        body.extend_from_slice(&i.to_le_bytes());
        fs::write(folder.join(format!("{i:05}.jpg")), body).unwrap();
    }
}

#[test]
fn a_killed_run_and_a_closed_terminal_block_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    many_photos(&photos, 300);
    for signal in ["-KILL", "-HUP"] {
        let output = dir.path().join(signal);
        let status = signalled(&photos, &output, signal);
        if signal == "-HUP" {
            assert_eq!(status.code(), Some(130), "{status}");
        } else {
            assert_eq!(status.signal(), Some(9));
        }
        success(finish(pomona().arg("vacuum").arg(&output).args(["--older-than", "0"])));
    }
}

#[test]
fn a_lock_that_nobody_can_judge_says_whose_it_is_and_can_be_broken() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, output) = (dir.path().join("photos"), dir.path().join("out"));
    write_images(&photos, 20);
    json(&mut run(&photos, &output, &[]));
    let vacuum = |more: &[&str]| {
        let mut command = pomona();
        command.arg("vacuum").arg(&output).args(["--older-than", "0"]).args(more);
        command
    };
    let elsewhere = value!({"at": jiff::Timestamp::now().to_string(), "holder": {
        "host": "mars", "machine": "m", "boot": "b", "namespace": "n", "process": 17, "started": 3}});
    let marks = [
        ("runs/far/started.json", elsewhere.to_string(), "mars"),
        ("runs/future/started.json", r#"{"at": "2999-01-01T00:00:00Z"}"#.to_owned(), "2999"),
        ("runs/odd/started.json", "not JSON".to_owned(), "cannot be read"),
        ("vacuum.json", elsewhere.to_string(), "mars"),
        ("vacuum.json", r#"{"at": "2999-01-01T00:00:00Z"}"#.to_owned(), "2999"),
        ("vacuum.json", String::new(), "cannot be read"),
    ];
    for (key, mark, named) in marks {
        let path = output.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, mark).unwrap();
        let busy = fails(&mut vacuum(&[]), 1, "Dataset.Busy");
        assert!(busy.contains(named) && busy.contains("--break-lock"), "{busy}");
        success(finish(&mut vacuum(&["--break-lock"])));
        assert!(!path.exists(), "{key}");
        success(finish(&mut vacuum(&[])));
    }
}

/// The permissions of a file do not apply to root, so the program runs as nobody where it can.
#[test]
fn an_unreadable_file_makes_no_new_version() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, output) = (dir.path().join("photos"), dir.path().join("out"));
    write_images(&photos, 20);
    // Its name has listed it in every release; reading it failed.
    symlink(photos.join("nothing"), photos.join("label 0/gone.png")).unwrap();
    symlink("loop.png", photos.join("label 0/loop.png")).unwrap();
    let options = ["--max-reject-percent", "50"];
    let first = json(&mut run(&photos, &output, &options));
    assert_eq!((&first["rejects"], &first["version"]), (&2.into(), &1.into()));
    let second = json(&mut run(&photos, &output, &options));
    assert_eq!((&second["up_to_date"], &second["version"]), (&true.into(), &1.into()));
    success(finish(pomona().arg("vacuum").arg(&output).args(["--older-than", "0"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_object_makes_no_new_version() {
    let (input, output, engine) = (images(0..40).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let refusing =
        Arc::new(Refusing { inner: input.clone(), gate: Refuses { key: key(7), kind: ErrorKind::StoreDenied } });
    let stores = Stores { input: refusing, output: output.clone() };
    for name in ["a", "b"] {
        let summary = crate::common::run(&stores, &engine, &small_shards(), name).await.unwrap();
        assert_eq!((summary.up_to_date, summary.manifest.version.0), (name == "b", 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_breaks_off_is_a_reject_and_an_outage_is_not() {
    let (input, engine) = (images(0..40).await, engine("tiny", 2));
    for kind in [ErrorKind::StoreUnavailable, ErrorKind::StoreFailed, ErrorKind::StoreThrottled] {
        let output = Arc::new(MemoryStore::new());
        let refusing = Arc::new(Refusing { inner: input.clone(), gate: Refuses { key: key(7), kind } });
        let stores = Stores { input: refusing, output: output.clone() };
        let made = crate::common::run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest;
        assert_eq!((made.images, made.rejects), (39, 1), "{kind}");
        // The next run reads it again.
        let made =
            crate::common::run(&crate::common::stores(&input, &output), &engine, &small_shards(), "b").await.unwrap();
        assert_eq!((made.manifest.images, made.manifest.figures.inferred), (40, 1));
    }
    // Every object fails: the store is down, and nothing is published.
    let down = Arc::new(Failing::after(input.clone(), 1));
    let output = Arc::new(MemoryStore::new());
    let stores = Stores { input: down, output: output.clone() };
    let error = crate::common::run(&stores, &engine, &small_shards(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable, "{error}");
}

/// Reading one object never ends.
#[derive(Debug)]
struct Hangs(String);

#[async_trait::async_trait]
impl Gate for Hangs {
    async fn before(&self, key: &str) -> pomona::Result<()> {
        if key == self.0 { std::future::pending().await } else { Ok(()) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_run_whose_store_hangs_and_keeps_its_rows() {
    let (input, output, engine) = (images(0..40).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let hanging = Arc::new(Gated { inner: input.clone(), gate: Hangs(key(30)) });
    let stores = Stores { input: hanging, output: output.clone() };
    let settings = Settings { shard_size: Some(100), ..Settings::default() };
    let run = run_until(39, &stores, &engine, &settings, "a");
    tokio::time::timeout(Duration::from_millis(2_300), run).await.expect("the stop has no effect");
    let stores = Stores { input: input.clone(), output: output.clone() };
    let figures = crate::common::run(&stores, &engine, &settings, "b").await.unwrap().manifest.figures;
    // Also those behind the one that hangs.
    assert_eq!((figures.copied, figures.inferred), (39, 1), "{figures:?}");
}
