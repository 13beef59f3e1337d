//! Processes that are killed at random moments under load, and a model of what they said, kept outside.
//!
//! 20 kills; the variable `SQLITE_KILLS` sets another number.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use rmcp_session_policy::directory::{Change, Claim, FoundState, SessionDigest, SessionDirectory};
use rmcp_session_policy_sqlite::SqliteDirectory;

use crate::children::Process;
use crate::support::{Place, id, is_whole, later};

/// What may be in the file of one session.
#[derive(Debug, Default)]
struct Model {
    /// The version that is known to be durable. Zero for none.
    acknowledged: u64,
    /// Versions that were tried since, and whether each had a body.
    tried: BTreeMap<u64, bool>,
    /// The one that was tried last. Zero for an end.
    latest: u64,
    is_end_tried: bool,
    is_end_acknowledged: bool,
}

#[tokio::test]
async fn what_was_acknowledged_outlives_kills_and_ends_stay_ends() {
    let kills = std::env::var("SQLITE_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let place = Place::new();
    let mut models: HashMap<u64, Model> = HashMap::new();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut said, mut behind, mut finished) = (0, Duration::ZERO, HashSet::new());
    for round in 1..=kills {
        let mut process = Process::start("load", place.path(), round);
        assert_eq!(process.hear().as_deref(), Some("ready"));
        let mut lines = Vec::new();
        if round % 4 == 2 {
            while !lines.last().is_some_and(|line: &String| line.starts_with("all ")) {
                lines.push(process.hear().unwrap());
            }
        } else {
            // A number of writes, and then a moment within the next ones.
            for _ in 0..random.usize(..60) {
                lines.push(process.hear().unwrap());
            }
            spin(Duration::from_micros(random.u64(..3_000)));
        }
        lines.extend(process.kill());
        said += lines.len();
        lines.iter().for_each(|line| behind = behind.max(note(&mut models, line)));
        is_whole(&place.sqlite());
        let directory = place.open();
        for (name, model) in &mut models {
            compare(&directory, *name, model).await;
        }
        finish(&directory, &models, &mut finished).await;
        assert_eq!(directory.flush(later()).await, 0);
    }
    let ends = models.values().filter(|model| model.is_end_acknowledged).count();
    let (sessions, unfinished) = (models.len(), finished.len());
    eprintln!(
        "{kills} kills, {said} lines, {sessions} sessions, {ends} ends, {unfinished} unfinished, at most {behind:?} behind"
    );
    assert!(ends > 0 && unfinished > 0, "no session ended");
}

/// Passes some time without a sleep, so that the moment is as exact as can be.
fn spin(time: Duration) {
    let began = std::time::Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Notes what a process has said. Returns how far behind the latest write the file was, if it says so.
fn note(models: &mut HashMap<u64, Model>, line: &str) -> Duration {
    let words: Vec<_> = line.split(' ').collect();
    let number = |word: usize| words[word].parse::<u64>().unwrap();
    if words[0] == "all" {
        models.values_mut().for_each(|model| model.acknowledge(model.latest));
        return Duration::from_micros(number(1));
    }
    let (version, model) = (number(2), models.entry(number(1)).or_default());
    match words[0] {
        "try" => {
            model.latest = version;
            model.is_end_tried |= version == 0;
            if version > 0 {
                model.tried.insert(version, number(3) == 1);
            }
        }
        "ack" => model.acknowledge(version),
        _ => panic!("not a line of a child: {line}"),
    }
    Duration::ZERO
}

impl Model {
    /// A version is durable. Zero is an end, if one was tried.
    fn acknowledge(&mut self, version: u64) {
        if version == 0 {
            self.is_end_acknowledged |= self.is_end_tried;
        } else {
            self.acknowledged = version;
        }
    }

    /// The body that a session of this version has: that of the latest write with one.
    fn body(&self, version: u64) -> u64 {
        *self.tried.range(..=version).rfind(|(_, has_body)| **has_body).unwrap().0
    }
}

/// Finishes the ends that a process has not. One that is finished is never due again.
async fn finish(directory: &SqliteDirectory, models: &HashMap<u64, Model>, finished: &mut HashSet<SessionDigest>) {
    loop {
        let due = directory.take_due(None).await.unwrap();
        if due.is_empty() {
            return;
        }
        for due in due {
            let (name, model) = models.iter().find(|(name, _)| id(name) == due.id).unwrap();
            let is_new = finished.insert(due.id);
            assert!(due.was_ending && is_new && model.is_end_acknowledged, "{name} is due: {model:?}");
            let body = model.body(due.session.usage.uses);
            assert_eq!(due.session.body.as_bytes(), body.to_be_bytes(), "the body of {name}: {model:?}");
            directory.write(&due.id, due.epoch, Change::Dead);
        }
        assert_eq!(directory.flush(later()).await, 0);
    }
}

/// Compares the file with the model of one session, and notes what is certain from now on.
async fn compare(directory: &SqliteDirectory, name: u64, model: &mut Model) {
    let found = directory.look(&id(name)).await.unwrap();
    let state = found.map(|found| found.state);
    if model.is_end_acknowledged {
        assert_eq!(state, Some(FoundState::Dead), "{name} has ended: {model:?}");
    }
    match (found, state) {
        (None, _) => {
            assert_eq!(model.acknowledged, 0, "{name} is lost: {model:?}");
            *model = Model::default();
        }
        (_, Some(FoundState::Dead)) => {
            assert!(model.is_end_tried, "{name} ended by itself: {model:?}");
            model.is_end_acknowledged = true;
        }
        (Some(found), _) => {
            let Claim::Yours(epoch, session) = directory.claim(&id(name), &found).await.unwrap() else {
                panic!("{name} is not free though its process is gone: {model:?}");
            };
            let version = session.usage.uses;
            let is_tried = model.tried.contains_key(&version);
            assert!(version >= model.acknowledged && is_tried, "{name} is {version}: {model:?}");
            let body = model.body(version);
            assert_eq!(session.body.as_bytes(), body.to_be_bytes(), "the body of {name}, {version}: {model:?}");
            // What was tried since then is lost.
            model.tried = BTreeMap::from([(body, true), (version, version == body)]);
            (model.acknowledged, model.latest) = (version, version);
            directory.write(&id(name), epoch, Change::Released);
        }
    }
}
