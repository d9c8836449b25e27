//! `pomona watch`

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{Error, ErrorKind, Result, escape_invisible, stages::CancellationToken};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    args::WatchArgs,
    out::note,
    report,
    run::{Runner, listen},
};

/// A run starts after this many debounce times, even if changes keep coming.
const PATIENCE: u32 = 10;

pub(crate) async fn watch(args: WatchArgs) -> Result<()> {
    let images = args.images.to_string_lossy().into_owned();
    if images.contains("://") {
        let message = "only folders can be watched; for a bucket, let uploads start runs (docs/deploy.md)";
        return Err(Error::new(ErrorKind::InputInvalid, message).context("input", images));
    }
    let runner = Runner::new((&images, None), &args.output, &args.options).await?;
    let stop = CancellationToken::new();
    listen(stop.clone());
    let (_watcher, mut changes) = subscribe(&args.images)?;
    let debounce = Duration::from_secs_f64(args.debounce);
    loop {
        match runner.run(Instant::now(), &stop).await {
            Err(e) if e.is(ErrorKind::RunInterrupted) => return Err(e),
            Err(e) => report(&e),
            Ok(()) => {}
        }
        note(&format!("watching {}; press Ctrl-C to stop", escape_invisible(&images)));
        if wait(&mut changes, debounce, &stop).await == Wake::Stopped {
            return Ok(());
        }
    }
}

/// A message for each change below a folder, as long as the watcher lives.
fn subscribe(folder: &Path) -> Result<(RecommendedWatcher, UnboundedReceiver<()>)> {
    let failed = |e: notify::Error| {
        Error::new(ErrorKind::StoreFailed, "the folder cannot be watched").context("input", folder.display()).source(e)
    };
    let (sender, changes) = unbounded_channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error means that events were lost, so it counts as a change.
        if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
            let _ = sender.send(());
        }
    })
    .map_err(failed)?;
    watcher.watch(folder, RecursiveMode::Recursive).map_err(failed)?;
    Ok((watcher, changes))
}

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Changed,
    Stopped,
}

/// Waits for a change, and then until there has been none for a debounce time.
async fn wait(changes: &mut UnboundedReceiver<()>, debounce: Duration, stop: &CancellationToken) -> Wake {
    tokio::select! {
        change = changes.recv() => {
            if change.is_none() {
                return Wake::Stopped;
            }
        }
        () = stop.cancelled() => return Wake::Stopped,
    }
    let first = Instant::now();
    while first.elapsed() < debounce * PATIENCE {
        match tokio::time::timeout(debounce, changes.recv()).await {
            Ok(Some(())) => {}
            Ok(None) => return Wake::Stopped,
            Err(_) => break,
        }
    }
    if stop.is_cancelled() { Wake::Stopped } else { Wake::Changed }
}
