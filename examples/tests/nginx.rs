//! The example server behind a real nginx: every answer arrives, limits are per real client, and a drain is orderly.
//!
//! nginx is Debian's; `.ci/nginx` installs it.

#![cfg(target_os = "linux")] // where all of 127.0.0.0/8 is at hand

#[path = "support/binary.rs"]
mod binary;
#[path = "support/process.rs"]
mod process;

use std::fmt::Write as _;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use reqwest::{Client, Method, Response};
use rmcp::model::CallToolRequestParams;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::{RoleClient, ServiceExt, service::RunningService};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use self::process::{PATIENCE, Server};

/// Sizes of bodies: one packet, what nginx keeps in memory and what it does not, and nearly what rmcp takes.
const SIZES: [usize; 5] = [0, 20_000, 300_000, 1_500_000, 3_500_000];

/// How often each is sent: an answer that races with its body is lost now and then.
const TIMES: usize = 10;

/// How nginx is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    /// As it comes: HTTP/1.0 to the server, everything buffered.
    Default,
    /// As operators of streaming servers set it up.
    Usual,
}

const SETUPS: [Setup; 2] = [Setup::Default, Setup::Usual];

impl Setup {
    fn config(self, server: &str, port: u16, folder: &Path) -> String {
        let mut config = String::from("daemon off;\nmaster_process off;\nevents {}\n");
        let folder = folder.display();
        let mut line = |line: std::fmt::Arguments<'_>| writeln!(config, "{line}").expect("a string");
        line(format_args!("pid {folder}/pid;\nerror_log stderr error;\nhttp {{\naccess_log off;"));
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            line(format_args!("{kind}_temp_path {folder}/{kind};"));
        }
        line(format_args!(
            "upstream mcp {{ server {server}; {} }}",
            if self == Self::Usual { "keepalive 8;" } else { "" }
        ));
        // Its own bound would answer 413 to more than 1 MB.
        line(format_args!("server {{\nlisten 127.0.0.1:{port};\nclient_max_body_size 8m;\nlocation / {{"));
        line(format_args!("proxy_pass http://mcp;\nproxy_set_header Host localhost;"));
        if self == Self::Usual {
            line(format_args!("proxy_http_version 1.1;\nproxy_set_header Connection \"\";\nproxy_buffering off;"));
            line(format_args!("proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\nproxy_read_timeout 1h;"));
        }
        line(format_args!("}}\n}}\n}}"));
        config
    }
}

/// A running nginx, one process. Its drop kills it.
struct Nginx {
    _process: Child,
    url: String,
    folder: PathBuf,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

impl Nginx {
    async fn start(setup: Setup, server: &Server) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, SeqCst);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nginx-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        // nginx cannot be told to pick a port. Between this pick and its own, another process may.
        for _ in 0..5 {
            let port =
                TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
            let config = folder.join("nginx.conf");
            std::fs::write(&config, setup.config(server.address(), port, &folder)).expect("writes");
            let mut process = Command::new("nginx")
                .arg("-p")
                .arg(&folder)
                .arg("-c")
                .arg(&config)
                .args(["-e", "stderr"])
                .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("nginx is missing: `.ci/nginx` installs it");
            let until = async {
                while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                    if process.try_wait().expect("waits").is_some() {
                        return false;
                    }
                    sleep(Duration::from_millis(5)).await;
                }
                true
            };
            if timeout(PATIENCE, until).await.expect("starts or ends") {
                return Self { _process: process, url: format!("http://127.0.0.1:{port}/mcp"), folder };
            }
            let mut said = String::new();
            process.stderr.take().expect("piped").read_to_string(&mut said).await.expect("text");
            assert!(said.contains("Address already in use"), "nginx does not start: {said}");
        }
        panic!("no port stays free")
    }
}

/// A client at an address of its own.
struct Caller {
    http: Client,
    url: String,
}

impl Caller {
    fn new(nginx: &Nginx, from: [u8; 4]) -> Self {
        let http = Client::builder().local_address(IpAddr::from(from)).timeout(PATIENCE).build().expect("a client");
        Self { http, url: nginx.url.clone() }
    }

    /// Sends a message with so much white space behind it.
    async fn post(&self, session: Option<&str>, message: &Value, padding: usize) -> Result<Response, reqwest::Error> {
        let mut request = self
            .http
            .request(Method::POST, &self.url)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        if let Some(id) = session {
            request = request.header("mcp-session-id", id).header("mcp-protocol-version", "2025-11-25");
        }
        request.body(message.to_string() + &" ".repeat(padding)).send().await
    }

    async fn status(&self, session: Option<&str>, message: &Value, padding: usize) -> String {
        let answer = async {
            let response = self.post(session, message, padding).await?;
            let status = response.status().as_u16();
            response.bytes().await?;
            Ok::<_, reqwest::Error>(status)
        };
        answer.await.map_or_else(|error| format!("{error:?}"), |status| status.to_string())
    }

    async fn open(&self) -> String {
        let response = self.post(None, &initialize(), 0).await.expect("answers");
        assert_eq!(response.status(), 200);
        let id = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        response.bytes().await.expect("a body");
        assert_eq!(self.status(Some(&id), &initialized(), 0).await, "202");
        id
    }

    /// Asserts that this is the status, each time and at each size, for as long as the server listens.
    async fn always(&self, status: &str, session: Option<&str>, message: &Value, (setup, server): (Setup, &Server)) {
        let mut wrong = Vec::new();
        'listens: for round in 0..TIMES {
            for padding in SIZES {
                let seen = self.status(session, message, padding).await;
                if seen == status {
                    continue;
                }
                if TcpStream::connect(server.address()).await.is_err() {
                    assert!(round > 0, "{setup:?}: it listened for too short a time to tell");
                    break 'listens;
                }
                wrong.push(format!("{seen} at {padding} bytes"));
            }
        }
        assert!(wrong.is_empty(), "{setup:?}: {} times not {status}: {wrong:#?}", wrong.len());
    }
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "behind nginx", "version": "1"}}})
}

fn initialized() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/initialized"})
}

fn call(tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

/// Sends a call that takes a minute; the response is there once it has begun.
async fn keep_busy(server: &Server, caller: &Caller) -> Response {
    let id = caller.open().await;
    let response = caller.post(Some(&id), &call("sleep", &json!({"millis": 60_000})), 0).await.expect("begins");
    server.health_until(|health| health["busy"] == 1).await;
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_served_is_answered_whatever_its_size() {
    for setup in SETUPS {
        let server = Server::start(&["--max-sessions", "10"]).await;
        let nginx = Nginx::start(setup, &server).await;
        let caller = Caller::new(&nginx, [127, 0, 0, 2]);
        let id = caller.open().await;
        caller.always("200", Some(&id), &call("count", &json!({})), (setup, &server)).await;
        caller.always("202", Some(&id), &initialized(), (setup, &server)).await;
        caller.always("200", None, &initialize(), (setup, &server)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_session_is_unknown_arrives_whatever_the_size_of_the_request() {
    for setup in SETUPS {
        let server = Server::start(&[]).await;
        let nginx = Nginx::start(setup, &server).await;
        let caller = Caller::new(&nginx, [127, 0, 0, 2]);
        let unknown = "00000000-0000-4000-8000-000000000000";
        caller.always("404", Some(unknown), &call("count", &json!({})), (setup, &server)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_quota_is_used_up_arrives_whatever_the_size_of_the_request() {
    for setup in SETUPS {
        let server = Server::start(&["--rate", "1/3600"]).await;
        let nginx = Nginx::start(setup, &server).await;
        let caller = Caller::new(&nginx, [127, 0, 0, 2]);
        caller.open().await;
        caller.always("429", None, &initialize(), (setup, &server)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_the_server_is_full_arrives_whatever_the_size_of_the_request() {
    for setup in SETUPS {
        let server = Server::start(&["--max-sessions", "1"]).await;
        let nginx = Nginx::start(setup, &server).await;
        let caller = Caller::new(&nginx, [127, 0, 0, 2]);
        let _busy = keep_busy(&server, &caller).await;
        caller.always("503", None, &initialize(), (setup, &server)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_the_server_drains_arrives_whatever_the_size_of_the_request() {
    for setup in SETUPS {
        let server = Server::start(&[]).await;
        let nginx = Nginx::start(setup, &server).await;
        let caller = Caller::new(&nginx, [127, 0, 0, 2]);
        let _busy = keep_busy(&server, &caller).await;
        server.signal("TERM");
        let until = async {
            while caller.status(None, &initialize(), 0).await == "200" {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, until).await.expect("it drains");
        caller.always("503", None, &initialize(), (setup, &server)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_that_is_named_each_client_has_a_limit_of_its_own() {
    let server = Server::start(&["--per-client-rate", "1/3600", "--trusted-proxy", "127.0.0.1"]).await;
    let nginx = Nginx::start(Setup::Usual, &server).await;
    for client in [2, 3] {
        let caller = Caller::new(&nginx, [127, 0, 0, client]);
        assert_eq!(caller.status(None, &initialize(), 0).await, "200", "client {client}");
        assert_eq!(caller.status(None, &initialize(), 0).await, "429", "client {client}");
        // nginx appends the true address to what its client claims.
        let forged = caller.http.post(&caller.url).header("x-forwarded-for", "198.51.100.9").json(&initialize());
        let forged = forged.header("accept", "application/json, text/event-stream").send().await.expect("answers");
        assert_eq!(forged.status(), 429, "client {client}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_that_was_forgotten_all_clients_are_one() {
    for setup in SETUPS {
        let server = Server::start(&["--per-client-rate", "1/3600"]).await;
        let nginx = Nginx::start(setup, &server).await;
        assert_eq!(Caller::new(&nginx, [127, 0, 0, 2]).status(None, &initialize(), 0).await, "200");
        assert_eq!(Caller::new(&nginx, [127, 0, 0, 3]).status(None, &initialize(), 0).await, "429", "{setup:?}");
    }
}

async fn connect(nginx: &Nginx) -> RunningService<RoleClient, ()> {
    let transport = StreamableHttpClientTransport::from_uri(nginx.url.clone());
    timeout(PATIENCE, ().serve(transport)).await.expect("an answer").expect("connects")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_drain_calls_under_way_are_answered_and_newcomers_are_told() {
    for setup in SETUPS {
        let server = Server::start(&[]).await;
        let nginx = Nginx::start(setup, &server).await;
        let mut calls = Vec::new();
        for _ in 0..10 {
            let client = connect(&nginx).await;
            calls.push(tokio::spawn(async move {
                let mut params = CallToolRequestParams::new("sleep");
                params.arguments = json!({"millis": 2_000}).as_object().cloned();
                let result = client.call_tool(params).await?;
                Ok::<_, rmcp::ServiceError>(serde_json::to_string(&result.content).expect("serializes"))
            }));
        }
        server.health_until(|health| health["busy"] == 10).await;
        server.signal("TERM");
        let newcomer = Caller::new(&nginx, [127, 0, 0, 2]);
        // Once the drain is over the port is closed, and a proxy says 502.
        let told = loop {
            let status = newcomer.status(None, &initialize(), 0).await;
            if status != "200" {
                break status;
            }
        };
        assert_eq!(told, "503", "{setup:?}");
        for call in calls {
            let answer = timeout(PATIENCE, call).await.expect("an answer").expect("no panic");
            let answer = answer.unwrap_or_else(|error| panic!("{setup:?}: {error}"));
            assert!(answer.contains("slept 2000"), "{setup:?}: {answer}");
        }
        let (status, logs) = server.end().await;
        assert_eq!(status.code(), Some(0), "{setup:?}: {logs}");
        assert_eq!(newcomer.status(None, &initialize(), 0).await, "502", "{setup:?}");
    }
}
