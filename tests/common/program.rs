//! Runs the program as a process.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use super::{model_path, png};

pub(crate) fn pomona() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pomona"));
    command.stdin(Stdio::null());
    command
}

/// `pomona run` with the model tiny.onnx.
pub(crate) fn run(images: &Path, output: &Path, options: &[&str]) -> Command {
    let mut command = pomona();
    command.arg("run").arg(images).arg(output).arg("--model").arg(model_path("tiny")).args(options);
    command
}

pub(crate) fn finish(command: &mut Command) -> Output {
    command.output().unwrap()
}

pub(crate) fn json(command: &mut Command) -> Value {
    let output = finish(command.arg("--json"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asserts that the command fails with this exit code and that standard error contains `name`; returns standard error.
pub(crate) fn fails(command: &mut Command, code: i32, name: &str) -> String {
    let output = finish(command);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(name), "{name} is not in:\n{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(output.stdout.is_empty());
    text
}

pub(crate) fn write_images(folder: &Path, n: u64) {
    for i in 0..n {
        let path = folder.join(format!("label {}/{i:05}.png", i / 100));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, png(i)).unwrap();
    }
}

/// All files of an output by path, except those with times or the number of the version in them: reports and records of runs,
/// records of the extractor and of scores, and manifests.
pub(crate) fn tables(output: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    walkdir::WalkDir::new(output)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.path().strip_prefix(output).unwrap().to_owned())
        .filter(|path| {
            !["runs", "versions", "extractors", "scores", ".tmp", "report.html"]
                .iter()
                .any(|folder| path.starts_with(folder))
        })
        .map(|path| {
            let body = fs::read(output.join(&path)).unwrap();
            (path, body)
        })
        .collect()
}

/// `pomona erase` with the model tiny.onnx.
pub(crate) fn erase(output: &Path, arguments: &[&str]) -> Command {
    let mut command = pomona();
    command.arg("erase").arg(output).args(arguments).arg("--model").arg(model_path("tiny"));
    command
}

pub(crate) fn success(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The keys of all rows, in the order of the tables.
pub(crate) fn show_paths(output: &Path) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = pomona::store::FolderStore::new(output);
        let manifest = pomona::dataset::current(&store).await.unwrap().unwrap();
        let mut paths = Vec::new();
        for shard in pomona::dataset::contents::shards(&store, &manifest).await.unwrap() {
            let Some(table) = shard.features() else { continue };
            let file = table.read(&store).await.unwrap();
            paths.extend(pomona::dataset::tables::read_features(file, &manifest.extractor, &table.key).unwrap().paths);
        }
        paths
    })
}

/// The tables of the newest version, with `v=*` instead of its number in the paths.
pub(crate) fn tables_of_any_version(output: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let newest = newest_version(output);
    tables(output)
        .into_iter()
        .filter(|(path, _)| {
            let of_another = |part: &std::ffi::OsStr| {
                part.to_string_lossy().starts_with("v=") && !part.to_string_lossy().contains(&newest)
            };
            !path.iter().any(of_another)
        })
        .map(|(path, body)| (path.to_string_lossy().replace(&format!("v={newest}"), "v=*").into(), body))
        .collect()
}

pub(crate) fn newest_version(output: &Path) -> String {
    let names = fs::read_dir(output.join("versions")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let newest = names.filter(|name| name.ends_with(".json")).max().unwrap();
    newest.trim_end_matches(".json").to_owned()
}

/// Number of files below a folder. Files may come and go in the meantime.
pub(crate) fn count_files(folder: &Path) -> usize {
    walkdir::WalkDir::new(folder).into_iter().flatten().filter(|entry| entry.file_type().is_file()).count()
}
