//! Names of partition folders, escaped as in Hive and Spark.

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

#[cfg(test)]
mod tests {
    use super::*;

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
