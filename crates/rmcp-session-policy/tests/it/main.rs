//! What each law and each part promises, one file for each promise.

#[path = "../support/edge.rs"]
mod edge;
#[path = "../support/parked.rs"]
mod parked;
#[path = "../support/scripted.rs"]
mod scripted;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/service.rs"]
mod service;
#[path = "../support/session.rs"]
mod session;
#[path = "../support/web.rs"]
mod web;
#[path = "../support/witness.rs"]
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
mod ended_for_good;
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
mod parking_bounds;
mod real_clients;
mod restore_races;
mod restore_replays;
mod restores_one_at_a_time;
mod restores_take_places;
mod retry_after_is_honest;
mod served_in_turn;
mod sessions_have_owners;
mod stacked;
mod strange_inner_managers;
mod strangers;
mod undo_is_drop;
mod what_a_request_is;
mod who_is_asking;
