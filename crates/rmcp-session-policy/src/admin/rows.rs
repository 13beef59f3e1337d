//! [`Row`]: one session, as the API gives it.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::session_name::SessionName;
use crate::observe::SessionSnapshot;
use crate::session::{Phase, Stream};

/// The bytes that are shown of a principal. A longer one can be searched by its begin, but not named.
const LONGEST_PRINCIPAL: usize = 256;

/// One session.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// Its name, which its incarnations share.
    session: String,
    fingerprint: String,
    phase: &'static str,
    client: Option<Software>,
    principal: Option<String>,
    /// Whether there is more of the principal.
    principal_cut: bool,
    address: Option<IpAddr>,
    age_ms: u64,
    idle_ms: u64,
    in_flight: usize,
    streams: usize,
    listening: &'static str,
    uses: u64,
    calls: u64,
    restores: u32,
}

#[derive(Debug, Serialize)]
struct Software {
    name: String,
    version: String,
}

impl Row {
    pub(super) fn of(session: &SessionSnapshot) -> Self {
        let principal = principal(session);
        let shown = principal.map(|principal| cut(principal, LONGEST_PRINCIPAL));
        Self {
            session: SessionName::of(session).to_string(),
            fingerprint: session.fingerprint.to_string(),
            phase: phase(session.phase),
            client: session.client.clone().map(|(name, version)| Software { name, version }),
            principal: shown.map(str::to_owned),
            principal_cut: shown.map(str::len) != principal.map(str::len),
            address: address(session),
            age_ms: millis(session.age),
            idle_ms: millis(session.idle),
            in_flight: session.in_flight,
            streams: session.open_streams,
            listening: match session.stream {
                Stream::Never => "never",
                Stream::Open => "open",
                Stream::Lost(_) => "lost",
            },
            uses: session.uses,
            calls: session.calls,
            restores: session.restores,
        }
    }
}

impl Row {
    /// One that its next request restores.
    pub(super) fn parked(session: &SessionSnapshot) -> Self {
        Self { phase: "parked", ..Self::of(session) }
    }
}

pub(super) fn principal(session: &SessionSnapshot) -> Option<&str> {
    session.context.as_ref()?.principal()
}

pub(super) fn address(session: &SessionSnapshot) -> Option<IpAddr> {
    session.context.as_ref()?.peer()
}

pub(super) const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Opening => "opening",
        Phase::Ready => "ready",
        Phase::Closing => "closing",
    }
}

/// Whole milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The begin of a text, up to a number of bytes and the end of a character.
pub(super) fn cut(text: &str, longest: usize) -> &str {
    let mut end = longest.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
