//! Running on AWS: the input of an execution, the runs that uploads start, and the client of Step Functions.
//!
//! `executions` needs the feature `aws`; the other modules make no requests.

#[cfg(feature = "aws")]
pub mod executions;
pub mod request;
pub mod uploads;
