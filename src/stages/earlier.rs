//! Features that exist already: rows of the base version, and those that a stopped run has kept.

use bytes::Bytes;
use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

use crate::{
    ErrorKind, Result,
    dataset::{
        self, Checksum,
        blocking::run_blocking,
        keys,
        record::{damaged, has_seal},
        tables::{self, FeatureRows},
    },
    ids::ShardId,
    model::Extractor,
    orb::Keypoint,
    store::{self, Object, Store},
};

/// Rows of a shard's objects that exist already.
#[derive(Default)]
pub(super) struct EarlierRows {
    /// Those of the base version first.
    tables: Vec<EarlierTable>,
    /// Whether a table of the base version could not be read.
    pub(super) base_is_unknown: bool,
}

struct EarlierTable {
    /// In ascending order of their paths.
    rows: FeatureRows,
    /// The shard of the base version. None for the rows of a stopped run.
    source: Option<ShardId>,
}

/// A row of a table of [`EarlierRows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct EarlierRow {
    table: usize,
    row: usize,
}

/// The rows of the base version that a shard of another version has not, and those with which they were compared.
pub(super) struct Removed {
    /// `[rows, columns]`
    pub(super) features: Array2<f32>,
    /// Shards of the base version, and their rows in the key range of the shard.
    pub(super) sources: Vec<(ShardId, u64)>,
}

impl EarlierRows {
    /// The row of an object, if there is one.
    pub(super) fn row(&self, object: &Object) -> Option<EarlierRow> {
        let etag = object.etag.as_str();
        self.tables.iter().enumerate().find_map(|(table, earlier)| {
            // An earlier release has made tables without thumbnails.
            let has_thumbnails = earlier.rows.thumbnails.ncols() > 0;
            let row = earlier.position(&object.key).filter(|row| has_thumbnails && earlier.rows.etags[*row] == etag)?;
            Some(EarlierRow { table, row })
        })
    }

    /// The features of a row.
    pub(super) fn features(&self, EarlierRow { table, row }: EarlierRow) -> impl Iterator<Item = f32> {
        self.tables[table].rows.features.row(row).into_iter().copied()
    }

    /// The thumbnail of a row.
    pub(super) fn thumbnail(&self, EarlierRow { table, row }: EarlierRow) -> impl Iterator<Item = f32> {
        self.tables[table].rows.thumbnails.row(row).into_iter().copied()
    }

    /// The keypoints of a row.
    pub(super) fn keypoints(&self, EarlierRow { table, row }: EarlierRow) -> &[Keypoint] {
        self.tables[table].rows.keypoints.get(row).map_or(&[], Vec::as_slice)
    }

    /// SHA-256 of the file of a row.
    pub(super) fn content(&self, EarlierRow { table, row }: EarlierRow) -> Option<&String> {
        self.tables[table].rows.contents[row].as_ref()
    }

    /// Whether a row is one of the base version.
    pub(super) fn is_of_base(&self, row: EarlierRow) -> bool {
        self.tables[row.table].source.is_some()
    }

    /// The etag of a row of the base version.
    pub(super) fn etag_in_base(&self, key: &str) -> Option<&String> {
        let mut of_base = self.tables.iter().filter(|table| table.source.is_some());
        of_base.find_map(|table| table.position(key).map(|row| &table.rows.etags[row]))
    }

    /// The rows of the base version from the key `first` to `last` that are not in `copied`.
    pub(super) fn removed(&self, copied: &[EarlierRow], [first, last]: [&str; 2]) -> Result<Removed> {
        let columns = self.tables.first().map_or(0, |table| table.rows.features.ncols());
        let mut removed = Removed { features: Array2::zeros((0, columns)), sources: Vec::new() };
        for (number, EarlierTable { rows, source }) in self.tables.iter().enumerate() {
            let Some(source) = source else { continue };
            let from = rows.paths.partition_point(|path| path.as_str() < first);
            let to = rows.paths.partition_point(|path| path.as_str() <= last).max(from);
            removed.sources.push((source.clone(), (to - from) as u64));
            let mut gone = vec![true; to - from];
            for row in copied.iter().filter(|row| row.table == number) {
                // A copied row has the key of an object of the shard.
                if let Some(gone) = row.row.checked_sub(from).and_then(|row| gone.get_mut(row)) {
                    *gone = false;
                }
            }
            let gone: Vec<usize> = (from..to).filter(|row| gone[row - from]).collect();
            let bug =
                |e| crate::Error::new(ErrorKind::InternalBug, "rows have features of different lengths").source(e);
            removed.features.append(Axis(0), rows.features.select(Axis(0), &gone).view()).map_err(bug)?;
        }
        Ok(removed)
    }

    /// Reads rows from shards of the base version, and those that a stopped run has kept for this shard.
    pub(super) async fn read(
        output: &dyn Store,
        shard: &ShardId,
        sources: &[ShardId],
        extractor: &Extractor,
    ) -> Result<EarlierRows> {
        let files = sources.iter().map(|source| (keys::shard(source), keys::features(source), Some(source)));
        let mut earlier = EarlierRows::default();
        for (record, key, source) in files.chain([(keys::partial_record(shard), keys::partial(shard), None)]) {
            // A source that is missing or damaged costs time only: its images are inferred again.
            let rows = match store::get_opt(output, &record).await? {
                Some(text) => read_rows(output, &text, (&record, &key), extractor).await,
                None if source.is_some() => Err(damaged("a file of this data set is missing", &record)),
                None => continue,
            };
            match rows {
                Ok(rows) => earlier.tables.push(EarlierTable { rows, source: source.cloned() }),
                Err(e) if e.is(ErrorKind::DatasetCorrupt) => earlier.base_is_unknown |= source.is_some(),
                Err(e) => return Err(e),
            }
        }
        Ok(earlier)
    }
}

impl EarlierTable {
    fn position(&self, key: &str) -> Option<usize> {
        self.rows.paths.binary_search_by(|path| path.as_str().cmp(key)).ok()
    }
}

/// What both records of tables of features have: that of a shard, and that of the rows of a stopped run.
#[derive(Debug, Serialize, Deserialize)]
struct TableRecord {
    /// Id of the shard.
    id: ShardId,
    features: Option<Checksum>,
}

/// Reads a table of features, given its record. Fails with `Dataset.Corrupt`.
async fn read_rows(
    output: &dyn Store,
    record: &[u8],
    (record_key, key): (&str, &str),
    extractor: &Extractor,
) -> Result<FeatureRows> {
    let checksum = if has_seal(record) {
        let record: TableRecord = dataset::from_record(record, record_key)?;
        if keys::shard(&record.id) != record_key && keys::partial_record(&record.id) != record_key {
            return Err(damaged("this is the record of another shard", record_key));
        }
        record.features
    } else {
        // Format 1 has no checksums.
        None
    };
    let file = dataset::get_checked(output, key, checksum.as_ref()).await?;
    let (key, info, keeps_keypoints) = (key.to_owned(), extractor.info().clone(), extractor.keeps_keypoints());
    run_blocking(move || {
        let rows = tables::read_features(file, &info, &key)?;
        if keeps_keypoints && rows.keypoints.len() != rows.len() {
            return Err(damaged("this table has no keypoints", &key));
        }
        Ok(rows)
    })
    .await
}

/// Writes the rows of a stopped shard; [`EarlierRows::read`] of the next run reads them.
pub(super) async fn keep_partial(output: &dyn Store, shard: &ShardId, table: Bytes) -> Result<()> {
    let record = TableRecord { id: shard.clone(), features: Some(Checksum::of(&table)) };
    output.put(&keys::partial(shard), table).await?;
    output.put(&keys::partial_record(shard), dataset::to_record(&record)?).await
}
