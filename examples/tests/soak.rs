//! The example server is soaked for a minute: `cargo test -p rmcp-session-policy-examples -- --ignored soak`.

#![cfg(target_os = "linux")] // as the soak reads /proc

use std::path::Path;
use std::process::Command;

#[test]
#[ignore = "takes a minute"]
fn a_minute_of_soaking_leaves_nothing_behind() {
    let test = std::env::current_exe().expect("a test has a path");
    // Cargo builds the examples next to the tests of their package.
    let target = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let run = Command::new(target.join("examples/soak")).args(["--seconds", "60", "--clients", "300"]).status();
    assert!(run.expect("runs; `cargo build --examples` builds it").success(), "it says above what is wrong");
}
