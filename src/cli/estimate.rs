//! `pomona aws estimate`

use crate::{
    Error, ErrorKind, Result,
    cost::{
        bill::{self, BillLine},
        estimate::{self, Deployment, Estimate, Fit, Schedule, Workload},
        prices::{Architecture, Prices},
        simulate::{self, Shards, Simulated},
    },
    dataset::{self, ModelRecord},
    store,
};
use serde::Serialize;

use super::{
    args::{ArchitectureArg, EstimateArgs, Format},
    format,
    out::out,
    print_json,
};

/// Larger runs are not simulated: it would take more than a second.
const MAX_SIMULATED_ITEMS: u64 = 2_000_000;
/// Simulated runs for the probability that a run fails, at most.
const MAX_SIMULATED_RUNS: u64 = 200;
const SEED: u64 = 1;
/// Functions that run at a time in a new account.
const NEW_ACCOUNT: u32 = 10;

/// The estimate for programs.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    estimate: &'a Estimate,
    simulated_seconds: Option<f64>,
    simulated_throttles: Option<u64>,
    /// The share of simulated runs that fail because calls are throttled.
    failure_probability: Option<f64>,
    /// Their number.
    simulated_runs: u64,
}

/// What the simulation says.
struct Simulation {
    one: Simulated,
    runs: u64,
    failure_probability: f64,
}

impl Simulation {
    /// None if the run is too large.
    fn new(estimate: &Estimate) -> Option<Self> {
        let (work, deployment, prices) = (&estimate.work, &estimate.deployment, &estimate.prices);
        let schedule = Schedule::new(work, deployment, prices.map_children_per_second);
        let items = schedule.featurize.items + schedule.project.items;
        if items > MAX_SIMULATED_ITEMS {
            return None;
        }
        let shards = Shards::new(work);
        let one = simulate::run((&schedule, &shards), deployment, prices, SEED);
        // Retries take time to simulate, too.
        let runs = (MAX_SIMULATED_ITEMS / (items + one.throttled)).clamp(1, MAX_SIMULATED_RUNS);
        let failure_probability = simulate::failure_probability((&schedule, &shards), deployment, prices, runs);
        Some(Simulation { one, runs, failure_probability })
    }
}

/// The time per image on one processor: as asked for, as measured for a model that an output keeps, or the usual one.
async fn milliseconds(args: &EstimateArgs, architecture: Architecture) -> Result<f64> {
    let Some(location) = &args.model else {
        return Ok(args.ms_per_image.unwrap_or(match architecture {
            Architecture::X86_64 => estimate::MS_PER_IMAGE,
            Architecture::Arm64 => estimate::MS_PER_IMAGE_ON_ARM64,
        }));
    };
    let place = store::open(location).await?;
    let record: ModelRecord = dataset::read_record(place.as_ref(), "record.json").await.map_err(|e| {
        if !e.is(ErrorKind::StoreNotFound) {
            return e;
        }
        let message = "no output keeps a model at this place; `pomona model push` keeps one";
        Error::new(ErrorKind::InputNotFound, message).context("model", location)
    })?;
    Ok(record.milliseconds_per_image)
}

pub(crate) async fn estimate(args: &EstimateArgs) -> Result<()> {
    let architecture = match args.architecture {
        ArchitectureArg::X86_64 => Architecture::X86_64,
        ArchitectureArg::Arm64 => Architecture::Arm64,
    };
    let prices = Prices::new(&args.region, architecture)?;
    let work = Workload {
        images: args.images,
        bytes_per_image: args.bytes_per_image,
        ms_per_image: milliseconds(args, architecture).await?,
        shard_size: args.shard_size,
        labels: args.labels,
        packed: args.packed,
        csv: args.csv,
        uploads: args.uploads,
        image_key: args.image_key,
    };
    let deployment = Deployment {
        memory: args.memory,
        concurrency: args.concurrency,
        account_concurrency: args.account_concurrency.unwrap_or(args.concurrency.max(NEW_ACCOUNT)),
        tolerated_percent: args.tolerated_percent,
    };
    let mut estimate = estimate::estimate(work, deployment, prices)?;
    let simulation = Simulation::new(&estimate);
    if let Some(simulation) = &simulation {
        estimate.bill = bill::of_run(&estimate.usage, simulation.one.throttled, &estimate.prices);
    }
    match args.format.format() {
        Format::Json => print_json(&Json {
            estimate: &estimate,
            simulated_seconds: simulation.as_ref().map(|simulation| simulation.one.seconds),
            simulated_throttles: simulation.as_ref().map(|simulation| simulation.one.throttled),
            failure_probability: simulation.as_ref().map(|simulation| simulation.failure_probability),
            simulated_runs: simulation.map_or(0, |simulation| simulation.runs),
        }),
        Format::Text => out(&text(&estimate, simulation.as_ref())),
    }
}

fn text(estimate: &Estimate, simulation: Option<&Simulation>) -> String {
    let Estimate { work, emr, .. } = estimate;
    let dollars = estimate.bill.iter().map(|line| line.dollars).sum();
    let text = format!(
        "{} on AWS: {} and {}\nOn EMR ({} machines, start-up included): {} and {}\n\n",
        format::counted(work.images, "image"),
        format::duration(estimate.seconds),
        format::dollars(dollars),
        emr.nodes,
        format::duration(emr.seconds),
        format::dollars(emr.dollars)
    );
    // Without listers, their map is not called.
    let stages = estimate.seconds_by_stage.iter().filter(|(_, seconds)| *seconds > 0.0);
    let mut rows: Vec<_> = stages.map(|(stage, seconds)| format::row([stage, &format::duration(*seconds)])).collect();
    let mut failures = String::new();
    if let Some(Simulation { one, runs, failure_probability }) = simulation {
        rows.push(format::row(["all, simulated", &format::duration(one.seconds)]));
        failures = format!(
            "\nOf {}, {:.0} % fail because Lambda throttles calls; {} are throttled and repeated.\n",
            format::counted(*runs, "simulated run"),
            failure_probability * 100.0,
            format::counted(one.throttled, "call"),
        );
    }
    let bills = format!("{}\nIn a month\n{}", bill_of(&estimate.bill), bill_of(&estimate.monthly));
    format!("{text}{}{failures}\n{bills}\n{}\n{}", format::table(&rows, 1), assumptions(estimate), limits(estimate))
}

/// What is billed, its price, and where the price is from. Lines of nothing are left out.
fn bill_of(lines: &[BillLine]) -> String {
    let billed = lines.iter().filter(|line| line.quantity > 0.0);
    let rows: Vec<_> = billed
        .map(|line| {
            let quantity = match line.unit {
                "GB" => format::bytes((line.quantity * 1e9) as u64),
                "" => format::count(line.quantity.round() as u64),
                unit => format!("{} {unit}", format::count(line.quantity.round() as u64)),
            };
            let per = match line.per {
                1.0 => String::new(),
                per => format!(" per {}", format::count(per as u64)),
            };
            let price = format!("${}{per}", line.price);
            format::row([line.what, &quantity, &format::dollars(line.dollars), &price, &line.source])
        })
        .collect();
    format::table(&rows, 1)
}

/// Inputs of the estimate.
fn assumptions(estimate: &Estimate) -> String {
    let Estimate { work, deployment, prices, .. } = estimate;
    let mut text = format!(
        "Assumptions: {} ms per image on one processor, {} per image, {} of {} images on average,\n  \
         {} MB per function, at most {} functions at once; prices of {}, {}, on {},\n  \
         without free tier, taxes and transfer out of the region.\n",
        work.ms_per_image,
        format::bytes(work.bytes_per_image),
        format::counted(estimate.shards, "shard"),
        work.per_shard() as u64,
        deployment.memory,
        format::count(deployment.concurrency.min(deployment.account_concurrency).into()),
        prices.region,
        match prices.architecture {
            Architecture::X86_64 => "x86_64",
            Architecture::Arm64 => "arm64",
        },
        prices.date,
    );
    if !prices.borrowed.is_empty() {
        let names = prices.borrowed.join(", ");
        text.push_str(&format!("  No prices for this region, so those of us-east-1 are used: {names}.\n"));
    }
    text
}

fn limits(estimate: &Estimate) -> String {
    let mut text = "Limits, lowest first (! = reached by this run)\n".to_owned();
    for limit in &estimate.limits {
        let mark = if limit.images <= estimate.work.images { "!" } else { " " };
        let from = format::count(limit.images);
        text.push_str(&format!("{mark} from {from} images: {}\n      {}\n", limit.what, limit.remedy));
    }
    text + &fit(estimate)
}

/// Whether the run stays below the limits that AWS does not raise, and if not, how it would.
fn fit(estimate: &Estimate) -> String {
    let (Fit { shard_size, classifier, outputs }, work) = (estimate.fit, &estimate.work);
    let mut changes = Vec::new();
    if outputs > 1 {
        let each = format::count(work.images.div_ceil(outputs));
        changes.push(format!("{} of {each} images each", format::counted(outputs, "output")));
    }
    if shard_size != work.shard_size {
        changes.push(format!("\"shard_size\": {shard_size}"));
    }
    if work.labels > 1 && !classifier {
        changes.push("\"classifier\": false".to_owned());
    }
    if changes.is_empty() {
        return "This run stays below all limits that AWS does not raise.\n".to_owned();
    }
    format!("This run exceeds limits that AWS does not raise. A plan that fits: {}.\n", changes.join(", "))
}
