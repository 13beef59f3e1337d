//! The tasks of the runtime.

use std::time::Duration;

/// Lets every task run until all of them wait, on paused time.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}
