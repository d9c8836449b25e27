//! `pomona run`, and what the other commands that run the pipeline share with it.

use std::{io::IsTerminal as _, path::Path, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    Result,
    dataset::ExtractorInput,
    ids::RunId,
    model::{Extractor, ExtractorInfo, WorkerPool},
    pipeline,
    stages::{self, CancellationToken, PlanInput, Stores},
};

use super::{
    INTERRUPTED,
    args::{EngineArg, EngineOptions, Format, RunArgs, RunOptions},
    format::escape_invisible,
    local_model::local_model,
    out::{note, out},
    print_json,
    progress::Bars,
    style::Style,
    summary::Finished,
};

pub(crate) async fn run(args: RunArgs) -> Result<()> {
    execute((&args.images, args.inventory.as_deref()), &args.output, &args.options).await
}

/// One run from the opening of its stores to its summary.
/// `input` is the location of the images, and that of their inventory.
pub(crate) async fn execute(input: (&str, Option<&str>), output: &str, options: &RunOptions) -> Result<()> {
    let started = Instant::now();
    let runner = Runner::new(input, output, options).await?;
    let stop = CancellationToken::new();
    listen(stop.clone());
    runner.run(started, &stop).await
}

/// All that runs on one output need. `pomona watch` uses it many times.
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    stores: Stores,
    workers: WorkerPool,
    /// The output as the user wrote it.
    output: &'a str,
    options: &'a RunOptions,
}

impl<'a> Runner<'a> {
    /// Opens both locations and loads the model. Fails with `Input.Overlap` when one location is inside the other.
    pub(crate) async fn new(
        (images, inventory): (&str, Option<&str>),
        output: &'a str,
        options: &'a RunOptions,
    ) -> Result<Self> {
        let stores = Stores::open_inventory(images, output, inventory).await?;
        let workers = workers(&options.engine, &stores).await?;
        Ok(Runner { stores, workers, output, options })
    }

    /// Runs the pipeline once and prints the summary. `started` is when the user began to wait.
    pub(crate) async fn run(&self, started: Instant, stop: &CancellationToken) -> Result<()> {
        let bars = Bars::new();
        let result = &self.options.result;
        let input = PlanInput {
            settings: result.settings(),
            mode: result.mode(),
            labels: result.labelling.labels.clone(),
            ..PlanInput::new(RunId::now())
        };
        let outcome = pipeline::run(&self.stores, &self.workers, &input, &bars, stop).await;
        bars.clear();
        let mut summary = outcome?;
        let reported = pipeline::report(&self.stores, &mut summary, &bars).await;
        bars.clear();
        // The version is already published and does not depend on the report.
        let reported = reported.unwrap_or_else(|error| {
            note(&format!("warning: the report could not be written: {error}"));
            None
        });
        let finished =
            Finished { summary: &summary, reported: reported.as_ref(), output: self.output, seconds: elapsed(started) };
        match self.options.output.format() {
            Format::Json => print_json(&finished.json()),
            Format::Text if std::io::stdout().is_terminal() => out(&finished.terminal_text(Style::of_output())),
            Format::Text => out(&finished.text(Style::PLAIN)),
        }
    }
}

fn elapsed(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// A number of threads; without one, that of the processors.
pub(crate) fn threads(given: Option<u16>) -> usize {
    given.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
}

/// Loads the model while a spinner turns. Without an option, the extractor is that of the last version, unless that is a model of
/// the user's that the output does not keep. Prints a note when a model runs on the slower tract.
pub(crate) async fn workers(options: &EngineOptions, stores: &Stores) -> Result<WorkerPool> {
    let bars = Bars::new();
    bars.start("model", None, None);
    let extractor = chosen(options, stores).await;
    bars.clear();
    let extractor = extractor?;
    if let Some(reason) = extractor.unsupported() {
        let model = escape_invisible(&extractor.info().model);
        note(&format!("note: {model} runs on tract, which is slower than Pomona's kernels"));
        note(&format!("  reason: {}", escape_invisible(&reason.to_string())));
    }
    WorkerPool::new(Arc::new(extractor), threads(options.threads))
}

async fn chosen(options: &EngineOptions, stores: &Stores) -> Result<Extractor> {
    let (range, decoding) = (options.feature_range, options.decode.into());
    if let Some(model) = &options.model {
        let model = local_model(model).await?;
        let of_model = options.of_model.options(model.path())?;
        return Ok(Extractor::open(model.path(), range, options.engine.runtime(), of_model)?.with_decoding(decoding));
    }
    let input = ExtractorInput {
        kind: options.extractor.map(|extractor| extractor.kind()),
        words: options.words.input(),
        ..ExtractorInput::default()
    };
    let (info, file) = stages::extractor(stores, &input, (range, decoding), &CancellationToken::new()).await?;
    Extractor::like(&info, None, file, options.engine.runtime())
}

/// The workers for features like those of a data set: with a model of the user's, or the file that the data set keeps for them.
/// Without progress.
pub(crate) fn workers_for(
    model: Option<&Path>,
    engine: EngineArg,
    number: Option<u16>,
    (like, kept): (&ExtractorInfo, Option<Bytes>),
) -> Result<WorkerPool> {
    WorkerPool::new(Arc::new(Extractor::like(like, model, kept, engine.runtime())?), threads(number))
}

/// The first Ctrl-C (SIGTERM, or SIGHUP of a closed terminal) stops the run, which keeps its finished work; the second ends
/// the process at once.
pub(crate) fn listen(stop: CancellationToken) {
    tokio::spawn(async move {
        interrupted().await;
        stop.cancel();
        note("\nstopping; finished work is kept (press Ctrl-C again to exit at once)");
        interrupted().await;
        std::process::exit(INTERRUPTED.into());
    });
}

/// Waits for Ctrl-C, SIGTERM or SIGHUP.
#[cfg(unix)]
pub(crate) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};

    let wait = async |kind: SignalKind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    let hung_up = async {
        // `nohup` makes a process ignore the signal.
        if ignores_hangup() { std::future::pending().await } else { wait(SignalKind::hangup()).await }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = wait(SignalKind::terminate()) => {}
        () = hung_up => {}
    }
}

#[cfg(not(unix))]
pub(crate) async fn interrupted() {
    let _ = tokio::signal::ctrl_c().await;
}

/// Whether the process was started with SIGHUP ignored. Asked once: listening to the signal changes the answer.
#[cfg(unix)]
fn ignores_hangup() -> bool {
    use std::sync::LazyLock;

    static IGNORED: LazyLock<bool> = LazyLock::new(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        // Bit 0 is signal 1.
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
    });
    *IGNORED
}
