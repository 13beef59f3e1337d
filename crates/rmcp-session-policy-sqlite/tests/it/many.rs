//! A hundred thousand sessions in a file. The times are printed, and not asserted.

use std::fs;
use std::time::Instant;

use rmcp_session_policy::directory::{Change, Epoch, SessionDirectory};

use crate::support::{Place, id, is_whole, later, see, session_of};

#[tokio::test]
async fn a_hundred_thousand_sessions_are_found_again() {
    const MANY: u64 = 100_000;
    let place = Place::new();
    let directory = place.open();
    let began = Instant::now();
    for number in 0..MANY {
        directory.write(&id(number), Epoch::FIRST, Change::Opened(session_of(number, &[7; 500])));
        if number % 20_000 == 0 {
            assert_eq!(directory.flush(later()).await, 0);
        }
    }
    assert_eq!(directory.flush(later()).await, 0);
    let written = began.elapsed();
    assert_eq!(directory.stats().dropped, 0);
    drop(directory);
    place.wait_until_closed();

    let began = Instant::now();
    let directory = place.open();
    let opened = began.elapsed();
    let began = Instant::now();
    for number in (0..MANY).step_by(1_000) {
        see(&directory, &id(number)).await;
    }
    let looked = began.elapsed() / 100;
    let bytes = fs::metadata(place.path()).unwrap().len() / MANY - 500;
    eprintln!("written in {written:?}, opened in {opened:?}, a look-up {looked:?}, {bytes} bytes each beyond 500");
    is_whole(&place.sqlite());
}
