//! Records as JSON with a seal, and checksums of files.
//!
//! The last field of a record, `"sha256"`, is the digest of all bytes before it. So a record proves itself, and together
//! with the [`Checksum`]s in it, all files that it names.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::blocking::run_blocking;
use crate::{
    Error, ErrorKind, Result,
    store::{self, Store},
};

/// SHA-256 and length of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

impl Checksum {
    /// The checksum of a file with this content.
    pub fn of(file: &[u8]) -> Self {
        Checksum { sha256: sha256(file), bytes: file.len() as u64 }
    }

    /// Fails with `Dataset.Corrupt` if `file` has another content.
    pub(crate) fn check(&self, file: &[u8], key: &str) -> Result<()> {
        self.check_length(file.len() as u64, key)?;
        self.check_same(&Checksum::of(file), key)
    }

    /// Fails with `Dataset.Corrupt` if a file with this number of bytes has another length.
    pub(crate) fn check_length(&self, bytes: u64, key: &str) -> Result<()> {
        if bytes == self.bytes {
            return Ok(());
        }
        let lengths = format!("{bytes} bytes instead of {}", self.bytes);
        Err(damaged("this file has another length than when it was written", key).source(lengths))
    }

    /// Fails with `Dataset.Corrupt` if a file with the checksum `found` has another content.
    pub(crate) fn check_same(&self, found: &Checksum, key: &str) -> Result<()> {
        if found == self {
            return Ok(());
        }
        Err(damaged("this file has another content than when it was written", key))
    }
}

/// Computes the checksum of a file that comes in pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hasher {
    sha: Sha256,
    bytes: u64,
}

impl Hasher {
    /// Adds the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.sha.update(piece);
        self.bytes += piece.len() as u64;
    }

    /// The checksum of all pieces.
    pub(crate) fn finish(self) -> Checksum {
        Checksum { sha256: hex(&self.sha.finalize()), bytes: self.bytes }
    }
}

/// A file of a data set and its checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Key, relative to the output.
    pub key: String,
    /// None for files of format 1, which has no checksums.
    #[serde(flatten)]
    pub checksum: Option<Checksum>,
}

impl FileRef {
    /// A file with this content.
    pub fn of(key: String, file: &[u8]) -> Self {
        FileRef { key, checksum: Some(Checksum::of(file)) }
    }

    /// Reads the file. Fails with `Dataset.Corrupt` if it is missing or does not match its checksum.
    pub async fn read(&self, output: &dyn Store) -> Result<Bytes> {
        get_checked(output, &self.key, self.checksum.as_ref()).await
    }

    /// Reads and decodes the file. `decode` gets its content, the number of columns, and its key for errors; it must fail
    /// with `Dataset.Corrupt`.
    pub(crate) async fn decode<T: Send + 'static>(
        &self,
        output: &dyn Store,
        columns: usize,
        decode: fn(Bytes, usize, &str) -> Result<T>,
    ) -> Result<T> {
        let (body, key) = (self.read(output).await?, self.key.clone());
        run_blocking(move || decode(body, columns, &key)).await
    }
}

/// Reads a file that a record names. Fails with `Dataset.Corrupt`, which names the key, if it is missing or does not match
/// its checksum.
pub async fn get_checked(output: &dyn Store, key: &str, checksum: Option<&Checksum>) -> Result<Bytes> {
    let file = store::get_opt(output, key).await?;
    let file = file.ok_or_else(|| damaged("a file of this data set is missing", key))?;
    if let Some(checksum) = checksum {
        checksum.check(&file, key)?;
    }
    Ok(file)
}

pub(crate) fn damaged(message: &'static str, key: &str) -> Error {
    Error::new(ErrorKind::DatasetCorrupt, message).context("key", key)
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What stands before and after the digest at the end of a record, and of a line of a work list.
const RECORD: [&str; 2] = [",\n  \"sha256\": \"", "\"\n}\n"];
const LINE: [&str; 2] = [",\"sha256\":\"", "\"}"];

/// Appends a seal to the text of a JSON object without its closing brace.
fn seal(mut open: Vec<u8>, [before, after]: [&str; 2]) -> Vec<u8> {
    let digest = sha256(&open);
    for part in [before, &digest, after] {
        open.extend_from_slice(part.as_bytes());
    }
    open
}

/// Whether a sealed text has its seal; None if it has none.
fn is_sealed(text: &[u8], [before, after]: [&str; 2]) -> Option<bool> {
    let rest = text.strip_suffix(after.as_bytes())?;
    let (open, digest) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
    let open = open.strip_suffix(before.as_bytes())?;
    Some(sha256(open).as_bytes() == digest)
}

/// Encodes a record, which must be a JSON object, and seals it. Fails with `Internal.Bug`.
pub fn to_record<T: Serialize>(value: &T) -> Result<Bytes> {
    let bug = |e: String| Error::new(ErrorKind::InternalBug, "a record cannot be encoded as JSON").source(e);
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| bug(e.to_string()))?;
    if !text.ends_with(b"\n}") {
        return Err(bug("it is not an object with fields".to_owned()));
    }
    text.truncate(text.len() - 2);
    Ok(seal(text, RECORD).into())
}

/// Decodes a record of [`to_record`]. Fails with `Dataset.Corrupt`, which names the key, also if it has no seal.
pub(crate) fn from_record<T: DeserializeOwned>(text: &[u8], key: &str) -> Result<T> {
    match is_sealed(text, RECORD) {
        Some(true) => super::from_json(text, key),
        Some(false) => Err(damaged("this record has another content than when it was written", key)),
        None => Err(damaged("this record does not end with its checksum", key)),
    }
}

/// Whether a record ends like one with a seal. Records of format 1 do not.
pub(crate) fn has_seal(text: &[u8]) -> bool {
    is_sealed(text, RECORD).is_some()
}

/// Decodes a record that may be of format 1, which has no seals.
pub(crate) fn from_record_of_any_format<T: DeserializeOwned>(text: &[u8], key: &str) -> Result<T> {
    if has_seal(text) { from_record(text, key) } else { super::from_json(text, key) }
}

/// Reads and decodes a record. Fails with `Store.NotFound` if it does not exist, and with `Dataset.Corrupt`.
pub async fn read_record<T: DeserializeOwned>(store: &dyn Store, key: &str) -> Result<T> {
    from_record(&store.get(key).await?, key)
}

/// Encodes lines of a work list, each with a seal.
pub(crate) fn to_sealed_lines<T: Serialize>(lines: &[T]) -> Result<Bytes> {
    let mut text = Vec::new();
    for line in lines {
        text.append(&mut seal(open_line(line)?, LINE));
        text.push(b'\n');
    }
    Ok(text.into())
}

fn open_line<T: Serialize>(line: &T) -> Result<Vec<u8>> {
    let bug = |e| Error::new(ErrorKind::InternalBug, "a record cannot be encoded as a JSON line").source(e);
    let mut text = serde_json::to_vec(line).map_err(bug)?;
    text.pop();
    Ok(text)
}

/// Decodes lines of [`to_sealed_lines`]. Fails with `Dataset.Corrupt`, which names the key.
pub(crate) fn from_sealed_lines<T: DeserializeOwned + Serialize>(text: &[u8], key: &str) -> Result<Vec<T>> {
    if !text.is_empty() && !text.ends_with(b"\n") {
        return Err(damaged("this work list ends in the middle of a line", key));
    }
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let open = |line: &[u8]| match is_sealed(line, LINE) {
        Some(true) => super::from_json::<Sealed<T>>(line, key).map(|line| line.0),
        _ => Err(damaged("a line of this work list has another content than when it was written", key)),
    };
    lines.map(open).collect()
}

/// A line of a work list that a map hands to a function. Its seal is checked; a line that is written by hand needs none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed<T>(pub T);

impl<'de, T: DeserializeOwned + Serialize> Deserialize<'de> for Sealed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error as _;
        let mut fields = serde_json::Map::deserialize(from)?;
        let digest = fields.remove("sha256");
        let line: T = serde_json::from_value(fields.into()).map_err(D::Error::custom)?;
        if let Some(digest) = digest {
            let open = open_line(&line).map_err(D::Error::custom)?;
            if digest.as_str() != Some(&sha256(&open)) {
                return Err(D::Error::custom("this line of a work list has another content than when it was written"));
            }
        }
        Ok(Sealed(line))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    proptest! {
        #[test]
        fn any_changed_bit_of_a_record_is_noticed(text in ".{0,40}", number: u64, at: prop::sample::Index, bit in 0u8..8) {
            let value = json!({"text": text, "list": [1, {"number": number}]});
            let record = to_record(&value).unwrap();
            let mut read: Value = from_record(&record, "k").unwrap();
            prop_assert!(read.as_object_mut().unwrap().remove("sha256").is_some());
            prop_assert_eq!(&read, &value);
            let mut bad = record.to_vec();
            let at = at.index(bad.len());
            bad[at] ^= 1 << bit;
            prop_assert!(from_record::<Value>(&bad, "k").unwrap_err().is(ErrorKind::DatasetCorrupt));
            prop_assert!(from_record::<Value>(&record[..at], "k").is_err());
        }
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        run: String,
    }

    #[test]
    fn lines_are_sealed_in_files_and_may_be_written_by_hand_in_events() {
        let lines = vec![Line { run: "r".to_owned() }];
        let text = to_sealed_lines(&lines).unwrap();
        assert_eq!(from_sealed_lines::<Line>(&text, "k").unwrap(), lines);
        let event: Sealed<Line> = serde_json::from_slice(&text).unwrap();
        assert_eq!(event.0, lines[0]);
        let by_hand: Sealed<Line> = serde_json::from_str(r#"{"run": "r"}"#).unwrap();
        assert_eq!(by_hand.0, lines[0]);
        let changed = String::from_utf8(text.to_vec()).unwrap().replace("\"r\"", "\"s\"");
        assert!(from_sealed_lines::<Line>(changed.as_bytes(), "k").is_err());
        assert!(serde_json::from_str::<Sealed<Line>>(&changed).is_err());
    }

    #[test]
    fn a_file_is_compared_with_its_length_and_content() {
        let checksum = Checksum::of(b"abc");
        assert_eq!(checksum.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        checksum.check(b"abc", "k").unwrap();
        let mut pieces = Hasher::default();
        [b"a".as_slice(), b"", b"bc"].into_iter().for_each(|piece| pieces.push(piece));
        assert_eq!(pieces.finish(), checksum);
        for bad in [b"abx".as_slice(), b"ab", b""] {
            assert!(checksum.check(bad, "k").unwrap_err().is(ErrorKind::DatasetCorrupt));
        }
        let json = serde_json::to_string(&FileRef::of("k".into(), b"")).unwrap();
        assert!(json.starts_with(r#"{"key":"k","sha256":"e3b0c442"#) && json.ends_with(r#""bytes":0}"#), "{json}");
        assert_eq!(serde_json::from_str::<FileRef>(&json).unwrap(), FileRef::of("k".into(), b""));
        let old = FileRef { key: "k".into(), checksum: None };
        assert_eq!(serde_json::from_str::<FileRef>(r#"{"key":"k"}"#).unwrap(), old);
    }
}
