//! Child processes with a directory of their own: this test program, started again for the one test `child`.

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rmcp_session_policy::directory::{Change, Claim, Epoch, SessionDirectory, Usage};
use rmcp_session_policy_sqlite::{Durability, SqliteDirectory};

use crate::support::{PATIENCE, id, later, park, session};

/// A process, killed by SIGKILL at the latest when this is dropped.
pub(crate) struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a child in a role, with the path of its file and a number.
    pub(crate) fn start(role: &str, path: &Path, number: u64) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "children::child", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("CHILD_ROLE", role).env("CHILD_PATH", path).env("CHILD_NUMBER", number.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line that the child says. `None` once it is gone.
    pub(crate) fn hear(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The test harness writes lines of its own. A line that the kill has cut says nothing.
            if let Some((_, said)) = line.strip_suffix('\n').and_then(|line| line.split_once('@')) {
                return Some(said.to_owned());
            }
        }
    }

    /// Tells the process to begin.
    pub(crate) fn tell(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"begin\n").unwrap();
    }

    /// Kills the process, and returns what it has said before.
    pub(crate) fn kill(&mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.hear()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn say(line: String) {
    let mut out = std::io::stdout().lock();
    // In one write: the parent reads until the kill.
    out.write_all(format!("@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

#[tokio::test]
#[ignore = "other tests start it"]
async fn child() {
    let Ok(role) = env::var("CHILD_ROLE") else { return };
    let path = env::var_os("CHILD_PATH").unwrap();
    let number = env::var("CHILD_NUMBER").unwrap().parse().unwrap();
    let durability = if number % 2 == 0 { Durability::Behind } else { Durability::Before };
    // The log of so small a file is copied into it each 127 pages, so kills come within that too.
    let builder = SqliteDirectory::builder(path).durability(durability).max_bytes(2 << 20);
    let directory = builder.max_wait(PATIENCE).open().unwrap();
    match role.as_str() {
        "hold" => hold(&directory).await,
        "load" => load(&directory, number).await,
        "claim" => claim_all(&directory, number).await,
        "end" => crate::due::end(&directory, say).await,
        "serve" => crate::restarts::serve(directory, say).await,
        other => panic!("no such role: {other}"),
    }
}

/// Has one session live and one parked, until it is killed or its parent is gone.
async fn hold(directory: &SqliteDirectory) {
    directory.write(&id("live"), Epoch::FIRST, Change::Opened(session(3)));
    park(directory, &id("parked"), 4);
    assert_eq!(directory.flush(later()).await, 0);
    say("ready".to_owned());
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).unwrap() > 0 {
        say("here".to_owned());
    }
}

/// Once it is told to begin, claims this many sessions that are parked, and says which it has won.
async fn claim_all(directory: &SqliteDirectory, sessions: u64) {
    say("ready".to_owned());
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for name in 0..sessions {
        let found = directory.look(&id(name)).await.unwrap().unwrap();
        if let Claim::Yours(epoch, _) = directory.claim(&id(name), &found).await.unwrap() {
            say(format!("{name} {}", epoch.get()));
        }
    }
    say("done".to_owned());
    std::future::pending::<()>().await;
}

/// After how many writes a load stops that says when all of it is written.
const WRITES: u64 = 60;

/// Opens, uses, changes, parks, claims and ends sessions, and leaves some of them ending, as fast as it can. Says
/// `try NAME VERSION BODY` before each write of a version (zero for an end), with a one if it has a body, and
/// `ack NAME VERSION` once it is durable.
///
/// In each fourth round it waits for no write. It stops after some, and says `all MICROSECONDS` once they are written by
/// themselves, and how long that took.
async fn load(directory: &SqliteDirectory, round: u64) {
    let mut random = fastrand::Rng::with_seed(round);
    let mut names: Vec<u64> = (0..20).collect();
    let mut next = round * 1_000_000;
    let mut mine: HashMap<u64, (Epoch, bool)> = HashMap::new();
    let stops = round % 4 == 2;
    say("ready".to_owned());
    loop {
        if stops && next > round * 1_000_000 + WRITES {
            let began = std::time::Instant::now();
            while directory.stats().queued > 0 {
                assert!(began.elapsed() < PATIENCE, "nothing is written by itself");
                tokio::task::yield_now().await;
            }
            say(format!("all {}", began.elapsed().as_micros()));
            return std::future::pending().await;
        }
        let place = random.usize(..names.len());
        let name = names[place];
        let id = id(name);
        next += 1;
        let (epoch, change) = match mine.get(&name).copied() {
            Some((epoch, true)) => (epoch, some_change(&mut random, next)),
            _ => match directory.look(&id).await.unwrap() {
                None => (Epoch::FIRST, Change::Opened(session(next))),
                Some(found) => {
                    if let Claim::Yours(epoch, _) = directory.claim(&id, &found).await.unwrap() {
                        mine.insert(name, (epoch, true));
                    } else {
                        names[place] = next;
                    }
                    continue;
                }
            },
        };
        let is_end = change == Change::Dead;
        let version = if is_end { 0 } else { next };
        mine.insert(name, (epoch, !matches!(change, Change::Parked(_) | Change::Dead)));
        let has_body = matches!(change, Change::Opened(_) | Change::Data(_) | Change::Parked(_));
        say(format!("try {name} {version} {}", u8::from(has_body)));
        let change = if is_end && random.bool() { Change::Ending(None) } else { change };
        let is_ending = matches!(change, Change::Ending(_));
        directory.write(&id, epoch, change);
        if is_end {
            names[place] = next;
        }
        if !stops && (is_end || random.bool()) {
            assert!(directory.written(&id, later()).await);
            say(format!("ack {name} {version}"));
        }
        if is_ending && random.bool() {
            directory.write(&id, epoch, Change::Dead);
        }
    }
}

fn some_change(random: &mut fastrand::Rng, version: u64) -> Change {
    match random.u8(..10) {
        0 => Change::Dead,
        1..=3 => Change::Parked(session(version)),
        4..=6 => Change::Data(session(version)),
        _ => Change::Used(Usage::default().with_uses(version)),
    }
}
