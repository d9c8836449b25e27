//! The search index of a version, as its manifest says it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Checksum, FileRef, GroupEntry, Manifest, keys, settings::Settings};
use crate::{ids::GroupId, model::ExtractorInfo, search::segment::MAX_COLUMNS};

/// The search index of a version: one segment for each group that has rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchIndex {
    /// `index/<group>-1.index`, in the order of the groups. None for a group without rows.
    pub segments: Vec<Option<Checksum>>,
}

impl SearchIndex {
    /// Whether a version of features of this extractor has an index.
    pub(crate) fn is_wanted(settings: &Settings, extractor: &ExtractorInfo) -> bool {
        settings.index && extractor.columns <= MAX_COLUMNS
    }

    /// Its files, with their groups.
    pub(crate) fn files<'a>(&'a self, groups: &'a [GroupEntry]) -> impl Iterator<Item = (&'a GroupEntry, FileRef)> {
        let segments = groups.iter().zip(&self.segments).filter_map(|(group, file)| Some((group, file.clone()?)));
        segments.map(|(group, file)| (group, FileRef { key: keys::index(&group.id), checksum: Some(file) }))
    }
}

/// The segments of the groups of a version; None for a group without rows. Empty without an index.
pub(crate) fn segments_of(version: &Manifest) -> HashMap<&GroupId, Option<&Checksum>> {
    let segments = version.index.iter().flat_map(|index| &index.segments).map(Option::as_ref);
    version.groups.iter().map(|group| &group.id).zip(segments).collect()
}

/// The files of the index of a version.
pub(crate) fn index_files(version: &Manifest) -> Vec<FileRef> {
    version.index.iter().flat_map(|index| index.files(&version.groups)).map(|(_, file)| file).collect()
}
