//! `pomona vacuum`

use std::sync::atomic::{AtomicBool, Ordering};

use pomona::{
    Result,
    ids::Version,
    store::{self, Object},
    versions::vacuum::{self, Action, Policy},
};

use crate::{args::VacuumArgs, format, print_json, progress::Bars};

pub(crate) async fn vacuum(args: VacuumArgs) -> Result<()> {
    let store = store::open(&args.output).await?;
    let policy = Policy { keep_versions: args.keep_versions, older_than_days: args.older_than };
    let bars = Bars::new();
    bars.start("vacuum", None, None);
    let first = AtomicBool::new(true);
    let each = |object: &Object| {
        if args.verbose {
            // The spinner's line must not stand between the names.
            if first.swap(false, Ordering::Relaxed) {
                bars.clear();
            }
            eprintln!("{} {}", if args.dry_run { "would delete" } else { "delete" }, format::shorten(&object.key, 200));
        }
    };
    let action = if args.dry_run { Action::DryRun } else { Action::Delete };
    let outcome = vacuum::vacuum(store.as_ref(), policy, action, &each).await;
    bars.clear();
    let done = outcome?;
    if args.json {
        return print_json(&done);
    }
    let names = |versions: &[Version]| match versions {
        [] => "none".to_owned(),
        versions => versions.iter().map(|version| version.0.to_string()).collect::<Vec<_>>().join(", "),
    };
    println!("{}", if args.dry_run { "Nothing was deleted. It would be:" } else { "Deleted" });
    let rows = [
        vec!["versions".to_owned(), names(&done.removed)],
        vec!["files".to_owned(), format!("{}, {}", format::count(done.objects), format::bytes(done.bytes))],
        vec!["kept".to_owned(), format!("versions {}", names(&done.kept))],
    ];
    print!("{}", format::table(&rows, 2));
    Ok(())
}
