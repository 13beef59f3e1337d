//! Evictions, cut-off calls and rejections as the clients of the official SDKs see them, each SDK at a pinned version.
//!
//! The clients are processes of their own; `clients/setup` installs them from npm and PyPI.
#![cfg(unix)]

#[path = "support/server.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rmcp::model::CallToolRequestParams;
use rmcp::service::ServiceError;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::admission::{AdmissionPolicy, Permit, Rejection, Retry, admit_fn};
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::{CloseReason, HOUR, MINUTE, PolicySessionManager, PolicySessionManagerBuilder};
use serde_json::{Value, json};
use server::Server;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// How long to wait for what must happen. Only a failure waits that long.
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sdk {
    Rmcp,
    TypeScript1,
    TypeScript2,
    Python1,
    Python2,
}

/// Where the SDKs are installed.
fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
        let setup = std::process::Command::new(scripts().join("setup")).arg(&folder).status().expect("bash");
        assert!(setup.success(), "the clients could not be installed: see above");
        folder
    })
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

impl Sdk {
    /// Starts a client. Nothing is sent before it is told to.
    fn start(self) -> Client {
        let typescript = |major: &str| {
            let mut command = Command::new(installed().join("node"));
            command.arg(scripts().join("typescript.mjs")).arg(major).current_dir(installed());
            Client::Process(Box::new(Process::start(self, command)))
        };
        let python = |folder: &str| {
            let mut command = Command::new(installed().join(folder).join("bin/python"));
            command.arg(scripts().join("python.py"));
            Client::Process(Box::new(Process::start(self, command)))
        };
        match self {
            Self::Rmcp => Client::Rmcp(None, None),
            Self::TypeScript1 => typescript("1"),
            Self::TypeScript2 => typescript("2"),
            Self::Python1 => python("python-1"),
            Self::Python2 => python("python-2"),
        }
    }

    async fn connect(self, server: &Server) -> Client {
        let mut client = self.start();
        assert_eq!(client.connect(server).await, json!({ "ok": "connected" }), "{self:?}");
        client
    }
}

/// A client, told what to do from outside. Its answers are `{"ok": text}`, `{"told": text}` for a result that is an error,
/// which a model reads, or `{"error": {"code", "message", "data"}}` as the application over the SDK sees it.
enum Client {
    Rmcp(Option<Arc<server::Client>>, Option<JoinHandle<Value>>),
    Process(Box<Process>),
}

/// An SDK of another language, in a process of its own.
struct Process {
    sdk: Sdk,
    tell: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Process {
    fn start(sdk: Sdk, mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{sdk:?} does not start: {error}"));
        let tell = child.stdin.take().expect("piped");
        let said = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { sdk, tell, said, _child: child }
    }

    async fn tell(&mut self, command: Value) {
        self.tell.write_all(format!("{command}\n").as_bytes()).await.expect("it runs");
    }

    async fn answer(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.said.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{:?} hangs", self.sdk)).expect("text");
        serde_json::from_str(&line.unwrap_or_else(|| panic!("{:?} is gone", self.sdk))).expect("JSON")
    }
}

impl Client {
    async fn connect(&mut self, server: &Server) -> Value {
        match self {
            Self::Rmcp(client, _) => match server.try_connect().await {
                Ok(connected) => {
                    *client = Some(Arc::new(connected));
                    json!({ "ok": "connected" })
                }
                Err(error) => json!({ "error": { "code": null, "message": error.to_string(), "data": null } }),
            },
            Self::Process(process) => {
                process.tell(json!({ "do": "connect", "url": server.url })).await;
                process.answer().await
            }
        }
    }

    async fn begin(&mut self, tool: &'static str, arguments: Value) {
        match self {
            Self::Rmcp(client, call) => {
                let client = Arc::clone(client.as_ref().expect("connected"));
                let mut params = CallToolRequestParams::new(tool);
                params.arguments = arguments.as_object().cloned();
                *call = Some(tokio::spawn(async move {
                    match client.service.call_tool(params).await {
                        Ok(result) if result.is_error == Some(true) => json!({ "told": server::text(&result) }),
                        Ok(result) => json!({ "ok": server::text(&result) }),
                        Err(ServiceError::McpError(error)) => json!({ "error": error }),
                        Err(error) => json!({ "error": { "code": null, "message": error.to_string(), "data": null } }),
                    }
                }));
            }
            Self::Process(process) => {
                process.tell(json!({ "do": "call", "tool": tool, "arguments": arguments })).await;
            }
        }
    }

    async fn answer(&mut self) -> Value {
        match self {
            Self::Rmcp(_, call) => {
                let call = call.take().expect("a call was begun");
                tokio::time::timeout(PATIENCE, call).await.expect("answers").expect("no panic")
            }
            Self::Process(process) => process.answer().await,
        }
    }

    async fn echo(&mut self, text: &str) -> Value {
        self.begin("echo", json!({ "text": text })).await;
        self.answer().await
    }
}

type Sessions = Arc<PolicySessionManager<LocalSessionManager>>;

fn sessions(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Sessions {
    Arc::new(configure(PolicySessionManager::local().max_sessions(1)).build().expect("valid"))
}

/// Waits until the tool itself runs. If the session is closed before, rmcp's client knows that the call was not made,
/// and repeats it in a new session.
async fn at_work(server: &Server) {
    tokio::time::timeout(PATIENCE, server.asleep.notified()).await.expect("a call arrives");
}

/// A gate that can be shut, and says to come again in a minute.
fn gate() -> (Arc<AtomicBool>, impl AdmissionPolicy) {
    let shut = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&shut);
    let policy = admit_fn(move |_| match seen.load(SeqCst) {
        true => Err(Rejection::new("gate").with_limit(7, 0).with_retry(Retry::After(MINUTE))),
        false => Ok(Permit::free()),
    });
    (shut, policy)
}

/// The error of a shut gate, as sent.
fn from_the_gate() -> Value {
    json!({
        "code": 429,
        "message": "refused by gate: retry after 60 s",
        "data": {
            "policy": "gate", "reason": "quota", "limit": 7, "remaining": 0,
            "retryAfterSeconds": 60, "retryAfterMs": 60_000,
        },
    })
}

/// The error as the SDK of a rejected client shows it to its application. Some SDKs show only a part.
fn assert_sees(sdk: Sdk, seen: &Value, status: u16, sent: &Value) {
    let error = &seen["error"];
    let message = error["message"].as_str().unwrap_or_default();
    let body = |text: &str| {
        let json = text.split_once("endpoint: ").map_or(text, |(_, body)| body);
        serde_json::from_str::<Value>(json).unwrap_or_else(|_| panic!("no JSON in {seen}"))
    };
    let whole = json!({ "jsonrpc": "2.0", "id": 0, "error": sent });
    match sdk {
        // For a 429 the text has only the status. For any other status only the JSON-RPC error is left.
        Sdk::Rmcp if status == 429 => assert!(message.contains("HTTP 429"), "{seen}"),
        Sdk::Rmcp => assert!(message.contains(sent["message"].as_str().expect("text")), "{seen}"),
        Sdk::TypeScript1 => {
            assert_eq!(error["code"], status, "{seen}");
            assert_eq!(body(message), whole);
        }
        Sdk::TypeScript2 => {
            assert_eq!(error["data"]["status"], status, "{seen}");
            assert_eq!(body(error["data"]["text"].as_str().expect("text")), whole);
        }
        Sdk::Python1 => assert!(message.contains(&format!("'{status} ")), "{seen}"),
        Sdk::Python2 => assert_eq!(error, sent),
    }
}

/// The error that a client sees after a 404 for its session. rmcp's client shows none, because it initializes anew.
fn assert_gone(sdk: Sdk, seen: &Value) {
    let error = &seen["error"];
    match sdk {
        Sdk::Rmcp => assert_eq!(*seen, json!({ "ok": "again" })),
        Sdk::TypeScript1 => assert_eq!(error["code"], 404, "{seen}"),
        Sdk::TypeScript2 => assert_eq!(error["data"]["status"], 404, "{seen}"),
        Sdk::Python1 | Sdk::Python2 => assert_eq!(error["message"], "Session terminated", "{seen}"),
    }
}

async fn a_call_after_an_eviction_works(sdk: Sdk) {
    let sessions = sessions(|builder| builder);
    let server = Server::with_layer(Arc::clone(&sessions)).await;
    let mut alice = sdk.connect(&server).await;
    let mut bob = sdk.connect(&server).await;
    for _ in 0..3 {
        assert_eq!(alice.echo("a").await, json!({ "ok": "a" }));
        assert_eq!(bob.echo("b").await, json!({ "ok": "b" }));
    }
    let stats = sessions.stats();
    assert!(stats.opened == 2 && stats.restored >= 5, "{stats:?}");
}

async fn evicted_without_parking_it_is_told(sdk: Sdk) {
    let sessions = sessions(|builder| builder.max_parked(0));
    let server = Server::with_layer_and(Arc::clone(&sessions), None).await;
    let mut alice = sdk.connect(&server).await;
    let mut bob = sdk.connect(&server).await;
    assert_eq!(bob.echo("b").await, json!({ "ok": "b" }));
    assert_gone(sdk, &alice.echo("again").await);
}

#[expect(clippy::print_stdout, reason = "a figure for docs/clients.md, which no test can hold")]
async fn closed_amid_a_call_it_is_told_at_once(sdk: Sdk) {
    let sessions = sessions(|builder| builder);
    let server = Server::with_layer(Arc::clone(&sessions)).await;
    let mut alice = sdk.connect(&server).await;
    alice.begin("sleep", json!({ "millis": 600_000 })).await;
    at_work(&server).await;
    let key = sessions.list()[0].key;
    let closed = Instant::now();
    assert_eq!(sessions.terminate(key, CloseReason::Revoked).await, 1);
    let seen = alice.answer().await;
    println!("{sdk:?}: told of the end {:.1} ms after the close began", closed.elapsed().as_secs_f64() * 1e3);
    let text = "This call was cut off and may or may not have had its effect: the session was closed (revoked). It needs a new session.";
    assert_eq!(seen, json!({ "told": text }));
    assert_gone(sdk, &alice.echo("again").await);
}

/// A server on a runtime of its own, which is killed with all its connections, and the directory of its sessions.
struct Mortal {
    server: Server,
    sessions: Sessions,
    directory: MemoryDirectory,
    /// Taken when it is killed.
    runtime: Option<Runtime>,
}

impl Drop for Mortal {
    fn drop(&mut self) {
        // A runtime must not be dropped in a task.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Mortal {
    async fn start(address: &str, directory: MemoryDirectory) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let sessions = sessions(|builder| builder.directory(directory.clone()));
        let (address, here) = (address.to_owned(), Arc::clone(&sessions));
        let server = runtime.spawn(async move {
            let parking = here.parking();
            Server::with_layer_at(&address, here, Some(parking)).await
        });
        Self { server: server.await.expect("starts"), sessions, directory, runtime: Some(runtime) }
    }

    /// Kills the server, and starts the next one at its address.
    async fn restart(self) -> Self {
        self.directory.crash();
        let directory = self.directory.another_server();
        let address = self.server.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
        drop(self);
        Self::start(&address, directory).await
    }
}

#[expect(clippy::print_stdout, reason = "a figure for docs/clients.md, which no test can hold")]
async fn cut_off_by_a_kill_it_is_told_after_the_restart(sdk: Sdk) {
    let server = Mortal::start("127.0.0.1:0", MemoryDirectory::new()).await;
    let mut alice = sdk.connect(&server.server).await;
    assert_eq!(alice.echo("before").await, json!({ "ok": "before" }));
    alice.begin("sleep", json!({ "millis": 600_000 })).await;
    at_work(&server.server).await;
    let server = server.restart().await;
    let restarted = Instant::now();
    let seen = alice.answer().await;
    println!("{sdk:?}: told of the kill {:.1} s after the restart", restarted.elapsed().as_secs_f64());
    assert!(restarted.elapsed() < Duration::from_secs(10), "{seen}");
    let text = "This call was cut off and may or may not have had its effect: the session was closed, or its server restarted.";
    assert_eq!(seen, json!({ "told": text }));
    assert_eq!(alice.echo("after").await, json!({ "ok": "after" }));
    let stats = server.sessions.stats();
    assert_eq!((stats.opened, stats.restored), (0, 1), "the session of before");
}

async fn too_many_newcomers(sdk: Sdk) {
    let (shut, gate) = gate();
    let sessions = sessions(|builder| builder.max_sessions(10).admission(gate));
    let server = Server::with_layer(Arc::clone(&sessions)).await;
    let mut alice = sdk.connect(&server).await;
    shut.store(true, SeqCst);
    let mut bob = sdk.start();
    assert_sees(sdk, &bob.connect(&server).await, 429, &from_the_gate());
    assert_eq!(alice.echo("a").await, json!({ "ok": "a" }));
    shut.store(false, SeqCst);
    assert_eq!(bob.connect(&server).await, json!({ "ok": "connected" }));
}

async fn no_room(sdk: Sdk) {
    let sessions = sessions(|builder| builder.max_busy(HOUR));
    let server = Server::with_layer(Arc::clone(&sessions)).await;
    let mut alice = sdk.connect(&server).await;
    alice.begin("sleep", json!({ "millis": 600_000 })).await;
    at_work(&server).await;
    let mut bob = sdk.start();
    let sent = json!({
        "code": 503,
        "message": "all places (1) are taken and no session may go",
        "data": {
            "policy": "capacity", "reason": "at_capacity", "limit": 1, "remaining": 0,
            "retryAfterSeconds": 1, "retryAfterMs": null,
        },
    });
    assert_sees(sdk, &bob.connect(&server).await, 503, &sent);
    let key = sessions.list()[0].key;
    assert_eq!(sessions.terminate(key, CloseReason::Revoked).await, 1);
    assert_eq!(bob.connect(&server).await, json!({ "ok": "connected" }));
}

async fn too_many_calls(sdk: Sdk) {
    let (shut, gate) = gate();
    let sessions = sessions(|builder| builder.requests(gate));
    let server = Server::with_layer(Arc::clone(&sessions)).await;
    let mut alice = sdk.connect(&server).await;
    assert_eq!(alice.echo("before").await, json!({ "ok": "before" }));
    shut.store(true, SeqCst);
    let text = "The tool was not called: refused by gate. Try again in 60 s.";
    assert_eq!(alice.echo("refused").await, json!({ "told": text }));
    shut.store(false, SeqCst);
    assert_eq!(alice.echo("after").await, json!({ "ok": "after" }));
    assert_eq!(sessions.stats().opened, 1);
}

/// Each SDK answers the `ping` on its listening stream, also while its session is parked.
async fn probed_it_keeps_its_listening_stream(sdk: Sdk) {
    const EVERY: Duration = Duration::from_secs(3);
    let sessions = sessions(|builder| builder.probe_listeners(EVERY, EVERY));
    let server = Server::with_layer(Arc::clone(&sessions)).await;
    let mut alice = sdk.connect(&server).await;
    let listens = async {
        while sessions.list()[0].open_streams == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listens).await.expect("it listens");
    // Without an answer the stream would end after twice the time.
    tokio::time::sleep(3 * EVERY).await;
    assert_eq!((sessions.list()[0].open_streams, sessions.stats().dead_streams), (1, 0), "while live");
    assert_eq!(sessions.terminate(sessions.list()[0].key, CloseReason::Idle).await, 1);
    tokio::time::sleep(3 * EVERY).await;
    let stats = sessions.stats();
    assert_eq!((stats.parked_streams, stats.restored, stats.dead_streams), (1, 0, 0), "while parked");
    assert_eq!(alice.echo("a").await, json!({ "ok": "a" }));
}

/// Every scenario with every SDK, as tests of their own.
macro_rules! with_each_sdk {
    ($($scenario:ident)*) => {
        $(mod $scenario {
            use super::Sdk;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn rmcp() {
                super::$scenario(Sdk::Rmcp).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn typescript_1() {
                super::$scenario(Sdk::TypeScript1).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn typescript_2() {
                super::$scenario(Sdk::TypeScript2).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn python_1() {
                super::$scenario(Sdk::Python1).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn python_2() {
                super::$scenario(Sdk::Python2).await;
            }
        })*
    };
}

with_each_sdk! {
    a_call_after_an_eviction_works
    evicted_without_parking_it_is_told
    closed_amid_a_call_it_is_told_at_once
    cut_off_by_a_kill_it_is_told_after_the_restart
    too_many_newcomers
    no_room
    too_many_calls
    probed_it_keeps_its_listening_stream
}
