//! Labels, and the names of their partition folders, escaped as in Hive and Spark.

use crate::{Error, ErrorKind, Result};

/// Longest name of a folder in bytes, on all common file systems.
const MAX_NAME: usize = 255;
/// Characters of a label in an error.
const SHOWN: usize = 40;

/// The label of an image: the name of the innermost folder of its key.
pub fn label_of(key: &str) -> Option<&str> {
    let (folders, _) = key.rsplit_once('/')?;
    folders.rsplit('/').next()
}

/// Fails with `Input.Invalid` if the folder of the label would have a name that is too long for a file system. Buckets
/// have no such limit, but their objects are copied to file systems.
pub(crate) fn check_label(label: Option<&str>) -> Result<()> {
    let bytes = "label=".len() + folder_value(label).len();
    if bytes <= MAX_NAME {
        return Ok(());
    }
    let label = label.unwrap_or_default();
    let cut = if label.chars().count() > SHOWN { "…" } else { "" };
    let message = format!(
        "the partition folder of this label would have a name of {bytes} bytes, and {MAX_NAME} are possible; rename the \
         folder of the images, or run without --partition-by-label (\"partition_by_label\": false)"
    );
    let shown: String = label.chars().take(SHOWN).collect();
    Err(Error::new(ErrorKind::InputInvalid, message).context("label", format!("{shown}{cut}")))
}

/// The value for rows without a label.
const NO_LABEL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The value after `label=` in the name of a folder, as Spark's `ExternalCatalogUtils.escapePathName` escapes it: control
/// characters, DEL and `"#%'*/:=?\{[]^` become `%XX`. Other characters stay, such as spaces and letters outside of ASCII.
pub fn folder_value(label: Option<&str>) -> String {
    let Some(label) = label.filter(|label| !label.is_empty()) else { return NO_LABEL.to_owned() };
    let mut folder = String::with_capacity(label.len());
    for c in label.chars() {
        if c.is_ascii_control() || "\"#%'*/:=?\\{[]^".contains(c) {
            folder.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            folder.push(c);
        }
    }
    folder
}

/// The label whose [`folder_value`] this is.
pub(crate) fn label_of_folder(value: &str) -> Option<String> {
    (value != NO_LABEL).then(|| percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_the_folder_that_holds_the_object() {
        assert_eq!(label_of("Training/Apple Red/1.jpg"), Some("Apple Red"));
        assert_eq!(label_of("Apple Red/1.jpg"), Some("Apple Red"));
        assert_eq!(label_of("1.jpg"), None);
    }

    #[test]
    fn a_label_whose_folder_has_no_possible_name_is_refused() {
        let fits = |label: String| check_label(Some(&label)).is_ok();
        assert!(fits("a".repeat(249)) && !fits("a".repeat(250)));
        // Escapes count, and so do the bytes of a letter.
        assert!(fits("=".repeat(83)) && !fits("=".repeat(84)));
        assert!(fits("Ä".repeat(124)) && !fits("Ä".repeat(125)));
        assert!(check_label(None).is_ok());
        let error = check_label(Some(&"ab".repeat(200))).unwrap_err();
        assert!(error.is(ErrorKind::InputInvalid));
        let text = error.to_string();
        assert!(text.contains("406 bytes") && text.ends_with(&format!("(label: {}…)", "ab".repeat(20))), "{text}");
    }

    #[test]
    fn labels_are_escaped_as_spark_escapes_them() {
        assert_eq!(folder_value(Some("Apple Red 1")), "Apple Red 1");
        assert_eq!(folder_value(Some("Äpfel 苹果")), "Äpfel 苹果");
        assert_eq!(folder_value(Some("a=b/c%\"'")), "a%3Db%2Fc%25%22%27");
        assert_eq!(folder_value(Some("tab\t\u{7f}")), "tab%09%7F");
        assert_eq!(folder_value(None), NO_LABEL);
        assert_eq!(folder_value(Some("")), NO_LABEL);
    }
}
