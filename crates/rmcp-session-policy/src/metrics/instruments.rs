//! The handles of all metrics, and what is recorded when something happens.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};
use tokio::time::Instant;

use super::catalogue::{self as names, describe};
use super::labels::{Clients, OTHER, Rejections};
use super::settings::Metrics;
use crate::admission::ArrivalKind;
use crate::config_error::ConfigError;
use crate::eviction::SessionInfo;
use crate::observe::{CloseReason, RejectionReason, Stats};

const REASONS: usize = CloseReason::ALL.len();
/// The protocol versions that have a series of their own.
const VERSIONS: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];

/// The end of an incarnation, when its close begins.
pub(crate) struct Ended<'a> {
    pub(crate) session: SessionInfo<'a>,
    /// What [`Instruments::client`] said of it.
    pub(crate) client: u8,
    /// In which its `initialize` was answered, if it was.
    pub(crate) version: Option<&'a str>,
    pub(crate) reason: CloseReason,
    pub(crate) at: Instant,
    pub(crate) age: Duration,
}

/// The handles of a manager's metrics.
#[derive(Debug)]
pub(crate) struct Instruments {
    labels: Vec<Label>,
    clients: Clients,
    opened: Counter,
    restored: Counter,
    /// By client software, and then by reason.
    closed: Vec<[Counter; REASONS]>,
    durations: Durations,
    ends: [End; REASONS],
    rejections: Rejections,
    admitted_requests: Counter,
    rejected_requests: Counter,
    /// Of sessions that are created, and of those that are restored: admitted and rejected.
    admissions: [[Histogram; 2]; 2],
    room: Histogram,
    close: Histogram,
    restore: Histogram,
    state: State,
    /// By client software; empty if none is listed.
    live_clients: Vec<Gauge>,
}

/// What is recorded of each end besides its duration, for one reason.
#[derive(Debug)]
struct End {
    age: Histogram,
    idle: Histogram,
    uses: Histogram,
}

/// The duration of sessions by error and protocol version. Most pairs never happen, so each is made when it does.
#[derive(Debug, Default)]
struct Durations([[OnceLock<Histogram>; VERSIONS.len() + 2]; REASONS + 1]);

/// The gauges, which are set from the state, and the counters of what the state counts.
#[derive(Debug)]
struct State {
    live: Gauge,
    opening: Gauge,
    busy: Gauge,
    streams: Gauge,
    stuck: Gauge,
    reserved: Gauge,
    limit: Gauge,
    parked: Gauge,
    parked_bytes: Gauge,
    held_streams: Gauge,
    listeners: Gauge,
    draining: Gauge,
    surge: Gauge,
    directory_away: Gauge,
    sessionless: Total,
    overruled: Total,
    dead_streams: Total,
    missed_returns: Total,
    directory_late: Total,
}

/// A counter of what the manager counts itself. It is raised by what was added since, so that the counts of two managers
/// with the same labels add up.
#[derive(Debug)]
struct Total {
    counter: Counter,
    counted: AtomicU64,
}

impl Total {
    const fn new(counter: Counter) -> Self {
        Self { counter, counted: AtomicU64::new(0) }
    }

    fn reach(&self, now: u64) {
        let before = self.counted.fetch_max(now, Relaxed);
        self.counter.increment(now.saturating_sub(before));
    }
}

impl Durations {
    fn record(&self, labels: &[Label], ended: &Ended<'_>) {
        let error = is_error(ended).then_some(ended.reason);
        let version = ended.version.map(|version| VERSIONS.iter().position(|known| *known == version));
        let place = match version {
            None => VERSIONS.len(),
            Some(None) => VERSIONS.len() + 1,
            Some(Some(place)) => place,
        };
        let make = || {
            let version = version.map(|known| known.map_or(OTHER, |place| VERSIONS[place]));
            let own = [
                ("network.transport", Some("tcp")),
                ("network.protocol.name", Some("http")),
                ("mcp.protocol.version", version),
                ("error.type", error.map(CloseReason::as_str)),
            ];
            let own = own.into_iter().filter_map(|(key, value)| Some(Label::new(key, value?)));
            histogram!(names::DURATION, labels.iter().cloned().chain(own).collect::<Vec<_>>())
        };
        let row = error.map_or(REASONS, |reason| reason as usize);
        self.0[row][place].get_or_init(make).record(ended.age);
    }
}

/// Whether the session ended with an error, as OpenTelemetry's conventions mean it: against the will of its client.
fn is_error(ended: &Ended<'_>) -> bool {
    match ended.reason {
        CloseReason::InitTimeout | CloseReason::InitFailed | CloseReason::Evicted | CloseReason::Ended => true,
        CloseReason::Drained => ended.session.in_flight() > 0,
        _ => false,
    }
}

impl Instruments {
    /// Makes all handles, at the recorder that is installed now.
    pub(crate) fn new(metrics: Metrics) -> Result<Self, ConfigError> {
        metrics.check()?;
        describe();
        let labels: Vec<_> = metrics.labels.into_iter().map(|(key, value)| Label::new(key, value)).collect();
        let clients = Clients::new(metrics.clients);
        let with = |own: &[(&'static str, &str)]| -> Vec<Label> {
            let own = own.iter().map(|(key, value)| Label::new(*key, (*value).to_owned()));
            labels.iter().cloned().chain(own).collect()
        };
        let count = |name| counter!(name, labels.clone());
        let outcome = |outcome| with(&[("outcome", outcome)]);
        let by_reason = |client: Option<&str>| {
            std::array::from_fn(|place| {
                let reason = ("reason", CloseReason::ALL[place].as_str());
                let own: Vec<_> = [reason].into_iter().chain(client.map(|client| ("client", client))).collect();
                counter!(names::CLOSED, with(&own))
            })
        };
        let values = if clients.is_empty() { Vec::new() } else { clients.values() };
        Ok(Self {
            opened: count(names::OPENED),
            restored: count(names::RESTORED),
            closed: match values.is_empty() {
                true => vec![by_reason(None)],
                false => values.iter().map(|client| by_reason(Some(client))).collect(),
            },
            durations: Durations::default(),
            ends: std::array::from_fn(|place| {
                let labels = with(&[("reason", CloseReason::ALL[place].as_str())]);
                End {
                    age: histogram!(names::AGE, labels.clone()),
                    idle: histogram!(names::IDLE, labels.clone()),
                    uses: histogram!(names::USES, labels),
                }
            }),
            rejections: Rejections::default(),
            admitted_requests: counter!(names::REQUESTS, outcome("admitted")),
            rejected_requests: counter!(names::REQUESTS, outcome("rejected")),
            admissions: ["create", "restore"].map(|kind| {
                ["admitted", "rejected"]
                    .map(|outcome| histogram!(names::ADMISSION, with(&[("kind", kind), ("outcome", outcome)])))
            }),
            room: histogram!(names::ROOM, labels.clone()),
            close: histogram!(names::CLOSE, labels.clone()),
            restore: histogram!(names::RESTORE, labels.clone()),
            state: State::new(&labels),
            live_clients: values.iter().map(|client| gauge!(names::CLIENTS, with(&[("client", client)]))).collect(),
            labels,
            clients,
        })
    }

    /// Which of the listed client software it is, as a number for [`Ended`] and [`publish`](Self::publish).
    pub(crate) fn client(&self, name: &str) -> u8 {
        if self.clients.is_empty() { Clients::UNKNOWN } else { self.clients.index(name) }
    }

    /// How many numbers [`client`](Self::client) may give; none if no software is listed.
    pub(crate) const fn clients(&self) -> usize {
        self.live_clients.len()
    }

    pub(crate) fn opened(&self, is_restored: bool) {
        let counter = if is_restored { &self.restored } else { &self.opened };
        counter.increment(1);
    }

    pub(crate) fn closed(&self, ended: &Ended<'_>) {
        self.durations.record(&self.labels, ended);
        let by_reason = self.closed.get(usize::from(ended.client)).or(self.closed.first());
        by_reason.iter().for_each(|by_reason| by_reason[ended.reason as usize].increment(1));
        let End { age, idle, uses } = &self.ends[ended.reason as usize];
        age.record(ended.at.saturating_duration_since(ended.session.opened()));
        idle.record(ended.at.saturating_duration_since(ended.session.last_used()));
        uses.record(ended.session.uses() as f64);
    }

    pub(crate) fn rejected(&self, kind: ArrivalKind, reason: RejectionReason, policy: &str) {
        self.rejections.count(&self.labels, kind, reason, policy);
    }

    /// Counts a request within a session.
    pub(crate) fn request(&self, is_admitted: bool) {
        let counter = if is_admitted { &self.admitted_requests } else { &self.rejected_requests };
        counter.increment(1);
    }

    /// Records how long an arrival that was to become a session has waited.
    pub(crate) fn admission(&self, kind: ArrivalKind, is_admitted: bool, waited: Duration) {
        let by_outcome = &self.admissions[usize::from(kind == ArrivalKind::Restore)];
        by_outcome[usize::from(!is_admitted)].record(waited);
    }

    pub(crate) fn room(&self, waited: Duration) {
        self.room.record(waited);
    }

    pub(crate) fn gone(&self, took: Duration) {
        self.close.record(took);
    }

    pub(crate) fn came_back(&self, took: Duration) {
        self.restore.record(took);
    }

    /// Sets the gauges. `clients` has how many live sessions there are of each number that [`client`](Self::client) gave.
    pub(crate) fn publish(&self, stats: &Stats, clients: &[usize]) {
        self.state.publish(stats);
        for (gauge, count) in self.live_clients.iter().zip(clients) {
            gauge.set(*count as f64);
        }
    }
}

impl State {
    fn new(labels: &[Label]) -> Self {
        let show = |name| gauge!(name, labels.to_vec());
        let total = |name| Total::new(counter!(name, labels.to_vec()));
        Self {
            live: show(names::LIVE),
            opening: show(names::OPENING),
            busy: show(names::BUSY),
            streams: show(names::STREAMS),
            stuck: show(names::STUCK),
            reserved: show(names::RESERVED),
            limit: show(names::LIMIT),
            parked: show(names::PARKED),
            parked_bytes: show(names::PARKED_BYTES),
            held_streams: show(names::HELD_STREAMS),
            listeners: show(names::LISTENERS),
            draining: show(names::DRAINING),
            surge: show(names::SURGE),
            directory_away: show(names::DIRECTORY_AWAY),
            sessionless: total(names::SESSIONLESS),
            overruled: total(names::OVERRULED),
            dead_streams: total(names::DEAD_STREAMS),
            missed_returns: total(names::MISSED_RETURNS),
            directory_late: total(names::DIRECTORY_LATE),
        }
    }

    fn publish(&self, stats: &Stats) {
        let numbers = [
            (&self.live, stats.live),
            (&self.opening, stats.opening),
            (&self.busy, stats.busy),
            (&self.streams, stats.streams),
            (&self.stuck, stats.stuck),
            (&self.reserved, stats.reserved),
            (&self.limit, stats.max_sessions),
            (&self.parked, stats.parked),
            (&self.parked_bytes, stats.parked_bytes),
            (&self.held_streams, stats.parked_streams),
            (&self.listeners, stats.listeners),
            (&self.draining, usize::from(stats.draining)),
            (&self.surge, usize::from(stats.surge_since.is_some())),
            (&self.directory_away, usize::from(stats.directory_away)),
        ];
        numbers.into_iter().for_each(|(gauge, number)| gauge.set(number as f64));
        self.sessionless.reach(stats.sessionless);
        self.overruled.reach(stats.overruled);
        self.dead_streams.reach(stats.dead_streams);
        self.missed_returns.reach(stats.missed_returns);
        self.directory_late.reach(stats.directory_late);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_raised_by_what_was_added() {
        let total = Total::new(Counter::noop());
        for (now, counted) in [(3, 3), (3, 3), (2, 3), (7, 7)] {
            total.reach(now);
            assert_eq!(total.counted.load(Relaxed), counted);
        }
    }
}
