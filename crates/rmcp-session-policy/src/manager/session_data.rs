//! [`SessionData`]: the value of one type that handlers keep in their session.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::durable_sessions::stored;
use crate::data::{DataTypes, SessionDataError, Slot, Value, Values};
use crate::directory::Change;
use crate::transport::{Flag, Session};

/// The value of type `T` that handlers keep in their session. [`CurrentSession::data`](crate::CurrentSession::data) makes
/// it.
///
/// A session has one value of each type. It outlives the handler: when the session is evicted and its next request
/// restores it, the new handler finds the value. If the type is registered by
/// [`session_data`](crate::PolicySessionManagerBuilder::session_data), it also outlives the process, with a
/// [directory](crate::PolicySessionManagerBuilder::directory): it is stored as JSON under the registered name and version,
/// and the next server finds it. Other values stay in memory.
///
/// A value is dropped once: after the final end of its session, when the session goes to another server, or when another
/// value is set, and not before the last `Arc` of it.
///
/// The values of a session together are bounded by
/// [`max_session_data_bytes`](crate::PolicySessionManagerBuilder::max_session_data_bytes).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use futures_util::StreamExt;
/// # use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp::handler::server::tool::Extension;
/// use rmcp::{ErrorData, tool, tool_router};
/// use rmcp_session_policy::{CurrentSession, PolicySessionManager};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Cart {
///     items: Vec<String>,
/// }
///
/// #[derive(Clone)]
/// struct Shop;
///
/// #[tool_router(server_handler)]
/// impl Shop {
///     #[tool(description = "puts an apple into the cart")]
///     async fn buy(&self, Extension(session): Extension<CurrentSession>) -> Result<String, ErrorData> {
///         let items = session.data::<Cart>().update(|cart| {
///             cart.items.push("apple".to_owned());
///             cart.items.len()
///         })?;
///         Ok(format!("{items} in the cart"))
///     }
/// }
///
/// let sessions = PolicySessionManager::local().session_data::<Cart>("cart", 1).build()?;
/// # let (id, transport) = sessions.create_session().await?;
/// # let service = tokio::spawn(rmcp::serve_server(Shop, transport));
/// # let initialize = serde_json::from_value(serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
/// #     "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } }))?;
/// # sessions.initialize_session(&id, initialize).await?;
/// # let initialized = serde_json::json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
/// # sessions.accept_message(&id, serde_json::from_value(initialized)?).await?;
/// # let _service = service.await??;
/// # for count in 1..=2 {
/// # let call = serde_json::json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "buy" } });
/// # let answer = sessions.create_stream(&id, serde_json::from_value(call)?).await?;
/// # let answer: Vec<_> = answer.collect().await;
/// # let text = answer.iter().map(|event| serde_json::to_string(&event.message).unwrap()).collect::<String>();
/// # assert!(text.contains(&format!("{count} in the cart")), "{text}");
/// # }
/// # Ok(()) }
/// ```
pub struct SessionData<T> {
    session: Arc<dyn HasData>,
    of: PhantomData<fn() -> T>,
}

impl<T> SessionData<T> {
    pub(super) fn of(session: Arc<dyn HasData>) -> Self {
        Self { session, of: PhantomData }
    }
}

impl<T: Send + Sync + 'static> SessionData<T> {
    /// Returns the value. `None` if there is none, or one of another version. Later changes do not change it.
    ///
    /// A look at the session's values; the first time after the session came from a directory also a deserialization.
    ///
    /// # Errors
    ///
    /// [`SessionDataError::Decode`] if it came from a directory, and is not a value of the type;
    /// [`SessionDataError::Ended`] if the session has ended.
    pub fn get(&self) -> Result<Option<Arc<T>>, SessionDataError> {
        Ok(self.read()?.1)
    }

    /// Sets the value.
    ///
    /// Costs its serialization if the type is registered, and a write to the queue of the directory if there is one.
    ///
    /// # Errors
    ///
    /// [`SessionDataError::TooLarge`], [`SessionDataError::Encode`], or [`SessionDataError::Ended`] if the session has
    /// ended. The value is then as before.
    pub fn set(&self, value: T) -> Result<(), SessionDataError> {
        let value = Value::new(Arc::new(value), self.session.types())?;
        self.session.replace(&self.slot(), None, Some(value)).map(drop)
    }

    /// Changes the value, or its default if there is none, and returns what `change` returns. No other change is lost or
    /// comes between: if one does, `change` is called again with a copy of the newer value, so it should only change the
    /// value. Values of another version count as none.
    ///
    /// Costs a copy of the value, and what [`set`](Self::set) costs.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get) and [`set`](Self::set).
    pub fn update<R>(&self, mut change: impl FnMut(&mut T) -> R) -> Result<R, SessionDataError>
    where
        T: Clone + Default,
    {
        loop {
            let (seen, value) = self.read()?;
            let mut value = value.as_deref().cloned().unwrap_or_default();
            let result = change(&mut value);
            let value = Value::new(Arc::new(value), self.session.types())?;
            if self.session.replace(&self.slot(), Some(seen.as_ref()), Some(value))? {
                return Ok(result);
            }
        }
    }

    /// Removes the value and returns it. `None` if there is none, or one of another version, which stays.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub fn take(&self) -> Result<Option<Arc<T>>, SessionDataError> {
        loop {
            let (seen, value) = self.read()?;
            if value.is_none() || self.session.replace(&self.slot(), Some(seen.as_ref()), None)? {
                return Ok(value);
            }
        }
    }

    fn slot(&self) -> Slot {
        self.session.types().slot::<T>()
    }

    /// Reads the value. Also returns what is in its slot, which may be a value of another version.
    fn read(&self) -> Result<(Option<Value>, Option<Arc<T>>), SessionDataError> {
        let slot = self.slot();
        let Some(held) = self.session.values()?.and_then(|values| values.get(&slot).cloned()) else {
            return Ok((None, None));
        };
        let value = held.read::<T>(self.session.types())?;
        if let Some(value) = &value
            && !held.is_decoded()
        {
            self.session.note_decoded(&slot, held.with_decoded(Arc::<T>::clone(value)));
        }
        Ok((Some(held), value))
    }
}

impl<T> fmt::Debug for SessionData<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionData<{}>", type_name::<T>())
    }
}

/// A session, without the type of its transport, as what holds values.
pub(super) trait HasData: Send + Sync {
    fn types(&self) -> &DataTypes;
    fn values(&self) -> Result<Option<Arc<Values>>, SessionDataError>;
    /// Puts a value into a slot, or none; with `seen`, only if that is still there. Returns whether it did.
    fn replace(
        &self,
        slot: &Slot,
        seen: Option<Option<&Value>>,
        value: Option<Value>,
    ) -> Result<bool, SessionDataError>;
    /// Keeps a value that was read, if it is still there.
    fn note_decoded(&self, slot: &Slot, value: Value);
}

impl<T: Send + 'static> HasData for Session<T> {
    fn types(&self) -> &DataTypes {
        &self.record.entry.signals().data_types
    }

    fn values(&self) -> Result<Option<Arc<Values>>, SessionDataError> {
        let values = self.lock_data().clone();
        if may_change(self) { Ok(values) } else { Err(SessionDataError::Ended) }
    }

    fn replace(
        &self,
        slot: &Slot,
        seen: Option<Option<&Value>>,
        value: Option<Value>,
    ) -> Result<bool, SessionDataError> {
        // Declared before the lock, so that values are dropped after it.
        let (before, after);
        let mut data = self.lock_data();
        if !may_change(self) {
            return Err(SessionDataError::Ended);
        }
        before = data.clone().unwrap_or_default();
        if seen.is_some_and(|seen| !same(before.get(slot), seen)) {
            return Ok(false);
        }
        let (is_removed, is_stored) = (value.is_none(), matches!(slot, Slot::Name(_)));
        after = Arc::new(before.with(slot, value));
        let (bytes, limit) = (after.bytes(), self.types().max_bytes.load(Relaxed));
        if bytes > limit && !is_removed {
            return Err(SessionDataError::TooLarge { bytes, limit });
        }
        // Under the lock, so that changes are written in their order.
        if is_stored && !write(self, &after) {
            return Err(SessionDataError::TooLarge { bytes, limit });
        }
        *data = Some(after);
        Ok(true)
    }

    fn note_decoded(&self, slot: &Slot, value: Value) {
        let before;
        let mut data = self.lock_data();
        before = data.clone().unwrap_or_default();
        if same(before.get(slot), Some(&value)) {
            *data = Some(Arc::new(before.with(slot, Some(value))));
        }
    }
}

/// Whether the values are this server's to change: the session has not been parked, has not ended, and is not lost.
fn may_change<T>(session: &Session<T>) -> bool {
    !session.has(Flag::DataTaken) && session.in_directory().is_none_or(|session| session.is_ours())
}

fn same(held: Option<&Value>, seen: Option<&Value>) -> bool {
    match (held, seen) {
        (Some(held), Some(seen)) => held.is(seen),
        (held, seen) => held.is_none() && seen.is_none(),
    }
}

/// Writes the values to the directory, if the session is in one. Returns false if they are too large for it.
fn write<T>(session: &Session<T>, values: &Values) -> bool {
    let (Some(directory), Some(in_directory)) = (&session.record.entry.signals().directory, session.in_directory())
    else {
        return true;
    };
    let Some(initialize_params) = session.initialize_params() else { return true };
    let Some(stored) = stored(session, &initialize_params, in_directory.is_ready(), values, Instant::now()) else {
        return false;
    };
    let ownership = in_directory.ownership;
    directory.write(&ownership.digest, ownership.epoch, Change::Data(stored));
    // Counted after the write: an answer that finds the count waits for what it counts.
    if directory.is_awaited() {
        in_directory.data_changed();
    }
    true
}
