//! The example server with `--config FILE`: read at the start and on SIGHUP, all of it or nothing.

#[path = "support/binary.rs"]
mod binary;
#[path = "support/process.rs"]
mod process;

use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Command;

use self::binary::binary;
use self::process::{PATIENCE, Server};

/// A file that a test rewrites. It is removed with the test.
struct Config {
    _folder: TempDir,
    path: PathBuf,
}

impl Config {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Self { path: folder.path().join("server.toml"), _folder: folder };
        config.write(text);
        config
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).expect("writes");
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("text")
    }
}

#[tokio::test]
async fn the_file_is_read_at_the_start_and_what_is_typed_wins() {
    let config = Config::new("max-sessions = 70\nparked = 5\ntrusted-proxy = [\"10.0.0.0/8\", \"127.0.0.1\"]\n");
    let server = Server::start(&["--config", config.path()]).await;
    assert_eq!(server.health().await["max"], 70);
    let server = Server::start(&["--config", config.path(), "--max-sessions", "7"]).await;
    assert_eq!(server.health().await["max"], 7);
    // It wins on a reload too.
    config.write("max-sessions = 80\nidle-timeout = 60\nparked = 5\ntrusted-proxy = [\"10.0.0.0/8\", \"127.0.0.1\"]\n");
    server.signal("HUP");
    server.logs("changed=[\"idle-timeout\"]").await;
    assert_eq!(server.health().await["max"], 7);
    server.signal("TERM");
    let (status, logs) = server.end().await;
    assert_eq!(status.code(), Some(0), "{logs}");
}

#[tokio::test]
async fn it_is_read_again_on_sighup_and_one_bad_line_changes_nothing() {
    let config = Config::new("max-sessions = 70\n");
    let server = Server::start(&["--config", config.path()]).await;
    config.write("# more\nmax-sessions = 90\neviction = \"lru\"\nidle-timeout = 60\n");
    server.signal("HUP");
    server.health_until(|health| health["max"] == 90).await;
    let wrong = [
        ("max-sessions = 30\n\nidle-timeout = 0\n", ":3: idle-timeout is 0ns: allow more than zero"),
        ("max-sessions = 30\nsurprise = 1\n", ":2: surprise is no setting"),
        ("max-sessions = 30\nidle-timeout 5\n", ":2: key with no value"),
        ("eviction = \"lru\"\nmax-sessions = \"many\"\n", ":2: invalid value 'many' for '--max-sessions"),
        ("max-sessions = 30\nper-client-rate = \"0/60\"\n", ":2: invalid value '0/60' for '--per-client-rate"),
        (
            "max-sessions = 30\ntrusted-proxy = [\"10.0.0.0/8\"]\n",
            ":2: trusted-proxy cannot change while the server runs",
        ),
        ("max-sessions = 0\n", ":1: max-sessions is 0: allow at least 1 session"),
    ];
    for (text, expected) in wrong {
        config.write(text);
        server.signal("HUP");
        server.logs(&format!("server.toml{expected}")).await;
        assert_eq!(server.health().await["max"], 90, "{text}");
    }
    // A good one still counts.
    config.write("max-sessions = 20\neviction = \"lru\"\nper-client-rate = \"7/60\"\nrequest-rate = \"9/1\"\n");
    server.signal("HUP");
    server.logs("changed=[\"max-sessions\", \"per-client-rate\", \"idle-timeout\", \"request-rate\"]").await;
    assert_eq!(server.health().await["max"], 20);
    server.signal("TERM");
    let (status, logs) = server.end().await;
    assert_eq!((status.code(), logs.matches("nothing has changed").count()), (Some(0), wrong.len()), "{logs}");
}

#[tokio::test]
async fn a_bad_file_ends_the_start_with_code_2_and_the_line() {
    let wrong = [
        ("max-sessions = 70\nsurprise = 1\n", ":2: surprise is no setting"),
        ("max-sessions = \n", ":1: "),
        ("\n\nmax-sessions = 0\n", ":3: max-sessions is 0: allow at least 1 session"),
        ("parked = 1\nmax-sessions = true\n", ":2: max-sessions: write a number"),
        ("config = \"other.toml\"\n", ":1: config is no setting"),
        ("[server]\nmax-sessions = 1\n", ":1: server is no setting"),
        ("eviction = \"mru\"\n", ":1: invalid value 'mru'"),
    ];
    for (text, expected) in wrong {
        let config = Config::new(text);
        let line = refused(config.path()).await;
        assert!(line.contains("server.toml") && line.contains(expected), "{text}: {line}");
    }
    assert!(refused("no-such-file.toml").await.starts_with("no-such-file.toml: "));
}

/// The server ends with code 2 and one line. Returns the line.
async fn refused(file: &str) -> String {
    let mut server = Command::new(binary("server"));
    let run = server.args(["--config", file]).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, run).await.expect("ends").expect("runs");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{file}: {stderr}");
    assert!(output.stdout.is_empty());
    stderr
}
