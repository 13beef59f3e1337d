//! The metrics of a manager: what is counted, with which labels, and that a recorder which fails costs no client anything.

use std::sync::Arc;

use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::admission::{
    AdmissionPolicyExt, Arrival, ArrivalKind, Permit, Rejection, TokenBucket, admit_fn,
};
use rmcp_session_policy::eviction::{Lru, SessionInfo};
use rmcp_session_policy::{
    ClientContext, CloseReason, Metrics, PolicyError, PolicySessionManager, PolicySessionManagerBuilder, SECOND,
};
use serde_json::json;
use tokio::time::sleep;

use crate::session::{Driver, Http, settle};

type Manager = PolicySessionManager<LocalSessionManager>;
type Builder = PolicySessionManagerBuilder<LocalSessionManager>;

/// An exporter of this test alone. While it is the recorder of the thread, a manager is built.
fn exporter() -> PrometheusRecorder {
    let set = |builder: PrometheusBuilder, (name, bounds): &(&str, &[f64])| {
        builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds).expect("some bounds")
    };
    Metrics::buckets().iter().fold(PrometheusBuilder::new(), set).build_recorder()
}

fn manager(metrics: Metrics, configure: impl FnOnce(Builder) -> Builder) -> Arc<Manager> {
    let builder = PolicySessionManager::local().eviction(Lru::new()).metrics(metrics);
    Arc::new(configure(builder).build().expect("valid"))
}

/// The sum of the samples of a metric that have these labels. A histogram's are its `_count`, `_sum` and `_bucket`.
fn value(page: &PrometheusHandle, name: &str, labels: &[(&str, &str)]) -> f64 {
    let has = |line: &str| labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")));
    let of = |line: &str| {
        let rest = line.strip_prefix("mcp_server_session_")?.strip_prefix(name)?;
        (rest.starts_with(['{', ' ']) && has(line)).then(|| line.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    page.render().lines().filter_map(of).sum()
}

#[tokio::test(start_paused = true)]
async fn gauges_show_what_there_is_once_they_are_published() {
    let recorder = exporter();
    let (_local, page) = (metrics::set_default_local_recorder(&recorder), recorder.handle());
    let sessions = manager(Metrics::new().clients(["driver"]).label("service", "tickets"), |b| b.max_sessions(4));
    let gauge = |name: &str| value(&page, name, &[("service", "tickets")]);
    let http = Http::new(&sessions, Some(sessions.parking()));
    let _parked = http.open().await.expect("room");
    sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Idle).await;
    let opening = Driver::open(&sessions).await.expect("room");
    let listening = Driver::ready(&sessions).await.expect("room");
    let stream = listening.listen().await.expect("lives");
    let busy = Driver::ready(&sessions).await.expect("room");
    let call = busy.sleep(60_000).await.expect("lives");
    assert_eq!(gauge("live"), 0.0, "not yet");
    sessions.publish_metrics();
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.opening, stats.busy, stats.streams, stats.parked), (3, 1, 1, 1, 1));
    for (name, number) in [
        ("live", 3),
        ("opening", 1),
        ("busy", 1),
        ("streams", 1),
        ("stuck", 0),
        ("reserved", 0),
        ("limit", 4),
        ("parked", 1),
        ("parked_bytes", stats.parked_bytes),
        ("draining", 0),
    ] {
        assert_eq!(gauge(name), number as f64, "{name}");
    }
    let clients = |client: &str| value(&page, "clients", &[("client", client)]);
    assert_eq!([clients("driver"), clients("unknown"), clients("other")], [2.0, 1.0, 0.0]);
    sessions.refuse_newcomers();
    sessions.publish_metrics();
    assert_eq!(gauge("draining"), 1.0);
    drop((opening, stream, call));
}

#[tokio::test(start_paused = true)]
async fn each_end_is_counted_once_with_its_reason_and_those_that_are_errors_say_so() {
    let recorder = exporter();
    let (_local, page) = (metrics::set_default_local_recorder(&recorder), recorder.handle());
    let sessions = manager(Metrics::new().clients(["cursor"]), |b| b.max_sessions(2).init_timeout(SECOND));
    let closed = |reason: &str| value(&page, "closed", &[("reason", reason), ("client", "other")]);
    let lasted = |error: &str| value(&page, "duration_count", &[("error_type", error)]);
    let all = || value(&page, "duration_count", &[("network_transport", "tcp"), ("network_protocol_name", "http")]);

    let http = Http::new(&sessions, Some(sessions.parking()));
    let deleted = http.open().await.expect("room");
    assert_eq!(http.request("DELETE", Some(&deleted), None).await.status, 202);
    settle().await;
    assert_eq!((closed("client"), all()), (1.0, 1.0));
    let version = [("mcp_protocol_version", "2025-11-25")];
    assert_eq!(value(&page, "duration_count", &version), 1.0);

    let evicted = http.open().await.expect("room");
    assert_eq!(http.call(&evicted, "echo", json!({ "text": "e" })).await.status, 200);
    sleep(90 * SECOND).await;
    let kept = http.open().await.expect("room");
    assert_eq!(http.call(&kept, "echo", json!({ "text": "e" })).await.status, 200);
    let third = http.open().await.expect("room");
    settle().await;
    assert_eq!((closed("evicted"), lasted("evicted")), (1.0, 1.0));
    let idle = |le: &str| value(&page, "idle_bucket", &[("reason", "evicted"), ("le", le)]);
    assert_eq!([idle("60"), idle("300")], [0.0, 1.0], "90 seconds");
    assert_eq!(value(&page, "uses_sum", &[("reason", "evicted")]), 1.0);
    assert_eq!(value(&page, "room_duration_count", &[]), 1.0);
    // It comes back, in the place of another.
    assert_eq!(http.call(&evicted, "echo", json!({ "text": "e" })).await.status, 200);
    settle().await;
    assert_eq!((value(&page, "restored", &[]), value(&page, "restore_duration_count", &[])), (1.0, 1.0));
    assert_eq!(value(&page, "opened", &[]), 4.0);
    let admitted = |kind: &str| value(&page, "admission_duration_count", &[("kind", kind), ("outcome", "admitted")]);
    assert_eq!([admitted("create"), admitted("restore")], [4.0, 1.0]);
    drop(third);

    sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await;
    let half = Driver::open(&sessions).await.expect("room");
    half.initialize().await.expect("answered");
    sleep(2 * SECOND).await;
    settle().await;
    assert_eq!((closed("init_timeout"), lasted("init_timeout")), (1.0, 1.0));
    let busy = Driver::ready(&sessions).await.expect("room");
    let _idle = Driver::ready(&sessions).await.expect("room");
    let call = busy.sleep(60_000).await.expect("lives");
    sessions.drain(SECOND).await;
    assert_eq!((closed("drained"), lasted("drained")), (2.0, 1.0), "one cut off a call");
    assert_eq!(lasted("revoked"), 0.0, "an operator's will is no error");
    let ends: f64 = CloseReason::ALL.iter().map(|reason| closed(reason.as_str())).sum();
    settle().await;
    assert_eq!([all(), value(&page, "age_count", &[]), value(&page, "close_duration_count", &[])], [ends; 3]);
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn rejections_name_their_policy_and_requests_their_outcome() {
    let recorder = exporter();
    let (_local, page) = (metrics::set_default_local_recorder(&recorder), recorder.handle());
    let of_mallory = |arrival: &Arrival<'_>| arrival.context().and_then(ClientContext::principal) == Some("mallory");
    let closed_to = move |arrival: &Arrival<'_>| match of_mallory(arrival) {
        true => Err(Rejection::new("closed_to_some")),
        false => Ok(Permit::free()),
    };
    let sessions = manager(Metrics::new(), |b| {
        b.max_sessions(1)
            .refuse_when_full()
            .admission(admit_fn(closed_to))
            .requests(TokenBucket::per_second(1).burst(2).per_session())
    });
    let mallory = ClientContext::new().with_principal("mallory");
    assert!(matches!(mallory.scope(Driver::open(&sessions)).await, Err(PolicyError::Rejected(_))));
    let alice = Driver::ready(&sessions).await.expect("room");
    assert!(matches!(Driver::open(&sessions).await, Err(PolicyError::ServerFull(_))));
    for _ in 0..3 {
        alice.call("echo", json!({ "text": "e" })).await.expect("a stream").answers().await;
    }
    alice.ping().await.expect("lives");
    let rejected = |kind: &str, policy: &str, reason: &str| {
        value(&page, "rejected", &[("kind", kind), ("policy", policy), ("reason", reason)])
    };
    assert_eq!(rejected("create", "closed_to_some", "quota"), 1.0);
    assert_eq!(rejected("create", "capacity", "at_capacity"), 1.0);
    assert_eq!(rejected("request", "token_bucket", "quota"), 1.0);
    assert_eq!(value(&page, "rejected", &[]), 3.0);
    let requests = |outcome: &str| value(&page, "requests", &[("outcome", outcome)]);
    assert_eq!([requests("admitted"), requests("rejected")], [2.0, 1.0], "a ping is asked of no policy");
    let waited = value(&page, "admission_duration_count", &[("kind", "create"), ("outcome", "rejected")]);
    assert_eq!(waited, 2.0);
    assert!(!page.render().contains("mallory"), "no principal is a label");
}

#[tokio::test(start_paused = true)]
async fn a_manager_without_metrics_registers_none() {
    let recorder = exporter();
    let (_local, page) = (metrics::set_default_local_recorder(&recorder), recorder.handle());
    let sessions = Arc::new(PolicySessionManager::local().build().expect("valid"));
    let alice = Driver::ready(&sessions).await.expect("room");
    assert_eq!(alice.echo("e").await.expect("lives"), "e");
    sessions.publish_metrics();
    assert_eq!(page.render(), "");
}

#[test]
fn labels_that_make_no_sense_are_told_by_build() {
    let built = PolicySessionManager::local().metrics(Metrics::new().label("reason", "mine")).build();
    let error = built.expect_err("the library sets it");
    let text = "metrics.label is \"reason\": allow a key once, and none that the library sets";
    assert_eq!((&*error.setting, error.to_string()), ("metrics.label", text.to_owned()));
}

/// A recorder that panics whenever something is recorded.
struct Panics;

impl CounterFn for Panics {
    fn increment(&self, _: u64) {
        panic!("a bug in a recorder");
    }
    fn absolute(&self, _: u64) {
        panic!("a bug in a recorder");
    }
}

impl HistogramFn for Panics {
    fn record(&self, _: f64) {
        panic!("a bug in a recorder");
    }
}

impl Recorder for Panics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(Self))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Self))
    }
}

#[tokio::test(start_paused = true)]
async fn a_recorder_that_panics_costs_no_client_anything() {
    let _local = metrics::set_default_local_recorder(&Panics);
    let sessions = manager(Metrics::new(), |b| {
        let is_new = |arrival: &Arrival<'_>| arrival.kind() == ArrivalKind::Create;
        b.max_sessions(1).admission(TokenBucket::per_second(1).burst(2).only(is_new))
    });
    let http = Http::new(&sessions, Some(sessions.parking()));
    let alice = http.open().await.expect("room");
    let bob = http.open().await.expect("the room of alice");
    assert!(http.open().await.is_err(), "a quota");
    for id in [&alice, &bob, &alice] {
        assert_eq!(http.call(id, "echo", json!({ "text": "e" })).await.text().as_deref(), Some("e"));
    }
    sessions.publish_metrics();
    assert!(sessions.has_session(&alice.as_str().into()).await.expect("answers"));
    assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await, 2);
    assert_eq!((sessions.stats().live, sessions.stats().reserved), (0, 0));
}
