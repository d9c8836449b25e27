//! The bill of a run, line by line: what, how much, at which price, and where the price is from.

use serde::Serialize;

use super::prices::{Prices, Usage};

/// Metrics of all functions of a run: see `functions/host/src/metrics.rs`.
pub const METRICS: f64 = 32.0;
/// Alarms of `template.yaml` with an `AlarmEmail`.
pub const ALARMS: f64 = 9.0;

/// One line of a bill.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BillLine {
    /// What is billed.
    pub what: &'static str,
    /// How much of it.
    pub quantity: f64,
    /// The unit of `quantity`.
    pub unit: &'static str,
    /// Dollars for `per` units.
    pub price: f64,
    /// The number of units that `price` is for.
    pub per: f64,
    /// Where the price is from.
    pub source: String,
    /// Dollars.
    pub dollars: f64,
}

fn line(what: &'static str, quantity: f64, unit: &'static str, (price, per): (f64, f64), source: &str) -> BillLine {
    BillLine { what, quantity, unit, price, per, source: source.to_owned(), dollars: quantity / per * price }
}

/// What a run costs. `retries` are calls that Lambda throttles and Step Functions repeats, each a state transition.
pub fn of_run(usage: &Usage, retries: u64, prices: &Prices) -> Vec<BillLine> {
    let Prices { sources, .. } = prices;
    let transition = (prices.thousand_transitions, 1e3);
    vec![
        line("compute", usage.gb_seconds, "GB-s", (prices.gb_second, 1.0), &sources.lambda),
        line("invocations", usage.invocations as f64, "", (prices.million_invocations, 1e6), &sources.lambda),
        line("transitions", usage.transitions as f64, "", transition, &sources.states),
        line("retries of throttled calls", retries as f64, "", transition, &sources.states),
        line("S3 PUT, LIST", usage.puts as f64, "", (prices.thousand_puts, 1e3), &sources.s3),
        line("S3 GET", usage.gets as f64, "", (prices.thousand_gets, 1e3), &sources.s3),
        line("log ingestion", usage.log_bytes as f64 / 1e9, "GB", (prices.logs_gb, 1.0), &sources.cloudwatch),
        line("traces", usage.traces as f64, "", (prices.million_traces, 1e6), &sources.xray),
        line("events", usage.events as f64, "", (prices.million_events, 1e6), &sources.events),
        line("queue requests", usage.queue_requests as f64, "", (prices.million_queue_requests, 1e6), &sources.sqs),
        line("key requests", usage.key_requests as f64, "", (prices.ten_thousand_key_requests, 1e4), &sources.kms),
    ]
}

/// What the data set and the stack cost in a month.
pub fn of_month(usage: &Usage, prices: &Prices) -> Vec<BillLine> {
    let Prices { sources, .. } = prices;
    let gb = |bytes: u64| bytes as f64 / 1e9;
    vec![
        line("storage", gb(usage.stored_bytes), "GB", (prices.gb_month, 1.0), &sources.s3),
        line("noncurrent versions", gb(usage.noncurrent_bytes), "GB", (prices.gb_month, 1.0), &sources.s3),
        line("metrics, each hour", METRICS, "", (prices.metric_month, 1.0), &sources.cloudwatch),
        line("alarms", ALARMS, "", (prices.alarm_month, 1.0), &sources.cloudwatch),
        line("dashboard", 1.0, "", (prices.dashboard_month, 1.0), &sources.cloudwatch),
    ]
}
