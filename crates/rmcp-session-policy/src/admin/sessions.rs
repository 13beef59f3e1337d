//! The list of sessions: filtered, sorted, one page of it.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use rmcp::transport::streamable_http_server::session::SessionManager;
use serde::{Deserialize, Serialize};

use super::console::Console;
use super::refusal::Refusal;
use super::rows::{Row, address, phase, principal};
use crate::observe::SessionSnapshot;

/// The most sessions of one page. With the longest names and principals they stay below 200 KiB.
const LONGEST_PAGE: usize = 50;

/// The longest filter, in bytes.
const LONGEST_FILTER: usize = 256;

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    filter: String,
    phase: Option<PhaseName>,
    busy: bool,
    principal: Option<String>,
    address: Option<IpAddr>,
    sort: Sort,
    order: Option<Order>,
    page: usize,
    per_page: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            filter: String::new(),
            phase: None,
            busy: false,
            principal: None,
            address: None,
            sort: Sort::Age,
            order: None,
            page: 1,
            per_page: LONGEST_PAGE,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseName {
    Opening,
    Ready,
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Sort {
    Fingerprint,
    Phase,
    Client,
    Principal,
    Address,
    Age,
    Idle,
    InFlight,
    Streams,
    Uses,
    Restores,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Ascending,
    Descending,
}

/// One page of the list.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    /// Sessions in the inner manager.
    live: usize,
    /// Those that the filter lets through.
    matching: usize,
    page: usize,
    per_page: usize,
    pages: usize,
    sort: Sort,
    order: Order,
    sessions: Vec<Row>,
}

/// Answers `GET /api/sessions`.
pub(super) async fn sessions<I: SessionManager>(
    State(console): State<Arc<Console<I>>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Page>, Refusal> {
    let Query(wanted) = wanted.map_err(|wrong| Refusal::bad(wrong.body_text()))?;
    wanted.check()?;
    console.look_at_all(move |sessions| wanted.page_of(sessions.list())).await.map(Json)
}

impl Wanted {
    fn check(&self) -> Result<(), Refusal> {
        if self.filter.len() > LONGEST_FILTER {
            return Err(Refusal::bad("the filter is too long: give 256 bytes at most"));
        }
        if self.page == 0 || !(1..=LONGEST_PAGE).contains(&self.per_page) {
            return Err(Refusal::bad("page begins at 1, and per_page is between 1 and 50"));
        }
        Ok(())
    }

    fn lets_through(&self, session: &SessionSnapshot) -> bool {
        let has_phase = self.phase.is_none_or(|wanted| wanted.name() == phase(session.phase));
        let has_principal = self.principal.as_deref().is_none_or(|wanted| principal(session) == Some(wanted));
        let has_address = self.address.is_none_or(|wanted| address(session) == Some(wanted));
        let is_busy = !self.busy || session.in_flight > 0;
        has_phase && has_principal && has_address && is_busy && self.finds(session)
    }

    /// Whether the filter is in what is shown of a session. Upper and lower case of ASCII are one.
    fn finds(&self, session: &SessionSnapshot) -> bool {
        let wanted = self.filter.trim();
        let has = |text: &str| has_text(text, wanted);
        // To write the fingerprint and the address of each session takes most of the time, so only what may be in them is
        // looked for there.
        let is_digits = |also: &[u8]| wanted.bytes().all(|byte| byte.is_ascii_hexdigit() || also.contains(&byte));
        wanted.is_empty()
            || session.client.as_ref().is_some_and(|(name, version)| has(name) || has(version))
            || principal(session).is_some_and(has)
            || is_digits(b"") && has(&session.fingerprint.to_string())
            || is_digits(b".:") && address(session).is_some_and(|address| has(&address.to_string()))
    }

    /// Sorts no more than the page that is asked for.
    fn page_of(&self, all: Vec<SessionSnapshot>) -> Page {
        let live = all.len();
        let mut found: Vec<_> = all.iter().filter(|session| self.lets_through(session)).collect();
        let matching = found.len();
        let order = self.order.unwrap_or_else(|| self.sort.usual_order());
        let compare = |a: &&SessionSnapshot, b: &&SessionSnapshot| {
            let by_value = self.sort.compare(a, b);
            let by_value = if order == Order::Descending { by_value.reverse() } else { by_value };
            by_value.then_with(|| a.origin.cmp(&b.origin))
        };
        let pages = matching.div_ceil(self.per_page).max(1);
        // The last page, if the one that is asked for is not there any more.
        let page = self.page.min(pages);
        let from = (page - 1) * self.per_page;
        let to = (from + self.per_page).min(matching);
        if to < matching {
            found.select_nth_unstable_by(to, compare);
            found.truncate(to);
        }
        if 0 < from && from < to {
            found.select_nth_unstable_by(from, compare);
        }
        let shown = &mut found[from..];
        shown.sort_unstable_by(compare);
        let sessions = shown.iter().map(|session| Row::of(session)).collect();
        Page { live, matching, page, per_page: self.per_page, pages, sort: self.sort, order, sessions }
    }
}

impl PhaseName {
    const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Ready => "ready",
            Self::Closing => "closing",
        }
    }
}

impl Sort {
    /// Words begin with the first, numbers with the largest.
    const fn usual_order(self) -> Order {
        match self {
            Self::Fingerprint | Self::Phase | Self::Client | Self::Principal | Self::Address => Order::Ascending,
            Self::Age | Self::Idle | Self::InFlight | Self::Streams | Self::Uses | Self::Restores => Order::Descending,
        }
    }

    fn compare(self, a: &SessionSnapshot, b: &SessionSnapshot) -> Ordering {
        match self {
            Self::Fingerprint => a.fingerprint.cmp(&b.fingerprint),
            Self::Phase => phase(a.phase).cmp(phase(b.phase)),
            Self::Client => a.client.cmp(&b.client),
            Self::Principal => principal(a).cmp(&principal(b)),
            Self::Address => address(a).cmp(&address(b)),
            Self::Age => a.age.cmp(&b.age),
            Self::Idle => a.idle.cmp(&b.idle),
            Self::InFlight => a.in_flight.cmp(&b.in_flight),
            Self::Streams => a.open_streams.cmp(&b.open_streams),
            Self::Uses => a.uses.cmp(&b.uses),
            Self::Restores => a.restores.cmp(&b.restores),
        }
    }
}

fn has_text(text: &str, wanted: &str) -> bool {
    let first = wanted.as_bytes().first().map(u8::to_ascii_lowercase);
    let is_there =
        |part: &[u8]| part.first().map(u8::to_ascii_lowercase) == first && part.eq_ignore_ascii_case(wanted.as_bytes());
    text.as_bytes().windows(wanted.len().max(1)).any(is_there)
}
