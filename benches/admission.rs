//! What one decision of an admission policy costs, beside the crate `governor` and a log behind a lock.

use std::collections::VecDeque;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use governor::{Quota, RateLimiter};
use rmcp_session_policy::ClientContext;
use rmcp_session_policy::admission::{
    AdmissionPolicy, AdmissionPolicyExt, Arrival, ArrivalKind, Concurrent, SlidingWindow, TokenBucket,
};
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// Asks and, if let in, stays: what a session holds is dropped at once.
fn decide(policy: &impl AdmissionPolicy, context: &ClientContext) -> bool {
    let arrival = Arrival::new(Instant::now(), ArrivalKind::Create).with_context(context);
    policy.admit(&arrival).now_or_never().expect("decides at once").map(|permit| drop(permit.commit())).is_ok()
}

fn decisions(c: &mut Criterion) {
    let alice = ClientContext::new().with_principal("alice");
    let mut group = c.benchmark_group("one decision");
    for limit in [100, 1_000_000] {
        // Full after a moment: what is measured is a refusal, or a mix at the rate.
        let window = SlidingWindow::new(limit, Duration::from_millis(100));
        group.bench_function(BenchmarkId::new("SlidingWindow", limit), |b| b.iter(|| decide(&window, &alice)));
        let log = Mutex::new(VecDeque::new());
        group.bench_function(BenchmarkId::new("a log behind a lock", limit), |b| {
            b.iter(|| {
                let now = std::time::Instant::now();
                let mut log = log.lock().expect("no panic");
                while log.front().is_some_and(|then| now.duration_since(*then) > Duration::from_millis(100)) {
                    log.pop_front();
                }
                let admitted = log.len() < limit;
                if admitted {
                    log.push_back(now);
                }
                admitted
            });
        });
    }
    let bucket = TokenBucket::per_second(1e9).burst(1_000_000);
    group.bench_function("TokenBucket", |b| b.iter(|| decide(&bucket, &alice)));
    let per_client = TokenBucket::per_second(1e9).burst(1_000_000).per_client();
    group.bench_function("TokenBucket per client", |b| b.iter(|| decide(&per_client, &alice)));
    let concurrent = Concurrent::new(100);
    group.bench_function("Concurrent", |b| b.iter(|| decide(&concurrent, &alice)));
    let both = SlidingWindow::new(1_000_000, MINUTE).and(TokenBucket::per_second(1e9).burst(1_000_000));
    group.bench_function("SlidingWindow and TokenBucket", |b| b.iter(|| decide(&both, &alice)));
    let limiter = RateLimiter::direct(Quota::per_second(NonZeroU32::MAX));
    group.bench_function("governor, direct", |b| b.iter(|| black_box(limiter.check().is_ok())));
    let limiter = RateLimiter::keyed(Quota::per_second(NonZeroU32::MAX));
    group.bench_function("governor, keyed", |b| b.iter(|| black_box(limiter.check_key(&"alice").is_ok())));
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
