//! Tests of log messages, and of what no log, error or `Debug` output shows.
//!
//! They are a program of their own. `tracing` decides at the first pass whether a place in the code logs, so these tests run
//! one after the other, each with its own subscriber, and beside no other test.

#[path = "../support/log.rs"]
mod log;
#[path = "../support/scripted.rs"]
mod scripted;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/service.rs"]
mod service;
#[path = "../support/session/mod.rs"]
mod session;

mod bounded_log;
mod ids_are_credentials;
mod layer_warnings;
mod warnings_once;
