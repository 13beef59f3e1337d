//! What the benches share.

use std::env;

pub mod service;
pub mod stub;

/// The sizes to measure at; the smallest alone where nothing is measured, as in `cargo test`.
#[must_use]
pub fn sizes<N>(all: &[N]) -> &[N] {
    let has = |flag: &str| env::args().any(|argument| argument == flag);
    if has("--bench") && !has("--test") { all } else { all.get(..1).unwrap_or(all) }
}
