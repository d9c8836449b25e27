//! Listing a range of keys with many listings side by side.
//!
//! Each lister lists a range. A lister without work divides the range that has most left: it asks the store, or guesses a
//! key in the middle and looks whether keys come behind it. If so, it takes them over. Each key is in the range of exactly
//! one lister at any time, so no key is listed twice, whatever is uploaded and deleted meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::{
    TryStreamExt,
    stream::{BoxStream, FuturesUnordered},
    try_join,
};
use tokio::sync::Notify;

use super::{
    CancellationToken, Monitor, check,
    spans::{Guess, Look, PAGES_OF_REST, Range, State, Task},
};
use crate::{
    Result,
    store::{self, Middle, Object, Store},
};

/// Most listings that are tried to divide one range.
const PROBES: usize = 24;

/// What becomes of the objects that are listed.
pub(super) trait Sink: Sync {
    /// What was made of a range so far.
    type Part: Send;

    /// The part of a range whose keys are greater than `after`.
    fn part(&self, after: Option<String>) -> Self::Part;

    /// Adds the objects of a page, which follow those that are there.
    fn add(&self, part: &mut Self::Part, objects: Vec<Object>) -> impl Future<Output = Result<()>> + Send;

    /// Takes the part of a range that has ended at `until`; None at the end of the input.
    fn end(&self, part: Self::Part, until: Option<String>) -> impl Future<Output = Result<()>> + Send;
}

/// A listing of some ranges of keys.
pub(super) struct Sweep<'a, S> {
    input: &'a dyn Store,
    monitor: &'a dyn Monitor,
    stop: &'a CancellationToken,
    sink: &'a S,
    /// After this number of objects, listers stop where they are.
    most: u64,
    state: Mutex<State>,
    changed: Notify,
}

impl<'a, S: Sink> Sweep<'a, S> {
    pub(super) fn new(
        input: &'a dyn Store,
        sink: &'a S,
        most: u64,
        monitor: &'a dyn Monitor,
        stop: &'a CancellationToken,
    ) -> Self {
        Sweep { input, monitor, stop, sink, most, state: Mutex::default(), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists ranges with this number of listers. Returns the ranges that are left, in key order.
    pub(super) async fn list(&self, ranges: Vec<Range>, listers: usize) -> Result<Vec<Range>> {
        self.state().pending.extend(ranges);
        let listers: FuturesUnordered<_> = (0..listers.max(1)).map(|_| self.lister()).collect();
        listers.try_collect::<Vec<()>>().await?;
        let mut rests = std::mem::take(&mut self.state().rests);
        rests.sort_by(|a, b| a.after.cmp(&b.after));
        Ok(rests)
    }

    /// Divides ranges until there are `parts`, or none can be divided. Lists nothing.
    pub(super) async fn spread(&self, ranges: Vec<Range>, parts: usize) -> Result<Vec<Range>> {
        {
            let state = &mut *self.state();
            for range in ranges {
                state.wait(range);
            }
        }
        let dividers: FuturesUnordered<_> = (0..self.input.listers().max(1)).map(|_| self.divider(parts)).collect();
        dividers.try_collect::<Vec<()>>().await?;
        let spans = std::mem::take(&mut self.state().spans);
        let mut ranges: Vec<Range> = spans.into_values().map(|span| span.range).collect();
        ranges.sort_by(|a, b| a.after.cmp(&b.after));
        Ok(ranges)
    }

    async fn divider(&self, parts: usize) -> Result<()> {
        loop {
            let chosen = {
                let state = &mut *self.state();
                let dividing = state.spans.values().filter(|span| span.dividing).count();
                if state.spans.len() + dividing < parts { state.choose() } else { None }
            };
            let Some(span) = chosen else { return Ok(()) };
            if let Some(Task { span, .. }) = self.divide(span).await? {
                let state = &mut *self.state();
                if let Some(span) = state.spans.remove(&span) {
                    state.wait(span.range);
                }
            }
        }
    }

    async fn lister(&self) -> Result<()> {
        while let Some(task) = self.next().await? {
            self.list_range(task).await?;
            self.changed.notify_waiters();
        }
        Ok(())
    }

    /// The next range to list. None if no work is left, or none can be divided.
    async fn next(&self) -> Result<Option<Task>> {
        loop {
            let changed = self.changed.notified();
            let chosen = {
                let state = &mut *self.state();
                if state.full {
                    state.rests.extend(state.pending.drain(..));
                    return Ok(None);
                }
                if let Some(range) = state.pending.pop_front() {
                    return Ok(Some(state.start(range, None)));
                }
                if state.spans.is_empty() {
                    return Ok(None);
                }
                state.choose()
            };
            match chosen {
                None => changed.await,
                Some(span) => {
                    let task = self.divide(span).await?;
                    self.changed.notify_waiters();
                    if task.is_some() {
                        return Ok(task);
                    }
                }
            }
        }
    }

    /// Lists a range until its end, or until enough is listed.
    async fn list_range(&self, Task { span, page }: Task) -> Result<()> {
        let range = self.state().spans.get(&span).map(|span| span.range.clone()).unwrap_or_default();
        let mut part = self.sink.part(range.after.clone());
        let from = page.as_ref().and_then(|page| page.last()).map(|last| last.key.clone()).or(range.after);
        let mut pages = store::ascending(self.input, "", from.as_deref());
        let mut page = match page {
            Some(page) => Some(page),
            None => self.fetch(&mut pages).await?,
        };
        let ended = loop {
            let Some(found) = page else { break true };
            let (objects, ended) = self.accept(span, found);
            let adding = self.sink.add(&mut part, objects);
            if ended || self.state().full {
                adding.await?;
                break ended;
            }
            // The next page comes while lists of objects are written.
            ((), page) = try_join!(adding, self.fetch(&mut pages))?;
        };
        let until = {
            let state = &mut *self.state();
            let Some(span) = state.spans.remove(&span) else { return Ok(()) };
            if ended {
                span.range.until
            } else {
                let at = span.at.clone();
                state.rests.push(span.rest());
                at
            }
        };
        self.sink.end(part, until).await
    }

    /// The next page of a listing. A file system or a network that hangs does not hold up a stop.
    async fn fetch(&self, pages: &mut BoxStream<'_, Result<Vec<Object>>>) -> Result<Option<Vec<Object>>> {
        let page = self.stop.run_until_cancelled(pages.try_next()).await.transpose()?;
        check(self.stop)?;
        Ok(page.flatten())
    }

    /// The objects of a page that belong to its range, and whether it reaches the end of the range.
    fn accept(&self, span: u64, page: Vec<Object>) -> (Vec<Object>, bool) {
        let (objects, ended, listed) = {
            let state = &mut *self.state();
            let Some(span) = state.spans.get_mut(&span) else { return (Vec::new(), true) };
            let (objects, ended) = span.accept(page);
            state.objects += objects.len() as u64;
            state.full |= state.objects >= self.most;
            (objects, ended, state.objects)
        };
        self.monitor.listed(listed);
        self.changed.notify_waiters();
        (objects, ended)
    }

    /// Divides a range, and takes its second part. None if that was not possible.
    async fn divide(&self, number: u64) -> Result<Option<Task>> {
        let task = self.search(number).await;
        if let Some(span) = self.state().spans.get_mut(&number) {
            span.dividing = false;
            if matches!(task, Ok(None)) {
                span.rests_until = span.objects + PAGES_OF_REST * span.page;
            }
        }
        task
    }

    async fn search(&self, number: u64) -> Result<Option<Task>> {
        let mut guess = Guess::default();
        for _ in 0..PROBES {
            let ends = {
                let state = self.state();
                let span = state.spans.get(&number).filter(|_| !state.full);
                span.and_then(|span| Some((span.at.clone()?, span.end().map(str::to_owned))))
            };
            let Some((at, end)) = ends else { return Ok(None) };
            let (key, known) = match self.input.middle(&at, end.as_deref()).await? {
                Middle::Key(key) => (key, true),
                Middle::Whole => return Ok(None),
                Middle::Unknown => match guess.next(&at, end.as_deref()) {
                    Some(key) => (key, false),
                    None => return Ok(None),
                },
            };
            let mut pages = store::ascending(self.input, "", Some(&key));
            let page = self.fetch(&mut pages).await?.unwrap_or_default();
            let look = self.state().look(number, &key, page, guess.takes() || known);
            match look {
                Look::Taken(task) => return Ok(Some(task)),
                Look::Nothing if known => return Ok(None),
                look => guess.learn(&look),
            }
        }
        Ok(None)
    }
}
