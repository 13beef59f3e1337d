//! A file that has as many sessions as it keeps: which are forgotten for new ones, and what a server hears of it.

use std::time::Duration;

use rmcp_session_policy::directory::{
    Change, Claim, Epoch, FoundState, SessionDirectory, StoredBody, StoredSession, Usage,
};
use rmcp_session_policy_sqlite::SqliteDirectory;
use tokio::time::Instant;

use crate::support::{Place, claim, id, later, park, see, session};

/// A session with a call, of those that are forgotten last.
fn called() -> StoredSession {
    let usage = Usage::default().with_calls(1, None);
    StoredSession::new(None, Duration::ZERO, usage, StoredBody::from_bytes([])).with_ready(true)
}

async fn open_one(directory: &SqliteDirectory, name: &str) {
    directory.write(&id(name), Epoch::FIRST, Change::Opened(session(1)));
    assert_eq!(directory.flush(later()).await, 0);
}

/// Which of these sessions are still there.
async fn there<'a>(directory: &SqliteDirectory, names: &[&'a str]) -> Vec<&'a str> {
    let mut there = Vec::new();
    for name in names {
        if directory.look(&id(name)).await.unwrap().is_some() {
            there.push(*name);
        }
    }
    there
}

#[tokio::test]
async fn sessions_that_a_server_has_are_forgotten_last() {
    const NAMES: [&str; 6] = ["of a server that is gone", "live", "parked", "new 1", "new 2", "new 3"];
    let place = Place::new();
    let open = || place.builder().max_sessions(3).open().unwrap();
    let (gone, directory) = (open(), open());
    gone.write(&id(NAMES[0]), Epoch::FIRST, Change::Opened(called()));
    assert_eq!(gone.flush(later()).await, 0);
    drop(gone);
    let until = later();
    while see(&directory, &id(NAMES[0])).await.state != FoundState::Parked {
        assert!(Instant::now() < until, "its server stays");
    }
    // Of each rank the one that was changed first is forgotten first: by that alone it would be the live one.
    open_one(&directory, "live").await;
    park(&directory, &id("parked"), 1);
    open_one(&directory, "new 1").await;
    assert_eq!(there(&directory, &NAMES).await, [NAMES[0], "live", "new 1"]);
    open_one(&directory, "new 2").await;
    assert_eq!(there(&directory, &NAMES).await, ["live", "new 1", "new 2"]);
    open_one(&directory, "new 3").await;
    assert_eq!(there(&directory, &NAMES).await, ["new 1", "new 2", "new 3"], "none is left but live ones");
}

#[tokio::test]
async fn what_is_written_of_a_claimed_session_that_the_file_has_forgotten_counts_as_dropped() {
    let place = Place::new();
    let directory = place.builder().max_sessions(1).open().unwrap();
    park(&directory, &id("claimed"), 1);
    let Claim::Yours(epoch, _) = claim(&directory, &id("claimed")).await else { panic!("it was parked") };
    open_one(&directory, "new").await;
    assert_eq!(there(&directory, &["claimed", "new"]).await, ["new"]);
    let written = async |epoch, change| {
        directory.write(&id("claimed"), epoch, change);
        (directory.written(&id("claimed"), later()).await, directory.stats().dropped)
    };
    assert_eq!(written(epoch, Change::Data(session(2))).await, (false, 1));
    assert_eq!(written(epoch, Change::Used(Usage::default().with_uses(3))).await, (false, 1));
    assert_eq!(written(epoch, Change::Parked(session(3))).await, (false, 1));
    assert_eq!(directory.flush(later()).await, 1);
    // An end may have been remembered, and forgotten since: so nothing but an end is written.
    assert_eq!(there(&directory, &["claimed", "new"]).await, ["new"]);
    assert_eq!(written(epoch, Change::Dead).await, (true, 0));
    assert_eq!(see(&directory, &id("claimed")).await.state, FoundState::Dead);
    assert_eq!(
        written(epoch, Change::Data(session(4))).await,
        (true, 0),
        "it comes too late, as for each that has ended"
    );

    // Under its first epoch a session is stored anew.
    park(&directory, &id("newer"), 1);
    assert_eq!(directory.flush(later()).await, 0);
    directory.write(&id("new"), Epoch::FIRST, Change::Data(session(5)));
    assert!(directory.written(&id("new"), later()).await);
    assert_eq!(there(&directory, &["new", "newer"]).await, ["new"]);
}

#[tokio::test]
async fn of_a_session_that_is_ending_a_full_file_keeps_that_it_has_ended() {
    let place = Place::new();
    let directory = place.builder().max_sessions(2).open().unwrap();
    park(&directory, &id("parked"), 1);
    directory.write(&id("ending"), Epoch::FIRST, Change::Opened(called()));
    directory.write(&id("ending"), Epoch::FIRST, Change::Ending(None));
    open_one(&directory, "new 1").await;
    assert_eq!(there(&directory, &["parked", "ending", "new 1"]).await, ["ending", "new 1"]);
    open_one(&directory, "new 2").await;
    assert_eq!(see(&directory, &id("ending")).await.state, FoundState::Dead);
    let totals = place
        .sqlite()
        .query_row("SELECT sessions, ended FROM totals", [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    assert_eq!(totals.unwrap(), (2, 1), "it has a tombstone");
    directory.write(&id("ending"), Epoch::FIRST, Change::Dead);
    assert!(directory.written(&id("ending"), later()).await);
    assert_eq!(there(&directory, &["ending", "new 1", "new 2"]).await, ["ending", "new 1", "new 2"]);
}
