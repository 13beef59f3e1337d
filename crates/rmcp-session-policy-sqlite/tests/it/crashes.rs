//! Processes that are killed at random moments under load, and a model of what they said, kept outside.
//!
//! 20 kills; the variable `SQLITE_KILLS` sets another number.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rmcp_session_policy::directory::{Change, Claim, FoundState, SessionDirectory};
use rmcp_session_policy_sqlite::SqliteDirectory;

use crate::children::Process;
use crate::support::{Place, id, is_whole, later};

/// What may be in the file of one session.
#[derive(Debug, Default)]
struct Model {
    /// The version that is known to be durable. Zero for none.
    acknowledged: u64,
    /// Versions that were tried.
    tried: HashSet<u64>,
    is_end_tried: bool,
    is_end_acknowledged: bool,
}

#[tokio::test]
async fn what_was_acknowledged_outlives_kills_and_ends_stay_ends() {
    let kills = std::env::var("SQLITE_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let place = Place::new();
    let mut models: HashMap<u64, Model> = HashMap::new();
    let mut random = fastrand::Rng::with_seed(11);
    let mut said = 0;
    for round in 1..=kills {
        let mut process = Process::start("load", place.path(), round);
        assert_eq!(process.hear().as_deref(), Some("ready"));
        let mut lines = Vec::new();
        // A number of writes, and then a moment within the next ones.
        for _ in 0..random.usize(..60) {
            lines.push(process.hear().unwrap());
        }
        spin(Duration::from_micros(random.u64(..3_000)));
        lines.extend(process.kill());
        said += lines.len();
        lines.iter().for_each(|line| note(&mut models, line));
        is_whole(&place.sqlite());
        let directory = place.open();
        for (name, model) in &mut models {
            compare(&directory, *name, model).await;
        }
        assert_eq!(directory.flush(later()).await, 0);
    }
    let ends = models.values().filter(|model| model.is_end_acknowledged).count();
    eprintln!("{kills} kills, {said} lines, {} sessions, {ends} ends", models.len());
    assert!(ends > 0, "no session ended");
}

/// Passes some time without a sleep, so that the moment is as exact as can be.
fn spin(time: Duration) {
    let began = std::time::Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn note(models: &mut HashMap<u64, Model>, line: &str) {
    let words: Vec<_> = line.split(' ').collect();
    let (name, version): (u64, u64) = (words[1].parse().unwrap(), words[2].parse().unwrap());
    let model = models.entry(name).or_default();
    match (words[0], version) {
        ("try", 0) => model.is_end_tried = true,
        ("try", version) => drop(model.tried.insert(version)),
        ("ack", 0) => model.is_end_acknowledged = true,
        ("ack", version) => model.acknowledged = version,
        _ => panic!("not a line of a child: {line}"),
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
        (None, _) => assert_eq!(model.acknowledged, 0, "{name} is lost: {model:?}"),
        (_, Some(FoundState::Dead)) => {
            assert!(model.is_end_tried, "{name} ended by itself: {model:?}");
            model.is_end_acknowledged = true;
        }
        (Some(found), _) => {
            let Claim::Yours(epoch, session) = directory.claim(&id(name), &found).await.unwrap() else {
                panic!("{name} is not free though its process is gone: {model:?}");
            };
            let version = session.usage.uses;
            assert!(version >= model.acknowledged && model.tried.contains(&version), "{name} is {version}: {model:?}");
            model.acknowledged = version;
            directory.write(&id(name), epoch, Change::Released);
        }
    }
}
