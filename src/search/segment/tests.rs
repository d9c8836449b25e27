use std::cmp::Ordering;

use ndarray::Array2;
use proptest::prelude::*;

use super::*;
use crate::{
    Result,
    search::{Metric, Ranking, RowOf},
};

const COLUMNS: usize = 70;

fn subject(columns: usize) -> Subject {
    Subject { group: "g".into(), extractor: "x".into(), columns, range: FeatureRange::default() }
}

fn on_grid(x: f64) -> f32 {
    ((x.clamp(-7.9, 7.9) * f64::from(1u32 << 20)).round() / f64::from(1u32 << 20)) as f32
}

/// Rows of one of these kinds: clusters, noise, few different values (ties), a line, equal ones.
fn rows(random: &mut fastrand::Rng, count: usize, columns: usize, kind: u8) -> Array2<f32> {
    let centres = Array2::from_shape_simple_fn((count / 10 + 1, columns), || random.f64() * 6.0);
    let mut rows = Array2::zeros((count, columns));
    for (number, mut row) in rows.outer_iter_mut().enumerate() {
        for (column, x) in row.iter_mut().enumerate() {
            *x = match kind {
                0 => on_grid(centres[[number / 10, column]] + (random.f64() - 0.5) * 0.5),
                1 => on_grid(random.f64() * 16.0 - 8.0),
                2 => f32::from(random.u8(0..2)),
                3 => on_grid(number as f64 * 0.001 * (column as f64 - 30.0) / 30.0),
                4 => 1.5,
                _ => on_grid(if random.u8(0..9) == 0 { 7.9 } else { random.f64() * 1e-5 }),
            };
        }
        if random.u8(0..20) == 0 {
            row.fill(0.0);
        }
    }
    rows
}

fn path(row: usize) -> String {
    format!("p/{row:05}")
}

fn label(row: usize) -> Option<String> {
    (!row.is_multiple_of(7)).then(|| format!("l{}", row % 3))
}

fn written(rows: &Array2<f32>) -> Vec<u8> {
    let mut sample = SegmentSample::new(subject(rows.ncols())).unwrap();
    sample.push(&(0..rows.nrows()).map(path).collect::<Vec<_>>(), rows.view()).unwrap();
    let mut writer = SegmentWriter::new(sample, None).unwrap();
    let mut file = SegmentWriter::head();
    let half = rows.nrows() / 3;
    for (name, range) in [("a", 0..half), ("b", half..rows.nrows())] {
        let paths: Vec<String> = range.clone().map(path).collect();
        let labels: Vec<_> = range.clone().map(label).collect();
        let splits: Vec<_> = range.clone().map(|row| row.is_multiple_of(2).then(|| "train".to_owned())).collect();
        let features = rows.slice(ndarray::s![range, ..]);
        let shard = &ShardId::from(name);
        file.extend(
            writer.push(ShardRows { shard, paths: &paths, labels: &labels, splits: &splits, features }).unwrap(),
        );
    }
    file.extend(writer.finish().unwrap());
    file
}

fn opened(file: &[u8], columns: usize) -> Result<(Segment, Vec<u8>)> {
    let head = SegmentFile::open(file, file.len() as u64, &subject(columns))?;
    let part = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];
    let paths = part(head.paths()).to_vec();
    let segment = Segment::open(head.clone(), part(head.body()).to_vec().into())?;
    segment.check_paths(&paths)?;
    Ok((segment, paths))
}

type Found = (f64, u32);

fn searched(
    file: &[u8],
    segment: &Segment,
    query: &Prepared,
    filter: &Filter<'_>,
    count: usize,
) -> Result<(Vec<Found>, usize)> {
    let mut ranking = Ranking::new(query, count, vec![segment.scan(query, filter)]);
    let mut read = 0;
    while let Some(rows) = ranking.next(8) {
        for row in rows {
            let at = segment.row(row.row).unwrap();
            let packed = &file[at.start as usize..at.end as usize];
            segment.check_row(row.row, packed)?;
            ranking.rank(row, query.distance(packed));
            read += 1;
        }
    }
    Ok((ranking.finish().into_iter().map(|ranked| (ranked.distance, ranked.row.row)).collect(), read))
}

/// Shares no code with the search but the last formula.
fn brute_force(
    rows: &Array2<f32>,
    query: &[f32],
    metric: Metric,
    wanted: impl Fn(usize) -> bool,
    count: usize,
) -> Vec<Found> {
    let quanta = |x: f32| (f64::from(x) * f64::from(1u32 << 20)) as i64;
    let square = |row: &mut dyn Iterator<Item = i64>| row.map(|x| x * x).sum::<i64>() as u64;
    let of_query = square(&mut query.iter().map(|x| quanta(*x)));
    let mut all: Vec<Found> = Vec::new();
    for (number, row) in rows.outer_iter().enumerate().filter(|(number, _)| wanted(*number)) {
        let squared = square(&mut row.iter().zip(query).map(|(x, y)| quanta(*x) - quanta(*y)));
        let of_row = square(&mut row.iter().map(|x| quanta(*x)));
        all.push((metric.distance(squared, of_query, of_row, f64::from(1u32 << 20)), number as u32));
    }
    all.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    all.truncate(count);
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn answers_are_those_of_reading_all_rows(
        seed in any::<u64>(), count in 1usize..400, kind in 0u8..6, answers in prop::sample::select(vec![0usize, 1, 3, 10, 500]),
        columns in prop::sample::select(vec![1usize, 3, COLUMNS]), filtered in any::<bool>(),
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let rows = rows(&mut random, count, columns, kind);
        let file = written(&rows);
        let (segment, paths) = opened(&file, columns).unwrap();
        let of_row = rows.row(random.usize(0..count)).to_vec();
        let other: Vec<f32> = (0..columns).map(|_| on_grid(random.f64() * 16.0 - 8.0)).collect();
        for query in [of_row, other, vec![0.0; columns]] {
            for metric in [Metric::Euclidean, Metric::Cosine] {
                let prepared = Prepared::new(&query, FeatureRange::default(), metric).unwrap();
                let except = segment.row_of(&paths, &path(2)).unwrap();
                prop_assert_eq!(except, (count > 2).then_some(2));
                let filter = if filtered { Filter { label: Some("l1"), split: Some("train"), except } } else { Filter::default() };
                let wanted = |row: usize| !filtered || (label(row).as_deref() == Some("l1") && row.is_multiple_of(2) && row != 2);
                let expected = brute_force(&rows, &query, metric, wanted, answers);
                let (found, _) = searched(&file, &segment, &prepared, &filter, answers).unwrap();
                prop_assert_eq!(&found, &expected);
                // The bound itself, of every row.
                let bounds = segment.scan(&prepared, &Filter::default());
                for (distance, row) in brute_force(&rows, &query, metric, |_| true, count) {
                    prop_assert!(bounds[row as usize] <= prepared.limit(distance), "{metric:?} {row} {distance} {}", bounds[row as usize]);
                }
            }
        }
    }

    #[test]
    fn a_changed_bit_is_an_error_or_changes_nothing(seed in any::<u64>(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut random = fastrand::Rng::with_seed(seed % 4);
        let rows = rows(&mut random, 90, 20, 0);
        let file = written(&rows);
        let query = Prepared::new(&rows.row(5).to_vec(), FeatureRange::default(), Metric::Euclidean).unwrap();
        let answer = |file: &[u8]| {
            let (segment, paths) = opened(file, 20)?;
            let (found, _) = searched(file, &segment, &query, &Filter::default(), 10)?;
            let named = found.into_iter().map(|(distance, row)| {
                Ok((distance, segment.path(&paths, row)?.to_owned(), segment.label(row).map(str::to_owned), segment.split(row).map(str::to_owned)))
            });
            named.collect::<Result<Vec<_>>>()
        };
        let expected = answer(&file).unwrap();
        // Half of the bits behind the rows.
        let body = file.len() - 16 - 90 * 60;
        let at = if seed % 2 == 0 { at.index(file.len()) } else { file.len() - 1 - at.index(body) };
        let mut bad = file.clone();
        bad[at] ^= 1 << bit;
        match answer(&bad) {
            Ok(found) => prop_assert_eq!(found, expected),
            Err(e) => prop_assert!(e.is(ErrorKind::DatasetCorrupt), "{}", e),
        }
        for bad in [&file[..at], &[&file[..], b"x"].concat()] {
            prop_assert!(SegmentFile::open(bad, bad.len() as u64, &subject(20)).is_err());
            prop_assert!(SegmentFile::open(&file, bad.len() as u64, &subject(20)).is_err());
        }
    }
}

#[test]
fn few_rows_of_clusters_are_read() {
    let mut random = fastrand::Rng::with_seed(1);
    let rows = rows(&mut random, 5_000, COLUMNS, 0);
    let file = written(&rows);
    let (segment, _) = opened(&file, COLUMNS).unwrap();
    for metric in [Metric::Euclidean, Metric::Cosine] {
        let query = Prepared::new(&rows.row(77).to_vec(), FeatureRange::default(), metric).unwrap();
        let (found, read) = searched(&file, &segment, &query, &Filter::default(), 10).unwrap();
        assert_eq!(found.len(), 10);
        assert!(read < 1_000, "{read}");
    }
}

#[test]
fn a_row_keeps_its_features_its_place_and_its_texts() {
    let mut random = fastrand::Rng::with_seed(2);
    let rows = rows(&mut random, 31, 9, 1);
    let file = written(&rows);
    assert_eq!(file, written(&rows));
    let (segment, paths) = opened(&file, 9).unwrap();
    for (number, row) in rows.outer_iter().enumerate() {
        let at = segment.row(number as u32).unwrap();
        assert_eq!(segment.features(&file[at.start as usize..at.end as usize]), row.to_vec());
        assert_eq!(segment.path(&paths, number as u32).unwrap(), path(number));
        assert_eq!(segment.label(number as u32).map(str::to_owned), label(number));
        assert_eq!(segment.split(number as u32), number.is_multiple_of(2).then_some("train"));
        let (shard, position) = segment.place(number as u32).unwrap();
        assert_eq!(
            (shard.as_str(), position),
            if number < 10 { ("a", number as u64) } else { ("b", number as u64 - 10) }
        );
    }
    assert!(segment.row(31).is_none() && segment.place(31).is_none());
    assert_eq!(RowOf { segment: 0, row: 1 }.max(RowOf { segment: 1, row: 0 }).segment, 1);
}

#[test]
fn wrong_rows_and_segments_are_refused() {
    let sample = |columns| SegmentSample::new(subject(columns));
    assert!(sample(0).is_err() && sample(MAX_COLUMNS + 1).is_err());
    let writer = |columns| SegmentWriter::new(sample(columns).unwrap(), None);
    let features = Array2::from_elem((1, 2), 0.3f32);
    let shard = &ShardId::from("a");
    let (paths, none) = (["p".to_owned()], [None]);
    let rows = ShardRows { shard, paths: &paths, labels: &none, splits: &none, features: features.view() };
    assert!(writer(2).unwrap().push(rows).unwrap_err().is(ErrorKind::DatasetCorrupt));
    assert!(sample(2).unwrap().push(&paths, features.view()).unwrap_err().is(ErrorKind::DatasetCorrupt));
    assert!(sample(3).unwrap().push(&paths, features.view()).is_err());
    assert!(writer(3).unwrap().push(rows).is_err());
    assert!(Prepared::new(&[0.3], FeatureRange::default(), Metric::Cosine).unwrap_err().is(ErrorKind::InputInvalid));
    let file = written(&Array2::zeros((5, 2)));
    let other = Subject { group: "h".into(), ..subject(2) };
    assert!(SegmentFile::open(&file, file.len() as u64, &other).unwrap_err().is(ErrorKind::DatasetCorrupt));
}

/// The rows of shard `b` of the file, copied behind rows of shard `a` that are given.
fn copied(file: &[u8], rows: &Array2<f32>, from: usize) -> Result<Vec<u8>> {
    let source = WholeSegment::open(file.to_vec().into(), &subject(rows.ncols()))?;
    let paths: Vec<String> = (0..from).map(path).collect();
    let labels: Vec<_> = (0..from).map(label).collect();
    let splits: Vec<_> = (0..from).map(|row| row.is_multiple_of(2).then(|| "train".to_owned())).collect();
    let features = rows.slice(ndarray::s![..from, ..]);
    let shard = &ShardId::from("a");
    let mut sample = SegmentSample::new(subject(rows.ncols()))?;
    sample.push(&paths, features)?;
    assert!(!sample.copy(&ShardId::from("c"), &source)?);
    assert!(sample.copy(&ShardId::from("b"), &source)?);
    let mut writer = SegmentWriter::new(sample, Some(&source))?;
    let mut file = SegmentWriter::head();
    file.extend(writer.push(ShardRows { shard, paths: &paths, labels: &labels, splits: &splits, features })?);
    assert!(writer.copy(&ShardId::from("c"), &source)?.is_none());
    file.extend(writer.copy(&ShardId::from("b"), &source)?.unwrap_or_default());
    file.extend(writer.finish()?);
    Ok(file)
}

#[test]
fn copied_rows_give_the_segment_of_rows_that_are_pushed() {
    let rows = rows(&mut fastrand::Rng::with_seed(5), 300, COLUMNS, 0);
    let file = written(&rows);
    assert!(copied(&file, &rows, 100).unwrap() == file);
    // Of 700 rows, 512 are the sample: a changed row is in it or not.
    let before = self::rows(&mut fastrand::Rng::with_seed(7), 700, COLUMNS, 0);
    let earlier = written(&before);
    let same_directions = |changed: usize| {
        let mut rows = before.clone();
        rows.row_mut(changed).fill(0.5);
        let made = copied(&earlier, &rows, 233).unwrap();
        assert!(made == written(&rows), "row {changed}");
        let directions = |file: &[u8]| opened(file, COLUMNS).unwrap().0.directions.values;
        directions(&made) == directions(&earlier)
    };
    let same = (0..60).filter(|changed| same_directions(*changed)).count();
    assert!((1..60).contains(&same), "{same}");
}

#[test]
fn no_damaged_row_is_copied() {
    let rows = rows(&mut fastrand::Rng::with_seed(6), 60, 3, 0);
    let file = written(&rows);
    // Rows of shard `a` are not copied, so damage in them is not met.
    let copied_bytes = HEAD + 20 * 9..file.len();
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        match copied(&damaged, &rows, 20) {
            Ok(made) => assert!(made == file && !copied_bytes.contains(&at), "byte {at}"),
            Err(e) => assert!(e.is(ErrorKind::DatasetCorrupt) && at >= HEAD, "byte {at}: {e}"),
        }
    }
}
