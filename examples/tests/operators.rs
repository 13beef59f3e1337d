//! Who reaches the operator's page of the example server (`--admin`), and what it may do there.

#[path = "support/binary.rs"]
mod binary;
#[path = "support/process.rs"]
mod process;

use std::io::Write;
use std::process::Command;

use serde_json::{Value, json};

use self::binary::binary;
use self::process::Server;

const TOKEN: &str = "0123456789abcdef";

fn drain(server: &Server) -> reqwest::RequestBuilder {
    let post = reqwest::Client::new().post(format!("{}api/drain", server.admin()));
    post.header("x-admin-action", "1").json(&json!({"deadline_seconds": 1}))
}

fn file_with(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("writes");
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_beside_the_metrics_and_only_shows() {
    let server = Server::start(&["--admin", "127.0.0.1:0"]).await;
    let page = reqwest::get(server.admin()).await.expect("answers").text().await.expect("text");
    assert!(page.starts_with("<!doctype html>"));
    let overview = reqwest::get(format!("{}api/overview", server.admin())).await.expect("answers");
    let overview: Value = overview.json().await.expect("JSON");
    assert_eq!((&overview["actions"], &overview["limits"]["sessions"]), (&json!(false), &json!(1_000)));
    assert_eq!(drain(&server).send().await.expect("answers").status(), 403);
    let rebound = reqwest::Client::new().get(format!("{}metrics", server.admin())).header("host", "evil.example");
    assert_eq!(rebound.send().await.expect("answers").status(), 421);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_admin_actions_it_drains() {
    let server = Server::start(&["--admin", "127.0.0.1:0", "--admin-actions"]).await;
    assert_eq!(drain(&server).send().await.expect("answers").status(), 202);
    server.health_until(|health| health["draining"] == true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_token_file_it_may_listen_anywhere_and_asks_for_the_token() {
    let file = file_with(&format!("{TOKEN}\n"));
    let path = file.path().to_str().expect("text");
    let flags = ["--admin", "0.0.0.0:0", "--admin-token-file", path, "--admin-host", "admin.example"];
    let server = Server::start(&flags).await;
    let url = server.admin().replace("0.0.0.0", "127.0.0.1");
    for path in ["api/overview", "metrics"] {
        let ask = || reqwest::Client::new().get(format!("{url}{path}")).header("host", "admin.example");
        assert_eq!(ask().send().await.expect("answers").status(), 401);
        assert_eq!(ask().bearer_auth(TOKEN).send().await.expect("answers").status(), 200);
    }
}

#[test]
fn flags_that_make_no_sense_are_one_line() {
    let short = file_with("short");
    let long = file_with(&"a".repeat(5_000));
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().expect("text").to_owned();
    for (flags, says) in [
        (vec!["--admin", "0.0.0.0:0"], "--admin-token-file"),
        (vec!["--admin", "127.0.0.1:0", "--admin-token-file", "/nowhere"], "--admin-token-file: "),
        (vec!["--admin", "127.0.0.1:0", "--admin-token-file", &path(&short)], "token is 5 bytes long"),
        (vec!["--admin", "127.0.0.1:0", "--admin-token-file", &path(&long)], "longer than 4,096 bytes"),
        (vec!["--admin", "127.0.0.1:0", "--admin-host", "http://a"], "hosts is \"http://a\""),
        (vec!["--admin-actions"], "--admin"),
    ] {
        let ended =
            Command::new(binary("server")).args(["--listen", "127.0.0.1:0"]).args(&flags).output().expect("starts");
        let said = String::from_utf8(ended.stderr).expect("text");
        assert_eq!((ended.status.code(), said.lines().count()), (Some(2), 1), "{flags:?}: {said}");
        assert!(said.contains(says) && ended.stdout.is_empty(), "{flags:?}: {said}");
    }
}
