//! Tests of the table, and of the keys that are built and parsed by it.

use std::{collections::BTreeSet, fs, path::Path};

use proptest::prelude::*;

use super::*;

fn placeholders(kind: &FileKind) -> Vec<&'static str> {
    kind.pieces().filter_map(|(_, placeholder)| placeholder).collect()
}

/// A value for each placeholder of a kind.
fn values(kind: &FileKind) -> impl Strategy<Value = Vec<String>> + use<> {
    let value = |placeholder: &str| match Class::of(placeholder).unwrap() {
        Class::Id => "[0-9a-zA-Z]{1,32}".boxed(),
        Class::Name => "[0-9a-zA-Z_-]{1,36}".boxed(),
        Class::Number(digits) => {
            (any::<u64>(), 0..64u32).prop_map(move |(number, shift)| format!("{:0digits$}", number >> shift)).boxed()
        }
        Class::Run => "[0-9a-zA-Z_-][0-9a-zA-Z._-]{0,79}".boxed(),
        Class::Label => "[^/]{1,20}".boxed(),
    };
    placeholders(kind).into_iter().map(value).collect::<Vec<_>>()
}

fn any_key() -> impl Strategy<Value = (&'static FileKind, Vec<String>)> {
    (0..KINDS.len()).prop_flat_map(|i| values(&KINDS[i]).prop_map(move |values| (&KINDS[i], values)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_key_is_parsed_into_the_values_that_it_was_built_from_by_its_kind_only((kind, values) in any_key()) {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let key = kind.key(&values);
        prop_assert_eq!(kind.parse(&key), Some(values));
        let known: Vec<_> = KINDS.iter().filter(|kind| kind.parse(&key).is_some()).collect();
        prop_assert_eq!(known, vec![kind]);
        prop_assert_eq!(kind_of(&key), Some(kind));
        prop_assert_eq!(kind_of(&format!("{key}.tmp")), None);
        prop_assert_eq!(kind_of(&format!("/{key}")), None);
    }

    #[test]
    fn what_is_parsed_is_built_to_the_same_key(key in "[a-z]{3,8}/v=[0-9]{5,22}/(part-|)[0-9]{3,22}\\.(json|parquet)") {
        if let Some(kind) = kind_of(&key) {
            prop_assert_eq!(kind.key(&kind.parse(&key).unwrap()), key);
        }
    }
}

#[test]
fn numbers_have_one_form() {
    assert_eq!(VERSION.key(&["7"]), "versions/00000007.json");
    assert_eq!(VERSION.key(&["123456789"]), "versions/123456789.json");
    for bad in ["0000007", "000000007", "99999999999999999999", "0000000a", "+0000007", ""] {
        assert_eq!(kind_of(&format!("versions/{bad}.json")), None, "{bad:?}");
    }
}

#[test]
fn the_files_that_step_functions_writes_for_a_map_are_those_of_their_run() {
    // Step Functions developer guide, "ResultWriter (Map)": the prefix, the id of the map run, and these names.
    for name in ["manifest", "SUCCEEDED_0", "FAILED_0", "PENDING_12"] {
        let key = format!("runs/r/maps/0f8ea5b1-3b7e-4a3c-9d6b-2f4d1c0a9e11/{name}.json");
        assert_eq!(kind_of(&key), Some(&RUN_MAP), "{key}");
    }
}

#[test]
fn keys_of_other_files_are_of_no_kind() {
    for key in ["", "notes.txt", "shards/", "shards/a/b/shard.json", "shards//shard.json", "runs/.r/plan.json"] {
        assert_eq!(kind_of(key), None, "{key:?}");
    }
    assert_eq!(kind_of("pca/v=00000001/label=a/label=b/part-00000.parquet"), None);
}

#[test]
fn the_table_is_consistent() {
    let names: BTreeSet<&str> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(names.len(), KINDS.len());
    for kind in KINDS {
        assert!(kind.named_by == ITS_KEY || names.contains(kind.named_by), "{kind:?}");
        assert!(!kind.name.is_empty() && !kind.written_by.is_empty(), "{kind:?}");
        let twins = KINDS.iter().filter(|other| kind.folder().is_some() && other.folder() == kind.folder());
        assert!(twins.into_iter().all(|other| other.swept == kind.swept), "{kind:?}");
        // Otherwise the end of a value is not where the text goes on.
        let pieces: Vec<_> = kind.pieces().collect();
        for pair in pieces.windows(2) {
            let class = Class::of(pair[0].1.unwrap()).unwrap();
            assert!(pair[1].0.chars().next().is_some_and(|c| !class.has(c)), "{kind:?}");
        }
    }
    assert_eq!(MARKER.pattern, crate::dataset::MARKER);
}

/// A kind as a row of the table in the documentation.
fn row(kind: &FileKind) -> [String; 4] {
    let holds = match (kind.paths, kind.vectors) {
        (true, true) => "paths, vectors",
        (true, false) => "paths",
        (false, true) => "vectors",
        (false, false) => "neither",
    };
    let key = kind.pattern.replace('{', "<").replace('}', ">");
    [key, kind.written_by.to_owned(), holds.to_owned(), kind.remake.text().to_owned()]
}

#[test]
fn the_documentation_has_the_same_table() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/file-formats.md");
    let page = fs::read_to_string(page).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("Files\n")).unwrap();
    let mut documented = BTreeSet::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [files, by, holds, remake] = cells.try_into().unwrap();
        for key in files.split(", ") {
            let row = [key.trim_matches('`'), by, holds, remake].map(str::to_owned);
            assert!(documented.insert(row), "{key} is in two rows");
        }
    }
    let of_runs = ["runs/<run>/...", "all stages", "paths, vectors", Remake::Record.text()].map(str::to_owned);
    let (runs, others): (Vec<&FileKind>, Vec<&FileKind>) =
        KINDS.iter().partition(|kind| kind.folder() == Some("runs/"));
    assert!(runs.iter().all(|kind| kind.remake == Remake::Record));
    let expected: BTreeSet<_> = others.into_iter().map(row).chain([of_runs]).collect();
    assert_eq!(documented.difference(&expected).collect::<Vec<_>>(), Vec::<&[String; 4]>::new(), "only documented");
    assert_eq!(expected.difference(&documented).collect::<Vec<_>>(), Vec::<&[String; 4]>::new(), "not documented");
}
