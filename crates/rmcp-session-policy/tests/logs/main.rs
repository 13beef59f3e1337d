//! What is logged, and what no log, error or `Debug` output shows. A program of its own: whether a place in the code logs is decided
//! when it is first passed, so these tests run one after the other, each with its own subscriber and beside no other test.

#[path = "../log/mod.rs"]
mod log;
#[path = "../scripted/mod.rs"]
mod scripted;
#[path = "../server/mod.rs"]
mod server;
#[path = "../service/mod.rs"]
mod service;
#[path = "../session/mod.rs"]
mod session;

mod bounded_log;
mod ids_are_credentials;
mod said_by_the_layer;
mod said_once;
