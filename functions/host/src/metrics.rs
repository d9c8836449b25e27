//! The log line of an invocation, with its metrics.
//!
//! The line has CloudWatch's embedded metric format: CloudWatch extracts the metrics from the log, so the function sends no
//! request. See "Specification: Embedded metric format" in the CloudWatch user guide.

use pomona::{
    Error, ErrorKind, Result,
    stages::{Featurized, ListDone, MergeDone, Planned, Projected, Published},
    versions::vacuum::Vacuumed,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

const NAMESPACE: &str = "Pomona";

/// The metrics of an answer. `None` means that there is no such metric.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Rows of features or scores.
    pub rows: Option<u64>,
    /// Rejected images.
    pub rejects: Option<u64>,
    /// Images that went through the model.
    pub inferred: Option<u64>,
    /// Images whose features were copied.
    pub copied: Option<u64>,
    /// Images of a version.
    pub images: Option<u64>,
    /// Objects that were listed or deleted.
    pub objects: Option<u64>,
    /// Cost of a run in dollars.
    pub dollars: Option<f64>,
}

impl Figures {
    fn counts(&self) -> [(&'static str, Option<u64>); 6] {
        [
            ("rows", self.rows),
            ("rejects", self.rejects),
            ("inferred", self.inferred),
            ("copied", self.copied),
            ("images", self.images),
            ("objects", self.objects),
        ]
    }
}

/// An answer with metrics.
pub trait Measured: Serialize {
    /// The metrics.
    fn figures(&self) -> Figures;
}

/// An answer in JSON, and its metrics.
pub(crate) struct Answer {
    pub(crate) value: Value,
    figures: Figures,
}

impl Answer {
    pub(crate) fn new(answer: &impl Measured) -> Result<Self> {
        let bug = |e| Error::new(ErrorKind::InternalBug, "the answer cannot be written as JSON").source(e);
        Ok(Answer { value: serde_json::to_value(answer).map_err(bug)?, figures: answer.figures() })
    }
}

impl Measured for Planned {
    fn figures(&self) -> Figures {
        Figures { objects: Some(self.objects), ..Figures::default() }
    }
}

impl Measured for ListDone {
    fn figures(&self) -> Figures {
        Figures { objects: Some(self.objects), ..Figures::default() }
    }
}

impl Measured for Featurized {
    fn figures(&self) -> Figures {
        Figures {
            rows: Some(self.rows),
            rejects: Some(self.rejects),
            inferred: Some(self.inferred),
            copied: Some(self.copied),
            ..Figures::default()
        }
    }
}

impl Measured for MergeDone {
    fn figures(&self) -> Figures {
        match self {
            MergeDone::Group(merged) => Figures { rows: Some(merged.entry.rows), ..Figures::default() },
            MergeDone::Segment(_) => Figures::default(),
        }
    }
}

impl Measured for Projected {
    fn figures(&self) -> Figures {
        Figures { rows: Some(self.part.rows), ..Figures::default() }
    }
}

impl Measured for Published {
    fn figures(&self) -> Figures {
        Figures { images: Some(self.images), rejects: Some(self.rejects), ..Figures::default() }
    }
}

impl Measured for Vacuumed {
    fn figures(&self) -> Figures {
        Figures { objects: Some(self.objects), ..Figures::default() }
    }
}

/// Figures of an invocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Invocation<'a> {
    /// Name of the function; the dimension of the metrics.
    pub(crate) function: &'a str,
    /// Wall-clock time.
    pub(crate) milliseconds: u64,
    /// Whether it is the first invocation of its environment.
    pub(crate) cold: bool,
    /// Its cost in dollars, on Lambda.
    pub(crate) spent: Option<f64>,
    /// The stack; the dimension of `spent`, which is summed over all functions.
    pub(crate) stack: Option<&'a str>,
}

/// A log line under construction.
#[derive(Default)]
struct Line {
    fields: Map<String, Value>,
    metrics: Vec<Value>,
    /// The same with the dimension `Stack`.
    of_stack: Vec<Value>,
}

impl Line {
    /// The fields and metrics of each invocation.
    fn new(invocation: &Invocation<'_>, failed: bool) -> Self {
        let mut line = Line::default();
        line.set("Function", invocation.function);
        line.measure("milliseconds", "Milliseconds", invocation.milliseconds);
        line.measure("cold_starts", "Count", u8::from(invocation.cold));
        line.measure("errors", "Count", u8::from(failed));
        line.measure_spent(invocation);
        line.set("level", if failed { "ERROR" } else { "INFO" });
        line
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.fields.insert(name.to_owned(), value.into());
    }

    /// Sets a field and declares it as a metric.
    fn measure(&mut self, name: &str, unit: &str, value: impl Into<Value>) {
        self.set(name, value);
        self.metrics.push(json!({"Name": name, "Unit": unit}));
    }

    /// Sets the cost of the invocation as a metric of the whole stack.
    fn measure_spent(&mut self, invocation: &Invocation<'_>) {
        if let (Some(spent), Some(stack)) = (invocation.spent, invocation.stack) {
            self.set("Stack", stack);
            self.set("spent", spent);
            self.of_stack.push(json!({"Name": "spent", "Unit": "None"}));
        }
    }

    fn measure_answer(&mut self, figures: Figures, milliseconds: u64) {
        for (name, count) in figures.counts() {
            if let Some(count) = count {
                self.measure(name, "Count", count);
            }
        }
        if let Some(inferred) = figures.inferred.filter(|inferred| *inferred > 0) {
            self.measure("ms_per_image", "Milliseconds", milliseconds as f64 / inferred as f64);
        }
        if let Some(dollars) = figures.dollars {
            self.measure("dollars", "None", dollars);
        }
    }

    fn finish(mut self) -> Value {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
        let metrics = std::mem::take(&mut self.metrics);
        let directive = |dimension: &str, metrics: Vec<Value>| json!({"Namespace": NAMESPACE, "Dimensions": [[dimension]], "Metrics": metrics});
        let mut directives = vec![directive("Function", metrics)];
        let of_stack = std::mem::take(&mut self.of_stack);
        if !of_stack.is_empty() {
            directives.push(directive("Stack", of_stack));
        }
        let declaration = json!({"Timestamp": u64::try_from(now).unwrap_or(u64::MAX), "CloudWatchMetrics": directives});
        self.set("_aws", declaration);
        Value::Object(self.fields)
    }
}

/// The log line: run, shard, part, duration and answer or error, with the metrics.
pub(crate) fn line(event: &Value, outcome: &Result<Answer>, invocation: Invocation<'_>) -> Value {
    let mut line = Line::new(&invocation, outcome.is_err());
    for name in ["run", "shard", "part"] {
        let of_work = || event.get("work").and_then(|work| work.get(name));
        line.set(name, event.get(name).or_else(of_work).cloned().unwrap_or_default());
    }
    match outcome {
        Ok(answer) => {
            line.measure_answer(answer.figures, invocation.milliseconds);
            line.set("result", answer.value.clone());
        }
        Err(error) => {
            line.set("errorType", error.kind().name());
            line.set("message", error.to_string());
        }
    }
    line.finish()
}

/// The log line of an HTTP request. A wrong request is no error of the function.
pub(crate) fn request_line(method: &str, path: &str, status: u16, invocation: Invocation<'_>) -> Value {
    let mut line = Line::new(&invocation, status >= 500);
    line.set("method", method);
    line.set("path", path);
    line.set("status", status);
    line.finish()
}

#[cfg(test)]
mod tests {
    use pomona::dataset::timing::Timer;

    use super::*;

    const INVOCATION: Invocation<'_> = Invocation {
        function: "pomona-FeaturizeFunction",
        milliseconds: 100,
        cold: true,
        spent: Some(0.5),
        stack: Some("pomona"),
    };

    #[test]
    fn a_line_declares_the_metrics_that_it_carries() {
        let event = json!({"work": {"run": "r", "shard": "s"}});
        let answer = Featurized {
            planned: "s".into(),
            shard: "s".into(),
            rows: 8,
            rejects: 1,
            inferred: 4,
            copied: 4,
            added: 0,
            changed: 0,
            base_is_unknown: false,
            timing: Timer::start().read(),
        };
        let line = line(&event, &Answer::new(&answer), INVOCATION);
        assert_eq!(line["shard"], "s");
        assert_eq!(line["ms_per_image"], 25.0);
        let declared = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(declared["Dimensions"], json!([["Function"]]));
        let names: Vec<_> =
            declared["Metrics"].as_array().into_iter().flatten().filter_map(|m| m["Name"].as_str()).collect();
        let expected =
            ["milliseconds", "cold_starts", "errors", "rows", "rejects", "inferred", "copied", "ms_per_image"];
        assert_eq!(names, expected);
        assert!(names.iter().all(|name| line[*name].is_number()), "{line}");
    }

    #[test]
    fn an_error_is_counted_and_named() {
        let outcome = Err(Error::new(ErrorKind::StoreThrottled, "slow down"));
        let without = line(&json!({"run": "r"}), &outcome, Invocation { spent: None, ..INVOCATION });
        assert_eq!(
            (without["spent"].as_f64(), without["_aws"]["CloudWatchMetrics"].as_array().unwrap().len()),
            (None, 1)
        );
        let line = line(&json!({"run": "r"}), &outcome, INVOCATION);
        // A failed invocation costs money too.
        assert_eq!((line["spent"].as_f64(), line["Stack"].as_str()), (Some(0.5), Some("pomona")));
        let of_stack = &line["_aws"]["CloudWatchMetrics"][1];
        assert_eq!(of_stack["Dimensions"], json!([["Stack"]]));
        assert_eq!(of_stack["Metrics"], json!([{"Name": "spent", "Unit": "None"}]));
        assert_eq!((line["errors"].as_u64(), line["errorType"].as_str()), (Some(1), Some("Store.Throttled")));
    }

    #[test]
    fn a_request_is_an_error_if_the_function_could_not_answer_it() {
        let errors = |status| {
            let line = request_line("POST", "/predict", status, INVOCATION);
            assert_eq!((line["path"].as_str(), line["status"].as_u64()), (Some("/predict"), Some(u64::from(status))));
            line["errors"].as_u64()
        };
        assert_eq!([200, 413, 422, 500, 503].map(errors), [0, 0, 0, 1, 1].map(Some));
    }
}
