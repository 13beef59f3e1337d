//! [`Workload`]: what users and flooders do, as events.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rmcp_session_policy::ClientContext;

use super::{Calls, Flood, FloodKind};
use crate::actors::{Act, Actor};
use crate::cast::Cast;
use crate::distribution::{exponential, unit};
use crate::error::LabError;
use crate::event::{Event, Kind, Micros};

/// The clients of a flood.
const ACTORS: &str = include_str!("../../presets/flood.toml");

/// Users at work.
const USERS: u64 = 500;
/// This number of them, three in ten, are behind shared addresses.
const SHARING: u64 = 150;
const SHARED_ADDRESSES: u64 = 10;
/// Users open their first sessions within this time, in seconds.
const WARM_UP: f64 = 1_800.0;
/// When the flood begins, in seconds: the averages of a guard over an hour have settled.
pub(super) const BEGIN: f64 = 7_200.0;
/// How long it lasts.
const LASTS: f64 = 600.0;
/// For how long after it an eviction is laid to it: the longest pause of a user. Flooders that call for ever go on.
const LAID_TO_IT: f64 = 900.0;
/// For how long after it users go on: each session that was evicted meanwhile would have been used again.
const AFTER: f64 = 1_800.0;
/// From the last answer in a session that a user leaves to the next session, in seconds.
const NEXT_SESSION: f64 = 1.0;
/// Flooders a second.
const RATE: f64 = 10.0;
/// Tenants that share the server.
const TENANTS: u64 = 50;

/// What a session is to the flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A user opened it before the flood.
    AtWork,
    /// A user opened it during the flood, or one of the crowd did.
    Newcomer,
    /// It belongs to the flood, or came after it.
    Other,
}

/// A session before it is played.
#[derive(Debug)]
struct Session {
    role: Role,
    context: Arc<ClientContext>,
}

/// What users and flooders do.
#[derive(Debug)]
pub(super) struct Workload {
    /// All events, by time.
    pub(super) events: Vec<Event>,
    sessions: Vec<Session>,
}

/// The moment of seconds.
fn micros(seconds: f64) -> Micros {
    (seconds * 1e6).round() as Micros
}

impl Workload {
    /// When the flood begins.
    pub(super) fn begin() -> Micros {
        micros(BEGIN)
    }

    /// Until when evictions are laid to the flood.
    pub(super) fn watched() -> Micros {
        micros(BEGIN + LASTS + LAID_TO_IT)
    }

    /// Makes up a workload.
    pub(super) fn of(flood: &Flood) -> Result<Self, LabError> {
        let actors: BTreeMap<String, Actor> = toml::from_str(ACTORS)
            .map_err(|error| LabError::Preset { name: "flood".into(), problem: error.message().to_owned() })?;
        let actor = |name: &str| {
            let missing = || LabError::Preset { name: "flood".into(), problem: format!("there is no actor {name}") };
            actors.get(name).ok_or_else(missing)
        };
        let [user, unused, once] = [actor("user")?, actor("unused")?, actor("once")?];
        let mut workload = Self { events: Vec::new(), sessions: Vec::new() };
        for number in 0..USERS {
            workload.user(flood, user, number);
        }
        match flood.kind {
            FloodKind::None => {}
            FloodKind::A | FloodKind::B => workload.flood(flood, RATE, unused),
            FloodKind::C | FloodKind::D => workload.flood(flood, RATE, once),
            FloodKind::E => workload.flood(flood, 1.0, user),
        }
        workload.sort();
        Ok(workload)
    }

    /// One session after the other, each left behind.
    fn user(&mut self, flood: &Flood, user: &Actor, number: u64) {
        let mut random = stream(flood.seed, 1 + number);
        let context = Arc::new(context_of_user(flood.kind, number));
        let mut at = unit(&mut random) * WARM_UP;
        while at < BEGIN + LASTS + AFTER {
            let role = match at {
                _ if at < BEGIN => Role::AtWork,
                _ if at < BEGIN + LASTS => Role::Newcomer,
                _ => Role::Other,
            };
            let acts = user.session(&mut random, BEGIN + LASTS + AFTER - at);
            let last = acts.iter().map(|act| act.at + act.lasts).fold(0.0, f64::max);
            self.session(role, &context, at, &acts);
            at += last + NEXT_SESSION;
        }
    }

    /// Sessions that come at this rate, each of another client.
    fn flood(&mut self, flood: &Flood, rate: f64, actor: &Actor) {
        let mut random = stream(flood.seed, 0);
        let mut at = BEGIN;
        for number in 0.. {
            at += exponential(&mut random, 1.0 / rate);
            if at >= BEGIN + LASTS {
                return;
            }
            let left = BEGIN + LASTS + AFTER - at;
            let mut acts = actor.session(&mut random, left);
            if flood.kind == FloodKind::A {
                acts.retain(|act| act.kind == Kind::Init);
            }
            if flood.kind != FloodKind::E {
                acts.iter_mut().filter(|act| act.kind == Kind::Call).for_each(|act| act.lasts = SHORT_CALL);
            }
            if let (Calls::Repeated, Some(every)) = (flood.calls, period(flood.kind)) {
                repeat(&mut acts, every, left);
            }
            let role = if flood.kind == FloodKind::E { Role::Newcomer } else { Role::Other };
            self.session(role, &Arc::new(context_of_flooder(flood, number)), at, &acts);
        }
    }

    fn session(&mut self, role: Role, context: &Arc<ClientContext>, at: f64, acts: &[Act]) {
        let session = self.sessions.len() as u32;
        self.sessions.push(Session { role, context: Arc::clone(context) });
        self.events.extend(acts.iter().map(|act| {
            let (at, lasts) = (micros(at + act.at), micros(act.lasts));
            Event { at, lasts, session, kind: act.kind, is_last: false }
        }));
    }

    /// Sorts the events, and marks the last one of each session.
    fn sort(&mut self) {
        self.events.sort_by_key(|event| event.at);
        let mut is_over = vec![false; self.sessions.len()];
        for event in self.events.iter_mut().rev() {
            event.is_last = !std::mem::replace(&mut is_over[event.session as usize], true);
        }
    }

    pub(super) fn role(&self, session: u32) -> Role {
        self.sessions[session as usize].role
    }

    pub(super) const fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

impl Cast for Workload {
    fn software(&self, _: u32) -> Option<&str> {
        None
    }

    fn context(&self, session: u32) -> Option<Arc<ClientContext>> {
        Some(Arc::clone(&self.sessions[session as usize].context))
    }
}

/// How long a call of a flooder lasts, in seconds. Calls that hang would make its sessions busy, and no order in which
/// sessions are evicted helps against busy ones: that is what a limit of requests is for.
const SHORT_CALL: f64 = 0.3;

/// The time between the calls of a session that calls for ever.
const fn period(kind: FloodKind) -> Option<f64> {
    match kind {
        FloodKind::C => Some(30.0),
        FloodKind::D => Some(60.0),
        FloodKind::None | FloodKind::A | FloodKind::B | FloodKind::E => None,
    }
}

/// Adds a call per period after the first, while time is left.
fn repeat(acts: &mut Vec<Act>, every: f64, left: f64) {
    let Some(first) = acts.iter().find(|act| act.kind == Kind::Call).copied() else { return };
    let mut at = first.at + every;
    while at < left {
        acts.push(Act { at, kind: Kind::Call, lasts: SHORT_CALL });
        at += every;
    }
}

/// The random numbers of a user; number 0 is that of the flood.
fn stream(seed: u64, number: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(number);
    random
}

fn address(network: u64, host: u8) -> IpAddr {
    let [.., high, middle, low] = network.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(high, middle, low, host))
}

/// Users have a network each, or share one of ten addresses. A tenant is known where the server authenticates: in flood c.
/// There they are of the 49 tenants that do not flood: what the users of the other one lose, they lose to it by design.
fn context_of_user(kind: FloodKind, number: u64) -> ClientContext {
    let network = if number < SHARING { number % SHARED_ADDRESSES } else { number };
    let context = ClientContext::new().with_peer(address((172 << 16) + network, 1));
    if kind == FloodKind::C {
        context.with_principal(format!("tenant {}", 1 + number % (TENANTS - 1)))
    } else {
        context
    }
}

/// Flooders have their addresses in turn.
fn context_of_flooder(flood: &Flood, number: u64) -> ClientContext {
    let address_number = number % u64::from(flood.addresses);
    match flood.kind {
        FloodKind::C => {
            let peer = address(10 << 16, 1 + (address_number % 250) as u8);
            ClientContext::new().with_peer(peer).with_principal("tenant 0")
        }
        // Each of a crowd is at home.
        FloodKind::E => ClientContext::new().with_peer(address((11 << 16) + number, 1)),
        FloodKind::None | FloodKind::A | FloodKind::B | FloodKind::D => {
            ClientContext::new().with_peer(address((10 << 16) + address_number, 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(kind: FloodKind, calls: Calls, addresses: u32) -> Workload {
        Workload::of(&Flood { kind, calls, addresses, seed: 1 }).unwrap()
    }

    /// How many events of this kind flooders have.
    fn flooded(workload: &Workload, kind: Kind) -> usize {
        let during = Workload::begin()..micros(BEGIN + LASTS);
        let flooders: std::collections::BTreeSet<_> = workload
            .events
            .iter()
            .filter(|event| event.kind == Kind::Init && during.contains(&event.at))
            .map(|event| event.session)
            .filter(|session| workload.role(*session) == Role::Other)
            .collect();
        workload.events.iter().filter(|event| event.kind == kind && flooders.contains(&event.session)).count()
    }

    #[test]
    fn floods_do_what_they_say() {
        let all = |kind, calls| {
            let workload = workload(kind, calls, 1);
            [Kind::Init, Kind::Ready, Kind::List, Kind::Call].map(|kind| flooded(&workload, kind))
        };
        let [init, ready, ..] = all(FloodKind::A, Calls::Once);
        assert!((5_600..6_400).contains(&init));
        assert_eq!(ready, 0);
        assert_eq!(all(FloodKind::B, Calls::Once)[1..], [init, init, 0]);
        let once = all(FloodKind::D, Calls::Once);
        assert_eq!(once[1..], [once[0]; 3]);
        let repeated = all(FloodKind::D, Calls::Repeated);
        assert!(repeated[3] > 30 * repeated[0], "a call each minute for more than half an hour");
        assert!(all(FloodKind::C, Calls::Repeated)[3] > 60 * repeated[0]);
    }

    #[test]
    fn flooders_share_the_addresses() {
        let workload = workload(FloodKind::B, Calls::Once, 100);
        let from = |first: u8| {
            let peers = workload.sessions.iter().filter_map(|session| session.context.peer());
            let of = peers.filter(|peer| matches!(peer, IpAddr::V4(peer) if peer.octets()[0] == first));
            of.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!((from(10), from(172)), (100, 10 + 350));
    }

    #[test]
    fn a_tenant_of_fifty_floods() {
        let workload = workload(FloodKind::C, Calls::Once, 1);
        let of_greedy = workload.sessions.iter().filter(|session| session.context.principal() == Some("tenant 0"));
        assert!((5_500..6_500).contains(&of_greedy.count()), "ten a second for ten minutes, and no user");
        assert!(workload.sessions.iter().all(|session| session.context.principal().is_some()));
    }

    #[test]
    fn events_are_sorted_and_each_session_ends_once() {
        let workload = workload(FloodKind::E, Calls::Once, 1);
        assert!(workload.events.is_sorted_by_key(|event| event.at));
        let ends = workload.events.iter().filter(|event| event.is_last).count();
        assert_eq!(ends, workload.sessions());
    }
}
