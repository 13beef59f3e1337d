//! [`Asker`]: what is known of an arrival that is rejected.

use crate::context::ClientContext;

/// What is known of an arrival that is rejected: its client, and the id of the session that it is for.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) context: Option<&'a ClientContext>,
    /// `None` for a newcomer, and for a request without a session.
    pub(crate) session: Option<&'a str>,
}
