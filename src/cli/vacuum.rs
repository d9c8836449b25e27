//! `pomona vacuum`

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    Result,
    store::{self, Object},
    versions::vacuum::{self, Action, Policy, Vacuumed},
};

use super::{
    args::{Format, VacuumArgs},
    format,
    out::{note, out},
    print_json,
    progress::Bars,
};

/// Longest key that is printed whole, characters.
const KEY: usize = 200;

pub(crate) async fn vacuum(args: VacuumArgs) -> Result<()> {
    let store = store::open(&args.output).await?;
    let policy = Policy { keep_versions: args.keep_versions, older_than_days: args.older_than };
    let action = if args.dry_run { Action::DryRun } else { Action::Delete };
    let bars = Bars::new();
    bars.start("vacuum", None, None);
    let first = AtomicBool::new(true);
    let each = |object: &Object| {
        if args.verbose {
            // The spinner would overwrite the names.
            if first.swap(false, Ordering::Relaxed) {
                bars.clear();
            }
            note(&format!("{} {}", verb(action), format::shorten(&object.key, KEY)));
        }
    };
    let outcome = vacuum::vacuum(store.as_ref(), policy, action, args.locks.judge(), &each).await;
    bars.clear();
    let done = outcome?;
    match args.format.format() {
        Format::Json => print_json(&done),
        Format::Text => out(&text(&done, action)),
    }
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Delete => "delete",
        Action::DryRun => "would delete",
    }
}

fn text(done: &Vacuumed, action: Action) -> String {
    let headline = match action {
        Action::Delete => "Deleted:",
        Action::DryRun => "Nothing was deleted (dry run). A vacuum would delete:",
    };
    let rows = [
        format::row(["versions", &format::versions(&done.removed)]),
        format::row(["files", &format!("{}, {}", format::count(done.objects), format::bytes(done.bytes))]),
    ];
    format!("{headline}\n{}Kept versions: {}\n", format::table(&rows, 2), format::versions(&done.kept))
}
