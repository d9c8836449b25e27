//! Time and cost of runs on AWS: the dated table of prices, the estimate of a planned run, its simulation, and the receipt
//! of a finished run.
//!
//! ```
//! use pomona::cost::{estimate::{Deployment, Workload, estimate}, prices::{Architecture, Prices}};
//!
//! let prices = Prices::new("us-east-1", Architecture::X86_64)?;
//! let deployment = Deployment { concurrency: 100, ..Deployment::default() };
//! let estimate = estimate(Workload::new(22_688), deployment, prices)?;
//! assert!(estimate.dollars.total < 0.05 && estimate.seconds < 90.0);
//! # Ok::<(), pomona::Error>(())
//! ```

pub mod batches;
pub mod bill;
pub mod estimate;
mod limits;
pub mod prices;
pub mod receipt;
mod schedule;
pub mod simulate;
#[cfg(test)]
mod tests;
