//! `pomona descriptors`

use super::{FormatOptions, values};

/// Write a table of ORB keypoints and descriptors of images
///
/// Corners (FAST-9) that are ranked by Harris' measure in a pyramid of the image, their orientation, and the 256 bits that
/// describe what is around them, as OpenCV's ORB computes them with the same options. The table has the columns path, x, y,
/// octave, angle, response and descriptor (32 bytes). It is no part of a data set: `pomona run --extractor orb` makes features
/// of such descriptors, and keeps them beside the features with --keep-keypoints.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona descriptors photos/ descriptors/
  pomona descriptors s3://bucket/photos/ s3://bucket/descriptors/ --keypoints 1000
  python -c 'import pandas as pd; print(pd.read_parquet(\"descriptors/\"))'")]
pub(crate) struct DescriptorsArgs {
    /// Folder or s3://BUCKET/PREFIX/ with the images
    pub images: String,
    /// Folder or s3://BUCKET/PREFIX/ for the table, empty or new, and not inside of an output
    pub output: String,
    /// Most keypoints of an image
    #[arg(long, value_name = "N", default_value = "500", value_parser = values::keypoints)]
    pub keypoints: usize,
    /// How much smaller each level of the pyramid is than the one before it
    #[arg(long, value_name = "FACTOR", default_value = "1.2", value_parser = values::scale)]
    pub scale: f64,
    /// Levels of the pyramid
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub levels: u8,
    /// Pixels of a level between its border and any keypoint, at least 4
    #[arg(long, value_name = "PIXELS", default_value = "31", value_parser = values::border)]
    pub border: usize,
    /// How much brighter or darker than a corner the pixels around it are
    #[arg(long, value_name = "LEVELS", default_value = "20", value_parser = clap::value_parser!(u8).range(1..))]
    pub threshold: u8,
    #[command(flatten)]
    pub format: FormatOptions,
}
