//! What is AWS's own: an execution's input, the runs that uploads start, and one Step Functions client.

#[cfg(feature = "aws")]
pub mod executions;
pub mod request;
pub mod uploads;
