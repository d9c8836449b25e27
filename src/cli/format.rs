//! Tables, numbers and names in a terminal.

pub(crate) use crate::escape_invisible;
pub(crate) use crate::report::text::{bytes, count, counted, dollars, duration, label_name, percent, shorten};
use crate::{
    dataset::{Duplicates, Outliers, Searched},
    ids::Version,
};

/// Columns as wide as their widest cell; the first `left` columns are aligned to the left, the others to the right.
/// Invisible characters are escaped.
pub(crate) fn table(rows: &[Vec<String>], left: usize) -> String {
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| escape_invisible(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
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

/// The cells of one row of a [`table`].
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// What was found of the images that are there twice, in one line.
pub(crate) fn duplicates(found: &Duplicates) -> String {
    let images = counted(found.images, "image");
    if found.searched == Searched::Nothing {
        return format!("Duplicates were not searched: {images} are too many");
    }
    if found.groups == 0 {
        return format!("No duplicates among {images}{}", limited(found));
    }
    let across = |groups: u64, of: &str| {
        if groups > 0 { format!("; {} across {of}", count(groups)) } else { String::new() }
    };
    format!(
        "{} of duplicates: {}, {} with the bytes of another{}{}{}",
        counted(found.groups, "group"),
        counted(found.rows, "image"),
        count(found.copies),
        across(found.across_labels, "labels"),
        across(found.across_splits, "splits"),
        limited(found),
    )
}

/// How many outliers there are, for a line of a summary.
pub(crate) fn outliers(found: &Outliers) -> String {
    match found.threshold {
        Some(_) => counted(found.rows, "outlier"),
        None => "Outliers were not searched: there are too many images".to_owned(),
    }
}

/// What was not searched, if anything.
pub(crate) fn limited(found: &Duplicates) -> &'static str {
    match found.searched {
        Searched::SameBytes => "; near-duplicates were not searched, because there are too many images",
        _ => "",
    }
}

/// Version numbers in one line.
pub(crate) fn versions(versions: &[Version]) -> String {
    match versions {
        [] => "none".to_owned(),
        versions => versions.iter().map(|version| version.0.to_string()).collect::<Vec<_>>().join(", "),
    }
}

/// A point in time in UTC, to the second.
pub(crate) fn time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// An argument as a POSIX shell reads it, quoted where needed.
pub(crate) fn shell(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_shortened_in_the_middle_and_control_characters_escaped() {
        assert_eq!(shorten("abcdefghijklmnop", 10), "abc…klmnop");
        assert_eq!(shorten("a\u{1b}[31mb", 40), "a\\u{1b}[31mb");
        assert_eq!(shorten("abc\u{202e}gpj.exe", 40), "abc\\u{202e}gpj.exe");
    }

    #[test]
    fn a_table_shows_invisible_characters_and_is_aligned_to_their_escapes() {
        let rows = [row(["a\u{202e}b\nc", "1"]), row(["d", "2"])];
        assert_eq!(table(&rows, 2), "  a\\u{202e}b\\nc  1\n  d              2\n");
    }

    #[test]
    fn arguments_are_quoted_for_the_shell_where_needed() {
        assert_eq!(
            ["s3://fruit/a-b_c.d/", "my photos", "it's", "$HOME", ""].map(shell),
            ["s3://fruit/a-b_c.d/", "'my photos'", r"'it'\''s'", "'$HOME'", "''"]
        );
    }
}
