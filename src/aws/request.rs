//! The input of an execution of the state machine.

use serde_json::Value;

use crate::{
    Error, ErrorKind, Result,
    dataset::settings::{Mode, Settings},
    model::Decoding,
};

/// `{"input": "s3://bucket/images/", "output": "s3://bucket/results/"}`, and optional fields of [`Settings`] and [`Mode`].
///
/// ```
/// use pomona::aws::request::Request;
///
/// let input = serde_json::json!({"input": "s3://b/images/", "output": "s3://b/results/", "csv": true});
/// assert!(Request::parse(input)?.settings.csv);
/// let input = serde_json::json!({"input": "s3://b/images/", "output": "s3://b/results/", "cvs": true});
/// assert!(Request::parse(input).unwrap_err().to_string().contains("cvs"));
/// # Ok::<(), pomona::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Location of the images, `s3://BUCKET/PREFIX/`.
    pub input: String,
    /// Location of the data set, `s3://BUCKET/PREFIX/`.
    pub output: String,
    /// The settings that decide the result; defaults for fields that are missing.
    pub settings: Settings,
    /// What the run lists and whether it fits a new basis; defaults for fields that are missing.
    pub mode: Mode,
    /// Location of a file of labels, `s3://BUCKET/KEY`; the field `labels`.
    pub labels: Option<String>,
    /// How JPEGs are decoded: the field `decode`, `"full"` or `"scaled"`.
    pub decoding: Decoding,
}

impl Request {
    /// Parses the input of an execution.
    ///
    /// Fails with `Input.Invalid` if a location is missing or not in S3, a field is unknown, or a setting is out of range.
    /// The message names the field.
    pub fn parse(value: Value) -> Result<Self> {
        const EXAMPLE: &str = r#"the execution's input must look like {"input": "s3://BUCKET/images/", "output": "s3://BUCKET/results/"}"#;
        let Value::Object(mut fields) = value else {
            return Err(Error::new(ErrorKind::InputInvalid, EXAMPLE));
        };
        fields.retain(|name, value| name != "labels" || !value.is_null());
        let has_labels = fields.contains_key("labels");
        let mut location = |name: &'static str| match fields.remove(name) {
            Some(Value::String(location)) if location.starts_with("s3://") => Ok(location),
            Some(other) => Err(Error::new(
                ErrorKind::InputInvalid,
                format!("{name:?} must be a location like \"s3://BUCKET/PREFIX/\""),
            )
            .context("found", other)),
            None => Err(Error::new(ErrorKind::InputInvalid, format!("{name:?} is missing; {EXAMPLE}"))),
        };
        let (input, output) = (location("input")?, location("output")?);
        let labels = if has_labels { Some(location("labels")?) } else { None };
        let wrong = |e: serde_json::Error| {
            Error::new(ErrorKind::InputInvalid, "a setting in the execution's input is invalid").source(e)
        };
        let decoding = fields.remove("decode").map_or(Ok(Decoding::Full), serde_json::from_value).map_err(wrong)?;
        let of_mode = ["refit", "rebuild", "listing", "upgrade", "input_moved", "accept_deletions"];
        let mode = of_mode.iter().filter_map(|name| fields.remove_entry(*name)).collect();
        let mode: Mode = serde_json::from_value(Value::Object(mode)).map_err(wrong)?;
        let settings: Settings = serde_json::from_value(Value::Object(fields)).map_err(wrong)?;
        settings.check()?;
        Ok(Request { input, output, settings, mode, labels, decoding })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        dataset::settings::{ListingScope, Refit},
        pca::ComponentSelection,
    };

    #[test]
    fn settings_are_fields_of_the_input() {
        let request = Request::parse(json!({
            "input": "s3://b/images/", "output": "s3://b/out/", "pca": {"variance": 0.9}, "standardize": false
        }));
        let request = request.unwrap();
        assert_eq!((request.input.as_str(), request.output.as_str()), ("s3://b/images/", "s3://b/out/"));
        assert_eq!(
            request.settings,
            Settings { pca: Some(ComponentSelection::Variance(0.9)), standardize: false, ..Settings::default() }
        );
    }

    #[test]
    fn the_mode_is_part_of_the_input() {
        let request = |more: Value| {
            let mut value = json!({"input": "s3://b/images/", "output": "s3://b/out/"});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Request::parse(value)
        };
        assert_eq!(request(json!({})).unwrap().mode, Mode::default());
        let mode = request(json!({"refit": "never", "listing": "changed", "rebuild": true, "csv": true})).unwrap().mode;
        assert_eq!(
            mode,
            Mode { refit: Refit::Never, rebuild: true, listing: ListingScope::Changed, ..Mode::default() }
        );
        let mode = request(json!({"input_moved": true, "accept_deletions": true})).unwrap().mode;
        assert_eq!(mode, Mode { input_moved: true, accept_deletions: true, ..Mode::default() });
        assert_eq!(request(json!({"decode": "scaled"})).unwrap().decoding, Decoding::Scaled);
        assert!(request(json!({"decode": "half"})).unwrap_err().to_string().contains("half"));
        assert!(request(json!({"refit": "sometimes"})).unwrap_err().to_string().contains("sometimes"));
    }

    #[test]
    fn errors_name_the_field() {
        for (bad, named) in [
            (json!([]), "must look like"),
            (json!({"output": "s3://b/o/"}), "\"input\" is missing"),
            (json!({"input": 3, "output": "s3://b/o/"}), "\"input\" must be a location"),
            (json!({"input": "/tmp/x", "output": "s3://b/o/"}), "\"input\" must be a location"),
            (json!({"input": "s3://b/i/", "output": "s3://b/o/", "componets": 3}), "componets"),
            (json!({"input": "s3://b/i/", "output": "s3://b/o/", "pca": {"variance": 7}}), "share of the variance"),
        ] {
            let error = Request::parse(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InputInvalid);
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
