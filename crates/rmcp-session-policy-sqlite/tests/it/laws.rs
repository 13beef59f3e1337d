//! The directory keeps the laws of the test kit, in both durabilities, and its bounds of rows.

use rmcp_session_policy::testing::directory::{keeps_its_bounds, keeps_the_laws};
use rmcp_session_policy_sqlite::Durability;

use crate::support::Place;

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
