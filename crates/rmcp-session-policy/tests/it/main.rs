//! The promises of the laws and of each part, one file for each promise.

#[path = "../support/by_hand.rs"]
mod by_hand;
#[path = "../support/directory.rs"]
mod directory;
#[path = "../support/edge.rs"]
mod edge;
#[path = "../support/events.rs"]
mod events;
#[cfg(feature = "admin")]
#[path = "../support/operator.rs"]
mod operator;
#[path = "../support/parked.rs"]
mod parked;
#[path = "../support/scripted.rs"]
mod scripted;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/service.rs"]
mod service;
#[path = "../support/session/mod.rs"]
mod session;
#[path = "../support/web.rs"]
mod web;
#[path = "../support/witness.rs"]
mod witness;

mod admission_changes;
mod bad_config;
mod bounded;
mod busy_is_exact;
mod call_rejections;
mod client_context;
mod client_limits;
mod closes_are_bounded_and_real;
mod current_session;
mod cut_calls;
mod directory_claims;
mod directory_ends;
mod directory_look_ups;
mod directory_writes;
mod drains;
mod early_answers;
mod ended_for_good;
mod ends_at_bad_moments;
mod event_ids_are_sealed;
mod event_stores;
mod explanations;
mod faulty_policies;
mod held_streams;
mod http_everywhere;
mod http_statuses;
mod idle_by_worth;
mod idle_listeners;
mod in_flight;
mod inner_manager_failures;
mod lifetimes;
mod limits_end_with_sessions;
mod listening_clients;
mod live_change;
mod one_end;
#[cfg(feature = "admin")]
mod operator_access;
mod operator_api;
#[cfg(feature = "admin")]
mod operator_page;
mod parking_bounds;
mod policy_swaps;
mod principals_and_limits;
mod probed_listeners;
mod queued_observers;
mod real_clients;
mod request_classification;
mod requests_without_sessions;
mod restarts;
mod restore_races;
mod restore_replays;
mod restores_one_at_a_time;
mod restores_take_places;
mod retry_after_is_honest;
mod returns_are_told;
mod served_in_turn;
mod session_data;
mod sessions_have_owners;
mod sessions_never_evicted;
mod stacked_managers;
mod surges;
mod undo_is_drop;
mod untaken_answers;
mod unusual_inner_managers;
#[cfg(feature = "metrics")]
mod what_is_measured;
