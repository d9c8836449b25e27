//! Numbers and names as text for people.

use crate::error::escape_invisible;

/// A number with separators: `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and its noun, in the plural unless the count is 1: `2 images`.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// The text in at most `width` characters, with `…` in place of its middle. Invisible characters are escaped, as by
/// [`escape_invisible`].
pub fn shorten(text: &str, width: usize) -> String {
    let clean: Vec<char> = escape_invisible(text).chars().collect();
    if clean.len() <= width {
        return clean.into_iter().collect();
    }
    let tail = (width - 1) * 2 / 3;
    let head = width - 1 - tail;
    clean[..head].iter().chain(&['…']).chain(&clean[clean.len() - tail..]).collect()
}

/// The name of a label; images at the top of the input have no label.
pub fn label_name(label: Option<&str>) -> &str {
    label.unwrap_or("(no label)")
}

/// A size in the largest unit in which it is at least 1: `1.5 kB`. Units are powers of 1,000.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (n as f64, "bytes");
    for larger in UNITS {
        if value < 1_000.0 {
            break;
        }
        (value, unit) = (value / 1_000.0, larger);
    }
    if unit == "bytes" { format!("{n} bytes") } else { format!("{value:.1} {unit}") }
}

/// A share, 0 to 1, in percent with one decimal: `93.1 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Seconds in a suitable unit, from `12 ms` to `25.0 days`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.095 => format!("{:.0} ms", s * 1e3),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 119.5 => format!("{s:.0} s"),
        s if s < 3.0 * 3_600.0 => format!("{:.0} min", s / 60.0),
        s if s < 72.0 * 3_600.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// An amount with two decimals, or with two or three significant digits below 10 cents: `$0.34`, `$0.012`.
pub fn dollars(amount: f64) -> String {
    match amount {
        a if a >= 1_000.0 => format!("${}", count(a.round() as u64)),
        a if a >= 0.10 => format!("${a:.2}"),
        a if a >= 0.01 => format!("${a:.3}"),
        a if a >= 0.001 => format!("${a:.4}"),
        a if a > 0.0 => "below $0.001".to_owned(),
        _ => "$0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1_500, 2_340_000].map(bytes), ["0 bytes", "999 bytes", "1.5 kB", "2.3 MB"]);
        assert_eq!([counted(1, "image"), counted(2, "image")], ["1 image", "2 images"]);
    }

    #[test]
    fn times_and_amounts_are_rounded() {
        assert_eq!(
            [0.012, 2.34, 75.2, 1_680.0, 90_000.0].map(duration),
            ["12 ms", "2.3 s", "75 s", "28 min", "25.0 h"]
        );
        assert_eq!(
            [0.0, 0.0002, 0.0123, 0.34, 12.5, 1_234.5].map(dollars),
            ["$0", "below $0.001", "$0.012", "$0.34", "$12.50", "$1,235"]
        );
    }
}
