//! A queued observer is told all events in their order, of sessions as they were, and no request waits for it.

use std::sync::{Arc, Mutex};

use crate::session::{Driver, settle};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::{
    ClientContext, CloseReason, Fingerprint, Phase, PolicySessionManager, Queued, SECOND, SessionEvent, SessionObserver,
};

/// Writes down what it is told.
#[derive(Clone, Debug, Default)]
struct Paper(Arc<Mutex<Vec<String>>>);

impl Paper {
    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }
}

impl SessionObserver for Paper {
    fn observe(&self, event: &SessionEvent<'_>) {
        let line = match event {
            SessionEvent::Opened { session, .. } => {
                let who = session.context().and_then(ClientContext::principal);
                format!("opened {who:?} {:?} {} {:?}", session.phase(), session.uses(), session.client_name())
            }
            SessionEvent::Closed { session, reason, age, .. } => {
                format!(
                    "closed {} {:?} {} {:?} {reason} {age:?}",
                    session.fingerprint(),
                    session.phase(),
                    session.uses(),
                    session.client_name()
                )
            }
            SessionEvent::Rejected { kind, reason, policy, context, .. } => {
                format!("rejected {kind:?} {reason} {policy} {:?}", context.and_then(ClientContext::principal))
            }
            _ => "another".to_owned(),
        };
        self.0.lock().expect("no panic").push(line);
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_are_shown_as_they_were_when_the_event_happened() {
    let (paper, in_line) = (Paper::default(), Paper::default());
    // The manager is made outside of any runtime as well.
    let queued = std::thread::spawn({
        let paper = paper.clone();
        move || Queued::new(paper, 100)
    });
    let queued = queued.join().expect("no runtime is needed");
    let observers = (in_line.clone(), queued.clone());
    let builder = PolicySessionManager::local().max_sessions(1).refuse_when_full().observer(observers);
    let sessions = Arc::new(builder.build().expect("valid"));
    let alice = || ClientContext::new().with_principal("alice");
    let driver = alice().scope(Driver::ready(&sessions)).await.expect("room");
    assert_eq!(driver.echo("e").await.expect("lives"), "e");
    alice().scope(sessions.create_session()).await.expect_err("full");
    tokio::time::sleep(3 * SECOND).await;
    sessions.close_session(&driver.id).await.expect("closes");
    queued.told().await;
    let closed = format!("closed {} {:?} 1 Some(\"driver\") client 3s", Fingerprint::of(&driver.id), Phase::Closing);
    let expected = [
        "opened Some(\"alice\") Opening 0 None".to_owned(),
        "rejected Create at_capacity capacity Some(\"alice\")".to_owned(),
        closed,
    ];
    assert_eq!(paper.lines(), expected);
    assert_eq!(in_line.lines(), expected, "and so is the other of two observers");
    assert_eq!((queued.dropped(), sessions.stats().closed(CloseReason::Client)), (0, 1));
}

/// Panics at each event.
#[derive(Debug)]
struct Bomb;

impl SessionObserver for Bomb {
    fn observe(&self, _: &SessionEvent<'_>) {
        panic!("as told");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_observers_each_is_told_though_the_first_panics() {
    let paper = Paper::default();
    let shared: Arc<dyn SessionObserver> = Arc::new(paper.clone());
    let boxed: Box<dyn SessionObserver> = Box::new(Bomb);
    let sessions = PolicySessionManager::local().observer((boxed, (Bomb, shared))).build().expect("valid");
    let _session = sessions.create_session().await.expect("room");
    settle().await;
    assert_eq!(paper.lines().len(), 1);
}
