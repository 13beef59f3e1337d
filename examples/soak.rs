//! A soak: hundreds of clients do to the example server what clients do, three rounds alike. After each they all vanish at
//! once, and the server must come to rest as it was before: no session, task or file descriptor more, and no memory. Linux only.
//!
//! ```sh
//! cargo build --release -p rmcp-session-policy-examples --examples
//! target/release/examples/soak --seconds 3600 --clients 400
//! ```
//!
//! `--short` is for CI: one round, which ends once everything has happened that must happen in a round, and rests until
//! the server does. It says nothing of memory, for which it is too short.

use std::convert::Infallible;
use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Parser;
use futures_util::future::select_all;
use rmcp::ServiceExt;
use rmcp::model::{CallToolRequest, CallToolRequestParams, ClientRequest, object};
use rmcp::service::PeerRequestOptions;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

type Fallible<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The end of each round, in which no client is left. Longer than any timeout of the server.
const REST: Duration = Duration::from_secs(8);
/// By when a short round must have seen everything, and by when the server must rest after it: far longer than it takes,
/// so that a fault ends the program.
const LONGEST: Duration = Duration::from_secs(120);
/// By when a client must have an answer, or the end of its stream.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the server is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// By how much the last round may leave more memory than the one before, in KiB: what malloc keeps varies so much.
const MARGIN: u64 = 4 * 1024;

/// Soaks the example server, which must lie next to this program.
#[derive(Debug, Parser)]
struct Args {
    /// How long in all: a third for the warm-up and for each of two rounds
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(45..))]
    seconds: u64,
    /// One round only, of some seconds
    #[arg(long, conflicts_with = "seconds")]
    short: bool,
    /// How many clients at one time; the server has places for half of them
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(16..=10_000))]
    clients: u64,
}

/// The server under test. Its drop kills it.
struct Server {
    process: Child,
    http: reqwest::Client,
    url: String,
    complaints: JoinHandle<std::io::Result<String>>,
}

impl Server {
    async fn start(args: &Args) -> Fallible<Self> {
        let places = (args.clients / 2).to_string();
        let flags = ["--listen", "127.0.0.1:0", "--max-sessions", &places, "--parked", &places];
        let [idle, lifetime] = if args.short { ["1", "3"] } else { ["2", "6"] };
        let times = ["--init-timeout", "1", "--idle-timeout", idle, "--max-lifetime", lifetime];
        // No --request-rate: it remembers the last 100,000 sessions, which is bounded but not soon reached.
        let rate = ["--per-client-rate", "10/1"];
        let mut process = Command::new(std::env::current_exe()?.with_file_name("server"))
            .args([&flags[..], &times, &rate].concat())
            .env("RUST_LOG", "off")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("no server next to this program, build all examples first: {error}"))?;
        let mut stderr = process.stderr.take().ok_or("no stderr")?;
        let complaints = tokio::spawn(async move {
            let mut text = String::new();
            stderr.read_to_string(&mut text).await.map(|_| text)
        });
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().ok_or("no stdout")?).read_line(&mut line).await?;
        let url = line.trim_end().strip_prefix("listening on ").ok_or("the server did not start")?.to_owned();
        // The server counts the connection of its own observer: one, however fast that asks.
        let http = reqwest::Client::builder().pool_max_idle_per_host(1).build()?;
        Ok(Self { process, http, url, complaints })
    }

    async fn sample(&self) -> Fallible<Sample> {
        let health = self.http.get(self.url.replace("/mcp", "/healthz")).send().await?.json().await?;
        let proc = format!("/proc/{}", self.process.id().ok_or("the server has ended")?);
        let status = std::fs::read_to_string(format!("{proc}/status"))?;
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
            line.and_then(|number| number.parse().ok()).ok_or(format!("no {name} in {proc}/status"))
        };
        let (threads, memory) = (field("Threads:")?, field("RssAnon:")?);
        Ok(Sample { health, fds: std::fs::read_dir(format!("{proc}/fd"))?.count() as u64, threads, memory })
    }

    /// Lets clients loose for a while, looking at the bounds; then they all vanish, and the server rests. Gives the most
    /// sessions there were, and the server after the rest. `before` and `start` are the server before this round and before the
    /// first one.
    async fn round(&self, args: &Args, tally: &Arc<Tally>, before: &Sample, start: &Sample) -> Fallible<(u64, Sample)> {
        let length = if args.short { LONGEST } else { Duration::from_secs(args.seconds / 3) - REST };
        let end = Instant::now() + length;
        let world = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let clients = (0..args.clients).map(|n| {
            let client = Client::new(n, &self.url, Arc::clone(tally));
            world.spawn(async move { client?.live().await })
        });
        let watch = async {
            let mut most = 0;
            while timeout_at(end, sleep(LOOK)).await.is_ok() {
                let now = self.sample().await?;
                most = most.max(now.within_bounds()?);
                if args.short && now.missing_since(before, args).is_none() {
                    break;
                }
            }
            Ok(most)
        };
        let most: Fallible<u64> = tokio::select! {
            most = watch => most,
            (ended, ..) = select_all(clients) => {
                let Err(error) = ended.map_err(Into::into).and_then(|ended| ended);
                Err(format!("a client failed: {error}").into())
            }
        };
        // As if all their machines lost power, whatever they were at.
        world.shutdown_background();
        let most = most?;
        if !args.short {
            sleep_until(end + REST).await;
        }
        let longest = Instant::now() + if args.short { LONGEST } else { Duration::ZERO };
        let mut after = self.sample().await?;
        while after.at_rest(start).is_err() && Instant::now() < longest {
            sleep(LOOK).await;
            after = self.sample().await?;
        }
        Ok((most, after))
    }

    /// What it had to say, which should be nothing.
    async fn end(mut self) -> Fallible<String> {
        self.process.kill().await?;
        Ok(self.complaints.await??)
    }
}

/// What a server is at one moment.
struct Sample {
    health: Value,
    fds: u64,
    threads: u64,
    memory: u64,
}

impl Sample {
    fn health(&self, pointer: &str) -> u64 {
        self.health.pointer(pointer).and_then(Value::as_u64).unwrap_or(u64::MAX)
    }

    /// Gives the number of sessions, if it and the number of parked ones, which may be as many, are as promised.
    fn within_bounds(&self) -> Fallible<u64> {
        let [inner, live, parked, max] = ["/inner", "/live", "/parked", "/max"].map(|name| self.health(name));
        match inner.max(live).max(parked) <= max {
            true => Ok(inner),
            false => Err(format!("more than {max} sessions live, or are parked: {}", self.health).into()),
        }
    }

    /// What must happen in every round, and has not since an earlier moment. On a slow machine all sessions of a short
    /// round may end for other reasons than being idle.
    fn missing_since(&self, before: &Self, args: &Args) -> Option<&'static str> {
        let must = SHOWN[GROWING..].iter().filter(|(what, _)| !args.short || *what != "idle");
        let mut missing = must.filter(|(_, at)| self.health(at) == before.health(at));
        missing.next().map(|(what, _)| *what)
    }

    /// Nothing is left but what there was before the clients came. Few closed their sessions: only clients of rmcp that give
    /// up, if they still get to it.
    fn at_rest(&self, rest: &Self) -> Fallible {
        let mut left = ["/live", "/opening", "/busy", "/inner"].into_iter();
        if let Some(name) = left.find(|name| self.health(name) != 0) {
            return Err(format!("no client is there, but {name} is not 0: {}", self.health).into());
        }
        // One is the manager's own, which begins with the first session.
        let (tasks, before) = (self.health("/tasks"), rest.health("/tasks"));
        if tasks > before + 1 {
            return Err(format!("no client is there, but {tasks} tasks run, not {before}").into());
        }
        if self.fds > rest.fds {
            return Err(format!("no client is there, but {} files are open, not {}", self.fds, rest.fds).into());
        }
        Ok(())
    }
}

/// What the clients met, in a round.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    refused: AtomicU64,
}

/// One client by hand, at an address of its own.
struct Client {
    n: u64,
    http: reqwest::Client,
    url: String,
    tally: Arc<Tally>,
}

impl Client {
    fn new(n: u64, url: &str, tally: Arc<Tally>) -> reqwest::Result<Self> {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + n as u32);
        let http = reqwest::Client::builder().local_address(IpAddr::from(address)).build()?;
        Ok(Self { n, http, url: url.to_owned(), tally })
    }

    /// Does one thing after the other, for ever.
    async fn live(self) -> Fallible<Infallible> {
        if self.n.is_multiple_of(4) {
            return self.live_with_rmcp().await;
        }
        let mut session = None;
        let mut turn = self.n;
        loop {
            sleep(Duration::from_millis(turn * 37 % 1_000)).await;
            let act = timeout(PATIENCE, self.act(turn, &mut session));
            act.await.map_err(|_| format!("left without an answer (act {})", turn % 9))??;
            turn += 1;
        }
    }

    async fn act(&self, turn: u64, session: &mut Option<String>) -> Fallible {
        // Most go on with the session they have, which may be parked by now, or over.
        let id = match session.take() {
            Some(id) if turn % 9 > 1 => id,
            _ => match self.initialize(turn % 9 == 1).await? {
                Some(id) => id,
                None => return Ok(()),
            },
        };
        if turn.is_multiple_of(9) {
            return Ok(()); // the handshake is never finished
        }
        if self.post(Some(&id), &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await?.is_none() {
            return Ok(());
        }
        let echo = tool(turn, "echo", json!({ "text": "as sent" }));
        let nap = tool(turn, "sleep", json!({ "millis": 200 }));
        match turn % 9 {
            2 => drop(self.listen(&id, None).await?),
            3 => {
                let Some(mut stream) = self.listen(&id, None).await? else { return Ok(()) };
                timeout(Duration::from_millis(500), stream.chunk()).await.ok();
            }
            4 => {
                let Some(mut call) = self.post(Some(&id), &nap).await? else { return Ok(()) };
                call.chunk().await?;
                let params = json!({ "requestId": turn, "reason": "the user thought better of it" });
                let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
                self.post(Some(&id), &cancel).await?;
                while call.chunk().await?.is_some() {}
            }
            5 => {
                let Some(mut call) = self.post(Some(&id), &nap).await? else { return Ok(()) };
                call.chunk().await?; // and off, in mid-call
            }
            6 => {
                let Some(mut call) = self.post(Some(&id), &nap).await? else { return Ok(()) };
                let seen = call.chunk().await?.unwrap_or_default();
                drop(call);
                let seen = String::from_utf8_lossy(&seen).into_owned();
                let last = seen.lines().filter_map(|line| line.strip_prefix("id: ")).next_back();
                let Some(mut rest) = self.listen(&id, last).await? else { return Ok(()) };
                while let Some(chunk) = rest.chunk().await? {
                    if String::from_utf8_lossy(&chunk).contains("slept") {
                        self.tally.answered.fetch_add(1, Relaxed);
                        break;
                    }
                }
            }
            7 => sleep(Duration::from_millis(2_500)).await, // idle; the next call brings it back
            _ => {
                let Some(call) = self.post(Some(&id), &echo).await? else { return Ok(()) };
                let said = call.text().await?;
                let counter = if said.contains("as sent") { &self.tally.answered } else { &self.tally.refused };
                counter.fetch_add(1, Relaxed);
            }
        }
        *session = Some(id);
        Ok(())
    }

    /// Opens a session, or hangs up before it is there.
    async fn initialize(&self, hang_up: bool) -> Fallible<Option<String>> {
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "soak", "version": "1" }
        });
        let message = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let patience = if hang_up { Duration::from_millis(2) } else { PATIENCE };
        let Ok(answer) = timeout(patience, self.post(None, &message)).await else { return Ok(None) };
        let Some(answer) = answer? else { return Ok(None) };
        let id = answer.headers().get("mcp-session-id").ok_or("no session id")?.to_str()?.to_owned();
        answer.text().await?;
        Ok(Some(id))
    }

    async fn post(&self, session: Option<&str>, message: &Value) -> Fallible<Option<reqwest::Response>> {
        let request = self.http.post(&self.url).header("accept", "application/json, text/event-stream");
        self.send(request.json(message), session).await
    }

    async fn listen(&self, session: &str, last: Option<&str>) -> Fallible<Option<reqwest::Response>> {
        let mut request = self.http.get(&self.url).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        self.send(request, Some(session)).await
    }

    /// Gives the answer, or nothing if it is one of the refusals that clients are promised.
    async fn send(&self, request: reqwest::RequestBuilder, id: Option<&str>) -> Fallible<Option<reqwest::Response>> {
        let request = request.header("mcp-protocol-version", "2025-11-25");
        let request = match id {
            Some(id) => request.header("mcp-session-id", id),
            None => request,
        };
        let response = request.send().await?;
        match response.status().as_u16() {
            200 | 202 => Ok(Some(response)),
            404 | 429 | 503 => {
                self.tally.refused.fetch_add(1, Relaxed);
                Ok(None)
            }
            status => Err(format!("{status}: {}", response.text().await?).into()),
        }
    }

    /// The same with a client of rmcp, which listens all the time and opens a new session when its own is over.
    async fn live_with_rmcp(self) -> Fallible<Infallible> {
        loop {
            sleep(Duration::from_millis(self.n * 37 % 1_000)).await;
            let config = StreamableHttpClientTransportConfig::with_uri(self.url.clone());
            let transport = StreamableHttpClientTransport::with_client(self.http.clone(), config);
            let connected = timeout(PATIENCE, ().serve(transport)).await.map_err(|_| "left without a handshake")?;
            let Ok(client) = connected else {
                self.tally.refused.fetch_add(1, Relaxed);
                continue;
            };
            while !client.is_transport_closed() {
                let echo = CallToolRequestParams::new("echo").with_arguments(object(json!({ "text": "as sent" })));
                let call =
                    timeout(PATIENCE, client.call_tool(echo)).await.map_err(|_| "left without an answer by rmcp")?;
                let counter = if call.is_ok() { &self.tally.answered } else { &self.tally.refused };
                counter.fetch_add(1, Relaxed);
                let nap = CallToolRequestParams::new("sleep").with_arguments(object(json!({ "millis": 200 })));
                let nap = ClientRequest::CallToolRequest(CallToolRequest::new(nap));
                if let Ok(call) = client.send_cancellable_request(nap, PeerRequestOptions::no_options()).await {
                    sleep(Duration::from_millis(self.n % 100)).await;
                    call.cancel(None).await.ok();
                }
                sleep(Duration::from_millis(self.n * 53 % 1_000)).await;
            }
        }
    }
}

fn tool(id: u64, name: &str, arguments: Value) -> Value {
    let meta = json!({ "progressToken": id });
    let params = json!({ "name": name, "arguments": arguments, "_meta": meta });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

/// What is shown of a moment, and where `/healthz` says it. What must happen in every round comes last.
const SHOWN: [(&str, &str); 12] = [
    ("live", "/live"),
    ("opening", "/opening"),
    ("busy", "/busy"),
    ("inner", "/inner"),
    ("tasks", "/tasks"),
    ("parked", "/parked"),
    ("opened", "/opened"),
    ("restored", "/restored"),
    ("evicted", "/closed/evicted"),
    ("idle", "/closed/idle"),
    ("lifetime", "/closed/lifetime"),
    ("handshake too long", "/closed/init_timeout"),
];
/// Where in it begins what only ever grows, and is shown as what a round added.
const GROWING: usize = 6;

/// Three rounds, or a short one. Gives the verdict; an error says what is not as it should be.
async fn soak(args: &Args, table: &mut Table) -> Fallible<String> {
    let server = Server::start(args).await?;
    let start = server.sample().await?;
    table.add("at start", &start, &start, &Tally::default(), 0);
    let mut rounds = vec![start];
    let names = if args.short { &["round"][..] } else { &["warm-up", "round 1", "round 2"] };
    for name in names {
        let tally = Arc::new(Tally::default());
        let before = rounds.last().ok_or("no round before")?;
        let (most, after) = server.round(args, &tally, before, &rounds[0]).await?;
        table.add(name, &after, before, &tally, most);
        after.within_bounds()?;
        after.at_rest(&rounds[0])?;
        if let Some(what) = after.missing_since(before, args) {
            return Err(format!("{name} shows nothing, as none was {what}: give it more time or more clients").into());
        }
        rounds.push(after);
    }
    let [.., before, after] = &rounds[..] else { return Err("no rounds".into()) };
    let complaints = server.end().await?;
    if !complaints.is_empty() {
        return Err(format!("the server complained: {complaints}").into());
    }
    if args.short {
        return Ok("nothing is left of the clients".to_owned());
    }
    let growth = after.memory.saturating_sub(before.memory);
    let said = format!("round 2 left {growth} KiB more than round 1, the margin is {MARGIN}");
    if growth <= MARGIN { Ok(said) } else { Err(said.into()) }
}

/// A line for each thing to know, and a column for each moment.
struct Table(Vec<String>);

impl Table {
    fn new() -> Self {
        let others = ["", "most at one time", "answered", "refused", "file descriptors", "threads", "memory, KiB"];
        let names = others[..1].iter().copied().chain(SHOWN.map(|(name, _)| name)).chain(others[1..].iter().copied());
        Self(names.map(|name| format!("{name:20}")).collect())
    }

    fn add(&mut self, name: &str, now: &Sample, before: &Sample, tally: &Tally, most: u64) {
        let shown = SHOWN.iter().enumerate().map(|(n, (_, at))| match n < GROWING {
            true => now.health(at),
            false => now.health(at) - before.health(at),
        });
        let met = [most, tally.answered.load(Relaxed), tally.refused.load(Relaxed)];
        let cells = shown.chain(met).chain([now.fds, now.threads, now.memory]).map(|number| number.to_string());
        for (line, cell) in self.0.iter_mut().zip([name.to_owned()].into_iter().chain(cells)) {
            line.push_str(&format!("{cell:>10}"));
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    let mut table = Table::new();
    let outcome = soak(&Args::parse(), &mut table).await;
    writeln!(std::io::stdout(), "{}", table.0.join("\n")).ok();
    match outcome {
        Ok(said) => {
            writeln!(std::io::stdout(), "good: {said}").ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}
