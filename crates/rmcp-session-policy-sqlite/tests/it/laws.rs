//! The directory keeps the laws of the test kit, in both durabilities, and its bounds.

use rmcp_session_policy::directory::{Change, Epoch, SessionDirectory};
use rmcp_session_policy::testing::directory::{keeps_its_bounds, keeps_the_laws};
use rmcp_session_policy_sqlite::Durability;

use crate::support::{Place, id, later, session_of};

#[test]
fn keeps_the_laws_behind() {
    keeps_the_laws(async || {
        let place = Place::new();
        async move || place.open()
    });
}

#[test]
fn keeps_the_laws_before() {
    keeps_the_laws(async || {
        let place = Place::new();
        async move || place.builder().durability(Durability::Before).open().unwrap()
    });
}

#[test]
fn keeps_its_bounds_of_sessions_and_ends() {
    let place = Place::new();
    keeps_its_bounds(50, async || place.builder().max_sessions(50).max_tombstones(20).open().unwrap());
    let totals =
        place.sqlite().query_row("SELECT sessions, ended, (SELECT count(*) FROM ended) FROM totals", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        });
    assert_eq!(totals.unwrap(), (50, 20, 20));
}

#[tokio::test]
async fn the_file_keeps_its_bound_of_bytes() {
    const LIMIT: u64 = 2 << 20;
    let place = Place::new();
    let directory = place.builder().max_bytes(LIMIT).open().unwrap();
    for number in 0..1_000 {
        directory.write(&id(number), Epoch::FIRST, Change::Opened(session_of(number, &[7; 10_000])));
        if number % 50 == 0 {
            assert_eq!(directory.flush(later()).await, 0);
        }
    }
    assert_eq!(directory.flush(later()).await, 0);
    let pages: i64 = place.sqlite().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    // One group of 50 comes on top.
    let most = LIMIT + 2 * 50 * 12_288;
    assert!(u64::try_from(pages).unwrap() * 4_096 <= most, "{pages} pages");
    assert!(directory.look(&id(999)).await.unwrap().is_some(), "the newest is there");
    assert!(directory.look(&id(0)).await.unwrap().is_none(), "the oldest is forgotten");
}
