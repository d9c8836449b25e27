//! A tree of boxes around sketches that are close to each other.

use pomona_kernels::nearest::{self, LANES};

use super::Sketches;

const WIDTH: usize = Sketches::WIDTH;
/// Rows that decide along which coordinate a part is divided.
const SAMPLE: usize = 256;
/// Leaves from which a second thread pays off.
const TWO_THREADS: usize = 64;

/// The smallest box around sketches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    low: [f32; WIDTH],
    high: [f32; WIDTH],
}

impl Bounds {
    const NONE: Bounds = Bounds { low: [f32::INFINITY; WIDTH], high: [f32::NEG_INFINITY; WIDTH] };

    fn add(&mut self, other: &Bounds) {
        for i in 0..WIDTH {
            self.low[i] = self.low[i].min(other.low[i]);
            self.high[i] = self.high[i].max(other.high[i]);
        }
    }

    /// Whether all rows in one box are farther from all rows in the other than the limit.
    pub(super) fn apart(&self, other: &Bounds, limit: f32) -> bool {
        nearest::between_boxes((&self.low, &self.high), (&other.low, &other.high), limit) > limit
    }

    /// Whether a row is farther from all rows in the box than the limit.
    pub(super) fn excludes(&self, row: &[f32; WIDTH], limit: f32) -> bool {
        nearest::from_box(row, &self.low, &self.high, limit) > limit
    }
}

/// A tree whose leaves have up to [`LANES`] rows each.
#[derive(Debug)]
pub(super) struct Tree {
    /// The rows, leaf by leaf.
    pub(super) order: Vec<u32>,
    /// `[leaves, WIDTH]`: a coordinate of the rows of a leaf. Places without a row are infinitely far away.
    blocks: Vec<[f32; LANES]>,
    leaves: Vec<Bounds>,
}

impl Tree {
    /// Arranges some of the rows.
    pub(super) fn new(sketches: &Sketches, mut order: Vec<u32>) -> Self {
        arrange(sketches, &mut order);
        let mut blocks = vec![[f32::INFINITY; LANES]; order.len().div_ceil(LANES) * WIDTH];
        let mut leaves = Vec::with_capacity(order.len().div_ceil(LANES));
        for (rows, block) in order.chunks(LANES).zip(blocks.chunks_mut(WIDTH)) {
            let mut bounds = Bounds::NONE;
            for (lane, row) in rows.iter().enumerate() {
                for (i, value) in sketch(sketches, *row).iter().enumerate() {
                    block[i][lane] = *value;
                    bounds.low[i] = bounds.low[i].min(*value);
                    bounds.high[i] = bounds.high[i].max(*value);
                }
            }
            leaves.push(bounds);
        }
        Tree { order, blocks, leaves }
    }

    pub(super) fn leaves(&self) -> usize {
        self.leaves.len()
    }

    /// The box of a leaf.
    pub(super) fn leaf(&self, leaf: usize) -> &Bounds {
        &self.leaves[leaf]
    }

    /// The box around some leaves.
    pub(super) fn around(&self, leaves: std::ops::Range<usize>) -> Bounds {
        self.leaves[leaves].iter().fold(Bounds::NONE, |mut bounds, leaf| {
            bounds.add(leaf);
            bounds
        })
    }

    /// The places of the rows of a leaf in [`Tree::order`].
    pub(super) fn places(&self, leaf: usize) -> std::ops::Range<usize> {
        leaf * LANES..((leaf + 1) * LANES).min(self.order.len())
    }

    /// The sketch of the row at a place.
    pub(super) fn row(&self, place: usize) -> [f32; WIDTH] {
        let block = &self.blocks[place / LANES * WIDTH..][..WIDTH];
        std::array::from_fn(|i| block[i][place % LANES])
    }

    /// The rows of a leaf that are within the limit, as a bit mask.
    pub(super) fn within(&self, row: &[f32; WIDTH], leaf: usize, limit: f32) -> u32 {
        nearest::within(row, &self.blocks[leaf * WIDTH..][..WIDTH], limit)
    }
}

fn sketch(sketches: &Sketches, row: u32) -> &[f32] {
    &sketches.values[row as usize * WIDTH..][..WIDTH]
}

/// Divides rows into halves of whole leaves, along the coordinate in which they differ most, until each part is a leaf.
fn arrange(sketches: &Sketches, rows: &mut [u32]) {
    let leaves = rows.len().div_ceil(LANES);
    if leaves <= 1 {
        return;
    }
    let coordinate = widest(sketches, rows);
    let value = |row: &u32| sketches.values[*row as usize * WIDTH + coordinate];
    // With their values beside them, rows are compared without jumping through the sketches.
    let mut keyed: Vec<(f32, u32)> = rows.iter().map(|row| (value(row), *row)).collect();
    let middle = leaves / 2 * LANES;
    keyed.select_nth_unstable_by(middle, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    rows.iter_mut().zip(keyed).for_each(|(row, (_, keyed))| *row = keyed);
    let (left, right) = rows.split_at_mut(middle);
    if leaves < TWO_THREADS {
        arrange(sketches, left);
        arrange(sketches, right);
    } else {
        rayon::join(|| arrange(sketches, left), || arrange(sketches, right));
    }
}

/// The coordinate with the largest variance in a sample of the rows.
fn widest(sketches: &Sketches, rows: &[u32]) -> usize {
    let (mut sums, mut squares) = ([0.0f64; WIDTH], [0.0f64; WIDTH]);
    let step = rows.len().div_ceil(SAMPLE).max(1);
    let mut count = 0.0;
    for row in rows.iter().step_by(step) {
        count += 1.0;
        for (i, value) in sketch(sketches, *row).iter().enumerate() {
            sums[i] += f64::from(*value);
            squares[i] += f64::from(*value) * f64::from(*value);
        }
    }
    let variance = |i: &usize| squares[*i] - sums[*i] * sums[*i] / count;
    (0..WIDTH).max_by(|a, b| variance(a).total_cmp(&variance(b))).unwrap_or(0)
}
