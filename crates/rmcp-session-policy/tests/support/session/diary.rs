//! An observer that keeps what happened, in words.

use std::sync::{Arc, Mutex};

use rmcp_session_policy::{CloseReason, SessionEvent, SessionObserver};

/// Keeps what happened, in words.
#[derive(Clone, Debug, Default)]
pub struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }

    pub fn closed(reason: CloseReason) -> String {
        format!("closed {reason}")
    }
}

impl SessionObserver for Diary {
    fn observe(&self, event: &SessionEvent<'_>) {
        let entry = match event {
            SessionEvent::Opened { .. } => "opened".to_owned(),
            SessionEvent::Restored { .. } => "restored".to_owned(),
            SessionEvent::Rejected { reason, .. } => format!("refused {reason}"),
            SessionEvent::Closed { reason, .. } => Self::closed(*reason),
            _ => "something else".to_owned(),
        };
        self.0.lock().expect("no panic").push(entry);
    }
}
