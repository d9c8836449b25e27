//! Integers that take 64 bits each while all of them fit, and 128 otherwise.

/// Exact sums. Their width has no effect but on memory.
#[derive(Clone, Debug)]
pub enum Sums {
    /// In 64 bits.
    Narrow(Vec<i64>),
    /// In 128 bits.
    Wide(Vec<i128>),
}

/// Borrowed [`Sums`].
#[derive(Clone, Copy, Debug)]
pub enum SumsRef<'a> {
    /// In 64 bits.
    Narrow(&'a [i64]),
    /// In 128 bits.
    Wide(&'a [i128]),
}

/// What is done to sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Others are added.
    Add,
    /// Others are subtracted.
    Subtract,
    /// They are subtracted from others.
    SubtractFrom,
}

impl From<Vec<i64>> for Sums {
    fn from(values: Vec<i64>) -> Self {
        Sums::Narrow(values)
    }
}

impl From<Vec<i128>> for Sums {
    fn from(values: Vec<i128>) -> Self {
        let narrow: Result<_, _> = values.iter().map(|value| i64::try_from(*value)).collect();
        narrow.map_or(Sums::Wide(values), Sums::Narrow)
    }
}

impl PartialEq for Sums {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Sums::Narrow(a), Sums::Narrow(b)) => a == b,
            _ => self.len() == other.len() && self.iter().eq(other.iter()),
        }
    }
}

impl Eq for Sums {}

impl Sums {
    pub(super) fn zero(len: usize) -> Self {
        Sums::Narrow(vec![0; len])
    }

    /// The number of sums.
    pub fn len(&self) -> usize {
        match self {
            Sums::Narrow(values) => values.len(),
            Sums::Wide(values) => values.len(),
        }
    }

    /// Whether there are no sums.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum with this index. Panics if there is none.
    pub fn at(&self, index: usize) -> i128 {
        match self {
            Sums::Narrow(values) => values[index].into(),
            Sums::Wide(values) => values[index],
        }
    }

    /// All sums.
    pub fn iter(&self) -> impl Iterator<Item = i128> {
        (0..self.len()).map(|index| self.at(index))
    }

    pub(super) fn borrowed(&self) -> SumsRef<'_> {
        match self {
            Sums::Narrow(values) => SumsRef::Narrow(values),
            Sums::Wide(values) => SumsRef::Wide(values),
        }
    }

    /// Changes each sum by the other with its index. None if one exceeds 128 bits; the sums are then of no use.
    pub(super) fn change(&mut self, change: Change, others: SumsRef<'_>) -> Option<()> {
        if let (Sums::Narrow(to), SumsRef::Narrow(from)) = (&mut *self, others) {
            if change.apply_wrapping(to, from) {
                return Some(());
            }
            // In wrapping arithmetic, the change back leads to the sums before.
            change.back().apply_wrapping(to, from);
        }
        match others {
            SumsRef::Narrow(from) => change.apply(self.widen(), from),
            SumsRef::Wide(from) => change.apply(self.widen(), from),
        }
    }

    fn widen(&mut self) -> &mut [i128] {
        if let Sums::Narrow(values) = self {
            *self = Sums::Wide(values.iter().map(|value| i128::from(*value)).collect());
        }
        match self {
            Sums::Wide(values) => values,
            Sums::Narrow(_) => &mut [],
        }
    }
}

impl Change {
    /// The change that takes this one back.
    fn back(self) -> Self {
        match self {
            Change::Add => Change::Subtract,
            Change::Subtract => Change::Add,
            Change::SubtractFrom => Change::SubtractFrom,
        }
    }

    /// Changes all sums modulo 2^64. False if one of them does not fit.
    fn apply_wrapping(self, to: &mut [i64], from: &[i64]) -> bool {
        let mut overflow = false;
        for (to, from) in to.iter_mut().zip(from) {
            let wrapped;
            (*to, wrapped) = match self {
                Change::Add => to.overflowing_add(*from),
                Change::Subtract => to.overflowing_sub(*from),
                Change::SubtractFrom => from.overflowing_sub(*to),
            };
            overflow |= wrapped;
        }
        !overflow
    }

    fn apply<T: Copy + Into<i128>>(self, to: &mut [i128], from: &[T]) -> Option<()> {
        for (to, from) in to.iter_mut().zip(from) {
            let from: i128 = (*from).into();
            *to = match self {
                Change::Add => to.checked_add(from),
                Change::Subtract => to.checked_sub(from),
                Change::SubtractFrom => from.checked_sub(*to),
            }?;
        }
        Some(())
    }
}
