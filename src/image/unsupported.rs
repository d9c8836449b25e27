//! Names of image formats, and of variants of formats, that are not decoded.
//!
//! They are recognised so that a reject names them: "HEIC" helps, "no known image format" does not.

/// Signatures at the start of a file.
static SIGNATURES: [(&[u8], &str); 14] = [
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "PSD (Photoshop)"),
    (b"IIRO", "ORF (Olympus raw)"),
    (b"IIRS", "ORF (Olympus raw)"),
    (b"MMOR", "ORF (Olympus raw)"),
    (b"IIU\0", "RW2 (Panasonic raw)"),
    (b"FUJIFILMCCD-RAW", "RAF (Fujifilm raw)"),
    (b"\0MRM", "MRW (Minolta raw)"),
    (b"II\xbc\x01", "JPEG XR"),
];

/// The brands that an ISO media file (`ftyp`) of still images can name.
static BRANDS: [(&[&[u8; 4]], &str); 4] = [
    (&[b"avif", b"avis"], "AVIF"),
    (&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"], "HEIC"),
    (&[b"crx "], "CR3 (Canon raw)"),
    (&[b"mif1", b"mif2", b"msf1", b"miaf"], "HEIF"),
];
/// Compatible brands that are looked at; files have a handful.
const COMPATIBLE: usize = 32;

/// The format of a file that the decoders do not know; `None` if it is no known image format.
pub(super) fn format(file: &[u8]) -> Option<&'static str> {
    let known = SIGNATURES.iter().find(|(signature, _)| file.starts_with(signature));
    known.map(|(_, name)| *name).or_else(|| iso_media(file))
}

/// The format of an ISO media file whose main brand is one of still images. Videos have other brands.
fn iso_media(file: &[u8]) -> Option<&'static str> {
    let name = |brand: &[u8]| BRANDS.iter().find(|(brands, _)| brands.iter().any(|b| b.as_slice() == brand));
    if file.get(4..8)? != b"ftyp" {
        return None;
    }
    let main = name(file.get(8..12)?)?.1;
    if main != "HEIF" {
        return Some(main);
    }
    // The main brand can be that of the container; then the codec is among the compatible brands.
    let size = u32::from_be_bytes(file.first_chunk().copied()?) as usize;
    let compatible = file.get(16..size.min(file.len())).unwrap_or_default().chunks_exact(4).take(COMPATIBLE);
    let specific = compatible.filter_map(name).map(|brand| brand.1).find(|name| *name != "HEIF");
    Some(specific.unwrap_or(main))
}

/// The variant of a JPEG that has one which is not decoded: see its first frame header.
pub(super) fn jpeg_variant(file: &[u8]) -> Option<String> {
    let mut at = 2;
    loop {
        // Fill bytes may precede a marker.
        let marker = match file.get(at..at + 2)? {
            [0xff, 0xff] => {
                at += 1;
                continue;
            }
            [0xff, marker] => *marker,
            _ => return None,
        };
        let length = usize::from(u16::from_be_bytes([*file.get(at + 2)?, *file.get(at + 3)?]));
        match marker {
            0xc3 => return Some("lossless JPEG".to_owned()),
            0xc9..=0xcb => return Some("arithmetic-coded JPEG".to_owned()),
            0xc5..=0xc7 | 0xcd..=0xcf => return Some("hierarchical JPEG".to_owned()),
            0xc0..=0xc2 => {
                let bits = *file.get(at + 4)?;
                return (bits != 8).then(|| format!("{bits}-bit JPEG"));
            }
            // The scan begins without a frame header, or the image ends.
            0xda | 0xd9 => return None,
            _ => at += 2 + length.max(2),
        }
    }
}

/// The variant of a TIFF that is a camera's raw file.
pub(super) fn tiff_variant(file: &[u8]) -> Option<&'static str> {
    const DNG_VERSION: u16 = 0xc612;
    if file.get(8..10)? == b"CR" {
        return Some("CR2 (Canon raw)");
    }
    let little = file.starts_with(b"II");
    let short = |at: usize| {
        let bytes = file.get(at..)?.first_chunk().copied()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let first = file.get(4..)?.first_chunk().copied()?;
    let directory = (if little { u32::from_le_bytes(first) } else { u32::from_be_bytes(first) }) as usize;
    let entries = usize::from(short(directory)?);
    let mut tags = (0..entries).map_while(|entry| short(directory.checked_add(2 + 12 * entry)?));
    tags.any(|tag| tag == DNG_VERSION).then_some("DNG (raw)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognised_by_their_first_bytes() {
        let ftyp = |main: &str, compatible: &str| {
            let size = 16 + compatible.len() as u32;
            [&size.to_be_bytes()[..], b"ftyp", main.as_bytes(), b"\0\0\0\0", compatible.as_bytes(), b"\0\0\0\x08mdat"]
                .concat()
        };
        for (file, expected) in [
            (ftyp("heic", "mif1heic"), Some("HEIC")),
            (ftyp("heix", "mif1heix"), Some("HEIC")),
            (ftyp("hevc", "msf1hevc"), Some("HEIC")),
            (ftyp("heim", ""), Some("HEIC")),
            (ftyp("mif1", "mif1heic"), Some("HEIC")),
            (ftyp("mif1", "mif1avif"), Some("AVIF")),
            (ftyp("mif1", ""), Some("HEIF")),
            (ftyp("msf1", "iso8"), Some("HEIF")),
            (ftyp("avif", "avifmif1miaf"), Some("AVIF")),
            (ftyp("crx ", "crx isom"), Some("CR3 (Canon raw)")),
            // Videos are no images.
            (ftyp("isom", "isomiso2avc1mp41"), None),
            (ftyp("qt  ", "qt  "), None),
            (b"II+\0\x08\0\0\0".to_vec(), Some("BigTIFF")),
            (b"MM\0+\0\x08\0\0".to_vec(), Some("BigTIFF")),
            (b"\xff\x0a\xfa\x1f".to_vec(), Some("JPEG XL")),
            (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ".to_vec(), Some("JPEG XL")),
            (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ".to_vec(), Some("JPEG 2000")),
            (b"\xff\x4f\xff\x51\0\x2f".to_vec(), Some("JPEG 2000")),
            (b"8BPS\0\x01".to_vec(), Some("PSD (Photoshop)")),
            (b"IIRO\x08\0\0\0".to_vec(), Some("ORF (Olympus raw)")),
            (b"IIU\0\x08\0\0\0".to_vec(), Some("RW2 (Panasonic raw)")),
            (b"FUJIFILMCCD-RAW 0201".to_vec(), Some("RAF (Fujifilm raw)")),
            (b"hello, I am a text file".to_vec(), None),
            (b"\0\0".to_vec(), None),
        ] {
            assert_eq!(format(&file), expected, "{}", file.escape_ascii());
            // Truncated files do not panic.
            for end in 0..file.len() {
                let _ = format(&file[..end]);
            }
        }
    }

    #[test]
    fn variants_of_jpeg_are_recognised_by_their_frame_header() {
        let jpeg = |marker: u8, bits: u8| {
            let frame = [0xff, marker, 0, 11, bits, 0, 1, 0, 1, 1, 1, 0x11, 0];
            // A comment with something like another frame header in it, and a fill byte.
            [
                &[0xff, 0xd8, 0xff, 0xfe, 0, 6, 0xff, 0xc3, 0, 11, 0xff][..],
                &frame,
                &[0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0],
            ]
            .concat()
        };
        let variant = |marker, bits| jpeg_variant(&jpeg(marker, bits));
        assert_eq!([0xc0, 0xc1, 0xc2].map(|marker| variant(marker, 8)), [None, None, None]);
        assert_eq!([0xc1, 0xc2].map(|marker| variant(marker, 12).unwrap()), ["12-bit JPEG"; 2]);
        assert_eq!(variant(0xc3, 16).unwrap(), "lossless JPEG");
        assert_eq!([0xc9, 0xca, 0xcb].map(|marker| variant(marker, 8).unwrap()), ["arithmetic-coded JPEG"; 3]);
        assert_eq!([0xc5, 0xcf].map(|marker| variant(marker, 8).unwrap()), ["hierarchical JPEG"; 2]);
        let file = jpeg(0xc1, 12);
        for end in 0..file.len() {
            let _ = jpeg_variant(&file[..end]);
        }
    }

    #[test]
    fn raw_files_in_the_form_of_a_tiff_are_recognised() {
        assert_eq!(tiff_variant(b"II*\0\x10\0\0\0CR\x02\0"), Some("CR2 (Canon raw)"));
        let dng = |tag: u16| {
            let entry = [&tag.to_be_bytes()[..], &[0, 1, 0, 0, 0, 4, 1, 4, 0, 0]].concat();
            [&b"MM\0*\0\0\0\x08\0\x02"[..], &[0; 12], &entry].concat()
        };
        assert_eq!(tiff_variant(&dng(0xc612)), Some("DNG (raw)"));
        assert_eq!(tiff_variant(&dng(0x0100)), None);
        assert_eq!(tiff_variant(b"II*\0\xff\xff\xff\xff\0\0\0\0"), None);
        let file = dng(0xc612);
        for end in 0..file.len() {
            let _ = tiff_variant(&file[..end]);
        }
    }
}
