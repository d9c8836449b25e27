//! Models in the temporary folder of an environment, which a new process in the same environment finds again.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use lambda_runtime::tracing;
use pomona::{Result, dataset, model::Recipe, store::Store};

/// [`dataset::extractor_file`], which reads a model from the temporary folder if it is there, and leaves it there otherwise.
pub async fn extractor_file(output: &dyn Store, recipe: &Recipe) -> Result<Option<Bytes>> {
    let Some(model) = &recipe.model else { return dataset::extractor_file(output, recipe).await };
    let cached = std::env::temp_dir().join(format!("pomona-model-{}.onnx", model.model_sha256));
    if let Some(file) = read(&cached, &model.model_sha256).await {
        return Ok(Some(file));
    }
    let file = dataset::extractor_file(output, recipe).await?;
    if let Some(file) = &file
        && let Err(error) = write(cached, file.clone()).await
    {
        // The storage of the environment may be too small for it.
        tracing::warn!(%error, "the model could not be kept in the temporary folder");
    }
    Ok(file)
}

/// A file, if it is there and has this SHA-256.
async fn read(path: &Path, sha256: &str) -> Option<Bytes> {
    let file = Bytes::from(tokio::fs::read(path).await.ok()?);
    (dataset::sha256(&file) == sha256).then_some(file)
}

/// Writes a file, which is there only when it is complete.
async fn write(path: PathBuf, file: Bytes) -> std::io::Result<()> {
    let part = path.with_extension("part");
    tokio::fs::write(&part, file).await?;
    tokio::fs::rename(part, path).await
}
