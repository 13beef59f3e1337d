//! The promises of the directory, one file for each.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bounds;
mod children;
mod crashes;
mod cut_logs;
mod due;
mod faults;
mod files;
mod full_files;
mod full_queues;
mod http;
mod laws;
mod lifetimes;
mod many;
mod processes;
mod restarts;
mod secrets;
mod served_faults;
mod support;
