//! Parsers of option values. Each message states the range.

use pomona::model::FeatureRange;

pub(super) fn milliseconds(text: &str) -> Result<f64, String> {
    number(text, |v| (0.01..=60_000.0).contains(&v), "expected milliseconds, 0.01 to 60000")
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    number(text, |v| (0.05..=86_400.0).contains(&v), "expected seconds, 0.05 to 86400")
}

pub(super) fn distance(text: &str) -> Result<f64, String> {
    number(text, |v| (0.0..=1e9).contains(&v), "expected a distance from 0")
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

fn number(text: &str, legal: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value| legal(*value)).ok_or_else(|| expected.to_owned())
}
