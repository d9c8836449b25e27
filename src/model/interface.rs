//! Where an ONNX file is, and what it says about itself: its inputs, outputs and operators.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use prost::Message;
use serde::Serialize;

use super::{Preprocessing, invalid, limits, onnx, preprocess::numbers, wire};
use crate::{Error, ErrorKind, Result, image::Pixels};

/// The interface of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// What it takes. The constants of the file are none of them.
    pub inputs: Vec<Tensor>,
    /// What it gives.
    pub outputs: Vec<Tensor>,
    /// How many nodes of each operator it has.
    pub operators: BTreeMap<String, u64>,
}

/// A tensor by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Lengths of its axes; names or `?` for those that are not fixed.
    pub shape: Vec<String>,
}

impl Interface {
    /// Reads a file. Fails with `Model.Invalid`.
    pub fn of(file: &Bytes) -> Result<Self> {
        wire::check(file)?;
        let model =
            onnx::Model::decode(file.clone()).map_err(|e| invalid("it is not a readable ONNX file").source(e))?;
        limits::check(&model)?;
        let graph = model.graph.unwrap_or_default();
        let is_constant = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
        let mut operators = BTreeMap::new();
        for node in &graph.node {
            *operators.entry(node.op_type.clone()).or_default() += 1;
        }
        Ok(Interface {
            inputs: graph.input.iter().filter(|input| !is_constant(&input.name)).map(described).collect(),
            outputs: graph.output.iter().map(described).collect(),
            operators,
        })
    }

    /// The numbers that the model gets of pixels of its size, and their shape `[1, 3, H, W]` or `[1, H, W, 3]`.
    pub fn tensor(&self, pixels: &Pixels, preprocessing: &Preprocessing) -> (Vec<f32>, [usize; 4]) {
        let last = self.inputs.first().and_then(|input| input.shape.get(3)).is_some_and(|length| length == "3");
        let (height, width) = (pixels.height, pixels.width);
        let shape = if last { [1, height, width, 3] } else { [1, 3, height, width] };
        (numbers(pixels, &preprocessing.table(), preprocessing.bgr, last), shape)
    }
}

fn described(value: &onnx::ValueInfo) -> Tensor {
    Tensor { name: value.name.clone(), shape: value.shape() }
}

/// Names of the ONNX file in a folder, the first one first.
pub const MODEL_NAMES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// The ONNX file that a path means: a file, `model.onnx` or `onnx/model.onnx` of a folder, or its only ONNX file. Fails with
/// `Model.Invalid`.
pub fn model_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    if let Some(model) = MODEL_NAMES.map(|name| path.join(name)).into_iter().find(|file| file.is_file()) {
        return Ok(model);
    }
    let unreadable =
        |e: std::io::Error| invalid("its folder cannot be read").context("folder", path.display()).source(e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|end| end == "onnx") && file.is_file() {
            found.push(file);
        }
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(invalid("its folder has no ONNX file").context("folder", path.display())),
        files => Err(invalid("its folder has several ONNX files; name one")
            .context("folder", path.display())
            .context("files", files)),
    }
}

/// Reads a model file, and one byte more than a model may have of a larger one. Fails with `Model.Invalid`.
pub fn read_model(path: &Path) -> Result<Bytes> {
    let mut onnx = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limits::MAX_MODEL_BYTES + 1).read_to_end(&mut onnx));
    read.map_err(|e| {
        let error = Error::new(ErrorKind::ModelInvalid, "the model file cannot be read");
        error.context("model", path.display()).source(e)
    })?;
    Ok(onnx.into())
}
