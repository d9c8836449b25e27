//! Models that the kernels do not support, on tract.

use std::sync::Arc;

use tract_onnx::{prelude::*, tract_core::internal::DimLike, tract_hir::infer::Factoid};

use super::{
    ModelOptions, Pooling, Preprocessing,
    extractor::{MAX_COLUMNS, MAX_SIDE},
    invalid,
    onnx::Graph,
    preprocess::numbers,
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
    /// Type of the numbers of its input: f32 or f16.
    of_input: DatumType,
    height: usize,
    width: usize,
    columns: usize,
    /// What each sample of each channel becomes.
    table: Box<[[f32; 256]; 3]>,
    /// Whether the channels of the model are blue, green, red.
    bgr: bool,
    /// How many vectors the output has, and how they are made into one.
    vectors: Vectors,
}

/// The vectors of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vectors {
    One,
    /// `[1, count, columns]`, of which the first one is taken.
    First,
    /// `[1, count, columns]`: their mean.
    Tokens,
    /// `[1, columns, count]`: their mean.
    Places,
}

fn refuse(what: &str) -> impl FnOnce(TractError) -> Error {
    move |e| invalid(what).source(format!("{e:#}"))
}

impl TractModel {
    /// Loads a file. `graph` is its decoded graph, which has passed [`super::limits::check`].
    ///
    /// Fails with `Model.Invalid` and the reason.
    pub(super) fn from_onnx(mut onnx: &[u8], graph: &Graph, options: &ModelOptions) -> Result<Self> {
        // What the file says of shapes between input and output has names where sizes are not fixed, and these are given here.
        let reader = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
        let mut model = reader.model_for_read(&mut onnx).map_err(refuse("it is not a readable ONNX file"))?;
        if let Some(output) = &options.output {
            let known: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
            if !known.contains(&output.as_str()) {
                return Err(invalid("it has no such output")
                    .context("output", output)
                    .context("outputs", known.join(", ")));
            }
            model.select_outputs_by_name([output]).map_err(refuse("its output cannot be chosen"))?;
        }
        let of_input = number_type(model.input_fact(0).map_err(refuse("its input has no description"))?)?;
        let (layout, height, width) = image_input(&model, options.preprocessing.as_ref())?;
        let shape = match layout {
            Layout::Nchw => [1, 3, height, width],
            Layout::Nhwc => [1, height, width, 3],
        };
        let unsupported = "it uses an operator that the runtime does not support";
        let model = model.with_input_fact(0, of_input.fact(shape).into()).map_err(refuse(unsupported))?;
        let mut model = model.eliminate_dead_branches().map_err(refuse("its output does not depend on its input"))?;
        shapes::check(&mut model, graph)?;
        let model = model.into_typed().map_err(refuse(unsupported))?;
        shapes::check_typed(&model, graph)?;
        // tract 0.23 makes other networks of some with integers: the features of a vision transformer are far from right.
        let is_quantised = graph.node.iter().any(|node| node.op_type.ends_with("QuantizeLinear"));
        let model = if is_quantised { model } else { model.into_optimized().map_err(refuse(unsupported))? };
        let (columns, vectors) = vector_output(&model, options.pooling)?;
        let plan = model.into_runnable().map_err(refuse("it cannot be prepared to run"))?;
        let preprocessing = options.preprocessing.clone().unwrap_or_default();
        let (table, bgr) = (Box::new(preprocessing.table()), preprocessing.bgr);
        Ok(TractModel { plan, layout, of_input, height, width, columns, table, bgr, vectors })
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

    /// The output for an image of the model's size, whose samples are scaled by the preprocessing.
    pub(super) fn run(&self, pixels: &Pixels) -> TractResult<Vec<f32>> {
        let (h, w) = (self.height, self.width);
        let last = self.layout == Layout::Nhwc;
        let shape = if last { (1, h, w, 3) } else { (1, 3, h, w) };
        let data = numbers(pixels, &self.table, self.bgr, last);
        let tensor: Tensor = tract_ndarray::Array4::from_shape_vec(shape, data)?.into();
        let tensor = tensor.cast_to_dt(self.of_input)?.into_owned();
        let outputs = self.plan.run(tvec!(tensor.into()))?;
        let output = outputs[0].cast_to::<f32>()?;
        let view = output.to_plain_array_view::<f32>()?;
        let all: Vec<f32> = view.iter().copied().collect();
        Ok(self.pooled(&all))
    }

    /// One vector of those of the output. Means are taken in double precision, in order.
    fn pooled(&self, all: &[f32]) -> Vec<f32> {
        let columns = self.columns;
        let count = all.len() / columns.max(1);
        let mean =
            |of: &dyn Fn(usize) -> f32| ((0..count).map(|at| f64::from(of(at))).sum::<f64>() / count as f64) as f32;
        match self.vectors {
            Vectors::One => all.to_vec(),
            Vectors::First => all[..columns.min(all.len())].to_vec(),
            Vectors::Tokens => (0..columns).map(|column| mean(&|at| all[at * columns + column])).collect(),
            Vectors::Places => (0..columns).map(|column| mean(&|at| all[column * count + at])).collect(),
        }
    }
}

/// The type of the numbers of the input. Fails unless it is float32 or float16.
fn number_type(fact: &InferenceFact) -> Result<DatumType> {
    match fact.datum_type.concretize().unwrap_or(f32::datum_type()) {
        known if is_number(known) => Ok(known),
        other => Err(invalid(format!("its input is {other:?}, not float32 or float16"))),
    }
}

fn is_number(kind: DatumType) -> bool {
    [f32::datum_type(), f16::datum_type()].contains(&kind)
}

/// Layout, height and width of the input.
fn image_input(model: &InferenceModel, preprocessing: Option<&Preprocessing>) -> Result<(Layout, usize, usize)> {
    let inputs = model.input_outlets().map_err(refuse("it has no inputs"))?.len();
    if inputs != 1 {
        return Err(invalid(format!("it has {inputs} inputs, not one image")));
    }
    let outputs = model.output_outlets().map_err(refuse("it has no outputs"))?.len();
    if outputs != 1 {
        return Err(invalid(format!(
            "it has {outputs} outputs, not one vector of features; choose one (--model-output)"
        )));
    }
    let fact = model.input_fact(0).map_err(refuse("its input has no description"))?;
    let dims: Vec<Option<usize>> = fact.shape.dims().map(|d| d.concretize().and_then(|d| d.to_usize().ok())).collect();
    let (layout, height, width) = match dims.as_slice() {
        [_, Some(3), Some(h), Some(w)] => (Layout::Nchw, *h, *w),
        [_, Some(h), Some(w), Some(3)] => (Layout::Nhwc, *h, *w),
        // A model for images of any size gets those of its preprocessing.
        [_, Some(3) | None, None, None] if let Some([height, width]) = preprocessing.and_then(Preprocessing::size) => {
            (Layout::Nchw, height, width)
        }
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

/// Length of the output, and how many vectors it has.
fn vector_output(model: &TypedModel, pooling: Pooling) -> Result<(usize, Vectors)> {
    let fact = model.output_fact(0).map_err(refuse("its output has no description"))?;
    if !is_number(fact.datum_type) {
        return Err(invalid(format!("its output is {:?}, not float32 or float16", fact.datum_type)));
    }
    let shape: Vec<usize> = fact
        .shape
        .as_concrete()
        .map(<[usize]>::to_vec)
        .ok_or_else(|| invalid("the length of its output is not fixed"))?;
    let (columns, vectors) = match shape.as_slice() {
        // One axis may be longer than 1: [D], [1, D], [1, D, 1, 1], [1, 1, 1, D].
        all if all.iter().filter(|d| **d != 1).count() <= 1 => (all.iter().product(), Vectors::One),
        [1, _, columns] if pooling == Pooling::Cls => (*columns, Vectors::First),
        [1, _, columns] => (*columns, Vectors::Tokens),
        [1, columns, _, _] => (*columns, Vectors::Places),
        _ => {
            return Err(invalid(format!(
                "its output has the shape {shape:?}, not one vector; export it with a global pool"
            )));
        }
    };
    if columns == 0 {
        return Err(invalid("its output is empty"));
    }
    if columns > MAX_COLUMNS {
        return Err(invalid(format!("its output has {columns} numbers; at most {MAX_COLUMNS} are supported")));
    }
    Ok((columns, vectors))
}
