//! The members of a zip file, from its central directory.
//!
//! The directory is at the end of the file and names every member with its CRC-32, sizes and place, so no content is read
//! here. It is read in blocks, one entry at a time, with limits of its own: programs that unpack zip files keep all of its
//! texts. What is used of an entry follows APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16 and 4.5.3.

use bytes::{Buf, Bytes};

use super::{
    index::{Found, Index, MAX_MEMBERS, MAX_NAME, Problem, Role, nested, role},
    scan::Source,
};
use crate::{
    Result,
    image::{MAX_FILE_BYTES, Reason},
    store::{Form, Object, Store, escaped_name},
};

/// Bytes at the end of the file that are read first. They have the end of the directory, which a comment of up to 64 KiB
/// follows, and all of a small one.
const TAIL: u64 = 256 << 10;
/// Largest directory: about 2^20 members with long names.
const MAX_DIRECTORY: u64 = 256 << 20;
/// Length of fixed parts.
const END: usize = 22;
const LOCATOR: usize = 20;
const END64: usize = 56;
const ENTRY: u64 = 46;
pub(super) const LOCAL: u64 = 30;
/// Longest extra field of a local header, which may differ from that of the directory.
const MAX_EXTRA: u64 = 65_535;

const END_MARK: u32 = 0x0605_4b50;
const LOCATOR_MARK: u32 = 0x0706_4b50;
const END64_MARK: u32 = 0x0606_4b50;
const ENTRY_MARK: u32 = 0x0201_4b50;
pub(super) const LOCAL_MARK: u32 = 0x0403_4b50;

const ENCRYPTED: u16 = 1 << 0;
const ENCRYPTED_DIRECTORY: u16 = 1 << 13;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// The place of the directory.
struct Directory {
    start: u64,
    size: u64,
    entries: u64,
    /// What stands before the zip file, such as a program that unpacks it. Offsets do not count it.
    before: u64,
}

type Checked<T> = std::result::Result<T, Problem>;

fn corrupt(detail: &str) -> Problem {
    Problem::new(Reason::Corrupt, detail)
}

/// Reads the members. Fails if the store does; what is wrong with the file is a note in the index.
pub(super) async fn read(store: &dyn Store, archive: &Object, index: &mut Index) -> Result<()> {
    match directory(store, archive).await? {
        Err(problem) => index.fail(problem),
        Ok(directory) => {
            let mut entries = entries(store, archive, &directory, index).await?;
            entries.sort_by_key(|entry| entry.start);
            let starts: Vec<u64> = entries.iter().map(|entry| entry.start).skip(1).chain([directory.start]).collect();
            // In the order of the directory, of which the last counts.
            let mut ended: Vec<(Entry, u64)> = entries.into_iter().zip(starts).collect();
            ended.sort_by_key(|(entry, _)| entry.number);
            for (entry, next) in ended.into_iter().filter(|(entry, _)| entry.has_row) {
                if !index.push(entry.found(next)) {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Finds the directory.
async fn directory(store: &dyn Store, archive: &Object) -> Result<Checked<Directory>> {
    let start = archive.size.saturating_sub(TAIL);
    let tail = store.get_part(archive, start..archive.size).await?;
    let Some(at) = end_of_directory(&tail) else {
        return Ok(Err(missing_directory(store, archive).await?));
    };
    let mut end = tail.slice(at + 4..);
    let (disk, first_disk) = (end.get_u16_le(), end.get_u16_le());
    let (_, entries) = (end.get_u16_le(), end.get_u16_le());
    let (size, offset) = (end.get_u32_le(), end.get_u32_le());
    let (mut entries, mut size, mut offset) = (u64::from(entries), u64::from(size), u64::from(offset));
    let mut end_at = start + at as u64;
    if disk != u16::MAX && (disk, first_disk) != (0, 0) {
        return Ok(Err(Problem::new(Reason::UnsupportedFormat, "a zip file in several parts")));
    }
    if entries == 0xffff || size == 0xffff_ffff || offset == 0xffff_ffff {
        let found = match at.checked_sub(LOCATOR).map(|locator| tail.slice(locator..at)) {
            Some(locator) => end_of_zip64(store, archive, locator).await?,
            None => None,
        };
        // Without it, the numbers are as they stand.
        if let Some((end64, found)) = found {
            (end_at, (entries, size, offset)) = (end64, found);
        }
    }
    Ok(check(Directory { start: offset, size, entries, before: 0 }, end_at))
}

/// Checks the place of the directory, which ends at `end`.
fn check(found: Directory, end: u64) -> Checked<Directory> {
    let Some(start) = end.checked_sub(found.size).filter(|start| *start >= found.start) else {
        return Err(corrupt("the directory of the zip file lies outside of it"));
    };
    if found.size > MAX_DIRECTORY || found.entries > MAX_MEMBERS as u64 {
        let detail = format!("{} members in a directory of {} bytes; split the archive", found.entries, found.size);
        return Err(Problem::new(Reason::TooLarge, detail));
    }
    Ok(Directory { start, before: start - found.start, ..found })
}

/// The last place in the file that looks like the end of the directory, with a comment that ends with the file.
fn end_of_directory(tail: &Bytes) -> Option<usize> {
    let last = tail.len().checked_sub(END)?;
    (last.saturating_sub(usize::from(u16::MAX))..=last).rev().find(|at| {
        let Some(mut end) = tail.get(*at..) else { return false };
        end.get_u32_le() == END_MARK && {
            end.advance(16);
            usize::from(end.get_u16_le()) == end.remaining()
        }
    })
}

/// Why there is no directory.
async fn missing_directory(store: &dyn Store, archive: &Object) -> Result<Problem> {
    let start = store.get_part(archive, 0..archive.size.min(4)).await?;
    let is_zip = start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06");
    Ok(match is_zip {
        true => Problem::new(Reason::Truncated, "the zip file ends before its directory does"),
        false => Problem::new(Reason::NotAnImage, "this is no zip file"),
    })
}

/// The end of a directory with numbers of 64 bits: its offset; number of entries, size and offset of the directory.
async fn end_of_zip64(
    store: &dyn Store,
    archive: &Object,
    mut locator: Bytes,
) -> Result<Option<(u64, (u64, u64, u64))>> {
    if locator.get_u32_le() != LOCATOR_MARK {
        return Ok(None);
    }
    locator.advance(4);
    let at = locator.get_u64_le();
    let Some(end) = at.checked_add(END64 as u64).filter(|end| *end <= archive.size) else { return Ok(None) };
    let mut record = store.get_part(archive, at..end).await?;
    if record.get_u32_le() != END64_MARK {
        return Ok(None);
    }
    record.advance(8 + 2 + 2 + 4 + 4 + 8);
    Ok(Some((at, (record.get_u64_le(), record.get_u64_le(), record.get_u64_le()))))
}

/// An entry of the directory.
struct Entry {
    number: usize,
    has_row: bool,
    name: String,
    /// Offset of the local header.
    start: u64,
    packed: u64,
    size: u64,
    crc: u32,
    method: u16,
    modified: i64,
    /// Length of the name.
    name_bytes: u64,
    problem: Option<Problem>,
}

async fn entries(store: &dyn Store, archive: &Object, directory: &Directory, index: &mut Index) -> Result<Vec<Entry>> {
    let mut source = Source::new(store, archive, directory.start..directory.start + directory.size);
    let mut entries: Vec<Entry> = Vec::new();
    for number in 0..usize::try_from(directory.entries).unwrap_or(usize::MAX) {
        match entry(&mut source, number).await? {
            Ok(mut entry) => {
                entry.start = entry.start.saturating_add(directory.before);
                entries.push(entry);
            }
            Err(problem) => {
                index.fail(problem);
                break;
            }
        }
    }
    Ok(entries)
}

/// Reads an entry.
async fn entry(source: &mut Source<'_>, number: usize) -> Result<Checked<Entry>> {
    let ended = || Err(Problem::new(Reason::Truncated, "the directory of the zip file ends in an entry"));
    let Some(mut fixed) = source.exactly(ENTRY).await? else { return Ok(ended()) };
    if fixed.get_u32_le() != ENTRY_MARK {
        return Ok(Err(corrupt("the directory of the zip file has something else than an entry")));
    }
    fixed.advance(4);
    let (flags, method) = (fixed.get_u16_le(), fixed.get_u16_le());
    let (time, date) = (fixed.get_u16_le(), fixed.get_u16_le());
    let (crc, packed, size) = (fixed.get_u32_le(), fixed.get_u32_le(), fixed.get_u32_le());
    let lengths = [fixed.get_u16_le(), fixed.get_u16_le(), fixed.get_u16_le()].map(u64::from);
    fixed.advance(8);
    let start = fixed.get_u32_le();
    let Some(texts) = source.exactly(lengths.iter().sum()).await? else { return Ok(ended()) };
    let (name, extra) =
        (&texts[..lengths[0] as usize], texts.slice(lengths[0] as usize..(lengths[0] + lengths[1]) as usize));
    if name.len() > MAX_NAME {
        let detail = format!("a member has a name of {} bytes; at most {MAX_NAME} are taken", name.len());
        return Ok(Err(Problem::new(Reason::TooLarge, detail)));
    }
    let (has_row, name, mut problem) = match role(&escaped_name(name)) {
        Role::Image(image) => (!name.ends_with(b"/"), image, None),
        Role::Nested(archive) => (!name.ends_with(b"/"), archive, Some(nested())),
        Role::Other => (false, String::new(), None),
    };
    let mut entry = Entry {
        number,
        has_row,
        name,
        start: start.into(),
        packed: packed.into(),
        size: size.into(),
        crc,
        method,
        modified: dos_time(date, time),
        name_bytes: lengths[0],
        problem: None,
    };
    let extra = entry.read_extra(extra);
    if flags & (ENCRYPTED | ENCRYPTED_DIRECTORY) != 0 {
        problem.get_or_insert(Problem::new(Reason::UnsupportedFormat, "an encrypted member of a zip file"));
    }
    entry.problem = problem.or(extra.err());
    Ok(Ok(entry))
}

impl Entry {
    /// Reads numbers of 64 bits, and the time as Info-ZIP writes it.
    fn read_extra(&mut self, mut extra: Bytes) -> Checked<()> {
        while extra.remaining() >= 4 {
            let (kind, length) = (extra.get_u16_le(), usize::from(extra.get_u16_le()));
            if length > extra.remaining() {
                break;
            }
            let mut field = extra.split_to(length);
            match kind {
                0x0001 => {
                    for number in [&mut self.size, &mut self.packed, &mut self.start] {
                        if *number == 0xffff_ffff {
                            *number = field.try_get_u64_le().map_err(|_| corrupt("a size of 64 bits is missing"))?;
                        }
                    }
                }
                0x5455 if field.try_get_u8().is_ok_and(|flags| flags & 1 == 1) => {
                    if let Ok(seconds) = field.try_get_i32_le() {
                        self.modified = i64::from(seconds) * 1_000_000;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What is wrong with the entry, whose bytes end before `next`.
    fn problem(&self, next: u64) -> Option<Problem> {
        let least = LOCAL.saturating_add(self.name_bytes).saturating_add(self.packed);
        if next < self.start || next - self.start < least {
            return Some(corrupt("the member overlaps another one or the directory of the zip file"));
        }
        if self.method != STORED && self.method != DEFLATED {
            let name = match self.method {
                9 => "Deflate64",
                12 => "bzip2",
                14 => "LZMA",
                93 => "Zstandard",
                95 => "XZ",
                98 => "PPMd",
                _ => "",
            };
            let detail = format!("compression {} {name} in a zip file; stored and deflated are read", self.method);
            return Some(Problem::new(Reason::UnsupportedFormat, detail));
        }
        // Deflate stores what it cannot compress, with 5 bytes for each 64 KiB or less.
        let most = self.size.saturating_add(self.size / 1_024 + 1_024);
        if self.size <= MAX_FILE_BYTES && (self.packed > most || self.method == STORED && self.packed != self.size) {
            return Some(corrupt("the sizes of the member contradict each other"));
        }
        None
    }

    /// The member. `next` is where the next member or the directory starts.
    fn found(self, next: u64) -> Found {
        let problem = self.problem.clone().or_else(|| self.problem(next));
        // The local header may have a longer extra field than the directory says.
        let most = LOCAL + self.name_bytes + MAX_EXTRA + self.packed.min(next);
        let end = next.min(self.start.saturating_add(most));
        let form = match &problem {
            Some(problem) => problem.form(),
            None => Form::Zip { length: self.packed, deflated: self.method == DEFLATED, crc: self.crc },
        };
        Found {
            etag: format!("{:08x}-{:x}-{:x}", self.crc, self.modified, self.size),
            size: self.size,
            modified: self.modified,
            label: None,
            range: if problem.is_some() { 0..0 } else { self.start..end },
            form,
            name: self.name,
        }
    }
}

/// Microseconds since 1970 of a DOS date and time, which has no time zone and is taken as UTC. 0 if it is no date.
fn dos_time(date: u16, time: u16) -> i64 {
    let (year, month, day) = (1980 + (date >> 9) as i16, (date >> 5 & 15) as i8, (date & 31) as i8);
    let (hour, minute, second) = ((time >> 11) as i8, (time >> 5 & 63) as i8, (time & 31) as i8 * 2);
    let time = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0);
    let utc = time.ok().and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok());
    utc.map_or(0, |time| time.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_dos_are_utc() {
        assert_eq!(dos_time((44 << 9) | (2 << 5) | 29, (13 << 11) | (5 << 5) | 7), 1_709_211_914_000_000);
        assert_eq!((dos_time(0, 0), dos_time(u16::MAX, u16::MAX)), (0, 0));
    }
}
