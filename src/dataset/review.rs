//! The labels that people accepted or corrected: `labels.csv` of an output.
//!
//! `pomona serve` writes the file, and `pomona run --labels` reads it. It belongs to no version: a vacuum keeps it, and an erase
//! removes the rows of erased images.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    keys,
    labelling::{self, Given},
};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    store::{self, Store},
};

/// Longest label, bytes: that of a name of a folder.
const MAX_LABEL: usize = 255;

/// Whether a spreadsheet takes a text for a formula.
pub(crate) fn is_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r'])
}

/// Fails with `Input.Invalid` for a text that is not fit to be a label: one that a spreadsheet would run, that has more than one
/// line, or that begins or ends with spaces.
pub fn check_label(label: &str) -> Result<()> {
    let wrong = match label {
        "" => "a label has at least one character",
        _ if label.len() > MAX_LABEL => "a label has at most 255 bytes",
        _ if label.trim() != label => "a label begins and ends without spaces",
        _ if crate::escape_invisible(label) != label => "a label has no line ends and no invisible characters",
        _ if label.contains('/') => "a label has no slash",
        _ if is_formula(label) => "a label does not begin with = + - or @: a spreadsheet would take it for a formula",
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::InputInvalid, wrong).context("label", label))
}

/// The rows of the file; none without a file. Fails with `Input.Invalid`, which names the line, if the file is not a list of
/// labels.
#[compiled_once]
pub async fn read(output: &dyn Store) -> Result<BTreeMap<String, Given>> {
    let Some(file) = store::get_opt(output, keys::REVIEW).await? else { return Ok(BTreeMap::new()) };
    labelling::read(&file, keys::REVIEW, "")
}

/// Replaces the file. Without rows, there is none.
#[compiled_once]
pub async fn write(output: &dyn Store, rows: &BTreeMap<String, Given>) -> Result<()> {
    if rows.is_empty() {
        return output.delete(keys::REVIEW).await;
    }
    output.put(keys::REVIEW, encode(rows)?.into()).await
}

/// The content of the file. A path that a spreadsheet would take for a formula begins with `./`, which `run --labels` ignores.
pub fn encode(rows: &BTreeMap<String, Given>) -> Result<Vec<u8>> {
    let shown = |path: &String| if is_formula(path) { format!("./{path}") } else { path.clone() };
    labelling::write(&rows.iter().map(|(path, given)| (shown(path), given.clone())).collect())
}

/// Removes the rows of some images. Returns whether there were any.
#[compiled_once]
pub async fn forget(output: &dyn Store, images: &BTreeSet<String>) -> Result<bool> {
    let mut rows = read(output).await?;
    let before = rows.len();
    rows.retain(|path, _| !images.contains(path));
    if rows.len() == before {
        return Ok(false);
    }
    write(output, &rows).await.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn given(label: &str) -> Given {
        Given { label: Some(label.to_owned()), split: None }
    }

    #[tokio::test]
    async fn what_is_written_reads_as_the_same_and_has_no_formula() {
        let output = MemoryStore::new();
        let rows = BTreeMap::from([
            ("=cmd|'x'!A1/1.jpg".to_owned(), given("pear")),
            ("a,\"b\"\n/2.jpg".to_owned(), given("it's \"a\", <b>")),
            ("@x/3.jpg".to_owned(), Given { label: None, split: Some("test".to_owned()) }),
        ]);
        write(&output, &rows).await.unwrap();
        assert_eq!(read(&output).await.unwrap(), rows);
        let text = String::from_utf8(output.get(keys::REVIEW).await.unwrap().to_vec()).unwrap();
        assert!(text.lines().all(|line| !is_formula(line.trim_start_matches('"'))), "{text}");
        let erased = BTreeSet::from(["=cmd|'x'!A1/1.jpg".to_owned()]);
        assert!(forget(&output, &erased).await.unwrap() && !forget(&output, &erased).await.unwrap());
        assert_eq!(read(&output).await.unwrap().len(), 2);
        write(&output, &BTreeMap::new()).await.unwrap();
        assert!(store::get_opt(&output, keys::REVIEW).await.unwrap().is_none());
    }

    #[test]
    fn labels_that_could_do_something_are_refused() {
        for bad in ["", "=1+1", "+x", "-x", "@x", "a\nb", "a\rb", "\u{202e}a", " a", "a ", "a/b", &"a".repeat(256)] {
            assert!(check_label(bad).unwrap_err().is(ErrorKind::InputInvalid), "{bad:?}");
        }
        for good in ["pear", "Äpfel rot", "it's \"a\", <b>", "a=b", "苹果", "x-1"] {
            check_label(good).unwrap();
        }
    }
}
