//! [`FinalEnd`]: the end of a session with session data, after which it does not come back.

use std::fmt;
use std::sync::Arc;

use crate::context::ClientContext;
use crate::data::{DataTypes, SessionDataError, Values};
use crate::observe::CloseReason;

/// The final end of a session that has [session data](crate::CurrentSession::data), as
/// [`on_final_end`](crate::PolicySessionManagerBuilder::on_final_end) gets it.
pub struct FinalEnd {
    pub(crate) reason: FinalEndReason,
    pub(crate) context: Option<Arc<ClientContext>>,
    pub(crate) values: Arc<Values>,
    pub(crate) types: Arc<DataTypes>,
}

/// Says why a session does not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinalEndReason {
    /// It was closed for this reason, and is not parked.
    Closed(CloseReason),
    /// It was parked, and the parking or the directory forgot it: it was too old, or there was no room. Its close was
    /// reported before, with another reason.
    Forgotten,
    /// It had ended, and the process that ended it was gone before its hook returned. The hook is called again, with what a
    /// [directory](crate::PolicySessionManagerBuilder::directory) has stored.
    Unfinished,
}

impl FinalEnd {
    /// Returns why the session does not come back.
    #[must_use]
    pub const fn reason(&self) -> FinalEndReason {
        self.reason
    }

    /// Returns the client that opened the session, as the layer knew it.
    #[must_use]
    pub fn context(&self) -> Option<&ClientContext> {
        self.context.as_deref()
    }

    /// Returns the value of a type that the session had.
    ///
    /// # Errors
    ///
    /// [`SessionDataError::Decode`] if it was stored, and what is stored is not a value of the type.
    pub fn data<T: Send + Sync + 'static>(&self) -> Result<Option<Arc<T>>, SessionDataError> {
        let value = self.values.get(&self.types.slot::<T>());
        value.map_or(Ok(None), |value| value.read(&self.types))
    }
}

impl fmt::Debug for FinalEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinalEnd").field("reason", &self.reason).field("values", &self.values).finish_non_exhaustive()
    }
}
