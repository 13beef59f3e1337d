//! [`Selection`]: which sessions an action is for, how many they are, and their end.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use rmcp::transport::streamable_http_server::session::SessionManager;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Handle;

use super::body::read_body;
use super::console::Console;
use super::refusal::Refusal;
use super::rows::{address, principal};
use super::session_name::SessionName;
use crate::context::ClientContext;
use crate::eviction::SessionInfo;
use crate::manager::PolicySessionManager;
use crate::observe::{CloseReason, SessionSnapshot};
use crate::session::Phase;

/// The sessions that an action is for: one, or all of a principal or an address. Exactly one of the three is given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    session: Option<SessionName>,
    principal: Option<String>,
    address: Option<IpAddr>,
}

/// What is to be terminated.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Terminate {
    session: Option<SessionName>,
    principal: Option<String>,
    address: Option<IpAddr>,
    /// The number that the operator has confirmed. If more are counted now, none end.
    at_most: Option<usize>,
}

/// How many sessions a selection would end.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Count {
    live: usize,
    parked: usize,
}

impl Selection {
    fn check(self) -> Result<Self, Refusal> {
        let given = [self.session.is_some(), self.principal.is_some(), self.address.is_some()];
        match given.iter().filter(|given| **given).count() {
            1 => Ok(self),
            _ => Err(Refusal::bad("give one of session, principal and address")),
        }
    }

    fn selects(&self, session: &SessionInfo<'_>) -> bool {
        let context = session.context();
        self.holds(
            SessionName::new(session.origin(), session.fingerprint()),
            context.and_then(ClientContext::principal),
            context.and_then(ClientContext::peer),
        )
    }

    fn shows(&self, session: &SessionSnapshot) -> bool {
        self.holds(SessionName::of(session), principal(session), address(session))
    }

    fn holds(&self, session: SessionName, principal: Option<&str>, address: Option<IpAddr>) -> bool {
        self.session.is_none_or(|wanted| wanted == session)
            && self.principal.as_deref().is_none_or(|wanted| principal == Some(wanted))
            && self.address.is_none_or(|wanted| address == Some(wanted))
    }

    fn count<I: SessionManager>(&self, sessions: &PolicySessionManager<I>) -> Count {
        let is_live = |session: &&SessionSnapshot| session.phase != Phase::Closing && self.shows(session);
        let live = sessions.list().iter().filter(is_live).count();
        Count { live, parked: sessions.list_parked(|session| self.shows(session)).len() }
    }
}

/// Answers `GET /api/selection`.
pub(super) async fn selection<I: SessionManager>(
    State(console): State<Arc<Console<I>>>,
    selection: Result<Query<Selection>, QueryRejection>,
) -> Result<Json<Count>, Refusal> {
    let Query(selection) = selection.map_err(|wrong| Refusal::bad(wrong.body_text()))?;
    let selection = selection.check()?;
    console.look_at_all(move |sessions| selection.count(sessions)).await.map(Json)
}

/// Answers `POST /api/terminate`.
pub(super) async fn terminate<I: SessionManager>(
    State(console): State<Arc<Console<I>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    console.check_actions()?;
    let Terminate { session, principal, address, at_most } = read_body(&headers, &body)?;
    let selection = Selection { session, principal, address }.check()?;
    if let Some(at_most) = at_most {
        let counted = selection.clone();
        let count = console.look_at_all(move |sessions| counted.count(sessions)).await?;
        if count.live + count.parked > at_most {
            let error = "more sessions than that would end now";
            let body = json!({ "error": error, "live": count.live, "parked": count.parked });
            return Ok((StatusCode::CONFLICT, Json(body)).into_response());
        }
    }
    // It goes on if the operator's browser hangs up.
    let select = move |session: &SessionInfo<'_>| selection.selects(session);
    let (sessions, runtime) = (console.sessions.share(), Handle::current());
    // It looks at all sessions, which must not hold up those who are served on this thread.
    let terminate = move || runtime.block_on(sessions.terminate(select, CloseReason::Revoked));
    let ending = tokio::task::spawn_blocking(terminate);
    let failed = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the sessions could not be terminated");
    let ended = ending.await.map_err(|_| failed())?;
    tracing::info!(ended, "sessions were terminated on the operator's page");
    Ok(Json(json!({ "ended": ended })).into_response())
}
