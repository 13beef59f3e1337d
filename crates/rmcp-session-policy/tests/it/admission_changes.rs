//! docs/design.md, L3 and L18.
//!
//! Admission policies change while sessions are there: numbers where the policy stands, and other policies in its place.

use std::sync::{Arc, OnceLock};

use crate::parked::{Manager, scripted};
use crate::scripted::{Act, Call, Line, Scripted, initialized, list_tools};
use async_trait::async_trait;
use futures_util::{FutureExt, poll};
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use rmcp_session_policy::admission::{
    AdmissionPolicy, AdmissionPolicyExt, Arrival, ArrivalKind, Concurrent, Lease, Open, Permit, Rejection, Reservation,
    SlidingWindow, TokenBucket,
};
use rmcp_session_policy::{ClientContext, MINUTE, PolicyTransport, SECOND};
use tokio::time::sleep;

type Held = Vec<(SessionId, PolicyTransport<Line>)>;

fn as_client(name: &str) -> ClientContext {
    ClientContext::new().with_principal(name)
}

/// Opens as many as are admitted, `most` at most.
async fn open(sessions: &Manager<Scripted>, client: &str, most: usize) -> Held {
    let mut held = Held::new();
    for _ in 0..most {
        let Ok((id, transport)) = as_client(client).scope(sessions.create_session()).await else { break };
        sessions.accept_message(&id, initialized()).await.expect("accepts");
        held.push((id, transport));
    }
    held
}

async fn admit(sessions: &Manager<Scripted>, policy: impl AdmissionPolicy) {
    sessions.reconfigure(|settings| settings.admission(policy)).await.expect("valid");
}

#[tokio::test(start_paused = true)]
async fn numbers_change_through_combinators_and_debts_stay() {
    let is_new = |arrival: &Arrival<'_>| arrival.kind() == ArrivalKind::Create;
    let limit = |each: u32, all: usize| {
        let each = TokenBucket::per_minute(each).burst(each).per_client().only(is_new);
        each.and(SlidingWindow::new(all, MINUTE))
    };
    let (_, sessions) = scripted(|builder| builder.admission(limit(2, 100)));
    assert_eq!(open(&sessions, "alice", 9).await.len(), 2);
    admit(&sessions, limit(5, 100)).await;
    assert_eq!(open(&sessions, "alice", 9).await.len(), 3, "five, and she owes two");
    assert_eq!(open(&sessions, "bob", 9).await.len(), 5, "and a new client has the new numbers");
    admit(&sessions, limit(1, 100)).await;
    assert_eq!(open(&sessions, "carol", 9).await.len(), 1);
    // Five are owed at one a minute, and one is allowed again when there is room for it.
    sleep(4 * MINUTE).await;
    assert_eq!(open(&sessions, "alice", 9).await.len(), 0);
    sleep(MINUTE).await;
    assert_eq!(open(&sessions, "alice", 9).await.len(), 1);
    admit(&sessions, limit(9, 3)).await;
    assert_eq!(open(&sessions, "dora", 9).await.len(), 2, "alice was the first of three in this minute");
}

#[tokio::test(start_paused = true)]
async fn a_permit_of_before_is_undone_exactly() {
    let (inner, sessions) = scripted(|builder| builder.admission(TokenBucket::per_minute(2).burst(2)));
    inner.set(Call::Create, Act::Never);
    let mut pending = Box::pin(sessions.create_session());
    assert!(poll!(&mut pending).is_pending());
    inner.set(Call::Create, Act::Ok);
    assert_eq!(open(&sessions, "alice", 9).await.len(), 1);
    admit(&sessions, TokenBucket::per_minute(4).burst(4)).await;
    assert_eq!(open(&sessions, "alice", 9).await.len(), 2, "four, and two are owed");
    drop(pending);
    assert_eq!(open(&sessions, "alice", 9).await.len(), 1, "as if it had not been asked for");
}

#[tokio::test(start_paused = true)]
async fn another_policy_adopts_the_live_sessions_and_leases_of_the_old_one_end() {
    let (inner, sessions) = scripted(|builder| builder.admission(TokenBucket::per_minute(100).burst(100)));
    let mut alices = open(&sessions, "alice", 3).await;
    let _bobs = open(&sessions, "bob", 1).await;
    // One is on its way, with a permit of the old policy.
    inner.set(Call::Create, Act::Slow(SECOND));
    let client = as_client("alice");
    let on_its_way = client.scope(sessions.create_session());
    let changes = async {
        sleep(SECOND / 2).await;
        inner.set(Call::Create, Act::Ok);
        admit(&sessions, Concurrent::new(4).per_client()).await;
    };
    let (fourth, ()) = tokio::join!(on_its_way, changes);
    let fourth = fourth.expect("its permit was given");
    assert_eq!(open(&sessions, "alice", 9).await.len(), 0, "four are there");
    assert_eq!(open(&sessions, "bob", 9).await.len(), 3);
    drop(alices.pop());
    assert_eq!(open(&sessions, "alice", 9).await.len(), 1, "what it adopted it gives back once");
    // A lower number where it stands: what is there stays.
    admit(&sessions, Concurrent::new(2).per_client()).await;
    drop(alices.pop());
    assert_eq!(open(&sessions, "alice", 9).await.len(), 0, "two are there still");
    drop((alices, fourth));
    assert_eq!(open(&sessions, "alice", 9).await.len(), 2);
    // Another shape, and back: nothing of the old one is left.
    admit(&sessions, Open).await;
    let held = open(&sessions, "carol", 5).await;
    assert_eq!(held.len(), 5);
    admit(&sessions, Concurrent::new(6).per_client()).await;
    assert_eq!(open(&sessions, "carol", 9).await.len(), 1);
    drop(held);
    assert_eq!(open(&sessions, "carol", 9).await.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_shared_counts_each_session_once() {
    let shared = Arc::new(Concurrent::new(3));
    let (_, sessions) = scripted(|builder| builder.admission(Arc::clone(&shared)));
    let held = open(&sessions, "alice", 2).await;
    admit(&sessions, Arc::clone(&shared)).await;
    assert_eq!(open(&sessions, "alice", 9).await.len(), 1);
    drop(held);
    assert_eq!(open(&sessions, "alice", 9).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn limits_of_requests_change_too() {
    let (_, sessions) = scripted(|builder| builder.requests(SlidingWindow::new(1, MINUTE).per_session()));
    let held = open(&sessions, "alice", 1).await;
    let id = &held[0].0;
    let mut next = 0;
    let mut admitted = async |sessions: &Manager<Scripted>| {
        next += 1;
        let busy = sessions.list()[0].uses;
        drop(sessions.create_stream(id, list_tools(next)).await.expect("a stream"));
        sessions.list()[0].uses > busy
    };
    assert!(admitted(&sessions).await && !admitted(&sessions).await);
    let change = sessions.reconfigure(|settings| settings.requests(SlidingWindow::new(3, MINUTE).per_session()));
    change.await.expect("valid");
    assert!(admitted(&sessions).await && admitted(&sessions).await && !admitted(&sessions).await);
    sessions.reconfigure(|settings| settings.requests(Open)).await.expect("valid");
    assert!(admitted(&sessions).await);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_makes_no_sense_changes_nothing() {
    let (_, sessions) = scripted(|builder| builder.admission(TokenBucket::per_minute(1).burst(1)));
    let change = sessions.reconfigure(|settings| settings.max_sessions(7).admission(TokenBucket::per_minute(0)));
    assert_eq!(change.await.unwrap_err().setting, "the rate of TokenBucket");
    let change = sessions.reconfigure(|settings| settings.max_sessions(0).admission(Open));
    assert_eq!(change.await.unwrap_err().setting, "max_sessions");
    assert_eq!(sessions.stats().max_sessions, 1_000);
    assert_eq!(open(&sessions, "alice", 9).await.len(), 1);
}

/// Changes the policy while a session is registered, and its permit not yet committed.
struct ChangesOnCommit(Arc<OnceLock<Manager<Scripted>>>);

impl Reservation for ChangesOnCommit {
    fn commit(self: Box<Self>) -> Lease {
        let sessions = self.0.get().expect("set");
        let change = sessions.reconfigure(|settings| settings.admission(PanickingLeases));
        change.now_or_never().expect("at once").expect("valid");
        Lease::holding(())
    }
}

#[derive(Debug)]
struct Changing(Arc<OnceLock<Manager<Scripted>>>);

#[async_trait]
impl AdmissionPolicy for Changing {
    async fn admit(&self, _arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        Ok(Permit::reserving(ChangesOnCommit(Arc::clone(&self.0))))
    }
}

/// What sessions hold of it panics when it is given back.
#[derive(Debug)]
struct PanickingLeases;

struct Panics;

impl Drop for Panics {
    fn drop(&mut self) {
        panic!("as asked");
    }
}

#[async_trait]
impl AdmissionPolicy for PanickingLeases {
    async fn admit(&self, _arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        Ok(Permit::free())
    }

    fn adopt(&self, _session: &Arrival<'_>) -> Lease {
        Lease::holding(Panics)
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_adopted_before_its_own_lease_came_outlives_a_panic_of_the_other() {
    let cell = Arc::default();
    let (_, sessions) = scripted(|builder| builder.admission(Changing(Arc::clone(&cell))));
    assert!(cell.set(Arc::clone(&sessions)).is_ok());
    let held = open(&sessions, "alice", 1).await;
    assert_eq!((held.len(), sessions.stats().live), (1, 1));
}
