//! How numbers and tables look in a terminal.

pub use pomona::text::{bytes, count, counted, dollars, duration, percent};

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
    fn long_texts_lose_their_middle_and_control_characters_their_power() {
        assert_eq!(shorten("abcdefghijklmnop", 10), "abc…klmnop");
        assert_eq!(shorten("a\u{1b}[31mb", 40), "a\\u{1b}[31mb");
    }
}
