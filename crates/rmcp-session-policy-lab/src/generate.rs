//! Makes traces: the sessions of a preset's crowds, merged by time.
//!
//! The arrivals of each crowd are a Poisson process, and each session has random numbers of its own, by its crowd and its
//! place in it. So a seed gives the same bytes on every machine, and a crowd is the same whatever crowds are beside it.
//! Sessions are made up when they arrive; memory holds the events of those that are not over.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::f64::consts::TAU;
use std::io::Write;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::distribution::{chance, exponential, weighted};
use crate::error::LabError;
use crate::event::Kind;
use crate::presets::{Part, Preset};
use crate::trace::TraceWriter;

/// The depth of the day curve: the lowest rate is a quarter of the highest.
const DAY_DEPTH: f64 = 0.6;
const DAY: f64 = 86_400.0;
const HOUR: f64 = 3_600.0;

/// How many tenants there are. The nth has a share of 1/n (Zipf).
const TENANTS: usize = 50;

/// A line of a trace before its time comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pending {
    at_ms: u64,
    session: u64,
    /// The place of the event in its session, so that events of one moment keep their order.
    nth: u32,
    kind: Kind,
    lasts_ms: u64,
    /// The place of the software's name among the names of the crowd; `u16::MAX` for none.
    software: u16,
    crowd: u16,
    tenant: u16,
}

/// The arrivals of one crowd.
struct Arrivals {
    part: Part,
    names: Vec<String>,
    seed: u64,
    number: u64,
    random: ChaCha8Rng,
    /// When the next session comes, in seconds.
    next: f64,
    /// How many came.
    count: u64,
    /// When the drift comes, in seconds.
    drift: f64,
}

impl Arrivals {
    fn new(part: Part, seed: u64, number: usize, drift: f64) -> Self {
        let number = number as u64;
        let names = part.actor.software.keys().cloned().collect();
        let mut arrivals =
            Self { part, names, seed, number, random: stream(seed, number, 0), next: 0.0, count: 0, drift };
        arrivals.advance();
        arrivals
    }

    /// How many times as many sessions come at this moment as over the day and before the drift.
    fn factor(&self, at: f64) -> f64 {
        let day = if self.part.actor.follows_day { 1.0 - DAY_DEPTH * libm::cos(TAU * at / DAY) } else { 1.0 };
        if at >= self.drift { day * self.part.factor } else { day }
    }

    /// Draws the next arrival: at the highest rate, and taken with the chance that the rate at its moment gives (Lewis and
    /// Shedler, 1979).
    fn advance(&mut self) {
        let highest = self.part.factor.max(1.0) * if self.part.actor.follows_day { 1.0 + DAY_DEPTH } else { 1.0 };
        let rate = self.part.per_hour / HOUR * highest;
        loop {
            self.next += if rate > 0.0 { exponential(&mut self.random, 1.0 / rate) } else { f64::INFINITY };
            let share = self.factor(self.next) / highest;
            if !self.next.is_finite() || chance(&mut self.random, share) {
                return;
            }
        }
    }

    /// Makes up the session that comes now, up to the end of the trace.
    fn session(&mut self, session: u64, end: f64, pending: &mut BinaryHeap<Reverse<Pending>>) {
        self.count += 1;
        let mut random = stream(self.seed, self.number, self.count);
        let tenant = weighted(&mut random, (1..=TENANTS).map(|nth| 1.0 / nth as f64)) as u16;
        let software = self.part.actor.draw_software(&mut random).map_or(u16::MAX, |place| place as u16);
        let acts = self.part.actor.session(&mut random, end - self.next);
        let crowd = self.number as u16;
        pending.extend((0..).zip(acts).map(|(nth, act)| {
            let at_ms = millis(self.next + act.at);
            Reverse(Pending {
                at_ms,
                session,
                nth,
                kind: act.kind,
                lasts_ms: millis(act.lasts),
                software,
                crowd,
                tenant,
            })
        }));
        self.advance();
    }
}

/// The random numbers of a session: those of its crowd have number 0.
fn stream(seed: u64, crowd: u64, session: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(crowd << 48 | session);
    random
}

fn millis(seconds: f64) -> u64 {
    (seconds * 1e3).round() as u64
}

/// Writes a trace of a preset. `hours`: how long it lasts, instead of what the preset says.
///
/// Sessions are numbered by arrival, from 1. Takes O(log n) for each event, for n events that are to come.
///
/// # Errors
///
/// [`LabError::Write`].
pub fn generate(preset: &Preset, seed: u64, hours: Option<f64>, out: impl Write) -> Result<(), LabError> {
    let end = hours.unwrap_or(preset.hours) * HOUR;
    let drift = preset.drift.as_ref().map_or(f64::INFINITY, |drift| drift.after * end);
    let parts = preset.parts().into_iter().enumerate();
    let mut crowds: Vec<_> = parts.map(|(number, part)| Arrivals::new(part, seed, number, drift)).collect();
    let tenants: Vec<_> = (1..=TENANTS).map(|nth| format!("t{nth}")).collect();
    let mut out = TraceWriter::new(out)?;
    let mut pending = BinaryHeap::new();
    for session in 1.. {
        let first = crowds.iter_mut().min_by(|one, other| one.next.total_cmp(&other.next));
        let first = first.filter(|crowd| crowd.next < end);
        let until = first.as_ref().map_or(u64::MAX, |crowd| millis(crowd.next));
        let Some(crowd) = first else {
            write_until(until, &mut pending, &crowds, &tenants, &mut out)?;
            return out.finish();
        };
        crowd.session(session, end, &mut pending);
        write_until(until, &mut pending, &crowds, &tenants, &mut out)?;
    }
    out.finish()
}

/// Writes the events before a moment.
fn write_until(
    at_ms: u64,
    pending: &mut BinaryHeap<Reverse<Pending>>,
    crowds: &[Arrivals],
    tenants: &[String],
    out: &mut TraceWriter<impl Write>,
) -> Result<(), LabError> {
    while let Some(Reverse(event)) = pending.peek().copied()
        && event.at_ms < at_ms
    {
        pending.pop();
        let names = &crowds[usize::from(event.crowd)].names;
        let software = names.get(usize::from(event.software)).map_or("", String::as_str);
        let tenant = &tenants[usize::from(event.tenant)];
        out.write(event.at_ms, event.session, event.kind, event.lasts_ms, [software, tenant])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hashbrown::HashMap;

    use super::*;
    use crate::presets::PRESETS;
    use crate::trace::TraceReader;

    fn trace(preset: &str, seed: u64, hours: f64) -> Vec<u8> {
        let mut out = Vec::new();
        generate(&Preset::load(preset).unwrap(), seed, Some(hours), &mut out).unwrap();
        out
    }

    /// What one session did.
    #[derive(Clone, Debug, Default)]
    struct Did {
        opened: u64,
        software: String,
        tenant: String,
        count: [u32; Kind::ALL.len()],
        at: Vec<u64>,
        lasts: Vec<u64>,
    }

    impl Did {
        fn how_often(&self, kind: Kind) -> u32 {
            self.count[kind as usize]
        }
    }

    fn sessions(trace: &[u8]) -> Vec<Did> {
        let mut trace = TraceReader::new(trace).unwrap();
        let mut sessions = HashMap::<String, Did>::new();
        while let Some(line) = trace.next_line().unwrap() {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let session = sessions.entry(text(line.session)).or_insert_with(|| Did {
                opened: line.at,
                software: text(line.software),
                tenant: text(line.tenant),
                ..Did::default()
            });
            session.count[line.kind as usize] += 1;
            if line.kind == Kind::Call {
                session.at.push(line.at);
                session.lasts.push(line.lasts);
            }
        }
        sessions.into_values().collect()
    }

    fn of<'a>(sessions: &'a [Did], names: &'a [&str]) -> impl Iterator<Item = &'a Did> + Clone {
        sessions.iter().filter(move |session| names.contains(&session.software.as_str()))
    }

    fn share<'a>(sessions: impl Iterator<Item = &'a Did> + Clone, holds: impl Fn(&Did) -> bool) -> f64 {
        sessions.clone().filter(|session| holds(session)).count() as f64 / sessions.count() as f64
    }

    fn median(mut values: Vec<u64>) -> u64 {
        values.sort_unstable();
        values[values.len() / 2]
    }

    /// Five standard errors of a count that has this mean.
    fn counts(value: usize, mean: f64) -> bool {
        (value as f64 - mean).abs() < 5.0 * libm::sqrt(mean)
    }

    #[test]
    fn a_seed_gives_the_same_bytes_for_ever() {
        let golden = [
            ("coding", "49cb03a88d0354a8"),
            ("chat", "ca6f0772458e1f6e"),
            ("connector", "e07a9d2660165ff6"),
            ("registry", "607ea9327358f077"),
            ("cron", "c37782b192c2336d"),
            ("mixed", "f5882fe3b3ec87e7"),
        ];
        assert_eq!(golden.map(|(name, _)| name), PRESETS.map(|(name, _)| name));
        let now = golden.map(|(name, _)| (name, blake3::hash(&trace(name, 1, 2.0)).to_hex()[..16].to_owned()));
        assert_eq!(now, golden.map(|(name, hash)| (name, hash.to_owned())));
        assert_ne!(trace("coding", 1, 0.5), trace("coding", 2, 0.5));
    }

    #[test]
    fn a_crowd_is_the_same_whatever_is_beside_it() {
        let alone = Preset::parse("own", "hours = 1\ncrowds = [{ actor = \"chat\", per_hour = 90 }]").unwrap();
        let text = "hours = 1\ncrowds = [{ actor = \"chat\", per_hour = 90 }, { actor = \"heavy\", per_hour = 90 }]";
        let both = Preset::parse("own", text).unwrap();
        let of_chats = |preset| {
            let mut out = Vec::new();
            generate(preset, 3, None, &mut out).unwrap();
            let mut at: Vec<_> =
                of(&sessions(&out), &["office", "claude.ai"]).flat_map(|session| session.at.clone()).collect();
            at.sort_unstable();
            at
        };
        assert_eq!(of_chats(&alone), of_chats(&both));
    }

    #[test]
    fn sessions_come_at_their_rate_and_follow_the_day() {
        let sessions = sessions(&trace("chat", 1, 24.0));
        let chats: Vec<_> = of(&sessions, &["office", "claude.ai"]).collect();
        assert!(counts(chats.len(), 0.7 * 900.0 * 24.0), "{}", chats.len());
        let around = |hour: u64| {
            let span = (hour * 3_600_000_000 - 3_600_000_000)..(hour * 3_600_000_000 + 3_600_000_000);
            chats.iter().filter(|session| span.contains(&session.opened)).count()
        };
        // Of two hours around noon, and of two halves around midnight.
        let night = chats.iter().filter(|session| session.opened < 3_600_000_000).count()
            + chats.iter().filter(|session| session.opened >= 23 * 3_600_000_000).count();
        let ratio = night as f64 / around(12) as f64;
        assert!((0.2..0.31).contains(&ratio), "{ratio}");
    }

    #[test]
    fn coders_are_as_described() {
        let sessions = sessions(&trace("coding", 1, 12.0));
        let coders = of(&sessions, &["claude-code", "codex", "opencode"]);
        // A few are crawlers with such a name.
        let never = share(coders.clone(), |coder| coder.how_often(Kind::Call) == 0);
        assert!((0.38..0.46).contains(&never), "{never}");
        assert!((share(coders.clone(), |coder| coder.how_often(Kind::Open) > 0) - 0.5).abs() < 0.04);
        assert!((0.02..0.045).contains(&share(coders.clone(), |coder| coder.how_often(Kind::Delete) > 0)));
        assert!(share(coders.clone(), |coder| coder.how_often(Kind::List) > 3) == 0.0);
        let lasts: Vec<_> = coders.clone().flat_map(|coder| coder.lasts.iter().copied()).collect();
        assert!(lasts.iter().all(|lasts| *lasts <= 600_000_000));
        let p90 = {
            let mut sorted = lasts.clone();
            sorted.sort_unstable();
            sorted[sorted.len() * 9 / 10] as f64 / 1e6
        };
        assert!((0.27..0.33).contains(&(median(lasts) as f64 / 1e6)));
        assert!((11.0..14.0).contains(&p90), "TraceLab has 13.6: {p90}");
        let tenants = share(coders, |coder| coder.tenant == "t1");
        assert!((tenants - 1.0 / 4.499).abs() < 0.03, "Zipf over 50: {tenants}");
    }

    #[test]
    fn deletes_have_their_shares() {
        let in_connector = sessions(&trace("connector", 1, 4.0));
        let one_shots = of(&in_connector, &["openai"]);
        assert!(counts(one_shots.clone().count(), 3_000.0 * 4.0));
        assert!((share(one_shots.clone(), |one| one.how_often(Kind::Delete) > 0) - 0.1).abs() < 0.015);
        assert!((share(one_shots, |one| one.how_often(Kind::Call) == 0) - 0.2).abs() < 0.02);
        let in_mixed = sessions(&trace("mixed", 1, 6.0));
        let watchdogs = of(&in_mixed, &["proxy"]);
        assert!((share(watchdogs.clone(), |one| one.how_often(Kind::Delete) > 0) - 0.95).abs() < 0.02);
        assert!(share(watchdogs, |one| one.how_often(Kind::List) + one.how_often(Kind::Call) > 0) == 0.0);
    }

    #[test]
    fn chats_and_schedules_have_their_pauses() {
        let in_chat = sessions(&trace("chat", 1, 12.0));
        let pauses: Vec<_> = of(&in_chat, &["office"])
            .flat_map(|chat| chat.at.windows(2).zip(&chat.lasts).map(|(pair, lasts)| pair[1] - pair[0] - lasts))
            .filter(|pause| *pause > 30_000_000)
            .collect();
        let pause = median(pauses) as f64 / 1e6;
        assert!((75.0..130.0).contains(&pause), "{pause}");
        let in_cron = sessions(&trace("cron", 1, 8.0));
        let periods: Vec<_> = of(&in_cron, &["agent"])
            .filter(|cron| cron.at.len() > 3)
            .map(|cron| median(cron.at.windows(2).map(|pair| pair[1] - pair[0]).collect()) / 1_000_000)
            .collect();
        let near = |period: u64| periods.iter().filter(|found| found.abs_diff(period) * 12 < period).count() as f64;
        let all = periods.len() as f64;
        assert!(
            (near(60) / all - 0.2).abs() < 0.1 && (near(300) / all - 0.37).abs() < 0.1,
            "{} {}",
            near(60),
            near(300)
        );
        assert!(near(60) + near(300) + near(900) + near(3_600) > 0.97 * all);
    }

    #[test]
    fn the_crowd_changes_at_60_percent() {
        let sessions = sessions(&trace("mixed", 1, 10.0));
        let six = 6 * 3_600_000_000;
        let (before, after): (Vec<_>, Vec<_>) = of(&sessions, &["openai"]).partition(|session| session.opened < six);
        assert!(counts(before.len(), 400.0 * 6.0) && counts(after.len(), 400.0 * 2.5 * 4.0));
        let (before, after): (Vec<_>, Vec<_>) = of(&sessions, &["probe"]).partition(|session| session.opened < six);
        assert!(counts(before.len(), 81.0 * 6.0) && counts(after.len(), 81.0 * 3.0 * 4.0));
    }

    #[test]
    fn leavers_keep_a_stream_and_ping() {
        let sessions = sessions(&trace("mixed", 2, 6.0));
        let leavers: Vec<_> = of(&sessions, &["agent"]).filter(|session| session.how_often(Kind::Open) > 0).collect();
        assert!(counts(leavers.len(), 900.0), "{}", leavers.len());
        assert!((share(leavers.iter().copied(), |one| one.how_often(Kind::Call) > 0) - 0.05).abs() < 0.04);
        let flapping = share(leavers.iter().copied(), |one| one.how_often(Kind::Open) > 1);
        assert!((0.2..0.35).contains(&flapping), "three in ten, if they stay for 300 s: {flapping}");
        assert!(leavers.iter().all(|one| one.how_often(Kind::Delete) == 0));
    }
}
