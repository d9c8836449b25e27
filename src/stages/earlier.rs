//! Features that exist already: rows of the base version, and those that a stopped run has kept.

use std::collections::HashMap;

use bytes::Bytes;
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
    model::ExtractorInfo,
    store::{self, Object, Store},
};

/// The features of an image.
#[derive(Clone)]
pub(super) struct Features {
    pub(super) values: Vec<f32>,
    /// SHA-256 of the file. None for rows of format 1.
    pub(super) content: Option<String>,
}

/// Rows of a shard's objects that exist already.
#[derive(Default)]
pub(super) struct EarlierRows {
    /// Features by (key, etag).
    features: HashMap<(String, String), Features>,
    /// Etags of the base version's rows, by key.
    base_etags: HashMap<String, String>,
    /// Whether a table of the base version could not be read.
    pub(super) base_is_unknown: bool,
}

impl EarlierRows {
    /// The features of an object, if there are some.
    pub(super) fn features(&self, object: &Object) -> Option<&Features> {
        self.features.get(&(object.key.clone(), object.etag.as_str().to_owned()))
    }

    /// The etag of a row of the base version.
    pub(super) fn etag_in_base(&self, key: &str) -> Option<&String> {
        self.base_etags.get(key)
    }

    /// Reads rows from shards of the base version, and those that a stopped run has kept for this shard.
    pub(super) async fn read(
        output: &dyn Store,
        shard: &ShardId,
        sources: &[ShardId],
        extractor: &ExtractorInfo,
    ) -> Result<EarlierRows> {
        let files = sources.iter().map(|source| (keys::shard(source), keys::features(source), true));
        let mut earlier = EarlierRows::default();
        for (record, key, of_base) in files.chain([(keys::partial_record(shard), keys::partial(shard), false)]) {
            // A source that is missing or damaged costs time only: its images are inferred again.
            let rows = match store::get_opt(output, &record).await? {
                Some(text) => read_rows(output, &text, (&record, &key), extractor).await,
                None if of_base => Err(damaged("a file of this data set is missing", &record)),
                None => continue,
            };
            let rows = match rows {
                Ok(rows) => rows,
                Err(e) if e.is(ErrorKind::DatasetCorrupt) => {
                    earlier.base_is_unknown |= of_base;
                    continue;
                }
                Err(e) => return Err(e),
            };
            if of_base {
                earlier.base_etags.extend(rows.paths.iter().cloned().zip(rows.etags.iter().cloned()));
            }
            let features = rows.features.outer_iter().zip(rows.contents);
            let features = features.map(|(row, content)| Features { values: row.to_vec(), content });
            earlier.features.extend(rows.paths.into_iter().zip(rows.etags).zip(features));
        }
        Ok(earlier)
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
    extractor: &ExtractorInfo,
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
    let (key, extractor) = (key.to_owned(), extractor.clone());
    run_blocking(move || tables::read_features(file, &extractor, &key)).await
}

/// Writes the rows of a stopped shard; [`EarlierRows::read`] of the next run reads them.
pub(super) async fn keep_partial(output: &dyn Store, shard: &ShardId, table: Bytes) -> Result<()> {
    let record = TableRecord { id: shard.clone(), features: Some(Checksum::of(&table)) };
    output.put(&keys::partial(shard), table).await?;
    output.put(&keys::partial_record(shard), dataset::to_record(&record)?).await
}
