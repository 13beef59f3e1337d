//! A real MCP server whose sessions are governed by policies.
//!
//! ```sh
//! cargo run --release -p rmcp-session-policy-examples --example server -- --max-sessions 100 --per-client-rate 20/60
//! ```

#[path = "server/admin.rs"]
mod admin;
#[path = "server/config.rs"]
mod config;
#[path = "server/exporter.rs"]
mod exporter;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use clap::{CommandFactory, Parser};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, Arrival, ArrivalKind, Open, SlidingWindow};
use rmcp_session_policy::eviction::{Fifo, Lfu, Lru, Prospects};
use rmcp_session_policy::http::PolicyLayer;
use rmcp_session_policy::{CloseReason, ConfigError, LiveSettings, PolicySessionManager, RejectionReason, SECOND};
use rmcp_session_policy_examples::{Count, Tools};
use rmcp_session_policy_sqlite::SqliteDirectory;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use self::exporter::Exporter;

pub(crate) type Sessions = PolicySessionManager<LocalSessionManager>;

/// An MCP server with the tools echo, sleep, count, notify and close, whose sessions are bounded by policies.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Take flags from this TOML file, by their long names; it is read again on SIGHUP. Typed flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Most sessions at one time
    #[arg(long, default_value_t = 1_000)]
    max_sessions: usize,
    /// The order in which sessions are evicted when the server is full
    #[arg(long, value_enum, default_value = "default")]
    eviction: Eviction,
    /// Most new sessions in any window, as in 600/60
    #[arg(long, value_name = "N/SECS")]
    rate: Option<Rate>,
    /// Most new sessions of one client in any window
    #[arg(long, value_name = "N/SECS")]
    per_client_rate: Option<Rate>,
    /// Close a session not heard of for so long
    #[arg(long, value_name = "SECS", default_value_t = 1_800)]
    idle_timeout: u64,
    /// Close a session so long after it was opened
    #[arg(long, value_name = "SECS")]
    max_lifetime: Option<u64>,
    /// Close a session whose handshake takes longer
    #[arg(long, value_name = "SECS", default_value_t = 30)]
    init_timeout: u64,
    /// Most sessions that are parked, to come back with their next request; 0 parks none
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    parked: usize,
    /// Keep sessions in this file, so that they outlive the process; without it a restart ends them
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Most requests within one session in any window
    #[arg(long, value_name = "N/SECS")]
    request_rate: Option<Rate>,
    /// Most requests of one client without a session (protocol 2026-07-28) in any window
    #[arg(long, value_name = "N/SECS")]
    sessionless_rate: Option<Rate>,
    /// Once told to stop, refuse newcomers and serve sessions on for so long
    #[arg(long, value_name = "SECS", default_value_t = 1)]
    drain_grace: u64,
    /// A proxy whose X-Forwarded-For is believed: an address or a network; may be given more than once
    #[arg(long, value_name = "CIDR")]
    trusted_proxy: Vec<String>,
    /// Take the principal from this header. For demonstration: a client can send any header
    #[arg(long, value_name = "NAME")]
    principal_header: Option<HeaderName>,
    #[command(flatten)]
    operators: admin::Flags,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Eviction {
    /// The library's default
    Default,
    Prospects,
    Lru,
    Lfu,
    Fifo,
}

impl Eviction {
    fn set(self, settings: LiveSettings) -> LiveSettings {
        match self {
            Self::Default | Self::Prospects => settings.eviction(Prospects::new()),
            Self::Lru => settings.eviction(Lru::new()),
            Self::Lfu => settings.eviction(Lfu::new()),
            Self::Fifo => settings.eviction(Fifo::new()),
        }
    }
}

/// A number in a number of seconds.
#[derive(Clone, Copy, Debug)]
struct Rate(usize, u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/').and_then(|(n, secs)| Some(Self(n.parse().ok()?, secs.parse().ok()?)));
        let rate = parts.ok_or("write a number, a slash and seconds, as in 600/60")?;
        // Here, so that the message says which flag it is of.
        SlidingWindow::from(rate).validate().map_err(|error| error.to_string())?;
        Ok(rate)
    }
}

impl From<Rate> for SlidingWindow {
    fn from(Rate(limit, secs): Rate) -> Self {
        Self::new(limit, Duration::from_secs(secs))
    }
}

impl Args {
    /// The settings that may change while the server runs, but for the eviction policy.
    fn live(&self, settings: LiveSettings) -> LiveSettings {
        settings
            .max_sessions(self.max_sessions)
            .idle_timeout(Duration::from_secs(self.idle_timeout))
            .max_lifetime(self.max_lifetime.map(Duration::from_secs))
            .init_timeout(Duration::from_secs(self.init_timeout))
            .max_parked(self.parked)
    }

    /// The limits of new sessions.
    fn admission(&self) -> impl AdmissionPolicy + use<> {
        // A session that comes back from the parking is not new.
        let is_new = |arrival: &Arrival<'_>| arrival.kind() == ArrivalKind::Create;
        let all: Box<dyn AdmissionPolicy> = match self.rate {
            Some(rate) => Box::new(SlidingWindow::from(rate).only(is_new)),
            None => Box::new(Open),
        };
        let each: Box<dyn AdmissionPolicy> = match self.per_client_rate {
            Some(rate) => Box::new(SlidingWindow::from(rate).per_client().only(is_new)),
            None => Box::new(Open),
        };
        each.and(all)
    }

    /// The limit of requests within a session.
    fn requests(&self) -> Box<dyn AdmissionPolicy> {
        match self.request_rate {
            Some(rate) => Box::new(SlidingWindow::from(rate).per_session()),
            None => Box::new(Open),
        }
    }
}

pub(crate) fn sessions(args: &Args) -> Result<Sessions, Box<dyn Error>> {
    let builder = PolicySessionManager::local()
        .settings(|settings| args.eviction.set(args.live(settings)))
        .admission(args.admission())
        .requests(args.requests())
        .session_data::<Count>("count", 1);
    let builder = match &args.state {
        Some(file) => builder.directory(SqliteDirectory::open(file)?),
        None => builder,
    };
    let builder = if args.operators.admin.is_some() { builder.metrics(exporter::metrics()) } else { builder };
    Ok(builder.build()?)
}

/// The layer: who is asking, and the right answers.
pub(crate) fn layer(args: &Args, sessions: &Sessions) -> Result<PolicyLayer<LocalSessionManager>, ConfigError> {
    let mut layer = sessions.layer().trusted_proxies(&args.trusted_proxy)?;
    if let Some(rate) = args.sessionless_rate {
        layer = layer.sessionless(SlidingWindow::from(rate).per_client())?;
    }
    let Some(name) = args.principal_header.clone() else { return Ok(layer) };
    tracing::warn!(header = %name, "principals are taken from a header that any client can send: this is no authentication");
    Ok(layer.principal(move |request| request.headers.get(&name)?.to_str().ok().map(str::to_owned)))
}

async fn healthz(State(sessions): State<Arc<Sessions>>) -> (StatusCode, Json<Value>) {
    let stats = sessions.stats();
    // So that a load balancer sends newcomers elsewhere.
    let status = if stats.draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let closed: Map<_, _> =
        CloseReason::ALL.iter().map(|reason| (reason.to_string(), json!(stats.closed(*reason)))).collect();
    let rejected = |count: &dyn Fn(RejectionReason) -> u64| -> Map<_, _> {
        RejectionReason::ALL.iter().map(|reason| (reason.to_string(), json!(count(*reason)))).collect()
    };
    let health = json!({
        "draining": stats.draining,
        "live": stats.live,
        "opening": stats.opening,
        "busy": stats.busy,
        "parked": stats.parked,
        "max": stats.max_sessions,
        "inner": sessions.inner().sessions.read().await.len(),
        "tasks": Handle::current().metrics().num_alive_tasks(),
        "opened": stats.opened,
        "restored": stats.restored,
        "closed": closed,
        "refused": rejected(&|reason| stats.rejected(reason)),
        "requests": stats.requests,
        "sessionless": stats.sessionless,
        "surge_seconds": stats.surge_since.map(|since| since.elapsed().as_secs()),
        "advantage": stats.advantage,
        "overruled": stats.overruled,
        "refused_requests": rejected(&|reason| stats.rejected_requests(reason)),
    });
    (status, Json(health))
}

async fn serve(
    mut loaded: config::Loaded,
    sessions: Arc<Sessions>,
    layer: PolicyLayer<LocalSessionManager>,
    operators: Option<(Router, Exporter)>,
) -> std::io::Result<()> {
    let mut config = StreamableHttpServerConfig::default();
    config.session_store = Some(sessions.parking());
    let stopped = config.cancellation_token.clone();
    let mcp = StreamableHttpService::new(|| Ok(Tools::default()), Arc::clone(&sessions), config);
    let app = Router::new()
        .nest_service("/mcp", layer.layer(mcp))
        .route("/healthz", get(healthz))
        .with_state(Arc::clone(&sessions));

    // Before a client can know that the server runs: from here on a signal stops it in order.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = if loaded.has_file() { Some(signal(SignalKind::hangup())?) } else { None };
    let listener = TcpListener::bind(loaded.args.listen).await?;
    let admin = match loaded.args.operators.admin.zip(operators) {
        Some((address, operators)) => Some((TcpListener::bind(address).await?, operators)),
        None => None,
    };
    writeln!(std::io::stdout(), "listening on http://{}/mcp", listener.local_addr()?)?;
    let admin = match admin {
        Some((listener, (app, exporter))) => {
            writeln!(std::io::stdout(), "admin on http://{}/", listener.local_addr()?)?;
            Some(tokio::spawn(admin::serve(listener, app, exporter)))
        }
        None => None,
    };
    // Without it each small answer waits for a delayed acknowledgement, 40 ms.
    let listener = listener.tap_io(|tcp| {
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::warn!(%error, "no TCP_NODELAY");
        }
    });
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(stopped.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());

    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = async { hangup.as_mut()?.recv().await }, if hangup.is_some() => match loaded.reload(&sessions).await {
                Ok(changed) => tracing::info!(?changed, "the configuration was read again"),
                Err(wrong) => tracing::error!("{wrong}; nothing has changed"),
            },
        }
    }
    // The listener stays open: load balancers must hear that the server is about to stop.
    sessions.refuse_newcomers();
    if loaded.args.state.is_some() {
        // A server that shares the file serves each session from the moment at which nothing of it is in flight here.
        sessions.hand_over();
    }
    tokio::time::sleep(Duration::from_secs(loaded.args.drain_grace)).await;
    let report = sessions.drain(5 * SECOND).await;
    tracing::info!(?report, "stopped");
    // The last bytes are on their way; a client that does not read them is not waited for.
    stopped.cancel();
    tokio::time::timeout(SECOND, server).await.ok();
    // To the last, operators can look.
    admin.iter().for_each(JoinHandle::abort);
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let typed: Vec<_> = std::env::args_os().collect();
    let loaded = match Args::command().try_get_matches_from(&typed) {
        Ok(matches) => config::Loaded::new(typed, matches),
        Err(error) if error.use_stderr() => Err(config::said(&error)),
        Err(help) => help.exit(),
    };
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(wrong) => return bad_flags(&wrong),
    };
    // rmcp logs session ids, which are credentials, also in warnings of its server: none of those, unless asked for.
    // `rmcp` alone would silence this library too, whose name begins with it.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        "info,rmcp=warn,rmcp::transport::streamable_http_server=off,rmcp::transport::common=off,rmcp_session_policy=info".into()
    });
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
    // Before the manager is built, which records into it.
    let args = &loaded.args;
    let exporter = match args.operators.exporter() {
        Ok(exporter) => exporter,
        Err(error) => return bad_flags(&error.to_string()),
    };
    let built = sessions(args).map(Arc::new).and_then(|sessions| {
        let operators = exporter.map(|exporter| args.operators.router(&sessions, exporter)).transpose()?;
        Ok((layer(args, &sessions)?, sessions, operators))
    });
    let (layer, sessions, operators) = match built {
        Ok(built) => built,
        Err(error) => {
            let error = error.downcast_ref::<ConfigError>().map_or_else(|| error.to_string(), |it| loaded.explain(it));
            return bad_flags(&error);
        }
    };
    match serve(loaded, sessions, layer, operators).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the server failed");
            ExitCode::FAILURE
        }
    }
}

/// One clear line, and exit code 2.
fn bad_flags(line: &str) -> ExitCode {
    eprintln!("{line}");
    ExitCode::from(2)
}
