//! Tests that take more than a few seconds: floods, races and long random histories.

#[path = "../support/scripted.rs"]
mod scripted;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/service.rs"]
mod service;

mod all_come_back_at_once;
mod every_user_is_served;
mod exact_capacity;
mod floods_and_parking;
mod live_capacity;
mod model;
mod test_kit;
mod thousand_clients_on_hundred_places;
