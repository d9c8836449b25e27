//! `pomona run`, and the run behind `pomona demo`.

use std::{sync::Arc, time::Instant};

use pomona::{
    Error, ErrorKind, Result,
    dataset::{Manifest, RunId},
    engine::Engine,
    extractor::{Extractor, Runtime},
    pipeline::{self, Summary},
    stages::{PlanInput, Reported, Site, Stop},
    store,
};
use serde::Serialize;

use crate::{
    args::{EngineArg, EngineOptions, RunArgs, RunOptions},
    format,
    progress::Bars,
};

pub async fn run(args: RunArgs) -> Result<()> {
    execute(&args.images, &args.output, &args.options).await
}

pub async fn execute(images: &str, output: &str, options: &RunOptions) -> Result<()> {
    let started = Instant::now();
    let site = open(images, output).await?;
    let engine = engine(&options.engine)?;
    let stop = Stop::default();
    listen(stop.clone());
    once(&site, &engine, output, options, &stop, started).await
}

/// Both ends of a run.
pub async fn open(images: &str, output: &str) -> Result<Site> {
    let site = Site { input: store::open_input(images).await?, output: store::open(output).await? };
    store::check_apart(images, output)?;
    Ok(site)
}

/// One run and its summary.
pub async fn once(
    site: &Site,
    engine: &Engine,
    output: &str,
    options: &RunOptions,
    stop: &Stop,
    started: Instant,
) -> Result<()> {
    let bars = Bars::new();
    let input = PlanInput { run: run_id()?, settings: options.result.settings(), mode: options.result.mode() };
    let outcome = pipeline::run(site, engine, &input, &bars, stop).await;
    bars.clear();
    let mut summary = outcome?;
    let reported = pipeline::report(site, &mut summary, &bars).await;
    bars.clear();
    // The version stands; it only lacks its picture.
    let reported = reported.unwrap_or_else(|error| {
        eprintln!("warning: no report could be written: {error}");
        None
    });
    let seconds = started.elapsed().as_secs_f64();
    if options.json {
        print_summary(&summary, reported.as_ref(), output, seconds)
    } else {
        print!("{}", text(&summary, reported.as_ref(), output, seconds, options));
        Ok(())
    }
}

pub fn threads(options: &EngineOptions) -> usize {
    options.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
}

/// Loads the model, behind a spinner.
pub fn engine(options: &EngineOptions) -> Result<Engine> {
    let bars = Bars::new();
    bars.start("model", None, None);
    let extractor = extractor(options);
    bars.clear();
    Engine::new(Arc::new(extractor?), threads(options))
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
    Extractor::from_onnx(&onnx, &name, options.feature_range, runtime)
}

/// The time, to the second, and a few letters that keep two runs of the same second apart.
pub fn run_id() -> Result<RunId> {
    let now = jiff::Timestamp::now();
    let mark = now.subsec_nanosecond() as u32 ^ std::process::id().rotate_left(16);
    format!("{}-{mark:08x}", now.strftime("%Y%m%dT%H%M%SZ")).try_into()
}

/// The first Ctrl-C (or SIGTERM) asks the run to stop and keep what it has; the second ends the process at once.
pub fn listen(stop: Stop) {
    tokio::spawn(async move {
        interrupted().await;
        stop.request();
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

#[derive(Serialize)]
struct Json<'a> {
    up_to_date: bool,
    output: &'a str,
    version: u64,
    run: String,
    images: u64,
    rejects: u64,
    labels: usize,
    inferred: u64,
    copied: u64,
    added: u64,
    changed: u64,
    removed: u64,
    shards: usize,
    shards_reused: u64,
    components: usize,
    explained_variance_ratio: f64,
    components_for_90_percent: usize,
    seconds: f64,
    seconds_by_stage: serde_json::Map<String, serde_json::Value>,
    images_per_second: f64,
    /// What the run would have cost on AWS; none when nothing was done.
    dollars_on_aws: Option<f64>,
    files: Files,
}

/// Locations for readers.
#[derive(Serialize)]
struct Files {
    manifest: String,
    features: String,
    basis: String,
    pca: String,
    csv: Option<String>,
    rejects: String,
    report: Option<String>,
}

impl Files {
    fn of(manifest: &Manifest, reported: Option<&Reported>, output: &str) -> Self {
        let at = |key: &str| format!("{}/{key}", output.trim_end_matches('/'));
        Files {
            manifest: at(&pomona::dataset::keys::version(manifest.version)),
            features: at("shards/*/features.parquet"),
            basis: at(&manifest.basis.key),
            pca: at(pomona::dataset::keys::pca(manifest.version).trim_end_matches('/')),
            csv: manifest.outputs.csv.as_deref().map(at),
            rejects: at(&manifest.outputs.rejects),
            report: reported.map(|reported| at(&reported.report)),
        }
    }
}

fn print_summary(summary: &Summary, reported: Option<&Reported>, output: &str, seconds: f64) -> Result<()> {
    let manifest = &summary.manifest;
    // An up-to-date run did nothing itself: the figures in the manifest are those of the run that made it.
    let figures = if summary.up_to_date { Default::default() } else { manifest.figures.clone() };
    let by_stage = summary.seconds.iter().map(|(stage, s)| (stage.clone(), (*s).into())).collect();
    let json = Json {
        up_to_date: summary.up_to_date,
        output,
        version: manifest.version.0,
        run: manifest.run.to_string(),
        images: manifest.images,
        rejects: manifest.rejects,
        labels: manifest.labels.len(),
        inferred: figures.inferred,
        copied: figures.copied,
        added: figures.added,
        changed: figures.changed,
        removed: figures.removed,
        shards: manifest.shards.len(),
        shards_reused: figures.shards_reused,
        components: manifest.basis.components,
        explained_variance_ratio: manifest.basis.explained_variance_ratio.iter().sum(),
        components_for_90_percent: manifest.basis.components_for_90_percent,
        seconds,
        seconds_by_stage: by_stage,
        images_per_second: figures.inferred as f64 / seconds,
        dollars_on_aws: reported.map(|reported| reported.dollars),
        files: Files::of(manifest, reported, output),
    };
    crate::print_json(&json)
}

fn text(summary: &Summary, reported: Option<&Reported>, output: &str, seconds: f64, options: &RunOptions) -> String {
    let manifest = &summary.manifest;
    let files = Files::of(manifest, reported, output);
    let mut text = format!(
        "Version {} of {output}: {} in {}, {}\n",
        manifest.version.0,
        format::counted(manifest.images, "image"),
        format::counted(manifest.labels.len() as u64, "label"),
        format::counted(manifest.rejects, "reject"),
    );
    if summary.up_to_date {
        text.push_str("Nothing has changed since it was made.\n");
        return text;
    }
    let basis = &manifest.basis;
    text.push_str(&format!(
        "{} explain {} of the variance; 90 % needs {}\n",
        format::counted(basis.components as u64, "component"),
        format::percent(basis.explained_variance_ratio.iter().sum()),
        basis.components_for_90_percent,
    ));
    let figures = &manifest.figures;
    let copied = manifest.images.saturating_sub(figures.inferred);
    text.push_str(&format!("{} through the model", format::counted(figures.inferred, "image")));
    if copied > 0 {
        text.push_str(&format!(", {} from earlier runs", format::count(copied)));
    }
    text.push('\n');
    if manifest.parent.is_some() {
        text.push_str(&format!(
            "Since version {}: {} added, {} changed, {} removed\n",
            manifest.parent.map_or(0, |parent| parent.0),
            format::count(figures.added),
            format::count(figures.changed),
            format::count(figures.removed),
        ));
    }
    text.push('\n');

    let featurize = summary.seconds.iter().find(|(stage, _)| stage == "featurize").map_or(0.0, |(_, s)| *s);
    let mut rows: Vec<Vec<String>> =
        summary.seconds.iter().map(|(stage, s)| vec![stage.clone(), format!("{s:.2} s")]).collect();
    if figures.inferred > 0
        && featurize > 0.0
        && let Some(row) = rows.iter_mut().find(|row| row[0] == "featurize")
    {
        row.push(format!("{:.1} images/s", figures.inferred as f64 / featurize));
    }
    let mut total = vec!["total".to_owned(), format!("{seconds:.2} s")];
    total.extend(reported.map(|reported| format!("on AWS: {}", format::dollars(reported.dollars))));
    rows.push(total);
    text.push_str(&format::table(&rows, 1));
    text.push('\n');

    let mut places = vec![("features", &files.features), ("scores", &files.pca), ("basis", &files.basis)];
    places.extend(files.csv.as_ref().map(|csv| ("csv", csv)));
    if manifest.rejects > 0 {
        places.push(("rejects", &files.rejects));
    }
    places.push(("manifest", &files.manifest));
    places.extend(files.report.as_ref().map(|report| ("report", report)));
    let rows: Vec<_> = places.iter().map(|(name, place)| vec![(*name).to_owned(), (*place).clone()]).collect();
    text.push_str(&format::table(&rows, 2));
    let (glob, hive) = if options.result.partition_by_label {
        ("**/*.parquet", ", hive_partitioning = true")
    } else {
        ("*.parquet", "")
    };
    let rows = [
        vec!["pandas".to_owned(), format!("pd.read_parquet({:?})", files.pca)],
        vec![
            "DuckDB".to_owned(),
            format!("SELECT * FROM read_parquet('{}/{glob}'{hive})", files.pca.replace('\'', "''")),
        ],
        vec!["look".to_owned(), format!("pomona show {output}")],
    ];
    text.push('\n');
    text.push_str(&format::table(&rows, 2));
    text
}
