//! The duplicates of a version, a part of the stage `publish`.
//!
//! Reads the features of all shards. The table is a function of the version's rows and settings: nothing depends on the
//! history, the cuts between shards or the number of threads. [`crate::search`] has the method.

use std::collections::BTreeSet;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::rows::{Memory, Row, Rows};
use crate::{
    Result,
    dataset::{
        Duplicates, FileRef, Searched, ShardEntry,
        blocking::run_blocking,
        keys,
        settings::Settings,
        tables::{self, DuplicateRow, FeatureRows},
        training::{TRAIN, Training},
    },
    ids::Version,
    model::{EMBEDDED_NAME, ExtractorInfo},
    search::{Components, Limit, PairSearch, Sketcher, Sketches},
    store::Store,
};

/// The largest distance of near-duplicates of the built-in model. docs/duplicates.md has the figures.
const DISTANCE: f64 = 2.5;
/// Candidates that are decided together, if features are in memory and if they are read again.
const CANDIDATES_IN_MEMORY: usize = 1 << 20;
const CANDIDATES: usize = 1 << 24;
/// Rows of a file of the table.
const PART_ROWS: usize = 1 << 17;

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
}

impl Subject<'_> {
    /// The largest distance of near-duplicates.
    fn limit(&self) -> Limit {
        let default = if self.extractor.model == EMBEDDED_NAME { DISTANCE } else { 0.0 };
        Limit::new(self.settings.duplicate_distance.unwrap_or(default), self.extractor.feature_range)
    }
}

/// Searches the duplicates. Returns the summary, and keys and contents of the files that it names. Fails with
/// `Dataset.Corrupt`.
pub async fn duplicates(output: &dyn Store, of: Subject<'_>) -> Result<(Duplicates, Vec<(String, Bytes)>)> {
    duplicates_with(output, of, Memory::DEFAULT).await
}

async fn duplicates_with(
    output: &dyn Store,
    of: Subject<'_>,
    memory: Memory,
) -> Result<(Duplicates, Vec<(String, Bytes)>)> {
    let images = of.shards.iter().map(|shard| shard.rows).sum();
    let (searched, limit) = (Searched::among(images, of.settings.duplicate_images()), of.limit());
    let mut summary = Duplicates {
        searched,
        images,
        distance: limit.distance(),
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
    let Known { contents, mut components } = match searched {
        Searched::NearDuplicates => near(&rows, limit).await?,
        _ => rows.each(|table| contents_of(&table)).await.map(|all| same_bytes(all.concat()))?,
    };
    summary.copies = copies(&contents);
    let groups = components.groups();
    let found = describe(&rows, &groups, &contents, (limit, of)).await?;
    let count = |flag: fn(&DuplicateRow) -> bool| {
        found.chunk_by(|a, b| a.group == b.group).filter(|group| group.first().is_some_and(flag)).count() as u64
    };
    summary.groups = groups.len() as u64;
    summary.rows = found.len() as u64;
    summary.across_labels = count(|row| row.across_labels);
    summary.across_splits = count(|row| row.across_splits);
    let files = encode(&found, of)?;
    summary.files = files.iter().map(|(key, body)| FileRef::of(key.clone(), body)).collect();
    Ok((summary, files))
}

fn encode(rows: &[DuplicateRow], of: Subject<'_>) -> Result<Vec<(String, Bytes)>> {
    let (extractor, compression) = (of.extractor.id.as_str(), of.settings.compression());
    // An empty table is a file too: readers then find the columns.
    let parts = rows.chunks(PART_ROWS).chain(rows.is_empty().then_some(rows));
    let encoded = parts.zip(0..).map(|(rows, part)| {
        Ok((keys::duplicates(of.version, part), tables::write_duplicates(rows, extractor, compression)?))
    });
    encoded.collect()
}

/// SHA-256 of the bytes of an image.
type Content = [u8; 32];

/// The contents of all rows, and what is known to be connected.
struct Known {
    contents: Vec<Content>,
    components: Components,
}

fn contents_of(table: &FeatureRows) -> Result<Vec<Content>> {
    let digest = |row: &Option<String>| {
        let mut digest = Content::default();
        let text = row.as_deref().unwrap_or_default().as_bytes();
        for (byte, pair) in digest.iter_mut().zip(text.chunks(2)) {
            *byte = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
        }
        digest
    };
    Ok(table.contents.iter().map(digest).collect())
}

fn same_bytes(contents: Vec<Content>) -> Known {
    let mut components = Components::new(contents.len() as u32);
    unite(&mut components, &contents);
    Known { contents, components }
}

/// Connects rows with equal values.
fn unite<T: Ord>(components: &mut Components, values: &[T]) {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let value = |row: &u32| &values[*row as usize];
    order.sort_unstable_by(|a, b| value(a).cmp(value(b)));
    for pair in order.windows(2).filter(|pair| value(&pair[0]) == value(&pair[1])) {
        components.connect(pair[0], pair[1]);
    }
}

/// The number of rows whose content is that of another row before them.
fn copies(contents: &[Content]) -> u64 {
    let mut sorted: Vec<&Content> = contents.iter().collect();
    sorted.sort_unstable();
    sorted.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64
}

/// What the search needs of a table.
struct Sketched {
    contents: Vec<Content>,
    /// The first half of the SHA-256 of the features.
    features: Vec<[u8; 16]>,
    sketches: Sketches,
}

fn sketch(sketcher: &Sketcher, table: &FeatureRows) -> Result<Sketched> {
    let mut sketches = Sketches::default();
    sketcher.sketch(table.features.view(), &mut sketches);
    let features = table.features.outer_iter().map(|row| {
        let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut half = [0; 16];
        half.copy_from_slice(&Sha256::digest(&bytes)[..16]);
        half
    });
    Ok(Sketched { contents: contents_of(table)?, features: features.collect(), sketches })
}

/// All near-duplicates.
async fn near(rows: &Rows<'_>, limit: Limit) -> Result<Known> {
    let sample = rows.sample().await?;
    let sketcher = std::sync::Arc::new(run_blocking(move || Ok(Sketcher::fit(sample.view()))).await?);
    let (mut contents, mut features, mut sketches) = (Vec::new(), Vec::new(), Sketches::default());
    sketches.reserve(rows.count());
    let of_tables = {
        let sketcher = sketcher.clone();
        move |table: std::sync::Arc<FeatureRows>| sketch(&sketcher, &table)
    };
    rows.for_each(of_tables, |mut table: Sketched| {
        contents.append(&mut table.contents);
        features.append(&mut table.features);
        sketches.append(&table.sketches);
    })
    .await?;
    let Known { contents, mut components } = same_bytes(contents);
    unite(&mut components, &features);
    drop(features);
    let start = move || Ok(PairSearch::new(&sketcher, sketches, components, limit));
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
            return Ok(Known { contents, components: search.into_components() });
        }
        pairs.sort_unstable();
        let distances = rows.distances(&pairs).await?;
        for ((a, b), _) in pairs.into_iter().zip(distances).filter(|(_, squared)| limit.includes(*squared)) {
            search.connect(a, b);
        }
    }
}

/// The rows of the table.
async fn describe(
    rows: &Rows<'_>,
    groups: &[Vec<u32>],
    contents: &[Content],
    (limit, of): (Limit, Subject<'_>),
) -> Result<Vec<DuplicateRow>> {
    let members: Vec<u32> = groups.iter().flatten().copied().collect();
    let mut described = rows.describe(&members).await?.into_iter();
    let content = |row: u32| &contents[row as usize];
    let pairs = groups.iter().flat_map(|group| group[1..].iter().map(|row| (group[0], *row)));
    let pairs: Vec<(u32, u32)> = pairs.filter(|(first, row)| content(*first) != content(*row)).collect();
    let mut distances = rows.distances(&pairs).await?.into_iter();
    let training = Training::new(&of.settings.training_rules())?;
    let mut found = Vec::with_capacity(members.len());
    for (group, number) in groups.iter().zip(0..) {
        let described: Vec<Row> = described.by_ref().take(group.len()).collect();
        let splits: Vec<Option<&str>> = described
            .iter()
            .map(|row| training.role(&row.path, row.label.as_deref(), row.split.as_deref()).split)
            .collect();
        let labels: BTreeSet<&str> = described.iter().filter_map(|row| row.label.as_deref()).collect();
        let different: BTreeSet<&str> = splits.iter().map(|split| split.unwrap_or(TRAIN)).collect();
        let (across_labels, across_splits) = (labels.len() > 1, different.len() > 1);
        for ((row, described), split) in group.iter().zip(&described).zip(&splits) {
            let same_bytes = content(group[0]) == content(*row);
            let squared = if same_bytes { 0 } else { distances.next().unwrap_or_default() };
            found.push(DuplicateRow {
                group: number,
                path: described.path.clone(),
                label: described.label.clone(),
                split: split.map(str::to_owned),
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
mod tests {
    use std::collections::BTreeMap;

    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        dataset::{Checksum, tables::Compression},
        model::{Decoding, FeatureRange, embedded_info},
        search::squared_quanta,
        store::MemoryStore,
    };

    const COLUMNS: usize = 24;

    /// An image of the tests: its features are a centre and a change, its bytes follow from both.
    #[derive(Clone, Debug)]
    struct Image {
        centre: u8,
        change: u8,
        saved: bool,
        label: u8,
        split: u8,
    }

    fn image() -> impl Strategy<Value = Image> {
        (0u8..40, prop_oneof![3 => Just(0u8), 1 => 0u8..6], any::<bool>(), 0u8..4, 0u8..3)
            .prop_map(|(centre, change, saved, label, split)| Image { centre, change, saved, label, split })
    }

    impl Image {
        fn features(&self) -> Vec<f32> {
            let mut random = fastrand::Rng::with_seed(u64::from(self.centre % 30));
            let value =
                |x: u32, column: usize| (x as f32 + if column == 3 { f32::from(self.change) } else { 0.0 }) / 64.0;
            (0..COLUMNS).map(|column| value(random.u32(..64), column)).collect()
        }

        fn content(&self) -> String {
            let bytes = [self.centre % 30, self.change, u8::from(self.saved)];
            Checksum::of(&bytes).sha256
        }

        fn label(&self) -> Option<String> {
            (self.label > 0).then(|| format!("l{}", self.label % 2))
        }

        fn split(&self) -> Option<String> {
            [None, Some("train"), Some("test")][self.split as usize].map(str::to_owned)
        }
    }

    fn extractor() -> ExtractorInfo {
        ExtractorInfo { columns: COLUMNS, ..embedded_info(FeatureRange::default(), Decoding::default()) }
    }

    /// Writes the images in shards of these sizes, again and again.
    async fn shards(store: &MemoryStore, images: &[Image], sizes: &[usize]) -> Vec<ShardEntry> {
        let (mut shards, mut rest, mut first) = (Vec::new(), images, 0);
        for size in sizes.iter().cycle() {
            let (now, later) = rest.split_at((*size).min(rest.len()));
            if now.is_empty() {
                break;
            }
            rest = later;
            let paths: Vec<String> = (first..first + now.len()).map(|number| format!("{number:06}.png")).collect();
            first += now.len();
            let values: Vec<f32> = now.iter().flat_map(Image::features).collect();
            let rows = FeatureRows {
                labels: now.iter().map(Image::label).collect(),
                splits: now.iter().map(Image::split).collect(),
                modified: vec![0; now.len()],
                lengths: vec![0; now.len()],
                etags: vec![String::new(); now.len()],
                contents: now.iter().map(|image| Some(image.content())).collect(),
                features: Array2::from_shape_vec((now.len(), COLUMNS), values).unwrap(),
                paths: paths.clone(),
            };
            let body = tables::write_features(rows, "x", Compression::Snappy).unwrap();
            let id = crate::ids::ShardId::from(format!("{first:x}").as_str());
            store.put(&keys::features(&id), body.clone()).await.unwrap();
            shards.push(ShardEntry {
                id,
                rows: now.len() as u64,
                rejects: 0,
                first: paths[0].clone(),
                last: paths[now.len() - 1].clone(),
                features: Some(Checksum::of(&body)),
                record: None,
            });
        }
        shards
    }

    /// The groups of all pairs: paths, distances from the first, and whether the bytes are those of the first.
    fn brute_force(images: &[Image], limit: Limit, near: bool) -> Vec<Vec<(String, f64, bool)>> {
        let mut components = Components::new(images.len() as u32);
        let squared = |a: &Image, b: &Image| squared_quanta(&a.features(), &b.features(), limit.range());
        for (a, x) in images.iter().enumerate() {
            for (b, y) in images.iter().enumerate().skip(a + 1) {
                if x.content() == y.content() || near && limit.includes(squared(x, y)) {
                    components.connect(a as u32, b as u32);
                }
            }
        }
        let of_group = |group: Vec<u32>| {
            let first = &images[group[0] as usize];
            let row = |row: u32| {
                let image = &images[row as usize];
                let distance = limit.distance_of(squared(first, image));
                (format!("{row:06}.png"), distance, first.content() == image.content())
            };
            group.into_iter().map(row).collect()
        };
        components.groups().into_iter().map(of_group).collect()
    }

    fn groups(rows: &[DuplicateRow]) -> Vec<Vec<(String, f64, bool)>> {
        let row = |row: &DuplicateRow| (row.path.clone(), row.distance, row.same_bytes);
        rows.chunk_by(|a, b| a.group == b.group).map(|group| group.iter().map(row).collect()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Groups are those of all pairs, whatever the shards and the memory; with too many images, of equal bytes.
        #[test]
        fn the_table_is_that_of_all_pairs(
            images in prop::collection::vec(image(), 1..160),
            sizes in prop::collection::vec(1usize..50, 1..4),
            (held, tile) in prop::sample::select(vec![(0, 3), (0, 16), (0, 1_000), (1_000, 1)]),
            quanta in 0u32..5,
            most in prop::sample::select(vec![1_000, 40, 1]),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let store = MemoryStore::new();
            let settings = Settings {
                duplicate_distance: Some(f64::from(quanta) / 64.0), duplicate_images: Some(most), ..Settings::default()
            };
            let extractor = extractor();
            let shards = runtime.block_on(shards(&store, &images, &sizes));
            let of = Subject { version: Version(3), shards: &shards, extractor: &extractor, settings: &settings };
            let (summary, files) = runtime.block_on(duplicates_with(&store, of, Memory::of(held, tile))).unwrap();
            let searched = Searched::among(images.len() as u64, most);
            prop_assert_eq!((summary.searched, summary.images), (searched, images.len() as u64));
            if searched == Searched::Nothing {
                prop_assert!(files.is_empty() && images.len() >= 4);
                return Ok(());
            }
            let (key, body) = files.first().unwrap();
            let rows = tables::read_duplicates(body.clone(), key).unwrap();
            let expected = brute_force(&images, of.limit(), searched == Searched::NearDuplicates);
            prop_assert_eq!(groups(&rows), expected);
            check_summary(&summary, &rows, &images);
        }
    }

    /// Compares counts and flags with the rows and images.
    fn check_summary(summary: &Duplicates, rows: &[DuplicateRow], images: &[Image]) {
        let mut contents: BTreeMap<String, u64> = BTreeMap::new();
        images.iter().for_each(|image| *contents.entry(image.content()).or_default() += 1);
        assert_eq!(summary.copies, contents.values().map(|count| count - 1).sum::<u64>());
        assert_eq!(summary.rows, rows.len() as u64);
        let (mut labels, mut splits, mut count) = (0, 0, 0);
        for group in rows.chunk_by(|a, b| a.group == b.group) {
            let names: BTreeSet<_> = group.iter().filter_map(|row| row.label.clone()).collect();
            let of: BTreeSet<_> = group.iter().map(|row| row.split.clone().unwrap_or("train".into())).collect();
            assert!(group.iter().all(|row| row.across_labels == (names.len() > 1)));
            assert!(group.iter().all(|row| row.across_splits == (of.len() > 1) && row.group == count));
            labels += u64::from(names.len() > 1);
            splits += u64::from(of.len() > 1);
            count += 1;
        }
        assert_eq!((summary.groups, summary.across_labels, summary.across_splits), (count, labels, splits));
        for row in rows {
            let image = &images[row.path[..6].parse::<usize>().unwrap()];
            assert_eq!((&row.label, &row.split), (&image.label(), &image.split()));
        }
    }
}
