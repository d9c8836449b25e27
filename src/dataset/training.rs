//! Which images a classifier is trained on, and in which fold of the cross-validation they are.

use glob::{MatchOptions, Pattern};
use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::to_json;
use crate::{
    Error, ErrorKind, Result,
    classify::fold_of,
    ids::{RulesId, short_hex},
};

/// The split of images that are held out, in the table of predictions.
pub const HOLDOUT: &str = "holdout";
/// The split of images that are trained on; images without a split are, too.
pub const TRAIN: &str = "train";

/// Settings of the training. The fields have the same names as those of [`Settings`](super::settings::Settings).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRules {
    /// A regular expression. Images in whose keys it captures the same text are in the same fold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold_pattern: Option<String>,
    /// A pattern of keys, such as `orchard-7/**`. Images that match it are not trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdout: Option<String>,
}

impl TrainingRules {
    /// A hash of the rules, for files that depend on them.
    pub fn id(&self) -> Result<RulesId> {
        Ok(short_hex(&Sha256::digest(to_json(&("training 1", self))?)).into())
    }
}

/// The part of an image in the training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role<'a> {
    /// The label to learn; None for an image that is not trained on.
    pub learns: Option<&'a str>,
    /// The fold, 0 to 4.
    pub fold: u8,
    /// The split, as in the table of predictions.
    pub split: Option<&'a str>,
    /// Whether the pattern of the folds matches.
    pub grouped: bool,
}

/// Decides the role of each image.
#[derive(Clone, Debug)]
pub struct Training {
    fold: Option<Regex>,
    holdout: Option<Pattern>,
}

impl Training {
    /// Roles by these rules. Fails with `Input.Invalid`.
    pub fn new(rules: &TrainingRules) -> Result<Self> {
        let invalid = |what: &str, pattern: &str| {
            Error::new(ErrorKind::InputInvalid, what.to_owned()).context("pattern", pattern)
        };
        let fold = rules.fold_pattern.as_deref().map(|pattern| {
            Regex::new(pattern)
                .map_err(|e| invalid("the pattern of the folds is not a regular expression", pattern).source(e))
        });
        let holdout = rules.holdout.as_deref().map(|pattern| {
            Pattern::new(pattern)
                .map_err(|e| invalid("the pattern of images to hold out is not valid", pattern).source(e))
        });
        Ok(Training { fold: fold.transpose()?, holdout: holdout.transpose()? })
    }

    /// The role of an image.
    pub fn role<'a>(&self, key: &'a str, label: Option<&'a str>, split: Option<&'a str>) -> Role<'a> {
        // `*` stays within a folder, `**/` is any number of folders.
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::default() };
        let held_out = self.holdout.as_ref().is_some_and(|pattern| pattern.matches_with(key, options));
        let split = if held_out { Some(HOLDOUT) } else { split };
        let captured = self.fold.as_ref().and_then(|pattern| pattern.captures(key));
        let group = captured.and_then(|found| found.get(1).or_else(|| found.get(0))).map(|found| found.as_str());
        Role {
            learns: label.filter(|_| split.is_none_or(|split| split == TRAIN)),
            fold: fold_of(group.unwrap_or(key)),
            split,
            grouped: group.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(fold_pattern: Option<&str>, holdout: Option<&str>) -> Training {
        let [fold_pattern, holdout] = [fold_pattern, holdout].map(|pattern| pattern.map(str::to_owned));
        Training::new(&TrainingRules { fold_pattern, holdout }).unwrap()
    }

    #[test]
    fn images_without_a_split_and_of_the_training_split_are_learned() {
        let training = training(None, None);
        let learns = |split| training.role("a/1.jpg", Some("a"), split).learns;
        assert_eq!([None, Some("train"), Some("test"), Some("val")].map(learns), [Some("a"), Some("a"), None, None]);
        assert_eq!(training.role("a/1.jpg", None, None).learns, None);
        assert_eq!(training.role("a/1.jpg", Some("a"), None).fold, fold_of("a/1.jpg"));
    }

    #[test]
    fn what_is_held_out_is_not_learned_whatever_its_split() {
        let training = training(None, Some("orchard-7/**"));
        let role = training.role("orchard-7/apple/1.jpg", Some("apple"), Some("train"));
        assert_eq!((role.learns, role.split), (None, Some(HOLDOUT)));
        assert_eq!(training.role("orchard-8/apple/1.jpg", Some("apple"), None).learns, Some("apple"));
        let one_folder = self::training(None, Some("*/7.jpg"));
        assert_eq!(one_folder.role("a/7.jpg", Some("a"), None).split, Some(HOLDOUT));
        assert_eq!(one_folder.role("a/b/7.jpg", Some("a"), None).split, None);
    }

    #[test]
    fn views_of_one_object_are_in_one_fold() {
        let training = training(Some(r"(tree\d+)_view"), None);
        let views = (0..20).map(|view| training.role(&format!("a/tree12_view{view}.jpg"), None, None).fold);
        assert!(views.into_iter().all(|fold| fold == fold_of("tree12")));
        let whole = self::training(Some(r"tree\d+"), None);
        assert_eq!(whole.role("tree12/9.jpg", None, None).fold, fold_of("tree12"));
        let other = training.role("b/1.jpg", None, None);
        assert_eq!((other.fold, other.grouped), (fold_of("b/1.jpg"), false));
    }

    #[test]
    fn patterns_that_are_none_are_refused_and_ids_follow_from_rules() {
        for rules in [
            TrainingRules { fold_pattern: Some("(".into()), holdout: None },
            TrainingRules { fold_pattern: None, holdout: Some("a/***".into()) },
        ] {
            assert!(Training::new(&rules).unwrap_err().is(ErrorKind::InputInvalid));
            assert_ne!(rules.id().unwrap(), TrainingRules::default().id().unwrap());
        }
    }
}
