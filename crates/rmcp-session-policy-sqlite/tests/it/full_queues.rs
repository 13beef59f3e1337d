//! A queue without room for a body: the session that is parked can still be claimed.

use rmcp_session_policy::directory::{Change, Claim, Epoch, FoundState, SessionDirectory};

use crate::support::{Place, claim, id, later, see, session, session_of};

/// As many bodies of one megabyte as a queue holds.
const FULL: u64 = 64;

#[tokio::test]
async fn a_session_that_was_parked_without_room_for_it_can_be_claimed_by_any_server() {
    let place = Place::new();
    let (directory, other) = (place.open(), place.open());
    for name in ["for another server", "for its own"] {
        directory.write(&id(name), Epoch::FIRST, Change::Opened(session(1)));
    }
    assert_eq!(directory.flush(later()).await, 0);
    // Nothing is written meanwhile.
    let lock = place.sqlite();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for number in 0..FULL {
        directory.write(&id(number), Epoch::FIRST, Change::Opened(session_of(1, &vec![7; 1 << 20])));
    }
    for name in ["for another server", "for its own"] {
        directory.write(&id(name), Epoch::FIRST, Change::Parked(session(2)));
    }
    lock.execute_batch("COMMIT").unwrap();
    assert_eq!(directory.flush(later()).await, 2, "what was dropped of them is not written");
    assert_eq!(directory.stats().dropped, 2);
    for (name, server) in [("for another server", &other), ("for its own", &directory)] {
        assert_eq!(see(server, &id(name)).await.state, FoundState::Parked);
        let Claim::Yours(epoch, back) = claim(server, &id(name)).await else { panic!("it was parked") };
        assert_eq!((epoch, back.usage.uses), (Epoch::FIRST.next(), 1), "it is as it was stored before");
    }
}
