//! Uploads of photos to a bucket, with presigned URLs.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::{Client, presigning::PresigningConfig};
use bytes::Bytes;
use pomona::{
    Error, ErrorKind, Result,
    serve::{Offer, Uploads},
    store::{S3Store, Store as _, bucket_and_prefix, s3_client},
};
use uuid::Uuid;

/// How long a URL may be used.
const TIME: Duration = Duration::from_secs(300);

/// A place in a bucket. What a client uploads and does not ask about is deleted by a rule of the bucket.
#[derive(Debug)]
pub(crate) struct Photos {
    client: Client,
    bucket: String,
    prefix: String,
    store: S3Store,
}

impl Photos {
    /// The place at `s3://bucket/prefix/`.
    pub(crate) async fn open(location: &str) -> Result<Self> {
        let (bucket, prefix) = bucket_and_prefix(location)?;
        let client = s3_client().await;
        let store = S3Store::new(client.clone(), &bucket, &prefix);
        Ok(Photos { client, bucket, prefix, store })
    }
}

#[async_trait]
impl Uploads for Photos {
    async fn offer(&self, bytes: usize) -> Result<Offer> {
        // Whoever knows the name can ask what is on the photo.
        let upload = Uuid::new_v4().simple().to_string();
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::StoreFailed, "the URL of an upload cannot be signed").source(e)
        };
        let time = PresigningConfig::expires_in(TIME).map_err(|e| failed(e.into()))?;
        // The length is signed: S3 takes no other body.
        let put = self.client.put_object().bucket(&self.bucket).key(format!("{}{upload}", self.prefix));
        let put = put.content_length(i64::try_from(bytes).unwrap_or(i64::MAX));
        let signed = put.presigned(time).await.map_err(|e| failed(e.into()))?;
        Ok(Offer { upload, method: "PUT", url: signed.uri().to_owned(), bytes, seconds: TIME.as_secs() })
    }

    async fn get(&self, upload: &str) -> Result<Bytes> {
        self.store.get(upload).await
    }

    async fn delete(&self, upload: &str) -> Result<()> {
        self.store.delete(upload).await
    }
}
