//! Least hit density.

use rmcp_session_policy::SessionKey;
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, SessionInfo};

use tokio::time::Instant;

use super::hits::Hits;

/// How many sessions are drawn for a choice.
const DRAWN: usize = 32;
/// Idle ages: half octaves from 0.5 s.
const AGES: usize = 40;
/// Classes by the hits of a session: none, 1, 2 to 3, 4 and more.
const CLASSES: usize = 4;
/// After how many hits and evictions the densities are computed anew, and the counts lowered.
const EPOCH: u64 = 5_000;
/// What is left of the counts after an epoch.
const DECAY: f64 = 0.9;

/// Least hit density (Beckmann, Chen, Cidon: "LHD: improving cache hit rate by maximizing hit density", NSDI 2018): of 32
/// sessions drawn at random, evicts the one of which the fewest hits are expected for each second of its place, by its idle
/// age and its number of hits. Ages are of time and in half octaves, not of accesses. It hears of each use. O(1).
#[derive(Debug)]
pub struct Lhd {
    /// What is known of each session, by the key's index.
    known: Vec<Option<Known>>,
    tables: [Table; CLASSES],
    /// Hits and evictions in this epoch.
    events: u64,
    named: Option<SessionKey>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    hits: Hits,
    /// The hits so far.
    count: u64,
    /// When it was used last, or came.
    last: Instant,
}

impl Known {
    fn class(&self) -> usize {
        (u64::BITS - self.count.leading_zeros()).min(CLASSES as u32 - 1) as usize
    }
}

/// What happened to the sessions of one class, by age.
#[derive(Clone, Copy, Debug)]
struct Table {
    hits: [f64; AGES],
    evictions: [f64; AGES],
    density: [f64; AGES],
}

impl Table {
    /// Starts as least recently used.
    fn new() -> Self {
        let density = std::array::from_fn(|age| 1.0 / begin_of(age + 1));
        Self { hits: [0.0; AGES], evictions: [0.0; AGES], density }
    }

    /// Computes the densities, from the oldest age down: the hits that come, for the time until they come or the session
    /// goes.
    fn learn(&mut self) {
        let (mut hits, mut events, mut time) = (0.0, 0.0, 0.0);
        for age in (0..AGES).rev() {
            let lasts = begin_of(age + 1) - begin_of(age);
            time += lasts * events;
            let here = self.hits[age] + self.evictions[age];
            time += lasts * here / 2.0;
            hits += self.hits[age];
            events += here;
            if time > 0.0 {
                self.density[age] = hits / time;
            }
            self.hits[age] *= DECAY;
            self.evictions[age] *= DECAY;
        }
    }
}

/// The idle age in seconds at which a bucket begins.
fn begin_of(age: usize) -> f64 {
    if age == 0 { 0.0 } else { 0.5 * libm::exp2((age as f64 - 1.0) / 2.0) }
}

/// The bucket of an idle age.
fn age_of(from: Instant, to: Instant) -> usize {
    let seconds = to.saturating_duration_since(from).as_secs_f64();
    if seconds < 0.5 { 0 } else { (1 + (2.0 * libm::log2(seconds / 0.5)) as usize).min(AGES - 1) }
}

impl Default for Lhd {
    fn default() -> Self {
        Self { known: Vec::new(), tables: [Table::new(); CLASSES], events: 0, named: None }
    }
}

impl Lhd {
    fn put(&mut self, session: &SessionInfo<'_>, hits: Hits) {
        let key = session.key();
        if self.known.len() <= key.index() {
            self.known.resize(key.index() + 1, None);
        }
        self.known[key.index()] = Some(Known { hits, count: 0, last: session.last_used().max(session.created()) });
    }

    /// Counts a hit or an eviction, and learns at the end of an epoch.
    fn count(&mut self) {
        self.events += 1;
        if self.events == EPOCH {
            self.events = 0;
            self.tables.iter_mut().for_each(Table::learn);
        }
    }
}

impl EvictionPolicy for Lhd {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.put(session, Hits::from(session));
    }

    fn on_suspend(&mut self, _: &SessionInfo<'_>) {
        self.named = None;
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        let before = self.known.get(session.key().index()).copied().flatten();
        self.put(session, Hits::resumed(session));
        if let (Some(before), Some(known)) = (before, &mut self.known[session.key().index()]) {
            known.count = before.count;
        }
    }

    fn tracks_access(&self) -> bool {
        true
    }

    fn on_access(&mut self, session: &SessionInfo<'_>) {
        let Some(known) = &mut self.known[session.key().index()] else { return };
        let now = session.last_used();
        let is_hit = known.hits.take(session) > 0;
        if is_hit {
            self.tables[known.class()].hits[age_of(known.last, now)] += 1.0;
            known.count += 1;
        }
        known.last = now;
        if is_hit {
            self.count();
        }
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        if let Some(gone) = self.named.take().filter(|gone| candidates.get(*gone).is_none()) {
            if let Some(known) = self.known[gone.index()] {
                self.tables[known.class()].evictions[age_of(known.last, candidates.now())] += 1.0;
            }
            self.count();
        }
        let density = |key: &SessionKey| {
            let known = self.known[key.index()].as_ref();
            known.map_or(0.0, |known| self.tables[known.class()].density[age_of(known.last, candidates.now())])
        };
        let drawn = candidates.sample(DRAWN).map(|session| session.key());
        self.named = drawn.min_by(|one, other| density(one).total_cmp(&density(other)));
        self.named
    }
}
