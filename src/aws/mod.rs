//! Running on AWS: the deployment of the stack, the input of an execution, the runs that uploads start, and the client of Step
//! Functions.
//!
//! `deployments` and `package` need the feature `cli`, `executions` needs `aws`; the other modules make no requests.

#[cfg(feature = "cli")]
pub mod deployments;
#[cfg(feature = "aws")]
pub mod executions;
#[cfg(feature = "cli")]
pub mod package;
pub mod request;
pub mod uploads;
