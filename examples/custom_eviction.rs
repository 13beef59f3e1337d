//! A policy of one's own: guests go before members.

use std::sync::Arc;

use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, Lru, SessionInfo};
use rmcp_session_policy::{ClientContext, CloseReason, PolicySessionManager, SessionKey};

/// Throws out guests before members; among guests the least recently used.
#[derive(Debug, Default)]
struct GuestsFirst {
    guests: Lru,
    members: Lru,
}

impl GuestsFirst {
    fn order_of(&mut self, session: &SessionInfo<'_>) -> &mut Lru {
        let is_guest = session.context().and_then(ClientContext::principal).is_none();
        if is_guest { &mut self.guests } else { &mut self.members }
    }
}

impl EvictionPolicy for GuestsFirst {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.order_of(session).on_insert(session);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.order_of(session).on_remove(session);
    }

    /// An operator reads "evicted: least recently used, guests first, of 1,000 sessions".
    fn phrase(&self) -> &'static str {
        "least recently used, guests first,"
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.guests.victim(candidates).or_else(|| self.members.victim(candidates))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let builder = PolicySessionManager::local().max_sessions(2).max_opening(2).eviction(GuestsFirst::default());
    let sessions = Arc::new(builder.build()?);
    let member = ClientContext::new().with_principal("alice");
    let (alice, _transport) = member.scope(sessions.create_session()).await?;
    let (guest, _transport) = sessions.create_session().await?;
    for id in [&alice, &guest] {
        sessions.accept_message(id, initialized()).await?;
    }
    // Alice has been idle for longer, yet the guest goes.
    let (_newcomer, _transport) = sessions.create_session().await?;
    assert!(sessions.has_session(&alice).await?);
    assert!(!sessions.has_session(&guest).await?);
    assert_eq!(sessions.stats().closed(CloseReason::Evicted), 1);
    Ok(())
}

fn initialized() -> rmcp::model::ClientJsonRpcMessage {
    let initialized = rmcp::model::ClientNotification::InitializedNotification(Default::default());
    rmcp::model::ClientJsonRpcMessage::notification(initialized)
}
