//! The extension module of the Python package `pomona`: what needs the library. `pomona/` has the rest, in Python.
//!
//! Records cross the border as JSON, tables as the bytes of their Parquet files, features as little-endian `f32`. While Rust
//! works, other threads of Python run and Ctrl-C is heard.

mod model;
mod running;
mod version;
mod waiting;

use pyo3::{create_exception, exceptions::PyException, prelude::*};

use pomona::{Error as Failure, ErrorKind, dataset, store};

create_exception!(
    _pomona,
    Error,
    PyException,
    "What went wrong: `name` is its stable name, such as `Store.Denied`, and `advice` says what to do."
);

/// The exception for an error.
fn raised(py: Python<'_>, error: &Failure) -> PyErr {
    let kind = error.kind();
    let exception = Error::new_err(format!("[{}] {error}", kind.name()));
    let value = exception.value(py);
    let set = value
        .setattr("name", kind.name())
        .and_then(|()| value.setattr("advice", kind.advice()))
        .and_then(|()| value.setattr("retryable", kind.retryable()));
    match set {
        Ok(()) => exception,
        Err(e) => e,
    }
}

/// The JSON of a record.
fn json<T: serde::Serialize>(py: Python<'_>, value: &T) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| {
        let bug = Failure::new(ErrorKind::InternalBug, "a record could not be written as JSON").source(e);
        raised(py, &bug)
    })
}

/// Runs a command line, without the name of the program. Returns the exit code.
#[pyfunction]
fn main(py: Python<'_>, arguments: Vec<String>) -> u8 {
    py.detach(|| pomona::cli::main(std::iter::once("pomona".to_owned()).chain(arguments).map(Into::into)))
}

/// The numbers of the published versions of an output, ascending.
#[pyfunction]
fn versions(py: Python<'_>, output: String) -> PyResult<Vec<u64>> {
    waiting::wait(py, async move {
        let output = store::open(&output).await?;
        dataset::expect_output(output.as_ref()).await?;
        let published = dataset::published(output.as_ref()).await?;
        Ok(published.iter().map(|manifest| manifest.version.0).collect())
    })
}

#[pymodule]
fn _pomona(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("Error", module.py().get_type::<Error>())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<model::Model>()?;
    module.add_class::<version::Version>()?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    module.add_function(wrap_pyfunction!(versions, module)?)?;
    module.add_function(wrap_pyfunction!(running::run, module)?)?;
    module.add_function(wrap_pyfunction!(running::model_of_run, module)?)?;
    Ok(())
}
