//! Reading the objects of a shard: members of archives that lie near each other are read by one request.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use super::{
    names::{self, Parsed},
    pages::{self, Pages},
    unpack,
};
use crate::{
    Result,
    dataset::blocking::run_blocking,
    image::{Reason, Reject},
    store::{Form, Object, Packed, Store},
};

/// Members are read together if at most this many bytes that nobody needs lie between them.
const GAP: u64 = 256 << 10;
/// Most bytes of a request for several members.
const MAX_REQUEST: u64 = 8 << 20;
const MIN_REQUEST: u64 = 512 << 10;

/// Something that several members need: it is loaded when the first asks for it, and dropped when the last has it.
#[derive(Debug)]
struct Shared<T> {
    value: tokio::sync::Mutex<Option<T>>,
    /// Members that will still ask.
    users: Mutex<usize>,
}

impl<T: Clone> Shared<T> {
    fn new(users: usize) -> Self {
        Shared { value: tokio::sync::Mutex::new(None), users: Mutex::new(users) }
    }

    /// The value. After an error, the next member loads it again.
    async fn get(&self, load: impl Future<Output = Result<T>>) -> Result<T> {
        let mut value = self.value.lock().await;
        let loaded = match value.take() {
            Some(loaded) => loaded,
            None => load.await?,
        };
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        *users = users.saturating_sub(1);
        if *users > 0 {
            *value = Some(loaded.clone());
        }
        Ok(loaded)
    }
}

/// One request.
#[derive(Debug)]
struct Block {
    /// The archive as it was listed.
    archive: Object,
    range: Range<u64>,
    /// From the first object that needs the block to the last, as numbers in the order of reading.
    needed: Range<usize>,
    body: Shared<Bytes>,
}

/// A range of an archive that members need.
struct Part<'o> {
    archive: String,
    range: Range<u64>,
    members: usize,
    /// From the first of these members to the last.
    needed: Range<usize>,
    packed: &'o Packed,
}

/// Values of a page; what is wrong with it.
type Values = std::result::Result<std::sync::Arc<Vec<Option<Bytes>>>, String>;

/// The pages that members need, by archive and start.
type SharedPages = HashMap<(String, u64), Shared<Values>>;

/// Reads objects of a listing, each once, in any order.
#[derive(Debug)]
pub(crate) struct Reads<'a> {
    store: &'a dyn Store,
    blocks: Vec<Block>,
    /// Numbers of the blocks of ranges of archives. An archive is named by the key of the object for it.
    places: HashMap<(String, u64, u64), usize>,
    pages: SharedPages,
}

impl<'a> Reads<'a> {
    /// Plans the requests for `objects`, of which `together` in a row are read at the same time. The requests are the
    /// largest ones with which at most `memory` bytes are held, apart from those of single large members.
    pub(crate) fn new<'o>(
        store: &'a dyn Store,
        objects: impl IntoIterator<Item = &'o Object>,
        together: usize,
        memory: u64,
    ) -> Self {
        let (parts, pages) = parts(objects);
        let mut reads = Reads { store, blocks: Vec::new(), places: HashMap::new(), pages };
        let mut most = MAX_REQUEST;
        loop {
            reads.blocks.clear();
            for part in &parts {
                reads.place(part, most);
            }
            if most <= MIN_REQUEST || held(&reads.blocks, together, most) <= memory {
                return reads;
            }
            most /= 2;
        }
    }

    fn place(&mut self, part: &Part<'_>, most: u64) {
        let Part { archive, range, members, needed, packed } = part;
        let joins = self.blocks.last_mut().filter(|block| {
            let joined = block.range.end.max(range.end) - block.range.start;
            let near = range.start <= block.range.end.saturating_add(GAP) && joined <= most;
            block.archive.key == *archive && (near || range.end <= block.range.end)
        });
        match joins {
            Some(block) => {
                block.range.end = block.range.end.max(range.end);
                block.needed = block.needed.start.min(needed.start)..block.needed.end.max(needed.end);
                *block.body.users.get_mut().unwrap_or_else(PoisonError::into_inner) += members;
            }
            None => self.blocks.push(Block {
                archive: archive_of(archive, packed),
                range: range.clone(),
                needed: needed.clone(),
                body: Shared::new(*members),
            }),
        }
        self.places.insert((archive.clone(), range.start, range.end), self.blocks.len() - 1);
    }

    /// Bytes of memory that reading the object takes, about.
    pub(crate) fn cost(object: &Object) -> u64 {
        let form = object.packed.as_deref().map(|packed| (&packed.form, ranges(packed)));
        let packed = form.map_or(0, |(form, ranges)| {
            let unpacked = if let Form::Page { unpacked, .. } = form { *unpacked } else { 0 };
            ranges.map(|range| range.end - range.start).sum::<u64>() + unpacked
        });
        object.size.max(packed)
    }

    /// The content of an object; or why it has none.
    ///
    /// Fails with `Store.NotFound` if the object, or its archive, has been replaced since it was listed.
    pub(crate) async fn get(&self, object: &Object) -> Result<std::result::Result<Bytes, Reject>> {
        let Some(packed) = object.packed.as_deref() else { return self.store.get_listed(object).await.map(Ok) };
        let archive = archive_key(object);
        match &packed.form {
            Form::Unusable { reason, detail } => Ok(Err(Reject::new(Reason::from_name(reason), detail))),
            Form::Page { dictionary, values, value, codec, levels, .. } => {
                let key = (archive.clone(), packed.range.start);
                let Some(page) = self.pages.get(&key) else { return one(self.store, object).await };
                let load = async {
                    let data = self.part(&archive, packed, &packed.range).await?;
                    let dictionary = match dictionary {
                        Some(range) => Some(self.part(&archive, packed, range).await?),
                        None => None,
                    };
                    let (pages, codec, levels) =
                        (Pages { dictionary, data, values: *values as usize }, codec.clone(), *levels);
                    run_blocking(move || Ok(pages::byte_arrays(&pages, &codec, levels).map(std::sync::Arc::new))).await
                };
                Ok(unpack::value(page.get(load).await?, *value, object))
            }
            Form::Plain => self.part(&archive, packed, &packed.range).await.map(Ok),
            Form::Zip { .. } => {
                let bytes = self.part(&archive, packed, &packed.range).await?;
                unpack::zip(bytes, packed, object.size).await
            }
        }
    }

    /// Bytes of an archive, from the block that has them.
    async fn part(&self, archive: &str, packed: &Packed, range: &Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let place = self.places.get(&(archive.to_owned(), range.start, range.end));
        let Some(block) = place.and_then(|place| self.blocks.get(*place)) else {
            return self.store.get_part(&archive_of(archive, packed), range.clone()).await;
        };
        let body = block.body.get(self.store.get_part(&block.archive, block.range.clone())).await?;
        let at = |offset: u64| usize::try_from(offset - block.range.start).unwrap_or(usize::MAX);
        Ok(body.slice(at(range.start)..at(range.end)))
    }
}

/// The ranges of archives that the objects need, sorted; and the pages.
fn parts<'o>(objects: impl IntoIterator<Item = &'o Object>) -> (Vec<Part<'o>>, SharedPages) {
    let mut parts: HashMap<(String, u64, u64), Part<'o>> = HashMap::new();
    let mut pages = SharedPages::new();
    for (number, object) in objects.into_iter().enumerate() {
        let Some(packed) = object.packed.as_deref() else { continue };
        let archive = archive_key(object);
        // A page is loaded once for all of its members.
        let mut members = 1;
        if let Form::Page { .. } = packed.form {
            let page = pages.entry((archive.clone(), packed.range.start)).or_insert_with(|| Shared::new(0));
            let users = page.users.get_mut().unwrap_or_else(PoisonError::into_inner);
            *users += 1;
            members = usize::from(*users == 1);
        }
        for range in ranges(packed) {
            let part = parts.entry((archive.clone(), range.start, range.end)).or_insert_with(|| {
                let archive = archive.clone();
                Part { archive, range, members: 0, needed: number..number, packed }
            });
            part.members += members;
            part.needed.end = number + 1;
        }
    }
    let mut sorted: Vec<_> = parts.into_values().collect();
    sorted.sort_unstable_by(|a, b| {
        (&a.archive, a.range.start, a.range.end).cmp(&(&b.archive, b.range.start, b.range.end))
    });
    (sorted, pages)
}

/// The most bytes of blocks that are held while `together` objects in a row are read at the same time, apart from single
/// large members, whose cost is that of the object.
fn held(blocks: &[Block], together: usize, most: u64) -> u64 {
    let mut changes: Vec<(usize, i64)> = Vec::new();
    for block in blocks {
        let bytes = block.range.end - block.range.start;
        if bytes <= most {
            // At most `MAX_REQUEST`.
            let bytes = bytes as i64;
            changes.push((block.needed.start.saturating_sub(together.saturating_sub(1)), bytes));
            changes.push((block.needed.end, -bytes));
        }
    }
    // What is dropped comes before what is loaded.
    changes.sort_unstable();
    let sums = changes.iter().scan(0, |held, (_, change)| {
        *held += change;
        Some(*held)
    });
    sums.max().map_or(0, i64::unsigned_abs)
}

/// Reads one member by itself.
pub(super) async fn one(store: &dyn Store, object: &Object) -> Result<std::result::Result<Bytes, Reject>> {
    let reads = Reads::new(store, [object], 1, MAX_REQUEST);
    Box::pin(reads.get(object)).await
}

/// The ranges of an archive that hold the member, without empty ones.
fn ranges(packed: &Packed) -> impl Iterator<Item = Range<u64>> + '_ {
    let dictionary = match &packed.form {
        Form::Page { dictionary, .. } => dictionary.clone(),
        _ => None,
    };
    std::iter::once(packed.range.clone()).chain(dictionary).filter(|range| !range.is_empty())
}

/// The key of the archive of a member, as an object of the listing.
fn archive_key(object: &Object) -> String {
    match names::parse(&object.key) {
        Parsed::Member(archive, _) => names::of_object(&archive),
        Parsed::Object(_) => object.key.clone(),
    }
}

fn archive_of(key: &str, packed: &Packed) -> Object {
    Object { key: key.to_owned(), etag: packed.etag.clone(), size: packed.size, modified: 0, packed: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn member(archive: &str, name: u64, range: Range<u64>) -> Object {
        let packed = Packed { etag: "e".into(), size: 1 << 40, label: None, range: range.clone(), form: Form::Plain };
        Object {
            key: names::of_member(archive, &format!("{name:04}.jpg")),
            etag: "m".into(),
            size: range.end - range.start,
            modified: 0,
            packed: Some(Box::new(packed)),
        }
    }

    fn requests(objects: &[Object], together: usize) -> usize {
        requests_within(objects, together, 256 << 20)
    }

    fn requests_within(objects: &[Object], together: usize, memory: u64) -> usize {
        Reads::new(&MemoryStore::new(), objects, together, memory).blocks.len()
    }

    #[test]
    fn members_near_each_other_are_one_request() {
        let row = |step: u64, length: u64| {
            (0..256).map(|i| member("a.tar", i, i * step..i * step + length)).collect::<Vec<_>>()
        };
        assert_eq!(requests(&row(5_632, 5_000), 16), 1);
        // The order of the names does not matter.
        let mut shuffled = row(5_632, 5_000);
        shuffled.reverse();
        assert_eq!(requests(&shuffled, 16), 1);
        // 64 MB in requests of at most 8.
        assert_eq!(requests(&row(250_000, 250_000), 16), 8);
        assert_eq!(requests(&row(5_632, 5_000), 80), 1);
        // Far apart, or in different archives.
        assert_eq!(requests(&row(GAP + 5_001, 5_000), 16), 256);
        assert_eq!(requests(&[member("a.tar", 1, 0..5), member("b.tar", 1, 5..9)], 16), 2);
        // A large member is a request of its own.
        assert_eq!(requests(&[member("a.tar", 1, 0..100 << 20), member("a.tar", 2, 100 << 20..101 << 20)], 16), 2);
        assert_eq!(requests(&[], 16), 0);
    }

    #[test]
    fn requests_are_as_large_as_the_memory_allows() {
        // 64 MB. Readers that follow the order of the archive hold few blocks.
        let row: Vec<_> = (0..256).map(|i| member("a.tar", i, i * 250_000..(i + 1) * 250_000)).collect();
        assert_eq!(requests_within(&row, 80, 96 << 20), 8);
        assert_eq!(requests_within(&row, 16, 16 << 20), 8);
        // All at once: smaller blocks do not hold less.
        assert_eq!(requests_within(&row, 256, 32 << 20), 128);
        assert_eq!(requests_within(&row, 256, 64 << 20), 8);
        // From many places of the archive at a time.
        let scattered: Vec<_> = (0..256).map(|i| row[i % 16 * 16 + i / 16].clone()).collect();
        assert_eq!(requests_within(&scattered, 4, 64 << 20), 8);
        assert_eq!(requests_within(&scattered, 4, 32 << 20), 32);
    }

    proptest::proptest! {
        /// Follows the readers, and adds up what they hold.
        #[test]
        fn readers_hold_no_more_than_is_planned(
            order in proptest::collection::vec(0_u64..200, 1..200),
            together in 1_usize..90,
            memory in 1_u64..64,
        ) {
            let objects: Vec<_> = order.iter().map(|i| member("a.tar", *i, i * 300_000..i * 300_000 + 250_000)).collect();
            let memory = memory << 20;
            let store = MemoryStore::new();
            let reads = Reads::new(&store, &objects, together, memory);
            let largest = reads.blocks.iter().map(|block| block.range.end - block.range.start).max().unwrap();
            let place = |object: &Object| {
                let range = &object.packed.as_deref().unwrap().range;
                reads.places[&("a.tar".to_owned(), range.start, range.end)]
            };
            let places: Vec<_> = objects.iter().map(place).collect();
            let most = (0..objects.len()).map(|first| {
                let next = objects.len().min(first + together);
                let held = |block: &usize| places[..next].contains(block) && places[first..].contains(block);
                let held = (0..reads.blocks.len()).filter(held);
                held.map(|block| reads.blocks[block].range.end - reads.blocks[block].range.start).sum::<u64>()
            });
            let most = most.max().unwrap();
            proptest::prop_assert!(most <= memory || largest <= MIN_REQUEST, "{most} {memory} {largest}");
        }
    }
}
