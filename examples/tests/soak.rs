//! The example server is soaked for some seconds, and by command for a minute:
//! `cargo test -p rmcp-session-policy-examples -- --ignored soak`.

#![cfg(target_os = "linux")] // as the soak reads /proc

#[path = "support/binary.rs"]
mod binary;

use std::process::Command;

use self::binary::binary;

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
    let run = Command::new(binary("soak")).args(args).status();
    assert!(run.expect("runs").success(), "it says above what is wrong");
}
