//! `pomona predict`

use std::{io::Read, path::Path, sync::Arc};

use crate::{
    Error, ErrorKind, Result, dataset,
    image::{MAX_FILE_BYTES, Reason, Reject},
    model::WorkerPool,
    store::{self, Object, Store},
    versions::predict::{Answer, Photo, Predictor, UNLIKE},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    args::{AnswerFormat, PredictArgs},
    format,
    local_model::{self, LocalModel},
    open,
    out::out,
    run,
};

/// Photos that are answered together.
const TOGETHER: usize = 256;
/// Photos read ahead of each worker thread.
const READ_AHEAD: usize = 4;
/// Photos for which similar images are searched without being asked.
const FEW: usize = 16;
/// Similar images of each of them.
const NEIGHBOURS: usize = 3;

/// Where a photo comes from.
enum Source {
    /// Standard input.
    Input,
    File(String),
    /// An object of a folder or bucket.
    Object(Arc<dyn Store>, Object),
}

pub(crate) async fn predict(args: PredictArgs) -> Result<()> {
    let (output, version) = open::version(&args.output, args.version).await?;
    let info = version.extractor.clone();
    let (model, kept) = match local_model::optional(args.model.as_deref()).await? {
        None => (None, dataset::extractor_file(output.as_ref(), &info.recipe()).await?),
        model => (model, None),
    };
    // Both take milliseconds, and neither needs the other.
    let opened = Predictor::open(output, version);
    let workers = run::workers_for(model.as_ref().map(LocalModel::path), args.engine, args.threads, (&info, kept));
    let (predictor, workers) = (opened.await?, workers?);
    predictor.check(workers.extractor().info())?;
    let sources = sources(&args.photos).await?;
    if sources.is_empty() {
        return Err(Error::new(ErrorKind::InputEmpty, "there are no photos").context("photos", args.photos.join(" ")));
    }
    let few = sources.len() <= FEW;
    let neighbours = args.neighbours.unwrap_or(if few { NEIGHBOURS } else { 0 });
    let mut printer = Printer { format: args.answer_format(), printed: 0 };
    printer.begin()?;
    let photos: Vec<_> = sources.into_iter().map(|source| photo(&workers, source)).collect();
    let mut batches =
        std::pin::pin!(stream::iter(photos).buffered(workers.threads() * READ_AHEAD).try_chunks(TOGETHER));
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(|e| e.1)?;
        for answer in predictor.answers(batch, neighbours).await? {
            printer.print(&answer)?;
        }
    }
    printer.end()
}

/// The features of one photo: a file, or `-` for standard input.
pub(crate) async fn features_of(workers: &WorkerPool, name: &str) -> Result<Photo> {
    let source = if name == "-" { Source::Input } else { Source::File(name.to_owned()) };
    photo(workers, source).await
}

/// All photos that the arguments name, in their order.
async fn sources(arguments: &[String]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for argument in arguments {
        let is_folder = argument.contains("://") || Path::new(argument).is_dir();
        if argument == "-" {
            sources.push(Source::Input);
        } else if is_folder {
            let folder = store::open(argument).await?;
            let listed = store::list_all(folder.as_ref(), "").await?.into_iter();
            let objects = listed.filter(|object| !store::is_ignored(&object.key));
            sources.extend(objects.map(|object| Source::Object(Arc::clone(&folder), object)));
        } else {
            sources.push(Source::File(argument.clone()));
        }
    }
    Ok(sources)
}

/// The features of a photo.
async fn photo(workers: &WorkerPool, source: Source) -> Result<Photo> {
    let (name, file) = match source {
        Source::Input => ("-".to_owned(), limited(std::io::stdin().lock())),
        Source::File(path) => {
            let file = std::fs::File::open(&path).map_err(unreadable).and_then(limited);
            (path, file)
        }
        Source::Object(store, object) => {
            let name = object.key.clone();
            if object.size > MAX_FILE_BYTES {
                return Ok((name, Err(too_large())));
            }
            match store.get_listed(&object).await {
                Ok(file) => (name, Ok(file)),
                Err(e) if e.kind().retryable() || e.kind().of_credentials() => return Err(e),
                Err(e) => (name, Err(Reject::new(Reason::of(e.kind()), e))),
            }
        }
    };
    let features = match file {
        Ok(file) if file.len() as u64 > MAX_FILE_BYTES => Err(too_large()),
        Ok(file) => workers.features(file).await?,
        Err(reject) => Err(reject),
    };
    Ok((name, features))
}

fn too_large() -> Reject {
    Reject::new(Reason::TooLarge, format!("at most {MAX_FILE_BYTES} bytes are taken"))
}

/// The content of a file, and at most one byte more than a photo may have.
fn limited(from: impl Read) -> std::result::Result<Bytes, Reject> {
    let mut file = Vec::new();
    from.take(MAX_FILE_BYTES + 1).read_to_end(&mut file).map_err(unreadable)?;
    Ok(file.into())
}

fn unreadable(error: std::io::Error) -> Reject {
    let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
    Reject::new(if denied { Reason::NoPermission } else { Reason::Unreadable }, error)
}

/// Prints answers one by one.
struct Printer {
    format: AnswerFormat,
    printed: u64,
}

impl Printer {
    fn begin(&self) -> Result<()> {
        match self.format {
            AnswerFormat::Csv => out("path,label,probability,second,second_probability,problem\n"),
            AnswerFormat::Json => out("["),
            AnswerFormat::Text => Ok(()),
        }
    }

    fn print(&mut self, answer: &Answer) -> Result<()> {
        let first = self.printed == 0;
        self.printed += 1;
        let bug = |e: &dyn std::fmt::Display| {
            Error::new(ErrorKind::InternalBug, "an answer could not be written").source(e.to_string())
        };
        match self.format {
            AnswerFormat::Text => out(&text(answer)),
            AnswerFormat::Json => {
                let json = serde_json::to_string_pretty(answer).map_err(|e| bug(&e))?;
                let indented = json.replace('\n', "\n  ");
                out(&format!("{}\n  {indented}", if first { "" } else { "," }))
            }
            AnswerFormat::Csv => {
                let number = |probability: Option<f64>| probability.map(|p| p.to_string()).unwrap_or_default();
                let mut writer = csv::Writer::from_writer(Vec::new());
                let row = [
                    answer.path.clone(),
                    answer.label.clone().unwrap_or_default(),
                    number(answer.probability),
                    answer.second.as_ref().map(|second| second.label.clone()).unwrap_or_default(),
                    number(answer.second.as_ref().map(|second| second.probability)),
                    answer.problem.clone().unwrap_or_default(),
                ];
                writer.write_record(row).map_err(|e| bug(&e))?;
                let line = writer.into_inner().map_err(|e| bug(&e))?;
                out(&String::from_utf8_lossy(&line))
            }
        }
    }

    fn end(&self) -> Result<()> {
        match self.format {
            AnswerFormat::Json => out("\n]\n"),
            AnswerFormat::Text | AnswerFormat::Csv => Ok(()),
        }
    }
}

fn text(answer: &Answer) -> String {
    let path = format::escape_invisible(&answer.path);
    let (Some(label), Some(probability)) = (&answer.label, answer.probability) else {
        let (problem, detail) = (answer.problem.as_deref().unwrap_or_default(), answer.detail.as_deref());
        return format!("{path}: no answer ({problem}: {})\n", format::escape_invisible(detail.unwrap_or_default()));
    };
    let mut text = format!("{path}: {} {}", format::escape_invisible(label), format::percent(probability));
    if let Some(second) = &answer.second {
        text.push_str(&format!(
            ", then {} {}",
            format::escape_invisible(&second.label),
            format::percent(second.probability)
        ));
    }
    text.push('\n');
    if answer.problem.as_deref() == Some(UNLIKE) {
        text.push_str("  unlike anything seen: farther from all classes than 99.9 % of the training images\n");
    }
    for near in &answer.neighbours {
        text.push_str(&format!("  like {} ({:.3})\n", format::shorten(&near.path, 100), near.similarity));
    }
    text
}
