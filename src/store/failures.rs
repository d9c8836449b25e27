//! What a failed request to AWS says: whether credentials were the reason, and a text for people.
//!
//! The texts of the SDK for its own errors end with the `Debug` form of all of them. Here they are the sentences of the
//! chain of sources, without those that only say that there is a source.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::{Error, ErrorKind};

/// Texts of errors that carry another one and say nothing themselves.
const ENVELOPES: [&str; 7] = [
    "dispatch failure",
    "service error",
    "unhandled error",
    "other",
    "io error",
    "client error (Connect)",
    "client error (SendRequest)",
];

/// An error of its own if a request failed because of the credentials.
///
/// The environment's profile is in its context, if it names one.
pub(crate) fn of_credentials<E>(error: &SdkError<E>) -> Option<Error>
where
    E: std::error::Error + Send + Sync + 'static,
    SdkError<E>: ProvideErrorMetadata,
{
    let (kind, message, source) = match error.code() {
        Some(code) => {
            let (kind, message) = of_code(code)?;
            (kind, message, Some(cause(error)))
        }
        None => of_provider(find::<CredentialsError>(error)?),
    };
    let failure = Error::new(kind, message);
    let failure = match source {
        Some(source) => failure.source(source),
        None => failure,
    };
    Some(match std::env::var("AWS_PROFILE") {
        Ok(profile) => failure.context("AWS_PROFILE", profile),
        Err(_) => failure,
    })
}

/// What the services answer to credentials that they refuse.
fn of_code(code: &str) -> Option<(ErrorKind, &'static str)> {
    match code {
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
            Some((ErrorKind::CredentialsExpired, "the AWS credentials have expired"))
        }
        "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "InvalidToken"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "UnrecognizedClientException"
        | "RequestTimeTooSkewed" => Some((ErrorKind::CredentialsInvalid, "AWS does not accept the credentials")),
        _ => None,
    }
}

fn of_provider(error: &CredentialsError) -> (ErrorKind, &'static str, Option<String>) {
    let text = chain(error);
    if text.contains("expired") {
        return (ErrorKind::CredentialsExpired, "the AWS credentials have expired", Some(text));
    }
    match error {
        // The source lists each place that was looked at.
        CredentialsError::CredentialsNotLoaded(_) => {
            (ErrorKind::CredentialsMissing, "no AWS credentials were found", None)
        }
        _ => (ErrorKind::CredentialsMissing, "no AWS credentials could be loaded", Some(text)),
    }
}

/// What the service says, without the id of the request, or why there is no answer.
pub(crate) fn cause<E>(error: &SdkError<E>) -> String
where
    E: std::error::Error + Send + Sync + 'static,
    SdkError<E>: ProvideErrorMetadata,
{
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => chain(error),
    }
}

/// The sentences of an error and of its sources.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in sources(error) {
        let text = error.to_string();
        let known = texts.iter().any(|earlier| earlier.contains(&text));
        if !known && !ENVELOPES.contains(&text.as_str()) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

fn find<'e, T: std::error::Error + 'static>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e T> {
    sources(error).find_map(|error| error.downcast_ref())
}

fn sources<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_debug_text_is_in_the_cause_of_a_failed_connection() {
        let connect = std::io::Error::other("failed to lookup address information");
        let connector = aws_sdk_s3::error::ConnectorError::io(Box::new(connect));
        let error: SdkError<aws_sdk_s3::operation::get_object::GetObjectError> = SdkError::dispatch_failure(connector);
        assert_eq!(cause(&error), "failed to lookup address information");
    }

    #[test]
    fn credentials_that_cannot_be_loaded_are_missing_or_expired() {
        let of = |error: CredentialsError| {
            let connector = aws_sdk_s3::error::ConnectorError::other(Box::new(error), None);
            let error: SdkError<aws_sdk_s3::operation::get_object::GetObjectError> =
                SdkError::dispatch_failure(connector);
            of_credentials(&error).unwrap()
        };
        let missing = of(CredentialsError::not_loaded("Attempted:\n  Environment: not set"));
        assert_eq!(missing.kind(), ErrorKind::CredentialsMissing);
        assert!(missing.to_string().starts_with("no AWS credentials were found"), "{missing}");
        assert!(!missing.to_string().contains("Attempted"), "{missing}");
        let expired = of(CredentialsError::provider_error("the SSO session has expired"));
        assert_eq!(expired.kind(), ErrorKind::CredentialsExpired);
        assert!(expired.to_string().contains("the SSO session has expired"), "{expired}");
        let other = of(CredentialsError::provider_error("the metadata service answers 403"));
        assert_eq!(other.kind(), ErrorKind::CredentialsMissing);
        assert!(other.to_string().contains("the metadata service answers 403"), "{other}");
    }
}
