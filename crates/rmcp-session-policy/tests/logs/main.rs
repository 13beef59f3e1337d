//! What is logged, and what no log, error or `Debug` output shows. A program of its own: whether a place in the code logs is decided
//! when it is first passed, so these tests run one after the other, each with its own subscriber and beside no other test.

#[path = "../support/log.rs"]
mod log;
#[path = "../support/scripted.rs"]
mod scripted;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/service.rs"]
mod service;
#[path = "../support/session.rs"]
mod session;

mod bounded_log;
mod ids_are_credentials;
mod said_by_the_layer;
mod said_once;
