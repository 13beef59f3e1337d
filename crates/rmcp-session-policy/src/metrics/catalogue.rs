//! The names of all metrics, with their kinds, units and meanings. `docs/operating.md` has the same table, with the labels.

use metrics::Unit::{self, Bytes, Count, Seconds};
use metrics::{describe_counter, describe_gauge, describe_histogram};

use self::Kind::{Counter, Gauge, Histogram};

pub(super) const DURATION: &str = "mcp.server.session.duration";
pub(super) const LIVE: &str = "mcp.server.session.live";
pub(super) const OPENING: &str = "mcp.server.session.opening";
pub(super) const BUSY: &str = "mcp.server.session.busy";
pub(super) const STREAMS: &str = "mcp.server.session.streams";
pub(super) const STUCK: &str = "mcp.server.session.stuck";
pub(super) const RESERVED: &str = "mcp.server.session.reserved";
pub(super) const LIMIT: &str = "mcp.server.session.limit";
pub(super) const PARKED: &str = "mcp.server.session.parked";
pub(super) const PARKED_BYTES: &str = "mcp.server.session.parked.bytes";
pub(super) const HELD_STREAMS: &str = "mcp.server.session.held_streams";
pub(super) const LISTENERS: &str = "mcp.server.session.listeners";
pub(super) const DRAINING: &str = "mcp.server.session.draining";
pub(super) const SURGE: &str = "mcp.server.session.surge";
pub(super) const DIRECTORY_AWAY: &str = "mcp.server.session.directory.away";
pub(super) const CLIENTS: &str = "mcp.server.session.clients";
pub(super) const OPENED: &str = "mcp.server.session.opened";
pub(super) const RESTORED: &str = "mcp.server.session.restored";
pub(super) const CLOSED: &str = "mcp.server.session.closed";
pub(super) const REJECTED: &str = "mcp.server.session.rejected";
pub(super) const REQUESTS: &str = "mcp.server.session.requests";
pub(super) const SESSIONLESS: &str = "mcp.server.session.sessionless_requests";
pub(super) const OVERRULED: &str = "mcp.server.session.overruled";
pub(super) const DEAD_STREAMS: &str = "mcp.server.session.dead_streams";
pub(super) const MISSED_RETURNS: &str = "mcp.server.session.missed_returns";
pub(super) const DIRECTORY_LATE: &str = "mcp.server.session.directory.late";
pub(super) const AGE: &str = "mcp.server.session.age";
pub(super) const IDLE: &str = "mcp.server.session.idle";
pub(super) const USES: &str = "mcp.server.session.uses";
pub(super) const ADMISSION: &str = "mcp.server.session.admission.duration";
pub(super) const ROOM: &str = "mcp.server.session.room.duration";
pub(super) const CLOSE: &str = "mcp.server.session.close.duration";
pub(super) const RESTORE: &str = "mcp.server.session.restore.duration";

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Each metric: its name, kind, unit and meaning.
const ALL: &[(&str, Kind, Unit, &str)] = &[
    (LIVE, Gauge, Count, "Sessions in the inner manager, closing ones included. Each holds a place"),
    (OPENING, Gauge, Count, "Live sessions whose handshake is not finished"),
    (BUSY, Gauge, Count, "Live sessions with an activity under way that are not closing"),
    (STREAMS, Gauge, Count, "Streams that clients of live sessions hold open by GET"),
    (STUCK, Gauge, Count, "Closing sessions that were not gone when their deadline passed"),
    (RESERVED, Gauge, Count, "Places reserved for sessions that are being created or restored"),
    (LIMIT, Gauge, Count, "The most sessions that may be live at one time"),
    (PARKED, Gauge, Count, "Parked sessions, which the next request restores"),
    (PARKED_BYTES, Gauge, Bytes, "The memory of the parked sessions"),
    (HELD_STREAMS, Gauge, Count, "Listening streams that stay open while their sessions are parked"),
    (LISTENERS, Gauge, Count, "Listening streams without a session"),
    (DRAINING, Gauge, Count, "1 if newcomers are rejected because the server is about to stop, else 0"),
    (SURGE, Gauge, Count, "1 if the guard against surges chooses the victims, else 0"),
    (DIRECTORY_AWAY, Gauge, Count, "1 if the directory did not answer when it was asked last, else 0"),
    (CLIENTS, Gauge, Count, "Live sessions by client software"),
    (OPENED, Counter, Count, "Sessions opened"),
    (RESTORED, Counter, Count, "Sessions restored, each time"),
    (CLOSED, Counter, Count, "Sessions that began to close"),
    (REJECTED, Counter, Count, "Sessions and requests that were rejected"),
    (REQUESTS, Counter, Count, "Requests within sessions, ping left out, by the outcome of their admission"),
    (SESSIONLESS, Counter, Count, "POSTs that belong to no session"),
    (OVERRULED, Counter, Count, "Choices in which the eviction policy panicked or was overruled"),
    (DEAD_STREAMS, Counter, Count, "Listening streams that ended because their clients did not answer a probe"),
    (MISSED_RETURNS, Counter, Count, "Returns of which the eviction policy was not told"),
    (DIRECTORY_LATE, Counter, Count, "Deletions that were answered before they were in the directory"),
    (DURATION, Histogram, Seconds, "How long a session was live, from its opening or restore until it began to close"),
    (AGE, Histogram, Seconds, "How long ago a session was first opened when it began to close"),
    (IDLE, Histogram, Seconds, "How long a session was idle when it began to close"),
    (USES, Histogram, Count, "How many requests a session had served when it began to close"),
    (ADMISSION, Histogram, Seconds, "How long an arrival waited for its admission and its place"),
    (ROOM, Histogram, Seconds, "How long an arrival that found no free place waited until it had one"),
    (CLOSE, Histogram, Seconds, "From the begin of a close until the session was gone"),
    (RESTORE, Histogram, Seconds, "From the request that restores a session until the session was live"),
];

/// Tells the recorder what the metrics mean.
pub(super) fn describe() {
    for &(name, kind, unit, meaning) in ALL {
        match kind {
            Counter => describe_counter!(name, unit, meaning),
            Gauge => describe_gauge!(name, unit, meaning),
            Histogram => describe_histogram!(name, unit, meaning),
        }
    }
}

/// Waits of arrivals. A restore from a directory waits for a minute for its turn and its place, and then for its victims.
const WAITS: &[f64] = &[0.001, 0.005, 0.02, 0.05, 0.1, 0.3, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 90.0];

/// The bounds of the buckets of each histogram.
pub(super) const BUCKETS: &[(&str, &[f64])] = &[
    // Those of OpenTelemetry's conventions for MCP, and beyond: sessions live for hours.
    (
        DURATION,
        &[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 1_800.0, 7_200.0, 86_400.0],
    ),
    (AGE, &[1.0, 10.0, 60.0, 300.0, 1_800.0, 3_600.0, 14_400.0, 86_400.0, 604_800.0]),
    (IDLE, &[1.0, 10.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 14_400.0, 86_400.0]),
    (USES, &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0, 1_000.0, 10_000.0]),
    (ADMISSION, WAITS),
    (ROOM, WAITS),
    (CLOSE, &[0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]),
    (RESTORE, WAITS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_histogram_has_buckets_in_order_and_nothing_else_has() {
        let histograms = ALL.iter().filter(|(_, kind, ..)| matches!(kind, Histogram)).map(|(name, ..)| *name);
        assert!(histograms.eq(BUCKETS.iter().map(|(name, _)| *name)));
        assert!(BUCKETS.iter().all(|(_, bounds)| bounds.is_sorted_by(|less, more| less < more)));
    }

    #[test]
    fn waits_of_restores_reach_beyond_a_minute() {
        for name in [ADMISSION, ROOM, RESTORE] {
            let (_, bounds) = BUCKETS.iter().find(|(of, _)| *of == name).expect("it has buckets");
            assert!(bounds.contains(&60.0) && *bounds.last().expect("some") > 60.0, "{name}");
        }
    }
}
