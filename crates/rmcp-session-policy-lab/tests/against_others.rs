//! The simulator and its policies against caches that others wrote, on traces without busy sessions.
//!
//! A cache knows hits and misses only. So each session of these traces does everything in a moment: its first request comes
//! right after its handshake, which in a cache is the miss that brings it, and each later request that finds no place is
//! another miss.

use std::sync::Arc;
use std::time::Duration;

use foyer_memory::{Cache, CacheBuilder, EvictionConfig, FifoConfig};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rmcp_session_policy::ClientContext;
use rmcp_session_policy_lab::cast::Cast;
use rmcp_session_policy_lab::distribution::Distribution;
use rmcp_session_policy_lab::event::{Event, Kind};
use rmcp_session_policy_lab::observer::Observer;
use rmcp_session_policy_lab::policies::PolicyName;
use rmcp_session_policy_lab::policies::PolicyName::{
    Belady, Clock, Fifo, Hyperbolic, Lfu, Lhd, Lru, Lru2, Random, S3fifo, Sieve, Slru,
};
use rmcp_session_policy_lab::replay::{Bound, IdleRule, Replay};
use rmcp_session_policy_lab::simulator::{Idle, Settings, Simulator};

/// How many sessions there are.
const SESSIONS: usize = 2_000;
/// How many requests they make.
const REQUESTS: usize = 60_000;

struct Unknown;

impl Cast for Unknown {
    fn software(&self, _: u32) -> Option<&str> {
        None
    }
    fn context(&self, _: u32) -> Option<Arc<ClientContext>> {
        None
    }
}

/// Counts the requests of sessions without a place.
#[derive(Default)]
struct Misses(usize);

impl Observer for Misses {
    fn request(&mut self, _: &Event, has_place: bool, _: u64) {
        self.0 += usize::from(!has_place);
    }
}

/// Requests at one a second, each of a session that is drawn by Zipf's law (an independent reference model).
fn requests() -> Vec<u32> {
    let weights = (1..=SESSIONS).map(|rank| 1.0 / rank as f64);
    let sessions = (0..SESSIONS).map(|session| Distribution::Fixed(session as f64));
    let zipf = Distribution::Mix(weights.zip(sessions).collect());
    let mut random = ChaCha8Rng::seed_from_u64(5);
    (0..REQUESTS).map(|_| zipf.count(&mut random)).collect()
}

/// The misses of the simulator. The first request of a session is a miss by its arrival.
fn simulated(policy: PolicyName, places: usize, requests: &[u32]) -> usize {
    let settings = Settings { max_sessions: places, parks: true, idle: Idle::Always, cuts_busy: false };
    let mut simulator = Simulator::new(policy.make().0, settings, &Unknown, Misses::default());
    let mut arrived = [false; SESSIONS];
    let mut arrivals = 0;
    for (session, at) in requests.iter().zip((1_000_000..).step_by(1_000_000)) {
        let play = |kind| Event { at, lasts: 0, session: *session, kind, is_last: false };
        if std::mem::replace(&mut arrived[*session as usize], true) {
            simulator.play(&[play(Kind::Call)]);
        } else {
            arrivals += 1;
            simulator.play(&[play(Kind::Init), play(Kind::Ready)]);
        }
    }
    assert_eq!(simulator.overruled(), 0);
    simulator.finish().0 + arrivals
}

/// The misses of a cache that is asked for each session, and is given it if it lacks it.
fn misses(requests: &[u32], mut has_or_takes: impl FnMut(u32) -> bool) -> usize {
    requests.iter().filter(|session| !has_or_takes(**session)).count()
}

fn foyer(eviction: impl Into<EvictionConfig>, places: usize) -> Cache<u32, ()> {
    CacheBuilder::new(places).with_shards(1).with_eviction_config(eviction).build()
}

fn in_foyer(requests: &[u32], cache: &Cache<u32, ()>) -> usize {
    misses(requests, |session| {
        let has = cache.get(&session).is_some();
        if !has {
            drop(cache.insert(session, ()));
        }
        has
    })
}

#[test]
fn lru_misses_as_the_crates_lru_and_hashlink_do() {
    let requests = requests();
    for places in [10, 100, 700] {
        let ours = simulated(Lru, places, &requests);
        let mut lru = lru::LruCache::new(places.try_into().unwrap());
        let theirs = misses(&requests, |session| lru.get(&session).is_some() || lru.put(session, ()).is_some());
        assert_eq!(ours, theirs, "{places} places");
        let mut hashlink = hashlink::LruCache::new(places);
        let theirs = misses(&requests, |session| {
            let has = hashlink.get(&session).is_some();
            if !has {
                hashlink.insert(session, ());
            }
            has
        });
        assert_eq!(ours, theirs, "{places} places");
    }
}

#[test]
fn fifo_and_sieve_miss_as_foyer_does() {
    let requests = requests();
    for places in [10, 100, 700] {
        let theirs = in_foyer(&requests, &foyer(FifoConfig::default(), places));
        assert_eq!(simulated(Fifo, places, &requests), theirs, "fifo, {places} places");
        let theirs = in_foyer(&requests, &foyer(EvictionConfig::Sieve(Default::default()), places));
        assert_eq!(simulated(Sieve, places, &requests), theirs, "sieve, {places} places");
    }
}

/// Che, Tung, Wang: "Hierarchical web caching systems", 2002.
#[test]
fn lru_hits_as_often_as_che_s_approximation_says() {
    let requests = requests();
    let warm = REQUESTS / 3;
    let total: f64 = (1..=SESSIONS).map(|rank| 1.0 / rank as f64).sum();
    let rates: Vec<_> = (1..=SESSIONS).map(|rank| 1.0 / rank as f64 / total).collect();
    for places in [50, 200, 800] {
        // The characteristic time: that in which `places` different sessions are expected.
        let (mut low, mut high) = (0.0, 1e7);
        for _ in 0..100 {
            let time = (low + high) / 2.0;
            let held: f64 = rates.iter().map(|rate| 1.0 - libm::exp(-rate * time)).sum();
            if held < places as f64 { low = time } else { high = time }
        }
        let expected: f64 = rates.iter().map(|rate| rate * (1.0 - libm::exp(-rate * low))).sum();
        let counted = (REQUESTS - warm) as f64;
        let missed = simulated(Lru, places, &requests) - simulated(Lru, places, &requests[..warm]);
        let hits = 1.0 - missed as f64 / counted;
        assert!((hits - expected).abs() < 0.01, "{places} places: {hits} and not {expected}");
    }
}

#[test]
fn no_policy_misses_less_than_one_that_knows_the_future() {
    let mut trace = String::from("time_s,session,kind,duration_s,software,tenant\n");
    let mut arrived = [false; SESSIONS];
    for (second, session) in requests().into_iter().take(20_000).enumerate() {
        if !std::mem::replace(&mut arrived[session as usize], true) {
            trace += &format!("{second},{session},init,0,,\n{second},{session},ready,0,,\n");
        }
        trace += &format!("{second},{session},call,0,,\n");
    }
    let folder = std::env::temp_dir().join(format!("rmcp-session-policy-lab-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("irm.csv");
    std::fs::write(&path, trace).unwrap();
    let policies = vec![Belady, Clock, Fifo, Hyperbolic, Lfu, Lhd, Lru, Lru2, Random, S3fifo, Sieve, Slru];
    let replay = Replay {
        trace: path,
        bounds: vec![Bound::Sessions(200)],
        policies,
        parks: true,
        warm: Some(Duration::ZERO),
        idle: IdleRule::Never,
        jobs: 2.try_into().unwrap(),
    };
    let outcomes = replay.run().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let restores: Vec<_> = outcomes.runs.iter().map(|run| (run.restores, run.policy)).collect();
    let least = restores.iter().min().unwrap();
    assert_eq!(least.1, "belady");
    assert!(
        restores.iter().all(|(restores, policy)| *policy == "belady" || *restores > least.0 * 5 / 4),
        "{restores:?}"
    );
    // Of popular and unpopular sessions, those that count requests keep the popular ones.
    let of = |name: &str| restores.iter().find(|(_, policy)| *policy == name).unwrap().0;
    for better in ["lfu", "s3fifo", "slru", "sieve", "lru2", "lhd", "hyperbolic"] {
        assert!(of(better) < of("lru"), "{better}: {restores:?}");
    }
    // Of those that do not count, the more a use counts the better.
    assert!(of("lru") < of("clock") && of("clock") < of("fifo") && of("lru") < of("random"), "{restores:?}");
}
