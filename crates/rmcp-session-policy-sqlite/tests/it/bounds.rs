//! The files stay within their bounds of bytes, whatever is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rmcp_session_policy::directory::{Change, Epoch, FoundState, SessionDirectory};
use rmcp_session_policy_sqlite::{Durability, SqliteDirectory};

use crate::support::{Logs, PATIENCE, Place, id, is_whole, later, session_of};

const LIMIT: u64 = 1 << 20;

/// How many ends a file of that limit remembers: a quarter of it, at 256 bytes each.
const ENDS: u32 = 1_024;

/// A thread that looks at the sizes of the files all the time.
struct Watch {
    stops: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64)>,
}

impl Watch {
    fn start(path: &Path) -> Self {
        let (stops, path) = (Arc::new(AtomicBool::new(false)), path.to_owned());
        let watched = Arc::clone(&stops);
        let thread = std::thread::spawn(move || {
            let size = |suffix: &str| fs::metadata(with(&path, suffix)).map_or(0, |file| file.len());
            let (mut file, mut all) = (0, 0);
            while !watched.load(Ordering::Relaxed) {
                let now = size("");
                file = now.max(file);
                all = (now + size("-wal") + size("-shm")).max(all);
                std::thread::yield_now();
            }
            (file, all)
        });
        Self { stops, thread }
    }

    /// Asserts that no more was seen than the limit for the file, and three times as much for all files. Returns the most
    /// for the file.
    fn assert_bounds(self) -> u64 {
        self.stops.store(true, Ordering::Relaxed);
        let (file, all) = self.thread.join().unwrap();
        assert!(file <= LIMIT, "the file had {file} bytes");
        assert!(all <= 3 * LIMIT, "the files had {all} bytes");
        file
    }
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Some change of a session, most often with a body.
fn some(random: &mut fastrand::Rng, number: u64) -> Change {
    let length = if random.u8(..10) == 0 { random.usize(..60_000) } else { random.usize(..600) };
    let session = session_of(number, &vec![random.u8(..); length]);
    match random.u8(..10) {
        0..4 => Change::Opened(session),
        4..7 => Change::Data(session),
        7 => Change::Parked(session),
        _ => Change::Dead,
    }
}

/// Writes random changes: small sessions, large ones, and ends.
async fn load(directory: &SqliteDirectory, random: &mut fastrand::Rng, changes: u64) {
    for number in 0..changes {
        let name = if random.bool() { random.u64(..changes) } else { random.u64(..200) };
        directory.write(&id(name), Epoch::FIRST, some(random, number));
        // Ends and lookups are in the middle of the rest.
        if random.u8(..20) == 0 {
            directory.look(&id(random.u64(..200))).await.unwrap();
        }
        if random.u8(..60) == 0 {
            assert_eq!(directory.flush(later()).await, 0);
        }
    }
    assert_eq!(directory.flush(later()).await, 0);
}

/// How many sessions and tombstones there are.
fn totals(place: &Place) -> (u32, u32) {
    let totals = "SELECT sessions, ended FROM totals";
    place.sqlite().query_row(totals, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

#[tokio::test]
async fn the_files_stay_within_their_bounds_under_random_load() {
    for durability in [Durability::Behind, Durability::Before] {
        let (place, logs, mut random) = (Place::new(), Logs::default(), fastrand::Rng::with_seed(5));
        let open = || place.builder().durability(durability).max_bytes(LIMIT).open().unwrap();
        let (first, second) = logs.of(|| (open(), open()));
        let watch = Watch::start(place.path());
        let mut other = random.fork();
        tokio::join!(load(&first, &mut random, 3_000), load(&second, &mut other, 3_000));
        assert!(watch.assert_bounds() > LIMIT / 4 * 3, "it was not full");
        // Of two servers that write all the time, one may wait for the other.
        let is_expected = |line: &String| line.contains("holds it locked") || line.contains("written again");
        assert!(logs.lines().iter().all(is_expected), "{:?}", logs.lines());
        let (sessions, ended) = totals(&place);
        assert!(sessions > 20 && ended > 500, "{sessions} sessions, {ended} ends");
        is_whole(&place.sqlite());
    }
}

#[tokio::test]
async fn ends_do_not_push_all_sessions_out_nor_sessions_all_ends() {
    let place = Place::new();
    let directory = place.builder().max_bytes(LIMIT).open().unwrap();
    let watch = Watch::start(place.path());
    for number in 0..50 {
        directory.write(&id(number), Epoch::FIRST, Change::Opened(session_of(number, &[7; 2_000])));
    }
    for number in 0..10_000 {
        directory.write(&id(format!("ended {number}")), Epoch::FIRST, Change::Dead);
    }
    assert_eq!(directory.flush(later()).await, 0);
    assert_eq!(totals(&place), (50, ENDS));
    for number in 0..2_000 {
        directory.write(&id(number), Epoch::FIRST, Change::Opened(session_of(number, &[7; 2_000])));
    }
    assert_eq!(directory.flush(later()).await, 0);
    let (sessions, ended) = totals(&place);
    assert!((150..400).contains(&sessions), "{sessions} sessions");
    assert_eq!(ended, ENDS);
    let state = async |name: String| directory.look(&id(name)).await.unwrap().map(|found| found.state);
    assert_eq!(state("ended 9999".into()).await, Some(FoundState::Dead));
    assert_eq!(state("1999".into()).await, Some(FoundState::Live), "the newest is there");
    assert_eq!(state("0".into()).await, None, "the oldest is forgotten");
    assert!(watch.assert_bounds() > LIMIT / 4 * 3, "it was not full");
}

#[tokio::test]
async fn a_lower_limit_is_reached_step_by_step() {
    let place = Place::new();
    let directory = place.builder().max_bytes(8 * LIMIT).open().unwrap();
    for number in 0..3_000 {
        directory.write(&id(number), Epoch::FIRST, Change::Opened(session_of(number, &[7; 2_000])));
        directory.write(&id(format!("ended {number}")), Epoch::FIRST, Change::Dead);
    }
    assert_eq!(directory.flush(later()).await, 0);
    let before = totals(&place);
    assert_eq!(before, (3_000, 3_000));
    drop(directory);
    place.wait_until_closed();
    let size = fs::metadata(place.path()).unwrap().len();

    let directory = place.builder().max_bytes(LIMIT).open().unwrap();
    directory.write(&id("one"), Epoch::FIRST, Change::Opened(session_of(1, b"")));
    directory.write(&id("two"), Epoch::FIRST, Change::Dead);
    assert_eq!(directory.flush(later()).await, 0);
    let (sessions, ended) = totals(&place);
    assert!((2_000..3_000).contains(&sessions) && (2_900..3_000).contains(&ended), "{sessions}, {ended}");
    for number in 0..2_000 {
        directory.write(&id(format!("more {number}")), Epoch::FIRST, Change::Opened(session_of(number, b"")));
        directory.write(&id(format!("more ended {number}")), Epoch::FIRST, Change::Dead);
    }
    assert_eq!(directory.flush(later()).await, 0);
    let used: u32 = place.sqlite().query_row(
        "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
        [],
        |row| row.get(0),
    ).unwrap();
    assert!(u64::from(used) <= LIMIT, "{used} bytes are in use");
    assert_eq!(totals(&place).1, ENDS);
    drop(directory);
    place.wait_until_closed();
    assert_eq!(fs::metadata(place.path()).unwrap().len(), size, "it neither grows nor shrinks");
}

#[tokio::test]
async fn a_log_that_another_program_keeps_from_being_emptied_is_bounded_and_goes_on_after_it() {
    let place = Place::new();
    let logs = Logs::default();
    let directory = logs.of(|| place.builder().max_bytes(LIMIT).open().unwrap());
    directory.write(&id("first"), Epoch::FIRST, Change::Opened(session_of(1, b"")));
    assert_eq!(directory.flush(later()).await, 0);
    let watch = Watch::start(place.path());
    let reads = place.sqlite();
    reads.execute_batch("BEGIN; SELECT * FROM totals").unwrap();
    let until = std::time::Instant::now() + PATIENCE;
    let mut number = 0;
    while directory.stats().is_written {
        assert!(std::time::Instant::now() < until, "the log grows on");
        directory.write(&id(number % 100), Epoch::FIRST, Change::Data(session_of(number, &[7; 5_000])));
        directory.written(&id(number % 100), tokio::time::Instant::now() + std::time::Duration::from_millis(20)).await;
        number += 1;
    }
    reads.execute_batch("COMMIT").unwrap();
    assert_eq!(directory.flush(later()).await, 0);
    watch.assert_bounds();
    let lines = logs.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("the session directory cannot be written: ") && lines[0].contains("its log is full"));
    assert!(lines[1].contains("the session directory can be written again"));
}

/// Copying is not the writer's work, so that neither commits nor claims wait for the disk.
#[tokio::test]
async fn the_log_is_copied_into_the_file_by_a_thread_of_its_own() {
    let place = Place::new();
    let directory = place.open();
    let reads = place.sqlite();
    let log =
        |pragma: &str| -> (i64, i64) { reads.query_row(pragma, [], |row| Ok((row.get(1)?, row.get(2)?))).unwrap() };
    let until = std::time::Instant::now() + PATIENCE;
    let mut number = 0;
    // Each commit adds ten pages and more.
    while log("PRAGMA wal_checkpoint(NOOP)").1 < 1_000 {
        assert!(std::time::Instant::now() < until, "nothing is copied");
        directory.write(&id(number), Epoch::FIRST, Change::Opened(session_of(number, &[7; 40_000])));
        assert_eq!(directory.flush(later()).await, 0);
        number += 1;
    }
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).ok());
    assert!(names.map(|name| name.trim().to_owned()).any(|name| name == "sessions-copier"));
}
