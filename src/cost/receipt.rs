//! What a run cost: from its own records and the dated table of prices.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    Result,
    cost::{
        estimate::{self, Counts, Deployment, Workload},
        prices::{Architecture, Cost, Emr, Prices, Usage},
    },
    dataset::{Manifest, timing::Timing},
};

/// The region of prices where a run does not tell its own.
pub const USUAL_REGION: &str = "us-east-1";

/// The pieces of work of one stage, by name: the shard, the part or the group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageRecords {
    pub stage: &'static str,
    pub pieces: Vec<(String, Timing)>,
}

impl StageRecords {
    pub fn one(stage: &'static str, timing: Timing) -> Self {
        StageRecords { stage, pieces: vec![(stage.to_owned(), timing)] }
    }
}

/// Where the run was.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum Place {
    Lambda {
        region: String,
    },
    /// No bill of AWS but that of the store.
    OwnMachine,
}

impl Place {
    /// That of this process.
    pub fn here() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (variable("AWS_LAMBDA_FUNCTION_NAME"), variable("AWS_REGION")) {
            (Some(_), region) => Place::Lambda { region: region.unwrap_or_else(|| USUAL_REGION.to_owned()) },
            _ => Place::OwnMachine,
        }
    }
}

/// One line: a stage's functions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    pub stage: &'static str,
    pub invocations: u64,
    pub milliseconds: u64,
    /// Of the functions; none on a machine of one's own.
    pub memory_mb: Option<u32>,
    pub gb_seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Receipt {
    pub run: String,
    pub version: u64,
    pub at: Place,
    pub images: u64,
    pub inferred: u64,
    pub lines: Vec<Line>,
    /// On Lambda: what was billed, start-up times and retries left out. Elsewhere: what the estimate says that the same
    /// work would have taken there.
    pub usage: Usage,
    pub dollars: Cost,
    pub prices: Prices,
    /// All images of the version from nothing, as the old pipeline does for every new photo.
    pub emr: Emr,
}

impl Receipt {
    pub fn new(manifest: &Manifest, groups: u64, records: &[StageRecords], at: Place) -> Result<Self> {
        let region = match &at {
            Place::Lambda { region } if Prices::regions()?.contains(region) => region,
            _ => USUAL_REGION,
        };
        let prices = Prices::new(region, Architecture::here())?;
        let lines: Vec<Line> = records.iter().map(Line::new).collect();
        let figures = &manifest.figures;
        let pieces = |stage: &str| lines.iter().find(|line| line.stage == stage).map_or(0, |line| line.invocations);
        let counts = Counts {
            images: manifest.images + manifest.rejects,
            inferred: figures.inferred,
            shards: manifest.shards.len() as u64,
            made: figures.shards_computed,
            groups,
            parts: pieces("project"),
        };
        let usage = match at {
            Place::Lambda { .. } => {
                Usage { gb_seconds: lines.iter().map(|line| line.gb_seconds).sum(), ..estimate::requests(&counts) }
            }
            Place::OwnMachine => {
                let work =
                    Workload { shard_size: manifest.settings.shard_size, ..Workload::new(figures.inferred.max(1)) };
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
        })
    }

    /// Whether [`Receipt::dollars`] were billed; otherwise they are what AWS would have cost.
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
            invocations: records.pieces.len() as u64,
            milliseconds: by_memory.values().sum(),
            memory_mb: by_memory.keys().max().copied().flatten(),
            // An empty sum would be -0.
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
        let line = Line::new(&StageRecords { stage: "featurize", pieces });
        assert_eq!((line.invocations, line.milliseconds, line.memory_mb), (2, 2_000, Some(2_048)));
        assert!((line.gb_seconds - 4.0).abs() < 1e-12);
        let own = Line::new(&StageRecords::one("plan", timing(10, None)));
        assert_eq!((own.memory_mb, own.gb_seconds), (None, 0.0));
    }
}
