//! What a user can ask of a run.

use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Result,
    dataset::shard::{Boundaries, DEFAULT_SHARD_SIZE},
    pca::{ComponentSelection, Scaling},
};

/// The settings of a run that its result depends on. The same names are used in a state machine's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `{"components": 50}` or `{"variance": 0.9}`; 50, or as many as there can be, when absent.
    pub pca: Option<ComponentSelection>,
    /// Divide by the sample standard deviation.
    pub standardize: bool,
    /// One folder per label below `pca/v=.../`.
    pub partition_by_label: bool,
    /// Write `result.csv` as well.
    pub csv: bool,
    /// Share of rejected images, in percent, beyond which a run fails. One reject is always allowed, unless this is 0.
    pub max_reject_percent: f64,
    /// Objects per shard that are aimed at.
    pub shard_size: u32,
}

/// How a run goes about its work. With the defaults, its result depends on the images and the [`Settings`] alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mode {
    pub refit: Refit,
    /// Go on although the extractor or the settings are not those of the current version.
    pub rebuild: bool,
    pub listing: ListingScope,
}

/// Whether a run that finds other images fits the PCA again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refit {
    /// Fit it to the images as they are, and project all of them.
    #[default]
    Always,
    /// ComponentSelection the basis of the current version, and project what is new: scores stay comparable between versions.
    Never,
}

/// What a run looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListingScope {
    /// Every key of the input.
    #[default]
    All,
    /// The shards that the notices in the inbox fall into (see [`crate::dataset::inbox`]), and those that had rejects.
    Changed,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            pca: None,
            standardize: true,
            partition_by_label: false,
            csv: false,
            max_reject_percent: 1.0,
            shard_size: DEFAULT_SHARD_SIZE,
        }
    }
}

impl Settings {
    /// Fails with `Input.Invalid`, naming what is out of its range.
    pub fn check(&self) -> Result<()> {
        self.pca.map_or(Ok(()), ComponentSelection::check)?;
        if !(0.0..=100.0).contains(&self.max_reject_percent) {
            let message = "the limit of rejects is a percentage, 0 to 100";
            return Err(
                Error::new(ErrorKind::InputInvalid, message).context("max reject percent", self.max_reject_percent)
            );
        }
        Boundaries::new(self.shard_size).map(drop)
    }

    /// [`Settings::standardize`] as the argument of [`pca::fit`](crate::pca::fit()).
    pub fn scaling(&self) -> Scaling {
        if self.standardize { Scaling::Standardized } else { Scaling::Centered }
    }

    /// What the result depends on and `other` has differently, as `name: other's -> ours`.
    pub fn differences(&self, other: &Settings) -> Vec<String> {
        let json = |settings: &Settings| {
            serde_json::json!({
                "pca": settings.pca,
                "standardize": settings.standardize,
                "partition_by_label": settings.partition_by_label,
                "shard_size": settings.shard_size,
            })
        };
        let (ours, theirs) = (json(self), json(other));
        let names = ["pca", "standardize", "partition_by_label", "shard_size"].into_iter();
        let differing = names.filter(|name| ours[*name] != theirs[*name]);
        differing.map(|name| format!("{name}: {} -> {}", theirs[name], ours[name])).collect()
    }

    /// How many of `objects` may be rejected.
    pub fn allowed_rejects(&self, objects: u64) -> u64 {
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
    fn one_bad_image_is_allowed_unless_none_is() {
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
    fn only_what_changes_the_result_counts_as_a_difference() {
        let last = Settings::default();
        let now = Settings { csv: true, max_reject_percent: 5.0, ..Settings::default() };
        assert_eq!(now.differences(&last), Vec::<String>::new());
        let now = Settings { pca: Some(ComponentSelection::Components(7)), standardize: false, ..Settings::default() };
        assert_eq!(now.differences(&last), ["pca: null -> {\"components\":7}", "standardize: true -> false"]);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let bad = [
            Settings { pca: Some(ComponentSelection::Variance(1.5)), ..Settings::default() },
            Settings { pca: Some(ComponentSelection::Variance(f64::NAN)), ..Settings::default() },
            Settings { pca: Some(ComponentSelection::Components(0)), ..Settings::default() },
            Settings { max_reject_percent: -1.0, ..Settings::default() },
            Settings { shard_size: 0, ..Settings::default() },
            Settings { shard_size: u32::MAX, ..Settings::default() },
        ];
        assert!(bad.iter().all(|settings| settings.check().is_err()));
    }
}
