//! `pomona predict`, `evaluate` and `list suspects` as processes.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::common::{model_path, program::*};
use serde_json::Value;

/// A picture of one colour with some noise: classes are colours.
fn picture(colour: [u8; 3], seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let image = image::RgbImage::from_fn(24, 24, |_, _| image::Rgb(colour.map(|c| c.saturating_add(rng.u8(0..60)))));
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

const COLOURS: [(&str, [u8; 3]); 3] = [("blue", [10, 20, 190]), ("green", [20, 180, 30]), ("red", [190, 10, 20])];

fn data_set(folder: &Path) {
    for (name, colour) in COLOURS {
        fs::create_dir_all(folder.join(name)).unwrap();
        for i in 0..30 {
            fs::write(folder.join(name).join(format!("{i:02}.png")), picture(colour, i)).unwrap();
        }
    }
    // A wrong label.
    fs::write(folder.join("blue/wrong.png"), picture(COLOURS[2].1, 99)).unwrap();
}

fn with_model(command: &str, output: &Path) -> Command {
    let mut with_model = pomona();
    with_model.arg(command).arg(output).arg("--model").arg(model_path("tiny"));
    with_model
}

#[test]
fn photos_are_predicted_and_broken_and_foreign_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output, photos) = (dir.path().join("images"), dir.path().join("results"), dir.path().join("photos"));
    data_set(&images);
    let summary = json(&mut run(&images, &output, &[]));
    assert!(summary["accuracy"].as_f64().unwrap() > 0.98, "{summary}");

    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("a red one.png"), picture(COLOURS[2].1, 500)).unwrap();
    fs::write(photos.join("broken.png"), &picture(COLOURS[1].1, 501)[..200]).unwrap();
    fs::write(photos.join("white.png"), picture([250, 250, 250], 502)).unwrap();
    fs::write(photos.join(".hidden"), "x").unwrap();
    let answers = json(with_model("predict", &output).arg(&photos));
    let answers = answers.as_array().unwrap();
    let paths: Vec<_> = answers.iter().map(|answer| answer["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["a red one.png", "broken.png", "white.png"]);
    let red = &answers[0];
    assert_eq!((&red["label"], &red["problem"]), (&"red".into(), &Value::Null));
    assert!(red["probability"].as_f64() > red["second"]["probability"].as_f64());
    let near = red["neighbours"].as_array().unwrap();
    assert_eq!(near.len(), 3);
    assert!(near.iter().all(|near| near["path"] == "blue/wrong.png" || near["label"] == "red"), "{near:?}");
    assert!(near.windows(2).all(|pair| pair[0]["similarity"].as_f64() >= pair[1]["similarity"].as_f64()));
    assert_eq!((&answers[1]["label"], &answers[1]["problem"]), (&Value::Null, &"truncated".into()));
    assert_eq!(answers[2]["problem"], "unlike_anything_seen");

    let file = photos.join("a red one.png");
    let text = success(finish(with_model("predict", &output).arg(&file)));
    assert!(text.contains("a red one.png: red ") && text.contains("  like "), "{text}");
    let csv = success(finish(with_model("predict", &output).args(["--csv", "--threads", "1"]).arg(&photos)));
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines[0], "path,label,probability,second,second_probability,problem");
    assert_eq!(lines[2], "broken.png,,,,,truncated");
    let stdin = Stdio::from(fs::File::open(&file).unwrap());
    let piped = json(with_model("predict", &output).arg("-").stdin(stdin));
    assert_eq!((&piped[0]["path"], &piped[0]["probability"]), (&"-".into(), &red["probability"]));
}

#[test]
fn wrong_labels_are_found_and_the_result_is_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    data_set(&images);
    let summary = json(&mut run(&images, &output, &[]));
    let suspects = json(pomona().args(["list", "suspects"]).arg(&output));
    let first = &suspects[0];
    assert_eq!(
        (&first["path"], &first["label"], &first["predicted"]),
        (&"blue/wrong.png".into(), &"blue".into(), &"red".into())
    );
    assert!(first["nearest_of_label"].as_array().unwrap().iter().all(|near| near["label"] == "blue"));
    assert!(first["nearest_of_predicted"].as_array().unwrap().iter().all(|near| near["label"] == "red"));
    let text = success(finish(pomona().args(["list", "suspects"]).arg(&output)));
    assert!(text.contains("blue/wrong.png") && text.contains("nearest of red:"), "{text}");

    let found = json(pomona().arg("evaluate").arg(&output));
    assert_eq!((&found["split"], &found["images"], &found["optimistic"]), (&"train".into(), &91.into(), &true.into()));
    let confusion = found["confusion"].as_array().unwrap();
    let total: u64 = confusion.iter().flat_map(|row| row.as_array().unwrap()).map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(total, 91);
    assert_eq!(found["accuracy"], summary["accuracy"]);
    let [low, high] = [0, 1].map(|i| found["interval"][i].as_f64().unwrap());
    assert!(low < found["accuracy"].as_f64().unwrap() && found["accuracy"].as_f64().unwrap() < high);
    let text = success(finish(pomona().arg("evaluate").arg(&output)));
    assert!(text.contains("optimistic") && text.contains("91 images"), "{text}");
    let shown = success(finish(pomona().arg("show").arg(&output)));
    assert!(shown.contains("Classifier (3 classes") && shown.contains("training, out of fold"), "{shown}");
}

#[test]
fn duplicates_outliers_and_rejects_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    data_set(&images);
    fs::create_dir_all(images.join("test/green")).unwrap();
    fs::copy(images.join("blue/wrong.png"), images.join("test/green/copy.png")).unwrap();
    fs::write(images.join("test/green/broken.png"), "no image").unwrap();
    let summary = json(&mut run(&images, &output, &["--max-reject-percent", "5"]));
    let list = |what: &str, options: &[&str]| {
        let mut command = pomona();
        command.args(["list", what]).arg(&output).args(options);
        command
    };
    let groups = json(&mut list("duplicates", &["--across-labels"]));
    let of_copy = |group: &&Value| group["paths"].as_array().unwrap().contains(&"test/green/copy.png".into());
    let group = groups.as_array().unwrap().iter().find(of_copy).unwrap();
    assert_eq!((&group["distance"], &group["across_splits"]), (&0.0.into(), &true.into()));
    assert_eq!((&group["same_bytes"], &summary["duplicates"]["copies"]), (&true.into(), &1.into()));
    let csv = success(finish(&mut list("duplicates", &["--csv", "--across-splits"])));
    assert!(csv.starts_with("group,path,label,split,distance,same_bytes,across_labels,across_splits\n"), "{csv}");
    assert!(csv.contains(",test/green/copy.png,green,test,0,true,true,true\n"), "{csv}");
    let text = success(finish(&mut list("duplicates", &[])));
    assert!(text.contains("across labels") && text.contains("blue/wrong.png"), "{text}");
    let all = json(&mut list("duplicates", &[]));
    assert_eq!(all.as_array().unwrap().len() as u64, summary["duplicates"]["groups"].as_u64().unwrap());

    let outliers = json(&mut list("outliers", &[]));
    assert_eq!(outliers.as_array().unwrap().len() as u64, summary["outliers"].as_u64().unwrap());
    assert!(success(finish(&mut list("outliers", &["--csv"]))).starts_with("path,label,distance\n"));
    assert!(success(finish(&mut list("outliers", &[]))).contains("among 92 images"));
    let rejects = json(&mut list("rejects", &[]));
    assert_eq!((&rejects[0]["path"], &rejects[0]["reason"]), (&"test/green/broken.png".into(), &"not_an_image".into()));
    let csv = success(finish(&mut list("rejects", &["--csv"])));
    assert!(csv.starts_with("path,reason,detail\ntest/green/broken.png,not_an_image,"), "{csv}");
    assert!(success(finish(&mut list("rejects", &[]))).contains("1 image without features"));
    let shown = success(finish(pomona().arg("show").arg(&output)));
    assert!(shown.contains("of duplicates:") && shown.contains("across splits"), "{shown}");
}

#[test]
fn training_images_with_and_without_a_folder_for_them_are_one_split() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    data_set(&images);
    data_set(&images.join("Training"));
    json(&mut run(&images, &output, &[]));
    let evaluated = json(pomona().arg("evaluate").arg(&output));
    assert_eq!((&evaluated["split"], &evaluated["images"]), (&"train".into(), &182.into()));
    let shown = success(finish(pomona().arg("show").arg(&output)));
    assert_eq!(shown.matches("training, out of fold").count(), 1, "{shown}");
    assert!(shown.contains("182"), "{shown}");
    fs::remove_file(images.join("blue/wrong.png")).unwrap();
    json(&mut run(&images, &output, &[]));
    let compared = success(finish(pomona().args(["diff"]).arg(&output).args(["1", "2"])));
    let accuracy = format!("{:.1} %", evaluated["accuracy"].as_f64().unwrap() * 100.0);
    assert!(compared.contains(&accuracy), "{accuracy} is not in {compared}");
}

#[test]
fn a_test_split_is_evaluated_unless_its_classes_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    data_set(&images.join("Training"));
    let test = images.join("Test");
    fs::create_dir_all(test.join("yellow")).unwrap();
    (0..9).for_each(|i| fs::write(test.join(format!("yellow/{i}.png")), picture([190, 180, 10], 900 + i)).unwrap());
    let summary = success(finish(&mut run(&images, &output, &[])));
    assert!(summary.contains("out of fold, no label of test is a class\n"), "{summary}");
    let found = json(pomona().arg("evaluate").arg(&output));
    assert_eq!((&found["split"], &found["of_unknown_classes"]), (&"train".into(), &0.into()));
    let found = json(pomona().arg("evaluate").arg(&output).args(["--split", "test"]));
    assert_eq!((&found["images"], &found["of_unknown_classes"], &found["correct"]), (&9.into(), &9.into(), &0.into()));
    fs::create_dir_all(test.join("red")).unwrap();
    (0..9).for_each(|i| fs::write(test.join(format!("red/{i}.png")), picture(COLOURS[2].1, 800 + i)).unwrap());
    let summary = success(finish(&mut run(&images, &output, &[])));
    assert!(summary.contains("out of fold, 50.0 % of test\n"), "{summary}");
    let found = json(pomona().arg("evaluate").arg(&output));
    assert_eq!((&found["split"], &found["images"], &found["correct"]), (&"test".into(), &18.into(), &9.into()));
    assert_eq!((&found["of_unknown_classes"], &found["held_out"]), (&9.into(), &true.into()));
}

#[test]
fn what_cannot_be_answered_is_a_named_error() {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    data_set(&images);
    success(finish(&mut run(&images, &output, &[])));
    let photo = images.join("red/00.png");
    fails(pomona().arg("predict").arg(&output).arg(&photo), 1, "Classifier.OtherModel");
    let text = fails(pomona().arg("evaluate").arg(&output).args(["--split", "test"]), 2, "Input.Invalid");
    assert!(text.contains("splits: train"), "{text}");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fails(with_model("predict", &output).arg(&empty), 1, "Input.Empty");
    let missing = json(with_model("predict", &output).arg("no such file.png"));
    assert_eq!(missing[0]["problem"], "unreadable");

    success(finish(&mut run(&images, &output, &["--no-classifier"])));
    for command in [&["evaluate"][..], &["list", "suspects"]] {
        let text = fails(pomona().args(command).arg(&output), 1, "Classifier.Missing");
        assert!(text.contains("--no-classifier"), "{text}");
    }
    fails(with_model("predict", &output).arg(&photo), 1, "Classifier.Missing");
    fails(&mut run(&images, &output, &["--fold-pattern", "("]), 2, "Input.Invalid");
}
