//! The number of requests to S3, for what an invocation costs.

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
