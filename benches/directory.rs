//! What a directory in a SQLite file costs, beside none: handshakes, restores, and a file with many sessions.
//!
//! ```sh
//! cargo run --release -p rmcp-session-policy-benches --bin directory -- handshakes
//! cargo run --release -p rmcp-session-policy-benches --bin directory -- handshakes --sockets
//! cargo run --release -p rmcp-session-policy-benches --bin directory -- restores
//! cargo run --release -p rmcp-session-policy-benches --bin directory -- fill /var/tmp/many.db
//! cargo run --release -p rmcp-session-policy-benches --bin directory -- open /var/tmp/many.db
//! ```
//!
//! The service is called in process, without sockets unless they are asked for, on as many threads as there are cores. What is compared takes turns, and
//! the medians of all turns are shown.

use std::convert::Infallible;
use std::fs;
use std::future::IntoFuture;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Parser, Subcommand};
use http::{Request, Response};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::directory::{Change, Claim, SessionDigest, SessionDirectory};
use rmcp_session_policy::eviction::Lru;
use rmcp_session_policy::{PolicySessionManager, SECOND};
use rmcp_session_policy_benches::service::{call, open, parking};
use rmcp_session_policy_sqlite::{Durability, SqliteDirectory};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_service::Service;

type Sessions = Arc<PolicySessionManager<LocalSessionManager>>;

/// How many sessions one manager of `fill` has, so that the memory does not grow with the file.
const LIVE: usize = 1_000;

const INITIALIZE: &str = r#"{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
    "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc": "2.0", "method": "notifications/initialized"}"#;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
    /// The folder of files that are made and removed
    #[arg(long, global = true)]
    folder: Option<PathBuf>,
    /// How many turns each has
    #[arg(long, global = true, default_value_t = 9)]
    turns: usize,
}

#[derive(Subcommand)]
enum What {
    /// A session opened through HTTP: in memory, behind, and before
    Handshakes {
        #[arg(long, default_value_t = 2_000)]
        sessions: usize,
        /// How many at a time; several numbers may be given
        #[arg(long, default_values_t = [1, 64])]
        at_once: Vec<usize>,
        /// Through sockets of this machine, a connection for each that is at a time
        #[arg(long)]
        sockets: bool,
    },
    /// A call that restores its session: from the parking, and from a file that another server left
    Restores {
        #[arg(long, default_value_t = 1_000)]
        sessions: usize,
        #[arg(long, default_values_t = [1, 16])]
        at_once: Vec<usize>,
    },
    /// Fills a file with sessions
    Fill {
        file: PathBuf,
        #[arg(long, default_value_t = 100_000)]
        sessions: usize,
    },
    /// Opens a file, and looks up and claims a thousand sessions
    Open { file: PathBuf },
}

/// Where sessions are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Memory,
    Behind,
    Before,
}

impl Kept {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Memory, "in memory"), (Self::Behind, "behind"), (Self::Before, "before")];

    fn sessions(self, file: &Path, most: usize) -> Sessions {
        let builder = PolicySessionManager::local().max_sessions(most).max_opening(most).eviction(Lru::new());
        let durability = match self {
            Self::Memory => return Arc::new(builder.build().expect("valid")),
            Self::Behind => Durability::Behind,
            Self::Before => Durability::Before,
        };
        let directory = SqliteDirectory::builder(file).durability(durability).open().expect("a file");
        Arc::new(builder.directory(directory).build().expect("valid"))
    }
}

fn service(
    sessions: &Sessions,
) -> impl Service<Request<axum::body::Body>, Response = Response<impl Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    sessions.layer().layer(parking(sessions))
}

trait Body: axum::body::HttpBody<Data = Bytes, Error: std::fmt::Debug> + Unpin + Send {}
impl<B: axum::body::HttpBody<Data = Bytes, Error: std::fmt::Debug> + Unpin + Send> Body for B {}

/// Opens sessions, some at a time. Returns their ids.
async fn open_all(sessions: &Sessions, count: usize, at_once: usize) -> Vec<String> {
    let tasks = (0..at_once).map(|task| {
        let mut service = service(sessions);
        let mine = count / at_once + usize::from(task < count % at_once);
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..mine {
                ids.push(open(&mut service).await);
            }
            ids
        })
    });
    let mut ids = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        ids.extend(task.await.expect("opens"));
    }
    ids
}

/// Serves sessions on a port of this machine, until the program ends.
async fn serve(sessions: &Sessions) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = axum::Router::new().fallback_service(sessions.layer().layer(parking(sessions)));
    drop(tokio::spawn(axum::serve(listener, app).into_future()));
    Ok(address)
}

/// Opens sessions through connections that are kept.
async fn connect_all(address: SocketAddr, count: usize, connections: usize) {
    let tasks = (0..connections).map(|task| {
        let mine = count / connections + usize::from(task < count % connections);
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            let mut buffer = Vec::new();
            for _ in 0..mine {
                let head = post(&mut stream, &mut buffer, "", INITIALIZE).await.expect("an answer");
                let id = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).expect("a session");
                let id = format!("mcp-session-id: {id}\r\n");
                post(&mut stream, &mut buffer, &id, INITIALIZED).await.expect("an answer");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("opens");
    }
}

/// Sends a message, reads the whole answer, and returns its head.
async fn post(stream: &mut TcpStream, buffer: &mut Vec<u8>, session: &str, message: &str) -> io::Result<String> {
    let length = message.len();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\n{session}content-length: {length}\r\n\r\n{message}"
    );
    stream.write_all(request.as_bytes()).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let is_chunked = head.contains("transfer-encoding: chunked");
        if !is_chunked || buffer.ends_with(b"\r\n0\r\n\r\n") {
            return Ok(head);
        }
    }
}

/// Calls a tool in each session, some at a time.
async fn call_all(sessions: &Sessions, ids: &[String], at_once: usize) {
    let chunks: Vec<_> = ids.chunks(ids.len().div_ceil(at_once)).map(<[_]>::to_vec).collect();
    let tasks = chunks.into_iter().map(|ids| {
        let mut service = service(sessions);
        tokio::spawn(async move {
            for id in ids {
                call(&mut service, &id).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("calls");
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Shows the median of each, and its ratio to the first.
fn show(what: &str, each: usize, all: Vec<(&str, Vec<Duration>)>) -> io::Result<()> {
    let mut first = None;
    for (name, times) in all {
        let one = median(times).as_secs_f64() / each as f64 * 1e6;
        let ratio = one / *first.get_or_insert(one);
        writeln!(io::stdout(), "{what}, {name}: {one:.1} µs, {ratio:.3}")?;
    }
    Ok(())
}

async fn handshakes(args: &Args, count: usize, at_once: usize, sockets: bool) -> io::Result<()> {
    let mut times = Kept::ALL.map(|(_, name)| (name, Vec::new()));
    for turn in 0..args.turns {
        for place in 0..Kept::ALL.len() {
            // Each is first as often as the others.
            let place = (turn + place) % Kept::ALL.len();
            let (kept, (_, times)) = (Kept::ALL[place].0, &mut times[place]);
            let folder = folder(args)?;
            let sessions = kept.sessions(&folder.path().join("sessions.db"), count + 1);
            let through = if sockets { Some(serve(&sessions).await?) } else { None };
            let began = Instant::now();
            match through {
                Some(address) => connect_all(address, count, at_once).await,
                None => drop(open_all(&sessions, count, at_once).await),
            }
            times.push(began.elapsed());
            assert_eq!(sessions.stats().opened, count as u64, "each is opened");
            sessions.drain(60 * SECOND).await;
        }
    }
    let how = if sockets { "a handshake through sockets" } else { "a handshake" };
    show(&format!("{how}, {at_once} at a time"), count, times.into())
}

/// What a restore begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// Parked in memory, without a directory.
    Memory,
    /// Parked in memory and in the directory, where it is claimed.
    Here,
    /// In the directory alone, as after a restart.
    File,
}

/// The server is full, so each restore evicts a session.
async fn restores(args: &Args, count: usize, at_once: usize) -> io::Result<()> {
    const ALL: [(From, &str); 3] = [
        (From::Memory, "from memory, no directory"),
        (From::Here, "from memory, behind"),
        (From::File, "from the file"),
    ];
    let mut times = ALL.map(|(_, name)| (name, Vec::new()));
    for turn in 0..args.turns {
        for place in 0..ALL.len() {
            let place = (turn + place) % ALL.len();
            let (from, (_, times)) = (ALL[place].0, &mut times[place]);
            let kept = if from == From::Memory { Kept::Memory } else { Kept::Behind };
            let folder = folder(args)?;
            let file = folder.path().join("sessions.db");
            let mut sessions = kept.sessions(&file, count);
            let ids = open_all(&sessions, count, 16).await;
            if from == From::File {
                sessions.drain(60 * SECOND).await;
                sessions = kept.sessions(&file, count);
            }
            open_all(&sessions, count, 16).await;
            let began = Instant::now();
            call_all(&sessions, &ids, at_once).await;
            times.push(began.elapsed());
            assert_eq!(sessions.stats().restored, ids.len() as u64, "each is restored");
            sessions.drain(60 * SECOND).await;
        }
    }
    show(&format!("a call that restores, {at_once} at a time"), count, times.into())
}

/// One manager after another fills the file, and parks its sessions.
async fn fill(file: &Path, count: usize) -> io::Result<()> {
    let directory = Arc::new(SqliteDirectory::open(file).map_err(io::Error::other)?);
    let mut names = io::BufWriter::new(fs::File::create(names(file))?);
    let mut opened = 0;
    while opened < count {
        let builder = PolicySessionManager::local().max_sessions(LIVE + 1).max_opening(LIVE + 1);
        let sessions = Arc::new(builder.directory(Arc::clone(&directory)).build().expect("valid"));
        for id in open_all(&sessions, LIVE.min(count - opened), 16).await {
            writeln!(names, "{id}")?;
            opened += 1;
        }
        sessions.drain(60 * SECOND).await;
    }
    names.flush()?;
    drop(directory);
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    // The last connection copies it into the file, and removes it.
    while Path::new(&log).exists() {
        tokio::task::yield_now().await;
    }
    let bytes = fs::metadata(file)?.len() as usize / opened;
    writeln!(io::stdout(), "{bytes} bytes for each of {opened} sessions, with what `initialize` said")
}

async fn look(file: &Path) -> io::Result<()> {
    let ids = fs::read_to_string(names(file))?;
    let (count, before) = (ids.lines().count(), resident()?);
    let digests: Vec<_> = ids.lines().step_by(count.div_ceil(1_000)).map(SessionDigest::of).collect();
    drop(ids);
    let began = Instant::now();
    // On a busy machine a claim may take longer than the 50 ms.
    let directory = SqliteDirectory::builder(file).max_wait(20 * SECOND).open().map_err(io::Error::other)?;
    let (opened, after) = (began.elapsed(), resident()?);
    let began = Instant::now();
    for digest in &digests {
        let found = directory.look(digest).await.map_err(io::Error::other)?;
        found.ok_or_else(|| io::Error::other("a session is missing"))?;
    }
    let each = u32::try_from(digests.len()).unwrap_or(1);
    let (look, looked) = (began.elapsed() / each, resident()?);
    let began = Instant::now();
    for digest in &digests {
        let found = directory.look(digest).await.map_err(io::Error::other)?;
        let found = found.ok_or_else(|| io::Error::other("a session is missing"))?;
        let claim = directory.claim(digest, &found).await.map_err(io::Error::other)?;
        let Claim::Yours(epoch, _) = claim else { return Err(io::Error::other("a session is not free")) };
        directory.write(digest, epoch, Change::Released);
    }
    let both = began.elapsed() / each;
    writeln!(io::stdout(), "{count} sessions: opened in {opened:?}, a look-up {look:?}, with a claim {both:?}")?;
    writeln!(io::stdout(), "resident: {before} KiB before, {after} KiB opened, {looked} KiB after the look-ups")
}

/// Beside the file, the ids of its sessions: what clients would know.
fn names(file: &Path) -> PathBuf {
    file.with_extension("ids")
}

/// The memory of this process, in KiB.
fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::Error::other("/proc/self/status has no VmRSS"))
}

fn folder(args: &Args) -> io::Result<tempfile::TempDir> {
    match &args.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let args = Args::parse();
    match &args.what {
        What::Handshakes { sessions, at_once, sockets } => {
            for at_once in at_once {
                handshakes(&args, *sessions, *at_once, *sockets).await?;
            }
            Ok(())
        }
        What::Restores { sessions, at_once } => {
            for at_once in at_once {
                restores(&args, *sessions, *at_once).await?;
            }
            Ok(())
        }
        What::Fill { file, sessions } => fill(file, *sessions).await,
        What::Open { file } => look(file).await,
    }
}
