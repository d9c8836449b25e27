//! Opens a report in the browser, and links to it.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use crate::{
    Error, ErrorKind, Result,
    dataset::{Manifest, keys},
    escape_invisible,
    store::{self, Store},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::out::{note, out};

/// Characters of a path that a URL has as they are.
const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Prints where the report of a version is, and opens it; without a version, the newest report. Fails with `Input.Invalid`
/// if there is none. Without a browser, the path remains.
pub(crate) async fn report(store: &dyn Store, location: &str, version: Option<&Manifest>) -> Result<()> {
    let key = version.map_or(keys::REPORT.to_owned(), |version| keys::run_report(&version.run));
    let missing = || {
        let message = "there is no report; the next run that publishes a version writes one";
        Error::new(ErrorKind::InputInvalid, message).context("output", location)
    };
    let path = if location.starts_with("s3://") {
        kept(&store::get_opt(store, &key).await?.ok_or_else(missing)?)?
    } else {
        let path = Path::new(location).join(&key);
        if path.is_file() { path } else { return Err(missing()) }
    };
    out(&format!("{}\n", escape_invisible(&path.display().to_string())))?;
    if let Err(e) = open::that_detached(&path) {
        note(&format!("note: no browser could be started ({e}); open the file yourself"));
    }
    Ok(())
}

/// Writes a page to a temporary file that is not deleted: the browser reads it later.
fn kept(page: &[u8]) -> Result<PathBuf> {
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::StoreFailed, "the report cannot be written to a temporary file").source(e)
    };
    let mut file = tempfile::Builder::new().prefix("pomona-report-").suffix(".html").tempfile().map_err(failed)?;
    file.write_all(page).map_err(failed)?;
    file.keep().map(|(_, path)| path).map_err(|e| failed(e.error))
}

/// The text with its last line that ends with a path as a hyperlink to that file, for terminals.
///
/// Terminals that do not know such links (OSC 8) ignore the escape sequence. The path of a bucket is left as it is.
pub(crate) fn with_link(text: &str, path: &str) -> String {
    let shown = escape_invisible(path);
    let Some(start) = text.rfind(&format!("  {shown}\n")).filter(|_| !path.starts_with("s3://")) else {
        return text.to_owned();
    };
    let Ok(target) = std::path::absolute(path) else { return text.to_owned() };
    let target = utf8_percent_encode(&target.to_string_lossy(), URL).to_string();
    let (before, after) = (&text[..start + 2], &text[start + 2 + shown.len()..]);
    format!("{before}\u{1b}]8;;file://{target}\u{1b}\\{shown}\u{1b}]8;;\u{1b}\\{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_report_becomes_a_link() {
        let text = "  report  /out of/it's/report.html\nshell\n";
        let link = "\u{1b}]8;;file:///out%20of/it%27s/report.html\u{1b}\\/out of/it's/report.html\u{1b}]8;;\u{1b}\\";
        assert_eq!(with_link(text, "/out of/it's/report.html"), format!("  report  {link}\nshell\n"));
        for (text, path) in [(text, "/other/report.html"), ("report  s3://b/report.html\n", "s3://b/report.html")] {
            assert_eq!(with_link(text, path), text);
        }
    }
}
