//! The files of a model on this computer.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{
    Error, ErrorKind, Result,
    model::{CONFIGS, MAX_CONFIG_BYTES, MAX_MODEL_BYTES, MODEL_NAMES, model_file},
    store,
};

/// A model file or folder. Copies of the objects of a bucket are deleted when this is dropped.
pub(crate) struct LocalModel {
    path: PathBuf,
    /// Where an object of a bucket comes from.
    source: Option<String>,
    _copy: Option<TempDir>,
}

impl LocalModel {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, or where it comes from.
    pub(crate) fn source(&self) -> String {
        self.source.clone().unwrap_or_else(|| self.path.display().to_string())
    }

    /// The file of a folder. Fails with `Model.Invalid`.
    pub(crate) fn resolved(self) -> Result<Self> {
        Ok(LocalModel { path: model_file(&self.path)?, ..self })
    }
}

/// The files of a model, if there is one.
pub(crate) async fn optional(model: Option<&Path>) -> Result<Option<LocalModel>> {
    match model {
        Some(model) => local_model(model).await.map(Some),
        None => Ok(None),
    }
}

/// A path is that of the user's own file or folder. Of `s3://BUCKET/PREFIX/`, the files `model.onnx` or `onnx/model.onnx` and
/// those that say how images are prepared are copied; of `s3://BUCKET/KEY.onnx`, that object and those beside it.
pub(crate) async fn local_model(model: &Path) -> Result<LocalModel> {
    let Some(location) = model.to_str().filter(|location| location.starts_with("s3://")) else {
        return Ok(LocalModel { path: model.to_owned(), source: None, _copy: None });
    };
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::StoreFailed, "the model cannot be copied to a temporary folder").source(e)
    };
    let copy = TempDir::new().map_err(failed)?;
    let (folder, names) = match location.rsplit_once('/') {
        Some((folder, name)) if name.ends_with(".onnx") => (folder, vec![name]),
        _ => (location.trim_end_matches('/'), MODEL_NAMES.to_vec()),
    };
    let mut found = None;
    for name in names {
        let source = format!("{folder}/{name}");
        match store::read_file(&source, MAX_MODEL_BYTES).await {
            Err(e) if e.is(ErrorKind::InputNotFound) => {}
            file => {
                let (path, file) = (copy.path().join(name), file?);
                // The configurations lie beside the file.
                std::fs::create_dir_all(path.parent().unwrap_or(copy.path())).map_err(failed)?;
                std::fs::write(&path, file).map_err(failed)?;
                found = Some((path, source));
                break;
            }
        }
    }
    let Some((path, source)) = found else {
        let message = "there is no model.onnx at this place; name its folder or the ONNX file";
        return Err(Error::new(ErrorKind::InputNotFound, message).context("model", location));
    };
    let (beside, _) = source.rsplit_once('/').unwrap_or((folder, ""));
    for name in CONFIGS {
        match store::read_file(&format!("{beside}/{name}"), MAX_CONFIG_BYTES).await {
            Err(e) if e.is(ErrorKind::InputNotFound) => {}
            file => std::fs::write(path.with_file_name(name), file?).map_err(failed)?,
        }
    }
    Ok(LocalModel { path, source: Some(source), _copy: Some(copy) })
}
