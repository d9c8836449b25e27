//! What is done to finished versions: comparing two, deleting old ones, erasing images from all of them.

pub mod diff;
pub mod erase;
pub mod vacuum;
