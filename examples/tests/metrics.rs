//! What operators are offered by the example server (`--admin`), and that docs/operating.md, the dashboard and the alerts speak of what
//! it exports.

#[path = "support/binary.rs"]
mod binary;
#[path = "support/process.rs"]
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::{Value, json};

use self::binary::binary;
use self::process::Server;

const TABLE: &str = include_str!("../../docs/operating.md");
const ALERTS: &str = include_str!("../../docs/alerts.yml");
const DASHBOARD: &str = include_str!("../../docs/grafana-dashboard.json");

/// The labels that Prometheus adds.
const OF_PROMETHEUS: [&str; 3] = ["job", "instance", "le"];

impl Server {
    async fn metrics(&self) -> String {
        let answer = reqwest::get(format!("{}metrics", self.admin())).await.expect("answers");
        assert!(answer.headers()["content-type"].to_str().expect("text").starts_with("text/plain; version=0.0.4"));
        answer.text().await.expect("text")
    }

    /// Sends a message; gives the status, and the session that it opens.
    async fn post(&self, user: &str, session: Option<&str>, message: Value) -> (u16, Option<String>) {
        let request = reqwest::Client::new().post(&self.url).header("accept", "application/json, text/event-stream");
        let request = request.header("x-user", user).json(&message);
        let request = match session {
            Some(id) => request.header("mcp-session-id", id).header("mcp-protocol-version", "2025-11-25"),
            None => request,
        };
        let answer = request.send().await.expect("answers");
        let id = answer.headers().get("mcp-session-id").map(|id| id.to_str().expect("text").to_owned());
        let status = answer.status().as_u16();
        answer.text().await.expect("a body");
        (status, id)
    }

    async fn open(&self, user: &str, software: &str) -> Result<String, u16> {
        let client = json!({ "name": software, "version": "1" });
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client });
        let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
        let (status, id) = self.post(user, None, initialize).await;
        let id = id.ok_or(status)?;
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(self.post(user, Some(&id), initialized).await.0, 202);
        Ok(id)
    }

    async fn echo(&self, user: &str, id: &str) -> u16 {
        let params = json!({ "name": "echo", "arguments": { "text": "e" } });
        let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params });
        self.post(user, Some(id), call).await.0
    }
}

/// What is exported: of each metric its kind and the keys of its labels.
fn exported(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut all = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            all.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
    }
    for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let of =
            |name: &str| ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
        let name = if all.contains_key(name) { name.to_owned() } else { of(name).expect("of a histogram") };
        let keys = labels(line).filter(|key| !OF_PROMETHEUS.contains(&&**key));
        all.get_mut(&name).expect("it has a type").1.extend(keys);
    }
    all
}

/// The keys of the labels in braces.
fn labels(text: &str) -> impl Iterator<Item = String> {
    let inside = text.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(inside, _)| inside);
    let keys = inside.split("\",").filter_map(|label| label.split(['=', '!']).next());
    keys.filter(|key| !key.is_empty()).map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// The table of docs/operating.md, as an exporter for Prometheus shows it.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = TABLE.lines().filter(|line| line.starts_with("| `mcp.server."));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split(" |").map(str::trim).collect();
        let [name, kind, unit, labels, meaning] = cells[..] else { panic!("five cells: {line}") };
        assert!(!meaning.is_empty());
        let plain = |text: &str| text.trim_matches('`').replace('.', "_");
        let kind = kind.split(' ').next().expect("a kind");
        let mut name = plain(name);
        if unit != "1" && !name.ends_with(unit) {
            name = format!("{name}_{unit}");
        }
        if kind == "counter" {
            name += "_total";
        }
        let labels = labels.split(", ").filter(|label| !label.is_empty()).map(plain).collect();
        (name, (kind.to_owned(), labels))
    };
    rows.map(row).collect()
}

/// Every mention of a metric in the dashboard and the alerts, with the labels it is filtered by.
fn mentioned(text: &str) -> Vec<(String, Vec<String>)> {
    let mentions = text.match_indices("mcp_server_session_").map(|(at, _)| &text[at..]);
    let mention = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let filter = if rest[end..].starts_with('{') { labels(rest).collect() } else { Vec::new() };
        (rest[..end].to_owned(), filter)
    };
    mentions.map(mention).collect()
}

/// Uses a server in all the ways that make a series.
async fn use_it(server: &Server) -> Vec<String> {
    let alice = server.open("alice", "claude-code").await.expect("room");
    assert_eq!(server.echo("alice", &alice).await, 200);
    let bob = server.open("bob", "a stranger's software").await.expect("room");
    assert_eq!(server.echo("bob", &bob).await, 200);
    // Evicts one of them, which comes back then.
    let carol = server.open("carol", "cursor-vscode").await.expect("room");
    for (user, id) in [("alice", &alice), ("bob", &bob), ("carol", &carol)] {
        assert_eq!(server.echo(user, id).await, 200);
    }
    assert_eq!(server.open("dave", "x").await.expect_err("a quota"), 429);
    vec![alice, bob, carol]
}

const FLAGS: [&str; 10] = [
    "--admin",
    "127.0.0.1:0",
    "--max-sessions",
    "2",
    "--rate",
    "3/3600",
    "--principal-header",
    "x-user",
    "--idle-timeout",
    "600",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_says_what_is_exported_and_nothing_else() {
    let server = Server::start(&FLAGS).await;
    use_it(&server).await;
    let (exported, documented) = (exported(&server.metrics().await), documented());
    let names = |all: &BTreeMap<String, _>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&exported), names(&documented));
    for (name, of) in &documented {
        assert_eq!(of, &exported[name], "{name}: what is documented, and what is exported");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_and_the_alerts_ask_for_what_is_exported() {
    let server = Server::start(&FLAGS).await;
    use_it(&server).await;
    let page = server.metrics().await;
    let exported = exported(&page);
    let samples: BTreeSet<_> = page.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let expressions = dashboard["panels"].as_array().expect("panels").iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().expect("targets").iter();
        targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()).collect::<Vec<_>>()
    });
    let alerts = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned);
    let (expressions, alerts): (Vec<_>, Vec<_>) = (expressions.collect(), alerts.collect());
    assert!(expressions.len() > 30 && alerts.len() == 4, "{} and {}", expressions.len(), alerts.len());
    for expression in expressions.iter().chain(&alerts) {
        let mentions = mentioned(expression);
        assert!(!mentions.is_empty(), "{expression}");
        for (sample, filter) in mentions {
            assert!(samples.contains(&*sample), "{sample} is not exported: {expression}");
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.strip_suffix(end));
            let (_, keys) = exported.get(&sample).or_else(|| exported.get(of_histogram?)).expect("it has a type");
            for key in filter.iter().filter(|key| !OF_PROMETHEUS.contains(&key.as_str())) {
                assert!(keys.contains(key), "{sample} has no label {key}: {expression}");
            }
        }
    }
    for name in ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(TABLE.contains(&format!("| `{name}` |")), "docs/operating.md does not explain {name}");
    }
    // Every metric is of use to somebody who looks at the dashboard.
    let asked = expressions.iter().chain(&alerts).flat_map(|expression| mentioned(expression)).map(|(name, _)| name);
    let asked: BTreeSet<_> = asked.collect();
    let is_asked = |name: &&String| !asked.contains(*name) && !asked.contains(&format!("{name}_bucket"));
    assert_eq!(exported.keys().filter(is_asked).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_id_address_or_principal_is_exported_while_sessions_are_used() {
    let server =
        Server::start(&["--admin", "127.0.0.1:0", "--max-sessions", "20", "--principal-header", "x-user"]).await;
    let mut ids = Vec::new();
    let mut pages = String::new();
    for number in 0..40 {
        let user = format!("principal-{number}");
        let id = server.open(&user, &format!("software-of-{number}")).await.expect("room");
        assert_eq!(server.echo(&user, &id).await, 200);
        ids.push((user, id));
        pages += &server.metrics().await;
        // One of those that were evicted before comes back.
        let (user, id) = &ids[ids.len() / 2];
        assert_eq!(server.echo(user, id).await, 200);
        pages += &server.metrics().await;
    }
    assert!(pages.contains("mcp_server_session_restored_total") && ids.len() == 40);
    for (_, id) in &ids {
        assert!(!pages.contains(id.as_str()), "a session id is exported");
    }
    for secret in ["principal-", "software-of-", "127.0.0.1"] {
        assert!(!pages.contains(secret), "{secret} is exported");
    }
}

#[test]
fn operators_are_served_on_this_machine_alone() {
    for address in ["0.0.0.0:0", "[::]:0", "10.1.2.3:9000"] {
        let ended = Command::new(binary("server")).args(["--admin", address]).output().expect("starts");
        let said = String::from_utf8(ended.stderr).expect("text");
        assert_eq!((ended.status.code(), said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains("--admin") && ended.stdout.is_empty(), "{said}");
    }
}
