//! The answer to CloudFormation's question whether the deployed program starts.
//!
//! The stack has a custom resource (`ProgramStarts` in `template.yaml`), for which CloudFormation invokes a function with a
//! pre-signed URL and waits for an answer there. A package for another processor, or one that misses a library, cannot
//! answer: the deployment fails and is rolled back, instead of the first run. See "Custom resource request and response
//! reference" in the CloudFormation user guide.

use aws_smithy_http_client::{
    Connector,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{http::HttpConnector as _, orchestrator::HttpRequest};
use aws_smithy_types::body::SdkBody;
use pomona::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

/// The fields of the question that the answer needs. CloudFormation names its fields in this way.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Question {
    // "Create", "Update" or "Delete". The program starts, whatever it is.
    #[serde(rename = "RequestType")]
    _request_type: String,
    #[serde(rename = "ResponseURL")]
    response_url: String,
    stack_id: String,
    request_id: String,
    logical_resource_id: String,
}

/// Answers if the event is CloudFormation's question. Returns whether it is.
pub(crate) async fn answer(event: &Value) -> Result<bool> {
    let Ok(question) = Question::deserialize(event) else { return Ok(false) };
    let local = std::env::var("AWS_ENDPOINT_URL").is_ok();
    if !is_of_aws(&question.response_url, local) {
        let error = Error::new(ErrorKind::InputInvalid, "the event has an answer sent elsewhere than to AWS");
        return Err(error.context("ResponseURL", host(&question.response_url).unwrap_or_default()));
    }
    put(&question.response_url, &body(&question)).await?;
    Ok(true)
}

/// The physical id never changes: there is nothing to replace or delete.
fn body(question: &Question) -> Value {
    json!({
        "Status": "SUCCESS",
        "PhysicalResourceId": "program-starts",
        "StackId": question.stack_id,
        "RequestId": question.request_id,
        "LogicalResourceId": question.logical_resource_id,
        "Data": {"Architecture": std::env::consts::ARCH},
    })
}

/// Scheme and host with port of a URL without user information.
fn parts(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    (!authority.contains('@')).then_some((scheme, authority))
}

fn host(url: &str) -> Option<&str> {
    parts(url).map(|(_, host)| host)
}

/// Whether a URL is one of S3. With a local AWS, it may be one of this machine.
fn is_of_aws(url: &str, local: bool) -> bool {
    match parts(url) {
        Some(("https", host)) if host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn") => true,
        Some((_, host)) => local && (host.starts_with("localhost:") || host.starts_with("127.0.0.1:")),
        None => false,
    }
}

async fn put(url: &str, body: &Value) -> Result<()> {
    let failed = |what: String| Error::new(ErrorKind::StoreUnavailable, what);
    let body = body.to_string();
    // The signature covers the absence of a content type.
    let length = body.len().to_string();
    let mut request = HttpRequest::new(SdkBody::from(body));
    request.set_method("PUT").map_err(|e| failed("the answer has no method".to_owned()).source(e))?;
    request.set_uri(url).map_err(|e| failed("the URL of the answer is invalid".to_owned()).source(e))?;
    request.headers_mut().insert("content-length", length);
    let connector = Connector::builder().tls_provider(Provider::Rustls(CryptoMode::Ring)).build();
    let response =
        connector.call(request).await.map_err(|e| failed("CloudFormation cannot be answered".to_owned()).source(e))?;
    match response.status().as_u16() {
        200..=299 => Ok(()),
        status => Err(failed(format!("CloudFormation's URL answers with the HTTP status {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    fn question(url: &str) -> Value {
        json!({
            "RequestType": "Update", "RequestId": "r-1", "StackId": "arn:aws:cloudformation:s", "ResponseURL": url,
            "ResourceType": "Custom::ProgramStarts", "LogicalResourceId": "ProgramStarts", "PhysicalResourceId": "program-starts",
            "ResourceProperties": {"ServiceToken": "arn:aws:lambda:f", "ServiceTimeout": "120"}, "OldResourceProperties": {},
        })
    }

    #[test]
    fn an_answer_is_sent_to_aws_only() {
        for (url, local, expected) in [
            (
                "https://cloudformation-custom-resource-response-useast1.s3.amazonaws.com/a?X-Amz-Signature=b",
                false,
                true,
            ),
            ("https://cloudformation-custom-resource-response-cnnorth1.s3.cn-north-1.amazonaws.com.cn/a", false, true),
            ("http://cloudformation-custom-resource-response-useast1.s3.amazonaws.com/a", false, false),
            ("https://amazonaws.com.example.org/a", false, false),
            ("https://example.org/.amazonaws.com", false, false),
            ("https://example.org\\.amazonaws.com", false, false),
            ("https://s3.amazonaws.com@example.org/a", false, false),
            ("http://localhost:4566/a", false, false),
            ("http://localhost:4566/a", true, true),
            ("http://example.org/a", true, false),
            ("a", true, false),
        ] {
            assert_eq!(is_of_aws(url, local), expected, "{url}");
        }
    }

    #[tokio::test]
    async fn other_events_are_no_question() {
        for event in [json!({"request": {}, "run": "r", "attempt": 1}), json!([]), json!({"ResponseURL": "https://x"})]
        {
            assert!(!answer(&event).await.unwrap(), "{event}");
        }
        let error = answer(&question("https://example.org/a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InputInvalid);
        assert!(error.to_string().contains("example.org"), "{error}");
    }

    #[tokio::test]
    async fn the_answer_is_what_cloudformation_waits_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/answer?signature=x", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}") {
                let read = stream.read(&mut buffer).unwrap();
                assert!(read > 0, "the request ends early");
                request.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            String::from_utf8(request).unwrap()
        });
        let asked: Question = serde_json::from_value(question(&url)).unwrap();
        put(&url, &body(&asked)).await.unwrap();
        let request = served.join().unwrap();
        let (head, sent) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("PUT /answer?signature=x HTTP/1.1"), "{head}");
        assert!(!head.to_lowercase().contains("content-type"), "{head}");
        assert!(head.to_lowercase().contains(&format!("content-length: {}", sent.len())), "{head}");
        let sent: Value = serde_json::from_str(sent).unwrap();
        assert_eq!(sent["Status"], "SUCCESS");
        assert_eq!((&sent["RequestId"], &sent["LogicalResourceId"]), (&json!("r-1"), &json!("ProgramStarts")));
        assert_eq!(sent["StackId"], "arn:aws:cloudformation:s");
        assert_eq!(sent["Data"]["Architecture"], std::env::consts::ARCH);
    }
}
