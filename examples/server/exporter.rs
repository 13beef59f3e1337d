//! `/metrics`, in the text format of Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use rmcp_session_policy::{Metrics, SECOND};

use super::Sessions;

/// What the exporter keeps. The manager records into it, if it was installed before the manager was built.
#[derive(Clone)]
pub(crate) struct Exporter(PrometheusHandle);

impl Exporter {
    /// Makes it the process's recorder. Units and `_total` are in the names, as is usual with Prometheus.
    pub(crate) fn install() -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new().with_recommended_naming(true);
        for (name, bounds) in Metrics::buckets() {
            builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds)?;
        }
        Ok(Self(builder.install_recorder()?))
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

/// What the manager is to measure. Other software than this is `other`: clients choose their names.
pub(crate) fn metrics() -> Metrics {
    Metrics::new().clients(["claude-ai", "claude-code", "codex-mcp-client", "cursor-vscode", "Visual Studio Code"])
}

/// Looks at all sessions and writes a page of all series, which takes too long for a worker of the runtime.
async fn render(
    State((sessions, exporter)): State<(Arc<Sessions>, Exporter)>,
) -> Result<impl IntoResponse, StatusCode> {
    let page = tokio::task::spawn_blocking(move || {
        sessions.publish_metrics();
        exporter.0.render()
    });
    let page = page.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page))
}
