//! The list of an archive's members.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, StringArray, types::Int64Type};
use arrow_schema::Field;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Compression, Layout, Table, bug, corrupt, write};
use crate::{
    Result,
    dataset::record::Hasher,
    ids::ETag,
    store::{Object, Packed},
};

/// Key of the archive's name in the footer.
const ARCHIVE: &str = "pomona.archive";
/// Key of the checksum of all rows in the footer.
const SEAL: &str = "pomona.seal";

/// The objects of an archive, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) archive: ArchiveRef,
    pub(crate) objects: Vec<Object>,
}

/// The archive of a [`Container`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArchiveRef {
    /// Its key in the input, relative to it.
    pub(crate) key: String,
    pub(crate) etag: ETag,
    pub(crate) size: u64,
}

impl Container {
    /// SHA-256 of all that the file says.
    fn seal(&self, head: &str, packed: &[String]) -> String {
        let mut hasher = Hasher::default();
        hasher.push(head.as_bytes());
        for (object, packed) in self.objects.iter().zip(packed) {
            let texts = [&object.key, object.etag.as_str(), packed];
            texts.iter().for_each(|text| hasher.push(&(text.len() as u64).to_le_bytes()));
            texts.iter().for_each(|text| hasher.push(text.as_bytes()));
            hasher.push(&object.size.to_le_bytes());
            hasher.push(&object.modified.to_le_bytes());
        }
        hasher.finish().sha256
    }
}

/// Encodes `containers/<id>.parquet`. All objects must have a place in the archive.
pub(crate) fn write_container(container: &Container) -> Result<Bytes> {
    let objects = &container.objects;
    let packed = objects.iter().map(|object| serde_json::to_string(&object.packed));
    let packed = packed.collect::<std::result::Result<Vec<String>, _>>().map_err(bug)?;
    let head = serde_json::to_string(&container.archive).map_err(bug)?;
    let seal = container.seal(&head, &packed);
    let texts = |values: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let numbers = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    let length = |object: &Object| i64::try_from(object.size).unwrap_or(i64::MAX);
    let field = |name: &str, column: ArrayRef| (Field::new(name, column.data_type().clone(), false), column);
    write(
        vec![
            field("path", texts(objects.iter().map(|object| object.key.as_str()).collect())),
            field("etag", texts(objects.iter().map(|object| object.etag.as_str()).collect())),
            field("length", numbers(objects.iter().map(length).collect())),
            field("modified", numbers(objects.iter().map(|object| object.modified).collect())),
            field("place", texts(packed.iter().map(String::as_str).collect())),
        ],
        &[(ARCHIVE, &head), (SEAL, &seal)],
        Layout::Rows(Compression::Zstd),
    )
}

/// Decodes a list of members. Fails with `Dataset.Corrupt`, also if it is not as it was written.
pub(crate) fn read_container(file: Bytes, key: &str) -> Result<Container> {
    let table = Table::read(file, key)?;
    let head = table.footer(ARCHIVE)?.to_owned();
    let archive = serde_json::from_str(&head).map_err(|e| corrupt(key).source(e))?;
    let (keys, etags, places) =
        (table.present_strings("path")?, table.present_strings("etag")?, table.present_strings("place")?);
    let (sizes, times) = (table.numbers::<Int64Type>("length")?, table.numbers::<Int64Type>("modified")?);
    let mut objects = Vec::with_capacity(keys.len());
    for ((((key_of_row, etag), place), size), modified) in
        keys.into_iter().zip(etags).zip(&places).zip(sizes).zip(times)
    {
        let packed: Option<Box<Packed>> = serde_json::from_str(place).map_err(|e| corrupt(key).source(e))?;
        let size = u64::try_from(size).map_err(|e| corrupt(key).source(e))?;
        objects.push(Object { key: key_of_row, etag: etag.into(), size, modified, packed });
    }
    let container = Container { archive, objects };
    if container.seal(&head, &places) != table.footer(SEAL)? {
        return Err(corrupt(key).source("its rows are not those that were written"));
    }
    Ok(container)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, store::Form};

    fn container() -> Container {
        let object = |key: &str, form| Object {
            key: key.to_owned(),
            etag: "e".into(),
            size: 5,
            modified: -7,
            packed: Some(Box::new(Packed {
                etag: "a".into(),
                size: 900,
                label: Some("ä".to_owned()),
                range: 3..8,
                form,
            })),
        };
        let page =
            Form::Page { dictionary: Some(1..2), values: 7, value: 3, codec: "zstd".into(), levels: 2, unpacked: 9 };
        let unusable = Form::Unusable { reason: "truncated".into(), detail: "d".into() };
        let zip = Form::Zip { length: 5, deflated: true, crc: 77 };
        let objects = [("a.tar", unusable), ("a.tar!1.jpg", Form::Plain), ("a.tar!2.jpg", page), ("a.tar!3.jpg", zip)];
        let archive = ArchiveRef { key: "a.tar".into(), etag: "a".into(), size: 900 };
        Container { archive, objects: objects.map(|(key, form)| object(key, form)).into() }
    }

    #[test]
    fn a_list_of_members_is_read_as_written_and_damage_is_noticed() {
        let written = container();
        let file = write_container(&written).unwrap();
        assert_eq!(read_container(file.clone(), "k").unwrap(), written);
        let empty = Container { objects: Vec::new(), ..written.clone() };
        assert_eq!(read_container(write_container(&empty).unwrap(), "k").unwrap(), empty);
        std::panic::set_hook(Box::new(|_| {}));
        let mut noticed = 0;
        for bit in (0..file.len() * 8).step_by(7) {
            let mut damaged = file.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match read_container(damaged.into(), "k") {
                Ok(read) => assert_eq!(read, written, "bit {bit}"),
                Err(e) => {
                    assert!(e.is(ErrorKind::DatasetCorrupt));
                    noticed += 1;
                }
            }
        }
        assert!(noticed > file.len() / 7, "{noticed}");
    }
}
