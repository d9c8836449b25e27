//! The ranges of a listing, and how they are divided.

use std::collections::{BTreeMap, VecDeque};

use super::bisect::{beyond, middle, share, shared};
use crate::store::Object;

/// Pages that a range must have left to be divided.
const WORTH_DIVIDING: f64 = 2.0;
/// Pages until a range that could not be divided is tried again.
pub(super) const PAGES_OF_REST: u64 = 4;
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
pub(super) struct Span {
    pub(super) range: Range,
    /// First and last key that were listed.
    first: Option<String>,
    pub(super) at: Option<String>,
    pub(super) objects: u64,
    /// Objects of the largest page.
    pub(super) page: u64,
    /// Whether a lister tries to divide it.
    pub(super) dividing: bool,
    /// It is not divided before it has this number of objects.
    pub(super) rests_until: u64,
}

impl Span {
    fn new(range: Range) -> Self {
        Span { range, first: None, at: None, objects: 0, page: 1, dividing: false, rests_until: 0 }
    }

    /// The upper end, as far as it is known.
    pub(super) fn end(&self) -> Option<&str> {
        self.range.bound.as_deref().or(self.range.until.as_deref())
    }

    /// Objects that are expected behind the last listed one.
    fn left(&self) -> f64 {
        let (Some(first), Some(at)) = (&self.first, &self.at) else { return self.range.expected as f64 };
        let share = share(first, at, self.end());
        if share > 0.0 { self.objects as f64 * (1.0 - share) / share } else { f64::MAX }
    }

    /// The objects of a page that belong to the range, and whether the page reaches its end.
    pub(super) fn accept(&mut self, mut page: Vec<Object>) -> (Vec<Object>, bool) {
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
    pub(super) fn rest(self) -> Range {
        let expected = self.left().min(MANY) as u64;
        Range { after: self.at.or(self.range.after), expected, ..self.range }
    }
}

/// Work for a lister.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) span: u64,
    /// The first page, if it is known.
    pub(super) page: Option<Vec<Object>>,
}

/// What a look behind a key has shown.
#[derive(Debug)]
pub(super) enum Look {
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
pub(super) struct State {
    pub(super) pending: VecDeque<Range>,
    pub(super) spans: BTreeMap<u64, Span>,
    next: u64,
    pub(super) objects: u64,
    pub(super) full: bool,
    pub(super) rests: Vec<Range>,
}

impl State {
    pub(super) fn start(&mut self, range: Range, page: Option<Vec<Object>>) -> Task {
        let span = self.next;
        self.next += 1;
        self.spans.insert(span, Span::new(range));
        Task { span, page }
    }

    /// Adds a range that is only divided.
    pub(super) fn wait(&mut self, range: Range) {
        let at = Some(range.after.clone().unwrap_or_default());
        self.spans.insert(self.next, Span { at, ..Span::new(range) });
        self.next += 1;
    }

    /// The range that has most left, if it is worth dividing.
    pub(super) fn choose(&mut self) -> Option<u64> {
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
    pub(super) fn look(&mut self, span: u64, key: &str, page: Vec<Object>, take: bool) -> Look {
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

/// Chooses the keys to look behind.
#[derive(Debug, Default)]
pub(super) enum Guess {
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
    pub(super) fn takes(&self) -> bool {
        !matches!(self, Guess::Prefix { .. })
    }

    /// A key behind `at`, and before `end`. None if there is none.
    pub(super) fn next(&mut self, at: &str, end: Option<&str>) -> Option<String> {
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

    pub(super) fn learn(&mut self, look: &Look) {
        match (&mut *self, look) {
            (Guess::Prefix { least, tried, .. }, Look::Nothing) => *least = *tried,
            (Guess::Prefix { most, tried, .. }, Look::Found) => *most = *tried,
            (Guess::Prefix { .. }, _) => *self = Guess::Last,
            (Guess::First, Look::Nothing) => *self = Guess::Beyond,
            _ => {}
        }
    }
}
