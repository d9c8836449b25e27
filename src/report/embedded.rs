//! The data of the page for its script: points, names and lists, compressed.
//!
//! Numbers are planes of bytes, because bytes of one kind compress well: of each component all low bytes, then, for those
//! of the maps, all high bytes; then three planes of the numbers of the labels. Names are JSON. Both are compressed with
//! zlib and encoded with base64. `src/versions/search/` decodes them on its own when it looks for erased images.

use std::io::Write;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::ZlibEncoder};
use serde::Serialize;

use super::{
    lists::Lists,
    pictures::{Place, Sheet},
    points::Points,
};
use crate::{Error, ErrorKind, Result};

/// Components of the maps. They have 12 bits, and the others, which only neighbours need, 8.
pub(super) const OF_MAPS: usize = 4;
const FINE: f64 = 4_095.0;
const COARSE: f64 = 255.0;
/// Planes of the number of a label.
const LABEL_PLANES: usize = 3;

/// What the page embeds, as text.
#[derive(Clone, Debug)]
pub(super) struct Embedded {
    /// Numbers about the points as JSON.
    pub(super) about: String,
    pub(super) points: String,
    pub(super) texts: String,
}

/// A component: its scores are `low + step * number`.
#[derive(Clone, Copy, Debug, Serialize)]
struct Column {
    low: f64,
    step: f64,
    planes: usize,
}

#[derive(Serialize)]
struct About {
    rows: usize,
    label_planes: usize,
    columns: Vec<Column>,
}

/// Names and lists.
#[derive(Serialize)]
struct Texts<'a> {
    paths: &'a [String],
    labels: &'a [String],
    colours: &'a [String],
    /// The previews, by path.
    pictures: Vec<(&'a str, Place)>,
    lists: &'a Lists,
}

/// Names of all labels and their colours.
#[derive(Clone, Debug)]
pub(super) struct Legend {
    pub(super) labels: Vec<String>,
    pub(super) colours: Vec<String>,
}

/// Encodes the data.
pub(super) fn encode(points: &Points, legend: &Legend, sheets: [&Sheet; 2], lists: &Lists) -> Result<Embedded> {
    let rows = points.paths.len();
    let columns: Vec<Column> = (0..points.columns.max(OF_MAPS)).map(|component| column(points, component)).collect();
    let mut bytes = Vec::with_capacity(rows * (columns.len() + OF_MAPS + LABEL_PLANES));
    for (component, column) in columns.iter().enumerate() {
        let numbers: Vec<u16> = (0..rows).map(|row| column.number(points.score(row, component))).collect();
        for plane in 0..column.planes {
            bytes.extend(numbers.iter().map(|number| (number >> (8 * plane)) as u8));
        }
    }
    for plane in 0..LABEL_PLANES {
        bytes.extend(points.labels.iter().map(|label| (label >> (8 * plane)) as u8));
    }
    let pictures = sheets.into_iter().flat_map(Sheet::places).collect();
    let texts = Texts { paths: &points.paths, labels: &legend.labels, colours: &legend.colours, pictures, lists };
    let json = |e| bug("the data of a report cannot be encoded").source(e);
    let about = About { rows, label_planes: LABEL_PLANES, columns };
    Ok(Embedded {
        about: serde_json::to_string(&about).map_err(json)?,
        points: packed(&bytes)?,
        texts: packed(&serde_json::to_vec(&texts).map_err(json)?)?,
    })
}

fn column(points: &Points, component: usize) -> Column {
    let (low, high) = points.extent(component);
    let (most, planes) = if component < OF_MAPS { (FINE, 2) } else { (COARSE, 1) };
    Column { low, step: (high - low) / most, planes }
}

impl Column {
    /// The number of a score.
    fn number(self, score: f64) -> u16 {
        if self.step > 0.0 { ((score - self.low) / self.step).round() as u16 } else { 0 }
    }
}

fn packed(bytes: &[u8]) -> Result<String> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let packed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    packed.map(|packed| STANDARD.encode(packed)).map_err(|e| bug("the data of a report cannot be compressed").source(e))
}

fn bug(message: &'static str) -> Error {
    Error::new(ErrorKind::InternalBug, message)
}
