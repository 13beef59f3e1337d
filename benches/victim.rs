//! What the choice of a victim costs, per policy, at any size and any share of busy sessions.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rmcp_session_policy::eviction::{EvictionPolicy, EvictionPolicyExt, Fifo, Lfu, Lru, Prospects, SessionInfo};
use rmcp_session_policy::testing::eviction::Crowd;
use rmcp_session_policy_benches::sizes;

fn choices<P: EvictionPolicy>(c: &mut Criterion, name: &str, make: impl Fn() -> P) {
    let mut group = c.benchmark_group(format!("a victim by {name}"));
    for &sessions in sizes(&[1_000, 100_000, 1_000_000]) {
        for busy in [0, 50, 99] {
            let mut crowd = Crowd::new(make(), sessions, sessions / 100 * busy);
            group.bench_function(BenchmarkId::new(format!("{busy} % busy"), sessions), |b| {
                b.iter(|| crowd.newcomer());
            });
        }
    }
    group.finish();
}

fn victims(c: &mut Criterion) {
    choices(c, "Fifo", Fifo::new);
    choices(c, "Lru", Lru::new);
    choices(c, "Lfu", Lfu::new);
    choices(c, "Prospects", Prospects::new);
    choices(c, "Lru in tiers", || Lru::new().tiers([|session: &SessionInfo<'_>| session.open_streams() == 0]));
}

criterion_group!(benches, victims);
criterion_main!(benches);
