//! A guard for asking a policy about a request while the session of the request may end.

use rmcp::transport::streamable_http_server::session::SessionManager;

use super::manager_inner::ManagerInner;
use crate::transport::{Flag, Session};

/// Held while a policy decides about a request within a session. If the session ends for good meanwhile, the policy may
/// store state for the session after it was told of the end. The drop of this guard then tells the policy of the end
/// again.
pub(super) struct Asking<'a, I: SessionManager> {
    pub(super) shared: &'a ManagerInner<I>,
    pub(super) session: &'a Session<I::Transport>,
}

impl<I: SessionManager> Drop for Asking<'_, I> {
    fn drop(&mut self) {
        let record = &self.session.record;
        let is_known = || self.shared.live.contains(&record.id) || self.shared.parking.contains(&record.id);
        // The session may move from the parking to the live ones between the two checks, so both are repeated.
        let has_left = self.session.has(Flag::Left) && !is_known() && !is_known();
        if has_left || self.session.has(Flag::EndTold) {
            self.shared.parking.tell_end(record.entry.serial);
        }
    }
}
