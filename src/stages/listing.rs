//! Listing of the input and its shards, for the stage `plan`.
//!
//! Reads the keys of the input: all of them, or only the shards that contain changed keys. Passes each shard to the
//! [`Planner`].

use std::{collections::BTreeSet, sync::Arc};

use futures::TryStreamExt;

use super::{
    CancellationToken, Monitor, check,
    planner::{Listed, Planner},
};
use crate::{
    Result,
    dataset::{
        ShardEntry,
        labelling::{Labelling, check_folder},
        settings::Settings,
        shard::{Boundaries, ShardHasher, Sharder},
    },
    ids::ExtractorId,
    store::{self, Object, Store},
};

/// A listing of the input, and its counts.
pub(super) struct Listing<'a> {
    input: &'a dyn Store,
    boundaries: Boundaries,
    partition_by_label: bool,
    hasher: ShardHasher,
    labelling: Arc<Labelling>,
    monitor: &'a dyn Monitor,
    stop: &'a CancellationToken,
    objects: u64,
    ignored: u64,
    named: u64,
}

impl<'a> Listing<'a> {
    pub(super) fn new(
        input: &'a dyn Store,
        settings: &Settings,
        extractor: &ExtractorId,
        labelling: Arc<Labelling>,
        monitor: &'a dyn Monitor,
        stop: &'a CancellationToken,
    ) -> Result<Self> {
        let boundaries = Boundaries::new(settings.shard_size())?;
        let hasher = ShardHasher::new(extractor, settings.compression());
        let partition_by_label = settings.partition_by_label;
        let (objects, ignored, named) = (0, 0, 0);
        Ok(Listing { input, boundaries, partition_by_label, hasher, labelling, monitor, stop, objects, ignored, named })
    }

    /// Lists all keys of the input.
    pub(super) async fn all(mut self, planner: &mut Planner<'_>) -> Result<Listed> {
        self.list(planner, None, |_| false).await?;
        Ok(Listed { objects: self.objects, ignored: Some(self.ignored), named: Some(self.named) })
    }

    /// Lists the shards that `keys` belong to; takes the other shards from `shards`, those of the base version.
    ///
    /// The last key of a shard alone decides that the shard ends there (see [`crate::dataset::shard`]); only the last shard
    /// ends with the input. So a listing can start after any shard, and can stop as soon as a shard ends at the same key
    /// as a shard of the base. Shards with rejects are always listed, because the reason of a reject can pass.
    pub(super) async fn changed(
        mut self,
        planner: &mut Planner<'_>,
        shards: &[ShardEntry],
        keys: &BTreeSet<String>,
    ) -> Result<Listed> {
        let Some(end) = shards.len().checked_sub(1) else { return self.all(planner).await };
        let owner = |key: &str| shards.partition_point(|shard| shard.last.as_str() < key).min(end);
        let mut touched: BTreeSet<usize> = keys.iter().map(|key| owner(key)).collect();
        touched.extend((0..=end).filter(|i| shards[*i].rejects > 0 || !planner.is_ready(&shards[*i].id)));
        let mut next = 0;
        while let Some(first) = touched.range(next..).next().copied() {
            self.reuse(planner, &shards[next..first]).await?;
            let after = first.checked_sub(1).map(|before| shards[before].last.as_str());
            let ends_like = |last: &str| shards[..end].binary_search_by(|shard| shard.last.as_str().cmp(last)).ok();
            // The listing may stop after a shard of the base whose successor has not changed.
            let ended = self
                .list(planner, after, |last| ends_like(last).is_some_and(|shard| !touched.contains(&(shard + 1))))
                .await?;
            next = ended.and_then(|last| ends_like(&last)).map_or(shards.len(), |shard| shard + 1);
        }
        self.reuse(planner, &shards[next..]).await?;
        Ok(Listed { objects: self.objects, ignored: None, named: None })
    }

    async fn reuse(&mut self, planner: &mut Planner<'_>, shards: &[ShardEntry]) -> Result<()> {
        for shard in shards {
            self.objects += shard.objects();
            planner.add_ready(shard).await?;
        }
        self.monitor.listed(self.objects);
        Ok(())
    }

    /// Lists the keys after `after`, to the end of the input or to the first shard whose last key satisfies `may_end`.
    /// Returns that key; `None` at the end of the input. Fails with `Input.Invalid` if a label cannot be a folder.
    async fn list(
        &mut self,
        planner: &mut Planner<'_>,
        after: Option<&str>,
        may_end: impl Fn(&str) -> bool,
    ) -> Result<Option<String>> {
        let mut sharder = Sharder::new(self.boundaries, self.hasher.clone(), self.labelling.clone());
        let mut pages = store::ascending(self.input, "", after);
        // A file system or a network that hangs does not hold up a stop.
        while let Some(Some(page)) = self.stop.run_until_cancelled(pages.try_next()).await.transpose()? {
            check(self.stop)?;
            for object in page {
                if !is_image_candidate(&object) {
                    self.ignored += 1;
                    continue;
                }
                self.objects += 1;
                self.named += u64::from(self.labelling.given(&object.key).is_some());
                // Before any image is read: the name of its folder is known now, and is used last.
                if self.partition_by_label {
                    check_folder(self.labelling.of(&object.key))?;
                }
                let Some(cut) = sharder.push(object) else { continue };
                let last = cut.objects.last().map(|object| object.key.clone()).unwrap_or_default();
                planner.add(cut).await?;
                if may_end(&last) {
                    return Ok(Some(last));
                }
            }
            self.monitor.listed(self.objects);
        }
        check(self.stop)?;
        if let Some(cut) = sharder.finish() {
            planner.add(cut).await?;
        }
        Ok(None)
    }
}

/// False for hidden files and folder markers. Any other object is an image or becomes a reject.
fn is_image_candidate(object: &Object) -> bool {
    !object.key.ends_with('/') && !object.key.split('/').any(|part| part.starts_with('.'))
}
