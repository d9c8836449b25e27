//! What a user can ask of a run.

use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Result,
    pca::Keep,
    shard::{Boundaries, DEFAULT_SHARD_SIZE},
};

/// The settings of a run that its result depends on. The same names are used in a state machine's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `{"components": 50}` or `{"variance": 0.9}`; 50, or as many as there can be, when absent.
    pub pca: Option<Keep>,
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
        self.pca.map_or(Ok(()), Keep::check)?;
        if !(0.0..=100.0).contains(&self.max_reject_percent) {
            let message = "the limit of rejects is a percentage, 0 to 100";
            return Err(
                Error::new(ErrorKind::InputInvalid, message).context("max reject percent", self.max_reject_percent)
            );
        }
        Boundaries::new(self.shard_size).map(drop)
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
        assert_eq!(settings, Settings { pca: Some(Keep::Variance(0.9)), csv: true, ..Settings::default() });
        assert!(serde_json::from_str::<Settings>(r#"{"pcs": 3}"#).is_err());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let bad = [
            Settings { pca: Some(Keep::Variance(1.5)), ..Settings::default() },
            Settings { pca: Some(Keep::Variance(f64::NAN)), ..Settings::default() },
            Settings { pca: Some(Keep::Components(0)), ..Settings::default() },
            Settings { max_reject_percent: -1.0, ..Settings::default() },
            Settings { shard_size: 0, ..Settings::default() },
            Settings { shard_size: u32::MAX, ..Settings::default() },
        ];
        assert!(bad.iter().all(|settings| settings.check().is_err()));
    }
}
