//! Ages that go on over restarts of the process and of the machine, and what is removed because of its age.

use std::time::Duration;

use rmcp_session_policy::directory::{Change, Epoch, FoundState, SessionDirectory};

use crate::support::{PATIENCE, Place, id, later, park, see};

const HOUR: Duration = Duration::from_secs(3_600);

/// A file, closed, with a session that is parked and one that has ended.
async fn written() -> Place {
    let place = Place::new();
    let directory = place.open();
    park(&directory, &id("parked"), 1);
    park(&directory, &id("ended"), 1);
    directory.write(&id("ended"), Epoch::FIRST, Change::Dead);
    assert_eq!(directory.flush(later()).await, 0);
    drop(directory);
    place.wait_until_closed();
    place
}

async fn age_after(place: &Place, change: &str) -> Duration {
    place.sqlite().execute_batch(change).unwrap();
    let directory = place.open();
    see(&directory, &id("parked")).await.age
}

#[tokio::test]
async fn ages_go_on_over_restarts_within_a_boot() {
    let place = written().await;
    let age = age_after(&place, "UPDATE about SET boot_offset = boot_offset + 3600000, wall_at = 0").await;
    assert!((HOUR..HOUR + PATIENCE).contains(&age), "{age:?}");
}

#[tokio::test]
async fn ages_go_on_over_boots_by_the_wall_clock_and_never_back() {
    let place = written().await;
    let age = age_after(&place, "UPDATE about SET boot = 'another', wall_at = wall_at - 3600000").await;
    assert!((HOUR..HOUR + PATIENCE).contains(&age), "{age:?}");
    let place = written().await;
    // An hour went by, and then the wall clock went back by an hour. The clock was saved before the session was parked.
    let back = "UPDATE about SET boot = 'another', clock_at = clock_at + 3600000, wall_at = wall_at + 3600000";
    let age = age_after(&place, back).await;
    assert!((HOUR - PATIENCE..HOUR + PATIENCE).contains(&age), "{age:?}");
}

#[tokio::test]
async fn what_is_too_old_is_removed_unless_a_server_has_it() {
    let place = written().await;
    let holding = place.builder().max_age(HOUR).open().unwrap();
    holding.write(&id("live"), Epoch::FIRST, Change::Opened(crate::support::session(1)));
    park(&holding, &id("also parked"), 1);
    assert_eq!(holding.flush(later()).await, 0);
    // The clock of the next server is two hours ahead.
    place.sqlite().execute_batch("UPDATE about SET boot_offset = boot_offset + 7200000").unwrap();
    let directory = place.builder().max_age(HOUR).open().unwrap();
    let until = later();
    for name in ["parked", "also parked", "ended"] {
        while directory.look(&id(name)).await.unwrap().is_some() {
            assert!(tokio::time::Instant::now() < until, "{name} stays");
        }
    }
    assert_eq!(see(&directory, &id("live")).await.state, FoundState::Live);
}
