//! Opens what the arguments of a command name.

use std::sync::Arc;

use crate::{
    Result,
    dataset::{self, Manifest},
    store::{self, Store},
};

/// Opens an output. Fails with `Output.NoVersion` and others if it is none.
pub(crate) async fn output(location: &str) -> Result<Arc<dyn Store>> {
    let output = store::open(location).await?;
    dataset::expect_output(output.as_ref()).await?;
    Ok(output)
}

/// Opens an output and reads the manifest of a version; without a number, of the newest.
pub(crate) async fn version(location: &str, number: Option<u64>) -> Result<(Arc<dyn Store>, Manifest)> {
    let output = output(location).await?;
    let version = dataset::version(output.as_ref(), number).await?;
    Ok((output, version))
}
