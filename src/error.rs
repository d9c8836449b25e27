//! One error type for the whole library.
//!
//! An [`ErrorKind`] has a stable name of the form `Area.What`. The same name is what the command line prints,
//! what a Lambda reports as its `errorType` and what the state machine's `Retry` and `Catch` lists match on.
//! Every kind says what the reader of the message can do about it, and whether trying again can help.
//!
//! ```
//! use pomona::{Error, ErrorKind};
//! let error = Error::new(ErrorKind::InputEmpty, "no images").context("input", "photos/");
//! assert_eq!(error.kind().name(), "Input.Empty");
//! assert_eq!(error.to_string(), "no images (input: photos/)");
//! assert!(!error.kind().retryable());
//! ```

use std::fmt;

pub type Result<T> = std::result::Result<T, Error>;
type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

macro_rules! kinds {
    ($( $(#[$doc:meta])* $variant:ident = $name:literal, retry: $retry:literal, $advice:literal; )+) => {
        /// What went wrong, as a stable name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind { $( $(#[$doc])* $variant, )+ }

        impl ErrorKind {
            /// Every kind, in the order of the documentation.
            pub const ALL: &'static [ErrorKind] = &[ $( ErrorKind::$variant, )+ ];

            /// The stable name, `Area.What`.
            pub fn name(self) -> &'static str {
                match self { $( ErrorKind::$variant => $name, )+ }
            }

            /// What to do about it, as one sentence.
            pub fn advice(self) -> &'static str {
                match self { $( ErrorKind::$variant => $advice, )+ }
            }

            /// Whether the same call can succeed when it is made again.
            pub fn retryable(self) -> bool {
                match self { $( ErrorKind::$variant => $retry, )+ }
            }
        }
    };
}

kinds! {
    /// The input folder or bucket does not exist.
    InputNotFound = "Input.NotFound", retry: false,
        "Check the spelling of the input location and that this account may list it.";
    /// The input holds no objects.
    InputEmpty = "Input.Empty", retry: false,
        "Point the input at the folder that holds the images; hidden files are not counted.";
    /// A setting is missing, unknown or out of its range.
    InputInvalid = "Input.Invalid", retry: false,
        "Correct the setting named in the message; `pomona run --help` lists them all.";
    /// Input and output overlap.
    InputOverlap = "Input.Overlap", retry: false,
        "Choose an output outside the input, so that results are never taken for images.";
    /// The output location holds something that Pomona did not write.
    OutputOccupied = "Output.Occupied", retry: false,
        "Choose an empty or new output location, or one that an earlier run has written.";
    /// The output was written by a format this build does not know.
    OutputUnknownFormat = "Output.UnknownFormat", retry: false,
        "Use the release of Pomona that wrote this output, or a newer one.";
    /// There is no published version in the output.
    OutputNoVersion = "Output.NoVersion", retry: false,
        "`pomona log OUTPUT` lists the versions; without any, `pomona run IMAGES OUTPUT` makes the first.";
    /// The model cannot be used.
    ModelInvalid = "Model.Invalid", retry: false,
        "Export a float32 ONNX model with one image input of fixed size (1x3xHxW or 1xHxWx3) and one output vector.";
    /// Fewer than two images were left for a PCA.
    PcaTooFewImages = "Pca.TooFewImages", retry: false,
        "A PCA needs at least two readable images; see the rejects table for the ones that were left out.";
    /// More components were asked for than the data can have.
    PcaTooManyComponents = "Pca.TooManyComponents", retry: false,
        "Ask for fewer components, or for a share of the variance (`--variance 0.9`).";
    /// All features of all images are equal.
    PcaNoVariance = "Pca.NoVariance", retry: false,
        "All images gave the same features, so there is nothing to decompose: check the input.";
    /// The eigenvalue solver gave up.
    PcaNotConverged = "Pca.NotConverged", retry: false,
        "Please report this with the moments file named in the message.";
    /// More images were rejected than the limit allows.
    DatasetTooManyRejects = "Dataset.TooManyRejects", retry: false,
        "Look into the rejects table named in the message, then mend the images or raise `--max-reject-percent`.";
    /// Another run published first.
    DatasetConflict = "Dataset.Conflict", retry: false,
        "Run again: nothing that was computed is lost, finished shards are reused.";
    /// The extractor or the settings are not those of the current version.
    DatasetSettingsChanged = "Dataset.SettingsChanged", retry: false,
        "Give the settings of the last version, choose another output, or say `--rebuild` (\"rebuild\": true).";
    /// A run and a vacuum exclude each other.
    DatasetBusy = "Dataset.Busy", retry: true,
        "Try again when it is done, which takes minutes.";
    /// A file that Pomona wrote cannot be read back.
    DatasetCorrupt = "Dataset.Corrupt", retry: false,
        "Restore the file named in the message from a backup, or delete its shard folder and run again.";
    /// An object that was listed is not there.
    StoreNotFound = "Store.NotFound", retry: false,
        "Somebody deleted it meanwhile; run again.";
    /// Access was refused.
    StoreDenied = "Store.Denied", retry: false,
        "Check the file permissions, or the role's permissions for this bucket and prefix.";
    /// The store asked for fewer requests.
    StoreThrottled = "Store.Throttled", retry: true,
        "Try again later or lower the concurrency.";
    /// The store could not be reached or answered with a fault of its own.
    StoreUnavailable = "Store.Unavailable", retry: true,
        "Try again; if it stays, check the network and the endpoint.";
    /// The store failed in a way that trying again will not mend (disk full, name too long, ...).
    StoreFailed = "Store.Failed", retry: false,
        "See the cause; a full disk or a name that the file system does not allow is the usual one.";
    /// There is no such execution, state machine or stack.
    ExecutionNotFound = "Execution.NotFound", retry: false,
        "Give a stack's name, or the ARN of an execution or a state machine as the console shows it; check the region.";
    /// Step Functions refused access.
    ExecutionDenied = "Execution.Denied", retry: false,
        "Use credentials that may call the action named in the message (docs/operations.md, \"Watching\").";
    /// The execution that was followed did not succeed.
    ExecutionFailed = "Execution.Failed", retry: false,
        "See the cause, and docs/operations.md for what to do for each error; then redrive it or start another one.";
    /// Stopped by the user.
    RunInterrupted = "Run.Interrupted", retry: false,
        "Run the same command again: finished work is reused.";
    /// A promise of the program itself was broken.
    InternalBug = "Internal.Bug", retry: false,
        "Please report this with the message.";
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A kind, a message, where it happened (`path`, `shard`, ...) and what caused it.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    source: Option<Source>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), context: Vec::new(), source: None }))
    }

    /// Says where it happened.
    pub fn context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Says what caused it.
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    pub fn is(&self, kind: ErrorKind) -> bool {
        self.0.kind == kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (i, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}: {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_of_the_form_area_dot_what() {
        let mut names: Vec<_> = ErrorKind::ALL.iter().map(|k| k.name()).collect();
        for name in &names {
            let (area, what) = name.split_once('.').unwrap();
            let camel =
                |s: &str| s.starts_with(|c: char| c.is_ascii_uppercase()) && s.chars().all(char::is_alphanumeric);
            assert!(camel(area) && camel(what), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn advice_is_a_sentence() {
        for kind in ErrorKind::ALL {
            assert!(kind.advice().ends_with('.'), "{kind}: {}", kind.advice());
        }
    }
}
