//! Lambda: lists the images, cuts them into shards and writes the work lists of the maps. Before that, in a call of its own, it
//! makes the visual words of an extractor that counts them.

use lambda_runtime::tracing;
use pomona::{
    Error, ErrorKind, Result,
    aws::request::Request,
    dataset::{ExtractorInput, WordsInput, keys},
    ids::RunId,
    model::{ExtractorInfo, FeatureRange},
    stages::{self, CancellationToken, Limits, PlanInput, PlanStep, Planned, Round, Silent, Stores},
};
use pomona_host::{Figures, Measured};
use serde::{Deserialize, Serialize};

/// The environment variable that says how much memory the function `featurize` has, MB.
const MEMORY: &str = "POMONA_FEATURIZE_MB";

/// The execution's input, its name and ARN, and the number of the attempt, from 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    request: serde_json::Value,
    run: String,
    execution: Option<String>,
    attempt: u32,
    /// `MaxConcurrency` of the maps.
    concurrency: Option<u32>,
    /// SHA-256 of the visual words that an earlier call has made.
    vocabulary: Option<String>,
    #[serde(default)]
    step: Wanted,
}

/// What a call is for.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    /// The visual words.
    Vocabulary,
    #[default]
    Plan,
}

/// The answer of a call.
#[derive(Serialize)]
#[serde(untagged)]
enum Reply {
    Vocabulary { attempt: u32, vocabulary: Option<String> },
    Plan(Box<Answer>),
}

/// The state of the execution: keys and counts.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    step: Step,
    /// Lines of the work list of listers. Above 0, they are to be called, and then this function again.
    listers: u64,
    input: String,
    output: String,
    attempt: u32,
    vocabulary: Option<String>,
    /// Bucket of the work lists of the maps.
    bucket: String,
    /// Prefix in the bucket for the results of the maps.
    map_results: String,
}

/// What comes next, with the keys of its work lists in the bucket.
#[derive(Serialize)]
#[serde(untagged)]
enum Step {
    List {
        run: RunId,
        list_key: String,
    },
    Run {
        #[serde(flatten)]
        planned: Box<Planned>,
        featurize_key: String,
        merge_key: String,
    },
}

impl Measured for Reply {
    fn figures(&self) -> Figures {
        match self {
            Reply::Plan(answer) => match &answer.step {
                Step::List { .. } => Figures::default(),
                Step::Run { planned, .. } => planned.figures(),
            },
            Reply::Vocabulary { .. } => Figures::default(),
        }
    }
}

/// What a request says of the extractor, what the stack says if it says nothing, the words that an earlier call has made, and the
/// memory of the function `featurize`.
fn wished(request: ExtractorInput, vocabulary: Option<String>) -> Result<ExtractorInput> {
    let number = |text: String| {
        let invalid = |e| Error::new(ErrorKind::InputInvalid, "an environment variable is invalid").source(e);
        text.parse().map_err(|e| invalid(e).context("variable", MEMORY))
    };
    let memory_mb = std::env::var(MEMORY).ok().map(number).transpose()?;
    let first_model = std::env::var("POMONA_MODEL").ok().filter(|model| !model.is_empty());
    let words = WordsInput { kept: vocabulary, ..request.words };
    Ok(ExtractorInput { first_model, memory_mb, words, ..request })
}

/// The extractor of a run, whose visual words are in the output.
async fn extractor(
    stores: &Stores,
    request: &Request,
    vocabulary: Option<String>,
    stop: &CancellationToken,
) -> Result<ExtractorInfo> {
    let of_run = (FeatureRange::default(), request.decoding);
    stages::keep_extractor(stores, &wished(request.extractor.clone(), vocabulary)?, of_run, stop).await
}

/// Plans. An inventory is read by one function: it needs no listing.
async fn plan(stores: &Stores, request: Request, event: Event, stop: &CancellationToken) -> Result<PlanStep> {
    let name = RunId::try_from(event.run)?;
    let (run, earlier) = (name.attempt(event.attempt)?, (1..event.attempt).map(|earlier| name.attempt(earlier)));
    let info = extractor(stores, &request, event.vocabulary, stop).await?;
    let input = PlanInput {
        settings: request.settings,
        mode: request.mode,
        labels: request.labels,
        execution: event.execution,
        concurrency: event.concurrency,
        earlier: earlier.collect::<Result<_>>()?,
        ..PlanInput::new(run)
    };
    if request.inventory.is_some() {
        return stages::plan(stores, &info, input, &Silent, stop).await.map(PlanStep::Planned);
    }
    let limits = request.objects_per_lister.map_or_else(Limits::default, |objects| Limits::of(objects.get()));
    stages::plan_step(stores, &info, input, limits, &Silent, stop).await
}

async fn handle(mut event: Event, stop: CancellationToken) -> Result<Reply> {
    let request = Request::parse(event.request.take())?;
    let stores = Stores::open_inventory(&request.input, &request.output, request.inventory.as_deref()).await?;
    if let Wanted::Vocabulary = event.step {
        let vocabulary = extractor(&stores, &request, None, &stop).await?.recipe().words;
        return Ok(Reply::Vocabulary { attempt: event.attempt, vocabulary });
    }
    let (input, output, vocabulary) = (request.input.clone(), request.output.clone(), event.vocabulary.clone());
    let (bucket, prefix) = pomona::store::bucket_and_prefix(&output)?;
    let attempt = event.attempt;
    let (step, run, listers) = match plan(&stores, request, event, &stop).await? {
        PlanStep::List(Round { run, round, listers, work_list }) => {
            tracing::info!(%run, round, listers, "functions are to list the rest");
            (Step::List { run: run.clone(), list_key: format!("{prefix}{work_list}") }, run, listers)
        }
        PlanStep::Planned(planned) => {
            let Planned { run, up_to_date, objects, shards, shards_to_featurize, .. } = &planned;
            tracing::info!(%run, up_to_date, objects, shards, shards_to_featurize, "run planned");
            let (run, featurize) = (run.clone(), planned.batch_list.as_ref().unwrap_or(&planned.work_list));
            let (featurize_key, merge_key) =
                (format!("{prefix}{featurize}"), format!("{prefix}{}", planned.merge_work_list));
            (Step::Run { planned: Box::new(planned), featurize_key, merge_key }, run, 0)
        }
    };
    let map_results = format!("{prefix}{}", keys::map_results(&run));
    Ok(Reply::Plan(Box::new(Answer { step, listers, input, output, attempt, vocabulary, bucket, map_results })))
}

/// Serves the function `plan`.
pub async fn serve() -> std::result::Result<(), lambda_runtime::Error> {
    pomona_host::init_log();
    pomona_host::serve(handle).await
}
