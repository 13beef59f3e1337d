//! The listener for operators (`--admin ADDR`), apart from the one for clients.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;

use super::Sessions;
use super::exporter::Exporter;

/// Installs the exporter, if operators may be served at this address. There is nothing yet that tells operators from others.
pub(crate) fn exporter(address: SocketAddr) -> Result<Exporter, Box<dyn Error>> {
    if !address.ip().to_canonical().is_loopback() {
        return Err(
            format!("--admin is {address}: allow an address of this machine alone, such as 127.0.0.1:9000").into()
        );
    }
    Ok(Exporter::install()?)
}

/// What operators are offered.
fn router(sessions: &Arc<Sessions>, exporter: Exporter) -> Router {
    exporter.router(sessions)
}

/// Serves operators until it is dropped.
pub(crate) async fn serve(listener: TcpListener, sessions: Arc<Sessions>, exporter: Exporter) -> io::Result<()> {
    let app = router(&sessions, exporter.clone());
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
    tokio::select! {
        ended = server.into_future() => ended,
        () = exporter.upkeep() => Ok(()),
    }
}
