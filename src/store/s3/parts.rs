//! Uploads in parts, and copies that S3 makes of parts of objects.

use std::ops::Range;

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::{PART_BYTES, S3Store, copy_source};
use crate::Result;

/// Parts of an object that S3 copies, at most.
const MAX_PARTS: u64 = 10_000;
/// Parts that S3 copies at the same time.
const COPIES: usize = 8;

impl S3Store {
    /// A multipart upload, aborted if a part fails.
    pub(super) async fn put_parts(&self, key: &str, first: Bytes, rest: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        let id = self.create_upload(key).await?;
        let parts = self.upload_parts(key, &id, first, rest).await;
        self.end_upload(key, &id, parts).await
    }

    /// Copies an object of any size. S3 copies the parts, so no byte of them comes here.
    pub(super) async fn copy_parts(&self, from: &str, to: &str) -> Result<()> {
        let head = self.client.head_object().bucket(&self.bucket).key(self.full(from));
        let size = head.send().await.map_err(|e| self.fail(e, from))?.content_length.unwrap_or(0);
        let size = u64::try_from(size).unwrap_or(0);
        if size == 0 {
            // There is no range of nothing.
            return self.put_object(to, Bytes::new()).await;
        }
        let id = self.create_upload(to).await?;
        let step = size.div_ceil(MAX_PARTS).max(PART_BYTES as u64);
        let ranges = (0..size.div_ceil(step)).map(|part| part * step..size.min((part + 1) * step));
        let copies: Vec<_> =
            ranges.zip(1..).map(|(range, number)| self.copy_part((from, range), (to, &id, number))).collect();
        let parts = stream::iter(copies).buffered(COPIES).try_collect().await;
        self.end_upload(to, &id, parts).await
    }

    async fn copy_part(
        &self,
        (from, range): (&str, Range<u64>),
        (to, id, number): (&str, &str, i32),
    ) -> Result<CompletedPart> {
        let _permit = self.permit().await;
        let copy = self.client.upload_part_copy().bucket(&self.bucket).key(self.full(to)).upload_id(id);
        let source = copy.part_number(number).copy_source(copy_source(&self.bucket, &self.full(from)));
        let ranged = source.copy_source_range(format!("bytes={}-{}", range.start, range.end - 1));
        let copied = ranged.send().await.map_err(|e| self.fail(e, from))?;
        let etag = copied.copy_part_result.and_then(|result| result.e_tag);
        Ok(CompletedPart::builder().part_number(number).set_e_tag(etag).build())
    }

    async fn create_upload(&self, key: &str) -> Result<String> {
        let create = self.client.create_multipart_upload().bucket(&self.bucket).key(self.full(key));
        let created = create.send().await.map_err(|e| self.fail(e, key))?;
        Ok(created.upload_id.unwrap_or_default())
    }

    /// Completes an upload with its parts, or aborts it.
    async fn end_upload(&self, key: &str, id: &str, parts: Result<Vec<CompletedPart>>) -> Result<()> {
        let full = self.full(key);
        let outcome = async {
            let parts = CompletedMultipartUpload::builder().set_parts(Some(parts?)).build();
            let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(&full).upload_id(id);
            complete.multipart_upload(parts).send().await.map(drop).map_err(|e| self.fail(e, key))
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            // If this fails too, the bucket's lifecycle rule deletes the parts.
            let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(&full).upload_id(id);
            let _ = abort.send().await;
        }
        outcome
    }

    async fn upload_parts(
        &self,
        key: &str,
        id: &str,
        first: Bytes,
        mut rest: BoxStream<'_, Result<Bytes>>,
    ) -> Result<Vec<CompletedPart>> {
        let mut parts = Vec::new();
        let mut next = Some(first);
        while let Some(body) = next {
            let number = parts.len() as i32 + 1;
            let _permit = self.permit().await;
            let upload = self.client.upload_part().bucket(&self.bucket).key(self.full(key)).upload_id(id);
            let sent = upload.part_number(number).body(ByteStream::from(body)).send().await;
            let sent = sent.map_err(|e| self.fail(e, key))?;
            parts.push(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
            next = next_part(&mut rest).await?;
        }
        Ok(parts)
    }
}

/// Collects pieces until they have the size of a part. None at the end of the body.
pub(super) async fn next_part(body: &mut BoxStream<'_, Result<Bytes>>) -> Result<Option<Bytes>> {
    let mut part = BytesMut::new();
    while part.len() < PART_BYTES {
        match body.next().await {
            Some(piece) => part.extend_from_slice(&piece?),
            None => break,
        }
    }
    Ok((!part.is_empty()).then(|| part.freeze()))
}
