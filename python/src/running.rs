//! A run of the pipeline.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use pomona::{
    Error, ErrorKind, Result,
    dataset::{
        ExtractorInput, WordsInput,
        settings::{Mode, Settings},
    },
    ids::RunId,
    model::{Decoding, Extractor, ExtractorKind, FeatureRange, ModelOptions, Runtime},
    orb::Weights,
    pipeline::{self, Phase, Watcher},
    stages::{self, CancellationToken, Monitor, PlanInput, Stores},
};
use pyo3::prelude::*;
use serde::de::DeserializeOwned;

use crate::{model::Model, raised, waiting::wait_and_tell};

/// What a run has done so far: stage, images or parts, and how many there are.
type State = (String, u64, Option<u64>);

/// Keeps the state of the run, for Python to ask.
#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    notes: Mutex<Vec<String>>,
}

impl Progress {
    fn with(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn note(&self, note: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Monitor for Progress {
    fn listed(&self, objects: u64) {
        self.with(|state| state.1 = objects);
    }

    fn image_done(&self) {
        self.with(|state| state.1 += 1);
    }

    fn settings_changed(&self, changes: &[String], _images: u64) {
        self.note(format!("other settings than those of the last version: {}", changes.join("; ")));
    }
}

impl Watcher for Progress {
    fn begin(&self, phase: Phase, total: Option<u64>) {
        self.with(|state| *state = (phase.name().to_owned(), 0, total));
    }

    fn part_done(&self) {
        self.with(|state| state.1 += 1);
    }

    fn end(&self, phase: Phase, _took: Duration) {
        self.with(|state| *state = (phase.name().to_owned(), state.2.unwrap_or(state.1), state.2));
    }

    fn mending(&self, damage: &Error) {
        self.note(format!("{damage}; it is made again"));
    }
}

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::new(ErrorKind::InputInvalid, "a setting is wrong").source(e))
}

/// What a run computes features with: a model of the user's, the extractor of this name, or that of the last version. New visual
/// words are made of the images.
#[pyfunction]
#[pyo3(signature = (images, output, inventory=None, model=None, extractor=None, vocabulary=None, words=None, weights=None, keypoints=None, scaled=false, threads=None))]
#[expect(clippy::too_many_arguments, reason = "the arguments of a function of Python")]
pub(crate) fn model_of_run(
    py: Python<'_>,
    images: String,
    output: String,
    inventory: Option<String>,
    model: Option<PathBuf>,
    extractor: Option<&str>,
    vocabulary: Option<String>,
    words: Option<usize>,
    weights: Option<&str>,
    keypoints: Option<bool>,
    scaled: bool,
    threads: Option<usize>,
) -> PyResult<Model> {
    let wished = || {
        let weights = weights.map(|name| parsed::<Weights>(&serde_json::json!(name).to_string())).transpose()?;
        let words = WordsInput { location: vocabulary, words, weights, keypoints, kept: None };
        let kind = extractor.map(ExtractorKind::of_name).transpose()?;
        Ok(ExtractorInput { kind, words, ..ExtractorInput::default() })
    };
    let input = wished().map_err(|e: Error| raised(py, &e))?;
    let (range, decoding) = (FeatureRange::default(), if scaled { Decoding::Scaled } else { Decoding::Full });
    let stop = CancellationToken::new();
    let token = stop.clone();
    let work = async move {
        let extractor = match &model {
            Some(path) => Extractor::open(path, range, Runtime::Auto, ModelOptions::default())?.with_decoding(decoding),
            None => {
                let stores = Stores::open_inventory(&images, &output, inventory.as_deref()).await?;
                let (info, file) = stages::extractor(&stores, &input, (range, decoding), &token).await?;
                Extractor::like(&info, None, file, Runtime::Auto)?
            }
        };
        Model::of(extractor, threads)
    };
    wait_and_tell(py, work, &stop, |_| Ok(()))
}

/// Runs the pipeline and writes the report. `settings` and `mode` are JSON objects. `told` is called with stage, images or parts
/// done, and their number if it is known; and `noted` with notes for people. Returns the number of the version that
/// is current then.
#[pyfunction]
#[pyo3(signature = (images, output, settings, mode, model, inventory=None, labels=None, told=None, noted=None))]
#[expect(clippy::too_many_arguments, reason = "the arguments of a function of Python")]
pub(crate) fn run(
    py: Python<'_>,
    images: String,
    output: String,
    settings: &str,
    mode: &str,
    model: &Model,
    inventory: Option<String>,
    labels: Option<String>,
    told: Option<Bound<'_, PyAny>>,
    noted: Option<Bound<'_, PyAny>>,
) -> PyResult<u64> {
    let parsed = || Ok((parsed::<Settings>(settings)?, parsed::<Mode>(mode)?, RunId::now()));
    let (settings, mode, id) = parsed().map_err(|e: Error| raised(py, &e))?;
    settings.check().map_err(|e| raised(py, &e))?;
    let (progress, stop) = (Arc::new(Progress::default()), CancellationToken::new());
    let (watcher, token, workers) = (Arc::clone(&progress), stop.clone(), Arc::clone(&model.workers));
    let work = async move {
        let stores = Stores::open_inventory(&images, &output, inventory.as_deref()).await?;
        let input = PlanInput { settings, mode, labels, ..PlanInput::new(id) };
        let mut summary = pipeline::run(&stores, &workers, &input, watcher.as_ref(), &token).await?;
        // The version is already published and does not depend on the report.
        if let Err(e) = pipeline::report(&stores, &mut summary, watcher.as_ref()).await {
            watcher.note(format!("the report could not be written: {e}"));
        }
        Ok(summary.manifest.version.0)
    };
    let tell = |_: Python<'_>| {
        if let Some(told) = &told {
            told.call1(progress.state())?;
        }
        Ok(())
    };
    let version = wait_and_tell(py, work, &stop, tell)?;
    if let Some(told) = &told {
        told.call1(progress.state())?;
    }
    if let Some(noted) = &noted {
        for note in progress.take_notes() {
            noted.call1((note,))?;
        }
    }
    Ok(version)
}
