//! Floods, races and long random histories: what takes more than a few seconds.

#[path = "../scripted/mod.rs"]
mod scripted;
#[path = "../server/mod.rs"]
mod server;
#[path = "../service/mod.rs"]
mod service;
#[path = "../web/mod.rs"]
mod web;

mod attackers_day;
mod every_user_is_served;
mod exact_capacity;
mod floods;
mod floods_and_the_parking;
mod model;
mod test_kit;
mod thousand_on_a_hundred;
