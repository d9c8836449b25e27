//! The receipt of a finished run, computed from the timings in its records and the dated table of prices.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    Result,
    cost::{
        estimate::{self, Counts, Deployment, Lines, Workload},
        prices::{Architecture, Cost, Emr, Prices, Usage},
    },
    dataset::{Checksum, Classification, Manifest, timing::Timing},
};

/// The region whose prices are used if that of a run is not known or not in the table.
pub const USUAL_REGION: &str = "us-east-1";

/// The timings of one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageRecords {
    /// Name of the stage.
    pub stage: &'static str,
    /// One entry per piece of work: the name of its shard, part or group, and its timing.
    pub pieces: Vec<(String, Timing)>,
    /// Calls of the function: one per piece, or fewer if each is for several pieces.
    pub calls: u64,
}

impl StageRecords {
    /// A stage whose function is called for each piece of work.
    pub fn new(stage: &'static str, pieces: Vec<(String, Timing)>) -> Self {
        StageRecords { stage, calls: pieces.len() as u64, pieces }
    }

    /// A stage that runs once.
    pub fn one(stage: &'static str, timing: Timing) -> Self {
        StageRecords::new(stage, vec![(stage.to_owned(), timing)])
    }
}

/// Where a run was executed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum Place {
    /// Lambda functions.
    Lambda {
        /// AWS region.
        region: String,
    },
    /// Any other machine; AWS bills no compute.
    OwnMachine,
}

impl Place {
    /// Where this process runs, from the environment variables that Lambda sets.
    pub fn here() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (variable("AWS_LAMBDA_FUNCTION_NAME"), variable("AWS_REGION")) {
            (Some(_), region) => Place::Lambda { region: region.unwrap_or_else(|| USUAL_REGION.to_owned()) },
            _ => Place::OwnMachine,
        }
    }
}

/// One line of a receipt: all work of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Name of the stage.
    pub stage: &'static str,
    /// Calls of the function. On one machine, pieces of work.
    pub invocations: u64,
    /// Wall-clock time, summed over the pieces of work.
    pub milliseconds: u64,
    /// Memory of the function in MiB, the largest if it differs; `None` outside of Lambda.
    pub memory_mb: Option<u32>,
    /// Seconds times GiB of memory; 0 outside of Lambda.
    pub gb_seconds: f64,
}

/// `runs/<run>/receipt.json`: usage and cost of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Receipt {
    /// Id of the run.
    pub run: String,
    /// Number of the version that the run has published.
    pub version: u64,
    /// Where the run was executed.
    pub at: Place,
    /// Images of the version.
    pub images: u64,
    /// Images that went through the model in this run.
    pub inferred: u64,
    /// One line per stage, in order.
    pub lines: Vec<Line>,
    /// On Lambda: the billed usage, without start-up times and retries. Elsewhere: the estimated usage of the same work on
    /// Lambda.
    pub usage: Usage,
    /// Cost of `usage`.
    pub dollars: Cost,
    /// The prices that the receipt was computed with.
    pub prices: Prices,
    /// Estimate for EMR, where every run computes all images of the version.
    pub emr: Emr,
    /// The files of the report, by name.
    #[serde(default)]
    pub files: BTreeMap<String, Checksum>,
}

impl Receipt {
    /// Computes the receipt of a run. `groups` is the number of groups that the stage `merge` has finished.
    ///
    /// Fails with `Internal.Bug` if the table of prices is damaged.
    pub fn new(manifest: &Manifest, groups: u64, records: &[StageRecords], at: Place) -> Result<Self> {
        let region = match &at {
            Place::Lambda { region } if Prices::regions()?.contains(region) => region,
            _ => USUAL_REGION,
        };
        let prices = Prices::new(region, Architecture::here())?;
        let lines: Vec<Line> = records.iter().map(Line::new).collect();
        let figures = &manifest.figures;
        let of = |stage: &str| {
            let records = records.iter().find(|records| records.stage == stage);
            records.map_or((0, 0), |records| (records.pieces.len() as u64, records.calls))
        };
        let ((_, featurize), (_, merge), (parts, project)) = (of("featurize"), of("merge"), of("project"));
        let counts = Counts {
            images: manifest.images + manifest.rejects,
            inferred: figures.inferred,
            shards: manifest.shards(),
            made: figures.shards_computed,
            groups,
            parts,
            lines: Lines { featurize, merge, project, ..Lines::default() },
            classifier: manifest.classifier.as_ref().is_some_and(|classifier| classifier.fitted().is_some()),
            index: manifest.index.is_some(),
        };
        let usage = match at {
            Place::Lambda { .. } => {
                Usage { gb_seconds: lines.iter().map(|line| line.gb_seconds).sum(), ..estimate::requests(&counts) }
            }
            Place::OwnMachine => {
                let labels = manifest.classifier.as_ref().and_then(Classification::fitted).map_or(0, |fit| fit.classes);
                let work = Workload {
                    shard_size: manifest.settings.shard_size(),
                    labels: u32::try_from(labels).unwrap_or(u32::MAX),
                    ..Workload::new(figures.inferred.max(1))
                };
                let like = estimate::estimate(work, Deployment::default(), prices.clone())?;
                Usage { stored_bytes: estimate::requests(&counts).stored_bytes, ..like.usage }
            }
        };
        Ok(Receipt {
            run: manifest.run.to_string(),
            version: manifest.version.0,
            images: manifest.images,
            inferred: figures.inferred,
            lines,
            dollars: prices.cost(&usage),
            usage,
            emr: Emr::new(manifest.images, &prices),
            prices,
            at,
            files: BTreeMap::new(),
        })
    }

    /// Whether AWS bills [`Receipt::dollars`]; otherwise they are the estimated cost of the same work on AWS.
    pub fn billed(&self) -> bool {
        matches!(self.at, Place::Lambda { .. })
    }
}

impl Line {
    fn new(records: &StageRecords) -> Self {
        let mut by_memory: BTreeMap<Option<u32>, u64> = BTreeMap::new();
        for (_, timing) in &records.pieces {
            *by_memory.entry(timing.memory_mb).or_default() += timing.milliseconds;
        }
        let gb_seconds =
            |(memory, ms): (&Option<u32>, &u64)| f64::from(memory.unwrap_or(0)) / 1_024.0 * *ms as f64 / 1_000.0;
        Line {
            stage: records.stage,
            invocations: records.calls,
            milliseconds: by_memory.values().sum(),
            memory_mb: by_memory.keys().max().copied().flatten(),
            // `Sum` of no numbers is -0.0, which JSON shows.
            gb_seconds: by_memory.iter().map(gb_seconds).fold(0.0, |sum, part| sum + part),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_stage_is_billed_by_time_and_memory() {
        let timing = |milliseconds, memory_mb| Timing { began: Timestamp::UNIX_EPOCH, milliseconds, memory_mb };
        let pieces = vec![("a".to_owned(), timing(1_500, Some(2_048))), ("b".to_owned(), timing(500, Some(2_048)))];
        let line = Line::new(&StageRecords::new("featurize", pieces));
        assert_eq!((line.invocations, line.milliseconds, line.memory_mb), (2, 2_000, Some(2_048)));
        assert!((line.gb_seconds - 4.0).abs() < 1e-12);
        let own = Line::new(&StageRecords::one("plan", timing(10, None)));
        assert_eq!((own.memory_mb, own.gb_seconds), (None, 0.0));
    }
}
