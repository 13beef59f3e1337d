//! Floods, races and long random histories: what takes more than a few seconds.

#[path = "../support/scripted.rs"]
mod scripted;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/service.rs"]
mod service;
#[path = "../support/web.rs"]
mod web;

mod attackers_day;
mod every_user_is_served;
mod exact_capacity;
mod floods;
mod floods_and_the_parking;
mod model;
mod test_kit;
mod thousand_on_a_hundred;
