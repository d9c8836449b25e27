//! `pomona watch`

use std::time::{Duration, Instant};

use notify::{Event, EventKind, RecursiveMode, Watcher};
use pomona::{
    Error, ErrorKind, Result,
    stages::{CancellationToken, Stores},
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{args::WatchArgs, report, run};

/// Longest wait for a pause in the changes, in debounce times.
const PATIENCE: u32 = 10;

pub(crate) async fn watch(args: WatchArgs) -> Result<()> {
    let images = args.images.to_string_lossy().into_owned();
    if images.contains("://") {
        let message = "only folders can be watched; for a bucket, let uploads start runs (docs/deploy.md)";
        return Err(Error::new(ErrorKind::InputInvalid, message).context("input", images));
    }
    let stores = Stores::open(&images, &args.output).await?;
    let workers = run::workers(&args.options.engine)?;
    let stop = CancellationToken::new();
    run::listen(stop.clone());

    let (sender, mut changes) = unbounded_channel();
    let failed = |e: notify::Error| {
        Error::new(ErrorKind::StoreFailed, "the folder cannot be watched").context("input", &images).source(e)
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error means that events were lost: look again, as for an event.
        if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
            let _ = sender.send(());
        }
    })
    .map_err(failed)?;
    watcher.watch(&args.images, RecursiveMode::Recursive).map_err(failed)?;

    let debounce = Duration::from_secs_f64(args.debounce);
    loop {
        match run::once(&stores, &workers, &args.output, &args.options, &stop, Instant::now()).await {
            Err(e) if e.is(ErrorKind::RunInterrupted) => return Err(e),
            Err(e) => report(&e),
            Ok(()) => {}
        }
        eprintln!("watching {images}; Ctrl-C ends");
        if !pause(&mut changes, debounce, &stop).await {
            return Ok(());
        }
    }
}

/// Waits for a change, and then until there has been none for a while. False when watching ends.
async fn pause(changes: &mut UnboundedReceiver<()>, debounce: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        change = changes.recv() => {
            if change.is_none() {
                return false;
            }
        }
        () = stop.cancelled() => return false,
    }
    let first = Instant::now();
    while first.elapsed() < debounce * PATIENCE {
        match tokio::time::timeout(debounce, changes.recv()).await {
            Ok(Some(())) => {}
            Ok(None) => return false,
            Err(_) => break,
        }
    }
    !stop.is_cancelled()
}
