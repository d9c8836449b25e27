//! FAST-9: pixels with nine neighbours in a row, on a circle of 16, that are all brighter or all darker.
//!
//! Rosten and Drummond, "Machine learning for high-speed corner detection" (ECCV 2006).

use super::{Corner, grey::Grey};

/// The circle of radius 3, clockwise from the bottom.
const CIRCLE: [(isize, isize); 16] = [
    (0, 3),
    (1, 3),
    (2, 2),
    (3, 1),
    (3, 0),
    (3, -1),
    (2, -2),
    (1, -3),
    (0, -3),
    (-1, -3),
    (-2, -2),
    (-3, -1),
    (-3, 0),
    (-3, 1),
    (-2, 2),
    (-1, 3),
];
/// Neighbours in a row.
const ARC: usize = 9;

/// The corners that are better than their eight neighbours, at least `border` pixels from the border of the level.
pub(super) fn corners(level: &Grey, threshold: u8, border: usize) -> Vec<Corner> {
    let (width, height) = (level.width, level.height);
    // A corner needs three pixels around it, and its neighbours do.
    let first = border.saturating_sub(1).max(3);
    if width <= 2 * first || height <= 2 * first {
        return Vec::new();
    }
    let offsets = CIRCLE.map(|(x, y)| y * level.stride() as isize + x);
    let columns = width - 2 * first;
    let score = |x: usize, y: usize| {
        let (samples, place) = level.at(x, y);
        score(samples, place, &offsets, threshold)
    };
    let scores: Vec<u8> = (first..height - first)
        .flat_map(|y| (first..width - first).map(move |x| (x, y)))
        .map(|(x, y)| score(x, y))
        .collect();
    let of = |x: usize, y: usize| scores[(y - first) * columns + x - first];
    let mut found = Vec::new();
    let inside = border.max(first + 1);
    for y in inside..height.saturating_sub(inside) {
        for x in inside..width.saturating_sub(inside) {
            let score = of(x, y);
            let is_best = || {
                let around = (y - 1..=y + 1).flat_map(|j| (x - 1..=x + 1).map(move |i| (i, j)));
                around.filter(|place| *place != (x, y)).all(|(i, j)| of(i, j) < score)
            };
            if score > 0 && is_best() {
                found.push(Corner { x, y, score });
            }
        }
    }
    found
}

/// The largest threshold with which a pixel is a corner; 0 if it is none with `threshold`.
fn score(samples: &[u8], place: usize, offsets: &[isize; 16], threshold: u8) -> u8 {
    let centre = i16::from(samples[place]);
    let difference = |at: usize| centre - i16::from(samples[place.wrapping_add_signed(offsets[at])]);
    let least = i16::from(threshold);
    // Nine in a row have two of these four.
    let four = [difference(0), difference(4), difference(8), difference(12)];
    let most = |is: fn(i16, i16) -> bool| four.iter().filter(|difference| is(**difference, least)).count();
    if most(|difference, least| difference > least) < 2 && most(|difference, least| difference < -least) < 2 {
        return 0;
    }
    let differences: [i16; 16] = std::array::from_fn(difference);
    let mut best = least;
    for start in 0..16 {
        let arc = (start..start + ARC).map(|at| differences[at % 16]);
        let (low, high) = arc.fold((i16::MAX, i16::MIN), |(low, high), value| (low.min(value), high.max(value)));
        best = best.max(low).max(-high);
    }
    // A corner with `threshold` has a difference above it.
    if best > least { (best - 1) as u8 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Pixels;

    /// A spot that is brighter than all around it by 61.
    #[test]
    fn a_spot_is_a_corner_up_to_its_height() {
        let level = |value: u8| {
            let sample = |at: usize| if at == 10 * 21 + 10 { [value; 3] } else { [100; 3] };
            Grey::of(&Pixels { width: 21, height: 21, data: (0..21 * 21).flat_map(sample).collect() })
        };
        for value in [161, 39] {
            let found = corners(&level(value), 20, 5);
            assert_eq!(found.iter().map(|c| (c.x, c.y, c.score)).collect::<Vec<_>>(), [(10, 10, 60)]);
        }
        assert!(corners(&level(161), 61, 5).is_empty() && corners(&level(161), 60, 5).len() == 1);
        assert!(corners(&level(161), 20, 11).is_empty());
    }

    #[test]
    fn an_edge_is_no_corner() {
        let sample = |at: usize| if at % 21 < 10 { [30; 3] } else { [200; 3] };
        let level = Grey::of(&Pixels { width: 21, height: 21, data: (0..21 * 21).flat_map(sample).collect() });
        assert!(corners(&level, 20, 4).is_empty());
    }
}
