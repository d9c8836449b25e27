//! The duplicates of a version from those of an earlier one, if few rows are new.
//!
//! Whether two images are connected depends on these two only. So what the earlier table says about images that are still
//! there is true, but for groups that have lost an image, which may have held others together: their pairs are decided
//! again. New rows are compared with all rows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};
use ndarray::Array2;
use rayon::prelude::*;

use super::{Content, Found, Limits, Member, Subject, content_of, copies};
use crate::{
    ErrorKind, Result,
    dataset::{
        FileRef, Searched, ShardEntry, contents,
        tables::{self, FeatureRows},
    },
    ids::ShardId,
    model::{ExtractorInfo, FeatureRange},
    search::{Components, Limit, squared_quanta},
    stages::rows::{Compared, Row, Rows},
    store::Store,
};

/// Most rows of shards that the versions do not share: 42 MB of the built-in model's features.
const DIFFERENT_ROWS: u64 = 8_192;
/// Most new rows. Each is compared with all rows.
const NEW_ROWS: usize = 1_024;
/// Most images in groups, whose features are in memory.
const GROUPED_ROWS: usize = 8_192;
/// Most images of a group whose pairs are decided again.
const GROUP: usize = 512;
/// Tables that are read at a time.
const AT_A_TIME: usize = 2;
/// Columns after which a pair that is too far apart is left.
const STEP: usize = 128;

/// Finds the duplicates with those of the base version. None if there is no such version, if it was searched otherwise, if
/// it is damaged, or if too much is different.
pub(super) async fn update(
    output: &dyn Store,
    rows: &Rows<'_>,
    (limits, of): (Limits, Subject<'_>),
) -> Result<Option<Found>> {
    match start(output, limits, of).await {
        Ok(Some(start)) => finish(rows, start).await,
        Err(e) if !e.is(ErrorKind::DatasetCorrupt) => Err(e),
        Ok(None) | Err(_) => Ok(None),
    }
}

/// What is known before the rows of the version are read.
struct Start {
    limits: Limits,
    /// The groups of the base version, without the images that are gone or have changed.
    groups: Vec<Group>,
    /// New and changed images, and their rows.
    new: BTreeMap<String, Image>,
}

struct Group {
    paths: Vec<String>,
    /// Whether all of its images are still there.
    whole: bool,
}

/// What decides about pairs.
#[derive(Clone, PartialEq)]
struct Image {
    content: Content,
    features: Vec<f32>,
    /// Empty in tables of earlier releases.
    thumbnail: Vec<f32>,
}

/// An [`Image`] in its table.
#[derive(Clone, Copy)]
struct Seen<'a> {
    content: Content,
    features: &'a [f32],
    thumbnail: &'a [f32],
}

impl<'a> Seen<'a> {
    fn of(table: &'a FeatureRows, row: usize) -> Self {
        let slice = |matrix: &'a Array2<f32>| matrix.row(row).to_slice().unwrap_or_default();
        let content = content_of(table.contents[row].as_deref());
        Seen { content, features: slice(&table.features), thumbnail: slice(&table.thumbnails) }
    }

    fn to_image(self) -> Image {
        let Seen { content, features, thumbnail } = self;
        Image { content, features: features.to_vec(), thumbnail: thumbnail.to_vec() }
    }

    fn is_near(self, other: Seen<'_>, limits: Limits) -> bool {
        self.content.is_some() && self.content == other.content
            || limits.all().any(|(of, limit)| match of {
                Compared::Features => is_within(self.features, other.features, limit),
                Compared::Thumbnails => is_within(self.thumbnail, other.thumbnail, limit),
            })
    }
}

impl Image {
    fn seen(&self) -> Seen<'_> {
        Seen { content: self.content, features: &self.features, thumbnail: &self.thumbnail }
    }
}

/// Whether the squared distance is within the limit. Parts of it are exact, so far pairs are left early.
fn is_within(a: &[f32], b: &[f32], limit: Limit) -> bool {
    let mut squared = 0;
    !a.is_empty()
        && a.chunks(STEP).zip(b.chunks(STEP)).all(|(a, b)| {
            squared += squared_quanta(a, b, limit.range());
            limit.includes(squared)
        })
}

async fn start(output: &dyn Store, limits: Limits, of: Subject<'_>) -> Result<Option<Start>> {
    let Some(base) = of.base.filter(|base| {
        let before = base.duplicates;
        before.searched == Searched::NearDuplicates
            && before.distance == limits.features.distance()
            && before.levels == limits.levels
            && *base.extractor == of.extractor.id
    }) else {
        return Ok(None);
    };
    let ids = |shards: &[ShardEntry]| -> HashSet<ShardId> { shards.iter().map(|shard| shard.id.clone()).collect() };
    let (old, new) = (ids(base.shards), ids(of.shards));
    let only = |shards: &[ShardEntry], others: &HashSet<ShardId>| -> Vec<ShardEntry> {
        shards.iter().filter(|shard| !others.contains(&shard.id)).cloned().collect()
    };
    let (added, gone) = (only(of.shards, &old), only(base.shards, &new));
    if added.iter().chain(&gone).map(|shard| shard.rows).sum::<u64>() > DIFFERENT_ROWS {
        return Ok(None);
    }
    let mut before = HashMap::new();
    for table in read_all(output, of.extractor, &gone).await? {
        before.extend((0..table.len()).map(|row| (table.paths[row].clone(), Seen::of(&table, row).to_image())));
    }
    let mut new = BTreeMap::new();
    for table in read_all(output, of.extractor, &added).await? {
        for row in 0..table.len() {
            let (path, image) = (&table.paths[row], Seen::of(&table, row).to_image());
            if before.get(path) == Some(&image) {
                before.remove(path);
            } else {
                new.insert(path.clone(), image);
            }
        }
    }
    // What is left of the old rows is gone, or has changed.
    let mut groups = Vec::new();
    let table = tables::read_all(output, &base.duplicates.files, tables::read_duplicates).await?;
    for group in table.chunk_by(|a, b| a.group == b.group) {
        let there = group.iter().filter(|row| !before.contains_key(&row.path));
        let paths: Vec<String> = there.map(|row| row.path.clone()).collect();
        groups.push(Group { whole: paths.len() == group.len(), paths });
    }
    let many = groups.iter().map(|group| group.paths.len()).sum::<usize>() > GROUPED_ROWS
        || groups.iter().any(|group| !group.whole && group.paths.len() > GROUP)
        || new.len() > NEW_ROWS;
    Ok((!many).then_some(Start { limits, groups, new }))
}

async fn read_all(output: &dyn Store, extractor: &ExtractorInfo, shards: &[ShardEntry]) -> Result<Vec<FeatureRows>> {
    let files: Vec<FileRef> = shards.iter().filter_map(ShardEntry::features).collect();
    let reads: Vec<_> = files.iter().map(|file| contents::feature_rows(output, extractor, file)).collect();
    stream::iter(reads).buffered(AT_A_TIME).try_collect().await
}

/// A row of the version that may be in a group.
struct Candidate {
    /// Its number in its table.
    at: usize,
    row: Row,
    image: Image,
    /// The new images to which it is connected.
    near: Vec<String>,
}

/// Reads all rows.
async fn finish(rows: &Rows<'_>, start: Start) -> Result<Option<Found>> {
    let Start { limits, groups, new } = start;
    let grouped: HashSet<String> = groups.iter().flat_map(|group| group.paths.iter().cloned()).collect();
    let (wanted, new) = (Arc::new(grouped), Arc::new(new));
    let compare = {
        let new = new.clone();
        move |table: Arc<FeatureRows>| Ok((table.len(), candidates(&table, &wanted, &new, limits)))
    };
    let (mut found, mut numbers, mut count) = (BTreeMap::new(), HashMap::new(), 0u32);
    rows.for_each(compare, |(length, candidates)| {
        for candidate in candidates {
            let number = count + candidate.at as u32;
            numbers.insert(candidate.row.path.clone(), number);
            found.insert(number, candidate);
        }
        count += length as u32;
    })
    .await?;
    if found.len() > GROUPED_ROWS + NEW_ROWS {
        return Ok(None);
    }
    let mut components = Components::new(count);
    for (number, candidate) in &found {
        for other in candidate.near.iter().filter_map(|path| numbers.get(path)) {
            components.connect(*number, *other);
        }
    }
    for group in &groups {
        let members: Vec<u32> = group.paths.iter().filter_map(|path| numbers.get(path).copied()).collect();
        if members.len() < group.paths.len() {
            // The table names an image that no version has: it is not of this base version.
            return Ok(None);
        }
        for (at, a) in members.iter().enumerate() {
            let others = if group.whole { &members[..at.min(1)] } else { &members[..at] };
            for b in others {
                let (x, y) = (&found[a].image, &found[b].image);
                if group.whole || x.seen().is_near(y.seen(), limits) {
                    components.connect(*a, *b);
                }
            }
        }
    }
    Ok(Some(described(components.groups(), found, limits.features.range())))
}

/// The rows of a table that are in groups of the base version, that are new, or that are near a new one.
fn candidates(
    table: &FeatureRows,
    wanted: &HashSet<String>,
    new: &BTreeMap<String, Image>,
    limits: Limits,
) -> Vec<Candidate> {
    let candidate = |at: usize| {
        let (path, seen) = (&table.paths[at], Seen::of(table, at));
        let others = new.iter().filter(|(other, new)| *other != path && new.seen().is_near(seen, limits));
        let near: Vec<String> = others.map(|(path, _)| path.clone()).collect();
        let counts = !near.is_empty() || new.contains_key(path) || wanted.contains(path);
        counts.then(|| Candidate {
            at,
            row: Row { path: path.clone(), label: table.labels[at].clone(), split: table.splits[at].clone() },
            image: seen.to_image(),
            near,
        })
    };
    (0..table.len()).into_par_iter().filter_map(candidate).collect()
}

fn described(groups: Vec<Vec<u32>>, found: BTreeMap<u32, Candidate>, range: FeatureRange) -> Found {
    let members = |group: &Vec<u32>| {
        let first = &found[&group[0]].image;
        let member = |number: &u32| {
            let Candidate { row, image, .. } = &found[number];
            let same_bytes = *number == group[0] || image.content.is_some() && image.content == first.content;
            let squared = if same_bytes { 0 } else { squared_quanta(&first.features, &image.features, range) };
            Member { row: row.clone(), same_bytes, squared }
        };
        group.iter().map(member).collect()
    };
    let copies = copies(groups.iter().flatten().map(|number| &found[number].image.content));
    Found { members: groups.iter().map(members).collect(), copies }
}
