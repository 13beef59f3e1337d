//! A write-ahead log that is cut anywhere, as by a power failure: the file opens, is whole, and is as after some commit.

use std::fs;

use rmcp_session_policy::directory::{Change, Epoch, SessionDirectory, Usage};
use rusqlite::types::Value;

use crate::support::{Place, id, is_whole, later, session_of};

const CUTS: usize = 100;

/// All rows but the clock.
fn rows(connection: &rusqlite::Connection) -> Vec<Vec<Value>> {
    let mut all = Vec::new();
    for query in [
        "SELECT id, server, epoch, live, ready, uses, body FROM sessions JOIN bodies USING (key) ORDER BY id",
        "SELECT id, server, epoch, at FROM ended ORDER BY id",
    ] {
        let mut statement = connection.prepare(query).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| (0..columns).map(|column| row.get(column)).collect()).unwrap();
        all.extend(rows.map(Result::unwrap));
    }
    all
}

#[tokio::test]
async fn a_log_that_is_cut_is_the_state_of_an_earlier_commit() {
    let (place, mut random) = (Place::new(), fastrand::Rng::with_seed(11));
    let directory = place.open();
    let other = place.sqlite();
    let mut states = vec![rows(&other)];
    for step in 0_u64..60 {
        let name = id(step % 12);
        let change = match step {
            0..12 => Change::Opened(session_of(step, &vec![7; random.usize(..9_000)])),
            12..36 if step % 2 == 0 => Change::Used(Usage::default().with_uses(step)),
            12..36 => Change::Data(session_of(step, &vec![9; random.usize(..9_000)])),
            36..48 => Change::Parked(session_of(step, &vec![8; random.usize(..9_000)])),
            _ if step % 3 == 0 => Change::Dead,
            _ => Change::Released,
        };
        directory.write(&name, Epoch::FIRST, change);
        assert_eq!(directory.flush(later()).await, 0);
        states.push(rows(&other));
    }
    let log = fs::read(place.folder().join("sessions.db-wal")).unwrap();
    let file = fs::read(place.path()).unwrap();
    let mut lengths: Vec<_> = (0..CUTS).map(|_| random.usize(..=log.len())).chain([0, log.len()]).collect();
    lengths.sort_unstable();
    let mut reached = 0;
    for length in lengths {
        let cut = Place::new();
        fs::write(cut.path(), &file).unwrap();
        fs::write(cut.folder().join("sessions.db-wal"), &log[..length]).unwrap();
        let opened = cut.open();
        let connection = cut.sqlite();
        is_whole(&connection);
        let now = rows(&connection);
        let place = states.iter().rposition(|state| *state == now).expect("it is the state of some commit");
        assert!(place >= reached, "a longer log is an earlier state");
        reached = place;
        drop(opened);
    }
    assert_eq!(reached, states.len() - 1, "the whole log is the last state");
}
