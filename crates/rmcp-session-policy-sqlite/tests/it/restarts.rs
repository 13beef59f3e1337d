//! A whole server, killed and started again over the same file.

use rmcp_session_policy::directory::SessionDirectory;
use rmcp_session_policy_sqlite::SqliteDirectory;

use crate::children::Process;
use crate::http::Server;
use crate::support::{Place, later};

/// What the child does: opens two sessions, deletes one, and is killed.
pub(crate) async fn serve(directory: SqliteDirectory, say: fn(String)) {
    let server = Server::new(directory);
    let (kept, deleted) = (server.open().await, server.open().await);
    assert_eq!(server.count(&kept).await, Ok(1));
    // So that the end is not merged into a session that was never written.
    assert_eq!(server.directory.flush(later()).await, 0);
    assert_eq!(server.count(&kept).await, Ok(2));
    assert_eq!(server.delete(&deleted).await, 202);
    assert_eq!(server.directory.flush(later()).await, 0);
    say(format!("{kept} {deleted}"));
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_server_that_is_killed_answers_its_sessions_after_its_restart_and_none_that_was_deleted() {
    for number in [0, 1] {
        let place = Place::new();
        let mut process = Process::start("serve", place.path(), number);
        let said = process.hear().unwrap();
        let (kept, deleted) = said.split_once(' ').unwrap();
        process.kill();
        let server = Server::new(place.open());
        assert_eq!(server.count(kept).await, Ok(3), "its data came back");
        assert_eq!(server.count(deleted).await, Err(404));
        assert_eq!(server.count("80f04fe2-5387-4a93-9fb0-4ef1f686fd95").await, Err(404));
        assert_eq!(server.count(kept).await, Ok(4));
    }
}
