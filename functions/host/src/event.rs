//! The events that EventBridge sends to the queue of the trigger.

use aws_lambda_events::event::eventbridge::EventBridgeEvent;
use pomona::{Error, ErrorKind, Result, store::bucket_and_prefix};
use serde::Deserialize;
use serde_json::Value;

/// An event, reduced to what the trigger needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// An object was written or deleted; its key is relative to the input.
    Changed(String),
    /// An object outside of the input was written or deleted, or an old version of an object.
    Elsewhere,
    /// A run has ended, or the schedule asks for a look into the inbox.
    Look,
}

/// The detail of an S3 event. The key is not URL-encoded, unlike in S3 notifications without EventBridge.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ObjectEvent {
    bucket: Bucket,
    object: ObjectKey,
    reason: Option<String>,
    deletion_type: Option<String>,
}

impl ObjectEvent {
    /// Whether a lifecycle rule has deleted an old version of an object. The object itself stays as it is.
    fn is_expiry_of_an_old_version(&self) -> bool {
        self.reason.as_deref() == Some("Lifecycle Expiration")
            && self.deletion_type.as_deref() == Some("Permanently Deleted")
            && self.object.version_id.is_some()
    }
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ObjectKey {
    key: String,
    /// None in a bucket without versions.
    version_id: Option<String>,
}

impl Message {
    /// Parses the body of a message of the queue. Fails with `Input.Invalid` on events that no rule of the template sends.
    pub fn parse(body: &str, input: &str) -> Result<Message> {
        let invalid = |what: String| {
            let start: String = body.chars().take(200).collect();
            Error::new(ErrorKind::InputInvalid, what).context("message", start)
        };
        // The schedule sends an event without a detail.
        let event: EventBridgeEvent<Option<Value>> =
            serde_json::from_str(body).map_err(|e| invalid("the message is not an event".to_owned()).source(e))?;
        match (event.source.as_str(), event.detail_type.as_str()) {
            ("aws.s3", "Object Created" | "Object Deleted") => {
                let event: ObjectEvent = serde_json::from_value(event.detail.unwrap_or_default())
                    .map_err(|e| invalid("the event has no object".to_owned()).source(e))?;
                if event.is_expiry_of_an_old_version() {
                    return Ok(Message::Elsewhere);
                }
                let (bucket, prefix) = bucket_and_prefix(input)?;
                Ok(match event.object.key.strip_prefix(&prefix) {
                    Some(key) if event.bucket.name == bucket && !key.is_empty() => Message::Changed(key.to_owned()),
                    _ => Message::Elsewhere,
                })
            }
            ("aws.states", "Step Functions Execution Status Change") | ("pomona", "Look") => Ok(Message::Look),
            (source, kind) => Err(invalid(format!("unexpected event: source {source:?}, detail-type {kind:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const INPUT: &str = "s3://fruit/images/";

    fn event(bucket: &str, key: &str) -> String {
        serde_json::json!({
            "version": "0", "id": "1", "source": "aws.s3", "detail-type": "Object Created", "region": "eu-west-3",
            "detail": {"bucket": {"name": bucket}, "object": {"key": key, "size": 3, "etag": "e", "sequencer": "00A"}}
        })
        .to_string()
    }

    #[test]
    fn the_expiry_of_old_versions_starts_no_run() {
        // S3 user guide, "EventBridge event message structure".
        let deleted = |reason: &str, kind: &str, version: Option<&str>| {
            let mut object = json!({"key": "images/1.jpg", "sequencer": "00A"});
            if let Some(version) = version {
                object["version-id"] = version.into();
            }
            let detail =
                json!({"bucket": {"name": "fruit"}, "object": object, "reason": reason, "deletion-type": kind});
            let event = json!({"source": "aws.s3", "detail-type": "Object Deleted", "detail": detail});
            Message::parse(&event.to_string(), INPUT).unwrap()
        };
        let changed = Message::Changed("1.jpg".to_owned());
        let (expired, forever) = ("Lifecycle Expiration", "Permanently Deleted");
        assert_eq!(deleted(expired, forever, Some("3HL4")), Message::Elsewhere);
        // A rule that deletes images, in a bucket with versions and in one without.
        assert_eq!(deleted(expired, "Delete Marker Created", Some("3HL4")), changed);
        assert_eq!(deleted(expired, forever, None), changed);
        assert_eq!(deleted("DeleteObject", forever, Some("3HL4")), changed);
    }

    #[test]
    fn expected_events_are_parsed_and_others_are_errors() {
        let parse = |body: &str| Message::parse(body, INPUT);
        let changed = parse(&event("fruit", "images/Äpfel rot/1 %2B.jpg")).unwrap();
        assert_eq!(changed, Message::Changed("Äpfel rot/1 %2B.jpg".to_owned()));
        for elsewhere in [event("fruit", "other/1.jpg"), event("vegetables", "images/1.jpg"), event("fruit", "images/")]
        {
            assert_eq!(parse(&elsewhere).unwrap(), Message::Elsewhere);
        }
        let ended =
            r#"{"source": "aws.states", "detail-type": "Step Functions Execution Status Change", "detail": {}}"#;
        assert_eq!(parse(ended).unwrap(), Message::Look);
        assert_eq!(parse(r#"{"source": "pomona", "detail-type": "Look"}"#).unwrap(), Message::Look);
        for bad in [
            "",
            "{}",
            "[1]",
            r#"{"source": "aws.s3", "detail-type": "Object Created", "detail": {"bucket": {"name": "fruit"}}}"#,
            r#"{"source": "aws.ec2", "detail-type": "Object Created", "detail": {}}"#,
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InputInvalid, "{bad}");
        }
    }
}
