//! Labels and splits: by folder, depth, pattern and file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::{
    model_path, png,
    program::{fails, finish, json, pomona, run, tables},
};
use pomona::{
    dataset,
    model::{Extractor, FeatureRange, Runtime},
    store::{FolderStore, Store},
};
use serde_json::{Value, json as value};

/// 24 images in two splits, with one broken file.
fn write_images(folder: &Path) {
    for i in 0..24_u64 {
        let (split, label) = (["Training", "Test"][(i % 4 == 3) as usize], ["Apple", "Pear", "Kiwi"][i as usize % 3]);
        let path = folder.join(format!("{split}/{label}/v_{i}.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, if i == 13 { "broken".into() } else { png(i) }).unwrap();
    }
}

/// An output and its images.
struct Data {
    _dir: tempfile::TempDir,
    images: PathBuf,
    output: PathBuf,
}

impl Data {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (images, output) = (dir.path().join("images"), dir.path().join("results"));
        write_images(&images);
        Data { _dir: dir, images, output }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.images.parent().unwrap().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, options: &[&str]) -> Command {
        run(&self.images, &self.output, &[&["--max-reject-percent", "5", "--shard-size", "8"], options].concat())
    }

    /// Runs and returns the summary. The result is that of a fresh run with the same options, and passes the check.
    fn run(&self, options: &[&str], all: &[&str]) -> Value {
        let summary = json(&mut self.command(options));
        assert_eq!(json(pomona().arg("check").arg(&self.output))["problems"], value!([]));
        let fresh = tempfile::tempdir().unwrap();
        let same = [&["--max-reject-percent", "5", "--shard-size", "8"], all].concat();
        json(&mut run(&self.images, fresh.path(), &same));
        let of_current = |output: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
            let version = format!("v={:08}", current(output).version.0);
            let all = tables(output).into_iter();
            let only = all.filter(|(path, _)| {
                let text = path.to_str().unwrap();
                (text.starts_with("pca") || text.starts_with("features")) && text.contains(&version)
            });
            only.map(|(path, body)| (path.to_str().unwrap().replace(&version, "v").into(), body)).collect()
        };
        let (ours, theirs) = (of_current(&self.output), of_current(fresh.path()));
        assert!(!ours.is_empty() && ours == theirs, "{:?} {:?}", ours.keys(), theirs.keys());
        summary
    }

    /// Label and split by path.
    fn rows(&self) -> BTreeMap<String, (Option<String>, Option<String>)> {
        let onnx = fs::read(model_path("tiny")).unwrap();
        let extractor = Extractor::from_onnx(onnx.into(), "tiny.onnx", FeatureRange::default(), Runtime::Auto).unwrap();
        let mut rows = BTreeMap::new();
        for entry in
            fs::read_dir(self.output.join(format!("features/v={:08}", current(&self.output).version.0))).unwrap()
        {
            let table = fs::read(entry.unwrap().path()).unwrap();
            let table = dataset::tables::read_features(table.into(), extractor.info(), "features").unwrap();
            for ((path, label), split) in table.paths.into_iter().zip(table.labels).zip(table.splits) {
                rows.insert(path, (label, split));
            }
        }
        rows
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn current(output: &Path) -> dataset::Manifest {
    wait(dataset::current(&FolderStore::new(output))).unwrap().unwrap()
}

fn row(label: &str, split: &str) -> (Option<String>, Option<String>) {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (some(label), some(split))
}

#[test]
fn relabelling_copies_rows_and_infers_nothing() {
    let data = Data::new();
    let first = data.run(&[], &[]);
    assert_eq!((&first["inferred"], &first["labels"]), (&value!(23), &value!(3)));
    assert_eq!(data.rows()["Test/Apple/v_3.png"], row("Apple", "test"));
    assert_eq!(data.rows()["Training/Apple/v_0.png"], row("Apple", "train"));
    let pattern = ["--label-pattern", "v_(?<label>[0-9])", "--split-pattern", "(?<split>T[a-z]{3})"];
    let relabelled = data.run(&pattern, &pattern);
    assert_eq!((&relabelled["inferred"], &relabelled["copied"]), (&value!(0), &value!(23)));
    assert_eq!(data.rows()["Test/Apple/v_3.png"], row("3", "Test"));
    assert_eq!(data.rows()["Training/Pear/v_22.png"], row("2", "Trai"));
    // Omitted options are those of the last version.
    assert_eq!(data.run(&[], &pattern)["up_to_date"], true);
    let depth = data.run(&["--label-depth", "1", "--split-pattern", ""], &["--label-depth", "1"]);
    assert_eq!((&depth["inferred"], &depth["labels"]), (&value!(0), &value!(2)));
    assert_eq!(data.rows()["Test/Apple/v_3.png"], row("Test", "test"));
    assert_eq!(data.run(&["--label-depth", "0"], &[])["inferred"], 0);
    assert_eq!(data.rows()["Test/Apple/v_3.png"], row("Apple", "test"));
}

#[test]
fn a_file_of_labels_labels_images_that_come_later_too() {
    let data = Data::new();
    data.run(&[], &[]);
    let absolute = data.images.join("Training/Pear/v_1.png");
    let lines = format!(
        "path,label,split\nTest/Apple/v_3.png,Plum,\n{},,held\nTraining/late/v_99.png,Quince,\n",
        absolute.display()
    );
    let file = data.file("labels.csv", &lines);
    let with = ["--labels", file.as_str()];
    let summary = data.run(&with, &with);
    assert_eq!(summary["inferred"], 0);
    assert_eq!(current(&data.output).labels_unused, Some(1));
    let rows = data.rows();
    assert_eq!(rows["Test/Apple/v_3.png"], row("Plum", "test"));
    assert_eq!(rows["Training/Pear/v_1.png"], row("", "held"));
    assert_eq!(rows["Training/Apple/v_0.png"], row("Apple", "train"));
    // Without the option, what was stored still counts.
    fs::create_dir_all(data.images.join("Training/late")).unwrap();
    fs::write(data.images.join("Training/late/v_99.png"), png(99)).unwrap();
    assert_eq!(data.run(&[], &with)["inferred"], 1);
    assert_eq!(data.rows()["Training/late/v_99.png"], row("Quince", "train"));
    assert_eq!(current(&data.output).labels_unused, Some(0));
    // The same file in another order is the same file.
    let mut sorted: Vec<&str> = lines.lines().skip(1).collect();
    sorted.sort_unstable();
    let again = data.file("again.csv", &format!("path,label,split\n{}\n", sorted.join("\n")));
    assert_eq!(data.run(&["--labels", &again], &with)["up_to_date"], true);
    // A vacuum keeps the file of the versions that it keeps, and no other.
    let other = data.file("other.csv", "path,label\nTest/Apple/v_3.png,Medlar\n");
    data.run(&["--labels", &other], &["--labels", &other]);
    json(pomona().arg("vacuum").arg(&data.output).args(["--keep-versions", "1", "--older-than", "0"]));
    let stored: Vec<_> = fs::read_dir(data.output.join("labels")).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(stored.len(), 1, "{stored:?}");
    assert_eq!(fs::read_to_string(&stored[0]).unwrap(), "path,label\nTest/Apple/v_3.png,Medlar\n");
}

#[test]
fn an_erased_image_is_not_in_the_stored_file_of_labels() {
    let data = Data::new();
    let file = data.file("labels.csv", "path,label\nTest/Apple/v_3.png,Plum\nTraining/Pear/v_1.png,Nashi\n");
    data.run(&["--labels", &file], &["--labels", &file]);
    fs::remove_file(data.images.join("Test/Apple/v_3.png")).unwrap();
    let mut erase = pomona();
    erase.arg("erase").arg(&data.output).args(["Test/Apple/v_3.png", "--model"]).arg(model_path("tiny"));
    assert_eq!(json(&mut erase)["removed_versions"], value!([1]));
    for entry in walkdir::WalkDir::new(&data.output).into_iter().filter_map(std::result::Result::ok) {
        if entry.file_type().is_file() {
            let body = fs::read(entry.path()).unwrap();
            assert!(!body.windows(18).any(|w| w == b"Test/Apple/v_3.png"), "{}", entry.path().display());
        }
    }
    assert_eq!(data.rows()["Training/Pear/v_1.png"], row("Nashi", "train"));
    let rest = data.file("rest.csv", "path,label\nTraining/Pear/v_1.png,Nashi\n");
    assert_eq!(data.run(&[], &["--labels", &rest])["up_to_date"], true);
}

#[test]
fn wrong_labels_are_named_errors_or_said() {
    let data = Data::new();
    let twice = data.file("twice.csv", "path,label\na.png,x\na.png,y\n");
    assert!(fails(&mut data.command(&["--labels", &twice]), 2, "Input.Invalid").contains("line: 3"));
    let header = data.file("header.csv", "file,class\na.png,x\n");
    assert!(fails(&mut data.command(&["--labels", &header]), 2, "Input.Invalid").contains("file, class"));
    fails(&mut data.command(&["--labels", "/nowhere/labels.csv"]), 1, "Input.NotFound");
    fails(&mut data.command(&["--labels", data.images.to_str().unwrap()]), 2, "Input.Invalid");
    fails(&mut data.command(&["--label-pattern", "[a-z"]), 2, "Input.Invalid");
    fails(&mut data.command(&["--label-pattern", "[a-z]+"]), 2, "(?<label>[^/]+)");
    fails(&mut data.command(&["--split-pattern", "(?<label>a)"]), 2, "(?<split>");
    let never = finish(&mut data.command(&["--label-pattern", "(?<label>zebra)"]));
    let text = String::from_utf8(never.stdout).unwrap();
    assert!(never.status.success() && text.contains("No image has a label"), "{text}");
    // A stored file that is damaged is a named error, not other labels.
    let file = data.file("labels.csv", "path,label\nTest/Apple/v_3.png,Plum\n");
    json(&mut data.command(&["--labels", &file]));
    let stored = fs::read_dir(data.output.join("labels")).unwrap().next().unwrap().unwrap().path();
    let body = fs::read_to_string(&stored).unwrap();
    fs::write(&stored, body.replace("Plum", "Plan")).unwrap();
    fs::remove_file(data.images.join("Test/Pear/v_7.png")).unwrap();
    fails(&mut data.command(&[]), 1, "Dataset.Corrupt");
    let problems = finish(pomona().arg("check").arg(&data.output).arg("--json"));
    assert!(String::from_utf8(problems.stdout).unwrap().contains("labels/"));
    assert!(json(&mut data.command(&["--labels", &file]))["version"].as_u64() > Some(2));
    let store = FolderStore::new(&data.output);
    assert!(wait(store.get(&format!("labels/{}", stored.file_name().unwrap().to_str().unwrap()))).is_ok());
}
