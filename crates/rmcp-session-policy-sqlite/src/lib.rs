#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! | module | what is in it |
//! |---|---|
//! | `directory` | [`SqliteDirectory`]: opens the file, starts the threads, and passes calls to them |
//! | `builder`, `error`, `stats` | settings, why a file is not opened, and counters |
//! | `queue`, `changes` | what waits for the writer, one change for each session, and the tasks that wait for it |
//! | `dropped` | the sessions of which a change is not written |
//! | `claiming` | a claim on its way to the writer and back |
//! | `writer`, `reader`, `checkpoints` | the three threads |
//! | `health` | whether the file can be read and written, with a log line for each change |
//! | `room`, `log` | how much room is made so that the file stays within its bytes, and the length of the write-ahead log |
//! | `forgetting`, `leftovers`, `tidying` | what is forgotten, what servers that are gone have left, and what is done from time to time |
//! | `due` | sessions that are to be ended though no request asks for that |
//! | `store`, `tombstones` | reads and writes of rows |
//! | `row` | one row, and what a change does to it |
//! | `schema`, `connection`, `place` | the tables, the settings of a connection, and checks of a path |
//! | `journal` | a commit that was cut before the file had its write-ahead log |
//! | `server` | server ids and their lock files |
//! | `clock` | the clock of the file |

#[cfg(not(target_os = "linux"))]
compile_error!("rmcp-session-policy-sqlite needs Linux: its clock is CLOCK_BOOTTIME");

mod builder;
mod changes;
mod checkpoints;
mod claiming;
mod clock;
mod connection;
mod directory;
mod dropped;
mod due;
mod error;
mod forgetting;
mod health;
mod journal;
mod leftovers;
mod log;
mod place;
mod queue;
mod reader;
mod room;
mod row;
mod schema;
mod server;
mod stats;
mod store;
mod tidying;
mod tombstones;
mod writer;

pub use builder::{Durability, SqliteDirectoryBuilder};
pub use directory::SqliteDirectory;
pub use error::OpenError;
pub use stats::SqliteStats;
