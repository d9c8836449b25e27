//! The log line of one invocation, with metrics in it.
//!
//! The line is in CloudWatch's embedded metric format: CloudWatch extracts the metrics when it reads the log; nothing is
//! sent. See "Specification: Embedded metric format" in the CloudWatch user guide.

use pomona::{
    Result,
    stages::{Featurized, Merged, Planned, Projected, Published},
    versions::vacuum::Vacuumed,
};
use serde::Serialize;
use serde_json::{Value, json};

const NAMESPACE: &str = "Pomona";

/// What an answer counts. What it does not count stays `None` and is not a metric.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Rows of features or scores.
    pub rows: Option<u64>,
    /// Images without features.
    pub rejects: Option<u64>,
    /// Images that went through the model.
    pub inferred: Option<u64>,
    /// Images whose features were copied.
    pub copied: Option<u64>,
    /// Images of a version.
    pub images: Option<u64>,
    /// Objects that were listed, or deleted.
    pub objects: Option<u64>,
    /// Dollars of a run.
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

/// An answer that says what it counts.
pub trait Measured: Serialize {
    /// The figures that become metrics.
    fn figures(&self) -> Figures;
}

impl Measured for Planned {
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

impl Measured for Merged {
    fn figures(&self) -> Figures {
        Figures { rows: Some(self.rows), ..Figures::default() }
    }
}

impl Measured for Projected {
    fn figures(&self) -> Figures {
        Figures { rows: Some(self.rows), ..Figures::default() }
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

/// How an invocation went.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a> {
    /// Dimension of the metrics: the function.
    pub function: &'a str,
    /// Wall clock.
    pub milliseconds: u64,
    /// Whether the environment was started for it.
    pub cold: bool,
}

/// One line: the run, the request, the answer, the duration, and metrics.
pub fn line<T: Measured>(event: &Value, outcome: &Result<T>, invocation: Invocation<'_>) -> Value {
    let find = |name: &str| event.get(name).or_else(|| event.get("work").and_then(|work| work.get(name)));
    let mut line = json!({
        "run": find("run"),
        "shard": find("shard"),
        "part": find("part"),
        "Function": invocation.function,
    });
    let mut metrics = Vec::new();
    let mut measure = |line: &mut Value, name: &str, unit: &str, value: Value| {
        line[name] = value;
        metrics.push(json!({"Name": name, "Unit": unit}));
    };
    measure(&mut line, "milliseconds", "Milliseconds", invocation.milliseconds.into());
    measure(&mut line, "cold_starts", "Count", u8::from(invocation.cold).into());
    measure(&mut line, "errors", "Count", u8::from(outcome.is_err()).into());
    match outcome {
        Ok(answer) => {
            line["level"] = "INFO".into();
            let figures = answer.figures();
            for (name, count) in figures.counts() {
                if let Some(count) = count {
                    measure(&mut line, name, "Count", count.into());
                }
            }
            if let Some(inferred) = figures.inferred.filter(|inferred| *inferred > 0) {
                let each = invocation.milliseconds as f64 / inferred as f64;
                measure(&mut line, "ms_per_image", "Milliseconds", each.into());
            }
            if let Some(dollars) = figures.dollars {
                measure(&mut line, "dollars", "None", dollars.into());
            }
            line["result"] = serde_json::to_value(answer).unwrap_or_default();
        }
        Err(error) => {
            line["level"] = "ERROR".into();
            line["errorType"] = error.kind().name().into();
            line["message"] = error.to_string().into();
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    line["_aws"] = json!({
        "Timestamp": u64::try_from(now).unwrap_or(u64::MAX),
        "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": [["Function"]], "Metrics": metrics}],
    });
    line
}

#[cfg(test)]
mod tests {
    use pomona::{Error, ErrorKind, dataset::timing::Timer};

    use super::*;

    const INVOCATION: Invocation<'_> =
        Invocation { function: "pomona-FeaturizeFunction", milliseconds: 100, cold: true };

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
            timing: Timer::start().read(),
        };
        let line = line(&event, &Ok(answer), INVOCATION);
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
    fn an_error_is_a_metric_too() {
        let outcome: Result<Merged> = Err(Error::new(ErrorKind::StoreThrottled, "slow down"));
        let line = line(&json!({"run": "r"}), &outcome, INVOCATION);
        assert_eq!((line["errors"].as_u64(), line["errorType"].as_str()), (Some(1), Some("Store.Throttled")));
    }
}
