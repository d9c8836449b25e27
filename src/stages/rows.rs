//! The rows of all shards of a version by number, in key order. Few of them stay in memory; the others are read again.

use std::{ops::Range, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use ndarray::{Array2, s};
use rayon::prelude::*;

use crate::{
    Result,
    dataset::{FileRef, ShardEntry, blocking::run_blocking, contents, tables::FeatureRows},
    model::{ExtractorInfo, FeatureRange},
    search::squared_quanta,
    store::Store,
};

/// How many rows are in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Most rows that stay in memory from the beginning to the end.
    held: u64,
    /// Of more rows, most that are read together for distances.
    tile: usize,
}

impl Memory {
    /// 42 MB of the built-in model's features; or two times 10 to 84 MB.
    pub(super) const DEFAULT: Memory = Memory { held: 8_192, tile: 16_384 };

    #[cfg(test)]
    pub(super) fn of(held: u64, tile: usize) -> Self {
        Memory { held, tile }
    }
}

/// Tables that are read at a time.
const AT_A_TIME: usize = 2;
/// Parts of the rows that are read together for distances, unless these are very few or many rows. In more parts, tables would
/// be read more often if rows that are far from each other are pairs.
const TILES: usize = 16;
const LEAST_TILE: usize = 2_048;
/// Tables of the sample, and rows of each.
const SAMPLE_TABLES: usize = 8;
const SAMPLE_ROWS: usize = 128;

/// What is compared of two images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    Features,
    Thumbnails,
}

impl Compared {
    /// Its rows in a table.
    pub(super) fn matrix(self, table: &FeatureRows) -> &Array2<f32> {
        match self {
            Compared::Features => &table.features,
            Compared::Thumbnails => &table.thumbnails,
        }
    }

    fn range(self, extractor: &ExtractorInfo) -> FeatureRange {
        match self {
            Compared::Features => extractor.feature_range,
            Compared::Thumbnails => FeatureRange::of_pixels(),
        }
    }
}

/// What the tables say of an image.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) path: String,
    pub(super) label: Option<String>,
    pub(super) split: Option<String>,
}

/// A table, and the number of its first row.
#[derive(Clone, Debug)]
struct Table {
    file: FileRef,
    rows: Range<u32>,
}

/// All rows of a version.
pub(super) struct Rows<'a> {
    output: &'a dyn Store,
    extractor: &'a ExtractorInfo,
    tables: Vec<Table>,
    /// All tables; empty if there are too many rows.
    held: Vec<Arc<FeatureRows>>,
    memory: Memory,
}

impl<'a> Rows<'a> {
    /// The rows of these shards, which are in key order.
    pub(super) async fn open(
        output: &'a dyn Store,
        extractor: &'a ExtractorInfo,
        shards: &[ShardEntry],
        memory: Memory,
    ) -> Result<Self> {
        let mut tables = Vec::new();
        let mut next = 0u32;
        for (file, rows) in shards.iter().filter_map(|shard| Some((shard.features()?, shard.rows))) {
            let end = next.saturating_add(u32::try_from(rows).unwrap_or(u32::MAX));
            tables.push(Table { file, rows: next..end });
            next = end;
        }
        let mut rows = Rows { output, extractor, tables, held: Vec::new(), memory };
        if u64::from(next) <= memory.held {
            let mut held = Vec::with_capacity(rows.tables.len());
            rows.for_each(Ok, |table| held.push(table)).await?;
            rows.held = held;
        }
        Ok(rows)
    }

    /// The number of rows.
    pub(super) fn count(&self) -> usize {
        self.tables.last().map_or(0, |table| table.rows.end as usize)
    }

    /// Whether all rows are in memory.
    pub(super) fn in_memory(&self) -> bool {
        self.held.len() == self.tables.len()
    }

    async fn table(&self, number: usize) -> Result<Arc<FeatureRows>> {
        if let Some(held) = self.held.get(number) {
            return Ok(held.clone());
        }
        contents::feature_rows(self.output, self.extractor, &self.tables[number].file).await.map(Arc::new)
    }

    /// Computes something from each table, two at a time, and takes the results in order.
    pub(super) async fn for_each<T: Send + 'static>(
        &self,
        compute: impl Fn(Arc<FeatureRows>) -> Result<T> + Clone + Send + 'static,
        mut take: impl FnMut(T),
    ) -> Result<()> {
        let computed = (0..self.tables.len()).map(|number| {
            let compute = compute.clone();
            async move {
                let table = self.table(number).await?;
                run_blocking(move || compute(table)).await
            }
        });
        let computed: Vec<_> = computed.collect();
        let mut computed = stream::iter(computed).buffered(AT_A_TIME);
        while let Some(next) = computed.try_next().await? {
            take(next);
        }
        Ok(())
    }

    /// Computes something from each table.
    pub(super) async fn each<T: Send + 'static>(
        &self,
        compute: impl Fn(Arc<FeatureRows>) -> Result<T> + Clone + Send + 'static,
    ) -> Result<Vec<T>> {
        let mut all = Vec::with_capacity(self.tables.len());
        self.for_each(compute, |next| all.push(next)).await?;
        Ok(all)
    }

    /// Features and thumbnails of rows of some tables; rows that are next to each other in a table are in the sample, too.
    pub(super) async fn sample(&self) -> Result<[Array2<f32>; 2]> {
        let count = self.tables.len().min(SAMPLE_TABLES);
        let (mut samples, mut rows) = ([Vec::new(), Vec::new()], 0);
        for number in (0..count).map(|i| i * self.tables.len() / count) {
            let table = self.table(number).await?;
            let taken = table.len().min(SAMPLE_ROWS);
            rows += taken;
            for (sample, matrix) in samples.iter_mut().zip([&table.features, &table.thumbnails]) {
                sample.extend(matrix.slice(s![..taken, ..]));
            }
        }
        Ok(samples.map(|values| Array2::from_shape_vec((rows, values.len() / rows.max(1)), values).unwrap_or_default()))
    }

    /// Path, label and split of rows, in ascending or any other order.
    pub(super) async fn describe(&self, rows: &[u32]) -> Result<Vec<Row>> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by_key(|at| rows[*at]);
        let mut found: Vec<Option<Row>> = vec![None; rows.len()];
        let of_table = |at: usize| self.table_of(rows[at]);
        for wanted in order.chunk_by(|a, b| of_table(*a) == of_table(*b)) {
            let number = of_table(wanted[0]);
            let table = self.table(number).await?;
            for at in wanted {
                let row = (rows[*at] - self.tables[number].rows.start) as usize;
                found[*at] = Some(Row {
                    path: table.paths[row].clone(),
                    label: table.labels[row].clone(),
                    split: table.splits[row].clone(),
                });
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    fn table_of(&self, row: u32) -> usize {
        self.tables.partition_point(|table| table.rows.end <= row)
    }

    /// The squared distances of pairs of rows, in quanta.
    pub(super) async fn distances(&self, of: Compared, pairs: &[(u32, u32)]) -> Result<Vec<u64>> {
        let range = of.range(self.extractor);
        if self.in_memory() {
            let row = |row: u32| {
                let number = self.table_of(row);
                of.matrix(self.held.get(number)?).row((row - self.tables[number].rows.start) as usize).to_slice()
            };
            return Ok(pairs.par_iter().map(|(a, b)| distance(row(*a), row(*b), range)).collect());
        }
        let mut wanted: Vec<u32> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let tile = (self.count() / TILES).clamp(LEAST_TILE.min(self.memory.tile), self.memory.tile);
        let tile_of = |row: u32| wanted.partition_point(|other| *other < row) / tile;
        let tiles = |pair: &usize| (tile_of(pairs[*pair].0), tile_of(pairs[*pair].1));
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by_cached_key(tiles);
        let mut found = vec![0; pairs.len()];
        for piece in order.chunk_by(|a, b| tiles(a).0 == tiles(b).0) {
            let (a, _) = tiles(&piece[0]);
            let first = self.load(of, wanted.chunks(tile).nth(a).unwrap_or_default()).await?;
            for piece in piece.chunk_by(|a, b| tiles(a) == tiles(b)) {
                let mut second = None;
                if tiles(&piece[0]).1 != a {
                    // Few rows of different tiles are pairs, because rows that are next to each other are alike.
                    let mut others: Vec<u32> = piece.iter().map(|at| pairs[*at].1).collect();
                    others.sort_unstable();
                    others.dedup();
                    second = Some(self.load(of, &others).await?);
                }
                let second = second.as_ref().unwrap_or(&first);
                let between = |(a, b): (u32, u32)| distance(first.row(a), second.row(b), range);
                let distances: Vec<u64> = piece.par_iter().map(|at| between(pairs[*at])).collect();
                piece.iter().zip(distances).for_each(|(at, distance)| found[*at] = distance);
            }
        }
        Ok(found)
    }

    /// Reads some rows, which ascend.
    async fn load(&self, of: Compared, rows: &[u32]) -> Result<Tile> {
        let mut tile = Tile { rows: rows.to_vec(), ..Tile::default() };
        let tables = rows.chunk_by(|a, b| self.table_of(*a) == self.table_of(*b)).map(|wanted| async move {
            let number = self.table_of(wanted[0]);
            self.table(number).await.map(|table| (wanted, self.tables[number].rows.start, table))
        });
        let tables: Vec<_> = tables.collect();
        let mut tables = stream::iter(tables).buffered(AT_A_TIME);
        while let Some((wanted, start, table)) = tables.try_next().await? {
            let matrix = of.matrix(&table);
            if tile.values.is_empty() {
                tile.columns = matrix.ncols();
                tile.values.reserve_exact(rows.len() * tile.columns);
            }
            for row in wanted {
                tile.values.extend(matrix.row((row - start) as usize));
            }
        }
        Ok(tile)
    }
}

/// Features of some rows.
#[derive(Debug, Default)]
struct Tile {
    /// Ascending.
    rows: Vec<u32>,
    /// `[rows, columns]`
    values: Vec<f32>,
    columns: usize,
}

impl Tile {
    fn row(&self, row: u32) -> Option<&[f32]> {
        let at = self.rows.binary_search(&row).ok()?;
        self.values.get(at * self.columns..(at + 1) * self.columns)
    }
}

/// The squared distance in quanta; the largest number without one of the rows, which would be a bug.
fn distance(a: Option<&[f32]>, b: Option<&[f32]>, range: FeatureRange) -> u64 {
    a.zip(b).map_or(u64::MAX, |(a, b)| squared_quanta(a, b, range))
}
