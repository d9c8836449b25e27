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
    args::{ArchitectureArg, EstimateArgs},
    format, print_json,
};

/// Runs of more shards are not played through: it would take longer than a moment.
const SIMULATED: u64 = 2_000_000;
const SEED: u64 = 1;

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
    let played = (estimate.shards <= SIMULATED).then(|| {
        let schedule = Schedule::new(&work, &deployment, estimate.prices.map_children_per_second);
        simulate::run(&schedule, &deployment, &estimate.prices, SEED)
    });
    if args.json {
        return print_json(&Json {
            estimate: &estimate,
            simulated_seconds: played.map(|played| played.seconds),
            simulated_throttles: played.map(|played| played.throttled),
        });
    }
    print!("{}", text(&estimate, played.as_ref()));
    Ok(())
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn text(estimate: &Estimate, played: Option<&simulate::Simulated>) -> String {
    let Estimate { work, dollars, emr, .. } = estimate;
    let text = format!(
        "{} on AWS: {} and {}\nOn EMR ({} machines, start included): {} and {}\n\n",
        format::counted(work.images, "image"),
        format::duration(estimate.seconds),
        format::dollars(dollars.total),
        emr.nodes,
        format::duration(emr.seconds),
        format::dollars(emr.dollars)
    );
    let stages = estimate.seconds_by_stage.iter();
    let mut rows: Vec<_> = stages.map(|(stage, seconds)| row(&[stage, &format::duration(*seconds)])).collect();
    if let Some(played) = played {
        rows.push(row(&["all, simulated", &format::duration(played.seconds)]));
    }
    text + &format::table(&rows, 1) + "\n" + &bill(estimate) + "\n" + &basis(estimate) + "\n" + &limits(estimate)
}

fn bill(estimate: &Estimate) -> String {
    let Estimate { usage, dollars, .. } = estimate;
    let requests = format::count(usage.puts + usage.gets);
    let stored = format!("{} a month", format::dollars(dollars.storage_per_month));
    let rows = [
        row(&["compute", &format!("{:.0} GB-s", usage.gb_seconds), &format::dollars(dollars.compute)]),
        row(&["invocations", &format::count(usage.invocations), &format::dollars(dollars.invocations)]),
        row(&["transitions", &format::count(usage.transitions), &format::dollars(dollars.transitions)]),
        row(&["S3 requests", &requests, &format::dollars(dollars.requests)]),
        row(&["stored", &format::bytes(usage.stored_bytes), &stored]),
    ];
    format::table(&rows, 1)
}

/// What the figures rest on.
fn basis(estimate: &Estimate) -> String {
    let Estimate { work, deployment, prices, .. } = estimate;
    let mut text = format!(
        "Taken: {} ms per image and processor, {} per image, {} of about {} images,\n  \
         {} MB per function, at most {} at once; {} prices of {}, looked up on {},\n  \
         without free tier, taxes and transfer out of the region.\n",
        work.ms_per_image,
        format::bytes(work.bytes_per_image),
        format::counted(estimate.shards, "shard"),
        work.shard_size,
        deployment.memory,
        format::count(deployment.concurrency.min(deployment.account_concurrency).into()),
        match prices.architecture {
            Architecture::X86_64 => "x86_64",
            Architecture::Arm64 => "arm64",
        },
        prices.region,
        prices.date,
    );
    if !prices.borrowed.is_empty() {
        let names = prices.borrowed.join(", ");
        text.push_str(&format!("  Not in the table for this region, so those of us-east-1: {names}.\n"));
    }
    text
}

fn limits(estimate: &Estimate) -> String {
    let mut text = "What limits first (! is reached)\n".to_owned();
    for limit in &estimate.limits {
        let mark = if limit.images <= estimate.work.images { "!" } else { " " };
        let from = format::count(limit.images);
        text.push_str(&format!("{mark} from {from} images: {}\n      {}\n", limit.what, limit.remedy));
    }
    text
}
