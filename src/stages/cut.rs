//! Shards of a part of the listing, and the lists of their objects.
//!
//! Some keys end their shard wherever it began (see [`crate::dataset::shard`]). The objects behind one such key up to the
//! next are a *segment*: its shards do not depend on what stands before or behind it. Listers cut their segments side by
//! side. Each list of objects, `runs/<run>/objects-*.jsonl`, is that of one segment.

use std::{collections::HashSet, sync::Arc};

use sha2::{Digest, Sha256};

use super::{lines::ObjectLine, records::LineRange};
use crate::{
    Result,
    dataset::{
        self, Checksum,
        blocking::run_blocking,
        keys,
        labelling::{Labelling, check_folder},
        settings::Settings,
        shard::{Boundaries, ShardHasher, Sharder},
    },
    ids::{ExtractorId, RunId, ShardId, short_hex},
    store::{self, Object, Store},
};

/// A shard of the listing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListedShard {
    pub(super) id: ShardId,
    /// Its number of objects.
    pub(super) count: u64,
    /// First and last key.
    pub(super) first: String,
    pub(super) last: String,
    /// Its objects that the file of labels names.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(super) named: u64,
    /// The list of its objects; `None` if an earlier run has finished the shard.
    pub(super) objects: Option<LineRange>,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// Cuts segments into shards, and writes the lists of their objects.
#[derive(Clone, Debug)]
pub(super) struct Cutter<'a> {
    output: &'a dyn Store,
    run: &'a RunId,
    boundaries: Boundaries,
    hasher: ShardHasher,
    labelling: Arc<Labelling>,
    partition_by_label: bool,
    finished: Arc<HashSet<ShardId>>,
}

impl<'a> Cutter<'a> {
    /// A cutter for a run with these settings. Shards of `finished` get no list.
    pub(super) fn new(
        (output, run): (&'a dyn Store, &'a RunId),
        settings: &Settings,
        extractor: &ExtractorId,
        labelling: Arc<Labelling>,
        finished: Arc<HashSet<ShardId>>,
    ) -> Result<Self> {
        Ok(Cutter {
            output,
            run,
            boundaries: Boundaries::new(settings.shard_size())?,
            hasher: ShardHasher::new(extractor, settings.compression()),
            labelling,
            partition_by_label: settings.partitions(),
            finished,
        })
    }

    /// Where shards end.
    pub(super) fn boundaries(&self) -> Boundaries {
        self.boundaries
    }

    /// Whether an object of the listing is an image or becomes a reject; false for those that are
    /// [ignored](store::is_ignored). Fails with `Input.Invalid` if its label cannot be a folder: before any image is read,
    /// because the name is used last.
    pub(super) fn takes(&self, object: &Object) -> Result<bool> {
        if store::is_ignored(&object.key) {
            return Ok(false);
        }
        if self.partition_by_label {
            check_folder(self.labelling.of_object(object))?;
        }
        Ok(true)
    }

    /// Cuts objects whose first begins a shard and whose last ends one, or is the last of the input. Writes the list of
    /// those in shards that are not finished.
    pub(super) async fn cut(&self, objects: Vec<Object>) -> Result<Vec<ListedShard>> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let (run, boundaries, hasher) = (self.run.clone(), self.boundaries, self.hasher.clone());
        let (finished, labelling) = (self.finished.clone(), self.labelling.clone());
        let cut = move || {
            let sharder = Sharder::new(boundaries, hasher, labelling.clone());
            cut(&run, sharder, &labelling, &finished, objects)
        };
        let Segment { shards, key, lines } = run_blocking(cut).await?;
        if !lines.is_empty() {
            // The name is a hash of the shards, so a lister that is called twice writes the same file, or two.
            self.output.put(&key, lines.into()).await?;
        }
        Ok(shards)
    }
}

/// The shards of a segment, and the list of their objects.
struct Segment {
    shards: Vec<ListedShard>,
    key: String,
    lines: Vec<u8>,
}

fn cut(
    run: &RunId,
    mut sharder: Sharder,
    labelling: &Labelling,
    finished: &HashSet<ShardId>,
    objects: Vec<Object>,
) -> Result<Segment> {
    let mut cuts: Vec<_> = objects.into_iter().filter_map(|object| sharder.push(object)).collect();
    cuts.extend(sharder.finish());
    let (mut shards, mut lines, mut ids) = (Vec::with_capacity(cuts.len()), Vec::new(), Sha256::new());
    for cut in cuts {
        let offset = lines.len();
        let key = |object: Option<&Object>| object.map(|object| object.key.clone()).unwrap_or_default();
        let (first, last, count) = (key(cut.objects.first()), key(cut.objects.last()), cut.objects.len() as u64);
        let named = cut.objects.iter().filter(|object| labelling.given(&object.key).is_some()).count() as u64;
        let range = if finished.contains(&cut.id) {
            None
        } else {
            let objects = ObjectLine::of(cut.objects, labelling);
            objects.iter().try_for_each(|object| dataset::push_json_line(&mut lines, object))?;
            let Checksum { sha256, bytes } = Checksum::of(&lines[offset..]);
            ids.update(cut.id.as_str());
            Some(LineRange { key: String::new(), offset: offset as u64, length: bytes, sha256 })
        };
        shards.push(ListedShard { id: cut.id, count, first, last, named, objects: range });
    }
    let key = keys::objects(run, &short_hex(&ids.finalize()));
    for range in shards.iter_mut().filter_map(|shard| shard.objects.as_mut()) {
        range.key.clone_from(&key);
    }
    Ok(Segment { shards, key, lines })
}
