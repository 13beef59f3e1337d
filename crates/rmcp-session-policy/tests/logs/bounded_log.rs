//! Module `bounded` logs the messages of the crate `mcp-session`, without the ids.

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::service::Service;
use rmcp_session_policy::bounded::{BoundedSessionManagerBuilder, SessionConfig};
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const SECOND: Duration = Duration::from_secs(1);

/// Collects what is logged: level, and fields in their order.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                write!(self.0, " {}={value:?}", field.name()).expect("a string");
            }
        }
        if *event.metadata().level() <= Level::INFO && event.metadata().target().starts_with("rmcp_session_policy") {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.0.lock().expect("no panic").push(line.0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_has_the_messages_of_mcp_session_without_ids() {
    let lines = Lines::default();
    let _guard = crate::log::listen_with(tracing_subscriber::registry().with(lines.clone()));
    let mut config = SessionConfig::default();
    config.keep_alive = Some(SECOND);
    let sessions = BoundedSessionManagerBuilder::new(1)
        .session_config(config)
        .idle_timeout(60 * SECOND)
        .max_lifetime(10 * SECOND)
        .build();
    let service = Service::new(Arc::clone(&sessions), None);
    let first = service.open().await;
    let second = service.open().await;
    sleep(20 * SECOND).await;
    let third = service.open().await;
    service.delete(&third).await;
    let lines = lines.0.lock().expect("no panic").clone();
    let shape: Vec<_> = lines.iter().map(|line| without_values(line)).collect();
    assert_eq!(
        shape,
        [
            "WARN message=idle_timeout overrides SessionConfig::keep_alive",
            "INFO message=session created session_id",
            "INFO message=session closed session_id duration_secs reason=Evicted",
            "INFO message=session created session_id",
            "INFO message=session closed session_id duration_secs reason=MaxLifetime",
            "INFO message=session created session_id",
            "INFO message=session closed session_id duration_secs reason=Closed",
        ]
    );
    for id in [first, second, third] {
        assert!(lines.iter().all(|line| !line.contains(&id)), "{lines:?}");
    }
}

/// A line without what differs from run to run.
fn without_values(line: &str) -> String {
    line.split(' ')
        .map(|word| match word.split_once('=') {
            Some((name @ ("session_id" | "duration_secs"), _)) => name,
            _ => word,
        })
        .collect::<Vec<_>>()
        .join(" ")
}
