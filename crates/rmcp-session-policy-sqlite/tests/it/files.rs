//! Which files are opened, which are refused and with what words, and the modes of those that are made.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rmcp_session_policy::directory::{FoundState, SessionDirectory};
use rmcp_session_policy_sqlite::{OpenError, SqliteDirectory};

use crate::support::{Place, id, later, park, see};

/// A file of sessions, closed, with one that is parked.
async fn written() -> Place {
    let place = Place::new();
    let directory = place.open();
    park(&directory, &id("parked"), 1);
    assert_eq!(directory.flush(later()).await, 0);
    drop(directory);
    place.wait_until_closed();
    place
}

/// Asserts that the file is refused with this text after its path, and stays as it is.
fn is_refused(place: &Place, text: &str) {
    let before = fs::read(place.path()).unwrap();
    let refused = SqliteDirectory::open(place.path()).expect_err("it should be refused");
    assert_eq!(refused.to_string(), format!("{} {text}", place.path().canonicalize().unwrap().display()));
    assert_eq!(fs::read(place.path()).unwrap(), before, "it was touched");
}

#[tokio::test]
async fn all_files_are_for_their_user_alone() {
    let place = Place::new();
    let directory = place.open();
    park(&directory, &id("parked"), 1);
    assert_eq!(directory.flush(later()).await, 0);
    let names = place.names();
    let lock = format!("sessions.db.{}.lock", directory.server());
    assert_eq!(names, ["sessions.db", "sessions.db-shm", "sessions.db-wal", &lock]);
    for name in names {
        let mode = fs::metadata(place.folder().join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_file_has_a_log_and_is_not_mapped() {
    let place = written().await;
    let mode: String = place.sqlite().query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    // The database is not among what the process has mapped; the shared memory of its log is.
    let directory = place.open();
    see(&directory, &id("parked")).await;
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let database = place.path().canonicalize().unwrap().display().to_string();
    let mapped: Vec<_> = maps.lines().filter(|line| line.contains(&database)).collect();
    assert!(mapped.iter().all(|line| line.ends_with("-shm")), "{mapped:?}");
}

#[tokio::test]
async fn files_of_other_programs_are_refused() {
    const TEXT: &str = "is not a session directory: choose another path";
    let place = Place::new();
    fs::write(place.path(), "notes, kept since 1998\n".repeat(100)).unwrap();
    is_refused(&place, TEXT);
    let place = Place::new();
    place.sqlite().execute_batch("CREATE TABLE notes (text)").unwrap();
    is_refused(&place, TEXT);
    let folder = Place::new();
    let refused = SqliteDirectory::open(folder.folder()).expect_err("it is a folder");
    assert!(matches!(refused, OpenError::NotADirectoryOfSessions { .. }));
    let refused = SqliteDirectory::open(folder.folder().join("missing/sessions.db")).expect_err("it has no folder");
    assert!(matches!(refused, OpenError::Io { .. }));
}

#[tokio::test]
async fn a_newer_schema_is_refused_unless_it_allows_older_releases() {
    let place = written().await;
    place
        .sqlite()
        .execute_batch("ALTER TABLE sessions ADD COLUMN later TEXT DEFAULT 'x'; PRAGMA user_version = 7")
        .unwrap();
    let directory = place.open();
    assert_eq!(see(&directory, &id("parked")).await.state, FoundState::Parked);
    park(&directory, &id("another"), 1);
    assert_eq!(directory.flush(later()).await, 0);
    drop(directory);
    place.wait_until_closed();
    let version: i64 = place.sqlite().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 7, "an older release leaves the version");
    place.sqlite().execute_batch("UPDATE about SET min_reader = 2").unwrap();
    is_refused(&place, "was written by a newer release (schema 7): start that release, or choose another path");
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    const TEXT: &str = "is damaged: move it and the files beside it away, or restore a backup";
    let place = written().await;
    let mut bytes = fs::read(place.path()).unwrap();
    bytes[100..4_096].fill(0xff);
    fs::write(place.path(), &bytes).unwrap();
    is_refused(&place, TEXT);
    let place = written().await;
    let bytes = fs::read(place.path()).unwrap();
    fs::write(place.path(), &bytes[..bytes.len() / 2]).unwrap();
    is_refused(&place, TEXT);
}

/// Copies a file in the middle of a commit without a write-ahead log, as a process that is killed leaves it.
fn killed_within_a_commit(before: &Place) -> Place {
    let connection = before.sqlite();
    // With so small a cache, pages are written before the commit.
    connection.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA cache_size = 2; BEGIN EXCLUSIVE").unwrap();
    connection.execute_batch("CREATE TABLE later (text)").unwrap();
    for _ in 0..200 {
        connection.execute("INSERT INTO later VALUES (zeroblob(4000))", []).unwrap();
    }
    let place = Place::new();
    for suffix in ["", "-journal"] {
        let from = before.folder().join(format!("sessions.db{suffix}"));
        fs::copy(from, place.folder().join(format!("sessions.db{suffix}"))).unwrap();
    }
    connection.execute_batch("ROLLBACK").unwrap();
    assert!(fs::metadata(place.path()).unwrap().len() > 100_000, "the commit had begun");
    place
}

#[tokio::test]
async fn a_process_that_was_killed_within_its_first_commit_leaves_a_file_that_opens() {
    let place = killed_within_a_commit(&Place::new());
    let directory = place.open();
    park(&directory, &id("parked"), 1);
    assert_eq!(directory.flush(later()).await, 0);
    crate::support::is_whole(&place.sqlite());
    // The same before the switch to a log, which is a commit too.
    let place = killed_within_a_commit(&written().await);
    let directory = place.open();
    assert_eq!(see(&directory, &id("parked")).await.state, FoundState::Parked);
    crate::support::is_whole(&place.sqlite());
}

#[tokio::test]
async fn a_commit_that_another_program_left_is_untouched() {
    let other = Place::new();
    other.sqlite().execute_batch("PRAGMA application_id = 7; CREATE TABLE notes (text)").unwrap();
    let place = killed_within_a_commit(&other);
    let journal = place.folder().join("sessions.db-journal");
    let before = fs::read(&journal).unwrap();
    is_refused(&place, "is not a session directory: choose another path");
    assert_eq!(fs::read(&journal).unwrap(), before);
}
