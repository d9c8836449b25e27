//! Commands that read, check or delete finished versions: `show`, `log`, `diff`, `check`, `vacuum` and `erase`.

use std::path::PathBuf;

use crate::{aws::executions::RunningExecutions, dataset::lease::Judge};

use super::{EngineOptions, FormatOptions, InputOptions};

/// Print the contents of a version
///
/// Prints a list of all versions, then the settings, images per label, explained variance, first rows and rejects of one
/// version. With --json, prints the manifest of that version.
///
/// With --open, prints where the report is instead, and opens it in the browser. Of a bucket, it is downloaded to the folder
/// for temporary files; nobody deletes it there.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona show results/
  pomona show results/ --open
  pomona show s3://bucket/results/ --version 3 -n 20")]
pub(crate) struct ShowArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// Version to print [default: the newest]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// Open the report in the browser; without --version, that of the newest version that has one
    #[arg(long, conflicts_with = "json")]
    pub open: bool,
    /// Rows to print of each table; at least 20 labels and 10 components are printed
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub rows: usize,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// List the versions of an output
///
/// Prints when each version was published, how its images differ from the version before, how many of them were reused
/// without inference, and how long the run took.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona log results/
  pomona log s3://bucket/results/ --json")]
pub(crate) struct LogArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Compare two versions
///
/// Prints the images that were added, changed and removed, the explained variance of both versions, and the principal
/// angles between the subspaces that their components span. 0 degrees: both span the same subspace. 90 degrees: one has a
/// direction that is orthogonal to all directions of the other. Scores of two versions are comparable if the angles are
/// small.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona diff results/ 1 2
  pomona diff s3://bucket/results/ 1 2 --json     all keys, all angles")]
pub(crate) struct DiffArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// Number of the older version [default: the last but one]
    pub from: Option<u64>,
    /// Number of the newer version [default: the newest]
    pub to: Option<u64>,
    /// Keys and components to print
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub rows: usize,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// What to do about the locks of others.
#[derive(Debug, clap::Args)]
pub(crate) struct LockOptions {
    /// Ignore the marks of runs and vacuums that may be dead, such as those of a lost machine; never those of a process
    /// that certainly lives. Without this option, an error says whose they are
    #[arg(long)]
    pub break_lock: bool,
}

impl LockOptions {
    pub(crate) fn judge(&self) -> Judge<'static> {
        Judge { executions: Some(&RunningExecutions), break_locks: self.break_lock }
    }
}

/// Check every file of an output, and make damaged files again
///
/// Compares each file of all versions with its checksum, then computes ids, sums, basis, scores and CSV again from the
/// features and compares them with what is stored. Prints one line per damaged file, what it is made again from, and which
/// versions it belongs to. Reads only, unless --repair is given. A folder and a bucket are checked in the same way.
///
/// --repair makes damaged files again from the others; features of the newest version also from the images. It writes only
/// files with exactly the content on record, and deletes nothing but the marks of dead runs.
///
/// Exit code 0: nothing is damaged, or all that was is repaired. Files that no version needs, marks and unknown files are
/// printed, and are no damage.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona check results/
  pomona check results/ --repair
  pomona check s3://bucket/results/ --fast --json")]
pub(crate) struct CheckArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// Make damaged files again
    #[arg(long)]
    pub repair: bool,
    /// Compare files with their checksums only, and compute nothing again
    #[arg(long)]
    pub fast: bool,
    /// Folder or s3://bucket/prefix/ with the images, for --repair [default: the input of the newest version]
    #[arg(long, value_name = "IMAGES")]
    pub input: Option<String>,
    #[command(flatten)]
    pub input_options: InputOptions,
    #[command(flatten)]
    pub locks: LockOptions,
    #[command(flatten)]
    pub engine: EngineOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Delete old versions and files that no version needs
///
/// Files of kept versions and of running runs stay. A vacuum does not start during a run, and a run not during a vacuum.
/// A bucket with versioning keeps deleted objects until its lifecycle rule removes them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona vacuum results/ --dry-run
  pomona vacuum s3://bucket/results/ --keep-versions 5 --older-than 30")]
pub(crate) struct VacuumArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// Newest versions to keep, whatever their age; at least 1
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub keep_versions: usize,
    /// Also keep versions, and files of interrupted runs, that are younger than this
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    pub older_than: u32,
    /// Delete nothing; only print what would be deleted
    #[arg(long)]
    pub dry_run: bool,
    /// Print the name of every deleted file to standard error
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub locks: LockOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Remove images from all versions of an output (GDPR, article 17)
///
/// First delete the images from the input. This command then makes a version without them, deletes every version that
/// holds one of them together with the records of its run, and deletes all unfinished work. The new version equals that of
/// a data set that never had them. At the end, every byte of every file of the output is searched for the paths and the
/// features of the images.
///
/// Prints a record that names every deleted file and every file that was searched.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona erase results/ people/jane.jpg --dry-run
  pomona erase results/ people/jane.jpg
  pomona erase results/ --from-file requests.txt
  pomona erase s3://bucket/results/ people/jane.jpg people/john.jpg --json")]
pub(crate) struct EraseArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// Paths of the images, relative to the input, as in the column `path` of the tables
    #[arg(required_unless_present = "from_file")]
    pub keys: Vec<String>,
    /// File with paths of images, one per line; - for standard input
    #[arg(long, value_name = "FILE")]
    pub from_file: Option<PathBuf>,
    /// Folder or s3://bucket/prefix/ with the images [default: the input of the newest version]
    #[arg(long, value_name = "IMAGES")]
    pub input: Option<String>,
    /// Delete nothing; only print which versions and files hold the images
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub input_options: InputOptions,
    #[command(flatten)]
    pub locks: LockOptions,
    #[command(flatten)]
    pub engine: EngineOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}
