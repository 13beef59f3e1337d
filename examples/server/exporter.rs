//! `/metrics`, in the text format of Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use rmcp_session_policy::SECOND;

use super::Sessions;

/// What the exporter keeps. The manager records into it, if it was installed before the manager was built.
#[derive(Clone)]
pub(crate) struct Exporter(PrometheusHandle);

impl Exporter {
    /// Makes it the process's recorder.
    pub(crate) fn install() -> Result<Self, BuildError> {
        Ok(Self(PrometheusBuilder::new().install_recorder()?))
    }

    pub(crate) fn router(self, sessions: &Arc<Sessions>) -> Router {
        Router::new().route("/metrics", get(render)).with_state((Arc::clone(sessions), self))
    }

    /// Sorts what was recorded into its buckets, so that it does not pile up while nobody asks for it.
    pub(crate) async fn upkeep(self) {
        let mut every = tokio::time::interval(5 * SECOND);
        loop {
            every.tick().await;
            self.0.run_upkeep();
        }
    }
}

async fn render(State((_sessions, exporter)): State<(Arc<Sessions>, Exporter)>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], exporter.0.render())
}
