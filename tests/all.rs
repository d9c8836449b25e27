//! The tests that can share a process, as one crate: each crate of tests compiles the code of a whole run again, half a minute for
//! each file. Those that measure the memory of their process, or need other features, have crates of their own (Cargo.toml).
//!
//! `cargo test --release --test all pipeline` runs one file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

#[path = "common/asking.rs"]
mod asking;
mod common;
#[path = "common/packs.rs"]
mod packs;

#[path = "architecture.rs"]
mod architecture;
#[path = "archives.rs"]
mod archives;
#[path = "attacks.rs"]
mod attacks;
#[path = "by_stage.rs"]
mod by_stage;
#[path = "bytes.rs"]
mod bytes;
#[path = "check.rs"]
mod check;
#[path = "classifier.rs"]
mod classifier;
#[path = "cli.rs"]
mod cli;
#[path = "damage.rs"]
mod damage;
#[path = "delta.rs"]
mod delta;
#[path = "duplicates.rs"]
mod duplicates;
#[path = "extractors.rs"]
mod extractors;
#[path = "hostile_archives.rs"]
mod hostile_archives;
#[path = "incremental.rs"]
mod incremental;
#[path = "inventories.rs"]
mod inventories;
#[path = "kills.rs"]
mod kills;
#[path = "labels.rs"]
mod labels;
#[path = "listing.rs"]
mod listing;
#[path = "messages.rs"]
mod messages;
#[path = "newest_report.rs"]
mod newest_report;
#[path = "parity.rs"]
mod parity;
#[path = "pipeline.rs"]
mod pipeline;
#[path = "predictions.rs"]
mod predictions;
#[path = "races.rs"]
mod races;
#[path = "refusals.rs"]
mod refusals;
#[path = "rejects.rs"]
mod rejects;
#[path = "released.rs"]
mod released;
#[path = "report.rs"]
mod report;
#[path = "requests.rs"]
mod requests;
#[path = "search.rs"]
mod search;
#[path = "serve.rs"]
mod serve;
#[path = "serve_page.rs"]
mod serve_page;
#[path = "serve_program.rs"]
mod serve_program;
#[path = "soak.rs"]
mod soak;
#[path = "store.rs"]
mod store;
#[path = "trees.rs"]
mod trees;
#[path = "upgrade.rs"]
mod upgrade;
#[path = "versions.rs"]
mod versions;
