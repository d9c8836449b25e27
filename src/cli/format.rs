//! How numbers and tables look in a terminal.

/// 12345 as "12,345".
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

/// A count and its noun, with an s where there is not exactly one.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// In the largest unit that leaves a number of at least 1.
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

pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// At most `width` characters, the middle left out. Control characters, which could move the cursor, are shown.
pub fn shorten(text: &str, width: usize) -> String {
    let clean: Vec<char> = text
        .chars()
        .flat_map(|c| {
            let shown: Vec<char> = if c.is_control() { c.escape_default().collect() } else { vec![c] };
            shown
        })
        .collect();
    if clean.len() <= width {
        return clean.into_iter().collect();
    }
    let tail = (width - 1) * 2 / 3;
    let head = width - 1 - tail;
    clean[..head].iter().chain(&['…']).chain(&clean[clean.len() - tail..]).collect()
}

/// Columns as wide as their widest cell; the first `left` columns are aligned to the left, the others to the right.
pub fn table(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            if column < left { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
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
    fn long_texts_lose_their_middle_and_control_characters_their_power() {
        assert_eq!(shorten("abcdefghijklmnop", 10), "abc…klmnop");
        assert_eq!(shorten("a\u{1b}[31mb", 40), "a\\u{1b}[31mb");
    }
}
