//! One error type for the whole library.
//!
//! An [`ErrorKind`] has a stable name of the form `Area.What`. The command line prints this name, a Lambda reports it as
//! its `errorType`, and the state machine's `Retry` and `Catch` lists match on it. Each kind has a sentence of advice and
//! says whether a retry can succeed. `docs/operations.md` lists all of them; a test compares the two.
//!
//! ```
//! use pomona::{Error, ErrorKind};
//! let error = Error::new(ErrorKind::InputEmpty, "no images").context("input", "photos/");
//! assert_eq!(error.kind().name(), "Input.Empty");
//! assert_eq!(error.to_string(), "no images (input: photos/)");
//! assert!(!error.kind().retryable());
//! ```

use std::{borrow::Cow, fmt};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

macro_rules! kinds {
    ($( $(#[$doc:meta])* $variant:ident = $name:literal, retry: $retry:literal, $advice:literal; )+) => {
        /// The kind of an error. Its [`name`](ErrorKind::name) is stable between releases.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind { $( $(#[$doc])* $variant, )+ }

        impl ErrorKind {
            /// All kinds, in the order of the table in `docs/operations.md`.
            pub const ALL: &'static [ErrorKind] = &[ $( ErrorKind::$variant, )+ ];

            /// The stable name, `Area.What`, such as `Store.NotFound`.
            pub fn name(self) -> &'static str {
                match self { $( ErrorKind::$variant => $name, )+ }
            }

            /// What the user can do, as one or two full sentences.
            pub fn advice(self) -> &'static str {
                match self { $( ErrorKind::$variant => $advice, )+ }
            }

            /// Whether repeating the same call can succeed.
            pub fn retryable(self) -> bool {
                match self { $( ErrorKind::$variant => $retry, )+ }
            }
        }
    };
}

kinds! {
    /// The input folder does not exist.
    InputNotFound = "Input.NotFound", retry: false,
        "Check the spelling of the input location. It must be a folder that this account may list.";
    /// The input has no objects.
    InputEmpty = "Input.Empty", retry: false,
        "Use the folder that holds the images as input. Hidden files and files such as .csv, .json and .txt are not counted.";
    /// A setting is missing, unknown or out of range.
    InputInvalid = "Input.Invalid", retry: false,
        "Correct what the message names. `pomona COMMAND --help` lists arguments and settings.";
    /// Input and output overlap.
    InputOverlap = "Input.Overlap", retry: false,
        "Choose an output outside the input, so that results are not read as images.";
    /// The images of the current version come from another place.
    InputMoved = "Input.Moved", retry: false,
        "Use the input of the last version. If its images have moved to this place, add `--input-moved` (`\"input_moved\": true`).";
    /// More than half of at least 100 images of the current version are gone.
    InputVanished = "Input.Vanished", retry: false,
        "Check that the input is complete. If the images were deleted on purpose, add `--accept-deletions` (`\"accept_deletions\": true`).";
    /// No file of the output contains the key.
    InputUnknownKey = "Input.UnknownKey", retry: false,
        "Write the key as in the column `path` of the tables. A key that is already erased is unknown too.";
    /// The output location has files that Pomona did not write.
    OutputOccupied = "Output.Occupied", retry: false,
        "Choose an empty or new output location, or the output of an earlier run.";
    /// The format of the output is unknown to this build.
    OutputUnknownFormat = "Output.UnknownFormat", retry: false,
        "Use the release of Pomona that wrote this output, or a newer one.";
    /// The output has no published version, or not the requested one.
    OutputNoVersion = "Output.NoVersion", retry: false,
        "Check the spelling of the output. `pomona log OUTPUT` lists its versions, and `pomona run IMAGES OUTPUT` makes one.";
    /// The model cannot be used.
    ModelInvalid = "Model.Invalid", retry: false,
        "Check the path. The model must be float32 ONNX with one image input of fixed size (1x3xHxW or 1xHxWx3) and one output vector.";
    /// Fewer than two images are left for a PCA.
    PcaTooFewImages = "Pca.TooFewImages", retry: false,
        "A PCA needs at least two readable images. The rejects table lists the images that were left out.";
    /// More components are requested than the data can have.
    PcaTooManyComponents = "Pca.TooManyComponents", retry: false,
        "Ask for fewer components, or for a share of the variance (`--variance 0.9`).";
    /// All images have equal features.
    PcaNoVariance = "Pca.NoVariance", retry: false,
        "Check the input. All images gave the same features, so there is no variance to explain.";
    /// The eigenvalue solver did not converge.
    PcaNotConverged = "Pca.NotConverged", retry: false,
        "Please report this with the message and, if you can share them, the moments and bases of the output.";
    /// The version has no classifier.
    ClassifierMissing = "Classifier.Missing", retry: false,
        "A classifier needs images with two labels and two images of one of them. Run again without `--no-classifier`, or give labels (`pomona run --help`).";
    /// The classifier belongs to features of another model.
    ClassifierOtherModel = "Classifier.OtherModel", retry: false,
        "Use the model and the release that made the data set (`--model FILE.onnx`), or run with `--upgrade` first.";
    /// More images are rejected than the limit allows.
    DatasetTooManyRejects = "Dataset.TooManyRejects", retry: false,
        "Read the rejects table named in the message. Then repair the images or raise `--max-reject-percent`.";
    /// Another run published first.
    DatasetConflict = "Dataset.Conflict", retry: false,
        "Run again. No finished work is lost; finished shards are reused.";
    /// Extractor or settings differ from those of the current version.
    DatasetSettingsChanged = "Dataset.SettingsChanged", retry: false,
        "Use the model of the last version, choose another output, or add `--rebuild` (`\"rebuild\": true`) for what the message says.";
    /// The features of the current version are those of another revision of the same extractor.
    DatasetUpgradeNeeded = "Dataset.UpgradeNeeded", retry: false,
        "Add `--upgrade` (`\"upgrade\": true`) to compute all features again, or use the release that made the version. Old versions stay readable.";
    /// A vacuum is in progress, or a run that excludes one.
    DatasetBusy = "Dataset.Busy", retry: true,
        "Try again when the other run or vacuum has finished, usually within minutes. One that has died does not block. Where nobody can tell whether it lives, as on another machine, the message says when it began: a run blocks for 72 hours, a vacuum for 30 minutes, or until `pomona vacuum --break-lock`.";
    /// A file that Pomona wrote is missing or cannot be decoded.
    DatasetCorrupt = "Dataset.Corrupt", retry: false,
        "`pomona check OUTPUT` lists what is damaged, and `pomona check OUTPUT --repair` makes it again where that is possible. Otherwise restore the file from a backup.";
    /// The object does not exist, or was replaced after it was listed.
    StoreNotFound = "Store.NotFound", retry: false,
        "Run again. The object was deleted or replaced after it was listed.";
    /// The bucket does not exist.
    StoreNoBucket = "Store.NoBucket", retry: false,
        "Check the spelling of the bucket, and that the credentials and the endpoint are those of its account.";
    /// The bucket is in another region than the one that the request was sent to.
    StoreWrongRegion = "Store.WrongRegion", retry: false,
        "Set AWS_REGION to the region of the bucket. The message has it if S3 named it.";
    /// The store refused access.
    StoreDenied = "Store.Denied", retry: false,
        "In S3, check what the policies of the user or role and of the bucket permit; the message has the location. In a folder, check the permissions of the file.";
    /// The object is in an archive.
    StoreArchived = "Store.Archived", retry: false,
        "Restore the object from its archive storage class (S3 Glacier, or the archive tiers of Intelligent-Tiering), then run again.";
    /// The store throttles requests.
    StoreThrottled = "Store.Throttled", retry: true,
        "Try again later or lower the concurrency.";
    /// The store cannot be reached, or failed with an error of its own.
    StoreUnavailable = "Store.Unavailable", retry: true,
        "Try again. If the error stays, check the network, the region (AWS_REGION) and the endpoint (AWS_ENDPOINT_URL).";
    /// The store failed in a way that a retry does not repair, such as a full disk or a file name that is too long.
    StoreFailed = "Store.Failed", retry: false,
        "Read the message and its cause. The usual causes are a full disk and a name that the file system does not allow.";
    /// No AWS credentials were found.
    CredentialsMissing = "Credentials.Missing", retry: false,
        "Give credentials in one of three ways: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; run `aws configure`; or run `aws sso login` and set AWS_PROFILE.";
    /// The AWS credentials have expired.
    CredentialsExpired = "Credentials.Expired", retry: false,
        "Sign in again (`aws sso login`), or set new values of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. Then run the same command again; finished work is reused.";
    /// AWS does not know the credentials.
    CredentialsInvalid = "Credentials.Invalid", retry: false,
        "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, which come before AWS_PROFILE, and the clock of this machine.";
    /// The execution, state machine or stack does not exist.
    ExecutionNotFound = "Execution.NotFound", retry: false,
        "Use the name of a stack, or the ARN of an execution or a state machine from the console. Check the region. `pomona aws start` makes the first execution.";
    /// Step Functions refused access.
    ExecutionDenied = "Execution.Denied", retry: false,
        "Use credentials that may call the action named in the message (see \"Watching\" in docs/operations.md).";
    /// The execution that the command follows did not succeed.
    ExecutionFailed = "Execution.Failed", retry: false,
        "Read the cause and find its error in docs/operations.md. Then redrive the execution or start another one.";
    /// There is nothing to deploy.
    StackNoPackage = "Stack.NoPackage", retry: false,
        "Unpack a release of Pomona, whose folder `aws` lies beside the program, run `make package` in the repository, or name the folder of a package (`--package FOLDER`).";
    /// AWS refused a step of a deployment.
    StackDenied = "Stack.Denied", retry: false,
        "Use credentials that may call the action named in the message; docs/deploy.md has a policy with all of them.";
    /// CloudFormation could not make or change the stack.
    StackFailed = "Stack.Failed", retry: false,
        "Read the cause. CloudFormation has gone back to what was deployed before. A stack with the status ROLLBACK_COMPLETE has nothing in it: delete it, then deploy again.";
    /// The user stopped the run.
    RunInterrupted = "Run.Interrupted", retry: false,
        "Run the same command again. Finished work is reused.";
    /// An invariant of the program does not hold.
    InternalBug = "Internal.Bug", retry: false,
        "Please report this with the message.";
}

impl ErrorKind {
    /// Whether the credentials are the reason, so that each other request would fail in the same way.
    pub fn of_credentials(self) -> bool {
        matches!(self, ErrorKind::CredentialsMissing | ErrorKind::CredentialsExpired | ErrorKind::CredentialsInvalid)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error: kind, message, context (pairs such as `path: photos/1.jpg`) and source.
///
/// Its `Display` form is one line: `message (key: value, key: value): source [request]`. Names in it come from users, so
/// invisible characters are escaped.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    source: Option<Source>,
    /// Identifies the request that failed, for the support of a service.
    request: Option<String>,
}

impl Error {
    /// An error without context or source. The message starts with a lower-case letter and has no full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), context: Vec::new(), source: None, request: None }))
    }

    /// Adds a pair that locates the error, such as `path` and a file name. Pairs are printed in the order of the calls.
    pub fn context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// The value of this name in the context.
    pub(crate) fn context_value(&self, name: &str) -> Option<&str> {
        self.0.context.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// Sets the error that caused this one.
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Sets the id of the request that failed, if there is one.
    pub fn request(mut self, id: Option<&str>) -> Self {
        self.0.request = id.map(str::to_owned);
        self
    }

    /// The error without what differs from one request to the next. Tables have this text, so that a run that meets the same
    /// error again makes the same bytes.
    pub fn without_request(mut self) -> Self {
        self.0.request = None;
        self
    }

    /// The kind, for callers that treat some errors differently.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the error is of this kind.
    pub fn is(&self, kind: ErrorKind) -> bool {
        self.0.kind == kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape_invisible(&self.0.message))?;
        for (i, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}: {}", if i == 0 { " (" } else { ", " }, escape_invisible(value))?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {}", escape_invisible(&source.to_string()))?;
        }
        if let Some(request) = &self.0.request {
            write!(f, " [request {}]", escape_invisible(request))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as _)
    }
}

/// The text with escapes such as `\u{202e}` for characters that a reader does not see: control characters, which can move
/// the cursor of a terminal, and those that are invisible or change the direction of the text around them.
///
/// ```
/// assert_eq!(pomona::escape_invisible("a\u{202e}gpj.b\n"), "a\\u{202e}gpj.b\\n");
/// ```
pub fn escape_invisible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_invisible) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_invisible(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
            // Zero-width characters, marks of direction, separators of lines and paragraphs.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
            // Tags, a copy of ASCII that is not displayed.
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_request_is_shown_and_can_be_left_out() {
        let failed = |id: &str| {
            let error = Error::new(ErrorKind::StoreArchived, "the object is archived").context("location", "s3://b/k");
            error.source("InvalidObjectState: it is archived").request(Some(id))
        };
        let text = "the object is archived (location: s3://b/k): InvalidObjectState: it is archived";
        assert_eq!(failed("4442587FB7D0A2F9").to_string(), format!("{text} [request 4442587FB7D0A2F9]"));
        assert_eq!(failed("1").without_request().to_string(), text);
    }

    #[test]
    fn invisible_characters_are_escaped_and_all_others_stay() {
        let ranges = [
            0x00..=0x1f,
            0x7f..=0x9f,
            0xad..=0xad,
            0x61c..=0x61c,
            0x180e..=0x180e,
            0x200b..=0x200f,
            0x2028..=0x202e,
            0x2060..=0x2069,
            0xfeff..=0xfeff,
            0xe0000..=0xe007f,
        ];
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let shown = escape_invisible(c.encode_utf8(&mut [0; 4])).into_owned();
            if ranges.iter().any(|range| range.contains(&u32::from(c))) {
                assert!(shown.starts_with('\\') && shown.is_ascii(), "{shown:?}");
            } else {
                assert_eq!(shown, c.to_string());
            }
        }
        assert_eq!(escape_invisible("a\u{202e}b\u{1b}[31m\n\tÄ 苹果 🍎"), "a\\u{202e}b\\u{1b}[31m\\n\\tÄ 苹果 🍎");
    }

    #[test]
    fn an_error_is_one_line_without_invisible_characters() {
        let error = Error::new(ErrorKind::StoreFailed, "no\nfile")
            .context("path", "a\u{202e}gpj.b\u{1b}[2J")
            .source("first\nsecond\u{200b}");
        assert_eq!(error.to_string(), "no\\nfile (path: a\\u{202e}gpj.b\\u{1b}[2J): first\\nsecond\\u{200b}");
        // The escapes are not escaped again.
        let outer = Error::new(ErrorKind::InternalBug, "outer").source(error);
        assert!(outer.to_string().ends_with("second\\u{200b}"), "{outer}");
    }

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

    /// Names, advice and retries of the table "What to do for each error".
    #[test]
    fn the_table_in_the_documentation_lists_every_kind_with_its_advice() {
        let rows: Vec<Vec<&str>> = include_str!("../docs/operations.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"))
            .map(|row| row.splitn(2, "` | ").flat_map(|part| part.rsplitn(2, " | ").collect::<Vec<_>>()).collect())
            .collect();
        for (kind, row) in ErrorKind::ALL.iter().zip(&rows) {
            let retried = if kind.retryable() { "8 times" } else { "no" };
            assert_eq!(row[..2], [kind.name(), retried]);
            // Within the page, the table links to its own sections.
            if !kind.advice().contains("docs/operations.md") {
                assert_eq!(row[2], kind.advice(), "{kind}");
            }
        }
        // The last rows are errors of Lambda and Step Functions.
        let others: Vec<&str> = rows[ErrorKind::ALL.len()..].iter().map(|row| row[0]).collect();
        let named = "States.ExceedToleratedFailureThreshold, Runtime.ExitError, Sandbox.Timedout`, `States.Timeout, \
                     Lambda.TooManyRequestsException";
        assert_eq!(others.join(", "), named);
    }
}
