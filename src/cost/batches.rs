//! How many shards one call of a function works on.
//!
//! A map starts about 100 children a second, and each child is billed as a state transition. With a call per shard, starting
//! them would decide how long a large run takes. So a line of its work lists stands for several shards: as many as fill a
//! minute, but few enough that no function is idle at the end.

/// Lists with fewer lines are in the smallest batches: their children start in seconds.
const FROM: u64 = 2_000;
/// Batches per function that runs at the same time, at least.
const ROUNDS: u64 = 4;
/// Images of a batch of `featurize`, at most: 45 s at 22 ms per image.
const IMAGES: u64 = 2_048;
/// Rows of a batch of `project`, at most: about 40 s.
const ROWS: u64 = 65_536;
/// Rows of a batch of `project`, at least: below a second. To start a child and to bill it costs more than these rows.
const FEW_ROWS: u64 = 1_280;
/// Images of a group above which its sums and its segment of the search index are the work of two functions. For fewer, a second
/// call costs more than it saves.
pub const APART: u64 = 4_096;

/// The size of batches between the `least` and the `most`.
fn size(lines: u64, (least, most): (u64, u64), concurrency: u32) -> u64 {
    let idle_free = lines / (ROUNDS * u64::from(concurrency.max(1)));
    let least = least.max(1);
    if lines < FROM { least } else { idle_free.clamp(least, most.max(least)) }
}

/// Shards per call of `featurize`, for this many shards of `shard_size` images.
pub fn of_featurize(shards: u64, shard_size: u32, concurrency: u32) -> u64 {
    size(shards, (1, IMAGES / u64::from(shard_size.max(1))), concurrency)
}

/// Parts per call of `project`, for this many parts of `shard_size` rows.
pub fn of_project(parts: u64, shard_size: u32, concurrency: u32) -> u64 {
    let of = |rows: u64| rows / u64::from(shard_size.max(1));
    size(parts, (of(FEW_ROWS), of(ROWS)), concurrency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_last_a_minute_at_most_and_leave_no_function_idle() {
        // Small runs have a call per shard, or per 1,280 rows that are projected.
        assert_eq!((of_featurize(89, 256, 8), of_project(1_999, 256, 8), of_project(23, 1_024, 8)), (1, 5, 1));
        // Four million images: batches of 2,048 images, or fewer if a thousand functions share them.
        assert_eq!((of_featurize(15_625, 256, 8), of_featurize(15_625, 256, 1_000)), (8, 3));
        assert_eq!((of_project(15_625, 256, 8), of_project(15_625, 256, 1_000)), (256, 5));
        // A shard that takes a minute is a batch of its own.
        assert_eq!((of_featurize(1_000_000, 4_096, 100), of_featurize(5_000, 256, 0)), (1, 8));
    }
}
