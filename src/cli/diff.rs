//! `pomona diff`

use pomona::{Result, dataset, store, versions::diff};
use serde::Serialize;

use crate::{args::DiffArgs, format, print_json};

#[derive(Serialize)]
struct Json<'a> {
    from: u64,
    to: u64,
    explained_variance_ratio: [&'a [f64]; 2],
    #[serde(flatten)]
    diff: &'a diff::Diff,
}

pub(crate) async fn diff(args: DiffArgs) -> Result<()> {
    let store = store::open(&args.output).await?;
    dataset::expect_output(store.as_ref()).await?;
    let from = dataset::version(store.as_ref(), Some(args.from)).await?;
    let to = dataset::version(store.as_ref(), Some(args.to)).await?;
    let diff = diff::diff(store.as_ref(), &from, &to).await?;
    let ratios = [from.basis.explained_variance_ratio.as_slice(), to.basis.explained_variance_ratio.as_slice()];
    if args.json {
        return print_json(&Json { from: args.from, to: args.to, explained_variance_ratio: ratios, diff: &diff });
    }
    println!("Images, from version {} to version {}", args.from, args.to);
    for (name, sign, keys) in
        [("added", '+', &diff.added), ("changed", '~', &diff.changed), ("removed", '-', &diff.removed)]
    {
        println!("  {} {name}", format::count(keys.len() as u64));
        for key in keys.iter().take(args.rows) {
            println!("    {sign} {}", format::shorten(key, 100));
        }
        if keys.len() > args.rows {
            println!("    … and {} more; --json lists all", format::count((keys.len() - args.rows) as u64));
        }
    }
    let mut rows = vec![vec![String::new(), format!("version {}", args.from), format!("version {}", args.to)]];
    rows.push(vec!["images".to_owned(), format::count(from.images), format::count(to.images)]);
    rows.push(vec!["components".to_owned(), ratios[0].len().to_string(), ratios[1].len().to_string()]);
    let together = |share: &[f64]| format::percent(share.iter().sum());
    rows.push(vec!["explained together".to_owned(), together(ratios[0]), together(ratios[1])]);
    for i in 0..args.rows.min(ratios[0].len().max(ratios[1].len())) {
        let share = |of: &[f64]| of.get(i).map_or(String::new(), |share| format::percent(*share));
        rows.push(vec![format!("pc_{i}"), share(ratios[0]), share(ratios[1])]);
    }
    print!("\nExplained variance\n{}", format::table(&rows, 1));
    println!("\nAngle between the subspaces");
    match diff.angles.as_deref() {
        None => println!("  none: the features are those of different models"),
        Some(angles) => {
            let largest = angles.last().copied().unwrap_or(0.0);
            let mean = angles.iter().sum::<f64>() / angles.len().max(1) as f64;
            println!("  {largest:.2} degrees at most, {mean:.2} on average, over {} directions", angles.len());
        }
    }
    Ok(())
}
