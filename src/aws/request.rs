//! The input of an execution of the state machine.

use std::num::NonZeroU64;

use serde_json::{Map, Value};

use crate::{
    Error, ErrorKind, Result,
    dataset::{
        ExtractorInput, WordsInput,
        settings::{ListingScope, Mode, Settings},
    },
    model::{Decoding, ExtractorKind},
    orb::Weights,
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
    /// Location of an inventory that replaces the listing of the images: see [`crate::inventory`].
    pub inventory: Option<String>,
    /// The settings that decide the result; defaults for fields that are missing.
    pub settings: Settings,
    /// What the run lists and whether it fits a new basis; defaults for fields that are missing.
    pub mode: Mode,
    /// Location of a file of labels, `s3://BUCKET/KEY`; the field `labels`.
    pub labels: Option<String>,
    /// About how many objects of a large input one function lists: the field `objects_per_lister`. The result does not
    /// depend on it.
    pub objects_per_lister: Option<NonZeroU64>,
    /// How JPEGs are decoded: the field `decode`, `"full"` or `"scaled"`.
    pub decoding: Decoding,
    /// What computes the features: the field `extractor`, such as `{"name": "raw"}` or `{"model": SHA256}`.
    pub extractor: ExtractorInput,
}

impl Request {
    /// Parses the input of an execution.
    ///
    /// Fails with `Input.Invalid` if a location is missing or not in S3, a field is unknown, or a setting is out of range.
    /// The message names the field.
    pub fn parse(value: Value) -> Result<Self> {
        let Value::Object(mut fields) = value else {
            return Err(Error::new(ErrorKind::InputInvalid, EXAMPLE));
        };
        fields.retain(|name, value| name != "labels" || !value.is_null());
        let (input, output) = (location(&mut fields, "input")?, location(&mut fields, "output")?);
        let optional = |fields: &mut Map<String, Value>, name| match fields.contains_key(name) {
            true => location(fields, name).map(Some),
            false => Ok(None),
        };
        let (labels, inventory) = (optional(&mut fields, "labels")?, optional(&mut fields, "inventory")?);
        let wrong = |e: serde_json::Error| {
            Error::new(ErrorKind::InputInvalid, "a setting in the execution's input is invalid").source(e)
        };
        let objects_per_lister = fields.remove("objects_per_lister").map(serde_json::from_value).transpose();
        let objects_per_lister = objects_per_lister.map_err(|e| {
            Error::new(ErrorKind::InputInvalid, "\"objects_per_lister\" must be a whole number above 0").source(e)
        })?;
        let decoding = fields.remove("decode").map_or(Ok(Decoding::Full), serde_json::from_value).map_err(wrong)?;
        let extractor = fields.remove("extractor").filter(|value| !value.is_null()).map(extractor).transpose()?;
        let extractor = extractor.unwrap_or_default();
        let of_mode = ["refit", "rebuild", "listing", "upgrade", "input_moved", "accept_deletions"];
        let mode = of_mode.iter().filter_map(|name| fields.remove_entry(*name)).collect();
        let mode: Mode = serde_json::from_value(Value::Object(mode)).map_err(wrong)?;
        let settings: Settings = serde_json::from_value(Value::Object(fields)).map_err(wrong)?;
        settings.check()?;
        if inventory.is_some() && mode.listing == ListingScope::Changed {
            let message =
                "\"inventory\" lists all images, and \"listing\": \"changed\" asks for a part; leave one of them out";
            return Err(Error::new(ErrorKind::InputInvalid, message));
        }
        Ok(Request { input, output, inventory, settings, mode, labels, objects_per_lister, decoding, extractor })
    }
}

/// `{"name": "raw"}`, `{"name": "orb", "words": 256}` or `{"model": SHA256}`
fn extractor(value: Value) -> Result<ExtractorInput> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        name: Option<String>,
        model: Option<String>,
        vocabulary: Option<String>,
        words: Option<usize>,
        weights: Option<Weights>,
        keypoints: Option<bool>,
    }
    let unlike =
        || Error::new(ErrorKind::InputInvalid, r#""extractor" must look like {"name": "raw"} or {"model": "SHA256"}"#);
    let Given { name, model, vocabulary, words, weights, keypoints } =
        serde_json::from_value(value).map_err(|e| unlike().source(e))?;
    if name.is_some() == model.is_some() {
        return Err(unlike().source("it has a name or a model, not both"));
    }
    let words = WordsInput { location: vocabulary, words, weights, keypoints, kept: None };
    let kind = name.as_deref().map(ExtractorKind::of_name).transpose()?;
    words.check(kind.unwrap_or_default())?;
    if words.location.as_ref().is_some_and(|location| !location.starts_with("s3://")) {
        let message = "\"vocabulary\" must be a location like \"s3://BUCKET/words.json\"";
        return Err(Error::new(ErrorKind::InputInvalid, message).context("found", words.location.unwrap_or_default()));
    }
    Ok(ExtractorInput { kind, model, words, ..ExtractorInput::default() })
}

/// Takes a location in S3 out of the fields.
fn location(fields: &mut Map<String, Value>, name: &'static str) -> Result<String> {
    match fields.remove(name) {
        Some(Value::String(location)) if location.starts_with("s3://") => Ok(location),
        Some(other) => {
            let message = format!("{name:?} must be a location like \"s3://BUCKET/PREFIX/\"");
            Err(Error::new(ErrorKind::InputInvalid, message).context("found", other))
        }
        None => Err(Error::new(ErrorKind::InputInvalid, format!("{name:?} is missing; {EXAMPLE}"))),
    }
}

const EXAMPLE: &str =
    r#"the execution's input must look like {"input": "s3://BUCKET/images/", "output": "s3://BUCKET/results/"}"#;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{dataset::settings::Refit, pca::ComponentSelection};

    #[test]
    fn settings_are_fields_of_the_input() {
        let request = Request::parse(json!({
            "input": "s3://b/images/", "output": "s3://b/out/", "pca": {"variance": 0.9}, "standardize": false
        }));
        let request = request.unwrap();
        assert_eq!((request.input.as_str(), request.output.as_str()), ("s3://b/images/", "s3://b/out/"));
        assert_eq!(
            request.settings,
            Settings { pca: Some(ComponentSelection::Variance(0.9)), standardize: Some(false), ..Settings::default() }
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
        assert_eq!(request(json!({})).unwrap().inventory, None);
        let inventory = "s3://i/images/daily/2024-01-01T01-00Z/manifest.json";
        assert_eq!(request(json!({"inventory": inventory})).unwrap().inventory.as_deref(), Some(inventory));
        let listed = |more: Value| request(more).unwrap().objects_per_lister.map(NonZeroU64::get);
        assert_eq!((listed(json!({})), listed(json!({"objects_per_lister": 5_000}))), (None, Some(5_000)));
        assert!(request(json!({"objects_per_lister": 0})).unwrap_err().to_string().contains("objects_per_lister"));
        assert_eq!(request(json!({"extractor": {"name": "raw"}})).unwrap().extractor.kind, Some(ExtractorKind::Raw));
        assert_eq!(request(json!({"extractor": {"model": "ab"}})).unwrap().extractor.model.as_deref(), Some("ab"));
        let orb = request(json!({"extractor": {"name": "orb", "words": 64, "weights": "tf_idf", "keypoints": true}}));
        let (orb, weights) = (orb.unwrap(), Some(Weights::TfIdf));
        let words = WordsInput { words: Some(64), weights, keypoints: Some(true), ..WordsInput::default() };
        assert_eq!((orb.extractor.kind, orb.extractor.words), (Some(ExtractorKind::Orb), words));
        for (bad, named) in [
            (json!("raw"), "must look like"),
            (json!({"name": "resnet"}), "resnet"),
            (json!({}), "a name or a model"),
            (json!({"name": "raw", "model": "ab"}), "not both"),
            (json!({"model": "ab", "words": 64}), "belong to the extractor orb"),
            (json!({"name": "raw", "words": 64}), "belong to the extractor orb"),
            (json!({"name": "raw", "keypoints": true}), "belong to the extractor orb"),
            (json!({"name": "orb", "vocabulary": "/words.json"}), "must be a location"),
        ] {
            assert!(request(json!({"extractor": bad})).unwrap_err().to_string().contains(named));
        }
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
            (json!({"input": "s3://b/i/", "output": "s3://b/o/", "inventory": "/tmp/x"}), "\"inventory\" must be"),
            (
                json!({"input": "s3://b/i/", "output": "s3://b/o/", "inventory": "s3://i/m.json", "listing": "changed"}),
                "leave one",
            ),
            (json!({"input": "s3://b/i/", "output": "s3://b/o/", "componets": 3}), "componets"),
            (json!({"input": "s3://b/i/", "output": "s3://b/o/", "pca": {"variance": 7}}), "share of the variance"),
        ] {
            let error = Request::parse(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InputInvalid);
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
