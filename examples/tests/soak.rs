//! The example server is soaked for some seconds, and by command for a minute:
//! `cargo test -p rmcp-session-policy-examples -- --ignored soak`.

#![cfg(target_os = "linux")] // as the soak reads /proc

use std::path::Path;
use std::process::Command;

#[test]
fn a_short_round_of_soaking_leaves_no_session_task_or_file_behind() {
    soak(&["--short", "--clients", "64"]);
}

#[test]
#[ignore = "takes a minute"]
fn a_minute_of_soaking_leaves_nothing_behind() {
    soak(&["--seconds", "60", "--clients", "300"]);
}

fn soak(args: &[&str]) {
    let test = std::env::current_exe().expect("a test has a path");
    // Cargo builds the examples next to the tests of their package.
    let target = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let run = Command::new(target.join("examples/soak")).args(args).status();
    assert!(run.expect("runs; `cargo build --examples` builds it").success(), "it says above what is wrong");
}
