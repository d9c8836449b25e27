//! `pomona model`

use std::{path::Path, process::Command, time::Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Result,
    dataset::{self, ModelRecord},
    demo::{self, VARIETIES},
    image::{self, Limits, Pixels, Reject, guarded},
    model::{Extractor, ExtractorInfo, Interface, Pooling, Preprocessing, Tensor, read_model},
    store::{self, is_ignored},
};

use super::{
    args::{Format, LoadOptions, ModelCheckArgs, ModelPushArgs},
    format,
    local_model::{LocalModel, local_model},
    out::{note, out},
    print_json,
    progress::Bars,
};

/// Images of the sample.
const IMAGES: usize = 56;
/// Images that ONNX Runtime computes, too.
const COMPARED: usize = 8;
/// What runs ONNX Runtime: the file, the name of the output, the shape of the inputs and the file with them are its arguments.
const SCRIPT: &str = include_str!("onnx_runtime.py");

/// What was found out about a model.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    bytes: u64,
    interface: Interface,
    extractor: ExtractorInfo,
    preprocessing: Preprocessing,
    /// What runs it: `kernels`, or `tract` and why.
    runtime: &'static str,
    reason: Option<String>,
    sample: Sample,
    onnx_runtime: Option<Compared>,
}

/// The features of sample images.
#[derive(Debug, Default, Serialize)]
struct Sample {
    images: usize,
    rejects: usize,
    /// Milliseconds of an image on one processor, from file to features: the median.
    milliseconds: f64,
    /// None without an image.
    smallest: Option<f32>,
    largest: Option<f32>,
    /// Columns with the same number for all images.
    constant_columns: usize,
}

/// The same images in ONNX Runtime.
#[derive(Debug, Serialize, Deserialize)]
struct Compared {
    version: String,
    /// Milliseconds of an image on one processor, without its preparation: the median.
    milliseconds: f64,
    #[serde(skip_serializing)]
    features: Vec<Vec<f64>>,
    /// The largest difference of an image, in parts of the norm of its features.
    #[serde(default)]
    difference: f64,
}

/// A model, and what it makes of sample images.
struct Measured {
    file: LocalModel,
    onnx: Bytes,
    extractor: Extractor,
    sample: Sample,
    /// The pixels that the model reads of those that have features, and these.
    prepared: Vec<Pixels>,
    features: Vec<Vec<f32>>,
}

impl Measured {
    async fn of(model: &Path, options: &LoadOptions, images: Option<&str>) -> Result<Self> {
        let bars = Bars::new();
        bars.start("model", None, None);
        let loaded = async {
            let file = local_model(model).await?.resolved()?;
            let onnx = read_model(file.path())?;
            let (range, runtime) = (options.feature_range, options.engine.runtime());
            let of_model = options.of_model.options(file.path())?;
            let extractor = Extractor::open(file.path(), range, runtime, of_model)?;
            Ok((file, onnx, extractor))
        };
        let loaded = loaded.await;
        bars.clear();
        let (file, onnx, extractor) = loaded?;
        let files = sample(images).await?;
        let (sample, prepared, features) = measure(&extractor, &files);
        Ok(Measured { file, onnx, extractor, sample, prepared, features })
    }
}

pub(crate) async fn check(args: ModelCheckArgs) -> Result<()> {
    let measured = Measured::of(&args.model, &args.load, args.images.as_deref()).await?;
    let interface = Interface::of(&measured.onnx)?;
    let compared = compare(&args, &measured, &interface)?;
    let Measured { file, onnx, extractor, sample, .. } = measured;
    let checked = Checked {
        file: file.source(),
        bytes: onnx.len() as u64,
        interface,
        extractor: extractor.info().clone(),
        preprocessing: extractor.preprocessing().clone(),
        runtime: if extractor.network().is_some() { "kernels" } else { "tract" },
        reason: extractor.unsupported().map(ToString::to_string),
        sample,
        onnx_runtime: compared,
    };
    match args.format.format() {
        Format::Json => print_json(&checked),
        Format::Text => out(&checked.text()),
    }
}

pub(crate) async fn push(args: ModelPushArgs) -> Result<()> {
    let output = store::open(&args.output).await?;
    let Measured { onnx, extractor, sample, .. } =
        Measured::of(&args.model, &args.load, args.images.as_deref()).await?;
    if sample.images == 0 {
        return Err(Error::new(ErrorKind::ModelInvalid, "no image of the sample has features"));
    }
    let record = ModelRecord {
        info: extractor.info().clone(),
        bytes: onnx.len() as u64,
        milliseconds_per_image: sample.milliseconds,
        memory_mb: peak_memory(),
    };
    let bars = Bars::new();
    bars.start("copy", None, None);
    let kept = dataset::keep_model(output.as_ref(), &record, onnx).await;
    bars.clear();
    kept?;
    match args.format.format() {
        Format::Json => print_json(&record),
        Format::Text => out(&pushed(&record, &args.output)),
    }
}

fn pushed(record: &ModelRecord, output: &str) -> String {
    let sha256 = &record.info.model_sha256;
    let memory = record.memory_mb.map_or_else(String::new, |mb| format!(", {mb} MB of memory"));
    format!(
        "Kept {} in {}\n{:.1} ms per image on one processor{memory}\nInput of an execution: {{\"extractor\": {{\"model\": \"{sha256}\"}}}}\n",
        format::escape_invisible(&record.info.model),
        format::escape_invisible(output),
        record.milliseconds_per_image,
    )
}

/// Most memory that this process has had, MB. None where the system does not say.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib.div_ceil(1024))
}

/// Files of a folder or bucket, evenly spread; without one, pictures of the demo.
async fn sample(images: Option<&str>) -> Result<Vec<Bytes>> {
    let Some(place) = images else {
        let views = (IMAGES / VARIETIES.len()).max(1) as u32;
        let jpegs = VARIETIES.iter().flat_map(|variety| (0..views).map(move |view| demo::jpeg(variety, view, views)));
        let rendered = jpegs.map(|jpeg| jpeg.map(Bytes::from));
        return rendered
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| Error::new(ErrorKind::InternalBug, "the pictures of the demo cannot be rendered").source(e));
    };
    let input = store::open(place).await?;
    let listed = store::list_all(input.as_ref(), "").await?;
    let objects: Vec<_> = listed.into_iter().filter(|object| !is_ignored(&object.key)).collect();
    let mut files = Vec::new();
    for object in objects.iter().step_by((objects.len() / IMAGES).max(1)).take(IMAGES) {
        files.push(input.get_listed(object).await?);
    }
    if files.is_empty() {
        return Err(Error::new(ErrorKind::InputEmpty, "there are no images").context("images", place));
    }
    Ok(files)
}

/// Computes the features of files, one at a time. Returns the pixels that the model reads of those that have any, and these.
fn measure(extractor: &Extractor, files: &[Bytes]) -> (Sample, Vec<Pixels>, Vec<Vec<f32>>) {
    let mut sample = Sample::default();
    let (mut times, mut prepared, mut all, mut why) = (Vec::new(), Vec::new(), Vec::<Vec<f32>>::new(), None);
    for file in files {
        let of_file = guarded(|| {
            let started = Instant::now();
            let pixels = image::decode(file, Limits::default())?;
            let pixels = extractor.prepared(pixels)?;
            let features = extractor.features(&pixels)?;
            Ok((started.elapsed(), pixels, features))
        });
        match of_file {
            Ok((took, pixels, features)) => {
                times.push(took.as_secs_f64() * 1_000.0);
                prepared.push(pixels);
                all.push(features);
            }
            Err(reject) => {
                sample.rejects += 1;
                why = why.or(Some(reject));
            }
        }
    }
    if let Some(Reject { reason, detail }) = why {
        note(&format!(
            "note: rejected, {} of the sample: {reason}: {}",
            sample.rejects,
            format::escape_invisible(&detail)
        ));
    }
    let columns = all.first().map_or(0, Vec::len);
    let is_constant = |column: &usize| all.iter().all(|row| row[*column] == all[0][*column]);
    sample.images = all.len();
    sample.constant_columns = (0..columns).filter(is_constant).count();
    sample.milliseconds = median(&mut times);
    sample.smallest = all.iter().flatten().copied().reduce(f32::min);
    sample.largest = all.iter().flatten().copied().reduce(f32::max);
    (sample, prepared, all)
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The features of ONNX Runtime, if Python has it.
fn compare(args: &ModelCheckArgs, measured: &Measured, interface: &Interface) -> Result<Option<Compared>> {
    let Measured { file, extractor, prepared, features, .. } = measured;
    if prepared.is_empty() {
        return Ok(None);
    }
    let compared = prepared.len().min(COMPARED);
    let tensors = prepared[..compared].iter().map(|pixels| interface.tensor(pixels, extractor.preprocessing()));
    let (mut numbers, mut shape) = (Vec::new(), [0; 4]);
    for (tensor, of) in tensors {
        numbers.extend(tensor.into_iter().flat_map(f32::to_le_bytes));
        shape = of;
    }
    let failed = |e: std::io::Error| Error::new(ErrorKind::StoreFailed, "a temporary file cannot be written").source(e);
    let inputs = tempfile::NamedTempFile::new().map_err(failed)?;
    std::fs::write(inputs.path(), &numbers).map_err(failed)?;
    let mut python = Command::new(&args.python);
    python.args(["-c", SCRIPT]).arg(file.path()).arg(inputs.path()).arg(shape.map(|n| n.to_string()).join(","));
    python.arg(args.load.of_model.model_output.as_deref().unwrap_or(""));
    python.arg(if extractor.info().pooling == Pooling::Cls { "cls" } else { "mean" });
    let Ok(answer) = python.output() else { return Ok(None) };
    if !answer.status.success() {
        let why = String::from_utf8_lossy(&answer.stderr);
        let last = why.lines().last().unwrap_or_default();
        if !last.contains("No module named") {
            note(&format!("note: ONNX Runtime fails: {}", format::escape_invisible(last)));
        }
        return Ok(None);
    }
    let invalid =
        |e: serde_json::Error| Error::new(ErrorKind::ModelInvalid, "ONNX Runtime's answer cannot be read").source(e);
    let mut answer: Compared = serde_json::from_slice(&answer.stdout).map_err(invalid)?;
    if extractor.info().l2 {
        for row in &mut answer.features {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            row.iter_mut().for_each(|x| *x /= length);
        }
    }
    // Features are multiples of this, also those that are nearly 0.
    let quantum = 1.0 / extractor.info().feature_range.per_unit();
    let difference = |(ours, theirs): (&Vec<f32>, &Vec<f64>)| {
        let norm = theirs.iter().map(|x| x * x).sum::<f64>().sqrt().max(quantum * (theirs.len() as f64).sqrt());
        let apart = ours.iter().zip(theirs).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
        if ours.len() == theirs.len() { apart / norm.max(f64::MIN_POSITIVE) } else { f64::INFINITY }
    };
    answer.difference = features.iter().zip(&answer.features).map(difference).fold(0.0, f64::max);
    Ok(Some(answer))
}

impl Checked {
    fn text(&self) -> String {
        let Checked { interface, sample, extractor, .. } = self;
        let tensors = |all: &[Tensor]| {
            let tensor =
                |tensor: &Tensor| format!("{} [{}]", format::escape_invisible(&tensor.name), tensor.shape.join(", "));
            all.iter().map(tensor).collect::<Vec<_>>().join("; ")
        };
        let operators =
            interface.operators.iter().map(|(name, count)| format!("{count} {}", format::escape_invisible(name)));
        let mut runs_on = self.runtime.to_owned();
        if let Some(reason) = &self.reason {
            runs_on.push_str(&format!(" ({})", format::escape_invisible(reason)));
        }
        let same = match &self.onnx_runtime {
            Some(other) => format!(
                "{}: {:.1} ms per image; features differ by at most {:.1e} of their norm",
                other.version, other.milliseconds, other.difference
            ),
            None if sample.images == 0 => "not compared: there are no features".to_owned(),
            None => "not installed for this Python (--python)".to_owned(),
        };
        let found = match (sample.smallest, sample.largest) {
            (Some(smallest), Some(largest)) => format!("{smallest} to {largest}"),
            _ => "none: all images of the sample are rejects".to_owned(),
        };
        let lines = [
            ("file", format!("{}, {}", format::escape_invisible(&self.file), format::counted(self.bytes, "byte"))),
            ("SHA-256", extractor.model_sha256.clone()),
            ("inputs", tensors(&interface.inputs)),
            ("outputs", tensors(&interface.outputs)),
            ("operators", operators.collect::<Vec<_>>().join(", ")),
            ("prepared", serde_json::json!(self.preprocessing).to_string()),
            ("runs on", runs_on),
            ("features", format!("{}, {found}, range {}", extractor.columns, u32::from(extractor.feature_range))),
            ("constant", format::counted(sample.constant_columns as u64, "column")),
            (
                "sample",
                format!(
                    "{}, {}",
                    format::counted(sample.images as u64, "image"),
                    format::counted(sample.rejects as u64, "reject")
                ),
            ),
            ("time", format!("{:.1} ms per image on one processor", sample.milliseconds)),
            ("ONNX Runtime", same),
        ];
        let lines = lines.map(|(name, value)| format!("{name:<13} {value}\n"));
        lines.concat()
    }
}
