//! The faults of `faults.rs` with a whole server in front: its requests go on as with memory.

use std::fs;
use std::path::Path;

use rmcp_session_policy::SECOND;
use rmcp_session_policy::directory::SessionDirectory;
use rmcp_session_policy_sqlite::{Durability, SqliteDirectory};

use crate::faults::{SmallDisk, changes, until_written};
use crate::http::Server;
use crate::support::{Logs, PATIENCE, Place, id, later, sqlite};

const FULL: &str = "cannot be written: the disk is full";
const LOCKED: &str = "cannot be written: another process holds it locked";
const BACK: &str = "the session directory can be written again";

fn open(path: &Path, durability: Durability, logs: &Logs) -> SqliteDirectory {
    logs.of(|| SqliteDirectory::builder(path).durability(durability).max_wait(PATIENCE).open().unwrap())
}

/// Uses a session that has counted this far, opens another, deletes a third, and asks for an unknown one. Returns the ids of
/// the second and of the third.
async fn go_on(server: &Server, kept: &str, counted: u64) -> [String; 2] {
    assert_eq!(server.count(kept).await, Ok(counted + 1));
    let (opened, deleted) = (server.open().await, server.open().await);
    assert_eq!(server.count(&opened).await, Ok(1));
    assert_eq!(server.delete(&deleted).await, 202);
    assert_eq!(server.count(&deleted).await, Err(404));
    assert_eq!(server.count(kept).await, Ok(counted + 2));
    [opened, deleted]
}

/// Stops a server in order, and starts the next one over the same file.
async fn restart(server: Server, path: &Path) -> Server {
    server.sessions.drain(10 * SECOND).await;
    drop(server);
    Server::new(SqliteDirectory::builder(path).max_wait(PATIENCE).open().unwrap())
}

#[tokio::test]
async fn a_server_goes_on_while_its_disk_is_full() {
    let (disk, logs) = (SmallDisk::mount(), Logs::default());
    let server = Server::new(open(&disk.file(), Durability::Behind, &logs));
    let kept = server.open().await;
    assert_eq!(server.count(&kept).await, Ok(1));
    assert_eq!(server.directory.flush(later()).await, 0);

    let other = disk.fill();
    // What is queued until then may be written into the log, which has some room.
    let mut counted = 1;
    while server.directory.stats().is_written {
        counted += 1;
        assert_eq!(server.count(&kept).await, Ok(counted));
    }
    let late = server.sessions.stats().directory_late;
    let [opened, deleted] = go_on(&server, &kept, counted).await;
    assert_eq!(server.sessions.stats().directory_late, late + 1, "the answer to the DELETE");
    assert!(!server.directory.stats().is_written && server.directory.stats().failures > 0);
    assert_eq!(changes(&logs), [FULL], "one line, however often it fails");

    fs::remove_file(other).unwrap();
    assert_eq!(server.directory.flush(later()).await, 0);
    assert!(server.directory.stats().is_written);
    assert_eq!(changes(&logs), [FULL, BACK]);
    let server = restart(server, &disk.file()).await;
    assert_eq!(server.count(&kept).await, Ok(counted + 3));
    assert_eq!(server.count(&opened).await, Ok(2));
    assert_eq!(server.count(&deleted).await, Err(404));
}

#[tokio::test]
async fn a_server_goes_on_while_another_process_has_its_file_locked() {
    let (place, logs) = (Place::new(), Logs::default());
    let server = Server::new(open(place.path(), Durability::Behind, &logs));
    let kept = server.open().await;
    assert_eq!(server.directory.flush(later()).await, 0);

    let other = sqlite(place.path());
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let [opened, deleted] = go_on(&server, &kept, 0).await;
    until_written(&server.directory, &id("any"), false).await;
    let late = server.sessions.stats().directory_late;
    assert_eq!(late, 1, "the answer to the DELETE");
    assert!(server.directory.stats().failures > 0);

    other.execute_batch("COMMIT").unwrap();
    assert_eq!(server.directory.flush(later()).await, 0);
    assert_eq!(changes(&logs), [LOCKED, BACK]);
    let server = restart(server, place.path()).await;
    assert_eq!(server.count(&kept).await, Ok(3));
    assert_eq!(server.count(&opened).await, Ok(2));
    assert_eq!(server.count(&deleted).await, Err(404));
}

/// Another process that commits slowly, again and again: all that a server writes waits for it.
#[tokio::test]
async fn a_server_goes_on_beside_a_writer_that_is_slow() {
    for durability in [Durability::Behind, Durability::Before] {
        let (place, logs) = (Place::new(), Logs::default());
        let server = Server::new(open(place.path(), durability, &logs));
        let kept = server.open().await;
        assert_eq!(server.directory.flush(later()).await, 0);
        let other = sqlite(place.path());
        let late = server.sessions.stats().directory_late;
        let mut ids = Vec::new();
        for round in 0..3 {
            other.execute_batch("BEGIN EXCLUSIVE").unwrap();
            ids.push(go_on(&server, &kept, 2 * round).await);
            other.execute_batch("COMMIT").unwrap();
            assert_eq!(server.directory.flush(later()).await, 0);
        }
        // With `Before`, answers to two `initialize` and to three calls leave late too.
        let expected = if durability == Durability::Behind { 1 } else { 6 };
        assert_eq!(server.sessions.stats().directory_late - late, 3 * expected);
        let lines = changes(&logs);
        assert!(lines.chunks(2).all(|lines| lines == [LOCKED, BACK]), "{lines:?}");
        let server = restart(server, place.path()).await;
        assert_eq!(server.count(&kept).await, Ok(7));
        for [opened, deleted] in ids {
            assert_eq!(server.count(&opened).await, Ok(2));
            assert_eq!(server.count(&deleted).await, Err(404));
        }
    }
}
