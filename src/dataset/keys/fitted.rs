//! Keys of sums, of bases and classifiers that are fitted to them, and of predictions, duplicates and outliers.

use super::{DUPLICATES, OUTLIERS, PREDICTED, build, only, registry};
use crate::ids::{BasisId, ClassifierId, GroupId, MomentsId, RulesId, Version};

/// Key of the exact sums of a group of shards.
pub fn sums(group: &GroupId) -> String {
    build(&registry::SUMS, [group])
}

/// Key of total moments.
pub fn totals(id: &MomentsId) -> String {
    build(&registry::TOTALS, [id])
}

/// Parses a key of [`totals`]. None for other keys.
pub fn parse_totals(key: &str) -> Option<MomentsId> {
    only(&registry::TOTALS, key).map(MomentsId::from)
}

/// Key of a basis.
pub fn basis(id: &BasisId) -> String {
    build(&registry::BASIS, [id])
}

/// Key of the sums of a group per class and fold.
pub fn classes(group: &GroupId, rules: &RulesId) -> String {
    build(&registry::CLASSES, [group, rules])
}

/// Parses a key of [`classes`]. None for other keys.
pub fn parse_classes(key: &str) -> Option<GroupId> {
    only(&registry::CLASSES, key).map(GroupId::from)
}

/// Key of the segment of the search index of a group. The key has the number of its format.
pub fn index(group: &GroupId) -> String {
    build(&registry::INDEX, [group])
}

/// Parses a key of [`index`]. None for other keys.
pub fn parse_index(key: &str) -> Option<GroupId> {
    only(&registry::INDEX, key).map(GroupId::from)
}

/// Key of a classifier.
pub fn classifier(id: &ClassifierId) -> String {
    build(&registry::CLASSIFIER, [id])
}

/// Folder of a version's predictions, with `/` at its end.
pub fn predictions_folder(version: Version) -> String {
    format!("{PREDICTED}v={version}/")
}

/// Key of a part of a version's predictions.
pub fn predictions(version: Version, part: u64) -> String {
    build(&registry::PREDICTIONS, [&version, &part])
}

/// The number in a key of [`predictions`]. None for other keys, also those of other versions.
pub fn parse_predictions(version: Version, key: &str) -> Option<u64> {
    let values = registry::PREDICTIONS.parse(key)?;
    (values.first()?.parse() == Ok(version.0)).then_some(values.get(1)?.parse().ok()?)
}

/// Folder of a version's duplicates, with `/` at its end.
pub fn duplicates_folder(version: Version) -> String {
    format!("{DUPLICATES}v={version}/")
}

/// Key of a part of a version's duplicates.
pub fn duplicates(version: Version, part: u64) -> String {
    build(&registry::DUPLICATES, [&version, &part])
}

/// Folder of a version's outliers, with `/` at its end.
pub fn outliers_folder(version: Version) -> String {
    format!("{OUTLIERS}v={version}/")
}

/// Key of a part of a version's outliers.
pub fn outliers(version: Version, part: u64) -> String {
    build(&registry::OUTLIERS, [&version, &part])
}
