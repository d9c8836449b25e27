//! Commands that make versions: `run`, `watch` and `demo`.

use std::path::PathBuf;

use crate::{
    classify::Priors,
    dataset::{
        settings::{Mode, Refit, Settings},
        tables::Compression,
    },
    demo::DEFAULT_VIEWS,
    pca::ComponentSelection,
};

use super::{FormatOptions, engine::EngineOptions, values};

/// Compute features, PCA and tables for a folder or bucket of images
///
/// Every file below IMAGES is an image, except files and folders whose name starts with a dot. The folder that holds an
/// image is its label. Files that cannot be read as images become rows of the rejects table, each with a reason. The
/// images in .tar, .zip and .parquet files are images too: `photos.tar!apple/1.jpg` (docs/inputs.md).
///
/// A second run with the same OUTPUT is incremental: only new and changed images go through the model. It also continues
/// a run that was interrupted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona run fruits/ results/                     50 components
  pomona run fruits/ results/ --variance 0.9      as many as explain 90 %
  pomona run fruits/ results/ --csv --partition-by-label
  pomona run s3://bucket/fruits/ s3://bucket/results/")]
pub(crate) struct RunArgs {
    /// Folder or s3://bucket/prefix/ with images: JPEG, PNG, GIF, BMP, WebP, TIFF
    pub images: String,
    /// Folder or s3://bucket/prefix/ for the results; created if it does not exist
    pub output: String,
    /// Take the keys from an inventory instead of listing IMAGES: manifest.json of S3 Inventory, or Parquet or CSV files
    /// with columns for key, etag, size and last_modified_date (docs/inputs.md)
    #[arg(long, value_name = "LOCATION")]
    pub inventory: Option<String>,
    #[command(flatten)]
    pub options: RunOptions,
}

/// Options of every command that runs the whole pipeline.
#[derive(Debug, clap::Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub result: ResultOptions,
    #[command(flatten)]
    pub engine: EngineOptions,
    #[command(flatten)]
    pub output: FormatOptions,
}

/// What a run makes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Result options")]
pub(crate) struct ResultOptions {
    /// Keep K components [default: those of the last version; without one 50, or as many as the images allow]
    #[arg(short = 'k', long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "variance")]
    pub components: Option<u32>,
    /// Keep the fewest components that explain this share of the variance, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = values::share)]
    pub variance: Option<f64>,
    /// Divide the features by their standard deviations [default: as in the last version; without one, yes]
    #[arg(long, overrides_with = "no_standardize")]
    pub standardize: bool,
    /// Only centre the features; do not divide them by their standard deviations
    #[arg(long, overrides_with = "standardize")]
    pub no_standardize: bool,
    /// Write the scores into one folder per label (label=.../), as Spark's partitionBy does [default: as in the last version]
    #[arg(long, overrides_with = "no_partition_by_label")]
    pub partition_by_label: bool,
    /// Write the scores into one folder
    #[arg(long, overrides_with = "partition_by_label")]
    pub no_partition_by_label: bool,
    /// Also write the scores as CSV
    #[arg(long)]
    pub csv: bool,
    /// Write a CSV that is safe in a spreadsheet: paths and labels that would be run as formulas start with an apostrophe
    #[arg(long)]
    pub csv_for_spreadsheets: bool,
    /// Fail if more than this percentage of the images is rejected; unless it is 0, one reject is always allowed
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = values::percent)]
    pub max_reject_percent: f64,
    /// Target shard size, in images; a killed run repeats only its unfinished shards [default: that of the last version,
    /// or 1024]
    #[arg(long, value_name = "N")]
    pub shard_size: Option<u32>,
    /// How the tables of features and scores are compressed; zstd makes smaller files, snappy is read by more programs
    /// [default: that of the last version, or snappy]
    #[arg(long, value_enum, value_name = "HOW")]
    pub compression: Option<CompressionArg>,
    /// Copy the features into features/v=.../ of a bucket, instead of listing their tables there in symlink.txt; a folder
    /// has hard links, which cost no space
    #[arg(long)]
    pub materialize_features: bool,
    /// Also write a Delta log over the features (delta/), which Delta Lake's readers open, with all versions [default: as in the
    /// last version; without one, no]
    #[arg(long, overrides_with = "no_delta")]
    pub delta: bool,
    /// Write no Delta log
    #[arg(long, overrides_with = "delta")]
    pub no_delta: bool,
    /// When to fit the PCA
    #[arg(long, value_enum, default_value = "always", value_name = "WHEN")]
    pub refit: RefitArg,
    /// Accept a model that differs from that of the last version, which computes all features again; otherwise it is an
    /// error
    #[arg(long)]
    pub rebuild: bool,
    /// Largest distance of near-duplicates, in units of the features; 0 for images with equal features [default: that of
    /// the last version, or that of the built-in model; docs/duplicates.md]
    #[arg(long, value_name = "DISTANCE", value_parser = values::distance)]
    pub duplicate_distance: Option<f64>,
    /// Largest difference of near-duplicates in brightness and colour, in levels of 8 bits; it finds copies that were saved
    /// as JPEG again; 0 turns it off [default: that of the last version, or 0.42; docs/duplicates.md]
    #[arg(long, value_name = "LEVELS", value_parser = values::distance)]
    pub duplicate_levels: Option<f64>,
    /// Search near-duplicates among at most N images, and only the same bytes among more [default: that of the last
    /// version, or 5000000]
    #[arg(long, value_name = "N")]
    pub duplicate_images: Option<u64>,
    /// Make no search index, which takes about 4 KB per image; `pomona search` then reads all features
    #[arg(long)]
    pub no_index: bool,
    #[command(flatten)]
    pub labelling: LabelOptions,
    #[command(flatten)]
    pub learning: LearningOptions,
    #[command(flatten)]
    pub input: InputOptions,
}

/// How labels are learned. Without options, as in the last version.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Classifier options")]
pub(crate) struct LearningOptions {
    /// Make no classifier and no predictions
    #[arg(long)]
    pub no_classifier: bool,
    /// Do not learn images whose path matches this pattern, such as 'orchard-7/**'; '' for none
    #[arg(long, value_name = "GLOB")]
    pub holdout: Option<String>,
    /// Keep images in whose path this captures the same text in one fold of the cross-validation, such as views of one
    /// object: '(tree[0-9]+)_view'; '' for none
    #[arg(long, value_name = "REGEX")]
    pub fold_pattern: Option<String>,
    /// How frequent the classes are before an image is seen [default: counts]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub priors: Option<PriorsArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PriorsArg {
    /// As frequent as among the training images
    Counts,
    /// Equally frequent
    Equal,
}

impl PriorsArg {
    fn priors(self) -> Priors {
        match self {
            PriorsArg::Counts => Priors::Counts,
            PriorsArg::Equal => Priors::Equal,
        }
    }
}

/// What the images show. Without options, labels and splits are made as in the last version.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Labels and splits")]
pub(crate) struct LabelOptions {
    /// Which folder is the label: 0 is the one that holds the image, 1 the one above [default: 0]
    #[arg(long, value_name = "N", conflicts_with = "label_pattern", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub label_depth: Option<u32>,
    /// What this regular expression captures in the path is the label: '(?<label>[a-z]+)_[0-9]+[.]jpg$'
    #[arg(long, value_name = "REGEX")]
    pub label_pattern: Option<String>,
    /// CSV file with columns path and label, and perhaps split; a path or s3://bucket/key. Other images keep the label of
    /// their folder or pattern
    #[arg(long, value_name = "FILE")]
    pub labels: Option<String>,
    /// What this regular expression captures is the split: '/(?<split>a|b)/' [default: folders such as train, Test,
    /// validation]
    #[arg(long, value_name = "REGEX")]
    pub split_pattern: Option<String>,
}

/// What has happened to the input since the last version.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct InputOptions {
    /// Accept an input that is not that of the last version, such as a folder that was moved to another disk
    #[arg(long)]
    pub input_moved: bool,
    /// Accept that more than half of at least 100 images are gone; otherwise that is an error
    #[arg(long)]
    pub accept_deletions: bool,
    /// Compute all features again if this release gives others than the one that made the last version
    #[arg(long)]
    pub upgrade: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CompressionArg {
    /// Snappy, which every reader of Parquet knows
    Snappy,
    /// Zstandard, after the bytes of numbers are sorted by significance
    Zstd,
}

impl CompressionArg {
    fn compression(self) -> Compression {
        match self {
            CompressionArg::Snappy => Compression::Snappy,
            CompressionArg::Zstd => Compression::Zstd,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RefitArg {
    /// Fit to all images whenever a run finds a change
    Always,
    /// Keep the basis of the last version; project only new and changed shards
    Never,
}

impl InputOptions {
    /// A run that lists the whole input.
    pub(crate) fn mode(self) -> Mode {
        let InputOptions { input_moved, accept_deletions, upgrade } = self;
        Mode { upgrade, input_moved, accept_deletions, ..Mode::default() }
    }
}

impl ResultOptions {
    pub(crate) fn mode(&self) -> Mode {
        let refit = match self.refit {
            RefitArg::Always => Refit::Always,
            RefitArg::Never => Refit::Never,
        };
        Mode { refit, rebuild: self.rebuild, ..self.input.mode() }
    }

    pub(crate) fn settings(&self) -> Settings {
        let components = self.components.map(|k| ComponentSelection::Components(k as usize));
        Settings {
            pca: components.or(self.variance.map(ComponentSelection::Variance)),
            standardize: chosen(self.standardize, self.no_standardize),
            partition_by_label: chosen(self.partition_by_label, self.no_partition_by_label),
            csv: self.csv || self.csv_for_spreadsheets,
            csv_for_spreadsheets: self.csv_for_spreadsheets,
            max_reject_percent: self.max_reject_percent,
            shard_size: self.shard_size,
            group_size: None,
            compression: self.compression.map(CompressionArg::compression),
            materialize_features: self.materialize_features,
            delta: chosen(self.delta, self.no_delta),
            classifier: !self.learning.no_classifier,
            index: !self.no_index,
            priors: self.learning.priors.map(PriorsArg::priors),
            fold_pattern: self.learning.fold_pattern.clone(),
            holdout: self.learning.holdout.clone(),
            label_depth: self.labelling.label_depth,
            label_pattern: self.labelling.label_pattern.clone(),
            labels: None,
            split_pattern: self.labelling.split_pattern.clone(),
            duplicate_distance: self.duplicate_distance,
            duplicate_levels: self.duplicate_levels,
            duplicate_images: self.duplicate_images,
        }
    }
}

/// Run again whenever images in a folder change
///
/// Runs once, then waits for changes below IMAGES and runs again when none has come for the debounce time. Failed runs
/// are reported; watching continues. Press Ctrl-C to stop. For a bucket, let its upload events start runs:
/// docs/deploy.md.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona watch photos/ results/
  pomona watch photos/ s3://bucket/results/ --debounce 60")]
pub(crate) struct WatchArgs {
    /// Folder with images
    pub images: PathBuf,
    /// Folder or s3://bucket/prefix/ for the results
    pub output: String,
    /// Seconds without a change before a run starts; if changes keep coming, it starts after ten times as long
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = values::seconds)]
    pub debounce: f64,
    #[command(flatten)]
    pub options: RunOptions,
}

/// Render a small data set of fruit pictures and run on it
///
/// Writes DIR/images (14 varieties, one folder each, 100 x 100 JPEGs, the same bytes on every machine) and runs the
/// pipeline on them into DIR/results. Downloads nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona demo
  pomona demo fruit/ --views 100 --images-only    1400 pictures, no run")]
pub(crate) struct DemoArgs {
    /// Folder for pictures and results
    #[arg(default_value = "pomona-demo")]
    pub dir: PathBuf,
    /// Pictures per variety
    #[arg(long, value_name = "N", default_value_t = DEFAULT_VIEWS, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub views: u32,
    /// Only render the pictures
    #[arg(long)]
    pub images_only: bool,
    #[command(flatten)]
    pub options: RunOptions,
}

/// What one of two options says; None if neither is given.
fn chosen(yes: bool, no: bool) -> Option<bool> {
    (yes || no).then_some(yes)
}
