//! Listing a range of keys with many listings side by side.
//!
//! Each lister lists a range. A lister without work divides the range that has most left: it asks the store, or guesses a
//! key in the middle and looks whether keys come behind it. If so, it takes them over. Each key is in the range of exactly
//! one lister at any time, so no key is listed twice, whatever is uploaded and deleted meanwhile.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures::{TryStreamExt, stream::FuturesUnordered};
use tokio::sync::Notify;

use super::{
    CancellationToken, Monitor,
    bisect::{beyond, middle, share, shared},
    check,
    cut::Cutter,
    pieces::{Joiner, Piece},
};
use crate::{
    Result,
    store::{self, Middle, Object, Store},
};

/// Most listings that are tried to divide one range.
const PROBES: usize = 24;
/// Pages that a range must have left to be divided.
const WORTH_DIVIDING: f64 = 2.0;
/// Pages until a range that could not be divided is tried again.
const PAGES_OF_REST: u64 = 4;
/// More objects than any bucket has.
const MANY: f64 = 1e15;

/// A range of keys to list.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Range {
    /// All keys are greater. None from the first key.
    pub(super) after: Option<String>,
    /// No key is greater. None to the last key.
    pub(super) until: Option<String>,
    /// A key behind which there were none of this range.
    pub(super) bound: Option<String>,
    /// Objects that it is expected to have; 0 if nothing is known.
    pub(super) expected: u64,
}

/// A range that is being listed.
#[derive(Debug)]
struct Span {
    range: Range,
    /// First and last key that were listed.
    first: Option<String>,
    at: Option<String>,
    objects: u64,
    /// Objects of the largest page.
    page: u64,
    /// Whether a lister tries to divide it.
    dividing: bool,
    /// It is not divided before it has this number of objects.
    rests_until: u64,
}

impl Span {
    fn new(range: Range) -> Self {
        Span { range, first: None, at: None, objects: 0, page: 1, dividing: false, rests_until: 0 }
    }

    /// The upper end, as far as it is known.
    fn end(&self) -> Option<&str> {
        self.range.bound.as_deref().or(self.range.until.as_deref())
    }

    /// Objects that are expected behind the last listed one.
    fn left(&self) -> f64 {
        let (Some(first), Some(at)) = (&self.first, &self.at) else { return self.range.expected as f64 };
        let share = share(first, at, self.end());
        if share > 0.0 { self.objects as f64 * (1.0 - share) / share } else { f64::MAX }
    }

    /// The objects of a page that belong to the range, and whether the page reaches its end.
    fn accept(&mut self, mut page: Vec<Object>) -> (Vec<Object>, bool) {
        self.page = self.page.max(page.len() as u64);
        let until = self.range.until.as_deref();
        let ends = page.last().is_some_and(|last| until.is_some_and(|until| last.key.as_str() >= until));
        if let Some(until) = until.filter(|_| ends) {
            page.truncate(page.partition_point(|object| object.key.as_str() <= until));
        }
        if let (Some(first), Some(last)) = (page.first(), page.last()) {
            self.first.get_or_insert_with(|| first.key.clone());
            self.at = Some(last.key.clone());
        }
        self.objects += page.len() as u64;
        (page, ends)
    }

    /// What is left of the range when its listing stops early.
    fn rest(self) -> Range {
        let expected = self.left().min(MANY) as u64;
        Range { after: self.at.or(self.range.after), expected, ..self.range }
    }
}

/// Work for a lister.
#[derive(Debug)]
struct Task {
    span: u64,
    /// The first page, if it is known.
    page: Option<Vec<Object>>,
}

/// What a look behind a key has shown.
#[derive(Debug)]
enum Look {
    /// The rest of the range is the task of the lister that looked.
    Taken(Task),
    /// Keys of the range come behind the key.
    Found,
    /// No key of the range comes behind it.
    Nothing,
    /// The range was listed beyond the key meanwhile.
    Late,
}

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<Range>,
    spans: BTreeMap<u64, Span>,
    next: u64,
    objects: u64,
    full: bool,
    rests: Vec<Range>,
}

impl State {
    fn start(&mut self, range: Range, page: Option<Vec<Object>>) -> Task {
        let span = self.next;
        self.next += 1;
        self.spans.insert(span, Span::new(range));
        Task { span, page }
    }

    /// Adds a range that is only divided.
    fn wait(&mut self, range: Range) {
        let at = Some(range.after.clone().unwrap_or_default());
        self.spans.insert(self.next, Span { at, ..Span::new(range) });
        self.next += 1;
    }

    /// The range that has most left, if it is worth dividing.
    fn choose(&mut self) -> Option<u64> {
        let worth = |span: &Span| {
            let left = span.left();
            let may = span.at.is_some() && !span.dividing && span.objects >= span.rests_until;
            (may && left > WORTH_DIVIDING * span.page as f64).then_some(left)
        };
        let spans = self.spans.iter().filter_map(|(number, span)| Some((*number, worth(span)?)));
        let (chosen, _) = spans.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))?;
        self.spans.get_mut(&chosen)?.dividing = true;
        Some(chosen)
    }

    /// Takes the keys behind `key` out of a range, if there are some: they begin with `page`.
    fn look(&mut self, span: u64, key: &str, page: Vec<Object>, take: bool) -> Look {
        let Some(victim) = self.spans.get_mut(&span) else { return Look::Late };
        if victim.at.as_deref().is_none_or(|at| at >= key) {
            return Look::Late;
        }
        let until = victim.range.until.as_deref();
        if !page.first().is_some_and(|first| until.is_none_or(|until| first.key.as_str() <= until)) {
            victim.range.bound = Some(key.to_owned());
            return Look::Nothing;
        }
        if !take {
            return Look::Found;
        }
        let (after, expected) = (Some(key.to_owned()), (victim.left() / 2.0).min(MANY) as u64);
        victim.range.expected = expected;
        let (until, bound) = (victim.range.until.replace(key.to_owned()), victim.range.bound.take());
        Look::Taken(self.start(Range { after, until, bound, expected }, Some(page)))
    }
}

/// A listing of some ranges of keys.
pub(super) struct Sweep<'a> {
    pub(super) input: &'a dyn Store,
    pub(super) cutter: &'a Cutter<'a>,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) stop: &'a CancellationToken,
    /// Receives what was listed.
    pub(super) joiner: &'a Joiner<'a>,
    /// After this number of objects, listers stop where they are.
    pub(super) most: u64,
    state: Mutex<State>,
    changed: Notify,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(
        input: &'a dyn Store,
        (cutter, joiner): (&'a Cutter<'a>, &'a Joiner<'a>),
        most: u64,
        monitor: &'a dyn Monitor,
        stop: &'a CancellationToken,
    ) -> Self {
        Sweep { input, cutter, monitor, stop, joiner, most, state: Mutex::default(), changed: Notify::new() }
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
        let mut piece = Piece::new(range.after.clone());
        let from = page.as_ref().and_then(|page| page.last()).map(|last| last.key.clone()).or(range.after);
        let mut ended = match page {
            Some(page) => self.take_page(span, page, &mut piece).await?,
            None => false,
        };
        let mut pages = store::ascending(self.input, "", from.as_deref());
        while !ended && !self.state().full {
            // A file system or a network that hangs does not hold up a stop.
            let page = self.stop.run_until_cancelled(pages.try_next()).await.transpose()?;
            check(self.stop)?;
            ended = match page.flatten() {
                Some(page) => self.take_page(span, page, &mut piece).await?,
                None => true,
            };
        }
        let left = {
            let state = &mut *self.state();
            let Some(span) = state.spans.remove(&span) else { return Ok(()) };
            piece.until = if ended { span.range.until.clone() } else { span.at.clone() };
            let nothing = !ended && span.at.is_none();
            if !ended {
                state.rests.push(span.rest());
            }
            nothing
        };
        if left { Ok(()) } else { self.joiner.add(piece).await }
    }

    /// Adds a page to a piece. Returns whether it reaches the end of the range.
    async fn take_page(&self, span: u64, page: Vec<Object>, piece: &mut Piece) -> Result<bool> {
        let (objects, ended, listed) = {
            let state = &mut *self.state();
            let Some(span) = state.spans.get_mut(&span) else { return Ok(true) };
            let (objects, ended) = span.accept(page);
            state.objects += objects.len() as u64;
            state.full |= state.objects >= self.most;
            (objects, ended, state.objects)
        };
        self.monitor.listed(listed);
        self.changed.notify_waiters();
        for object in objects {
            if self.cutter.takes(&object)? {
                piece.push(object, self.cutter).await?;
            } else {
                piece.ignored += 1;
            }
        }
        Ok(ended)
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
            let page = self.stop.run_until_cancelled(pages.try_next()).await.transpose()?;
            check(self.stop)?;
            let look = self.state().look(number, &key, page.flatten().unwrap_or_default(), guess.takes() || known);
            match look {
                Look::Taken(task) => return Ok(Some(task)),
                Look::Nothing if known => return Ok(None),
                look => guess.learn(&look),
            }
        }
        Ok(None)
    }
}

/// Chooses the keys to look behind.
#[derive(Debug, Default)]
enum Guess {
    /// In the middle.
    #[default]
    First,
    /// The first guess was beyond all keys. How much do they have in common with the last listed one?
    Beyond,
    /// At least `least` bytes of `key`, and less than `most`.
    Prefix { key: String, least: usize, most: usize, tried: usize },
    /// In the middle of what is left.
    Last,
}

impl Guess {
    /// Whether keys that are found are taken.
    fn takes(&self) -> bool {
        !matches!(self, Guess::Prefix { .. })
    }

    /// A key behind `at`, and before `end`. None if there is none.
    fn next(&mut self, at: &str, end: Option<&str>) -> Option<String> {
        if matches!(self, Guess::Beyond) {
            let least = end.map_or(0, |end| shared(at, end));
            *self = Guess::Prefix { key: at.to_owned(), least, most: at.len(), tried: 0 };
        }
        if let Guess::Prefix { key, least, most, tried } = self {
            let half = *least + (*most - *least) / 2;
            if let Some(half) = (half..*most).find(|half| half > least && key.is_char_boundary(*half)) {
                *tried = half;
                return key.get(..half).map(beyond);
            }
            *self = Guess::Last;
        }
        middle(at, end)
    }

    fn learn(&mut self, look: &Look) {
        match (&mut *self, look) {
            (Guess::Prefix { least, tried, .. }, Look::Nothing) => *least = *tried,
            (Guess::Prefix { most, tried, .. }, Look::Found) => *most = *tried,
            (Guess::Prefix { .. }, _) => *self = Guess::Last,
            (Guess::First, Look::Nothing) => *self = Guess::Beyond,
            _ => {}
        }
    }
}
