//! [`keeps_its_bounds`]: a directory keeps no more sessions than it is told.

use super::laws::{Checked, flush, id, look, must, runtime, session};
use crate::directory::{Change, Epoch, FoundState, SessionDirectory};

/// Checks that a session directory which was told to keep at most this many sessions does: that no more are found, after
/// three times as many were opened and as many have ended, and that the newest is.
///
/// `make` makes such a directory, empty.
///
/// ```
/// use rmcp_session_policy::testing::directory::{MemoryDirectory, keeps_its_bounds};
///
/// keeps_its_bounds(100, async || MemoryDirectory::with_capacity(100));
/// ```
///
/// # Panics
///
/// Panics if it keeps more, or fails. Panics within an async runtime.
#[track_caller]
pub fn keeps_its_bounds<D: SessionDirectory>(sessions: u64, make: impl AsyncFn() -> D) {
    let checked = runtime().block_on(async {
        let directory = make().await;
        for number in 0..3 * sessions {
            directory.write(&id(number), Epoch::FIRST, Change::Opened(session(number)));
            directory.write(&id(format!("ended {number}")), Epoch::FIRST, Change::Opened(session(number)));
            directory.write(&id(format!("ended {number}")), Epoch::FIRST, Change::Dead);
            if number % 64 == 0 {
                flush(&directory).await?;
            }
        }
        flush(&directory).await?;
        let mut kept = 0;
        for number in 0..3 * sessions {
            let found = look(&directory, &id(number)).await?;
            kept += u64::from(found.is_some_and(|found| found.state != FoundState::Dead));
        }
        must(kept <= sessions, &format!("it keeps {kept} sessions of at most {sessions}"))?;
        let newest = look(&directory, &id(3 * sessions - 1)).await?;
        let checked: Checked = must(newest.is_some(), "it forgot the newest session");
        checked
    });
    if let Err(law) = checked {
        panic!("the session directory: {law}");
    }
}
