//! Several processes with one file.

use rmcp_session_policy::directory::{Claim, Epoch, FoundState, SessionDirectory};

use crate::children::Process;
use crate::support::{Place, claim, id, later, park, see};

#[tokio::test]
async fn a_session_goes_to_another_process_once_it_is_parked_or_its_process_is_killed() {
    let place = Place::new();
    let directory = place.open();
    let mut process = Process::start("hold", place.path(), 0);
    assert_eq!(process.hear().as_deref(), Some("ready"));

    let found = see(&directory, &id("live")).await;
    assert_eq!(found.state, FoundState::Live);
    assert_eq!(directory.claim(&id("live"), &found).await.unwrap(), Claim::Elsewhere(found.server));
    let Claim::Yours(epoch, parked) = claim(&directory, &id("parked")).await else { panic!("it was parked") };
    assert_eq!((epoch, parked.usage.uses), (Epoch::FIRST.next(), 4));

    process.kill();
    // At once: the kernel has freed the lock.
    let found = see(&directory, &id("live")).await;
    assert_eq!((found.state, found.epoch), (FoundState::Parked, Epoch::FIRST));
    let Claim::Yours(epoch, live) = directory.claim(&id("live"), &found).await.unwrap() else { panic!("it is free") };
    assert_eq!((epoch, live.usage.uses), (Epoch::FIRST.next(), 3));
}

#[tokio::test]
async fn each_session_is_won_by_one_of_several_processes() {
    const SESSIONS: u64 = 200;
    let place = Place::new();
    let directory = place.open();
    (0..SESSIONS).for_each(|name| park(&directory, &id(name), name));
    assert_eq!(directory.flush(later()).await, 0);
    let mut processes: Vec<_> = (0..3).map(|_| Process::start("claim", place.path(), SESSIONS)).collect();
    for process in &mut processes {
        assert_eq!(process.hear().as_deref(), Some("ready"));
    }
    processes.iter_mut().for_each(Process::tell);
    let mut won = Vec::new();
    for process in &mut processes {
        won.extend(std::iter::from_fn(|| process.hear().filter(|said| said != "done")));
    }
    let mut expected: Vec<_> = (0..SESSIONS).map(|name| format!("{name} 2")).collect();
    won.sort_unstable();
    expected.sort_unstable();
    assert_eq!(won, expected);
    let mut lost = Vec::new();
    while lost.len() < won.len() {
        lost.extend(tokio::time::timeout_at(later(), directory.lost()).await.expect("it is told of each"));
    }
    lost.sort_unstable();
    lost.dedup();
    assert_eq!(lost.len(), won.len(), "each is told once");
}

#[tokio::test]
async fn of_many_processes_that_were_killed_nothing_is_left_beside_the_file() {
    let place = Place::new();
    for number in 0..3 {
        let mut process = Process::start("hold", place.path(), number);
        assert_eq!(process.hear().as_deref(), Some("ready"));
        process.kill();
    }
    assert!(place.names().iter().any(|name| name.ends_with(".lock")), "a process that is killed leaves its lock file");
    let directory = place.open();
    let locks = place.names().iter().filter(|name| name.ends_with(".lock")).count();
    assert_eq!(locks, 1, "that of the directory that is open");
    assert_eq!(directory.flush(later()).await, 0);
    drop(directory);
    place.wait_until_closed();
}
