//! What the files of an output hold as text, apart from tables.

use std::io::Read;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::ZlibDecoder;

/// Most bytes that the data of a page are decompressed to.
const EMBEDDED: u64 = 1 << 30;

/// The part of a file that can hold a path: of a segment of the search index, its paths and its header, which are behind the
/// numbers. In numbers, a short path would be found by chance.
pub(super) fn text_of<'b>(file: &str, body: &'b [u8]) -> &'b [u8] {
    const TRAILER: usize = 24;
    let start = || {
        let end = body.len().checked_sub(TRAILER).filter(|_| file.ends_with(".index"))?;
        let length = u32::from_le_bytes(body.get(end..end + 4)?.try_into().ok()?);
        let header = end.checked_sub(length as usize)?;
        let fields: serde_json::Value = serde_json::from_slice(&body[header..end]).ok()?;
        header.checked_sub(usize::try_from(fields.get("paths_bytes")?.as_u64()?).ok()?)
    };
    &body[start().unwrap_or(0)..]
}

/// What the elements `script` of a page contain in base64, decompressed if it is compressed.
pub(super) fn embedded<'b>(file: &str, body: &'b [u8]) -> impl Iterator<Item = Vec<u8>> + 'b {
    const END: &[u8] = b"</script>";
    let page = if file.ends_with(".html") { body } else { &[] };
    memchr::memmem::find_iter(page, END).filter_map(|end| {
        let start = memchr::memrchr(b'>', &page[..end])? + 1;
        let content = STANDARD.decode(page[start..end].trim_ascii()).ok()?;
        let mut plain = Vec::new();
        // What comes before an error counts too.
        let _ = ZlibDecoder::new(content.as_slice()).take(EMBEDDED).read_to_end(&mut plain);
        Some(if plain.is_empty() { content } else { plain })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_in_the_compressed_data_of_a_page() {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, br#"{"paths":["l1/1.jpg"]}"#).unwrap();
        let packed = STANDARD.encode(encoder.finish().unwrap());
        let page = format!("<p>x</p><script id=\"texts\">{packed}</script><script>const a = 1 > 0;</script>");
        let contents: Vec<_> = embedded("report.html", page.as_bytes()).collect();
        assert_eq!(contents, [br#"{"paths":["l1/1.jpg"]}"#.to_vec()]);
        assert_eq!(embedded("report.txt", page.as_bytes()).count(), 0);
    }
}
