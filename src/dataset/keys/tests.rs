//! Tests of the keys: what is built is what the registry knows, and what is parsed.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn a_run() -> RunId {
    RunId::try_from("r-1".to_owned()).unwrap()
}

/// A key of each function, with the kind that it must have.
fn keys() -> Vec<(String, FileKind)> {
    let (id, shard_id, group_id, v) = (a_run(), ShardId::from("ab"), GroupId::from("cd"), Version(3));
    let before = vec![
        (crate::dataset::MARKER.to_owned(), registry::MARKER),
        (version(v), registry::VERSION),
        (REPORT.to_owned(), registry::REPORT),
        (claim(v), registry::CLAIM),
        (features(&shard_id), registry::FEATURES),
        (shard(&shard_id), registry::SHARD),
        (moments(&shard_id), registry::MOMENTS),
        (partial(&shard_id), registry::PARTIAL),
        (partial_record(&shard_id), registry::PARTIAL_RECORD),
        (container(&"0c".into()), registry::CONTAINER),
        (sums(&group_id), registry::SUMS),
        (group(&group_id), registry::GROUP),
        (totals(&"f0".into()), registry::TOTALS),
        (basis(&"b1".into()), registry::BASIS),
        (classes(&group_id, &"ef".into()), registry::CLASSES),
        (index(&group_id), registry::INDEX),
        (classifier(&"ab".into()), registry::CLASSIFIER),
        (predictions(v, 1), registry::PREDICTIONS),
        (labels(&Checksum::of(b"")), registry::LABELS),
        (vocabulary("f3"), registry::VOCABULARY),
        (model("f4"), registry::MODEL),
        (model_record("f4"), registry::MODEL_RECORD),
        (extractor(&"e2".into()), registry::EXTRACTOR),
        (part_list(v, 0), registry::PART_LIST),
        (part(v, None, 0), registry::PART),
        (part(v, Some("x"), 0), registry::LABEL_PART),
        (success(v), registry::SUCCESS),
        (features_part(v, 0), registry::FEATURES_PART),
        (symlinks(v), registry::SYMLINKS),
        (delta_part(&"d1".into()), registry::DELTA_PART),
        (delta_commit(1), registry::DELTA_COMMIT),
        (csv(v), registry::CSV),
        (rejects(v), registry::REJECTS),
        (duplicates(v, 0), registry::DUPLICATES),
        (outliers(v, 0), registry::OUTLIERS),
    ];
    let after = vec![
        (notice("0a"), registry::NOTICE),
        (ticket(1), registry::TICKET),
        (REVIEW.to_owned(), registry::REVIEW),
        (LOCK.to_owned(), registry::LOCK),
        (broken_lock(b"", 0), registry::BROKEN_LOCK),
    ];
    [before, run_keys(&id), after].concat()
}

/// The keys below `runs/`.
fn run_keys(id: &RunId) -> Vec<(String, FileKind)> {
    let (shard_id, group_id) = (ShardId::from("ab"), GroupId::from("cd"));
    vec![
        (run(id, "plan.json"), registry::RUN_PLAN),
        (started(id), registry::RUN_STARTED),
        (objects(id, "0a"), registry::RUN_OBJECTS),
        (run(id, "listing.json"), registry::RUN_LISTING),
        (run(id, "finished.jsonl"), registry::RUN_FINISHED),
        (ranges(id, 0), registry::RUN_RANGES),
        (listed(id, 0, 0), registry::RUN_LISTED),
        (pieces(id, "0a"), registry::RUN_PIECES),
        (shard_list(id, 0), registry::RUN_SHARDS),
        (run(id, "featurize.jsonl"), registry::RUN_WORK),
        (batches_of(&run(id, "featurize.jsonl")), registry::RUN_WORK_BATCHES),
        (run(id, "merge.jsonl"), registry::RUN_MERGES),
        (run(id, "project.jsonl"), registry::RUN_PROJECTIONS),
        (batches_of(&run(id, "project.jsonl")), registry::RUN_PROJECTION_BATCHES),
        (featurized(id, &shard_id), registry::RUN_FEATURIZED),
        (merge_record(id, 0), registry::RUN_MERGED),
        (index_record(id, 0), registry::RUN_INDEXED),
        (merged(id, 0), registry::RUN_SUMS),
        (run(id, "reduced.json"), registry::RUN_REDUCED),
        (projected(id, 0), registry::RUN_PROJECTED),
        (csv_part(id, 0), registry::RUN_CSV),
        (format!("{}/0a1b/SUCCEEDED_0.json", map_results(id)), registry::RUN_MAP),
        (damaged(id, &features(&shard_id)).unwrap(), registry::RUN_DAMAGED_SHARD),
        (damaged(id, &sums(&group_id)).unwrap(), registry::RUN_DAMAGED_GROUP),
        (run(id, "rejects.parquet"), registry::RUN_REJECTS),
        (kept_manifest(id), registry::RUN_MANIFEST),
        (run(id, "report.html"), registry::RUN_REPORT),
        (run(id, "scree.png"), registry::RUN_SCREE),
        (run(id, "scatter.png"), registry::RUN_SCATTER),
        (run(id, "receipt.json"), registry::RUN_RECEIPT),
    ]
}

#[test]
fn each_key_is_known_to_the_registry_exactly_once_and_each_kind_has_a_key() {
    let keys = keys();
    for (key, kind) in &keys {
        let known: Vec<_> = KINDS.iter().filter(|kind| kind.parse(key).is_some()).collect();
        assert_eq!(known, [kind], "{key}");
    }
    assert_eq!(keys.iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), KINDS);
}

#[test]
fn the_folders_are_those_of_the_registry() {
    let named = [
        VERSIONS,
        SHARDS,
        PARTIALS,
        CONTAINERS,
        GROUPS,
        MOMENTS,
        BASES,
        INDEX,
        CLASSIFIER,
        PREDICTED,
        LABELS,
        VOCABULARIES,
        MODELS,
        EXTRACTORS,
        SCORES,
        PCA,
        FEATURES,
        DELTA,
        CSV,
        REJECTS,
        DUPLICATES,
        OUTLIERS,
        RUNS,
        INBOX,
        TICKETS,
    ];
    assert_eq!(PREFIXES.iter().map(|prefix| prefix.name).collect::<Vec<_>>(), named);
    let kept: BTreeSet<&str> = PREFIXES.iter().filter(|prefix| !prefix.swept).map(|prefix| prefix.name).collect();
    assert_eq!(kept, BTreeSet::from([VERSIONS, MODELS, INBOX, TICKETS]));
    assert_eq!(swept().count(), named.len() - 4);
    assert!(part(Version(1), None, 1).starts_with(&pca(Version(1))));
    assert!(features_part(Version(1), 1).starts_with(&features_folder(Version(1))));
    assert!(symlinks(Version(1)).starts_with(&features_folder(Version(1))));
}

proptest! {
    #[test]
    fn what_is_parsed_is_what_was_built(number in 1u64..u64::MAX, label in "[^/]{1,12}", text in "[0-9a-f]{32}") {
        let v = Version(number);
        prop_assert_eq!(parse_version(&version(v)), Some((v, VersionFile::State)));
        prop_assert_eq!(parse_version(&claim(v)), Some((v, VersionFile::Claim)));
        prop_assert_eq!(parse_shard(&shard(&text.as_str().into())), Some(text.as_str().into()));
        prop_assert_eq!(parse_group(&group(&text.as_str().into())), Some(text.as_str().into()));
        prop_assert_eq!(parse_totals(&totals(&text.as_str().into())), Some(text.as_str().into()));
        let (labelled, plain, mark) = (part(v, Some(&label), number), part(v, None, number), started(&a_run()));
        prop_assert_eq!(parse_part(v, &labelled), Some((Some(label.as_str()), number)));
        prop_assert_eq!(parse_part(v, &plain), Some((None, number)));
        prop_assert_eq!(parse_started(&mark), Some("r-1"));
        prop_assert_eq!(parse_ticket(&ticket(number)), Some(number));
        let (of_shard, of_group) = (features(&text.as_str().into()), sums(&text.as_str().into()));
        for file in [&of_shard, &of_group] {
            let note = damaged(&a_run(), file).unwrap();
            prop_assert!(note.starts_with(&damage_folder(&a_run())));
            prop_assert_eq!(parse_damaged(&note), record_of(file));
        }
    }
}

#[test]
fn keys_of_other_files_are_not_parsed() {
    assert_eq!(parse_version("versions/x.json"), None);
    assert_eq!(parse_version("versions/00000001.json.tmp"), None);
    assert_eq!(parse_shard("shards/ab/features.parquet"), None);
    assert_eq!(parse_group("groups/ab/sums.parquet"), None);
    assert_eq!(parse_classes("groups/ab/classes-1f.parquet"), Some("ab".into()));
    assert_eq!(parse_predictions(Version(1), "predictions/v=00000001/part-00002.parquet"), Some(2));
    assert_eq!(parse_predictions(Version(2), "predictions/v=00000001/part-00002.parquet"), None);
    assert_eq!(parse_part(Version(1), "pca/v=00000001/_SUCCESS"), None);
    assert_eq!(parse_part(Version(1), "pca/v=00000002/part-00000.parquet"), None);
    assert_eq!(parse_part(Version(1), "pca/v=00000002/label=a/part-00000.parquet"), None);
    assert_eq!(parse_started("runs/r/plan.json"), None);
    assert_eq!(parse_damaged("runs/r/plan.json"), None);
    assert_eq!(damaged(&a_run(), "basis/ab.parquet"), None);
}
