//! Texts of the program, compared with the files beside this one.
//!
//! `make golden` accepts the new texts; read `git diff` before you commit them. Times, sizes, ids and paths of the machine
//! are masked.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::common::{model_path, program::*};

const COLUMNS: &str = "80";
const WIDE: &str = "120";

fn assert_snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(".");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn the_help_of_every_command() {
    let help_at = |columns: &str, command: &[&str]| {
        let output = finish(pomona().args(command).arg("--help").env("COLUMNS", columns));
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let help = |command: &[&str]| help_at(COLUMNS, command);
    let overview = help(&[]);
    assert_snapshot("help", &overview);
    let commands = overview.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A longer indent continues the line above.
    let commands = commands.filter(|line| !line.starts_with("   ")).map(|line| line.split_whitespace().next().unwrap());
    let mut seen = 0;
    let mut wide = help_at(WIDE, &[]);
    for command in commands.filter(|command| *command != "help") {
        assert_snapshot(&format!("help-{command}"), &help(&[command]));
        wide.push_str(&format!("\n$ pomona {command} --help\n{}", help_at(WIDE, &[command])));
        seen += 1;
    }
    assert_snapshot("help-at-120-columns", &wide);
    assert!(seen >= 11, "{seen} commands");
    assert_snapshot("help-aws-deploy", &help(&["aws", "deploy"]));
    for command in ["check", "push"] {
        assert_snapshot(&format!("help-model-{command}"), &help(&["model", command]));
    }
    for command in ["estimate", "start", "status"] {
        let text = help(&["aws", command]);
        assert_snapshot(&format!("help-aws-{command}"), &text);
        // The name of release 0.1.0.
        assert!(help(&[command]).contains(text.lines().next().unwrap()));
    }
}

#[test]
fn estimates() {
    for (name, args) in [
        ("estimate", &["--images", "22688"][..]),
        (
            "estimate-large",
            &["--images", "100000000", "--concurrency", "1000", "--region", "eu-west-3", "--architecture", "arm64"],
        ),
    ] {
        let done = finish(pomona().args(["aws", "estimate"]).args(args));
        assert!(done.status.success());
        assert_snapshot(name, &String::from_utf8(done.stdout).unwrap());
    }
}

/// A demo, then a version with one image added, one changed, one removed and one reject.
#[test]
fn the_history_of_a_small_data_set() {
    let dir = tempfile::tempdir().unwrap();
    let story = Story { dir: &dir.path().canonicalize().unwrap() };
    let places = ["pomona-demo/images", "pomona-demo/results"];
    let run = [&["run"], &places[..], &["--shard-size", "20", "-k", "5"]].concat();
    story.record("demo", &["demo", "--views", "4", "--shard-size", "20", "-k", "5"], 0);
    story.change_images();
    story.record("run-after-changes", &run, 0);
    story.record("run-without-changes", &run, 0);
    story.record("show", &["show", places[1], "-n", "3"], 0);
    story.record("log", &["log", places[1]], 0);
    story.record("diff-of-two", &["diff", places[1], "1", "2", "-n", "3"], 0);
    story.record("diff", &["diff", places[1], "-n", "3"], 0);
    story.record("vacuum", &["vacuum", places[1], "--keep-versions", "1", "--older-than", "0", "--dry-run"], 0);
    story.check(places[1]);
    fs::remove_file(story.dir.join(places[0]).join("Lemon/0_100.jpg")).unwrap();
    story.record("erase", &["erase", places[1], "Lemon/0_100.jpg"], 0);
    story.record("run-other-settings", &[&run[..], &["--no-standardize"]].concat(), 0);
    let scaled = [&run[..], &["--decode", "scaled"]].concat();
    story.record("error-settings-changed", &scaled, 1);
    story.record("error-no-such-version", &["show", places[1], "--version", "9"], 1);
    story.record("error-no-such-folder", &["run", "photos", "results"], 1);
    story.record("error-wrong-usage", &["run", "photos", "results", "--components", "3", "--variance", "0.9"], 2);
}

struct Story<'a> {
    dir: &'a Path,
}

impl Story<'_> {
    fn change_images(&self) {
        let images = self.dir.join("pomona-demo/images");
        let write = |name: &str, body: &[u8]| {
            let path = images.join(name);
            fs::write(&path, body).unwrap();
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000);
            fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
        };
        let read = |name: &str| fs::read(images.join(name)).unwrap();
        write("Lemon/new.jpg", &read("Lemon/1_100.jpg"));
        write("Lemon/2_100.jpg", &read("Lemon/3_100.jpg"));
        write("notes.txt", b"lemons");
        write("Lemon/notes.jpg", b"lemons");
        fs::remove_file(images.join("Lemon/1_100.jpg")).unwrap();
    }

    /// A check of the sound output; of one with a damaged part, a lost table and a strange file; and a repair.
    fn check(&self, output: &str) {
        self.record("check", &["check", output], 0);
        let at = |name: &str| self.dir.join(output).join(name);
        let part = at("pca/v=00000002/part-00000.parquet");
        let mut body = fs::read(&part).unwrap();
        let middle = body.len() / 2;
        body[middle] ^= 1;
        fs::remove_file(&part).unwrap();
        fs::write(&part, body).unwrap();
        fs::remove_file(at("rejects/v=00000001.parquet")).unwrap();
        fs::write(at("notes.txt"), "mine").unwrap();
        self.record("check-damaged", &["check", output], 1);
        self.record("check-damaged-json", &["check", output, "--fast", "--json"], 1);
        self.record("check-repair", &["check", output, "--repair"], 0);
        fs::remove_file(at("notes.txt")).unwrap();
    }

    /// Runs a command in the folder of the story; compares what it prints with the snapshot of this name.
    fn record(&self, name: &str, args: &[&str], code: i32) {
        let mut command = pomona();
        command.current_dir(self.dir).env("COLUMNS", COLUMNS).args(args);
        if code != 2 && ["demo", "run", "erase", "check"].contains(&args[0]) {
            command.arg("--model").arg(model_path("tiny"));
        }
        let output = finish(&mut command);
        let mut text = format!("$ pomona {}\n", args.join(" "));
        text.push_str(&String::from_utf8(output.stdout).unwrap());
        let errors = String::from_utf8(output.stderr).unwrap();
        if !errors.is_empty() {
            text.push_str(&format!("\n[standard error]\n{errors}"));
        }
        let text = mask(&text.replace(self.dir.to_str().unwrap(), "<dir>"));
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_snapshot(name, &text);
    }
}

/// The text without what differs from run to run.
///
/// Files are listed in the order of their keys, which a masked name hides: neighbouring lines with one are sorted again.
fn mask(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(|line| mask_figures(&mask_ids(line)) + "\n").collect();
    let is_masked = |line: &String| line.starts_with("  ") && (line.contains("<run>") || line.contains("<id>"));
    lines.chunk_by_mut(|a, b| is_masked(a) && is_masked(b)).for_each(<[String]>::sort);
    lines.concat()
}

/// Names of runs and hashes become `<run>` and `<id>`; digits of dates and times become 0.
fn mask_ids(line: &str) -> String {
    let (mut masked, mut rest) = (String::new(), line);
    while let Some(c) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == ':';
        let (word, tail) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        if word.is_empty() {
            masked.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let shape: String = word.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        let is_hash = |word: &str| word.len() >= 16 && word.chars().all(|c| c.is_ascii_hexdigit());
        let hexadecimal = is_hash(word);
        masked.push_str(match shape.as_str() {
            _ if hexadecimal => "<id>",
            _ if word.strip_prefix("objects-").is_some_and(is_hash) => "objects-<id>",
            _ if shape.starts_with("00000000T000000Z-") => "<run>",
            "0000-00-00" | "00:00:00Z" => &shape,
            _ => word,
        });
        rest = tail;
    }
    masked
}

/// Seconds, rates, costs and sizes become `#`. A line with one loses its alignment, which depends on their digits.
fn mask_figures(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_number = |word: &str| word.parse::<f64>().is_ok();
    match words.as_slice() {
        [stage, seconds, "s"] if is_number(seconds) => format!("  {stage} # s"),
        [stage, seconds, "s", rate, "images/s"] if is_number(seconds) && is_number(rate) => {
            format!("  {stage} # s # images/s")
        }
        ["Cost", .., "AWS:", dollars] | ["Cost", .., "AWS:", "below", dollars] => {
            assert!(dollars.starts_with('$'), "{line}");
            "  Cost of the same work on AWS: #".to_owned()
        }
        ["Checked", files, "files", size, _, rest @ ..] if size.starts_with('(') => {
            format!("Checked {files} files (#), {}", rest.join(" "))
        }
        ["\"bytes\":", _] => "  \"bytes\": #".to_owned(),
        ["files", files, size, _] if is_number(size) => format!("  files     {files} #"),
        // A line of the log ends with seconds.
        [_, "0000-00-00", "00:00:00Z", .., last] if is_number(last) => {
            let end = line.len() - last.len();
            format!("{}{:>width$}", &line[..end], "#", width = last.len())
        }
        _ => line.to_owned(),
    }
}

#[test]
fn masks_hide_what_differs_and_nothing_else() {
    for (line, expected) in [
        ("  featurize   0.05 s  560.0 images/s", "  featurize # s # images/s"),
        ("  total      10.12 s", "  total # s"),
        ("  Cost of the same work on AWS: below $0.001", "  Cost of the same work on AWS: #"),
        ("  basis     r/basis/0123456789abcdef0123456789abcdef.parquet", "  basis     r/basis/<id>.parquet"),
        ("  runs/r/objects-0123456789abcdef0123456789abcdef.jsonl", "  runs/r/objects-<id>.jsonl"),
        ("  report    r/runs/20261122T044555Z-0a1b2c3d/report.html", "  report    r/runs/<run>/report.html"),
        (
            "  1        2026-11-22 04:45:55Z  560  85.1 %      5.9",
            "  1        0000-00-00 00:00:00Z  560  85.1 %        #",
        ),
        ("  pca/v=00000001/part-00000.parquet", "  pca/v=00000001/part-00000.parquet"),
        (
            "Checked 53 files (1.2 MB), 2 versions, 80 images: no damage",
            "Checked 53 files (#), 2 versions, 80 images: no damage",
        ),
        ("  3 components explain 85.1 %; 90 % needs 4", "  3 components explain 85.1 %; 90 % needs 4"),
    ] {
        assert_eq!(mask(line), format!("{expected}\n"));
    }
}
