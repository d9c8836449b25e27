//! `pomona run`, and the run behind `pomona demo`.

use std::{sync::Arc, time::Instant};

use pomona::{
    Error, ErrorKind, Result,
    ids::RunId,
    model::{Extractor, Runtime, WorkerPool},
    pipeline,
    stages::{CancellationToken, PlanInput, Stores},
};

use crate::{
    args::{EngineArg, EngineOptions, RunArgs, RunOptions},
    progress::Bars,
    summary,
};

pub(crate) async fn run(args: RunArgs) -> Result<()> {
    execute(&args.images, &args.output, &args.options).await
}

pub(crate) async fn execute(images: &str, output: &str, options: &RunOptions) -> Result<()> {
    let started = Instant::now();
    let stores = Stores::open(images, output).await?;
    let workers = workers(&options.engine)?;
    let stop = CancellationToken::new();
    listen(stop.clone());
    once(&stores, &workers, output, options, &stop, started).await
}

/// One run and its summary.
pub(crate) async fn once(
    stores: &Stores,
    workers: &WorkerPool,
    output: &str,
    options: &RunOptions,
    stop: &CancellationToken,
    started: Instant,
) -> Result<()> {
    let bars = Bars::new();
    let input = PlanInput { run: run_id()?, settings: options.result.settings(), mode: options.result.mode() };
    let outcome = pipeline::run(stores, workers, &input, &bars, stop).await;
    bars.clear();
    let mut summary = outcome?;
    let reported = pipeline::report(stores, &mut summary, &bars).await;
    bars.clear();
    // The version is published; it only lacks its report.
    let reported = reported.unwrap_or_else(|error| {
        eprintln!("warning: no report could be written: {error}");
        None
    });
    let seconds = started.elapsed().as_secs_f64();
    if options.json {
        summary::print_json(&summary, reported.as_ref(), output, seconds)
    } else {
        print!("{}", summary::text(&summary, reported.as_ref(), output, seconds, options));
        Ok(())
    }
}

pub(crate) fn threads(options: &EngineOptions) -> usize {
    options.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
}

/// Loads the model, behind a spinner.
pub(crate) fn workers(options: &EngineOptions) -> Result<WorkerPool> {
    let bars = Bars::new();
    bars.start("model", None, None);
    let extractor = extractor(options);
    bars.clear();
    WorkerPool::new(Arc::new(extractor?), threads(options))
}

fn extractor(options: &EngineOptions) -> Result<Extractor> {
    let runtime = match options.engine {
        EngineArg::Auto => Runtime::Auto,
        EngineArg::Tract => Runtime::Tract,
    };
    let Some(path) = &options.model else {
        return match runtime {
            Runtime::Auto => Extractor::embedded(options.feature_range),
            Runtime::Tract => Extractor::embedded_on_tract(options.feature_range),
        };
    };
    let name = path.display().to_string();
    let onnx = std::fs::read(path).map_err(|e| {
        Error::new(ErrorKind::ModelInvalid, "the model file cannot be read").context("model", &name).source(e)
    })?;
    let name = path.file_name().map_or(name, |file| file.to_string_lossy().into_owned());
    let extractor = Extractor::from_onnx(onnx.into(), &name, options.feature_range, runtime)?;
    if let Some(why) = extractor.unsupported() {
        eprintln!("note: {name} runs on tract, which is slower: the kernels cannot run it: {why}");
    }
    Ok(extractor)
}

/// The time, to the second, and a few letters that keep two runs of the same second apart.
pub(crate) fn run_id() -> Result<RunId> {
    let now = jiff::Timestamp::now();
    let mark = now.subsec_nanosecond() as u32 ^ std::process::id().rotate_left(16);
    format!("{}-{mark:08x}", now.strftime("%Y%m%dT%H%M%SZ")).try_into()
}

/// The first Ctrl-C (or SIGTERM) stops the run, which keeps what it has; the second ends the process at once.
pub(crate) fn listen(stop: CancellationToken) {
    tokio::spawn(async move {
        interrupted().await;
        stop.cancel();
        eprintln!("\nstopping; what is done is kept (Ctrl-C again to end at once)");
        interrupted().await;
        std::process::exit(130);
    });
}

async fn interrupted() {
    #[cfg(unix)]
    if let Ok(mut terminated) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
        return;
    }
    let _ = tokio::signal::ctrl_c().await;
}
