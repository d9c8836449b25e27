//! Files that lie beside a model and say how its input is made: `preprocessor_config.json` of Hugging Face's Transformers, or
//! `config.json` of timm. Other files are not read.

use std::path::Path;

use serde_json::Value;

use super::{Preprocessing, Resize, invalid};
use crate::{Error, Result, image::Filter};

/// Files beside a model that say how its input is made, the first one first.
pub const CONFIGS: [&str; 2] = ["preprocessor_config.json", "config.json"];
/// Most bytes of such a file.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

impl Preprocessing {
    /// What lies beside a model file, or nothing. Fails with `Model.Invalid`, which names the file and the field.
    pub fn beside(model: &Path) -> Result<Option<Self>> {
        let folder = model.parent().unwrap_or(Path::new(""));
        for name in CONFIGS {
            let file = folder.join(name);
            let Some(text) = read(&file)? else { continue };
            let parsed = match name {
                "config.json" => of_timm(&text),
                _ => of_transformers(&text).map(Some),
            };
            if let Some(found) = parsed.map_err(|e| e.context("file", file.display()))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// The text of a file that may not exist.
fn read(file: &Path) -> Result<Option<String>> {
    use std::io::Read as _;
    let failed =
        |e: std::io::Error| invalid("a file beside the model cannot be read").context("file", file.display()).source(e);
    let opened = match std::fs::File::open(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mut text = String::new();
    opened.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(invalid("a file beside the model is too large").context("file", file.display()));
    }
    Ok(Some(text))
}

fn field(name: &'static str) -> Error {
    invalid("a field of its preprocessing is not understood").context("field", name)
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| invalid("a file beside the model is no JSON").source(e))
}

fn side(value: &Value, name: &'static str) -> Result<usize> {
    let whole = value.as_u64().or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && *x > 0.0).map(|x| x as u64));
    whole.and_then(|side| usize::try_from(side).ok()).ok_or_else(|| field(name))
}

fn three(value: &Value, name: &'static str) -> Result<[f64; 3]> {
    let numbers: Option<Vec<f64>> = match value {
        Value::Array(values) => values.iter().map(Value::as_f64).collect(),
        value => value.as_f64().map(|number| vec![number; 3]),
    };
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| field(name))
}

/// `preprocessor_config.json`
fn of_transformers(text: &str) -> Result<Preprocessing> {
    let config = parse(text)?;
    if !config.is_object() {
        return Err(invalid("its preprocessing is no object"));
    }
    let is = |name: &str, otherwise: bool| config[name].as_bool().unwrap_or(otherwise);
    let filter = match &config["resample"] {
        Value::Null => Filter::Bilinear,
        number => number.as_u64().and_then(Filter::of_number).ok_or_else(|| field("resample"))?,
    };
    let size = &config["size"];
    let resize = if !is("do_resize", true) || size.is_null() {
        Resize::None
    } else if let Some(edge) = size.get("shortest_edge") {
        Resize::ShortestEdge(side(edge, "size")?)
    } else if size.get("height").is_some() {
        Resize::Exact([side(&size["height"], "size")?, side(&size["width"], "size")?])
    } else if is("do_center_crop", false) {
        // A number is the shorter side where a crop follows, and both sides elsewhere.
        Resize::ShortestEdge(side(size, "size")?)
    } else {
        Resize::Exact([side(size, "size")?; 2])
    };
    let crop = match &config["crop_size"] {
        _ if !is("do_center_crop", false) => None,
        Value::Object(size) => Some([side(&size["height"], "crop_size")?, side(&size["width"], "crop_size")?]),
        size => Some([side(size, "crop_size")?; 2]),
    };
    // ConvNeXt: a share of the edge that is kept, for images of fewer than 384 pixels.
    let (resize, crop) = match (resize, config["crop_pct"].as_f64()) {
        (Resize::ShortestEdge(edge), Some(share)) if edge < 384 && share > 0.0 => {
            (Resize::ShortestEdge((edge as f64 / share) as usize), Some([edge; 2]))
        }
        (Resize::ShortestEdge(edge), Some(_)) => (Resize::Exact([edge; 2]), crop),
        (resize, _) => (resize, crop),
    };
    let scale = match &config["rescale_factor"] {
        _ if !is("do_rescale", true) => 1.0,
        Value::Null => 1.0 / 255.0,
        factor => factor.as_f64().ok_or_else(|| field("rescale_factor"))?,
    };
    let normalize = is("do_normalize", true) && !config["image_mean"].is_null();
    let (mean, std) = if normalize {
        (three(&config["image_mean"], "image_mean")?, three(&config["image_std"], "image_std")?)
    } else {
        ([0.0; 3], [1.0; 3])
    };
    let bgr = is("do_flip_channel_order", false);
    Preprocessing { resize, filter, crop, scale, mean, std, bgr }.checked()
}

/// `config.json` of timm. None if it is that of another library.
fn of_timm(text: &str) -> Result<Option<Preprocessing>> {
    let config = parse(text)?;
    let of_model = &config["pretrained_cfg"];
    if !of_model.is_object() {
        return Ok(None);
    }
    let input = of_model["input_size"].as_array().filter(|size| size.len() == 3).ok_or_else(|| field("input_size"))?;
    let (height, width) = (side(&input[1], "input_size")?, side(&input[2], "input_size")?);
    let filter = match of_model["interpolation"].as_str().unwrap_or("bilinear") {
        "bicubic" => Filter::Bicubic,
        "bilinear" => Filter::Bilinear,
        "lanczos" => Filter::Lanczos,
        "nearest" => Filter::Nearest,
        _ => return Err(field("interpolation")),
    };
    let share = of_model["crop_pct"].as_f64().unwrap_or(0.875);
    if !(0.01..=1.0).contains(&share) {
        return Err(field("crop_pct"));
    }
    let enlarged = |side: usize| (side as f64 / share).floor() as usize;
    let resize = match of_model["crop_mode"].as_str().unwrap_or("center") {
        "center" if height == width => Resize::ShortestEdge(enlarged(height)),
        "center" | "squash" => Resize::Exact([enlarged(height), enlarged(width)]),
        _ => return Err(field("crop_mode")),
    };
    let (mean, std) = (three(&of_model["mean"], "mean")?, three(&of_model["std"], "std")?);
    let crop = Some([height, width]);
    Preprocessing { resize, filter, crop, scale: 1.0 / 255.0, mean, std, bgr: false }.checked().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Pixels;

    #[test]
    fn configurations_of_transformers() {
        let clip = r#"{"do_resize": true, "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": true,
            "crop_size": {"height": 224, "width": 224}, "do_rescale": true, "rescale_factor": 0.00392156862745098,
            "do_normalize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}"#;
        assert_eq!(of_transformers(clip).unwrap(), Preprocessing::of_name("clip").unwrap());
        let vit = of_transformers(
            r#"{"size": {"height": 224, "width": 192}, "image_mean": 0.5, "image_std": [0.5, 0.5, 0.5]}"#,
        )
        .unwrap();
        assert_eq!((vit.resize, vit.filter, vit.crop), (Resize::Exact([224, 192]), Filter::Bilinear, None));
        let convnext = of_transformers(
            r#"{"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3, "do_normalize": false}"#,
        )
        .unwrap();
        assert_eq!(
            (convnext.resize, convnext.crop, convnext.std),
            (Resize::ShortestEdge(256), Some([224; 2]), [1.0; 3])
        );
        let plain = of_transformers(r#"{"do_resize": false, "do_rescale": false, "do_normalize": false}"#).unwrap();
        assert_eq!((plain.resize, plain.scale), (Resize::None, 1.0));
    }

    #[test]
    fn configurations_of_timm() {
        let config = r#"{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 224], "interpolation": "bilinear",
            "crop_pct": 0.875, "crop_mode": "center", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}"#;
        assert_eq!(of_timm(config).unwrap(), Some(Preprocessing::of_name("imagenet").unwrap()));
        assert_eq!(of_timm(r#"{"model_type": "vit"}"#).unwrap(), None);
    }

    #[test]
    fn wrong_configurations_name_the_field() {
        for (text, name) in [
            ("[]", "no object"),
            ("{", "no JSON"),
            (r#"{"size": {"shortest_edge": -1}}"#, "size"),
            (r#"{"size": {"shortest_edge": 100000000}}"#, "size"),
            (r#"{"resample": 9}"#, "resample"),
            (r#"{"image_mean": [1, 2], "image_std": 1}"#, "image_mean"),
            (r#"{"image_mean": 0, "image_std": 0}"#, "not usable"),
            (r#"{"rescale_factor": "a"}"#, "rescale_factor"),
        ] {
            let error = of_transformers(text).unwrap_err();
            assert!(error.is(crate::ErrorKind::ModelInvalid) && error.to_string().contains(name), "{text}: {error}");
        }
        assert!(of_timm(r#"{"pretrained_cfg": {}}"#).unwrap_err().to_string().contains("input_size"));
    }

    #[test]
    fn damaged_configurations_are_errors_or_usable() {
        let whole = r#"{"do_resize": true, "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": true, "crop_size": 224,
            "rescale_factor": 0.0039, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "crop_pct": 0.9}"#;
        let mut random = fastrand::Rng::with_seed(3);
        let image = || Pixels { width: 9, height: 5, data: vec![100; 135] };
        for _ in 0..3_000 {
            let mut bytes = whole.as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                // Something is left to damage.
                if bytes.len() < 2 {
                    break;
                }
                let at = random.usize(0..bytes.len());
                match random.u8(0..3) {
                    0 => drop(bytes.remove(at)),
                    1 => bytes[at] = b"0123456789.-eE[]{}\",: "[random.usize(0..22)],
                    _ => bytes.truncate(at.max(1)),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            match of_transformers(&text) {
                Err(error) => assert!(error.is(crate::ErrorKind::ModelInvalid), "{text}: {error}"),
                Ok(found) => {
                    assert!(found.table().iter().flatten().all(|x| x.is_finite()), "{text}");
                    if !matches!(found.resize, Resize::ShortestEdge(edge) if edge > 600) {
                        assert_eq!(found.pixels(image(), 8, 8).unwrap().data.len(), 8 * 8 * 3);
                    }
                }
            }
        }
    }
}
