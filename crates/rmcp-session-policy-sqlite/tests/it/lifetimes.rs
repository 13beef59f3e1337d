//! Ages that go on over restarts of the process and of the machine, and what is removed because of its age.

use std::time::Duration;

use rmcp_session_policy::directory::{Change, Epoch, FoundState, SessionDirectory};
use rmcp_session_policy_sqlite::SqliteDirectory;
use tokio::time::Instant;

use crate::faults::until_written;
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

/// Waits until a session is removed.
async fn until_gone(directory: &SqliteDirectory, name: &str) {
    let until = later();
    while directory.look(&id(name)).await.unwrap().is_some() {
        assert!(Instant::now() < until, "{name} stays");
    }
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
    let gone = place.builder().max_age(HOUR).open().unwrap();
    gone.write(&id("left"), Epoch::FIRST, Change::Opened(crate::support::session(1)));
    assert_eq!(gone.flush(later()).await, 0);
    drop(gone);
    let until = later();
    while see(&holding, &id("left")).await.state != FoundState::Parked {
        assert!(Instant::now() < until, "its server stays");
    }
    // Not the clock: a server may save its own in between.
    let older = "UPDATE sessions SET changed_at = changed_at - 7200000; UPDATE ended SET at = at - 7200000";
    place.sqlite().execute_batch(older).unwrap();
    let directory = place.builder().max_age(HOUR).open().unwrap();
    for name in ["parked", "also parked", "left", "ended"] {
        until_gone(&directory, name).await;
    }
    assert_eq!(see(&directory, &id("live")).await.state, FoundState::Live);
}

#[tokio::test]
async fn what_is_too_old_is_removed_soon_if_another_process_held_the_file_locked() {
    let place = written().await;
    place.sqlite().execute_batch("UPDATE about SET boot_offset = boot_offset + 7200000").unwrap();
    let directory = place.builder().max_age(HOUR).open().unwrap();
    let other = place.sqlite();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    directory.write(&id("new"), Epoch::FIRST, Change::Opened(crate::support::session(1)));
    until_written(&directory, &id("new"), false).await;
    other.execute_batch("COMMIT").unwrap();
    until_gone(&directory, "parked").await;
}

#[tokio::test]
async fn what_is_past_its_age_is_left_to_servers_that_take_what_is_due_over_a_restart_too() {
    let place = written().await;
    let directory = place.open();
    assert_eq!(directory.take_due(None).await.unwrap(), []);
    drop(directory);
    place.wait_until_closed();
    place.sqlite().execute_batch("UPDATE about SET boot_offset = boot_offset + 7200000").unwrap();
    let directory = place.builder().max_age(HOUR).open().unwrap();
    // In the same commit the session would have been removed.
    until_gone(&directory, "ended").await;
    assert_eq!(see(&directory, &id("parked")).await.state, FoundState::Parked);
    let [due] = &directory.take_due(None).await.unwrap()[..] else { panic!("one is due") };
    assert_eq!((due.id, due.epoch, due.was_ending), (id("parked"), Epoch::FIRST.next(), false));
    assert_eq!((due.session.usage.uses, due.session.body.as_bytes()), (1, &1_u64.to_be_bytes()[..]));
    assert_eq!(see(&directory, &id("parked")).await.state, FoundState::Dead);
    assert_eq!(directory.take_due(None).await.unwrap(), []);
}
