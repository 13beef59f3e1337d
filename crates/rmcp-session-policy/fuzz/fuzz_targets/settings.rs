//! The settings of the example server, as they are typed: a clear error or a manager that works, never a panic.

#![no_main]

#[path = "../../../../examples/server.rs"]
#[allow(dead_code, unreachable_pub)]
mod server;

use std::sync::LazyLock;
use std::time::Duration;

use clap::Parser;
use libfuzzer_sys::fuzz_target;
use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));

fuzz_target!(|typed: &str| {
    let Ok(args) = server::Args::try_parse_from(std::iter::once("server").chain(typed.split_ascii_whitespace())) else {
        return;
    };
    if args.state.is_some() {
        // It would write files under any name.
        return;
    }
    let sessions = match server::sessions(&args) {
        Ok(sessions) => sessions,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    if let Err(error) = server::layer(&args, &sessions) {
        return assert!(!error.to_string().is_empty());
    }
    let tasks = RUNTIME.metrics();
    RUNTIME.block_on(async {
        let created = sessions.create_session().await;
        let stats = sessions.stats();
        assert!(created.is_ok() || rmcp_session_policy::RejectionReason::ALL.iter().any(|reason| stats.rejected(*reason) > 0));
        drop(created);
        sessions.drain(Duration::ZERO).await;
        assert_eq!((sessions.stats().live, sessions.stats().reserved), (0, 0));
        drop(sessions);
        // All of them end, the inner manager's too; nothing runs between one input and the next.
        for _ in 0..1_000 {
            if tasks.num_alive_tasks() == 0 {
                return;
            }
            yield_now().await;
        }
        panic!("{} tasks outlive their manager", tasks.num_alive_tasks());
    });
});
