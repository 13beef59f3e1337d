//! What the parking keeps of one session, and how much memory that is.

use std::sync::Arc;

use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::time::Instant;

use crate::context::ClientContext;
use crate::data::Values;
use crate::directory::{Body, Ownership, StoredSession};
use crate::observe::CloseReason;
use crate::session::{Gap, History, Origin, Record, SessionKey, SessionOrigin, Signals};
use crate::timestamp::Timestamp;
use crate::transport::SealKey;

/// What the parking keeps of a session. A copy keeps nothing alive: the session is parked as long as [`ParkingState`](super::parking_state::ParkingState)
/// has it.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    /// The parameters of `initialize`, serialized.
    pub(super) initialize_params: Arc<[u8]>,
    /// The protocol version that its client speaks, if it is in a directory.
    pub(super) protocol_version: Option<Arc<str>>,
    context: Option<Arc<ClientContext>>,
    /// What handlers kept in the session.
    data: Option<Arc<Values>>,
    serial: SessionOrigin,
    history: History,
    /// From when its age counts.
    pub(super) since: Timestamp,
    /// Distinguishes this parking from other ones of the same session.
    pub(super) stay: u64,
    /// Under what this server has it in the directory that outlives the process. `None` if it is in none.
    pub(super) ownership: Option<Ownership>,
    /// What seals its event ids, if another server has made that key. Boxed, because few sessions have one.
    pub(super) seal_key: Option<Box<SealKey>>,
    /// Whether it is parked again after a restore that was given up.
    pub(super) is_back: bool,
    /// How often this process has restored it.
    restores: u16,
    /// Why it has ended for good. While it is being restored, it is removed after that.
    pub(super) ended: Option<CloseReason>,
}

impl Parked {
    pub(super) fn of(
        record: &Record,
        initialize_params: Arc<[u8]>,
        data: Option<Arc<Values>>,
        is_back: bool,
        now: Instant,
    ) -> Self {
        Self {
            initialize_params,
            protocol_version: None,
            context: record.entry.context.clone(),
            data,
            serial: record.entry.serial,
            history: record.history(now),
            since: Timestamp::at(now),
            stay: 0,
            ownership: None,
            seal_key: None,
            is_back,
            restores: record.restores,
            ended: None,
        }
    }

    /// What comes from the directory. To the policies of this process it is a new session with a past.
    pub(super) fn stored(session: &StoredSession, body: Body, ownership: Option<Ownership>, now: Instant) -> Self {
        let opened = Timestamp::ago(now, session.age);
        let last_used = Timestamp::ago(now, session.usage.idle).max(opened);
        let history = History {
            last_used,
            last_seen: last_used,
            uses: session.usage.uses,
            calls: session.usage.calls,
            last_gap: session.usage.last_gap.map_or(Gap::NONE, Gap::of),
            ..History::new(opened)
        };
        Self {
            initialize_params: body.initialize_params,
            protocol_version: body.protocol_version,
            context: body.context,
            data: Some(Values::of_stored(body.data)).filter(|values| !values.is_empty()).map(Arc::new),
            serial: SessionOrigin::allocate(),
            history,
            since: Timestamp::at(now),
            stay: 0,
            ownership,
            seal_key: body.seal_key.map(|key| Box::new(SealKey::of_stored(&key))),
            is_back: false,
            restores: 0,
            ended: None,
        }
    }

    /// The origin of a new incarnation.
    pub(super) fn origin(&self, id: SessionId) -> Origin {
        let (context, restores) = (self.context.clone(), self.restores.saturating_add(1));
        Origin { id, serial: self.serial, context, history: self.history, restored: true, restores }
    }

    /// A record of it, which no registry has, for what reads a session.
    pub(super) fn record(&self, id: SessionId, signals: &Arc<Signals>) -> Record {
        let origin = Origin { restores: self.restores, ..self.origin(id) };
        let opened = origin.history.opened;
        Record::new(SessionKey::new(u32::MAX, u32::MAX), origin, opened, Arc::clone(signals))
    }

    pub(super) const fn serial(&self) -> SessionOrigin {
        self.serial
    }

    /// Why it has ended for good. `None` if the parking has forgotten it, or it has not.
    pub(super) const fn ended(&self) -> Option<CloseReason> {
        self.ended
    }

    /// What handlers kept in the session.
    pub(super) const fn data(&self) -> Option<&Arc<Values>> {
        self.data.as_ref()
    }

    pub(super) const fn shared_context(&self) -> Option<&Arc<ClientContext>> {
        self.context.as_ref()
    }

    pub(super) const fn has_called(&self) -> bool {
        self.history.calls > 0
    }

    pub(super) const fn opened(&self) -> Timestamp {
        self.history.opened
    }

    pub(super) fn context(&self) -> Option<&ClientContext> {
        self.context.as_deref()
    }

    /// Records a message from its client: its age counts from now.
    pub(super) fn seen(&mut self, now: Instant) {
        let now = Timestamp::at(now);
        self.since = self.since.max(now);
        self.history.last_seen = self.history.last_seen.max(now);
    }

    /// Its memory, with its id and its data.
    pub(super) fn bytes(&self, id: &str) -> usize {
        let data = self.data.as_ref().map_or(0, |values| values.bytes());
        entry_bytes(id, self.initialize_params.len(), self.context()) + data
    }
}

/// The memory of a parked session in bytes: the parameters of `initialize`, its id, the context of its client, and its
/// entry.
pub(super) fn entry_bytes(id: &str, said: usize, context: Option<&ClientContext>) -> usize {
    /// Two links of its queue, its slot in the queue's table, and the reference counts of its id and of the parameters.
    const LINKS: usize = 2 * size_of::<usize>() + 2 * size_of::<usize>() + 4 * size_of::<usize>();
    const ENTRY: usize = size_of::<SessionId>() + size_of::<Parked>() + LINKS;
    ENTRY + id.len() + said + context.map_or(0, ClientContext::bytes)
}

#[cfg(test)]
impl Parked {
    /// A session that was opened now, and parked at once.
    pub(super) fn made_up(called: bool, said: usize, now: Instant) -> Self {
        let now = Timestamp::at(now);
        Self {
            data: None,
            initialize_params: vec![0; said].into(),
            protocol_version: None,
            context: None,
            serial: SessionOrigin::allocate(),
            history: History { calls: called.into(), ..History::new(now) },
            since: now,
            stay: 0,
            ownership: None,
            seal_key: None,
            is_back: false,
            restores: 0,
            ended: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_of_a_client_counts() {
        let plain = entry_bytes("1", 0, None);
        let context = ClientContext::new().with_principal("p".repeat(1_000));
        let context = context.with_header(http::header::USER_AGENT, "v".repeat(2_000).try_into().unwrap());
        assert!(entry_bytes("1", 0, Some(&context)) >= plain + 3_000 + size_of::<ClientContext>());
    }
}
