//! Sessions without sockets, on paused time: a driver that makes the calls of rmcp's service to a manager one by one, and the
//! service itself.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::allow_attributes,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    missing_docs,
    missing_debug_implementations,
    reason = "a fixture, of which each test file uses a part"
)]

mod diary;
mod driver;
mod handlers;
mod http_service;
mod messages;
mod silent;
mod tasks;
mod wedge;

pub use diary::Diary;
pub use driver::{Driver, Replies};
pub use handlers::{Millis, Refuses, SlowToInitialize};
pub use http_service::{Http, Reply};
pub use messages::{error_code, initialize_params, message};
pub use silent::Silent;
pub use tasks::{alive_tasks, settle};
pub use wedge::Wedge;
