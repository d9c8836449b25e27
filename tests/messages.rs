//! What people read: names that deceive, outputs that cannot be written, and errors that say what to do.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use crate::common::{engine, images, model_path, png, program::*, run_as, small_shards, stores};
use pomona::{
    ErrorKind,
    dataset::settings::{ListingScope, Mode, Settings},
    store::{MemoryStore, Store},
};
use serde_json::Value;

/// A pipe whose reader has gone.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Images and results of a small run.
fn small_run(dir: &Path) -> (PathBuf, PathBuf) {
    let (images, output) = (dir.join("images"), dir.join("results"));
    write_images(&images, 12);
    json(&mut run(&images, &output, &[]));
    (images, output)
}

/// Commands that print, and succeed.
fn printing(output: &Path) -> Vec<Command> {
    let mut commands: Vec<Command> =
        [&["--help"][..], &["--version"], &["run", "--help"], &["estimate", "--images", "9"]]
            .iter()
            .map(|args| {
                let mut command = pomona();
                command.args(*args);
                command
            })
            .collect();
    for (name, options) in [("show", &[][..]), ("show", &["--json"]), ("log", &[]), ("log", &["--json"])] {
        let mut command = pomona();
        command.arg(name).arg(output).args(options);
        commands.push(command);
    }
    commands
}

#[test]
fn a_table_of_keypoints_is_not_written_into_an_output() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = small_run(dir.path());
    let write = |table: &Path| finish(pomona().arg("descriptors").arg(&images).arg(table));
    let refused = write(&output.join("tables/descriptors"));
    let errors = String::from_utf8(refused.stderr).unwrap();
    assert!(errors.contains("Output.Occupied") && errors.contains("`pomona erase` does not know it"), "{errors}");
    assert!(!output.join("tables").exists());
    let done = write(&dir.path().join("descriptors"));
    assert!(done.status.success() && dir.path().join("descriptors/_SUCCESS").exists());
}

#[test]
fn a_reader_that_has_gone_ends_the_output_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = small_run(dir.path());
    for mut command in printing(&output) {
        let done = finish(command.stdout(closed_pipe()));
        let errors = String::from_utf8(done.stderr).unwrap();
        assert_eq!((done.status.code(), errors.as_str()), (Some(0), ""), "{command:?}");
    }
    // Nobody reads anything: a run publishes, a failure has its exit code.
    fs::write(images.join("new.png"), png(99)).unwrap();
    let silent = |command: &mut Command| finish(command.stdout(closed_pipe()).stderr(closed_pipe())).status.code();
    assert_eq!(silent(&mut run(&images, &output, &[])), Some(0));
    assert!(output.join("versions/00000002.json").exists());
    assert_eq!(silent(pomona().arg("show").arg(dir.path().join("nowhere"))), Some(1));
    assert_eq!(silent(pomona().arg("--nonsense")), Some(2));
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (_, output) = small_run(dir.path());
    for mut command in printing(&output) {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let errors = fails(command.stdout(full), 1, "error[Store.Failed]: standard output could not be written");
        assert!(errors.contains("No space left"), "{errors}");
    }
}

/// A label, an image and a file that is no image; each name has characters that a reader does not see.
const LABEL: &str = "a\u{202e}b\u{1b}[31m";
const IMAGE: &str = "x\u{200b}\ny\u{feff}.png";
const REJECT: &str = "txt\u{2066}\u{7f}.png";

/// Fails if the text has a character that must be escaped, and if it lacks one of the escapes.
fn assert_escaped(text: &str, escapes: &[&str]) {
    let invisible = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{200b}\u{feff}\u{2066}".contains(c));
    let found = text.lines().find(|line| line.contains(invisible));
    assert!(found.is_none(), "{found:?}");
    for escape in escapes {
        assert!(text.contains(escape), "{escape} is not in:\n{text}");
    }
}

/// A run on deceptive names, and what it printed.
fn deceptive_run(dir: &Path) -> (PathBuf, PathBuf, String) {
    let (images, output) = (dir.join("images"), dir.join("results\u{202e}"));
    write_images(&images, 12);
    fs::create_dir(images.join(LABEL)).unwrap();
    fs::write(images.join(LABEL).join(IMAGE), png(50)).unwrap();
    fs::write(images.join(LABEL).join(REJECT), "no image").unwrap();
    let done = finish(&mut run(&images, &output, &["--csv", "--max-reject-percent", "50"]));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    (images, output, String::from_utf8(done.stdout).unwrap())
}

fn text_of(command: &mut Command) -> String {
    let done = finish(command);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8([done.stdout, done.stderr].concat()).unwrap()
}

#[test]
fn names_are_printed_with_escapes() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output, summary) = deceptive_run(dir.path());
    assert_escaped(&summary, &["results\\u{202e}: 13 images", "results\\u{202e}/versions/00000001.json"]);
    let (label, image) = ("a\\u{202e}b\\u{1b}[31m", "x\\u{200b}\\ny\\u{feff}.png");
    let shown = text_of(pomona().arg("show").arg(&output).args(["-n", "20"]));
    assert_escaped(&shown, &[label, image, "txt\\u{2066}\\u{7f}.png"]);

    fs::remove_file(images.join(LABEL).join(IMAGE)).unwrap();
    let options = ["--csv", "--max-reject-percent", "50", "--partition-by-label", "--rebuild"];
    assert_escaped(&text_of(&mut run(&images, &output, &options)), &["Version 2"]);
    let path = format!("{label}/{image}");
    assert_escaped(&text_of(pomona().arg("diff").arg(&output).args(["1", "2"])), &[&format!("- {path}")]);
    let vacuum = ["--keep-versions", "1", "--older-than", "0", "--verbose", "--dry-run"];
    assert_escaped(&text_of(pomona().arg("vacuum").arg(&output).args(vacuum)), &["would delete"]);
    let mut erase = pomona();
    erase.arg("erase").arg(&output).arg(format!("{LABEL}/{IMAGE}")).arg("--model").arg(model_path("tiny"));
    assert_escaped(&text_of(&mut erase), &["Removed versions: 1"]);
}

#[test]
fn errors_and_notes_print_names_with_escapes() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images\u{202e}"), dir.path().join("results"));
    write_images(&images, 12);
    let missing = fails(&mut run(&dir.path().join("no\u{1b}[2J\nwhere"), &output, &[]), 1, "Input.NotFound");
    assert_escaped(&missing, &["no\\u{1b}[2J\\nwhere"]);
    assert_eq!(missing.lines().count(), 2, "{missing}");
    assert_escaped(&fails(pomona().args(["run", "--a\u{202e}b"]), 2, "error"), &["--a\\u{202e}b"]);

    // A model that is not for the kernels is noted with its name.
    let model = dir.path().join("l\u{200b}og.onnx");
    fs::copy(model_path("log"), &model).unwrap();
    let mut command = pomona();
    let noted = text_of(command.arg("run").arg(&images).arg(&output).arg("--model").arg(&model));
    assert_escaped(&noted, &["note: l\\u{200b}og.onnx runs on tract"]);
    assert_escaped(&text_of(pomona().arg("show").arg(&output)), &["images\\u{202e}", "l\\u{200b}og.onnx, 3 features"]);

    let mut command = pomona();
    command.arg("watch").arg(&images).arg(dir.path().join("watched")).arg("--model").arg(model_path("tiny"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let watching = lines.find(|line| line.starts_with("watching "));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_escaped(&watching.unwrap(), &["images\\u{202e}; press Ctrl-C"]);
}

#[test]
fn tables_and_json_keep_the_names() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output, _) = deceptive_run(dir.path());
    let manifest = json(pomona().arg("show").arg(&output));
    let labels: Vec<_> = manifest["labels"].as_array().unwrap().iter().map(|l| l["label"].as_str().unwrap()).collect();
    assert_eq!(labels, [LABEL, "label 0"]);
    let csv = fs::read_to_string(output.join("csv/v=00000001/result.csv")).unwrap();
    assert!(csv.contains(&format!("\"{LABEL}/{IMAGE}\",{LABEL},")), "{csv}");
    let again = json(&mut run(&images, &output, &["--csv", "--max-reject-percent", "50"]));
    assert_eq!(again["output"], output.to_str().unwrap());
}

#[test]
fn a_report_shows_names_with_escapes() {
    let dir = tempfile::tempdir().unwrap();
    let (_, output, _) = deceptive_run(dir.path());
    let mut runs = fs::read_dir(output.join("runs")).unwrap().map(|run| run.unwrap().path().join("report.html"));
    let page = fs::read_to_string(runs.find(|page| page.exists()).unwrap()).unwrap();
    // In the filter and the list of labels, and among the rejects. The script of the page escapes what it shows on the map.
    assert_escaped(&page, &["<bdi>a\\u{202e}b\\u{1b}[31m</bdi>", "/txt\\u{2066}\\u{7f}.png</bdi>"]);
}

#[test]
fn a_wrong_name_of_an_instruction_set_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = small_run(dir.path());
    let with = |name: &str| {
        let mut command = run(&images, &output, &[]);
        command.env("POMONA_INSTRUCTIONS", name);
        command
    };
    let errors = fails(&mut with("bogus"), 2, "Input.Invalid");
    assert!(errors.contains("one of avx512, avx2, neon, scalar, not \"bogus\""), "{errors}");
    // No processor has both.
    let available = pomona_kernels::Instructions::available();
    for name in ["avx2", "neon"].into_iter().filter(|name| available.iter().all(|i| i.name() != *name)) {
        let errors = fails(&mut with(name), 2, "Input.Invalid");
        assert!(errors.contains(&format!("is {name}, but this processor has only")), "{errors}");
    }
    for name in available.iter().map(|i| i.name()).chain([""]) {
        assert_eq!(json(&mut with(name))["up_to_date"], Value::Bool(true));
    }
}

#[test]
fn a_csv_for_spreadsheets_has_no_formulas_and_the_other_tables_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    write_images(&images, 12);
    fs::create_dir(images.join("=1+1")).unwrap();
    for name in ["=1+1/@a.png", "-2.png"] {
        fs::write(images.join(name), png(70 + name.len() as u64)).unwrap();
    }
    // The paths, labels and first scores of a version; no name has a comma or a quote.
    let rows = |version: u64| -> Vec<[String; 3]> {
        let csv = fs::read_to_string(output.join(format!("csv/v={version:08}/result.csv"))).unwrap();
        let cells = |line: &str| -> [String; 3] {
            line.split(',').take(3).map(str::to_owned).collect::<Vec<_>>().try_into().unwrap()
        };
        csv.lines().skip(1).map(cells).collect()
    };
    json(&mut run(&images, &output, &["--csv"]));
    // Like --csv, the option alone is a change, and needs no --rebuild.
    let summary = json(&mut run(&images, &output, &["--csv-for-spreadsheets"]));
    assert_eq!((&summary["version"], &summary["inferred"]), (&2.into(), &0.into()));
    assert_eq!(json(&mut run(&images, &output, &["--csv-for-spreadsheets"]))["up_to_date"], Value::Bool(true));
    let (exact, safe) = (rows(1), rows(2));
    for (exact, safe) in exact.iter().zip(&safe) {
        let quoted = |text: &str| if text.starts_with(['=', '-']) { format!("'{text}") } else { text.to_owned() };
        assert_eq!(safe, &[quoted(&exact[0]), quoted(&exact[1]), exact[2].clone()]);
    }
    let names: Vec<_> = safe.iter().take(2).map(|row| [row[0].as_str(), row[1].as_str()]).collect();
    assert_eq!(names, [["'-2.png", ""], ["'=1+1/@a.png", "'=1+1"]]);
    assert!(safe.iter().any(|row| row[2].starts_with('-')), "negative scores stay numbers");

    let parts = |version: u64| {
        let folder = fs::read_dir(output.join(format!("pca/v={version:08}"))).unwrap();
        folder.map(|file| fs::read(file.unwrap().path()).unwrap()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(parts(1), parts(2));
    let settings = json(pomona().arg("show").arg(&output))["settings"].clone();
    assert_eq!((&settings["csv"], &settings["csv_for_spreadsheets"]), (&Value::Bool(true), &Value::Bool(true)));
    let first = json(pomona().arg("show").arg(&output).args(["--version", "1"]));
    assert_eq!(first["settings"].get("csv_for_spreadsheets"), None);
}

#[test]
fn a_label_that_is_too_long_for_its_folder_fails_before_any_image_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    write_images(&images, 12);
    for (i, label) in ["a".repeat(250), "=b".repeat(64)].into_iter().enumerate() {
        fs::create_dir(images.join(&label)).unwrap();
        fs::write(images.join(&label).join("x.png"), png(60)).unwrap();
        let output = dir.path().join(format!("partitioned-{i}"));
        let errors = fails(&mut run(&images, &output, &["--partition-by-label"]), 2, "Input.Invalid");
        let shown: String = label.chars().take(40).collect();
        for expected in [format!("label: {shown}…"), "rename".to_owned(), "without --partition-by-label".to_owned()] {
            assert!(errors.contains(&expected), "{expected} is not in:\n{errors}");
        }
        assert!(!output.join("shards").exists() && !output.join("runs").exists());
        assert_eq!(json(&mut run(&images, &dir.path().join(format!("flat-{i}")), &[]))["labels"], 2);
        fs::remove_dir_all(images.join(&label)).unwrap();
    }
    let longest = images.join("a".repeat(249));
    fs::create_dir(&longest).unwrap();
    fs::write(longest.join("x.png"), png(60)).unwrap();
    assert_eq!(json(&mut run(&images, &dir.path().join("longest"), &["--partition-by-label"]))["labels"], 2);
}

/// A listing of changes does not list the other shards, so their labels have to be checked too.
#[tokio::test(flavor = "multi_thread")]
async fn a_label_of_an_unchanged_shard_is_checked_when_partitioning_begins() {
    let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    input.put(&format!("{}/x.png", "a".repeat(300)), png(99)).await.unwrap();
    let stores = stores(&input, &output);
    crate::common::run(&stores, &engine, &small_shards(), "a").await.unwrap();
    let settings = Settings { partition_by_label: Some(true), ..small_shards() };
    let mode = Mode { rebuild: true, listing: ListingScope::Changed, ..Mode::default() };
    let error = run_as(&stores, &engine, &settings, mode, "b").await.unwrap_err();
    assert!(error.is(ErrorKind::InputInvalid) && error.to_string().contains("(label: aaa"), "{error}");
}

/// A link in the folder of a version has the content of the damaged table, not that of the one that replaces it.
#[test]
fn a_table_that_is_made_again_is_linked_again() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = small_run(dir.path());
    let table = only_file(&output.join("shards"), "features.parquet");
    let link = output.join("features/v=00000001/part-00000.parquet");
    let sound = fs::read(&table).unwrap();
    assert_eq!(fs::read(&link).unwrap(), sound);
    let mut damaged = sound.clone();
    damaged[sound.len() / 2] ^= 1;
    // Both names are those of one file.
    fs::write(&table, &damaged).unwrap();
    assert_eq!(fs::read(&link).unwrap(), damaged);
    json(&mut run(&images, &output, &["--rebuild", "-k", "3"]));
    assert_eq!(fs::read(&table).unwrap(), sound);
    assert_eq!(fs::read(&link).unwrap(), sound);
}

/// The only file of a folder whose name ends like this.
fn only_file(folder: &Path, end: &str) -> PathBuf {
    let files = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.unwrap().into_path());
    let found: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn a_missing_file_of_a_version_is_named_and_its_shard_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    write_images(&images, 12);
    fs::write(images.join("label 0/bad.png"), "no image").unwrap();
    json(&mut run(&images, &output, &["--max-reject-percent", "50"]));
    let key = |file: &Path| format!("(key: {})", file.strip_prefix(&output).unwrap().display());
    let without = |file: &Path, command: &mut Command| {
        let body = fs::read(file).unwrap();
        fs::remove_file(file).unwrap();
        let errors = fails(command, 1, "error[Dataset.Corrupt]: a file of this data set is missing");
        assert!(errors.contains(&key(file)) && errors.contains("pomona check"), "{errors}");
        fs::write(file, body).unwrap();
    };
    let show = || {
        let mut command = pomona();
        command.arg("show").arg(&output);
        command
    };
    let basis = only_file(&output.join("basis"), ".parquet");
    without(&only_file(&output.join("pca"), ".parquet"), &mut show());
    without(&only_file(&output.join("rejects"), ".parquet"), &mut show());

    // Another number of components: the sums of the group and the features of the shard are read again. A run makes them
    // again, and says so.
    let mended = |file: &Path, components: &str| {
        let before = fs::read(file).unwrap();
        fs::remove_file(file).unwrap();
        let options = ["--max-reject-percent", "50", "--rebuild", "-k", components, "--json"];
        let done = run(&images, &output, &options).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{said}");
        assert!(said.contains(&key(file)) && said.contains("it is made again"), "{said}");
        assert_eq!(fs::read(file).unwrap(), before);
        serde_json::from_slice::<Value>(&done.stdout).unwrap()["version"].to_string()
    };
    let options = ["--max-reject-percent", "50", "--rebuild", "-k", "4"];
    let features = only_file(&output.join("shards"), "features.parquet");
    mended(&features, "3");
    let version = mended(&only_file(&output.join("groups"), "sums.parquet"), "4");
    without(&basis, pomona().arg("diff").arg(&output).args(["1", &version]));

    // The other way out: without the folder of the shard, the next run makes it again.
    let before = fs::read(&features).unwrap();
    fs::remove_dir_all(features.parent().unwrap()).unwrap();
    let summary = json(&mut run(&images, &output, &options));
    assert_eq!((&summary["up_to_date"], &summary["inferred"]), (&Value::Bool(true), &12.into()));
    assert_eq!(fs::read(&features).unwrap(), before);
    assert_eq!(json(&mut run(&images, &output, &options))["up_to_date"], Value::Bool(true));
}

#[test]
fn completions_and_man_pages_name_the_commands() {
    for (shell, part) in [("bash", "complete -F _pomona"), ("zsh", "#compdef pomona"), ("fish", "complete -c pomona")] {
        let script = String::from_utf8(finish(pomona().args(["completions", shell])).stdout).unwrap();
        assert!(script.contains(part) && script.contains("search"), "{script}");
    }
    let dir = tempfile::tempdir().unwrap();
    let done = finish(pomona().arg("man").arg(dir.path()));
    assert!(done.status.success());
    let page = fs::read_to_string(dir.path().join("pomona-run.1")).unwrap();
    assert!(page.contains(".TH pomona") && page.contains("variance"), "{page}");
    assert!(dir.path().join("pomona-aws-estimate.1").exists() && !dir.path().join("pomona-estimate.1").exists());
}

#[test]
fn a_quiet_run_prints_results_and_errors_only() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = small_run(dir.path());
    let mut changed = run(&images, &output, &["-k", "3", "--quiet"]);
    let done = finish(&mut changed);
    assert!(done.status.success() && !done.stdout.is_empty());
    assert_eq!(String::from_utf8(done.stderr).unwrap(), "");
    fails(run(&images, &dir.path().join("other"), &["-k", "300"]).arg("-q"), 1, "error[Pca.TooManyComponents]");
}

#[test]
fn two_versions_are_compared_unless_others_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = small_run(dir.path());
    let diff = |versions: &[&str]| {
        let mut command = pomona();
        command.arg("diff").arg(&output).args(versions);
        command
    };
    let text = fails(&mut diff(&[]), 1, "Output.NoVersion");
    assert!(text.contains("there is no earlier version"), "{text}");
    json(&mut run(&images, &output, &["-k", "3"]));
    json(&mut run(&images, &output, &["-k", "2"]));
    let of = |versions: &[&str]| {
        let diff = json(&mut diff(versions));
        (diff["from"].as_u64().unwrap(), diff["to"].as_u64().unwrap())
    };
    assert_eq!((of(&[]), of(&["1"]), of(&["1", "2"])), ((2, 3), (1, 3), (1, 2)));
}
