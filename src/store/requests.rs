//! The number of requests to S3, for what an invocation costs, and how keys are written in requests.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextRef},
    error::BoxError,
};

/// Requests to S3 by their price. Deletions are free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// PUT, COPY, POST and LIST.
    pub puts: u64,
    /// GET and HEAD.
    pub gets: u64,
}

static PUTS: AtomicU64 = AtomicU64::new(0);
static GETS: AtomicU64 = AtomicU64::new(0);

/// The requests that clients of [`s3_client`](super::s3_client) have sent in this process. S3 bills each attempt, so repeated ones count again.
pub fn requests_sent() -> RequestCounts {
    RequestCounts { puts: PUTS.load(Ordering::Relaxed), gets: GETS.load(Ordering::Relaxed) }
}

/// Counts the attempts of requests.
#[derive(Debug)]
pub(super) struct RequestCounter;

impl Intercept for RequestCounter {
    fn name(&self) -> &'static str {
        "RequestCounter"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        match request.method() {
            "DELETE" => {}
            "GET" | "HEAD" if !request.uri().contains("list-type=2") => {
                GETS.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                PUTS.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// What a copy request names as its source. S3 decodes it.
pub(super) fn copy_source(bucket: &str, full: &str) -> String {
    /// All but what an URL may have without a meaning, and the `/` between folders.
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    format!("{bucket}/{}", utf8_percent_encode(full, ENCODED))
}

/// Decodes a key of a listing with `encoding-type=url`, which keeps control characters out of the XML.
pub(super) fn decoded(key: &str) -> String {
    // S3 writes a space as `+`, and a plus as `%2B`.
    percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
}
