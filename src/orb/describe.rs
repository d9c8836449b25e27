//! What is computed of a corner: Harris' measure, its orientation, its descriptor.

use super::{Corner, Descriptor, grey::Grey, pattern::PATTERN};

/// Half of the side of the block of Harris' measure.
const BLOCK: isize = 3;
/// Radius of the patch whose centroid gives the orientation.
const RADIUS: isize = 15;
/// Half of the width of that patch in each line from its middle.
const HALF_WIDTHS: [isize; 16] = [15, 15, 15, 15, 14, 14, 14, 13, 13, 12, 11, 10, 9, 8, 6, 3];

/// 25 times Harris' measure with k = 1/25, det - k trace², of the gradients (Sobel) in a block of 7 x 7. Exact.
pub(super) fn harris(level: &Grey, corner: Corner) -> i64 {
    let (samples, place) = level.at(corner.x, corner.y);
    let stride = level.stride() as isize;
    let (mut xx, mut yy, mut xy) = (0i64, 0i64, 0i64);
    for down in -BLOCK..=BLOCK {
        for across in -BLOCK..=BLOCK {
            let at =
                |x: isize, y: isize| i64::from(samples[place.wrapping_add_signed((down + y) * stride + across + x)]);
            let x = 2 * (at(1, 0) - at(-1, 0)) + at(1, -1) - at(-1, -1) + at(1, 1) - at(-1, 1);
            let y = 2 * (at(0, 1) - at(0, -1)) + at(-1, 1) - at(-1, -1) + at(1, 1) - at(1, -1);
            xx += x * x;
            yy += y * y;
            xy += x * y;
        }
    }
    // At most 25 x (49 x 1,020²)² = 6.5e16.
    25 * (xx * yy - xy * xy) - (xx + yy) * (xx + yy)
}

/// Harris' measure of samples from 0 to 1, from [`harris`].
pub(super) fn response(measure: i64) -> f32 {
    let scale = 1.0 / (4.0 * 7.0 * 255.0f64);
    (measure as f64 / 25.0 * (scale * scale) * (scale * scale)) as f32
}

/// The direction of the centroid of the brightness around a corner, degrees from 0 to 360.
pub(super) fn angle(level: &Grey, corner: Corner) -> f64 {
    let (samples, place) = level.at(corner.x, corner.y);
    let stride = level.stride() as isize;
    let (mut across, mut down) = (0i64, 0i64);
    for y in -RADIUS..=RADIUS {
        let half = HALF_WIDTHS[y.unsigned_abs()];
        for x in -half..=half {
            let sample = i64::from(samples[place.wrapping_add_signed(y * stride + x)]);
            across += x as i64 * sample;
            down += y as i64 * sample;
        }
    }
    let degrees = libm::atan2(down as f64, across as f64).to_degrees();
    if degrees < 0.0 { degrees + 360.0 } else { degrees }
}

/// The descriptor of a corner in a smoothed level: rotated BRIEF.
pub(super) fn describe(smooth: &Grey, corner: Corner, angle: f64) -> Descriptor {
    let (samples, place) = smooth.at(corner.x, corner.y);
    let stride = smooth.stride() as isize;
    let radians = angle.to_radians();
    let (cos, sin) = (libm::cos(radians), libm::sin(radians));
    let sample = |[x, y]: [i8; 2]| {
        let [x, y] = [x, y].map(f64::from);
        let turned = [x * cos - y * sin, x * sin + y * cos].map(|value| value.round_ties_even() as isize);
        samples[place.wrapping_add_signed(turned[1] * stride + turned[0])]
    };
    let mut descriptor = [0; 32];
    for (bit, [a, b, c, d]) in PATTERN.iter().enumerate() {
        if sample([*a, *b]) < sample([*c, *d]) {
            descriptor[bit / 8] |= 1 << (bit % 8);
        }
    }
    descriptor
}
