//! Listing of the input and its shards, for the stage `plan`.
//!
//! Reads the keys of the input: all of them, or only the shards that contain changed keys. Passes each shard to the
//! [`Planner`].

use std::collections::BTreeSet;

use futures::TryStreamExt;
use tokio::sync::mpsc;

use super::{
    CancellationToken, Monitor, check,
    cut::Cutter,
    pieces::Joiner,
    planner::{Listed, Planner},
    spans::Range,
    sweep::Sweep,
};
use crate::{
    Result, archive,
    dataset::ShardEntry,
    store::{self, Store},
};

/// A listing of the input, and its counts.
pub(super) struct Listing<'a> {
    input: &'a dyn Store,
    cutter: Cutter<'a>,
    monitor: &'a dyn Monitor,
    stop: &'a CancellationToken,
    objects: u64,
    ignored: u64,
}

impl<'a> Listing<'a> {
    pub(super) fn new(
        input: &'a dyn Store,
        cutter: Cutter<'a>,
        monitor: &'a dyn Monitor,
        stop: &'a CancellationToken,
    ) -> Self {
        Listing { input, cutter, monitor, stop, objects: 0, ignored: 0 }
    }

    /// Lists all keys of the input, with as many listers as the store has a use for.
    pub(super) async fn all(self, planner: &mut Planner<'_>) -> Result<Listed> {
        let (sender, mut shards) = mpsc::unbounded_channel();
        let list = async {
            let joiner = Joiner::new(&self.cutter, Some(sender));
            let sweep = Sweep::new(self.input, &joiner, u64::MAX, self.monitor, self.stop);
            sweep.list(vec![Range::default()], self.input.listers()).await?;
            joiner.finish().await
        };
        let plan = async {
            while let Some(shard) = shards.recv().await {
                planner.add(shard).await?;
            }
            Ok(())
        };
        let ((objects, ignored), ()) = futures::try_join!(list, plan)?;
        Ok(Listed { objects, ignored: Some(ignored), earlier: None })
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
        let mut touched: BTreeSet<usize> = BTreeSet::new();
        for key in keys {
            touched.insert(owner(&archive::listed_key(key)));
            // The members of an archive may fill many shards.
            if let Some((first, last)) = archive::bounds(key) {
                touched.extend(owner(&first)..=owner(&last));
            }
        }
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
        Ok(Listed { objects: self.objects, ..Listed::default() })
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
        let (boundaries, mut segment, mut of_shard) = (self.cutter.boundaries(), Vec::new(), 0);
        let mut pages = store::ascending(self.input, "", after);
        // A file system or a network that hangs does not hold up a stop.
        while let Some(Some(page)) = self.stop.run_until_cancelled(pages.try_next()).await.transpose()? {
            check(self.stop)?;
            for object in page {
                if !self.cutter.takes(&object)? {
                    self.ignored += 1;
                    continue;
                }
                self.objects += 1;
                of_shard += 1;
                let last = boundaries.ends(of_shard, &object.key).then(|| object.key.clone());
                segment.push(object);
                let Some(last) = last else { continue };
                of_shard = 0;
                let ends = may_end(&last);
                if ends || boundaries.is_fixed(&last) {
                    planner.add_all(self.cutter.cut(std::mem::take(&mut segment)).await?).await?;
                }
                if ends {
                    return Ok(Some(last));
                }
            }
            self.monitor.listed(self.objects);
        }
        check(self.stop)?;
        planner.add_all(self.cutter.cut(segment).await?).await?;
        Ok(None)
    }
}
