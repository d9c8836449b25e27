//! The duplicates of a version, a part of the stage `publish`.
//!
//! Reads the features of all shards. The table is a function of the version's rows and settings: nothing depends on the
//! history, the cuts between shards or the number of threads. [`crate::search`] has the method, and [`update`] a shorter one
//! for a version with few new rows.

mod update;

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use ndarray::ArrayView1;
use sha2::{Digest, Sha256};

use super::rows::{Compared, Memory, Row, Rows};
use crate::{
    Result, compiled_once,
    dataset::{
        Duplicates, FileRef, Searched, ShardEntry,
        blocking::run_blocking,
        keys,
        settings::Settings,
        tables::{self, DuplicateRow, FeatureRows},
        training::{TRAIN, Training},
    },
    ids::{ExtractorId, Version},
    image::THUMBNAIL,
    model::{EMBEDDED_NAME, ExtractorInfo, FeatureRange},
    search::{Components, Limit, PairSearch, Sketcher, Sketches},
    store::Store,
};

/// The largest distance of near-duplicates of the built-in model. docs/duplicates.md has the figures.
const DISTANCE: f64 = 2.5;
/// The largest root mean square of the differences of two thumbnails, in levels of 8 bits.
const LEVELS: f64 = 0.42;
/// Candidates that are decided together, if features are in memory and if they are read again.
const CANDIDATES_IN_MEMORY: usize = 1 << 20;
const CANDIDATES: usize = 1 << 24;

/// The version whose duplicates are searched.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its number, for the keys of the files.
    pub version: Version,
    /// All shards, in key order.
    pub shards: &'a [ShardEntry],
    /// The extractor of the features.
    pub extractor: &'a ExtractorInfo,
    /// The settings of the version.
    pub settings: &'a Settings,
    /// An earlier version of the same data set, whose table is a start.
    pub base: Option<Earlier<'a>>,
}

/// An earlier version, whose table is known.
#[derive(Clone, Copy, Debug)]
pub struct Earlier<'a> {
    /// Its shards, in key order.
    pub shards: &'a [ShardEntry],
    /// The id of its extractor.
    pub extractor: &'a ExtractorId,
    /// Its duplicates.
    pub duplicates: &'a Duplicates,
}

impl Subject<'_> {
    /// The largest distances of near-duplicates.
    fn limits(&self) -> Limits {
        let default = if self.extractor.model == EMBEDDED_NAME { DISTANCE } else { 0.0 };
        let distance = self.settings.duplicate_distance.unwrap_or(default);
        let levels = self.settings.duplicate_levels.unwrap_or(LEVELS);
        Limits { features: Limit::new(distance, self.extractor.feature_range), levels }
    }
}

/// The largest distances of near-duplicates: two images are connected if they are within one of them.
#[derive(Clone, Copy, Debug)]
struct Limits {
    features: Limit,
    /// For the root mean square of the differences of thumbnails. 0 if these do not count.
    levels: f64,
}

impl Limits {
    /// What is compared, and how far it may be apart.
    fn all(self) -> impl Iterator<Item = (Compared, Limit)> {
        let distance = self.levels * (THUMBNAIL as f64).sqrt();
        let thumbnails = (self.levels > 0.0).then(|| Limit::new(distance, FeatureRange::of_pixels()));
        let thumbnails = thumbnails.map(|limit| (Compared::Thumbnails, limit));
        [(Compared::Features, self.features)].into_iter().chain(thumbnails)
    }
}

/// Searches the duplicates. Returns the summary, and keys and contents of the files that it names. Fails with
/// `Dataset.Corrupt`.
#[compiled_once]
pub async fn duplicates<'a>(output: &'a dyn Store, of: Subject<'a>) -> Result<(Duplicates, Vec<(String, Bytes)>)> {
    duplicates_with(output, of, Memory::DEFAULT).await
}

async fn duplicates_with(
    output: &dyn Store,
    of: Subject<'_>,
    memory: Memory,
) -> Result<(Duplicates, Vec<(String, Bytes)>)> {
    let images = of.shards.iter().map(|shard| shard.rows).sum();
    let (searched, limits) = (Searched::among(images, of.settings.duplicate_images()), of.limits());
    let mut summary = Duplicates {
        searched,
        images,
        distance: limits.features.distance(),
        levels: limits.levels,
        groups: 0,
        rows: 0,
        copies: 0,
        across_labels: 0,
        across_splits: 0,
        files: Vec::new(),
    };
    if searched == Searched::Nothing {
        return Ok((summary, Vec::new()));
    }
    let rows = Rows::open(output, of.extractor, of.shards, memory).await?;
    let Found { members, copies } = match searched {
        Searched::NearDuplicates => match update::update(output, &rows, (limits, of)).await? {
            Some(found) => found,
            None => Known::of(&rows, near(&rows, limits).await?).await?,
        },
        _ => {
            let contents = rows.each(|table| Ok(contents_of(&table))).await?.concat();
            Known::of(&rows, same_bytes(contents)).await?
        }
    };
    summary.copies = copies;
    let found = table(members, (limits.features, of))?;
    let count = |flag: fn(&DuplicateRow) -> bool| {
        found.chunk_by(|a, b| a.group == b.group).filter(|group| group.first().is_some_and(flag)).count() as u64
    };
    summary.groups = found.last().map_or(0, |row| row.group + 1);
    summary.rows = found.len() as u64;
    summary.across_labels = count(|row| row.across_labels);
    summary.across_splits = count(|row| row.across_splits);
    let files = encode(&found, of)?;
    summary.files = files.iter().map(|(key, body)| FileRef::of(key.clone(), body)).collect();
    Ok((summary, files))
}

fn encode(rows: &[DuplicateRow], of: Subject<'_>) -> Result<Vec<(String, Bytes)>> {
    let (extractor, compression) = (of.extractor.id.as_str(), of.settings.compression());
    let encoded = tables::parts(rows).map(|(part, rows)| {
        Ok((keys::duplicates(of.version, part), tables::write_duplicates(rows, extractor, compression)?))
    });
    encoded.collect()
}

/// SHA-256 of the bytes of an image. None for images of format 1, of which it is not known.
type Content = Option<[u8; 32]>;

/// An image of a group.
struct Member {
    row: Row,
    /// Whether its bytes are those of the group's first image.
    same_bytes: bool,
    /// The squared distance from the group's first image, in quanta.
    squared: u64,
}

/// What was found.
struct Found {
    /// The images of each group, in key order.
    members: Vec<Vec<Member>>,
    /// Images with the bytes of an image before them.
    copies: u64,
}

/// The contents of all rows, and what is known to be connected.
struct Known {
    contents: Vec<Content>,
    components: Components,
}

fn content_of(text: Option<&str>) -> Content {
    let (mut digest, text) = ([0; 32], text?);
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}

fn contents_of(table: &FeatureRows) -> Vec<Content> {
    table.contents.iter().map(|content| content_of(content.as_deref())).collect()
}

fn same_bytes(contents: Vec<Content>) -> Known {
    let mut components = Components::new(contents.len() as u32);
    unite(&mut components, &contents, |content| content.is_some());
    Known { contents, components }
}

/// Connects rows with equal values, if these count.
fn unite<T: Ord>(components: &mut Components, values: &[T], counts: impl Fn(&T) -> bool) {
    let value = |row: &u32| &values[*row as usize];
    let mut order: Vec<u32> = (0..values.len() as u32).filter(|row| counts(value(row))).collect();
    order.sort_unstable_by(|a, b| value(a).cmp(value(b)));
    for pair in order.windows(2).filter(|pair| value(&pair[0]) == value(&pair[1])) {
        components.connect(pair[0], pair[1]);
    }
}

/// The number of images whose content is that of another one.
fn copies<'a>(contents: impl Iterator<Item = &'a Content>) -> u64 {
    let mut sorted: Vec<&[u8; 32]> = contents.flatten().collect();
    sorted.sort_unstable();
    sorted.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64
}

/// What is compared, how far it may be apart, and how it is projected.
struct Search {
    of: Compared,
    limit: Limit,
    sketcher: Sketcher,
}

/// What a search needs of rows.
#[derive(Default)]
struct Sketched {
    /// The first half of the SHA-256 of what is compared.
    hashes: Vec<[u8; 16]>,
    sketches: Sketches,
}

impl Search {
    fn sketch(&self, table: &FeatureRows) -> Sketched {
        let matrix = self.of.matrix(table);
        let mut sketches = Sketches::default();
        self.sketcher.sketch(matrix.view(), &mut sketches);
        let hash = |row: ArrayView1<'_, f32>| {
            let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
            let mut half = [0; 16];
            half.copy_from_slice(&Sha256::digest(&bytes)[..16]);
            half
        };
        Sketched { hashes: matrix.outer_iter().map(hash).collect(), sketches }
    }
}

/// All near-duplicates.
async fn near(rows: &Rows<'_>, limits: Limits) -> Result<Known> {
    let samples = rows.sample().await?;
    let fit = move || {
        // Tables of earlier releases have no thumbnails.
        let compared = limits.all().zip(&samples).filter(|(_, sample)| sample.ncols() > 0);
        Ok(compared.map(|((of, limit), sample)| Search { of, limit, sketcher: Sketcher::fit(sample.view()) }).collect())
    };
    let searches: Arc<Vec<Search>> = Arc::new(run_blocking(fit).await?);
    let of_tables = {
        let searches = searches.clone();
        move |table: Arc<FeatureRows>| {
            let sketched: Vec<Sketched> = searches.iter().map(|search| search.sketch(&table)).collect();
            Ok((contents_of(&table), sketched))
        }
    };
    let (mut contents, mut sketched) = (Vec::new(), Vec::new());
    sketched.resize_with(searches.len(), Sketched::default);
    sketched.iter_mut().for_each(|all| all.sketches.reserve(rows.count()));
    rows.for_each(of_tables, |(mut of_table, of_searches)| {
        contents.append(&mut of_table);
        for (all, mut next) in sketched.iter_mut().zip(of_searches) {
            all.hashes.append(&mut next.hashes);
            all.sketches.append(&next.sketches);
        }
    })
    .await?;
    let Known { contents, mut components } = same_bytes(contents);
    for (number, sketched) in sketched.into_iter().enumerate() {
        // A search takes one of the rows that are connected. These are equal in what it compares, and not connected by
        // another search.
        let mut found = pairs(rows, (searches.clone(), number), sketched).await?;
        (0..rows.count() as u32).for_each(|row| components.connect(row, found.root(row)));
    }
    Ok(Known { contents, components })
}

/// The components of all pairs of rows within the limit of a search.
async fn pairs(
    rows: &Rows<'_>,
    (searches, number): (Arc<Vec<Search>>, usize),
    Sketched { hashes, sketches }: Sketched,
) -> Result<Components> {
    let Search { of, limit, .. } = searches[number];
    let mut components = Components::new(rows.count() as u32);
    unite(&mut components, &hashes, |_| true);
    drop(hashes);
    let start = move || Ok(PairSearch::new(&searches[number].sketcher, sketches, components, limit));
    let mut search = run_blocking(start).await?;
    let step = if rows.in_memory() { CANDIDATES_IN_MEMORY } else { CANDIDATES };
    loop {
        let (now, mut pairs) = run_blocking(move || {
            let pairs = search.candidates(step);
            Ok((search, pairs))
        })
        .await?;
        search = now;
        if pairs.is_empty() {
            return Ok(search.into_components());
        }
        pairs.sort_unstable();
        let distances = rows.distances(of, &pairs).await?;
        for ((a, b), _) in pairs.into_iter().zip(distances).filter(|(_, squared)| limit.includes(*squared)) {
            search.connect(a, b);
        }
    }
}

impl Known {
    /// Reads what the table says about the groups.
    async fn of(rows: &Rows<'_>, known: Known) -> Result<Found> {
        let Known { contents, mut components } = known;
        let groups = components.groups();
        let all: Vec<u32> = groups.iter().flatten().copied().collect();
        let content = |row: u32| contents[row as usize];
        let same = |first: u32, row: u32| first == row || content(row).is_some() && content(first) == content(row);
        let pairs = groups.iter().flat_map(|group| group[1..].iter().map(|row| (group[0], *row)));
        let pairs: Vec<(u32, u32)> = pairs.filter(|(first, row)| !same(*first, *row)).collect();
        let mut distances = rows.distances(Compared::Features, &pairs).await?.into_iter();
        let mut described = rows.describe(&all).await?.into_iter();
        let mut member = |first: u32, row: u32, of: Row| {
            let same_bytes = same(first, row);
            Member { row: of, same_bytes, squared: if same_bytes { 0 } else { distances.next().unwrap_or_default() } }
        };
        let members = groups.iter().map(|group| {
            let described = described.by_ref().take(group.len());
            group.iter().zip(described).map(|(row, of)| member(group[0], *row, of)).collect()
        });
        Ok(Found { members: members.collect(), copies: copies(contents.iter()) })
    }
}

/// The rows of the table.
fn table(groups: Vec<Vec<Member>>, (limit, of): (Limit, Subject<'_>)) -> Result<Vec<DuplicateRow>> {
    let training = Training::new(&of.settings.training_rules())?;
    let mut found = Vec::new();
    for (group, number) in groups.into_iter().zip(0..) {
        let split = |Member { row: Row { path, label, split }, .. }: &Member| {
            training.role(path, label.as_deref(), split.as_deref()).split.map(str::to_owned)
        };
        let splits: Vec<Option<String>> = group.iter().map(split).collect();
        let labels: BTreeSet<&str> = group.iter().filter_map(|member| member.row.label.as_deref()).collect();
        let different: BTreeSet<&str> = splits.iter().map(|split| split.as_deref().unwrap_or(TRAIN)).collect();
        let (across_labels, across_splits) = (labels.len() > 1, different.len() > 1);
        for (Member { row, same_bytes, squared }, split) in group.into_iter().zip(splits) {
            found.push(DuplicateRow {
                group: number,
                path: row.path,
                label: row.label,
                split,
                distance: limit.distance_of(squared),
                same_bytes,
                across_labels,
                across_splits,
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
