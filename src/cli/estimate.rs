//! `pomona estimate`

use pomona::{
    Result,
    cost::{
        estimate::{self, Deployment, Estimate, Schedule, Workload},
        prices::{Architecture, Prices},
        simulate,
    },
};
use serde::Serialize;

use crate::{
    args::{ArchitectureArg, EstimateArgs, Format},
    format,
    out::out,
    print_json,
};

/// Runs with more shards are not simulated: it would take more than a second.
const MAX_SIMULATED_SHARDS: u64 = 2_000_000;
const SEED: u64 = 1;

/// The estimate for programs.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    estimate: &'a Estimate,
    simulated_seconds: Option<f64>,
    simulated_throttles: Option<u64>,
}

pub(crate) fn estimate(args: &EstimateArgs) -> Result<()> {
    let architecture = match args.architecture {
        ArchitectureArg::X86_64 => Architecture::X86_64,
        ArchitectureArg::Arm64 => Architecture::Arm64,
    };
    let prices = Prices::new(&args.region, architecture)?;
    let work = Workload {
        images: args.images,
        bytes_per_image: args.bytes_per_image,
        ms_per_image: args.ms_per_image,
        shard_size: args.shard_size,
    };
    let deployment = Deployment {
        memory: args.memory,
        concurrency: args.concurrency,
        account_concurrency: args.account_concurrency,
    };
    let estimate = estimate::estimate(work, deployment, prices)?;
    let simulated = (estimate.shards <= MAX_SIMULATED_SHARDS).then(|| {
        let schedule = Schedule::new(&work, &deployment, estimate.prices.map_children_per_second);
        simulate::run(&schedule, &deployment, &estimate.prices, SEED)
    });
    match args.format.format() {
        Format::Json => print_json(&Json {
            estimate: &estimate,
            simulated_seconds: simulated.map(|run| run.seconds),
            simulated_throttles: simulated.map(|run| run.throttled),
        }),
        Format::Text => out(&text(&estimate, simulated.map(|run| run.seconds))),
    }
}

fn text(estimate: &Estimate, simulated_seconds: Option<f64>) -> String {
    let Estimate { work, dollars, emr, .. } = estimate;
    let text = format!(
        "{} on AWS: {} and {}\nOn EMR ({} machines, start-up included): {} and {}\n\n",
        format::counted(work.images, "image"),
        format::duration(estimate.seconds),
        format::dollars(dollars.total),
        emr.nodes,
        format::duration(emr.seconds),
        format::dollars(emr.dollars)
    );
    let stages = estimate.seconds_by_stage.iter();
    let mut rows: Vec<_> = stages.map(|(stage, seconds)| format::row([stage, &format::duration(*seconds)])).collect();
    if let Some(seconds) = simulated_seconds {
        rows.push(format::row(["all, simulated", &format::duration(seconds)]));
    }
    text + &format::table(&rows, 1) + "\n" + &bill(estimate) + "\n" + &assumptions(estimate) + "\n" + &limits(estimate)
}

fn bill(estimate: &Estimate) -> String {
    let Estimate { usage, dollars, .. } = estimate;
    let requests = format::count(usage.puts + usage.gets);
    let stored = format!("{} a month", format::dollars(dollars.storage_per_month));
    let rows = [
        format::row([
            "compute",
            &format!("{} GB-s", format::count(usage.gb_seconds.round() as u64)),
            &format::dollars(dollars.compute),
        ]),
        format::row(["invocations", &format::count(usage.invocations), &format::dollars(dollars.invocations)]),
        format::row(["transitions", &format::count(usage.transitions), &format::dollars(dollars.transitions)]),
        format::row(["S3 requests", &requests, &format::dollars(dollars.requests)]),
        format::row(["storage", &format::bytes(usage.stored_bytes), &stored]),
    ];
    format::table(&rows, 1)
}

/// Inputs of the estimate.
fn assumptions(estimate: &Estimate) -> String {
    let Estimate { work, deployment, prices, .. } = estimate;
    let mut text = format!(
        "Assumptions: {} ms per image on one processor, {} per image, {} of about {} images,\n  \
         {} MB per function, at most {} functions at once; prices of {}, {}, on {},\n  \
         without free tier, taxes and transfer out of the region.\n",
        work.ms_per_image,
        format::bytes(work.bytes_per_image),
        format::counted(estimate.shards, "shard"),
        work.shard_size,
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
    text
}
