//! Parsers of option values. Each message states the range.

use std::ops::RangeInclusive;

use crate::{
    model::{FeatureRange, Resize},
    orb::{MAX_WORDS, Orb},
};

pub(super) fn milliseconds(text: &str) -> Result<f64, String> {
    number(text, |v| (0.01..=60_000.0).contains(&v), "expected milliseconds, 0.01 to 60000")
}

/// A number of images, perhaps with a suffix: `50k`, `1.5M`, `1G`, or with commas between thousands.
pub(super) fn images(text: &str) -> Result<u64, String> {
    /// Most images.
    const MOST: f64 = 1e11;
    let plain = text.replace([',', '_'], "");
    let (digits, unit) = match plain.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&plain[..at], 1e3),
        Some((at, 'm' | 'M')) => (&plain[..at], 1e6),
        Some((at, 'g' | 'G' | 'b' | 'B')) => (&plain[..at], 1e9),
        _ => (&plain[..], 1.0),
    };
    let images =
        number(digits, |v| (1.0..=MOST).contains(&(v * unit)), "expected 1 to 100,000,000,000, such as 50k or 1.5M")?;
    Ok((images * unit).round() as u64)
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    number(text, |v| (0.05..=86_400.0).contains(&v), "expected seconds, 0.05 to 86400")
}

/// One number for all channels, or three.
pub(super) fn channels(text: &str) -> Result<[f64; 3], String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[all]) => Ok([all; 3]),
        Some(&[red, green, blue]) => Ok([red, green, blue]),
        _ => Err("expected three numbers, such as 0.485,0.456,0.406, or one for all channels".to_owned()),
    }
}

/// Height and width: `224x192`, or one number for both.
pub(super) fn sides(text: &str) -> Result<[usize; 2], String> {
    let numbers: Option<Vec<usize>> = text.split('x').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[side]) => Ok([side; 2]),
        Some(&[height, width]) => Ok([height, width]),
        _ => Err("expected pixels, such as 224, or height and width, such as 224x192".to_owned()),
    }
}

/// One number is that of the shorter side.
pub(super) fn resize(text: &str) -> Result<Resize, String> {
    match text {
        "none" => Ok(Resize::None),
        side if !side.contains('x') => sides(side).map(|[edge, _]| Resize::ShortestEdge(edge)),
        both => sides(both).map(Resize::Exact),
    }
}

pub(super) fn distance(text: &str) -> Result<f64, String> {
    number(text, |v| (0.0..=1e9).contains(&v), "expected a distance from 0")
}

pub(super) fn keypoints(text: &str) -> Result<usize, String> {
    whole(text, Orb::KEYPOINTS, "expected a number of keypoints, 1 to 10000")
}

pub(super) fn border(text: &str) -> Result<usize, String> {
    whole(text, Orb::BORDERS, "expected pixels, 4 to 1000")
}

pub(super) fn scale(text: &str) -> Result<f64, String> {
    number(text, |v| Orb::SCALES.contains(&v), "expected a factor, 1.01 to 4")
}

fn whole(text: &str, range: RangeInclusive<usize>, expected: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| expected.to_owned())
}

pub(super) fn words(text: &str) -> Result<usize, String> {
    whole(text, 1..=MAX_WORDS, &format!("expected a number of words, 1 to {MAX_WORDS}"))
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    number(text, |v| v > 0.0 && v <= 1.0, "expected a share above 0 and up to 1, such as 0.9")
}

pub(super) fn percent(text: &str) -> Result<f64, String> {
    number(text, |v| (0.0..=100.0).contains(&v), "expected a percentage, 0 to 100")
}

pub(super) fn feature_range(text: &str) -> Result<FeatureRange, String> {
    let range: u32 = text.parse().map_err(|_| "expected a whole number".to_owned())?;
    FeatureRange::try_from(range).map_err(|e| e.to_string())
}

/// The name of a stack, as CloudFormation allows it.
pub(super) fn stack(text: &str) -> Result<String, String> {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let legal = starts && text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    legal.then(|| text.to_owned()).ok_or_else(|| "expected letters, digits and -, a letter first".to_owned())
}

pub(super) fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "expected NAME=VALUE".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn number(text: &str, legal: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value| legal(*value)).ok_or_else(|| expected.to_owned())
}

#[cfg(test)]
mod tests {
    use super::images;

    #[test]
    fn numbers_of_images_have_suffixes() {
        for (text, number) in
            [("22688", 22_688), ("22,688", 22_688), ("50k", 50_000), ("1.5M", 1_500_000), ("1G", 1_000_000_000)]
        {
            assert_eq!(images(text), Ok(number), "{text}");
        }
        for wrong in ["", "k", "0", "-1", "1T", "1e12", "101G", "NaN", "inf"] {
            assert!(images(wrong).is_err(), "{wrong}");
        }
    }
}
