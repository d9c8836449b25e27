//! Tables of made-up images are those of all pairs.

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

/// An image of the tests: its features are a centre and a change, its thumbnail a look and a shade, and its bytes follow from
/// these.
#[derive(Clone, Debug)]
struct Image {
    centre: u8,
    change: u8,
    look: u8,
    shade: u8,
    saved: bool,
    label: u8,
    split: u8,
}

fn image() -> impl Strategy<Value = Image> {
    let small = || prop_oneof![3 => Just(0u8), 1 => 0u8..6];
    ((0u8..40, small()), (0u8..80, small()), any::<bool>(), 0u8..4, 0u8..3).prop_map(
        |((centre, change), (look, shade), saved, label, split)| Image {
            centre,
            change,
            look,
            shade,
            saved,
            label,
            split,
        },
    )
}

impl Image {
    fn features(&self) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(u64::from(self.centre % 30));
        let value = |x: u32, column: usize| (x as f32 + if column == 3 { f32::from(self.change) } else { 0.0 }) / 64.0;
        (0..COLUMNS).map(|column| value(random.u32(..64), column)).collect()
    }

    fn thumbnail(&self) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(u64::from(self.look % 70));
        let shade = |level: usize| if level == 5 { f32::from(self.shade) / 16.0 } else { 0.0 };
        (0..THUMBNAIL).map(|level| random.u32(..240) as f32 + shade(level)).collect()
    }

    fn content(&self) -> String {
        let bytes = [self.centre % 30, self.change, self.look % 70, self.shade, u8::from(self.saved)];
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

/// The limit for thumbnails that differ by this number of shades, and a little more.
fn levels_of(shades: u32) -> f64 {
    (f64::from(shades) + 0.1) / 16.0 / (THUMBNAIL as f64).sqrt() * f64::from(u8::from(shades > 0))
}

/// Images with keys by their numbers.
fn numbered(images: &[Image]) -> Vec<(u32, Image)> {
    (0..).zip(images.iter().cloned()).collect()
}

/// Writes the images in shards of these sizes, again and again.
async fn shards(store: &MemoryStore, images: &[(u32, Image)], sizes: &[usize]) -> Vec<ShardEntry> {
    let (mut shards, mut rest) = (Vec::new(), images);
    for size in sizes.iter().cycle() {
        let (now, later) = rest.split_at((*size).min(rest.len()));
        if now.is_empty() {
            break;
        }
        rest = later;
        let paths: Vec<String> = now.iter().map(|(number, _)| format!("{number:06}.png")).collect();
        let now: Vec<&Image> = now.iter().map(|(_, image)| image).collect();
        let values: Vec<f32> = now.iter().flat_map(|image| image.features()).collect();
        let levels: Vec<f32> = now.iter().flat_map(|image| image.thumbnail()).collect();
        let rows = FeatureRows {
            labels: now.iter().map(|image| image.label()).collect(),
            splits: now.iter().map(|image| image.split()).collect(),
            modified: vec![0; now.len()],
            lengths: vec![0; now.len()],
            etags: vec![String::new(); now.len()],
            contents: now.iter().map(|image| Some(image.content())).collect(),
            features: Array2::from_shape_vec((now.len(), COLUMNS), values).unwrap(),
            thumbnails: Array2::from_shape_vec((now.len(), THUMBNAIL), levels).unwrap(),
            paths: paths.clone(),
            keypoints: Vec::new(),
        };
        let body = tables::write_features(rows, "x", Compression::Snappy).unwrap();
        let id = crate::ids::ShardId::from(&Checksum::of(&body).sha256[..32]);
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
fn brute_force(images: &[(u32, Image)], limits: Limits, near: bool) -> Vec<Vec<(String, f64, bool)>> {
    let mut components = Components::new(images.len() as u32);
    let limit = limits.features;
    let squared = |a: &Image, b: &Image| squared_quanta(&a.features(), &b.features(), limit.range());
    let is_near = |a: &Image, b: &Image| {
        limits.all().any(|(of, limit)| match of {
            Compared::Features => limit.includes(squared(a, b)),
            Compared::Thumbnails => limit.includes(squared_quanta(&a.thumbnail(), &b.thumbnail(), limit.range())),
        })
    };
    for (a, (_, x)) in images.iter().enumerate() {
        for (b, (_, y)) in images.iter().enumerate().skip(a + 1) {
            if x.content() == y.content() || near && is_near(x, y) {
                components.connect(a as u32, b as u32);
            }
        }
    }
    let of_group = |group: Vec<u32>| {
        let (_, first) = &images[group[0] as usize];
        let row = |row: u32| {
            let (number, image) = &images[row as usize];
            let distance = limit.distance_of(squared(first, image));
            (format!("{number:06}.png"), distance, first.content() == image.content())
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
        shades in 0u32..5,
        most in prop::sample::select(vec![1_000, 40, 1]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = MemoryStore::new();
        let settings = Settings {
            duplicate_distance: Some(f64::from(quanta) / 64.0),
            duplicate_levels: Some(levels_of(shades)),
            duplicate_images: Some(most),
            ..Settings::default()
        };
        let (extractor, images) = (extractor(), numbered(&images));
        let shards = runtime.block_on(shards(&store, &images, &sizes));
        let of = Subject { version: Version(3), shards: &shards, extractor: &extractor, settings: &settings, base: None };
        let (summary, files) = runtime.block_on(duplicates_with(&store, of, Memory::of(held, tile))).unwrap();
        let searched = Searched::among(images.len() as u64, most);
        prop_assert_eq!((summary.searched, summary.images), (searched, images.len() as u64));
        if searched == Searched::Nothing {
            prop_assert!(files.is_empty() && images.len() >= 4);
            return Ok(());
        }
        let (key, body) = files.first().unwrap();
        let rows = tables::read_duplicates(body.clone(), key).unwrap();
        let expected = brute_force(&images, of.limits(), searched == Searched::NearDuplicates);
        prop_assert_eq!(groups(&rows), expected);
        check_summary(&summary, &rows, &images);
    }
}

/// Compares counts and flags with the rows and images.
fn check_summary(summary: &Duplicates, rows: &[DuplicateRow], images: &[(u32, Image)]) {
    let mut contents: BTreeMap<String, u64> = BTreeMap::new();
    images.iter().for_each(|(_, image)| *contents.entry(image.content()).or_default() += 1);
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
        let number = row.path[..6].parse::<u32>().unwrap();
        let image = &images.iter().find(|(other, _)| *other == number).unwrap().1;
        assert_eq!((&row.label, &row.split), (&image.label(), &image.split()));
    }
}

/// What happens to an image between two versions.
#[derive(Clone, Debug)]
enum Change {
    None,
    Gone,
    Replaced(Image),
    Relabelled(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => Just(Change::None), 1 => Just(Change::Gone), 1 => image().prop_map(Change::Replaced),
        1 => (0u8..4).prop_map(Change::Relabelled),
    ]
}

fn changed((number, image, change): (u32, Image, Change)) -> Option<(u32, Image)> {
    match change {
        Change::None => Some((number, image)),
        Change::Gone => None,
        Change::Replaced(other) => Some((number, other)),
        Change::Relabelled(label) => Some((number, Image { label, ..image })),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// The table after any change is that of a search from nothing, file by file.
    #[test]
    fn a_table_with_a_base_is_that_without_one(
        images in prop::collection::vec((image(), change()), 1..120),
        more in prop::collection::vec((0u32..200, image()), 0..8),
        sizes in prop::collection::vec(1usize..30, 1..4),
        held in prop::sample::select(vec![0, 1_000]),
        quanta in 0u32..5,
        shades in 0u32..5,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (store, extractor) = (MemoryStore::new(), extractor());
        let settings = Settings {
            duplicate_distance: Some(f64::from(quanta) / 64.0),
            duplicate_levels: Some(levels_of(shades)),
            ..Settings::default()
        };
        let before: Vec<(u32, Image)> = (0..).step_by(3).zip(&images).map(|(at, (image, _))| (at, image.clone())).collect();
        let after = before.iter().zip(&images).filter_map(|((at, image), (_, change))| changed((*at, image.clone(), change.clone())));
        // Between the others, or behind them.
        let mut after: BTreeMap<u32, Image> = after.collect();
        after.extend(more.into_iter().map(|(at, image)| (at * 3 + 1, image)));
        let after: Vec<(u32, Image)> = after.into_iter().collect();
        let found = |images: &[(u32, Image)], base: Option<(&[ShardEntry], &Duplicates)>| {
            let shards = runtime.block_on(shards(&store, images, &sizes));
            let base = base.map(|(shards, duplicates)| Earlier { shards, extractor: &extractor.id, duplicates });
            let of = Subject { version: Version(3), shards: &shards, extractor: &extractor, settings: &settings, base };
            let found = runtime.block_on(duplicates_with(&store, of, Memory::of(held, 16))).unwrap();
            (shards, found)
        };
        let (base, (summary, files)) = found(&before, None);
        for (key, body) in files {
            runtime.block_on(store.put(&key, body)).unwrap();
        }
        let (_, expected) = found(&after, None);
        let (_, updated) = found(&after, Some((&base, &summary)));
        prop_assert_eq!(updated, expected);
    }
}
