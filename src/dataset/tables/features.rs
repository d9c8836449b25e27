//! The table of a shard's features.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray,
    types::{Int64Type, TimestampMicrosecondType},
};
use arrow_schema::{DataType, Field, TimeUnit};
use bytes::Bytes;
use ndarray::{Array2, ArrayView1};

use super::{
    Compression, EXTRACTOR, Layout, Table, corrupt,
    descriptors::{column_of_keypoints, read_keypoints},
    floats, list, list_of, write,
};
use crate::{
    Error, ErrorKind, Result,
    dataset::ShardEntry,
    image::THUMBNAIL,
    model::{ExtractorInfo, FEATURE_BITS, FeatureRange},
    orb::Keypoint,
    store::Store,
};

/// Levels of the thumbnails; tables of earlier releases have none.
const THUMBNAIL_COLUMN: &str = "thumbnail";
/// Keypoints, if the extractor keeps them.
const KEYPOINTS_COLUMN: &str = "keypoints";

/// The columns of a shard's `features.parquet`, `[rows]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureRows {
    /// Keys of the images, relative to the input.
    pub paths: Vec<String>,
    /// Labels of the images.
    pub labels: Vec<Option<String>>,
    /// Splits of the images, such as `train` and `test`.
    pub splits: Vec<Option<String>>,
    /// Modification times, microseconds since 1970-01-01 UTC.
    pub modified: Vec<i64>,
    /// Sizes of the image files, bytes.
    pub lengths: Vec<i64>,
    /// Etags of the image files.
    pub etags: Vec<String>,
    /// SHA-256 of the image files, 64 hexadecimal digits. None for rows of a table of format 1.
    pub contents: Vec<Option<String>>,
    /// `[rows, columns]`: features, multiples of the quantum.
    pub features: Array2<f32>,
    /// `[rows, THUMBNAIL]`: [thumbnails](crate::image::thumbnail); `[rows, 0]` in tables of earlier releases.
    pub thumbnails: Array2<f32>,
    /// Keypoints of the images, if their extractor [keeps](crate::model::Extractor::keeps_keypoints) them, and nothing otherwise.
    pub keypoints: Vec<Vec<Keypoint>>,
}

impl FeatureRows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Encodes `shards/<id>/features.parquet`; `extractor` is an id for the footer. A row without content is a bug.
pub fn write_features(rows: FeatureRows, extractor: &str, compression: Compression) -> Result<Bytes> {
    let (count, columns) = rows.features.dim();
    let features = list(floats(rows.features), columns, count)?;
    let levels = rows.thumbnails.ncols();
    let thumbnails = list(floats(rows.thumbnails), levels, if levels == 0 { 0 } else { count })?;
    let no_content = |row| Error::new(ErrorKind::InternalBug, "a row has no content hash").context("row", row);
    let contents = rows.contents.into_iter().enumerate();
    let contents: Vec<_> =
        contents.map(|(row, content)| content.ok_or_else(|| no_content(row))).collect::<Result<_>>()?;
    let mut fields: Vec<(Field, ArrayRef)> = vec![
        (Field::new("path", DataType::Utf8, false), Arc::new(StringArray::from(rows.paths))),
        (Field::new("label", DataType::Utf8, true), Arc::new(StringArray::from(rows.labels))),
        (Field::new("split", DataType::Utf8, true), Arc::new(StringArray::from(rows.splits))),
        (
            Field::new("modified", timestamp(), false),
            Arc::new(TimestampMicrosecondArray::from(rows.modified).with_timezone("UTC")),
        ),
        (Field::new("length", DataType::Int64, false), Arc::new(Int64Array::from(rows.lengths))),
        (Field::new("etag", DataType::Utf8, false), Arc::new(StringArray::from(rows.etags))),
        (Field::new("content_sha256", DataType::Utf8, false), Arc::new(StringArray::from(contents))),
        (Field::new("features", list_of(DataType::Float32), false), features),
    ];
    if levels > 0 {
        fields.push((Field::new(THUMBNAIL_COLUMN, list_of(DataType::Float32), false), thumbnails));
    }
    if !rows.keypoints.is_empty() {
        let keypoints = column_of_keypoints(&rows.keypoints)?;
        fields.push((Field::new(KEYPOINTS_COLUMN, keypoints.data_type().clone(), false), keypoints));
    }
    write(fields, &[(EXTRACTOR, extractor)], Layout::Rows(compression))
}

/// Decodes a table of [`write_features`], or one of format 1, which has no splits and no contents.
///
/// Paths must ascend in byte order. Each row must have the extractor's number of features, each a multiple of the quantum
/// within the feature range. The error names the first row that does not.
pub fn read_features(file: Bytes, extractor: &ExtractorInfo, key: &str) -> Result<FeatureRows> {
    let rows = read_rows(file, extractor.columns, key)?;
    check(&rows.paths, &rows.features, extractor, key)?;
    if let Some(row) = off_grid(&rows.thumbnails, FeatureRange::of_pixels()) {
        return Err(corrupt(key).context("row", row).source("a level of its thumbnail is out of range"));
    }
    let is_digest = |content: &String| content.len() == 64 && content.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(row) = rows.contents.iter().position(|content| content.as_ref().is_some_and(|c| !is_digest(c))) {
        return Err(corrupt(key).context("row", row).source("its content hash is not a SHA-256"));
    }
    Ok(rows)
}

/// Fails with `Dataset.Corrupt`, which names the first row whose path or features are wrong.
fn check(paths: &[String], features: &Array2<f32>, extractor: &ExtractorInfo, key: &str) -> Result<()> {
    let wrong = |row: usize, what: &'static str| Err(corrupt(key).context("row", row).source(what));
    if let Some(row) = paths.windows(2).position(|pair| pair[0] >= pair[1]) {
        return wrong(row + 1, "its path is not after the path of the row before it");
    }
    if let Some(row) = off_grid(features, extractor.feature_range) {
        return wrong(row, "a feature is out of range or not a multiple of the quantum");
    }
    Ok(())
}

/// The columns of a shard's `features.parquet` that sums and scores need, `[rows]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelledFeatures {
    /// Keys of the images, relative to the input.
    pub paths: Vec<String>,
    /// Labels of the images.
    pub labels: Vec<Option<String>>,
    /// Splits of the images; None for all in tables of format 1.
    pub splits: Vec<Option<String>>,
    /// `[rows, columns]`: features, multiples of the quantum.
    pub features: Array2<f32>,
}

impl LabelledFeatures {
    /// The rows, without the other columns.
    pub(crate) fn into_rows(self) -> FeatureRows {
        let LabelledFeatures { paths, labels, splits, features } = self;
        FeatureRows { paths, labels, splits, features, ..FeatureRows::default() }
    }
}

/// [`read_features`], which decodes and checks only these columns.
pub fn read_labelled_features(file: Bytes, extractor: &ExtractorInfo, key: &str) -> Result<LabelledFeatures> {
    let table = Table::read_columns(file, key, &["path", "label", "split", "features"])?;
    let (paths, labels) = (table.present_strings("path")?, table.strings("label")?);
    let features = table.matrix("features", extractor.columns)?;
    check(&paths, &features, extractor, key)?;
    let splits = table.strings_if_any("split")?;
    Ok(LabelledFeatures { paths, labels, splits, features })
}

/// The first row with a feature that is out of range or not a multiple of the quantum.
pub(super) fn off_grid(features: &Array2<f32>, range: FeatureRange) -> Option<usize> {
    // Both are powers of two, so that the product is exact, and adding 2^23 rounds to an integer. Branches would be slow.
    let (per_unit, limit) = (range.per_unit() as f32, (1u32 << FEATURE_BITS) as f32);
    let is_wrong = |value: f32| {
        let units = (value * per_unit).abs();
        // What is no number differs from itself.
        u32::from(units >= limit) | u32::from((units + limit) - limit != units)
    };
    let is_wrong_row = |row: ArrayView1<'_, f32>| row.iter().fold(0, |wrong, value| wrong | is_wrong(*value)) != 0;
    features.outer_iter().position(is_wrong_row)
}

/// [`read_features`] without its checks of values and of the order of paths.
pub(super) fn read_rows(file: Bytes, columns: usize, key: &str) -> Result<FeatureRows> {
    let table = Table::read(file, key)?;
    let of_format_1 = table.type_of("split").is_none() && table.type_of("content_sha256").is_none();
    let (splits, contents) = if of_format_1 {
        (vec![None; table.rows()], vec![None; table.rows()])
    } else {
        let contents = table.present_strings("content_sha256")?;
        (table.strings("split")?, contents.into_iter().map(Some).collect())
    };
    Ok(FeatureRows {
        paths: table.present_strings("path")?,
        labels: table.strings("label")?,
        splits,
        modified: table.numbers::<TimestampMicrosecondType>("modified")?,
        lengths: table.numbers::<Int64Type>("length")?,
        etags: table.present_strings("etag")?,
        contents,
        features: table.matrix("features", columns)?,
        thumbnails: match table.type_of(THUMBNAIL_COLUMN) {
            Some(_) => table.matrix(THUMBNAIL_COLUMN, THUMBNAIL)?,
            None => Array2::zeros((table.rows(), 0)),
        },
        keypoints: match table.type_of(KEYPOINTS_COLUMN) {
            Some(_) => read_keypoints(&table, KEYPOINTS_COLUMN)?,
            None => Vec::new(),
        },
    })
}

/// Decodes path and etag of each row of a table of [`write_features`].
pub(super) fn read_etags(file: Bytes, key: &str) -> Result<Vec<(String, String)>> {
    let table = Table::read_columns(file, key, &["path", "etag"])?;
    Ok(table.present_strings("path")?.into_iter().zip(table.present_strings("etag")?).collect())
}

/// Reads path and etag of each row of a shard.
pub(crate) async fn etags(output: &dyn Store, shard: &ShardEntry) -> Result<Vec<(String, String)>> {
    let Some(file) = shard.features() else { return Ok(Vec::new()) };
    read_etags(file.read(output).await?, &file.key)
}
