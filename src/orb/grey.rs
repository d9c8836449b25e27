//! Levels of the pyramid: brightness, mirrored around its border.

use crate::image::Pixels;

/// Mirrored pixels on each side.
pub(super) const PAD: usize = 32;
/// Parts of 256 of a Gaussian of a standard deviation of 2.
const GAUSS: [u32; 7] = [18, 34, 48, 56, 48, 34, 18];

/// Brightness, 8 bits.
#[derive(Clone, Debug)]
pub(super) struct Grey {
    pub(super) width: usize,
    pub(super) height: usize,
    /// `[height + 2 * PAD, width + 2 * PAD]`
    data: Vec<u8>,
}

impl Grey {
    /// That of an image, as ITU-R BT.601 weighs its colours.
    pub(super) fn of(pixels: &Pixels) -> Self {
        let brightness = |pixel: &[u8; 3]| {
            let [red, green, blue] = pixel.map(u32::from);
            ((4_899 * red + 9_617 * green + 1_868 * blue + (1 << 13)) >> 14) as u8
        };
        let inner = pixels.data.as_chunks::<3>().0.iter().map(brightness).collect();
        Grey::padded(pixels.width, pixels.height, inner)
    }

    fn padded(width: usize, height: usize, inner: Vec<u8>) -> Self {
        let mut data = Vec::with_capacity((width + 2 * PAD) * (height + 2 * PAD));
        let columns: Vec<usize> = (0..width + 2 * PAD).map(|x| mirrored(x, width)).collect();
        for y in 0..height + 2 * PAD {
            let line = mirrored(y, height) * width;
            data.extend(columns.iter().map(|x| inner[line + x]));
        }
        Grey { width, height, data }
    }

    /// Bytes from one line to the next.
    pub(super) fn stride(&self) -> usize {
        self.width + 2 * PAD
    }

    /// The samples, and the place of a pixel among them.
    pub(super) fn at(&self, x: usize, y: usize) -> (&[u8], usize) {
        (&self.data, (y + PAD) * self.stride() + x + PAD)
    }

    /// In another size, by linear interpolation in integers.
    pub(super) fn resized(&self, width: usize, height: usize) -> Self {
        let (columns, rows) = (Steps::new(self.width, width), Steps::new(self.height, height));
        let mut inner = Vec::with_capacity(width * height);
        for y in 0..height {
            let (above, below, down) = rows.at(y);
            let lines = [above, below].map(|line| self.at(0, line));
            for x in 0..width {
                let (left, right, across) = columns.at(x);
                let [above, below] = lines.map(|(samples, line)| {
                    let [left, right] = [left, right].map(|x| u64::from(samples[line + x]));
                    left * (columns.whole - across) + right * across
                });
                let (sum, whole) = (above * (rows.whole - down) + below * down, rows.whole * columns.whole);
                inner.push(((2 * sum + whole) / (2 * whole)) as u8);
            }
        }
        Grey::padded(width, height, inner)
    }

    /// Convolved with a Gaussian of 7 x 7.
    pub(super) fn smoothed(&self) -> Self {
        let (stride, lines) = (self.stride(), self.height + 2 * PAD);
        let weighed = |samples: [u32; 7]| samples.iter().zip(GAUSS).map(|(sample, part)| sample * part).sum::<u32>();
        // At most 255 x 256.
        let mut across = vec![0u16; self.data.len()];
        for (from, to) in self.data.chunks(stride).zip(across.chunks_mut(stride)) {
            for (window, to) in from.windows(7).zip(&mut to[3..]) {
                *to = weighed(std::array::from_fn(|at| u32::from(window[at]))) as u16;
            }
        }
        // What is nearer to the end of the padding than three pixels is not read.
        let mut data = vec![0; self.data.len()];
        for y in 3..lines - 3 {
            for x in 3..stride - 3 {
                let down = std::array::from_fn(|at| u32::from(across[(y + at - 3) * stride + x]));
                data[y * stride + x] = ((weighed(down) + (1 << 15)) >> 16) as u8;
            }
        }
        Grey { data, ..*self }
    }
}

/// The pixel that a place of the padded line shows: the border itself is not repeated.
fn mirrored(place: usize, length: usize) -> usize {
    let period = (2 * (length - 1)).max(1);
    let at = (place + period * PAD - PAD) % period;
    at.min(period - at).min(length - 1)
}

/// Where the pixels of a smaller line lie between those of a larger one.
struct Steps {
    from: usize,
    to: usize,
    /// The weight of both neighbours together.
    whole: u64,
}

impl Steps {
    fn new(from: usize, to: usize) -> Self {
        Steps { from, to, whole: 2 * to as u64 }
    }

    /// The two neighbours, and the weight of the second one.
    fn at(&self, place: usize) -> (usize, usize, u64) {
        // The middle of a pixel lies at (place + 1/2) * from / to - 1/2.
        let middle = ((2 * place + 1) * self.from).saturating_sub(self.to);
        let left = (middle / (2 * self.to)).min(self.from - 1);
        (left, (left + 1).min(self.from - 1), (middle % (2 * self.to)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_are_mirrored() {
        let line: Vec<usize> = (PAD - 5..PAD + 8).map(|place| mirrored(place, 4)).collect();
        assert_eq!(line, [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]);
        assert_eq!(mirrored(0, 1), 0);
    }

    #[test]
    fn halves_are_means_and_a_flat_image_stays_as_it_is() {
        let pixels = Pixels {
            width: 4,
            height: 2,
            data: [10, 20, 30, 40, 50, 60, 70, 80].iter().flat_map(|v| [*v; 3]).collect(),
        };
        let (grey, at) = (Grey::of(&pixels), |grey: &Grey, x| {
            let (samples, place) = grey.at(x, 0);
            samples[place]
        });
        let half = grey.resized(2, 1);
        assert_eq!([at(&half, 0), at(&half, 1)], [35, 55]);
        let flat = Grey::of(&Pixels { width: 5, height: 5, data: vec![77; 75] });
        assert_eq!([at(&flat.smoothed(), 2), at(&flat.resized(3, 3).smoothed(), 1)], [77, 77]);
    }
}
