//! Listing the input, whole or where it has changed, and cutting it into shards.

use std::collections::BTreeSet;

use futures::TryStreamExt;

use super::{
    CancellationToken, Monitor, check,
    planner::{Listed, Planner},
};
use crate::{
    Result,
    dataset::{
        Manifest, ShardEntry,
        shard::{Boundaries, Sharder},
    },
    ids::ExtractorId,
    store::{Object, Store},
};

/// One listing of the input.
pub(super) struct Listing<'a> {
    input: &'a dyn Store,
    boundaries: Boundaries,
    extractor: &'a ExtractorId,
    monitor: &'a dyn Monitor,
    stop: &'a CancellationToken,
    objects: u64,
    ignored: u64,
}

impl<'a> Listing<'a> {
    pub(super) fn new(
        input: &'a dyn Store,
        shard_size: u32,
        extractor: &'a ExtractorId,
        monitor: &'a dyn Monitor,
        stop: &'a CancellationToken,
    ) -> Result<Self> {
        let boundaries = Boundaries::new(shard_size)?;
        Ok(Listing { input, boundaries, extractor, monitor, stop, objects: 0, ignored: 0 })
    }

    /// Lists everything.
    pub(super) async fn all(mut self, planner: &mut Planner<'_>) -> Result<Listed> {
        self.list(planner, None, |_| false).await?;
        Ok(Listed { objects: self.objects, ignored: Some(self.ignored) })
    }

    /// Lists the shards that `keys` fall into, and takes the others over from the current version.
    ///
    /// A shard but the last ends where its last key says so (see [`crate::dataset::shard`]), whatever comes before and behind.
    /// So the listing may begin behind any shard, and may end as soon as a shard ends where one of the current version
    /// does. Shards with rejects are always listed: the reason may have passed.
    pub(super) async fn changed(
        mut self,
        planner: &mut Planner<'_>,
        base: &Manifest,
        keys: &BTreeSet<String>,
    ) -> Result<Listed> {
        let shards = &base.shards;
        let Some(end) = shards.len().checked_sub(1) else { return self.all(planner).await };
        let owner = |key: &str| shards.partition_point(|shard| shard.last.as_str() < key).min(end);
        let mut touched: BTreeSet<usize> = keys.iter().map(|key| owner(key)).collect();
        touched.extend((0..=end).filter(|i| shards[*i].rejects > 0 || !planner.is_ready(&shards[*i].id)));
        let mut next = 0;
        while let Some(first) = touched.range(next..).next().copied() {
            self.take_over(planner, &shards[next..first]);
            let after = first.checked_sub(1).map(|before| shards[before].last.as_str());
            let ends_like = |last: &str| shards[..end].binary_search_by(|shard| shard.last.as_str().cmp(last)).ok();
            // Where the listing may end: behind a shard of the base whose successor has not changed.
            let ended = self
                .list(planner, after, |last| ends_like(last).is_some_and(|shard| !touched.contains(&(shard + 1))))
                .await?;
            next = ended.and_then(|last| ends_like(&last)).map_or(shards.len(), |shard| shard + 1);
        }
        self.take_over(planner, &shards[next..]);
        Ok(Listed { objects: self.objects, ignored: None })
    }

    fn take_over(&mut self, planner: &mut Planner<'_>, shards: &[ShardEntry]) {
        for shard in shards {
            self.objects += shard.rows + shard.rejects;
            planner.add_ready(shard.id.clone());
        }
        self.monitor.listed(self.objects);
    }

    /// Lists what comes after a key, to the end or until a shard ends with a key where it `may_end`; that key.
    async fn list(
        &mut self,
        planner: &mut Planner<'_>,
        after: Option<&str>,
        may_end: impl Fn(&str) -> bool,
    ) -> Result<Option<String>> {
        let mut sharder = Sharder::new(self.boundaries, self.extractor.clone());
        let mut pages = self.input.list("", after);
        while let Some(page) = pages.try_next().await? {
            check(self.stop)?;
            for object in page {
                if !is_image_candidate(&object) {
                    self.ignored += 1;
                    continue;
                }
                self.objects += 1;
                let Some(cut) = sharder.push(object) else { continue };
                let last = cut.objects.last().map(|object| object.key.clone()).unwrap_or_default();
                planner.add(cut).await?;
                if may_end(&last) {
                    return Ok(Some(last));
                }
            }
            self.monitor.listed(self.objects);
        }
        if let Some(cut) = sharder.finish() {
            planner.add(cut).await?;
        }
        Ok(None)
    }
}

/// Hidden files and folder markers are not images. Any other object is an image or becomes a reject.
fn is_image_candidate(object: &Object) -> bool {
    !object.key.ends_with('/') && !object.key.split('/').any(|part| part.starts_with('.'))
}
