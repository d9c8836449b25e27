//! `pomona serve`

use std::{io, net::Ipv4Addr, time::Duration};

use crate::{
    Error, ErrorKind, Result,
    model::ExtractorInfo,
    serve::{self, Current, Limits},
};
use bytes::Bytes;
use futures::FutureExt;
use tokio::net::TcpListener;

use super::{
    args::ServeArgs,
    format,
    local_model::{self, LocalModel},
    open,
    out::{note, out},
    run,
};

/// How long answers may take that were begun before the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Most bytes of the search index of a bucket that are copied to a temporary file: about 250,000 images.
const INDEX_COPY: u64 = 1 << 30;

pub(crate) async fn serve(args: ServeArgs) -> Result<()> {
    let output = open::output(&args.output).await?;
    let (model, engine) = (local_model::optional(args.model.as_deref()).await?, args.engine);
    let workers = move |info: &ExtractorInfo, kept: Option<Bytes>| {
        run::workers_for(model.as_ref().map(LocalModel::path), engine, None, (info, kept))
    };
    let current = Current::new(output, args.version, Box::new(workers), INDEX_COPY);
    let version = current.opened().await?.version().version;
    let (listener, port) = bind(args.port.unwrap_or(0)).await?;
    let router = serve::local(current, Limits::default(), port);
    // From the first poll on, a signal ends the server in good order: before anybody knows that it runs.
    let mut interrupted = Box::pin(run::interrupted());
    if interrupted.as_mut().now_or_never().is_some() {
        return Ok(());
    }
    let place = format::escape_invisible(&args.output);
    out(&format!("Version {} of {place} is at http://127.0.0.1:{port}/\n", version.0))?;
    note("press Ctrl-C to stop");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async {
        interrupted.await;
        drop(stop);
    });
    let overdue = async {
        let _ = stopped.await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        served = async { server.await } => served.map_err(|e| Error::new(ErrorKind::StoreFailed, "the server has failed").source(e)),
        () = overdue => Ok(()),
    }
}

/// Listens on a port of this computer, of which the loopback address is the only one that can be reached.
async fn bind(port: u16) -> Result<(TcpListener, u16)> {
    let failed = |e: io::Error| {
        let message = match e.kind() {
            io::ErrorKind::AddrInUse => "another program uses this port; choose another one, or none for a free one",
            io::ErrorKind::PermissionDenied => "this port needs more permissions; choose one above 1023",
            _ => "the port cannot be opened",
        };
        Error::new(ErrorKind::InputInvalid, message).context("port", port).source(e)
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    Ok((listener, port))
}
