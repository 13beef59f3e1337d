//! The example server as a process of its own.

#![allow(dead_code, clippy::allow_attributes, reason = "a fixture, of which each test file uses a part")]

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::binary::binary;

/// How long to wait for what must happen. Only a failure waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Its drop kills it.
pub(crate) struct Server {
    process: Child,
    /// Of its MCP service.
    pub(crate) url: String,
    /// Of what it offers to operators, with `--admin`.
    admin: Option<String>,
    logs: JoinHandle<()>,
    logged: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server at a free port.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", flags).await
    }

    pub(crate) async fn start_at(address: &str, flags: &[&str]) -> Self {
        let mut process = Command::new(binary("server"))
            .args(["--listen", address])
            .args(flags)
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        let mut stderr = BufReader::new(process.stderr.take().expect("piped"));
        let logged = Arc::<Mutex<String>>::default();
        let log = Arc::clone(&logged);
        let logs = tokio::spawn(async move {
            let mut line = String::new();
            while stderr.read_line(&mut line).await.expect("text") > 0 {
                log.lock().expect("no panic").push_str(&std::mem::take(&mut line));
            }
        });
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.as_mut().expect("piped"));
        timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("listens").expect("a first line");
        let url = line.trim_end().strip_prefix("listening on ").expect("the address").to_owned();
        assert!(url.starts_with("http://127.0.0.1:") && url.ends_with("/mcp"), "{line}");
        let admin = if flags.contains(&"--admin") {
            line.clear();
            timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("listens").expect("a second line");
            Some(line.trim_end().strip_prefix("admin on ").expect("the address").to_owned())
        } else {
            None
        };
        Self { process, url, admin, logs, logged }
    }

    /// Where it serves operators, up to the first slash of the path. It was started with `--admin`.
    pub(crate) fn admin(&self) -> &str {
        self.admin.as_deref().expect("it serves operators")
    }

    /// The address and port at which it listens.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://").trim_end_matches("/mcp")
    }

    pub(crate) async fn health(&self) -> Value {
        let url = format!("http://{}/healthz", self.address());
        reqwest::get(url).await.expect("answers").json().await.expect("JSON")
    }

    /// Waits until the numbers are as they should be.
    pub(crate) async fn health_until(&self, good: impl Fn(&Value) -> bool + Send + Sync) -> Value {
        let until = async {
            loop {
                let health = self.health().await;
                if good(&health) {
                    return health;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        match timeout(PATIENCE, until).await {
            Ok(health) => health,
            Err(_) => panic!("never came to be: {}", self.health().await),
        }
    }

    /// Waits until the log has a text.
    pub(crate) async fn logs(&self, text: &str) {
        let until = async {
            while !self.logged.lock().expect("no panic").contains(text) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, until).await.is_err() {
            panic!("never logged {text}: {}", self.logged.lock().expect("no panic"));
        }
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().expect("it runs");
        let kill = std::process::Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status();
        assert!(kill.expect("sh").success());
    }

    /// Waits for the end; gives the exit status and what was logged.
    pub(crate) async fn end(mut self) -> (ExitStatus, String) {
        let status = timeout(PATIENCE, self.process.wait()).await.expect("ends").expect("waits");
        self.logs.await.expect("collected");
        let logged = std::mem::take(&mut *self.logged.lock().expect("no panic"));
        (status, logged)
    }
}
