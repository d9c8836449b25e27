//! The members of a tar file.
//!
//! A tar has no directory and no checksums of contents, so it is read from front to back once, and a member's etag is a
//! hash of its content and its time. Large members that are not images are skipped. Names come from the header, from GNU's
//! long names or from pax records.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header, PaxExtensions};

use super::{
    index::{Found, Index, MAX_NAME, Problem, Role, is_label_file, nested, role},
    scan::Source,
};
use crate::{
    Result,
    ids::short_hex,
    image::{MAX_FILE_BYTES, Reason},
    store::{Form, Object, Store, escaped_name},
};

const BLOCK: u64 = 512;
/// Longest pax record or long name.
const MAX_EXTENSION: u64 = 1 << 20;
/// Longest label file.
const MAX_LABEL_FILE: u64 = 64 << 10;

/// What the headers before a member say about it.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<i64>,
    sparse: bool,
}

/// Reads the members. Fails if the store does; what is wrong with the file is a note in the index.
pub(super) async fn read(store: &dyn Store, archive: &Object, index: &mut Index) -> Result<()> {
    let mut scan =
        Scan { source: Source::new(store, archive, 0..archive.size), index, extension: Extension::default() };
    while let Some(header) = scan.header().await? {
        if !scan.entry(&header).await? {
            break;
        }
    }
    Ok(())
}

struct Scan<'a, 'i> {
    source: Source<'a>,
    index: &'i mut Index,
    extension: Extension,
}

impl Scan<'_, '_> {
    fn fail(&mut self, reason: Reason, detail: &str) {
        let detail = format!("{detail}, at byte {} of the tar file", self.source.position());
        self.index.fail(Problem::new(reason, detail));
    }

    /// The next header. None at the end, or where the file is damaged.
    async fn header(&mut self) -> Result<Option<Header>> {
        let first = self.source.position() == 0;
        let Some(block) = self.source.exactly(BLOCK).await? else {
            self.fail(Reason::Truncated, "the file ends without the mark of its end");
            return Ok(None);
        };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        if !is_sound(&header) {
            let reason = if first { Reason::NotAnImage } else { Reason::Corrupt };
            self.fail(reason, if first { "this is no tar file" } else { "there is no header of a member" });
            return Ok(None);
        }
        Ok(Some(header))
    }

    /// Reads an entry behind its header. False if reading cannot go on.
    async fn entry(&mut self, header: &Header) -> Result<bool> {
        let kind = header.entry_type();
        let own_size = header.entry_size().ok();
        let extends = kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions();
        let Some(size) = (if extends { own_size } else { self.extension.size.or(own_size) }) else {
            self.fail(Reason::Corrupt, "the size of a member is no number");
            return Ok(false);
        };
        if kind.is_gnu_sparse() && !self.skip_map(header).await? {
            return Ok(false);
        }
        let padded = size.checked_next_multiple_of(BLOCK);
        if size > self.source.left() || padded.is_none() {
            self.fail(Reason::Truncated, "the file ends in a member");
            return Ok(false);
        }
        let end = self.source.position().saturating_add(padded.unwrap_or(size));
        let goes_on = if extends {
            self.extension(kind, size).await?
        } else {
            let extension = std::mem::take(&mut self.extension);
            kind.is_pax_global_extensions() || self.member(header, extension, size).await?
        };
        self.source.skip(end.saturating_sub(self.source.position())).await?;
        Ok(goes_on)
    }

    /// Skips the rest of the map of GNU's old sparse files.
    async fn skip_map(&mut self, header: &Header) -> Result<bool> {
        let mut more = header.as_gnu().is_some_and(|gnu| gnu.isextended[0] == 1);
        while more {
            let Some(block) = self.source.exactly(BLOCK).await? else {
                self.fail(Reason::Truncated, "the file ends in a member");
                return Ok(false);
            };
            more = block.get(504) == Some(&1);
        }
        Ok(true)
    }

    /// Reads a long name or a pax record, which belongs to the next member.
    async fn extension(&mut self, kind: EntryType, size: u64) -> Result<bool> {
        if size > MAX_EXTENSION {
            self.fail(Reason::TooLarge, &format!("a name or its record has {size} bytes"));
            self.extension.name = Some(vec![b'.']);
            return Ok(true);
        }
        let Some(content) = self.source.exactly(size).await? else { return Ok(false) };
        if kind.is_gnu_longname() {
            let name = content.split(|byte| *byte == 0).next().unwrap_or_default();
            self.extension.name = Some(name.to_vec());
        } else if kind.is_pax_local_extensions() {
            self.pax(&content);
        }
        Ok(true)
    }

    fn pax(&mut self, content: &[u8]) {
        for record in PaxExtensions::new(content).flatten() {
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.extension.name = Some(value.to_vec()),
                b"size" => self.extension.size = std::str::from_utf8(value).ok().and_then(|size| size.parse().ok()),
                b"mtime" => self.extension.modified = std::str::from_utf8(value).ok().and_then(microseconds),
                b"GNU.sparse.name" => {
                    self.extension.name = Some(value.to_vec());
                    self.extension.sparse = true;
                }
                key => self.extension.sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
    }

    /// Reads a member that is an image or a label; leaves others.
    async fn member(&mut self, header: &Header, extension: Extension, size: u64) -> Result<bool> {
        let raw = extension.name.unwrap_or_else(|| header.path_bytes().into_owned());
        if raw.len() > MAX_NAME {
            self.fail(
                Reason::TooLarge,
                &format!("a member has a name of {} bytes; at most {MAX_NAME} are taken", raw.len()),
            );
            return Ok(true);
        }
        let name = escaped_name(&raw);
        let kind = header.entry_type();
        // Old programs mark a folder by its name.
        let is_file = (kind.is_file() || kind.is_contiguous()) && !raw.ends_with(b"/");
        let is_link = kind.is_symlink() || kind.is_hard_link();
        if is_file && is_label_file(&name) && size <= MAX_LABEL_FILE {
            if let Some(content) = self.source.exactly(size).await? {
                self.index.push_label(&name, &content);
            }
            return Ok(true);
        }
        let unsupported = |detail: &str| Problem::new(Reason::UnsupportedFormat, detail);
        let problem = match role(&name) {
            Role::Nested(_) if is_file => Some(nested()),
            Role::Image(_) if is_link => Some(unsupported("a link in a tar file is not followed")),
            Role::Image(_) if extension.sparse || kind.is_gnu_sparse() => {
                Some(unsupported("a sparse file in a tar file"))
            }
            Role::Image(_) if is_file => None,
            _ => return Ok(true),
        };
        let (Role::Image(name) | Role::Nested(name)) = role(&name) else { return Ok(true) };
        let modified = extension.modified.or_else(|| header.mtime().ok().and_then(seconds)).unwrap_or(0);
        let range = self.source.position()..self.source.position() + size;
        let hash = match problem {
            None if size <= MAX_FILE_BYTES => self.hash(size).await?,
            // The content is not read.
            _ => "unread".to_owned(),
        };
        Ok(self.index.push(Found {
            name,
            etag: format!("{hash}-{modified:x}-{size:x}"),
            size,
            modified,
            label: None,
            range: if problem.is_some() { 0..0 } else { range },
            form: problem.map_or(Form::Plain, |problem| problem.form()),
        }))
    }

    async fn hash(&mut self, size: u64) -> Result<String> {
        let (mut sha, mut left) = (Sha256::new(), size);
        while left > 0 {
            let piece: Bytes = self.source.some(left).await?;
            if piece.is_empty() {
                break;
            }
            left -= piece.len() as u64;
            sha.update(&piece);
        }
        Ok(short_hex(&sha.finalize()))
    }
}

/// Whether the checksum of a header is right. Old programs added signed bytes.
fn is_sound(header: &Header) -> bool {
    let Ok(expected) = header.cksum() else { return false };
    let bytes = header.as_bytes().iter().enumerate();
    let field = 148..156;
    let spaced = bytes.map(|(i, byte)| if field.contains(&i) { b' ' } else { *byte });
    let unsigned: u32 = spaced.clone().map(u32::from).sum();
    let signed: i32 = spaced.map(|byte| i32::from(byte as i8)).sum();
    expected == unsigned || i64::from(expected) == i64::from(signed)
}

fn seconds(time: u64) -> Option<i64> {
    i64::try_from(time).ok()?.checked_mul(1_000_000)
}

/// The microseconds of a decimal number of seconds, rounded down.
fn microseconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let fraction: i64 = digits.parse().ok()?;
    let whole_micros = whole.parse::<i64>().ok()?.checked_mul(1_000_000)?;
    if whole.starts_with('-') {
        // -1.5 is 1.5 seconds before 1970.
        let rest =
            i64::from(text.split_once('.').is_some_and(|(_, f)| f.len() > 6 && f[6..].bytes().any(|b| b != b'0')));
        return whole_micros.checked_sub(fraction)?.checked_sub(rest);
    }
    whole_micros.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_pax_are_microseconds_rounded_down() {
        assert_eq!(microseconds("1700000000"), Some(1_700_000_000_000_000));
        assert_eq!(microseconds("1700000000.1234567"), Some(1_700_000_000_123_456));
        assert_eq!((microseconds("-1.5"), microseconds("-0.0000001")), (Some(-1_500_000), Some(-1)));
        assert_eq!(
            [microseconds(""), microseconds("x"), microseconds("9999999999999999"), microseconds("1.x")],
            [None; 4]
        );
    }
}
