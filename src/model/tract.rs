//! Models that the kernels do not support, on tract.

use std::sync::Arc;

use tract_onnx::{prelude::*, tract_core::internal::DimLike, tract_hir::infer::Factoid};

use super::{
    extractor::{MAX_COLUMNS, MAX_SIDE},
    invalid,
    onnx::Graph,
    shapes,
};
use crate::{Error, Result, image::Pixels};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Nchw,
    Nhwc,
}

/// A model that is ready to run.
#[derive(Debug)]
pub(super) struct TractModel {
    plan: Arc<TypedRunnableModel>,
    layout: Layout,
    height: usize,
    width: usize,
    columns: usize,
}

fn refuse(what: &str) -> impl FnOnce(TractError) -> Error {
    move |e| invalid(what).source(format!("{e:#}"))
}

impl TractModel {
    /// Loads a file. `graph` is its decoded graph, which has passed [`super::limits::check`].
    ///
    /// Fails with `Model.Invalid` and the reason.
    pub(super) fn from_onnx(mut onnx: &[u8], graph: &Graph) -> Result<Self> {
        let reader = tract_onnx::onnx();
        let model = reader.model_for_read(&mut onnx).map_err(refuse("it is not a readable ONNX file"))?;
        let (layout, height, width) = image_input(&model)?;
        let shape = match layout {
            Layout::Nchw => [1, 3, height, width],
            Layout::Nhwc => [1, height, width, 3],
        };
        let unsupported = "it uses an operator that the runtime does not support";
        let model = model.with_input_fact(0, f32::fact(shape).into()).map_err(refuse(unsupported))?;
        let mut model = model.eliminate_dead_branches().map_err(refuse("its output does not depend on its input"))?;
        shapes::check(&mut model, graph)?;
        let model = model.into_typed().map_err(refuse(unsupported))?;
        shapes::check_typed(&model, graph)?;
        let model = model.into_optimized().map_err(refuse(unsupported))?;
        let columns = vector_output(&model)?;
        let plan = model.into_runnable().map_err(refuse("it cannot be prepared to run"))?;
        Ok(TractModel { plan, layout, height, width, columns })
    }

    pub(super) fn height(&self) -> usize {
        self.height
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// The output for an image of the model's size. The model gets samples as `x / 127.5 - 1`.
    pub(super) fn run(&self, pixels: &Pixels) -> TractResult<Vec<f32>> {
        let (h, w) = (self.height, self.width);
        let scale = |sample: u8| f32::from(sample) / 127.5 - 1.0;
        let tensor: Tensor = match self.layout {
            Layout::Nhwc => {
                let data: Vec<f32> = pixels.data.iter().map(|s| scale(*s)).collect();
                tract_ndarray::Array4::from_shape_vec((1, h, w, 3), data)?.into()
            }
            Layout::Nchw => {
                let mut data = vec![0f32; 3 * h * w];
                for (channel, plane) in data.chunks_exact_mut(h * w).enumerate() {
                    for (to, pixel) in plane.iter_mut().zip(pixels.data.chunks_exact(3)) {
                        *to = scale(pixel[channel]);
                    }
                }
                tract_ndarray::Array4::from_shape_vec((1, 3, h, w), data)?.into()
            }
        };
        let outputs = self.plan.run(tvec!(tensor.into()))?;
        let view = outputs[0].to_plain_array_view::<f32>()?;
        Ok(view.iter().copied().collect())
    }
}

/// Layout, height and width of the input.
fn image_input(model: &InferenceModel) -> Result<(Layout, usize, usize)> {
    let inputs = model.input_outlets().map_err(refuse("it has no inputs"))?.len();
    if inputs != 1 {
        return Err(invalid(format!("it has {inputs} inputs, not one image")));
    }
    let outputs = model.output_outlets().map_err(refuse("it has no outputs"))?.len();
    if outputs != 1 {
        return Err(invalid(format!("it has {outputs} outputs, not one vector of features")));
    }
    let fact = model.input_fact(0).map_err(refuse("its input has no description"))?;
    if fact.datum_type.concretize().is_some_and(|t| t != f32::datum_type()) {
        return Err(invalid(format!("its input is {:?}, not float32", fact.datum_type)));
    }
    let dims: Vec<Option<usize>> = fact.shape.dims().map(|d| d.concretize().and_then(|d| d.to_usize().ok())).collect();
    let (layout, height, width) = match dims.as_slice() {
        [_, Some(3), Some(h), Some(w)] => (Layout::Nchw, *h, *w),
        [_, Some(h), Some(w), Some(3)] => (Layout::Nhwc, *h, *w),
        _ => {
            let shape: Vec<String> = dims.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect();
            return Err(invalid(format!(
                "its input has the shape [{}], not [1, 3, H, W] or [1, H, W, 3] with fixed H and W",
                shape.join(", ")
            )));
        }
    };
    if !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
        return Err(invalid(format!(
            "its input is {width} x {height} pixels; at most {MAX_SIDE} a side are supported"
        )));
    }
    Ok((layout, height, width))
}

/// Length of the output.
fn vector_output(model: &TypedModel) -> Result<usize> {
    let fact = model.output_fact(0).map_err(refuse("its output has no description"))?;
    if fact.datum_type != f32::datum_type() {
        return Err(invalid(format!("its output is {:?}, not float32", fact.datum_type)));
    }
    let shape: Vec<usize> = fact
        .shape
        .as_concrete()
        .map(<[usize]>::to_vec)
        .ok_or_else(|| invalid("the length of its output is not fixed"))?;
    let columns: usize = shape.iter().product();
    // One axis may be longer than 1: [D], [1, D], [1, D, 1, 1], [1, 1, 1, D].
    if shape.iter().filter(|d| **d != 1).count() > 1 || columns == 0 {
        return Err(invalid(format!(
            "its output has the shape {shape:?}, not one vector; export it with a global pool"
        )));
    }
    if columns > MAX_COLUMNS {
        return Err(invalid(format!("its output has {columns} numbers; at most {MAX_COLUMNS} are supported")));
    }
    Ok(columns)
}
