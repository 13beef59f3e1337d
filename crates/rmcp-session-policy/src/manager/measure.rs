//! What is measured, with the feature `metrics`. The other files of this folder say when.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;

use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::Instant;

use super::PolicySessionManager;
use super::manager_inner::ManagerInner;
use crate::eviction::SessionInfo;
use crate::metrics::{Ended, Instruments};
use crate::observe::CloseReason;
use crate::timestamp::Timestamp;
use crate::transport::Session;

impl<I: SessionManager> PolicySessionManager<I> {
    /// Sets the gauges of the [metrics](crate::Metrics) to what there is now, and raises the counters of what the manager counts
    /// itself. Call it before each render of the metrics, or on a timer. It costs what [`stats`](Self::stats) costs. Without
    /// [`metrics`](crate::PolicySessionManagerBuilder::metrics) it does nothing.
    pub fn publish_metrics(&self) {
        let Some(metrics) = &self.shared.settings.metrics else { return };
        let mut clients = vec![0; metrics.clients()];
        let stats = self.census(|record| {
            if let Some(count) = clients.get_mut(usize::from(record.client.load(Relaxed))) {
                *count += 1;
            }
        });
        self.shared.measure(|metrics| metrics.publish(&stats, &clients));
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// Records something, if there are metrics. It is called under no lock: the recorder is code of others. A panic of it costs
    /// this record.
    pub(super) fn measure(&self, record: impl FnOnce(&Instruments)) {
        if let Some(metrics) = &self.settings.metrics
            && catch_unwind(AssertUnwindSafe(|| record(metrics))).is_err()
        {
            tracing::warn!("the recorder of metrics panicked");
        }
    }

    /// The begin of something whose duration is recorded. `None` if there are no metrics.
    pub(super) fn begin_measure(&self) -> Option<Instant> {
        self.settings.metrics.as_ref().map(|_| Instant::now())
    }

    /// Notes with which software the client opens a session.
    pub(super) fn measure_software(&self, session: &Session<I::Transport>, name: &str) {
        self.measure(|metrics| session.record.client.store(metrics.client(name), Relaxed));
    }

    /// Records the end of a session that has begun.
    pub(super) fn measure_end(&self, session: &Session<I::Transport>, reason: CloseReason, at: Timestamp) {
        self.measure(|metrics| {
            let (info, at) = (SessionInfo::of(&session.record), at.instant());
            metrics.closed(&Ended {
                session: info,
                client: session.record.client.load(Relaxed),
                version: session.protocol_version().as_deref(),
                reason,
                at,
                age: at.saturating_duration_since(info.created()),
            });
        });
    }
}
