//! Prices of AWS: the dated table `prices/aws.json`, and the cost of usage at these prices.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

const TABLE: &str = include_str!("../../prices/aws.json");
/// Region whose prices replace those that the table does not have.
const STAND_IN: &str = "us-east-1";

#[derive(Debug, Deserialize)]
struct Table {
    date: String,
    sources: Sources,
    regions: BTreeMap<String, Row>,
}

/// Pages of AWS with the prices of each service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// AWS Lambda.
    pub lambda: String,
    /// Step Functions.
    pub states: String,
    /// Amazon S3.
    pub s3: String,
    /// CloudWatch: logs, metrics, alarms, dashboards.
    pub cloudwatch: String,
    /// EventBridge.
    pub events: String,
    /// Amazon SQS.
    pub sqs: String,
    /// AWS KMS.
    pub kms: String,
    /// AWS X-Ray.
    pub xray: String,
}

/// Prices of one region in dollars.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    lambda_arm64_gb_second: Option<f64>,
    lambda_x86_64_gb_second: Option<f64>,
    lambda_million_requests: Option<f64>,
    states_thousand_transitions: Option<f64>,
    s3_thousand_puts: Option<f64>,
    s3_thousand_gets: Option<f64>,
    s3_gb_month: Option<f64>,
    emr_node_hour: Option<f64>,
    map_children_per_second: Option<f64>,
    logs_gb: Option<f64>,
    metric_month: Option<f64>,
    alarm_month: Option<f64>,
    dashboard_month: Option<f64>,
    events_million: Option<f64>,
    sqs_million_requests: Option<f64>,
    kms_ten_thousand_requests: Option<f64>,
    xray_million_traces: Option<f64>,
}

/// Processor architecture of the functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Intel and AMD.
    #[default]
    #[serde(rename = "x86_64")]
    X86_64,
    /// Graviton.
    Arm64,
}

impl Architecture {
    /// The architecture that this program is built for.
    pub const fn here() -> Self {
        if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::X86_64 }
    }
}

/// Prices of one region, in dollars, without free tier and taxes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prices {
    /// The day on which the prices were looked up, as `YYYY-MM-DD`.
    pub date: String,
    /// AWS region, such as `us-east-1`.
    pub region: String,
    /// Architecture of the Lambdas; decides the price of compute.
    pub architecture: Architecture,
    /// Lambda compute, per gigabyte of memory and second.
    pub gb_second: f64,
    /// Lambda invocations, per million.
    pub million_invocations: f64,
    /// State transitions of Step Functions, per thousand.
    pub thousand_transitions: f64,
    /// PUT and LIST requests to S3, per thousand.
    pub thousand_puts: f64,
    /// GET requests to S3, per thousand.
    pub thousand_gets: f64,
    /// S3 Standard storage, per 10^9 bytes and month.
    pub gb_month: f64,
    /// An m5.xlarge of an EMR cluster, including EMR's fee, per hour.
    pub emr_node_hour: f64,
    /// Log ingestion, per 10^9 bytes.
    pub logs_gb: f64,
    /// A custom metric that is sent in every hour of a month.
    pub metric_month: f64,
    /// An alarm, per month.
    pub alarm_month: f64,
    /// A dashboard, per month.
    pub dashboard_month: f64,
    /// Events of S3 and of Pomona on EventBridge, per million.
    pub million_events: f64,
    /// Requests to SQS, per million.
    pub million_queue_requests: f64,
    /// Requests to KMS, per ten thousand.
    pub ten_thousand_key_requests: f64,
    /// Recorded traces of X-Ray, per million.
    pub million_traces: f64,
    /// Where the prices are from.
    pub sources: Sources,
    /// Quota, not a price: child executions of a Distributed Map that start per second.
    pub map_children_per_second: f64,
    /// Names of the prices that the table does not have for this region. They are those of us-east-1.
    pub borrowed: Vec<&'static str>,
}

impl Prices {
    /// All regions of the table, sorted. Fails with `Internal.Bug` if the table cannot be parsed.
    pub fn regions() -> Result<Vec<String>> {
        Ok(table()?.regions.into_keys().collect())
    }

    /// The prices of a region. Fails with `Input.Invalid` if the region is not in the table.
    pub fn new(region: &str, architecture: Architecture) -> Result<Self> {
        let table = table()?;
        let row = |name: &str| {
            table.regions.get(name).cloned().ok_or_else(|| {
                Error::new(ErrorKind::InputInvalid, "the table has no prices for this region")
                    .context("region", name)
                    .context("known", table.regions.keys().cloned().collect::<Vec<_>>().join(", "))
            })
        };
        let (own, stand_in) = (row(region)?, row(STAND_IN)?);
        let mut borrowed = Vec::new();
        let mut price = |name: &'static str, of: fn(&Row) -> Option<f64>| {
            of(&own)
                .or_else(|| {
                    borrowed.push(name);
                    of(&stand_in)
                })
                .ok_or_else(|| {
                    Error::new(ErrorKind::InternalBug, "the table of prices lacks a price").context("price", name)
                })
        };
        Ok(Prices {
            gb_second: match architecture {
                Architecture::Arm64 => price("Lambda arm64", |row| row.lambda_arm64_gb_second)?,
                Architecture::X86_64 => price("Lambda x86_64", |row| row.lambda_x86_64_gb_second)?,
            },
            million_invocations: price("Lambda requests", |row| row.lambda_million_requests)?,
            thousand_transitions: price("Step Functions", |row| row.states_thousand_transitions)?,
            thousand_puts: price("S3 PUT", |row| row.s3_thousand_puts)?,
            thousand_gets: price("S3 GET", |row| row.s3_thousand_gets)?,
            gb_month: price("S3 storage", |row| row.s3_gb_month)?,
            emr_node_hour: price("EMR", |row| row.emr_node_hour)?,
            map_children_per_second: price("map starts", |row| row.map_children_per_second)?,
            logs_gb: price("logs", |row| row.logs_gb)?,
            metric_month: price("metrics", |row| row.metric_month)?,
            alarm_month: price("alarms", |row| row.alarm_month)?,
            dashboard_month: price("dashboards", |row| row.dashboard_month)?,
            million_events: price("EventBridge", |row| row.events_million)?,
            million_queue_requests: price("SQS", |row| row.sqs_million_requests)?,
            ten_thousand_key_requests: price("KMS", |row| row.kms_ten_thousand_requests)?,
            million_traces: price("X-Ray", |row| row.xray_million_traces)?,
            sources: table.sources.clone(),
            date: table.date.clone(),
            region: region.to_owned(),
            architecture,
            borrowed,
        })
    }

    /// The cost of some usage.
    pub fn cost(&self, usage: &Usage) -> Cost {
        let cost = Cost {
            compute: usage.gb_seconds * self.gb_second,
            invocations: usage.invocations as f64 / 1e6 * self.million_invocations,
            transitions: usage.transitions as f64 / 1e3 * self.thousand_transitions,
            requests: usage.puts as f64 / 1e3 * self.thousand_puts + usage.gets as f64 / 1e3 * self.thousand_gets,
            total: 0.0,
            logs: usage.log_bytes as f64 / 1e9 * self.logs_gb,
            traces: usage.traces as f64 / 1e6 * self.million_traces,
            events: usage.events as f64 / 1e6 * self.million_events
                + usage.queue_requests as f64 / 1e6 * self.million_queue_requests,
            keys: usage.key_requests as f64 / 1e4 * self.ten_thousand_key_requests,
            storage_per_month: usage.stored_bytes as f64 / 1e9 * self.gb_month,
            noncurrent_per_month: usage.noncurrent_bytes as f64 / 1e9 * self.gb_month,
        };
        let parts = [
            cost.compute,
            cost.invocations,
            cost.transitions,
            cost.requests,
            cost.logs,
            cost.traces,
            cost.events,
            cost.keys,
        ];
        Cost { total: parts.iter().sum(), ..cost }
    }
}

fn table() -> Result<Table> {
    serde_json::from_str(TABLE)
        .map_err(|e| Error::new(ErrorKind::InternalBug, "the table of prices cannot be parsed").source(e))
}

/// Billed usage of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Billed seconds of all Lambdas times their memory in GiB.
    pub gb_seconds: f64,
    /// Lambda invocations.
    pub invocations: u64,
    /// State transitions of the state machine, including those of map children.
    pub transitions: u64,
    /// PUT and LIST requests to S3.
    pub puts: u64,
    /// GET requests to S3.
    pub gets: u64,
    /// Bytes of log lines.
    pub log_bytes: u64,
    /// Traces that X-Ray records.
    pub traces: u64,
    /// Events on EventBridge.
    pub events: u64,
    /// Requests to SQS.
    pub queue_requests: u64,
    /// Requests to KMS.
    pub key_requests: u64,
    /// Size of the data set in bytes.
    pub stored_bytes: u64,
    /// Bytes of deleted and overwritten objects, which the bucket keeps for `RunRetentionDays`.
    pub noncurrent_bytes: u64,
}

/// Cost in dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Lambda compute.
    pub compute: f64,
    /// Lambda invocations.
    pub invocations: f64,
    /// Step Functions transitions.
    pub transitions: f64,
    /// S3 requests.
    pub requests: f64,
    /// Log ingestion.
    pub logs: f64,
    /// Traces.
    pub traces: f64,
    /// EventBridge and SQS.
    pub events: f64,
    /// KMS.
    pub keys: f64,
    /// Sum of the items above.
    pub total: f64,
    /// Storing the data set for a month; not part of `total`.
    pub storage_per_month: f64,
    /// Storing deleted and overwritten objects for a month; not part of `total`.
    pub noncurrent_per_month: f64,
}

/// Time and cost of the same images on EMR: a cluster of three m5.xlarge, one of them the primary node, with PySpark and
/// Keras.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Emr {
    /// Nodes of the cluster.
    pub nodes: u32,
    /// Wall-clock seconds, including the start of the cluster.
    pub seconds: f64,
    /// Dollars for all nodes.
    pub dollars: f64,
}

impl Emr {
    const NODES: u32 = 3;
    const PROCESSORS: f64 = 8.0;
    /// Clusters take 15 to 20 minutes to start.
    const START_SECONDS: f64 = 17.5 * 60.0;
    /// Per processor: half of the 14.2 images per second that PySpark with Keras reached on two processors.
    const IMAGES_PER_SECOND: f64 = 7.1;

    /// Estimates a run over `images` images.
    pub fn new(images: u64, prices: &Prices) -> Self {
        let seconds = Self::START_SECONDS + images as f64 / (Self::PROCESSORS * Self::IMAGES_PER_SECOND);
        let dollars = f64::from(Self::NODES) * seconds / 3_600.0 * prices.emr_node_hour;
        Emr { nodes: Self::NODES, seconds, dollars }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_price_is_borrowed_and_named() {
        let paris = Prices::new("eu-west-3", Architecture::X86_64).unwrap();
        let of_watching = ["logs", "metrics", "alarms", "dashboards", "EventBridge", "SQS", "KMS", "X-Ray"];
        assert_eq!(paris.borrowed, [["Lambda x86_64", "Step Functions", "EMR"].as_slice(), &of_watching].concat());
        assert_eq!(paris.thousand_gets, 0.00042);
        assert!(Prices::new("us-east-1", Architecture::Arm64).unwrap().borrowed.is_empty());
        let error = Prices::new("mars-1", Architecture::Arm64).unwrap_err();
        assert!(error.is(ErrorKind::InputInvalid) && error.to_string().contains("us-east-1"), "{error}");
    }

    #[test]
    fn the_cluster_of_the_old_pipeline_costs_what_it_did() {
        // 22,688 images took 28 minutes and about 0.34 dollars.
        let emr = Emr::new(22_688, &Prices::new("us-east-1", Architecture::Arm64).unwrap());
        assert!((20.0..30.0).contains(&(emr.seconds / 60.0)), "{emr:?}");
        assert!((0.25..0.40).contains(&emr.dollars), "{emr:?}");
    }

    #[test]
    fn use_is_priced_item_by_item() {
        let prices = Prices::new("us-east-1", Architecture::X86_64).unwrap();
        let usage = Usage {
            gb_seconds: 60_000.0,
            invocations: 1_000_000,
            transitions: 2_000,
            puts: 1_000,
            gets: 10_000,
            log_bytes: 3_000_000_000,
            traces: 100_000,
            events: 2_000_000,
            queue_requests: 1_000_000,
            key_requests: 20_000,
            stored_bytes: 2_000_000_000,
            noncurrent_bytes: 1_000_000_000,
        };
        let cost = prices.cost(&usage);
        let expected = 1.000_002 + 0.20 + 0.05 + 0.005 + 0.004 + 1.5 + 0.5 + 2.4 + 0.06;
        assert!((cost.total - expected).abs() < 1e-9, "{cost:?}");
        assert!((cost.storage_per_month - 0.046).abs() < 1e-9);
        assert!((cost.noncurrent_per_month - 0.023).abs() < 1e-9);
    }
}
