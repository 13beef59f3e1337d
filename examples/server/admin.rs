//! The listener for operators (`--admin ADDR`), apart from the one for clients.

use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;

use super::Sessions;
use super::exporter::Exporter;

/// The longest file with a token, in bytes.
const LONGEST_TOKEN: u64 = 4_096;

#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Address for operators: their page, its API, and /metrics in Prometheus' text format; port 0 picks a free one. Beyond
    /// this machine it needs --admin-token-file
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<SocketAddr>,
    /// File with the token that operators have to send, at least 16 characters
    #[arg(long, value_name = "FILE", requires = "admin")]
    admin_token_file: Option<PathBuf>,
    /// A host under which operators may ask for the page, besides the address; may be given more than once
    #[arg(long, value_name = "HOST", requires = "admin")]
    admin_host: Vec<String>,
    /// Let operators terminate sessions and drain the server
    #[arg(long, requires = "admin")]
    admin_actions: bool,
}

impl Flags {
    /// Installs the exporter, if operators are served, and may be at this address.
    pub(crate) fn exporter(&self) -> Result<Option<Exporter>, Box<dyn Error>> {
        let Some(address) = self.admin else { return Ok(None) };
        if !address.ip().to_canonical().is_loopback() && self.admin_token_file.is_none() {
            let remedy = "allow an address of this machine alone, such as 127.0.0.1:9000, or give --admin-token-file";
            return Err(format!("--admin is {address}: {remedy}").into());
        }
        Ok(Some(Exporter::install()?))
    }

    /// What operators are offered, with the exporter that is a part of it.
    pub(crate) fn router(
        &self,
        sessions: &Arc<Sessions>,
        exporter: Exporter,
    ) -> Result<(Router, Exporter), Box<dyn Error>> {
        let address = self.admin.map(|address| address.ip()).filter(|address| !address.is_unspecified());
        let hosts = self.admin_host.iter().cloned().chain(address.map(|address| address.to_string()));
        let page = sessions.admin().actions(self.admin_actions).hosts(hosts);
        let page = page.beside(exporter.clone().router(sessions));
        let page = match &self.admin_token_file {
            Some(file) => page.token(token(file).map_err(|error| format!("--admin-token-file: {error}"))?),
            None => page,
        };
        Ok((page.build()?, exporter))
    }
}

fn token(file: &Path) -> io::Result<String> {
    if fs::metadata(file)?.len() > LONGEST_TOKEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than 4,096 bytes"));
    }
    Ok(fs::read_to_string(file)?.trim().to_owned())
}

/// Serves operators until it is dropped.
pub(crate) async fn serve(listener: TcpListener, app: Router, exporter: Exporter) -> io::Result<()> {
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
    tokio::select! {
        ended = server.into_future() => ended,
        () = exporter.upkeep() => Ok(()),
    }
}
