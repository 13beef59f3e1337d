//! The operator's page: what there is, why sessions ended, and what an operator may do about it, as an axum router.
//!
//! [`PolicySessionManager::admin`](crate::PolicySessionManager::admin) makes the builder of the router.
//!
//! | type | what it is |
//! |---|---|
//! | [`AdminRouterBuilder`] | which clients may use the page, under which hosts, and whether it may act |
//!
//! The page is plain HTML, CSS and JavaScript, which are part of the library and load nothing from elsewhere. It reads the
//! JSON API that the same router serves under `/api/`; scripts may use that too. The guide
//! [operator's page](crate::_guide::operator_page) lists its routes, bounds and checks.

mod access;
mod api;
mod assets;
mod body;
mod builder;
mod console;
mod drain;
mod explanations;
mod hosts;
mod one_session;
mod overview;
mod progress;
mod refusal;
mod rows;
mod samples;
mod selection;
mod session_name;
mod sessions;
mod settings;

pub use builder::AdminRouterBuilder;
