//! Measures the invocations of an environment.

use std::sync::atomic::{AtomicBool, Ordering};

use pomona::{dataset::timing::Timer, store::RequestCounts};

use crate::{
    metrics::{Invocation, request_line},
    spending::Spending,
};

/// What the metrics of all invocations of an environment need.
#[derive(Debug)]
pub struct Meter {
    function: String,
    /// Whether no invocation has started: the first one is a cold start.
    first: AtomicBool,
    spending: Spending,
}

impl Meter {
    /// Reads the variables that Lambda and the template set.
    pub fn from_environment() -> Self {
        Meter { function: function_name(), first: AtomicBool::new(true), spending: Spending::from_environment() }
    }

    /// Starts the measurement of an invocation.
    pub fn start(&self) -> Measurement<'_> {
        let cold = self.first.swap(false, Ordering::Relaxed);
        Measurement { meter: self, timer: Timer::start(), before: self.spending.requests(), cold }
    }
}

/// An invocation that is being measured.
#[derive(Debug)]
pub struct Measurement<'a> {
    meter: &'a Meter,
    timer: Timer,
    before: RequestCounts,
    cold: bool,
}

impl<'a> Measurement<'a> {
    pub(crate) fn is_cold(&self) -> bool {
        self.cold
    }

    /// The figures so far, of an invocation with a number of state transitions.
    pub(crate) fn end(&self, transitions: u64) -> Invocation<'a> {
        let Meter { function, spending, .. } = self.meter;
        let milliseconds = self.timer.read().milliseconds;
        let spent = spending.dollars(milliseconds, transitions, self.before);
        Invocation { function, milliseconds, cold: self.cold, spent, stack: spending.stack() }
    }

    /// Writes the line of an HTTP request to the log. The path is one without the query, which can name images.
    pub fn answered(&self, method: &str, path: &str, status: u16) {
        println!("{}", request_line(method, path, status, self.end(0)));
    }
}

/// Name of the function in metrics: that of the template, such as `pomona-PlanFunction`. Lambda's name has a suffix, and is
/// truncated after 64 characters.
fn function_name() -> String {
    let variable = |name| std::env::var(name).ok();
    variable("POMONA_FUNCTION").or_else(|| variable("AWS_LAMBDA_FUNCTION_NAME")).unwrap_or_else(|| "local".to_owned())
}
