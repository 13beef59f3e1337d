//! What operators are offered by the example server (`--admin`).

#[path = "support/binary.rs"]
mod binary;
#[path = "support/process.rs"]
mod process;

use std::process::Command;

use self::binary::binary;
use self::process::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_line_says_where_operators_look() {
    let server = Server::start(&["--admin", "127.0.0.1:0"]).await;
    let metrics = reqwest::get(format!("{}metrics", server.admin())).await.expect("answers");
    assert_eq!(metrics.status(), 200);
    assert!(metrics.headers()["content-type"].to_str().expect("text").starts_with("text/plain; version=0.0.4"));
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
