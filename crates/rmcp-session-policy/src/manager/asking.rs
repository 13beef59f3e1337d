//! Policies that are asked about a request while its session ends.

use rmcp::transport::streamable_http_server::session::SessionManager;

use super::manager_inner::ManagerInner;
use crate::transport::{Flag, Session};

/// A policy is being asked about a request within a session. If the session has ended for good meanwhile, the policy may
/// have begun to keep something for it after it was told of the end: then the drop of this tells it again.
pub(super) struct Asking<'a, I: SessionManager> {
    pub(super) shared: &'a ManagerInner<I>,
    pub(super) session: &'a Session<I::Transport>,
}

impl<I: SessionManager> Drop for Asking<'_, I> {
    fn drop(&mut self) {
        let record = &self.session.record;
        let is_known = || self.shared.directory.contains(&record.id) || self.shared.parking.contains(&record.id);
        // Between two looks it may come back.
        let has_left = self.session.has(Flag::Left) && !is_known() && !is_known();
        if has_left || self.session.has(Flag::EndTold) {
            self.shared.parking.tell_end(record.serial);
        }
    }
}
