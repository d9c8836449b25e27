//! The settings of a run.

use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Result,
    classify::Priors,
    dataset::{
        Checksum,
        labelling::{LabelRules, Labelling},
        shard::{Boundaries, DEFAULT_GROUP_SIZE, DEFAULT_SHARD_SIZE, DEFAULT_SHARD_SIZE_ON_AWS},
        tables::Compression,
        training::{Training, TrainingRules},
    },
    pca::{ComponentSelection, Scaling},
};

/// Default of [`Settings::duplicate_images`] on one machine.
const DUPLICATE_IMAGES: u64 = 5_000_000;
/// Its default on AWS, where one function searches.
pub(crate) const DUPLICATE_IMAGES_ON_AWS: u64 = 500_000;

/// Settings that the result of a run depends on. The fields have the same names in the input of an execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `{"components": 50}` or `{"variance": 0.9}`. None for that of the current version; without one, 50 components, or fewer
    /// if that many are not possible.
    pub pca: Option<ComponentSelection>,
    /// Whether columns are divided by their sample standard deviation. None as in the current version; without one, they are.
    pub standardize: Option<bool>,
    /// Whether the scores have one folder per label below `pca/v=.../`. None as in the current version; without one, not.
    pub partition_by_label: Option<bool>,
    /// Whether the scores are also written as `result.csv`.
    pub csv: bool,
    /// Whether text in `result.csv` that a spreadsheet would run as a formula starts with an apostrophe. Implies `csv`.
    /// Left out of the JSON if it is false, so that the manifests of other runs keep their bytes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub csv_for_spreadsheets: bool,
    /// Most rejected images, as a percentage of all, 0 to 100. A run with more fails. Unless this is 0, one reject is
    /// always allowed.
    pub max_reject_percent: f64,
    /// Target number of objects per shard, 1 to [`MAX_SHARD_SIZE`](crate::dataset::shard::MAX_SHARD_SIZE). None for that
    /// of the current version; without one, 1,024 on one machine and 320 on AWS. A manifest has the number.
    pub shard_size: Option<u32>,
    /// Target number of objects per group of shards, at most 32,768, which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<u32>,
    /// How the tables of features and of scores are compressed. None for that of the current version; without one, Snappy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Whether `features/v=.../` in a bucket has copies of the tables of features instead of a list of them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub materialize_features: bool,
    /// Whether the features have a Delta log. None as in the current version; without one, they have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<bool>,
    /// Whether labels are learned. True by default; there is a classifier if there are two labels.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub classifier: bool,
    /// Whether a search index is made. True by default. Without it, a search reads all features.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub index: bool,
    /// What is known of the classes. None for that of the current version; without one, their counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priors: Option<Priors>,
    /// A regular expression: images in whose keys it captures the same text are in the same fold of the cross-validation.
    /// None for that of the current version, an empty one for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fold_pattern: Option<String>,
    /// A pattern of keys, such as `orchard-7/**`, that the classifier does not learn. None for that of the current version,
    /// an empty one for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout: Option<String>,
    /// Which folder of an image's key is its label: 0 is the innermost, 1 the one that holds it. Without any of the three
    /// settings of labels, they are those of the current version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_depth: Option<u32>,
    /// A regular expression with a group `label`; what it captures in the key is the label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_pattern: Option<String>,
    /// The file of labels in the output. In the input of an execution, `labels` is the location to read it from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Checksum>,
    /// A regular expression with a group `split`. None for that of the current version, an empty one for none: then a
    /// folder with a name such as `train` or `Test` is the split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_pattern: Option<String>,
    /// The largest distance of near-duplicates, in units of the features. None for that of the current version; without
    /// one, that of the built-in model, and 0 for other models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_distance: Option<f64>,
    /// The largest difference of the thumbnails of near-duplicates: the root mean square, in levels of 8 bits; 0 if
    /// thumbnails do not count. None for that of the current version; without one, 0.42.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_levels: Option<f64>,
    /// Most images among which near-duplicates are searched; with more, only those with the same bytes. None for that of
    /// the current version; without one, 5,000,000 on one machine and 500,000 on AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_images: Option<u64>,
}

/// Settings of a single run. With the defaults, the result depends only on the images and the [`Settings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mode {
    /// Whether the PCA is fitted again.
    pub refit: Refit,
    /// Whether the extractor may differ from that of the current version.
    pub rebuild: bool,
    /// Which part of the input is listed.
    pub listing: ListingScope,
    /// Whether all features may be computed again because this release gives others.
    pub upgrade: bool,
    /// Whether the images may come from another place than those of the current version.
    pub input_moved: bool,
    /// Whether more than half of at least 100 images may be gone since the current version.
    pub accept_deletions: bool,
}

/// Images of a version below which any number of them may vanish at once.
const FEW_IMAGES: u64 = 100;

impl Mode {
    /// Fails with `Input.Vanished` if more than half of the `before` images of the current version are gone, and that was
    /// not accepted. An input that is not mounted, or a deletion by mistake, must not empty a data set.
    pub(crate) fn check_vanished(&self, gone: u64, before: u64) -> Result<()> {
        if self.accept_deletions || before < FEW_IMAGES || gone <= before / 2 {
            return Ok(());
        }
        let message = format!("{gone} of {before} images of the current version are gone");
        Err(Error::new(ErrorKind::InputVanished, message))
    }
}

/// Whether a run fits the PCA again if the images have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refit {
    /// Fit it to all current images, and project all of them.
    #[default]
    Always,
    /// Keep the basis of the current version, and project only changed shards. Scores of different versions are then
    /// comparable.
    Never,
}

/// Which part of the input a run lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListingScope {
    /// Every key of the input.
    #[default]
    All,
    /// Only the shards of keys in the inbox (see [`crate::dataset::inbox`]), and shards with rejects that a retry may read.
    Changed,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            pca: None,
            standardize: None,
            partition_by_label: None,
            csv: false,
            csv_for_spreadsheets: false,
            max_reject_percent: 1.0,
            shard_size: None,
            group_size: None,
            compression: None,
            materialize_features: false,
            delta: None,
            classifier: true,
            index: true,
            priors: None,
            fold_pattern: None,
            holdout: None,
            label_depth: None,
            label_pattern: None,
            labels: None,
            split_pattern: None,
            duplicate_distance: None,
            duplicate_levels: None,
            duplicate_images: None,
        }
    }
}

impl Settings {
    /// Fails with `Input.Invalid`, which names the field that is out of range.
    pub fn check(&self) -> Result<()> {
        self.pca.map_or(Ok(()), ComponentSelection::check)?;
        if !(0.0..=100.0).contains(&self.max_reject_percent) {
            let message = "the limit of rejects must be a percentage from 0 to 100";
            return Err(
                Error::new(ErrorKind::InputInvalid, message).context("max reject percent", self.max_reject_percent)
            );
        }
        for (name, given) in
            [("duplicate distance", self.duplicate_distance), ("duplicate levels", self.duplicate_levels)]
        {
            if let Some(given) = given.filter(|given| !given.is_finite() || *given < 0.0) {
                let message = "a limit of near-duplicates must be a number from 0";
                return Err(Error::new(ErrorKind::InputInvalid, message).context(name, given));
            }
        }
        Training::new(&self.training_rules())?;
        if self.label_depth.is_some() && self.label_pattern.is_some() {
            let message = "a label is either a folder (label_depth) or what a pattern captures (label_pattern)";
            return Err(Error::new(ErrorKind::InputInvalid, message));
        }
        Labelling::new(&self.label_rules())?;
        Boundaries::new(self.shard_size())?;
        Boundaries::of_groups(self.group_size()).map(drop)
    }

    /// The same settings with those that are omitted: as in the current version, or the defaults.
    #[must_use]
    pub fn resolved(&self, current: Option<&Settings>, on_aws: bool) -> Settings {
        let default = if on_aws { DEFAULT_SHARD_SIZE_ON_AWS } else { DEFAULT_SHARD_SIZE };
        let most = on_aws.then_some(DUPLICATE_IMAGES_ON_AWS);
        let pattern = |of: fn(&Settings) -> &Option<String>| {
            of(self).as_ref().or(current.and_then(|current| of(current).as_ref())).filter(|p| !p.is_empty()).cloned()
        };
        let labelled = self.label_depth.is_some() || self.label_pattern.is_some() || self.labels.is_some();
        let of_labels = if labelled { self } else { current.unwrap_or(self) };
        let split_pattern = self.split_pattern.as_ref().or(current.and_then(|current| current.split_pattern.as_ref()));
        Settings {
            pca: self.pca.or(current.and_then(|current| current.pca)),
            standardize: Some(self.standardize.unwrap_or(current.is_none_or(Settings::standardizes))),
            partition_by_label: Some(self.partition_by_label.unwrap_or(current.is_some_and(Settings::partitions))),
            // None is what a data set without this setting has.
            delta: self.delta.or(current.and_then(|current| current.delta)).filter(|wanted| *wanted),
            // The innermost folder is what a data set without this setting has.
            label_depth: of_labels.label_depth.filter(|depth| *depth > 0),
            label_pattern: of_labels.label_pattern.clone(),
            labels: of_labels.labels.clone(),
            split_pattern: split_pattern.filter(|pattern| !pattern.is_empty()).cloned(),
            shard_size: self.shard_size.or(current.and_then(|current| current.shard_size)).or(Some(default)),
            group_size: self.group_size.or(current.and_then(|current| current.group_size)),
            compression: self.compression.or(current.and_then(|current| current.compression)),
            // The counts are what a data set without this setting has.
            priors: self.priors.or(current.and_then(|current| current.priors)).filter(|p| *p != Priors::Counts),
            fold_pattern: pattern(|settings| &settings.fold_pattern),
            holdout: pattern(|settings| &settings.holdout),
            duplicate_distance: self.duplicate_distance.or(current.and_then(|current| current.duplicate_distance)),
            duplicate_levels: self.duplicate_levels.or(current.and_then(|current| current.duplicate_levels)),
            duplicate_images: self.duplicate_images.or(current.and_then(|current| current.duplicate_images)).or(most),
            ..self.clone()
        }
    }

    /// Most images among which near-duplicates are searched.
    pub fn duplicate_images(&self) -> u64 {
        self.duplicate_images.unwrap_or(DUPLICATE_IMAGES)
    }

    /// The priors of the classifier.
    pub fn priors(&self) -> Priors {
        self.priors.unwrap_or_default()
    }

    /// How the classifier is trained.
    pub fn training_rules(&self) -> TrainingRules {
        let given = |pattern: &Option<String>| pattern.clone().filter(|pattern| !pattern.is_empty());
        TrainingRules { fold_pattern: given(&self.fold_pattern), holdout: given(&self.holdout) }
    }

    /// How labels and splits follow from keys.
    pub fn label_rules(&self) -> LabelRules {
        LabelRules {
            label_depth: self.label_depth.unwrap_or(0),
            label_pattern: self.label_pattern.clone(),
            split_pattern: self.split_pattern.clone().filter(|pattern| !pattern.is_empty()),
        }
    }

    /// The target number of objects per shard; if it is omitted, the default for one machine.
    pub fn shard_size(&self) -> u32 {
        self.shard_size.unwrap_or(DEFAULT_SHARD_SIZE)
    }

    /// The target number of objects per group.
    pub fn group_size(&self) -> u32 {
        self.group_size.unwrap_or(DEFAULT_GROUP_SIZE)
    }

    /// The compression of features and scores.
    pub fn compression(&self) -> Compression {
        self.compression.unwrap_or_default()
    }

    /// Whether the run writes `result.csv`.
    pub fn writes_csv(&self) -> bool {
        self.csv || self.csv_for_spreadsheets
    }

    /// Whether columns are divided by their sample standard deviation.
    pub fn standardizes(&self) -> bool {
        self.standardize.unwrap_or(true)
    }

    /// Whether the scores have one folder per label.
    pub fn partitions(&self) -> bool {
        self.partition_by_label.unwrap_or(false)
    }

    /// Whether the features have a Delta log.
    pub fn delta(&self) -> bool {
        self.delta.unwrap_or(false)
    }

    /// [`Settings::standardizes`] as the argument of [`pca::fit`](crate::pca::fit()).
    pub fn scaling(&self) -> Scaling {
        if self.standardizes() { Scaling::Standardized } else { Scaling::Centered }
    }

    /// The settings that decide whether earlier work can be used and that differ, as `name: other's value -> own value`.
    pub fn differences(&self, other: &Settings) -> Vec<String> {
        let json = |settings: &Settings| {
            serde_json::json!({
                "pca": settings.pca,
                "standardize": settings.standardizes(),
                "partition_by_label": settings.partitions(),
                "shard_size": settings.shard_size(),
                "group_size": settings.group_size(),
                "compression": settings.compression(),
            })
        };
        let (ours, theirs) = (json(self), json(other));
        let names = ["pca", "standardize", "partition_by_label", "shard_size", "group_size", "compression"].into_iter();
        let differing = names.filter(|name| ours[*name] != theirs[*name]);
        differing.map(|name| format!("{name}: {} -> {}", theirs[name], ours[name])).collect()
    }

    /// Whether the same images give the same basis.
    pub fn same_fit(&self, other: &Settings) -> bool {
        self.pca == other.pca && self.standardizes() == other.standardizes()
    }

    /// The number of rejects that are allowed among `objects`.
    pub(crate) fn allowed_rejects(&self, objects: u64) -> u64 {
        if self.max_reject_percent == 0.0 {
            return 0;
        }
        ((objects as f64 * self.max_reject_percent / 100.0) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reject_is_allowed_unless_the_limit_is_0() {
        let settings = |max_reject_percent| Settings { max_reject_percent, ..Settings::default() };
        assert_eq!(settings(1.0).allowed_rejects(6), 1);
        assert_eq!(settings(1.0).allowed_rejects(1_000), 10);
        assert_eq!(settings(0.0).allowed_rejects(1_000_000), 0);
        assert_eq!(settings(100.0).allowed_rejects(7), 7);
    }

    #[test]
    fn the_json_is_that_of_an_execution_input() {
        let settings: Settings = serde_json::from_str(r#"{"pca": {"variance": 0.9}, "csv": true}"#).unwrap();
        assert_eq!(
            settings,
            Settings { pca: Some(ComponentSelection::Variance(0.9)), csv: true, ..Settings::default() }
        );
        assert!(serde_json::from_str::<Settings>(r#"{"pcs": 3}"#).is_err());
    }

    #[test]
    fn a_csv_for_spreadsheets_is_a_csv_and_other_settings_keep_their_json() {
        let json = serde_json::to_value(Settings { csv: true, ..Settings::default() }).unwrap();
        let names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["csv", "max_reject_percent", "partition_by_label", "pca", "shard_size", "standardize"]);
        let settings: Settings = serde_json::from_str(r#"{"csv_for_spreadsheets": true}"#).unwrap();
        assert!(settings.writes_csv() && !settings.csv && !Settings::default().writes_csv());
        assert_eq!(serde_json::to_value(&settings).unwrap()["csv_for_spreadsheets"], true);
    }

    #[test]
    fn omitted_settings_are_those_of_the_current_version() {
        let sizes = |settings: Settings| (settings.shard_size, settings.compression);
        assert_eq!(sizes(Settings::default().resolved(None, false)), (Some(1_024), None));
        assert_eq!(sizes(Settings::default().resolved(None, true)), (Some(320), None));
        let current = Settings { shard_size: Some(64), compression: Some(Compression::Zstd), ..Settings::default() };
        assert_eq!(sizes(Settings::default().resolved(Some(&current), true)), (Some(64), Some(Compression::Zstd)));
        let given = Settings { standardize: Some(false), partition_by_label: Some(true), ..Settings::default() };
        let kept = Settings::default().resolved(Some(&given), false);
        assert_eq!((kept.standardize, kept.partition_by_label), (Some(false), Some(true)));
        let back = Settings { standardize: Some(true), partition_by_label: Some(false), ..Settings::default() };
        assert_eq!(back.resolved(Some(&given), false), Settings::default().resolved(None, false));
        let given = Settings { shard_size: Some(128), ..Settings::default() };
        assert_eq!(given.resolved(Some(&current), true).shard_size, Some(128));
    }

    #[test]
    fn the_classifier_is_on_and_its_omitted_settings_are_those_of_the_current_version() {
        assert!(Settings::default().classifier);
        let settings = |json: &str| serde_json::from_str::<Settings>(json).unwrap();
        let current = settings(r#"{"priors": "equal", "holdout": "a/*", "fold_pattern": "b"}"#);
        let kept = Settings::default().resolved(Some(&current), false);
        assert_eq!((kept.priors(), kept.training_rules()), (Priors::Equal, current.training_rules()));
        let reset =
            settings(r#"{"priors": "counts", "holdout": "", "fold_pattern": ""}"#).resolved(Some(&current), false);
        assert_eq!(reset, Settings::default().resolved(None, false));
        assert!(settings(r#"{"fold_pattern": "("}"#).check().is_err());
        assert!(!settings(r#"{"classifier": false}"#).classifier);
    }

    #[test]
    fn omitted_labels_are_those_of_the_current_version_and_each_can_be_taken_back() {
        let settings = |json: &str| serde_json::from_str::<Settings>(json).unwrap();
        let file = r#"{"labels": {"sha256": "ab", "bytes": 3}, "split_pattern": "(?<split>.)"}"#;
        let (current, default) = (settings(file), Settings::default());
        assert_eq!(default.resolved(Some(&current), false).labels, current.labels);
        assert_eq!(default.resolved(Some(&current), false).split_pattern, current.split_pattern);
        let by_folder = settings(r#"{"label_depth": 0, "split_pattern": ""}"#).resolved(Some(&current), false);
        assert_eq!((by_folder.label_depth, by_folder.labels, by_folder.split_pattern), (None, None, None));
        assert_eq!(settings(r#"{"label_depth": 2}"#).resolved(Some(&current), false).label_depth, Some(2));
        assert!(settings(r#"{"label_depth": 2, "label_pattern": "(?<label>.)"}"#).check().is_err());
        assert!(settings(r#"{"label_pattern": "."}"#).check().is_err());
    }

    #[test]
    fn only_what_changes_the_result_counts_as_a_difference() {
        let last = Settings::default();
        let now = Settings { csv: true, csv_for_spreadsheets: true, max_reject_percent: 5.0, ..Settings::default() };
        assert_eq!(now.differences(&last), Vec::<String>::new());
        let now =
            Settings { pca: Some(ComponentSelection::Components(7)), standardize: Some(false), ..Settings::default() };
        assert_eq!(now.differences(&last), ["pca: null -> {\"components\":7}", "standardize: true -> false"]);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let bad = [
            Settings { pca: Some(ComponentSelection::Variance(1.5)), ..Settings::default() },
            Settings { pca: Some(ComponentSelection::Variance(f64::NAN)), ..Settings::default() },
            Settings { pca: Some(ComponentSelection::Components(0)), ..Settings::default() },
            Settings { max_reject_percent: -1.0, ..Settings::default() },
            Settings { shard_size: Some(0), ..Settings::default() },
            Settings { shard_size: Some(u32::MAX), ..Settings::default() },
        ];
        assert!(bad.iter().all(|settings| settings.check().is_err()));
    }
}
