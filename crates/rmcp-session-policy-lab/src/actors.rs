//! [`Actor`]: what the sessions of one kind of client do, from `initialize` to their end.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::distribution::{Distribution, chance, unit, weighted};
use crate::event::Kind;

/// What a client does, as a preset describes it. All times are in seconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// From `initialize` to `notifications/initialized`.
    #[serde(default = "Actor::default_handshake")]
    pub handshake: Distribution,
    /// The fewest and the most `*/list` requests after the handshake.
    pub lists: (u32, u32),
    /// Before each of them.
    #[serde(default = "Actor::default_list_gap")]
    pub list_gap: Distribution,
    /// The share of sessions that never call.
    #[serde(default)]
    pub never: f64,
    /// The turns of a session that calls.
    #[serde(default = "Actor::once")]
    pub turns: Distribution,
    /// Before the first turn.
    #[serde(default = "Actor::nothing")]
    pub first: Distribution,
    /// Before each other turn.
    #[serde(default = "Actor::nothing")]
    pub pause: Distribution,
    /// The share of the other turns that use this server.
    #[serde(default = "Actor::all")]
    pub uses: f64,
    /// The calls of a turn.
    #[serde(default = "Actor::once")]
    pub calls: Distribution,
    /// Before each call.
    #[serde(default = "Actor::nothing")]
    pub think: Distribution,
    /// How long a call lasts.
    #[serde(default = "Actor::default_call")]
    pub call: Distribution,
    /// Instead of turns: a call per period.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// How long the client stays after its last request.
    #[serde(default = "Actor::nothing")]
    pub stays: Distribution,
    /// The share of clients with a listening stream, which lasts until the client ends.
    #[serde(default)]
    pub streams: f64,
    /// The share of streams behind a proxy that cuts them.
    #[serde(default)]
    pub proxied: f64,
    /// The share of clients that ping.
    #[serde(default)]
    pub pings: f64,
    /// The time between pings.
    #[serde(default = "Actor::default_ping")]
    pub ping_every: f64,
    /// The share of sessions that end with a DELETE.
    #[serde(default)]
    pub delete: f64,
    /// How long after the end of the client.
    #[serde(default = "Actor::nothing")]
    pub delete_after: Distribution,
    /// Whether arrivals follow the day: most at noon, a quarter of that at midnight.
    #[serde(default)]
    pub follows_day: bool,
    /// The names of software by their shares. The rest give no name.
    #[serde(default)]
    pub software: BTreeMap<String, f64>,
}

/// Calls at regular times.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The period of a session, at least a second.
    pub period: Distribution,
    /// The standard deviation of a period, as a share of it.
    pub jitter: f64,
    /// How long it goes on.
    pub lasts: Distribution,
}

/// A proxy cuts a stream after this time.
const CUT: f64 = 300.0;
/// A client opens a stream again that was cut.
const REOPENED: Distribution = Distribution::Between(1.0, 4.0);
/// From the end of the handshake to the opening of a stream.
const STREAM_AFTER: f64 = 0.01;
/// At most this number of acts are made up for a session, whatever a preset says.
const MOST_ACTS: usize = 100_000;

/// What a client does at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Act {
    /// Seconds since the session's `initialize`.
    pub at: f64,
    /// What it does.
    pub kind: Kind,
    /// How long it lasts, in seconds.
    pub lasts: f64,
}

/// The acts of one session while they are made up.
struct Script<'a> {
    random: &'a mut ChaCha8Rng,
    acts: Vec<Act>,
    /// The moment that the client has come to.
    now: f64,
    /// Nothing is made up from here on.
    until: f64,
}

impl Script<'_> {
    fn wait(&mut self, time: &Distribution) {
        self.now += time.draw(self.random);
    }

    fn act(&mut self, at: f64, kind: Kind, lasts: f64) {
        if at < self.until && self.acts.len() < MOST_ACTS {
            self.acts.push(Act { at, kind, lasts });
        }
    }

    /// A call, and the time until its answer.
    fn call(&mut self, lasts: &Distribution) {
        let lasts = lasts.draw(self.random);
        self.act(self.now, Kind::Call, lasts);
        self.now += lasts;
    }

    fn is_over(&self) -> bool {
        self.now >= self.until || self.acts.len() >= MOST_ACTS
    }
}

impl Actor {
    const fn nothing() -> Distribution {
        Distribution::Fixed(0.0)
    }

    const fn once() -> Distribution {
        Distribution::Fixed(1.0)
    }

    const fn all() -> f64 {
        1.0
    }

    const fn default_ping() -> f64 {
        180.0
    }

    fn default_handshake() -> Distribution {
        Distribution::Plus(0.1, Box::new(Distribution::Exp(0.3)))
    }

    const fn default_list_gap() -> Distribution {
        Distribution::Exp(0.3)
    }

    /// The durations of tool calls in TraceLab.
    fn default_call() -> Distribution {
        Distribution::AtMost(600.0, Box::new(Distribution::Logn(0.3, 2.9)))
    }

    /// Makes up a session: its acts, in no order, up to `until` seconds after its `initialize`.
    pub fn session(&self, random: &mut ChaCha8Rng, until: f64) -> Vec<Act> {
        let mut script = Script { random, acts: Vec::new(), now: 0.0, until };
        script.act(0.0, Kind::Init, 0.0);
        script.wait(&self.handshake);
        let ready = script.now;
        script.act(ready, Kind::Ready, 0.0);
        let lists = self.lists.0 + (unit(script.random) * f64::from(self.lists.1 + 1 - self.lists.0)) as u32;
        for _ in 0..lists {
            script.wait(&self.list_gap);
            script.act(script.now, Kind::List, 0.0);
        }
        if !chance(script.random, self.never) {
            match &self.schedule {
                Some(schedule) => self.keep(schedule, &mut script),
                None => self.take_turns(&mut script),
            }
        }
        script.wait(&self.stays);
        let end = script.now;
        self.listen(ready, end, &mut script);
        self.ping(ready, end, &mut script);
        if chance(script.random, self.delete) {
            script.wait(&self.delete_after);
            script.act(script.now, Kind::Delete, 0.0);
        }
        script.acts
    }

    fn take_turns(&self, script: &mut Script<'_>) {
        for turn in 0..self.turns.count(script.random).min(MOST_ACTS as u32) {
            script.wait(if turn == 0 { &self.first } else { &self.pause });
            if turn > 0 && !chance(script.random, self.uses) {
                continue;
            }
            for _ in 0..self.calls.count(script.random) {
                script.wait(&self.think);
                script.call(&self.call);
                if script.is_over() {
                    return;
                }
            }
        }
    }

    /// A call per period; if a call lasts longer, the next one waits for its answer.
    fn keep(&self, schedule: &Schedule, script: &mut Script<'_>) {
        let period = schedule.period.draw(script.random).max(1.0);
        let end = script.now + schedule.lasts.draw(script.random);
        let mut next = script.now;
        loop {
            // A sum of twelve uniform numbers is close enough to normal.
            let deviation = (0..12).map(|_| unit(script.random)).sum::<f64>() - 6.0;
            next += period * (1.0 + schedule.jitter * deviation).max(0.0);
            script.now = next.max(script.now);
            if script.now >= end || script.is_over() {
                return;
            }
            script.call(&self.call);
        }
    }

    fn listen(&self, ready: f64, end: f64, script: &mut Script<'_>) {
        if !chance(script.random, self.streams) {
            return;
        }
        let cut = if chance(script.random, self.proxied) { CUT } else { f64::INFINITY };
        let mut opened = ready + STREAM_AFTER;
        while opened < end.min(script.until) {
            let closed = (opened + cut).min(end);
            script.act(opened, Kind::Open, 0.0);
            script.act(closed, Kind::Close, 0.0);
            opened = closed + REOPENED.draw(script.random);
        }
    }

    fn ping(&self, ready: f64, end: f64, script: &mut Script<'_>) {
        if chance(script.random, self.pings) {
            let mut at = ready + self.ping_every;
            while at < end.min(script.until) {
                script.act(at, Kind::Ping, 0.0);
                at += self.ping_every;
            }
        }
    }

    /// Draws the name of a session's software: its place in `software`, or `None` for no name.
    pub fn draw_software(&self, random: &mut ChaCha8Rng) -> Option<usize> {
        let named: f64 = self.software.values().sum();
        let weights = self.software.values().copied().chain([(1.0 - named).max(0.0)]);
        Some(weighted(random, weights)).filter(|place| *place < self.software.len())
    }

    /// Checks shares and distributions.
    ///
    /// # Errors
    ///
    /// Says which field is wrong.
    pub fn check(&self) -> Result<(), String> {
        let shares = [
            ("never", self.never),
            ("uses", self.uses),
            ("streams", self.streams),
            ("proxied", self.proxied),
            ("pings", self.pings),
            ("delete", self.delete),
            ("software", self.software.values().sum()),
        ];
        for (field, share) in shares {
            // Shares of software may add up to a little more than 1 by rounding.
            if !(0.0..=1.0 + 1e-9).contains(&share) {
                return Err(format!("{field} = {share} is not between 0 and 1"));
            }
        }
        if self.lists.0 > self.lists.1 || self.lists.1 > 1_000 {
            return Err(format!("lists = {:?} are not the fewest and the most, at most 1000", self.lists));
        }
        if !(self.ping_every.is_finite() && self.ping_every > 0.0) {
            return Err(format!("ping_every = {} is no time", self.ping_every));
        }
        if let Some(name) = self.software.keys().find(|name| name.contains([',', '"', '\n', '\r'])) {
            return Err(format!("software {name:?} has a comma, a quote or a line break in it"));
        }
        let schedule = self.schedule.iter().flat_map(|schedule| [&schedule.period, &schedule.lasts]);
        let times = [
            &self.handshake,
            &self.list_gap,
            &self.turns,
            &self.first,
            &self.pause,
            &self.calls,
            &self.think,
            &self.call,
            &self.stays,
            &self.delete_after,
        ];
        times.into_iter().chain(schedule).try_for_each(Distribution::check)
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn actor(text: &str) -> Actor {
        toml::from_str(text).unwrap()
    }

    fn session(text: &str, seed: u64) -> Vec<Act> {
        let mut acts = actor(text).session(&mut ChaCha8Rng::seed_from_u64(seed), 36_000.0);
        acts.sort_by(|one, other| one.at.total_cmp(&other.at));
        acts
    }

    fn kinds(acts: &[Act]) -> Vec<Kind> {
        acts.iter().map(|act| act.kind).collect()
    }

    #[test]
    fn a_session_is_opened_lists_calls_and_is_deleted() {
        let acts = session("lists = [2, 2]\ncalls = { fixed = 2 }\nthink = { fixed = 5 }\ndelete = 1", 1);
        assert_eq!(
            kinds(&acts),
            [Kind::Init, Kind::Ready, Kind::List, Kind::List, Kind::Call, Kind::Call, Kind::Delete]
        );
        assert_eq!(acts[5].at, acts[4].at + acts[4].lasts + 5.0, "one call after the other");
        assert_eq!(acts[6].at, acts[5].at + acts[5].lasts);
    }

    #[test]
    fn a_session_that_never_calls_may_stay() {
        let acts = session("lists = [0, 0]\nnever = 1\nstays = { fixed = 400 }\ndelete = 1\npings = 1", 2);
        assert_eq!(kinds(&acts), [Kind::Init, Kind::Ready, Kind::Ping, Kind::Ping, Kind::Delete]);
        assert_eq!(acts[4].at, acts[1].at + 400.0);
    }

    #[test]
    fn a_proxy_cuts_streams_which_come_back() {
        let acts = session("lists = [0, 0]\nnever = 1\nstays = { fixed = 700 }\nstreams = 1\nproxied = 1", 3);
        assert_eq!(kinds(&acts)[2..], [Kind::Open, Kind::Close, Kind::Open, Kind::Close, Kind::Open, Kind::Close]);
        assert!((acts[3].at - acts[2].at - 300.0).abs() < 1e-6);
        assert!((1.0..=4.0).contains(&(acts[4].at - acts[3].at)));
        assert_eq!(acts[7].at, acts[1].at + 700.0, "it ends with the client");
        let plain = session("lists = [0, 0]\nnever = 1\nstays = { fixed = 700 }\nstreams = 1", 3);
        assert_eq!(kinds(&plain)[2..], [Kind::Open, Kind::Close]);
    }

    #[test]
    fn a_schedule_has_a_call_per_period() {
        let text = "lists = [0, 0]\ncall = { fixed = 1 }\n\
                    schedule = { period = { fixed = 100 }, jitter = 0.03, lasts = { fixed = 10000 } }";
        let acts = session(text, 4);
        let calls: Vec<_> = acts.iter().filter(|act| act.kind == Kind::Call).collect();
        assert!((97..=102).contains(&calls.len()), "{}", calls.len());
        let gaps: Vec<_> = calls.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        let deviation =
            libm::sqrt(gaps.iter().map(|gap| (gap - 100.0) * (gap - 100.0)).sum::<f64>() / gaps.len() as f64);
        assert!((1.5..5.0).contains(&deviation), "{deviation}");
    }

    #[test]
    fn nothing_is_made_up_beyond_the_end() {
        let text =
            "lists = [0, 3]\nturns = { fixed = 400 }\npause = { exp = 60 }\nstreams = 1\npings = 1\nproxied = 0.5";
        for seed in 0..20 {
            let acts = actor(text).session(&mut ChaCha8Rng::seed_from_u64(seed), 1_000.0);
            assert!(acts.iter().all(|act| act.at < 1_000.0));
        }
    }

    #[test]
    fn what_means_nothing_is_told() {
        for (text, message) in [
            ("lists = [3, 1]", "lists = (3, 1)"),
            ("lists = [0, 0]\nnever = 1.5", "never = 1.5"),
            ("lists = [0, 0]\nping_every = 0", "ping_every = 0"),
            ("lists = [0, 0]\nsoftware = { a = 0.6, b = 0.6 }", "software = 1.2"),
            ("lists = [0, 0]\nsoftware = { \"a,b\" = 0.6 }", "software \"a,b\""),
            ("lists = [0, 0]\npause = { exp = -1 }", "Exp(-1.0)"),
        ] {
            let error = actor(text).check().unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
