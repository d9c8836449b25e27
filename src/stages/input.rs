//! What the stages `plan`, `reduce` and `publish` are asked to do.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    dataset::settings::{Mode, Settings},
    ids::RunId,
};

/// Input of the plan stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanInput {
    /// Id of the run.
    pub run: RunId,
    /// The settings that decide the result.
    #[serde(default)]
    pub settings: Settings,
    /// What the run lists, whether it fits a new basis, and whether it may change the settings of the output.
    #[serde(default)]
    pub mode: Mode,
    /// ARN of the execution that the run belongs to. None for a run of this process.
    #[serde(default)]
    pub execution: Option<String>,
    /// Functions of a map that run at the same time, on AWS. Without it, work lists have no batches.
    #[serde(default)]
    pub concurrency: Option<u32>,
    /// Records of shards and groups that are made again although they are finished, because files that they name are
    /// damaged.
    #[serde(default)]
    pub again: BTreeSet<String>,
    /// Earlier attempts of this run, which have ended. What they found damaged is made again too.
    #[serde(default)]
    pub earlier: Vec<RunId>,
    /// Location of a CSV file with columns `path`, `label` and perhaps `split`: a path or `s3://bucket/key`.
    #[serde(default)]
    pub labels: Option<String>,
}

impl PlanInput {
    /// Default settings; lists the whole input.
    pub fn new(run: RunId) -> Self {
        PlanInput {
            run,
            settings: Settings::default(),
            mode: Mode::default(),
            execution: None,
            concurrency: None,
            again: BTreeSet::new(),
            earlier: Vec::new(),
            labels: None,
        }
    }
}

/// Input of the stages `reduce` and `publish`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunInput {
    /// Id of the run.
    pub run: RunId,
}
