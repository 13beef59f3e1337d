//! What each law and each part promises, one file for each promise.

#[path = "../edge/mod.rs"]
mod edge;
#[path = "../scripted/mod.rs"]
mod scripted;
#[path = "../server/mod.rs"]
mod server;
#[path = "../service/mod.rs"]
mod service;
#[path = "../session/mod.rs"]
mod session;
#[path = "../web/mod.rs"]
mod web;
#[path = "../witness/mod.rs"]
mod witness;

mod backend_trouble;
mod bad_config;
mod bounded;
mod busy_is_exact;
mod call_rejections;
mod closes_are_bounded_and_real;
mod current_session;
mod drains;
mod early_answers;
mod ends_at_bad_moments;
mod event_ids_are_sealed;
mod held_streams;
mod http_everywhere;
mod http_statuses;
mod idle_listeners;
mod in_flight;
mod laws_against_policies;
mod lifetimes;
mod limits_end_with_sessions;
mod listening_clients;
mod never_a_victim;
mod one_end;
mod operating;
mod real_clients;
mod restores_obey;
mod retry_after_is_honest;
mod served_in_turn;
mod sessions_have_owners;
mod stacked;
mod strange_inner_managers;
mod strangers;
mod undo_is_drop;
mod what_a_request_is;
mod who_is_asking;
