//! Durations to write settings with: [`SECOND`], [`MINUTE`], [`HOUR`].

use std::time::Duration;

/// One second.
pub const SECOND: Duration = Duration::from_secs(1);
/// One minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// One hour.
pub const HOUR: Duration = Duration::from_secs(60 * 60);
