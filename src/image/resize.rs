//! Resizing with the bits of Pillow's `Image.resize`, for each of its filters.
//!
//! The default is bicubic convolution (Keys 1981, a = -0.5), antialiased: for a reduction, the kernel is widened by the scale.
//! Weights are 22-bit fixed point. The horizontal pass is first, and its result is rounded to 8 bits before the vertical pass.

use serde::{Deserialize, Serialize};

use super::{Pixels, spare};
use pomona_kernels::resample::{self, Axis, PRECISION_BITS};

/// How pixels are interpolated. The names are those of Pillow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// The mean of the pixels in a box.
    Box,
    /// Linear, antialiased.
    Bilinear,
    /// A window of raised cosine.
    Hamming,
    /// Bicubic, antialiased.
    #[default]
    Bicubic,
    /// A truncated sinc, three lobes.
    Lanczos,
}

impl Filter {
    /// The filter of this number: `Image.Resampling` of Pillow, and `resample` of Hugging Face. None for other numbers.
    pub fn of_number(number: u64) -> Option<Filter> {
        let known = [Filter::Nearest, Filter::Lanczos, Filter::Bilinear, Filter::Bicubic, Filter::Box, Filter::Hamming];
        known.get(usize::try_from(number).ok()?).copied()
    }

    /// Half width of the kernel, source pixels at a scale of 1.
    fn support(self) -> f64 {
        match self {
            Filter::Nearest | Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Filter::Nearest | Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Filter::Bilinear => (1.0 - x.abs()).max(0.0),
            Filter::Hamming if x == 0.0 => 1.0,
            Filter::Hamming if x.abs() >= 1.0 => 0.0,
            Filter::Hamming => {
                let x = x.abs() * std::f64::consts::PI;
                libm::sin(x) / x * (0.54 + 0.46 * libm::cos(x))
            }
            Filter::Bicubic => bicubic(x),
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Filter::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { libm::sin(x) / x }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// The weights that resize an axis of `from` pixels to `to` pixels.
fn axis(from: usize, to: usize, filter: Filter) -> Axis {
    let scale = from as f64 / to as f64;
    let widened = scale.max(1.0);
    let support = filter.support() * widened;
    let stride = support.ceil() as usize * 2 + 1;
    let mut spans = Vec::with_capacity(to);
    let mut weights = vec![0; to * stride];
    let mut exact = vec![0.0; stride];
    for (out, row) in weights.chunks_exact_mut(stride).enumerate() {
        let center = (out as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let inverse = 1.0 / widened;
        let mut sum = 0.0;
        for (i, weight) in exact[..end - first].iter_mut().enumerate() {
            *weight = filter.weight(((i + first) as f64 - center + 0.5) * inverse);
            sum += *weight;
        }
        for (fixed, weight) in row.iter_mut().zip(&exact[..end - first]) {
            let weight = if sum == 0.0 { *weight } else { weight / sum };
            let half = if weight < 0.0 { -0.5 } else { 0.5 };
            *fixed = (half + weight * f64::from(1 << PRECISION_BITS)) as i32;
        }
        spans.push((first, end - first));
    }
    Axis { spans, weights, stride }
}

/// Resizes to `width` x `height` pixels, both at least 1, with the bicubic filter.
pub fn resize(image: Pixels, width: usize, height: usize) -> Pixels {
    resize_with(image, width, height, Filter::Bicubic)
}

/// Resizes to `width` x `height` pixels, both at least 1.
pub fn resize_with(image: Pixels, width: usize, height: usize, filter: Filter) -> Pixels {
    if filter == Filter::Nearest {
        return nearest(image, width, height);
    }
    let pass = |image: Pixels, made: Pixels| {
        spare::give(image.data);
        made
    };
    let image = if image.width == width {
        image
    } else {
        let made = horizontal(&image, width, filter);
        pass(image, made)
    };
    if image.height == height {
        return image;
    }
    let made = vertical(&image, height, filter);
    pass(image, made)
}

fn nearest(image: Pixels, width: usize, height: usize) -> Pixels {
    if (image.width, image.height) == (width, height) {
        return image;
    }
    // As in Pillow, positions are sums of steps, with their rounding.
    let places = |from: usize, to: usize| -> Vec<usize> {
        let step = from as f64 / to as f64;
        let positions = std::iter::successors(Some(step * 0.5), |at| Some(at + step));
        positions.take(to).map(|at| (at as usize).min(from - 1)).collect()
    };
    let columns: Vec<usize> = places(image.width, width).into_iter().map(|x| 3 * x).collect();
    let mut data = Vec::with_capacity(width * height * 3);
    for y in places(image.height, height) {
        let row = &image.data[y * image.width * 3..][..image.width * 3];
        columns.iter().for_each(|x| data.extend_from_slice(&row[*x..x + 3]));
    }
    Pixels { width, height, data }
}

fn horizontal(image: &Pixels, width: usize, filter: Filter) -> Pixels {
    let axis = axis(image.width, width, filter);
    let mut data = spare::take(width * image.height * 3);
    resample::across(&image.data, image.width * 3, &axis, &mut data);
    Pixels { width, height: image.height, data }
}

fn vertical(image: &Pixels, height: usize, filter: Filter) -> Pixels {
    let stride = image.width * 3;
    let axis = axis(image.height, height, filter);
    let mut data = vec![0; stride * height];
    let mut sums = vec![0; stride];
    for ((first, weights), to) in axis.iter().zip(data.chunks_exact_mut(stride)) {
        resample::down(&image.data[first * stride..], weights, &mut sums, to);
    }
    Pixels { width: image.width, height, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(width: usize, height: usize, value: u8) -> Pixels {
        Pixels { width, height, data: vec![value; width * height * 3] }
    }

    #[test]
    fn a_flat_image_stays_flat() {
        for (w, h, to) in [(1, 1, 224), (100, 100, 224), (1_000, 3, 224), (7, 900, 5)] {
            assert_eq!(resize(flat(w, h, 200), to, to), flat(to, to, 200), "{w} x {h}");
        }
    }

    #[test]
    fn the_same_size_is_the_same_image() {
        let image = Pixels { width: 3, height: 2, data: (0..18).collect() };
        assert_eq!(resize(image.clone(), 3, 2), image);
    }
}
