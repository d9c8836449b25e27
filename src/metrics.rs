//! The log line of one invocation, with metrics in it.

use serde::Serialize;
use serde_json::{Value, json};

use crate::Result;

/// Of the metrics of each invocation, in CloudWatch's embedded metric format: CloudWatch makes metrics of them when it
/// reads the log; nothing has to be sent.
const NAMESPACE: &str = "Pomona";

/// Results that are counted, as the stages name them.
const COUNTED: [&str; 6] = ["rows", "rejects", "inferred", "copied", "images", "objects"];

/// One line: the run, what was asked, what came out, how long it took, and metrics. `cold` says that the function had
/// been started for it; `function` is the dimension of the metrics.
pub fn line<T: Serialize>(event: &Value, outcome: &Result<T>, milliseconds: u64, cold: bool, function: &str) -> Value {
    let find = |name: &str| event.get(name).or_else(|| event.get("work").and_then(|work| work.get(name)));
    let mut line = json!({
        "run": find("run"),
        "shard": find("shard"),
        "part": find("part"),
        "Function": function,
        "milliseconds": milliseconds,
        "cold_starts": u8::from(cold),
        "errors": u8::from(outcome.is_err()),
    });
    let mut metrics = vec![
        json!({"Name": "milliseconds", "Unit": "Milliseconds"}),
        json!({"Name": "cold_starts", "Unit": "Count"}),
        json!({"Name": "errors", "Unit": "Count"}),
    ];
    match outcome {
        Ok(result) => {
            line["level"] = "INFO".into();
            let result = serde_json::to_value(result).unwrap_or_default();
            for name in COUNTED {
                if let Some(count) = result.get(name).filter(|count| count.is_u64()) {
                    line[name] = count.clone();
                    metrics.push(json!({"Name": name, "Unit": "Count"}));
                }
            }
            let inferred = result.get("inferred").and_then(Value::as_u64).unwrap_or(0);
            if inferred > 0 {
                line["ms_per_image"] = (milliseconds as f64 / inferred as f64).into();
                metrics.push(json!({"Name": "ms_per_image", "Unit": "Milliseconds"}));
            }
            if let Some(dollars) = result.get("dollars").and_then(Value::as_f64) {
                line["dollars"] = dollars.into();
                metrics.push(json!({"Name": "dollars", "Unit": "None"}));
            }
            line["result"] = result;
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
    use super::*;
    use crate::{Error, ErrorKind};

    #[test]
    fn a_line_declares_the_metrics_that_it_carries() {
        let event = json!({"work": {"run": "r", "shard": "s"}});
        let result = Ok(json!({"rows": 8, "rejects": 1, "inferred": 4, "run": "r"}));
        let line = line(&event, &result, 100, true, "pomona-FeaturizeFunction");
        assert_eq!(line["shard"], "s");
        assert_eq!(line["ms_per_image"], 25.0);
        let declared = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(declared["Dimensions"], json!([["Function"]]));
        let names: Vec<_> =
            declared["Metrics"].as_array().into_iter().flatten().filter_map(|m| m["Name"].as_str()).collect();
        assert_eq!(names, ["milliseconds", "cold_starts", "errors", "rows", "rejects", "inferred", "ms_per_image"]);
        assert!(names.iter().all(|name| line[*name].is_number()), "{line}");
    }

    #[test]
    fn an_error_is_a_metric_too() {
        let outcome: Result<Value> = Err(Error::new(ErrorKind::StoreThrottled, "slow down"));
        let line = line(&json!({"run": "r"}), &outcome, 1, false, "f");
        assert_eq!((line["errors"].as_u64(), line["errorType"].as_str()), (Some(1), Some("Store.Throttled")));
    }
}
