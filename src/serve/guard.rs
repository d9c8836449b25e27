//! Refuses requests that a page of another origin makes a browser send, and tells the browser what the page may do.
//!
//! A page of any site can send requests to 127.0.0.1, and with DNS rebinding its host name can be that of this computer. So the
//! host of each request must be this server, and its origin, if the browser names one, too.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::failure::Failure;

/// The hosts that are this server.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<[String]>);

const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];

impl Guard {
    pub(super) fn new(port: u16) -> Self {
        let names = ["127.0.0.1", "localhost"];
        let with_port = names.map(|name| format!("{name}:{port}"));
        let without = names.into_iter().filter(|_| port == 80).map(str::to_owned);
        Guard(with_port.into_iter().chain(without).collect())
    }

    fn is_host(&self, host: &str) -> bool {
        self.0.iter().any(|known| known.eq_ignore_ascii_case(host))
    }

    fn is_origin(&self, origin: &str) -> bool {
        origin.strip_prefix("http://").is_some_and(|host| self.is_host(host))
    }

    /// Fails if the request is for another host, or comes from another origin.
    fn expect_own(&self, request: &Request) -> Result<(), Failure> {
        let headers = request.headers();
        let refused = |name: &'static str, found: &str| {
            Err(Failure::new(StatusCode::FORBIDDEN, "requests of other pages are refused").context(name, found))
        };
        let hosts: Vec<&str> = values(headers, header::HOST.as_str());
        if hosts.len() != 1 || !self.is_host(hosts[0]) {
            return refused("host", &hosts.join(", "));
        }
        if let Some(host) = request.uri().authority().filter(|host| !self.is_host(host.as_str())) {
            return refused("host", host.as_str());
        }
        if let Some(origin) = values(headers, header::ORIGIN.as_str()).iter().find(|origin| !self.is_origin(origin)) {
            return refused("origin", origin);
        }
        // Without an origin: the pictures and scripts of a page. A link to this page may be anywhere.
        let is_link = request.uri().path() == "/" && values(headers, "sec-fetch-mode") == ["navigate"];
        let sites = values(headers, "sec-fetch-site");
        match sites.iter().find(|site| !matches!(**site, "same-origin" | "none")) {
            Some(site) if !is_link => refused("sec-fetch-site", site),
            _ => Ok(()),
        }
    }
}

/// The values of a header; a value that is not text is an empty one.
fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect()
}

pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = match guard.expect_own(&request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
