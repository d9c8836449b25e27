//! How numbers and tables look in a terminal.

pub(crate) use pomona::report::text::{bytes, count, counted, dollars, duration, label_name, percent, shorten};

/// Columns as wide as their widest cell; the first `left` columns are aligned to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>], left: usize) -> String {
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
