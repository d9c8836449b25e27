//! A store in an S3 bucket.
//!
//! Credentials, region, profile and endpoint come from the AWS SDK's default chain (`AWS_PROFILE`, `AWS_ENDPOINT_URL`, the
//! role of a Lambda, ...). The SDK retries requests that were throttled or lost. [`S3Store`] retries downloads whose
//! connection breaks.

mod parts;

use std::{
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use aws_config::{AppName, SdkConfig};
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        RequestId as _, get_object::builders::GetObjectFluentBuilder, put_object::builders::PutObjectFluentBuilder,
    },
    primitives::ByteStream,
    types::EncodingType,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use parts::next_part;

use super::{
    Object, Store,
    failures::{cause, of_credentials},
    outside,
    requests::{RequestCounter, copy_source, decoded},
};
use crate::{Error, ErrorKind, Result, compiled_once};

/// Size of an upload part, bytes. Smaller objects are uploaded with one request. S3 allows 10,000 parts, 160 GB.
const PART_BYTES: usize = 16 << 20;
/// Longest application name that the SDK recommends for a user agent, bytes.
const APP_NAME: usize = 50;
/// Concurrent requests of one store.
const CONCURRENCY: usize = 64;
/// Concurrent listings of one store. S3 answers 5,500 requests a second below one prefix.
const LISTERS: usize = 16;
/// Attempts of a request that is throttled or lost, with the SDK's exponential backoff and jitter.
const ATTEMPTS: u32 = 6;
/// Attempts of a download whose connection breaks.
const DOWNLOAD_ATTEMPTS: u32 = 4;
/// Attempts of a conditional put that S3 answers with 409: another conditional put of the key is in progress.
const CONFLICT_ATTEMPTS: u32 = 8;

/// A [`Store`] in a bucket. Objects are those of `bucket` below `prefix`.
#[derive(Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
    /// Empty, or ends with `/`.
    prefix: String,
    permits: Arc<Semaphore>,
}

/// An S3 client with the configuration of [`environment`].
#[compiled_once]
pub async fn client() -> Client {
    client_of(&environment().await)
}

/// An S3 client with a configuration.
pub fn client_of(config: &SdkConfig) -> Client {
    Client::from_conf(aws_sdk_s3::config::Builder::from(config).interceptor(RequestCounter).build())
}

/// The configuration for AWS clients: credentials, region and endpoint of the environment, 6 attempts per request, and
/// timeouts of 5 s to connect and 30 s to read. The region is `us-east-1` if the environment has none.
#[compiled_once]
pub async fn environment() -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    // The user agent in access logs then contains the name of the function.
    let function = std::env::var("AWS_LAMBDA_FUNCTION_NAME").ok();
    let name = function.and_then(|name| AppName::new(name.chars().take(APP_NAME).collect::<String>()).ok());
    let mut builder = aws_config::defaults(BehaviorVersion::latest());
    if let Some(name) = name {
        builder = builder.app_name(name);
    }
    let environment = builder
        .http_client(http)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(5))
                .read_timeout(Duration::from_secs(30))
                .build(),
        )
        .load()
        .await;
    if environment.region().is_some() {
        return environment;
    }
    environment.into_builder().region(Region::from_static("us-east-1")).build()
}

impl S3Store {
    /// The store of the objects below `prefix`, with or without `/` at its ends; an empty prefix is the whole bucket.
    pub fn new(client: Client, bucket: &str, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        S3Store { client, bucket: bucket.to_owned(), prefix, permits: Arc::new(Semaphore::new(CONCURRENCY)) }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.permits.acquire().await.ok()
    }

    fn fail<E>(&self, error: SdkError<E>, key: &str) -> Error
    where
        E: ProvideErrorMetadata + fmt::Debug + std::error::Error + Send + Sync + 'static,
    {
        let location = format!("s3://{}/{}", self.bucket, self.full(key));
        if let Some(failure) = of_credentials(&error) {
            return failure.context("location", location).request(error.request_id());
        }
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.as_service_error().and_then(|e| e.code()).map(str::to_owned);
        let (kind, message) = kind_of(&error, code.as_deref(), status);
        let mut failure = Error::new(kind, message).context("location", location);
        if kind == ErrorKind::StoreWrongRegion
            && let Some(region) = region_of_bucket(&error)
        {
            failure = failure.context("region of the bucket", region);
        }
        if status.is_none()
            && let Some(region) = self.client.config().region()
        {
            failure = failure.context("region", region);
        }
        failure.source(cause(&error)).request(error.request_id())
    }

    /// Sends a request and reads the whole body. Repeats both if the connection breaks.
    async fn download(&self, request: GetObjectFluentBuilder, key: &str) -> Result<Bytes> {
        let _permit = self.permit().await;
        let mut attempt = 1;
        loop {
            let response = request.clone().send().await.map_err(|e| self.fail(e, key))?;
            match response.body.collect().await {
                Ok(body) => return Ok(body.into_bytes()),
                Err(e) if attempt == DOWNLOAD_ATTEMPTS => {
                    return Err(Error::new(
                        ErrorKind::StoreUnavailable,
                        "the connection broke during each attempt to download",
                    )
                    .context("location", format!("s3://{}/{}", self.bucket, self.full(key)))
                    .source(e));
                }
                Err(_) => pause(attempt).await,
            }
            attempt += 1;
        }
    }

    /// Downloads a range, which may be empty.
    async fn part(&self, request: GetObjectFluentBuilder, key: &str, range: Range<u64>) -> Result<Bytes> {
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else { return Ok(Bytes::new()) };
        let request = request.bucket(&self.bucket).key(self.full(key)).range(format!("bytes={}-{last}", range.start));
        let body = self.download(request, key).await?;
        if body.len() as u64 == range.end - range.start { Ok(body) } else { Err(outside(key)) }
    }

    async fn put_object(&self, key: &str, body: Bytes) -> Result<()> {
        let _permit = self.permit().await;
        let request = self.client.put_object().bucket(&self.bucket).key(self.full(key));
        request.body(ByteStream::from(body)).send().await.map(drop).map_err(|e| self.fail(e, key))
    }

    /// A put with a condition. Returns whether the condition held.
    async fn put_on_condition(
        &self,
        key: &str,
        body: Bytes,
        condition: impl Fn(PutObjectFluentBuilder) -> PutObjectFluentBuilder + Send + Sync,
    ) -> Result<bool> {
        let mut attempt = 1;
        loop {
            let permit = self.permit().await;
            let request = condition(self.client.put_object().bucket(&self.bucket).key(self.full(key)));
            let outcome = request.body(ByteStream::from(body.clone())).send().await;
            drop(permit);
            match outcome {
                Ok(_) => return Ok(true),
                Err(e) => match (e.code(), e.raw_response().map(|response| response.status().as_u16())) {
                    // 404: the object that a put should replace does not exist any more.
                    (_, Some(412)) | (Some("NoSuchKey"), Some(404)) => return Ok(false),
                    // Another conditional put of this key is in progress. Repeat, to learn whether it succeeds.
                    (_, Some(409)) if attempt < CONFLICT_ATTEMPTS => pause(attempt).await,
                    _ => return Err(self.fail(e, key)),
                },
            }
            attempt += 1;
        }
    }
}

async fn pause(attempt: u32) {
    // 0.1, 0.2, 0.4 s, ... plus jitter.
    let millis = 100u64 << attempt.min(6);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    let spread = u64::from(clock) % (millis / 2 + 1);
    tokio::time::sleep(Duration::from_millis(millis / 2 + spread)).await;
}

fn kind_of<E: fmt::Debug>(error: &SdkError<E>, code: Option<&str>, status: Option<u16>) -> (ErrorKind, &'static str) {
    let denied = (ErrorKind::StoreDenied, "S3 refused access");
    match (code, status) {
        (Some("InvalidObjectState"), _) => (ErrorKind::StoreArchived, "the object is archived"),
        (Some("NoSuchBucket"), _) => (ErrorKind::StoreNoBucket, "there is no such bucket"),
        (
            Some(
                "PermanentRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraint"
                | "IllegalLocationConstraintException",
            ),
            _,
        )
        | (_, Some(301)) => (ErrorKind::StoreWrongRegion, "the bucket is in another region"),
        (Some("NoSuchKey" | "NotFound"), _) => (ErrorKind::StoreNotFound, "there is no such object"),
        (Some("SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests"), _)
        | (_, Some(429)) => (ErrorKind::StoreThrottled, "S3 throttled the request"),
        (Some("AccessDenied"), _) => denied,
        (Some(code), _) if code.starts_with("KMS.") => {
            (ErrorKind::StoreDenied, "S3 could not use the key of the object")
        }
        (Some("PreconditionFailed"), _) | (_, Some(412)) => {
            (ErrorKind::StoreNotFound, "the object has been replaced since it was listed")
        }
        (_, Some(404)) => (ErrorKind::StoreNotFound, "there is no such object"),
        (_, Some(401 | 403)) => denied,
        (_, Some(503)) => (ErrorKind::StoreThrottled, "S3 throttled the request"),
        (_, Some(500..)) => (ErrorKind::StoreUnavailable, "S3 failed"),
        (None, None) => match error {
            SdkError::DispatchFailure(failure) if !failure.is_io() && !failure.is_timeout() => {
                (ErrorKind::StoreFailed, "the request could not be signed or sent")
            }
            SdkError::ConstructionFailure(_) => (ErrorKind::StoreFailed, "the request is not valid"),
            _ => (ErrorKind::StoreUnavailable, "S3 could not be reached"),
        },
        _ => (ErrorKind::StoreFailed, "S3 refused the request"),
    }
}

/// The region of the bucket, if the response names it.
fn region_of_bucket<E>(error: &SdkError<E>) -> Option<String> {
    error.raw_response()?.headers().get("x-amz-bucket-region").map(str::to_owned)
}

#[async_trait]
impl Store for S3Store {
    fn location(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(self.full(prefix))
            .encoding_type(EncodingType::Url)
            .set_start_after(after.map(|key| self.full(key)));
        let pages = stream::try_unfold(Some(request), move |request| async move {
            let Some(request) = request else { return Ok(None) };
            let _permit = self.permit().await;
            let page = request.clone().send().await.map_err(|e| self.fail(e, prefix))?;
            let encoded = page.encoding_type == Some(EncodingType::Url);
            let objects = page.contents.unwrap_or_default().into_iter().filter_map(|object| {
                let key = object.key.unwrap_or_default();
                let key = if encoded { decoded(&key) } else { key };
                // The folder marker of the prefix itself has an empty relative key.
                let key = key.strip_prefix(&self.prefix).filter(|key| !key.is_empty())?.to_owned();
                Some(Object {
                    key,
                    etag: object.e_tag.unwrap_or_default().trim_matches('"').into(),
                    size: object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    modified: object
                        .last_modified
                        .map_or(0, |t| t.secs() * 1_000_000 + i64::from(t.subsec_nanos() / 1_000)),
                    packed: None,
                })
            });
            let objects: Vec<Object> = objects.collect();
            let next = page.next_continuation_token.map(|token| request.continuation_token(token));
            Ok(Some((objects, next)))
        });
        // S3 may return empty pages before the last one; `Store::list` does not.
        pages.filter(|page| futures::future::ready(!matches!(page, Ok(page) if page.is_empty()))).boxed()
    }

    fn listers(&self) -> usize {
        LISTERS
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.download(self.client.get_object().bucket(&self.bucket).key(self.full(key)), key).await
    }

    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        let request = self.client.get_object().bucket(&self.bucket).key(self.full(&object.key));
        self.download(request.if_match(format!("\"{}\"", object.etag)), &object.key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.part(self.client.get_object(), key, range).await
    }

    async fn get_part(&self, object: &Object, range: Range<u64>) -> Result<Bytes> {
        let request = self.client.get_object().if_match(format!("\"{}\"", object.etag));
        self.part(request, &object.key, range).await
    }

    async fn put_stream(&self, key: &str, mut body: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        let first = next_part(&mut body).await?.unwrap_or_default();
        if first.len() < PART_BYTES {
            self.put_object(key, first).await
        } else {
            self.put_parts(key, first, body).await
        }
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool> {
        self.put_on_condition(key, body, |request| request.if_none_match("*")).await
    }

    async fn replace(&self, listed: &Object, body: Bytes) -> Result<bool> {
        let etag = format!("\"{}\"", listed.etag);
        self.put_on_condition(&listed.key, body, |request| request.if_match(&etag)).await
    }

    async fn link(&self, from: &str, to: &str) -> Result<()> {
        let permit = self.permit().await;
        let request = self.client.copy_object().bucket(&self.bucket).key(self.full(to));
        let outcome = request.copy_source(copy_source(&self.bucket, &self.full(from))).send().await;
        drop(permit);
        match outcome {
            Ok(_) => Ok(()),
            // The object is larger than what S3 copies with one request, or is copied to itself.
            Err(e) if e.code() == Some("InvalidRequest") => self.copy_parts(from, to).await,
            Err(e) => Err(self.fail(e, from)),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let _permit = self.permit().await;
        let request = self.client.delete_object().bucket(&self.bucket).key(self.full(key));
        request.send().await.map(drop).map_err(|e| self.fail(e, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of S3 with a status and an error code, and the region of the bucket.
    fn refused(code: &'static str, status: u16, region: Option<&'static str>) -> Error {
        use aws_sdk_s3::{config::http::HttpResponse, error::ErrorMetadata, operation::get_object::GetObjectError};

        let mut response = HttpResponse::new(status.try_into().unwrap(), "".into());
        if let Some(region) = region {
            response.headers_mut().insert("x-amz-bucket-region", region);
        }
        let error = GetObjectError::generic(ErrorMetadata::builder().code(code).build());
        let config = aws_sdk_s3::Config::builder().behavior_version(BehaviorVersion::latest()).build();
        let store = S3Store::new(Client::from_conf(config), "fruit", "photos");
        store.fail(SdkError::service_error(error, response), "1.jpg")
    }

    #[test]
    fn a_missing_bucket_and_a_wrong_region_are_told_from_a_missing_object() {
        for (code, status, kind) in [
            ("NoSuchKey", 404, ErrorKind::StoreNotFound),
            ("NoSuchBucket", 404, ErrorKind::StoreNoBucket),
            ("PermanentRedirect", 301, ErrorKind::StoreWrongRegion),
            ("", 301, ErrorKind::StoreWrongRegion),
            ("AuthorizationHeaderMalformed", 400, ErrorKind::StoreWrongRegion),
            ("IllegalLocationConstraintException", 400, ErrorKind::StoreWrongRegion),
            ("AccessDenied", 403, ErrorKind::StoreDenied),
            // An archived object; also 403.
            ("InvalidObjectState", 403, ErrorKind::StoreArchived),
            // A key that the role may not use.
            ("KMS.DisabledException", 400, ErrorKind::StoreDenied),
            ("SlowDown", 503, ErrorKind::StoreThrottled),
            ("ExpiredToken", 400, ErrorKind::CredentialsExpired),
            ("InvalidAccessKeyId", 403, ErrorKind::CredentialsInvalid),
            ("SignatureDoesNotMatch", 403, ErrorKind::CredentialsInvalid),
        ] {
            assert_eq!(refused(code, status, None).kind(), kind, "{code} {status}");
        }
        let error = refused("PermanentRedirect", 301, Some("eu-west-3")).to_string();
        let start =
            "the bucket is in another region (location: s3://fruit/photos/1.jpg, region of the bucket: eu-west-3): ";
        assert!(error.starts_with(start), "{error}");
        let other = refused("NoSuchKey", 404, Some("eu-west-3")).to_string();
        assert!(!other.contains("region of the bucket"), "{other}");
    }

    #[test]
    fn the_source_of_a_copy_is_encoded() {
        assert_eq!(copy_source("fruit", "a b/Ä+%20?.txt"), "fruit/a%20b/%C3%84%2B%2520%3F.txt");
    }

    #[test]
    fn url_encoded_keys_are_decoded() {
        assert_eq!(decoded("a%2Fb+c%2B%C3%84%01"), "a/b c+Ä\u{1}");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz"), "%zz");
    }
}
