//! Sessions that are to be ended though no request asks for that: each goes to one server, also after a kill.

use std::time::Duration;

use rmcp_session_policy::directory::{Change, Due, Epoch, FoundState, SessionDirectory};
use rmcp_session_policy_sqlite::SqliteDirectory;

use crate::children::Process;
use crate::support::{Place, id, later, park, see, session, session_of};

/// How many sessions are left ending.
const ENDING: u64 = 250;

/// What the child does: has sessions, ends them, and is killed before it says that they are dead.
pub(crate) async fn end(directory: &SqliteDirectory, say: fn(String)) {
    for name in 0..ENDING {
        directory.write(&id(name), Epoch::FIRST, Change::Opened(session(name)));
    }
    assert_eq!(directory.flush(later()).await, 0);
    for name in 0..ENDING {
        directory.write(&id(name), Epoch::FIRST, Change::Ending(None));
    }
    assert_eq!(directory.flush(later()).await, 0);
    say("ended".to_owned());
    std::future::pending::<()>().await;
}

/// Takes what is due until there is nothing more.
async fn take_all(directory: &SqliteDirectory, lifetime: Option<Duration>) -> Vec<Due> {
    let mut all = Vec::new();
    loop {
        let due = directory.take_due(lifetime).await.unwrap();
        assert!(due.len() <= 100, "{} at once", due.len());
        if due.is_empty() {
            return all;
        }
        all.extend(due);
    }
}

async fn have_ended(directory: &SqliteDirectory) {
    for name in 0..ENDING {
        assert_eq!(see(directory, &id(name)).await.state, FoundState::Dead, "{name}");
    }
}

#[tokio::test]
async fn what_a_server_that_is_killed_has_left_ending_is_due_once() {
    for number in [0, 1] {
        let place = Place::new();
        let mut process = Process::start("end", place.path(), number);
        assert_eq!(process.hear().as_deref(), Some("ended"));
        let (first, second) = (place.open(), place.open());
        have_ended(&first).await;
        assert_eq!(first.take_due(None).await.unwrap(), [], "its server is there");
        process.kill();
        have_ended(&first).await;
        let (mut taken, others) = tokio::join!(take_all(&first, None), take_all(&second, None));
        taken.extend(others);
        have_ended(&first).await;
        let mut names: Vec<_> = taken.iter().map(|due| due.session.usage.uses).collect();
        names.sort_unstable();
        assert_eq!(names, (0..ENDING).collect::<Vec<_>>());
        for due in taken {
            let uses = due.session.usage.uses;
            assert_eq!((due.id, due.epoch, due.was_ending), (id(uses), Epoch::FIRST.next(), true));
            assert_eq!(due.session.body.as_bytes(), uses.to_be_bytes());
            // That of the other server comes too late, and changes nothing.
            first.write(&due.id, due.epoch, Change::Dead);
            second.write(&due.id, due.epoch, Change::Dead);
        }
        assert_eq!((first.flush(later()).await, second.flush(later()).await), (0, 0));
        drop((first, second));
        let next = place.open();
        have_ended(&next).await;
        assert_eq!(next.take_due(None).await.unwrap(), []);
        let left: u32 = place.sqlite().query_row("SELECT sessions FROM totals", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }
}

#[tokio::test]
async fn what_is_taken_at_once_is_bounded_in_bytes() {
    let place = Place::new();
    // A sixteenth of it is the most for the bodies of one commit, and for those that are taken: 64 KiB.
    let directory = place.builder().max_bytes(1 << 20).open().unwrap();
    for name in 0..4 {
        directory.write(&id(name), Epoch::FIRST, Change::Parked(session_of(name, &[7; 30 << 10])));
    }
    assert_eq!(directory.flush(later()).await, 0);
    assert_eq!(directory.take_due(Some(Duration::ZERO)).await.unwrap().len(), 3, "more than two have in all");
    assert_eq!(directory.take_due(Some(Duration::ZERO)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_session_of_which_a_change_is_queued_is_due_once_that_is_written() {
    let place = Place::new();
    let directory = place.open();
    for name in ["ended", "parked"] {
        park(&directory, &id(name), 1);
    }
    assert_eq!(directory.flush(later()).await, 0);
    directory.write(&id("ended"), Epoch::FIRST, Change::Ending(None));
    let due = directory.take_due(Some(Duration::ZERO)).await.unwrap();
    assert_eq!(due.iter().map(|due| due.id).collect::<Vec<_>>(), [id("parked")]);
    assert_eq!(directory.flush(later()).await, 0);
    assert_eq!(directory.take_due(Some(Duration::ZERO)).await.unwrap(), [], "this server ends it");
}

#[tokio::test]
async fn a_server_hears_that_what_it_had_parked_is_ended_by_another_one() {
    let place = Place::new();
    let (first, second) = (place.open(), place.open());
    park(&first, &id("parked"), 1);
    assert_eq!(first.flush(later()).await, 0);
    assert_eq!(second.take_due(Some(Duration::ZERO)).await.unwrap().len(), 1);
    let lost = tokio::time::timeout_at(later(), first.lost()).await.expect("it is told");
    assert_eq!(lost, [(id("parked"), Epoch::FIRST)]);
}
