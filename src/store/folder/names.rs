//! File names as parts of keys.
//!
//! A name that is UTF-8 is itself a part of a key. Any other name is escaped: each byte that is not UTF-8 becomes `%XX`,
//! and `%` becomes `%25`. A UTF-8 name that looks like an escaped name is escaped too, so that different names have
//! different keys.

use std::{borrow::Cow, ffi::OsStr, os::unix::ffi::OsStrExt};

use percent_encoding::percent_decode;

/// The part of a key for a file name.
pub(super) fn to_part(name: &OsStr) -> String {
    let bytes = name.as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(name) if !is_escaped(bytes) => name.to_owned(),
        _ => escape(bytes),
    }
}

/// The key for a path of bytes with `/` between names.
pub(crate) fn escaped_name(path: &[u8]) -> String {
    let parts: Vec<String> = path.split(|byte| *byte == b'/').map(|name| to_part(OsStr::from_bytes(name))).collect();
    parts.join("/")
}

/// The file name for a part of a key.
pub(super) fn to_name(part: &str) -> Cow<'_, OsStr> {
    if is_escaped(part.as_bytes()) {
        let name: Vec<u8> = percent_decode(part.as_bytes()).collect();
        Cow::Owned(std::os::unix::ffi::OsStringExt::from_vec(name))
    } else {
        Cow::Borrowed(OsStr::new(part))
    }
}

/// Whether the name is not UTF-8, or becomes such a name by decoding it one or more times.
fn is_escaped(name: &[u8]) -> bool {
    if std::str::from_utf8(name).is_err() {
        return true;
    }
    let decoded: Vec<u8> = percent_decode(name).collect();
    decoded != name && is_escaped(&decoded)
}

fn escape(name: &[u8]) -> String {
    let mut part = String::new();
    for chunk in name.utf8_chunks() {
        part.push_str(&chunk.valid().replace('%', "%25"));
        part.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_names_that_are_not_utf_8_or_look_so_are_escaped() {
        let part = |name: &[u8]| to_part(OsStr::from_bytes(name));
        assert_eq!(part("Äpfel 50%.jpg".as_bytes()), "Äpfel 50%.jpg");
        assert_eq!(part(b"a%20b%2Fc"), "a%20b%2Fc");
        assert_eq!(part(b"x\xe9 50%.jpg"), "x%E9 50%25.jpg");
        assert_eq!(part(b"x%E9.jpg"), "x%25E9.jpg");
        assert_eq!(part(b"x%25E9.jpg"), "x%2525E9.jpg");
    }

    proptest! {
        #[test]
        fn every_name_has_a_part_of_its_own(
            name in proptest::collection::vec(prop_oneof![
                Just(b'%'), Just(b'2'), Just(b'5'), Just(b'E'), Just(b'9'), Just(0xe9u8), Just(0xc3), Just(0xa9), 1u8..=255,
            ], 1..12),
        ) {
            prop_assume!(!name.contains(&b'/'));
            let part = to_part(OsStr::from_bytes(&name));
            let back = to_name(&part).into_owned();
            prop_assert_eq!(back.as_bytes(), &name[..]);
            prop_assert!(!part.contains('/'));
        }
    }
}
