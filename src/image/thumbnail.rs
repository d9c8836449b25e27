//! Thumbnails: the mean brightness and colour of parts of an image, by which copies that were saved again are found.

use super::Pixels;
use pomona_kernels::resample::add_row;

/// Parts of the brightness, in each direction.
const CELLS: usize = 20;
/// Parts of the colours, in each direction: those of [`CELLS`], five by five.
const COLOUR_CELLS: usize = 4;
/// Numbers of a thumbnail.
pub const THUMBNAIL: usize = CELLS * CELLS + 2 * COLOUR_CELLS * COLOUR_CELLS;
/// Steps in one level of 8 bits. With whole levels, rounding would hide the small differences between copies.
const STEPS: i128 = 16;
/// Parts per million of red, green and blue in Y', Cb and Cr, as JPEG defines them (ITU-T T.871).
const BRIGHTNESS: [i128; 3] = [299_000, 587_000, 114_000];
const BLUE: [i128; 3] = [-168_736, -331_264, 500_000];
const RED: [i128; 3] = [500_000, -418_688, -81_312];

/// Sums of red, green and blue, weighted by the share of each pixel that lies in a cell.
type Sums = [u64; 3];

/// The thumbnail of an image: Y' (brightness) of 20 x 20 parts of equal size, row by row from the top left, then Cb of 4 x 4
/// parts, then Cr of these. Levels from 0 to 255, grey is 128 in Cb and Cr. Each is an exact mean, rounded to 1/16.
pub fn thumbnail(pixels: &Pixels) -> Vec<f32> {
    let cells = sums(pixels);
    // Each cell has this weight, because a pixel has CELLS x CELLS.
    let weight = (pixels.width * pixels.height) as i128;
    let level = |sums: [i128; 3], parts: [i128; 3], weight: i128, grey: i128| {
        let sum: i128 = sums.iter().zip(parts).map(|(sum, part)| sum * part).sum();
        let (sum, weight) = (sum * STEPS, weight * 1_000_000);
        // Rounded to the nearest step, half a step upwards.
        let steps = (2 * (sum + grey * STEPS * weight) + weight).div_euclid(2 * weight.max(1));
        steps as f32 / STEPS as f32
    };
    let wide = |sums: &Sums| sums.map(i128::from);
    let mut thumbnail: Vec<f32> = cells.iter().map(|cell| level(wide(cell), BRIGHTNESS, weight, 0)).collect();
    let blocks = blocks(&cells);
    for parts in [BLUE, RED] {
        thumbnail.extend(blocks.iter().map(|block| level(*block, parts, weight * BLOCK * BLOCK, 128)));
    }
    thumbnail
}

/// Cells in a part of the colours, in each direction.
const BLOCK: i128 = (CELLS / COLOUR_CELLS) as i128;

/// The sums of the parts of the colours.
fn blocks(cells: &[Sums]) -> Vec<[i128; 3]> {
    let mut blocks = vec![[0; 3]; COLOUR_CELLS * COLOUR_CELLS];
    for (at, cell) in cells.iter().enumerate() {
        let [row, column] = [at / CELLS, at % CELLS].map(|place| place * COLOUR_CELLS / CELLS);
        for (to, sum) in blocks[row * COLOUR_CELLS + column].iter_mut().zip(cell) {
            *to += i128::from(*sum);
        }
    }
    blocks
}

/// The sums of all cells, row by row.
fn sums(pixels: &Pixels) -> Vec<Sums> {
    let mut cells = vec![[0; 3]; CELLS * CELLS];
    if pixels.width == 0 || pixels.height == 0 {
        return cells;
    }
    let columns: Vec<Span> = (0..CELLS).map(|cell| Span::of(cell, pixels.width)).collect();
    let length = pixels.width * 3;
    // The weights of the rows of a cell add up to the height, and 255 times the greatest height has 24 bits.
    let mut line = vec![0u32; length];
    for (cells, rows) in cells.chunks_exact_mut(CELLS).zip((0..CELLS).map(|cell| Span::of(cell, pixels.height))) {
        line.fill(0);
        for row in rows.first..rows.end {
            add_row(&pixels.data[row * length..(row + 1) * length], rows.weight(row), &mut line);
        }
        for (to, columns) in cells.iter_mut().zip(&columns) {
            *to = columns.sum(&line);
        }
    }
    cells
}

/// The pixels of a line that lie in a cell, each of which has the weight [`CELLS`] if all of it does.
struct Span {
    first: usize,
    end: usize,
    /// The borders of the cell, in parts of a pixel.
    borders: [usize; 2],
}

impl Span {
    /// A cell of a line of `length` pixels.
    fn of(cell: usize, length: usize) -> Self {
        let borders = [cell * length, (cell + 1) * length];
        Span { first: borders[0] / CELLS, end: borders[1].div_ceil(CELLS), borders }
    }

    fn weight(&self, pixel: usize) -> u32 {
        ((pixel + 1) * CELLS).min(self.borders[1]).saturating_sub((pixel * CELLS).max(self.borders[0])) as u32
    }

    /// The weighted sums of a line of pixels: whole pixels, and parts of the first and the last one.
    fn sum(&self, line: &[u32]) -> Sums {
        let mut whole = [0u64; 3];
        let pixels = &line[self.first * 3..self.end * 3];
        for pixel in pixels.as_chunks::<3>().0 {
            for (to, sample) in whole.iter_mut().zip(pixel) {
                *to += u64::from(*sample);
            }
        }
        let mut sums = whole.map(|sum| sum * CELLS as u64);
        let last = self.end - 1;
        let edges = if last == self.first { &[last][..] } else { &[self.first, last] };
        for edge in edges {
            let missing = CELLS as u64 - u64::from(self.weight(*edge));
            for (sum, sample) in sums.iter_mut().zip(&line[edge * 3..]) {
                *sum -= missing * u64::from(*sample);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drawing(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Pixels {
        let data = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y)).collect();
        Pixels { width, height, data }
    }

    #[test]
    fn an_image_of_one_colour_has_that_colour() {
        // Y' = 0.299 x 200 + 0.587 x 10 + 0.114 x 60 = 72.51, Cb = 128 - 0.168736 x 200 - 0.331264 x 10 + 30 = 120.94,
        // Cr = 128 + 100 - 4.18688 - 4.87872 = 218.93.
        for (width, height) in [(1, 1), (7, 3), (20, 20), (100, 61)] {
            let thumbnail = thumbnail(&drawing(width, height, |_, _| [200, 10, 60]));
            assert!(thumbnail[..400].iter().all(|level| *level == 72.5), "{width} x {height}: {thumbnail:?}");
            assert!(thumbnail[400..416].iter().all(|level| *level == 120.9375));
            assert!(thumbnail[416..].iter().all(|level| *level == 218.9375));
        }
    }

    /// Of each pixel of a line with 30 of them, one and a half lie in a cell.
    #[test]
    fn pixels_on_a_border_count_in_both_cells() {
        let thumbnail = thumbnail(&drawing(30, 1, |x, _| [[0; 3], [90; 3], [210; 3]][x % 3]));
        // (0 + 90 / 2) / 1.5 and (90 / 2 + 210) / 1.5
        assert_eq!(thumbnail[..4], [30.0, 170.0, 30.0, 170.0]);
    }

    proptest! {
        /// The levels are means in floating point, to half a step and rounding.
        #[test]
        fn levels_are_means(width in 1usize..70, height in 1usize..70, seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let data: Vec<u8> = (0..width * height * 3).map(|_| random.u8(..)).collect();
            let of = thumbnail(&Pixels { width, height, data: data.clone() });
            prop_assert_eq!(of.len(), THUMBNAIL);
            let mean = |cell: (usize, usize), cells: usize, parts: [f64; 3]| {
                let share = |at: usize, cell: usize, length: usize| {
                    let [start, end] = [cell, cell + 1].map(|border| border as f64 * length as f64 / cells as f64);
                    ((at + 1) as f64).min(end) - (at as f64).max(start)
                };
                let (mut sum, mut weight) = (0.0, 0.0);
                for (at, pixel) in data.chunks(3).enumerate() {
                    let shares = [share(at % width, cell.0, width), share(at / width, cell.1, height)].map(|share| share.max(0.0));
                    weight += shares[0] * shares[1];
                    sum += shares[0] * shares[1] * pixel.iter().zip(parts).map(|(v, part)| f64::from(*v) * part).sum::<f64>();
                }
                sum / weight
            };
            let near = |level: f32, mean: f64| (f64::from(level) - mean).abs() <= 1.0 / 32.0 + 1e-6;
            for (at, level) in of[..CELLS * CELLS].iter().enumerate() {
                prop_assert!(near(*level, mean((at % CELLS, at / CELLS), CELLS, [0.299, 0.587, 0.114])));
            }
            for at in 0..16 {
                prop_assert!(near(of[400 + at], 128.0 + mean((at % 4, at / 4), 4, [-0.168736, -0.331264, 0.5])));
                prop_assert!(near(of[416 + at], 128.0 + mean((at % 4, at / 4), 4, [0.5, -0.418688, -0.081312])));
            }
        }
    }
}
