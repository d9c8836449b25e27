//! The content of members, from the bytes that hold it. What a member claims bounds what is allocated.

use std::{io::Read, sync::Arc};

use bytes::{Buf, Bytes};
use flate2::read::DeflateDecoder;

use super::zip::{LOCAL, LOCAL_MARK};
use crate::{
    Result,
    dataset::blocking::run_blocking,
    image::{MAX_FILE_BYTES, Reason, Reject},
    store::{Form, Object, Packed},
};

type Content = std::result::Result<Bytes, Reject>;

fn corrupt(detail: &str) -> Reject {
    Reject::new(Reason::Corrupt, detail)
}

/// A value of a page.
pub(super) fn value(
    values: std::result::Result<Arc<Vec<Option<Bytes>>>, String>,
    value: u32,
    object: &Object,
) -> Content {
    let values = values.map_err(|e| corrupt(&format!("a page of images: {e}")))?;
    let value = values.get(value as usize).cloned().flatten();
    value.filter(|value| value.len() as u64 == object.size).ok_or_else(|| corrupt("the page has another value"))
}

/// A member of a zip file with `size` bytes, from its local header and its data.
pub(super) async fn zip(bytes: Bytes, packed: &Packed, size: u64) -> Result<Content> {
    let Form::Zip { length, deflated, crc } = packed.form else { return Ok(Err(corrupt("this is no zip file"))) };
    let data = match data_of(bytes, length) {
        Ok(data) => data,
        Err(reject) => return Ok(Err(reject)),
    };
    run_blocking(move || {
        let content = if deflated { inflate(&data, size) } else { Ok(data) };
        Ok(content.and_then(|content| {
            let same = content.len() as u64 == size && crc32fast::hash(&content) == crc;
            if same { Ok(content) } else { Err(corrupt("the member has another CRC-32 than the zip file says")) }
        }))
    })
    .await
}

/// The data behind a local header.
fn data_of(mut bytes: Bytes, length: u64) -> Content {
    if (bytes.len() as u64) < LOCAL || bytes.get_u32_le() != LOCAL_MARK {
        return Err(corrupt("the member has no header where the zip file says"));
    }
    bytes.advance(22);
    let texts = usize::from(bytes.get_u16_le()) + usize::from(bytes.get_u16_le());
    let end = usize::try_from(length).ok().and_then(|length| texts.checked_add(length));
    match end.filter(|end| *end <= bytes.len()) {
        Some(end) => Ok(bytes.slice(texts..end)),
        None => Err(corrupt("the member overlaps another one or the directory of the zip file")),
    }
}

/// Inflates to at most `size` bytes, the most that an image may have.
fn inflate(data: &[u8], size: u64) -> Content {
    let most = size.min(MAX_FILE_BYTES);
    let mut content = Vec::new();
    match DeflateDecoder::new(data).take(most + 1).read_to_end(&mut content) {
        Ok(_) if content.len() as u64 == size => Ok(content.into()),
        Ok(_) => Err(corrupt("the member has another size than the zip file says")),
        Err(e) => Err(corrupt(&format!("the member cannot be inflated: {e}"))),
    }
}
