//! What an invocation costs, whether it succeeds or not.

use pomona::{
    cost::{
        prices::{Architecture, Prices, Usage},
        receipt::USUAL_REGION,
    },
    store::{RequestCounts, requests_sent},
};

/// Prices and size of this function. Outside of Lambda there are none.
#[derive(Debug)]
pub(crate) struct Spending {
    stack: Option<String>,
    billed: Option<(Prices, f64)>,
}

impl Spending {
    /// Reads the variables that Lambda and the template set.
    pub(crate) fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let memory = variable("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").and_then(|mb| mb.parse::<f64>().ok());
        let prices = |region: &str| Prices::new(region, Architecture::here()).ok();
        let region = variable("AWS_REGION").unwrap_or_default();
        let billed = memory.and_then(|mb| Some((prices(&region).or_else(|| prices(USUAL_REGION))?, mb)));
        Spending { stack: variable("POMONA_STACK"), billed }
    }

    /// The stack that the function belongs to.
    pub(crate) fn stack(&self) -> Option<&str> {
        self.stack.as_deref()
    }

    /// The requests to S3 so far.
    pub(crate) fn requests(&self) -> RequestCounts {
        requests_sent()
    }

    /// Dollars for one invocation: compute, the call, its state transitions, and the requests to S3 since `before`.
    pub(crate) fn dollars(&self, milliseconds: u64, transitions: u64, before: RequestCounts) -> Option<f64> {
        let (prices, memory) = self.billed.as_ref()?;
        let now = requests_sent();
        let usage = Usage {
            gb_seconds: milliseconds as f64 / 1e3 * memory / 1_024.0,
            invocations: 1,
            transitions,
            puts: now.puts - before.puts,
            gets: now.gets - before.gets,
            ..Usage::default()
        };
        Some(prices.cost(&usage).total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invocation_costs_its_time_its_call_and_its_transition() {
        let prices = Prices::new("us-east-1", Architecture::X86_64).unwrap();
        let spending = Spending { stack: None, billed: Some((prices, 2_048.0)) };
        let dollars = spending.dollars(30_000, 1, spending.requests()).unwrap();
        assert!((dollars - (60.0 * 0.000_016_666_7 + 0.2e-6 + 0.025e-3)).abs() < 1e-12, "{dollars}");
        assert_eq!(Spending { stack: None, billed: None }.dollars(1, 1, spending.requests()), None);
    }
}
