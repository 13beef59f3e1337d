//! docs/design.md, L2 and L3.
//!
//! A creation or restore that fails, panics, or is dropped at any await leaves everything as it was before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::scripted::{Act, Call, Line, Scripted, initialize, initialize_params, initialized, list_tools};
use crate::witness::{Account, Accountant, Gate, Verdict, Witness};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionId, SessionManager, SessionState};
use rmcp_session_policy::{CloseReason, PolicyError, PolicySessionManager, PolicyTransport, SECOND, SessionKey};
use tokio::time::timeout;

type Manager = PolicySessionManager<Scripted>;

/// A manager, with the observer and the policies that record what they were told.
struct Case {
    inner: Scripted,
    gate: Gate,
    account: Account,
    witness: Witness,
    sessions: Arc<Manager>,
}

/// The state that a failed creation must leave unchanged.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    existing: usize,
    live: usize,
    reserved: usize,
    parked: usize,
    parked_bytes: usize,
    leases: usize,
    listed: BTreeSet<SessionKey>,
    in_policy: BTreeSet<SessionKey>,
}

impl Case {
    fn new(places: usize) -> Self {
        let (inner, gate, witness) = (Scripted::new(), Gate::default(), Witness::default());
        let policy = Accountant::default();
        let account = policy.account.clone();
        let sessions = PolicySessionManager::builder(inner.clone())
            .max_sessions(places)
            .max_opening(places)
            .admission(gate.clone())
            .eviction(policy)
            .observer(witness.clone())
            .build()
            .expect("valid");
        Self { inner, gate, account, witness, sessions: Arc::new(sessions) }
    }

    fn standing(&self) -> Standing {
        let stats = self.sessions.stats();
        assert_eq!(self.account.faults(), 0);
        self.witness.assert_one_end_each();
        Standing {
            existing: self.inner.existing(),
            live: stats.live,
            reserved: stats.reserved,
            parked: stats.parked,
            parked_bytes: stats.parked_bytes,
            leases: self.gate.out(),
            listed: self.sessions.list().iter().map(|session| session.key).collect(),
            in_policy: self.account.keys(),
        }
    }

    /// Creates a session and finishes its handshake.
    async fn ready(&self) -> (SessionId, PolicyTransport<Line>) {
        let (id, transport) = self.sessions.create_session().await.expect("room");
        self.sessions.initialize_session(&id, initialize()).await.expect("answers");
        self.sessions.accept_message(&id, initialized()).await.expect("accepts");
        let state = SessionState::new(serde_json::from_value(initialize_params()).expect("valid"));
        self.sessions.parking().store(&id, &state).await.expect("stores");
        (id, transport)
    }

    /// Creates a session and lets it be evicted; returns its id.
    async fn parked(&self) -> SessionId {
        let (id, transport) = self.ready().await;
        let key = self.sessions.list().last().expect("it").key;
        assert_eq!(self.sessions.terminate(key, CloseReason::Evicted).await, 1);
        drop(transport);
        assert_eq!(self.sessions.stats().parked, 1);
        id
    }
}

/// How an attempt fails.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Error,
    Panic,
    /// Dropped before it is polled at all.
    NotBegun,
    /// Dropped while the call that is slow has yet to return.
    Dropped,
    /// Dropped after a long wait for a call that never returns.
    Never,
}

const FATES: [Fate; 5] = [Fate::Error, Fate::Panic, Fate::NotBegun, Fate::Dropped, Fate::Never];

impl Fate {
    const fn act(self) -> Act {
        match self {
            Self::Error => Act::Error,
            Self::Panic => Act::Panic,
            Self::Dropped => Act::Slow(Duration::from_secs(10)),
            Self::Never | Self::NotBegun => Act::Never,
        }
    }

    const fn verdict(self) -> Verdict {
        match self {
            Self::Error => Verdict::Refuse,
            Self::Panic => Verdict::Panic,
            Self::Dropped => Verdict::Slow(Duration::from_secs(10)),
            Self::Never | Self::NotBegun => Verdict::Never,
        }
    }

    /// Runs an attempt to its fate; it must not succeed.
    async fn befall<T: Send + 'static>(
        self,
        attempt: impl Future<Output = Result<T, PolicyError<crate::scripted::Failed>>> + Send + 'static,
    ) {
        match self {
            Self::NotBegun => drop(attempt),
            Self::Error => assert!(attempt.await.is_err(), "it should fail"),
            Self::Panic => assert!(tokio::spawn(attempt).await.is_err_and(|error| error.is_panic())),
            Self::Dropped => assert!(timeout(SECOND, attempt).await.is_err()),
            Self::Never => assert!(timeout(Duration::from_secs(3_600), attempt).await.is_err()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_fails_in_the_inner_manager_leaves_nothing() {
    for fate in FATES {
        let case = Case::new(2);
        let (_id, _transport) = case.ready().await;
        let before = case.standing();
        case.inner.set(Call::Create, fate.act());
        let sessions = Arc::clone(&case.sessions);
        fate.befall(async move { sessions.create_session().await }).await;
        if !matches!(fate, Fate::Never) {
            assert_eq!(case.standing(), before, "{fate:?}");
        }
        assert_eq!((case.standing().reserved, case.gate.out()), (0, case.standing().live), "{fate:?}");
        assert_eq!(case.gate.undone(), case.gate.asked() - 1, "{fate:?}: only the one that is there is not undone");
        case.inner.set(Call::Create, Act::Ok);
        let (_second, _transport) = case.sessions.create_session().await.expect("the place is free");
        assert!(case.inner.most() <= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_fails_in_admission_leaves_nothing_and_evicts_no_session() {
    for fate in FATES {
        let case = Case::new(1);
        let (id, _transport) = case.ready().await;
        let before = case.standing();
        case.gate.set(fate.verdict());
        let sessions = Arc::clone(&case.sessions);
        // Short of the idle timeout, which the session that is there keeps.
        match fate {
            Fate::Never => Fate::Dropped.befall(async move { sessions.create_session().await }).await,
            fate => fate.befall(async move { sessions.create_session().await }).await,
        }
        assert_eq!(case.standing(), before, "{fate:?}");
        assert!(
            case.sessions.has_session(&id).await.expect("asks"),
            "no session is evicted for a newcomer that is refused"
        );
        case.gate.set(Verdict::Admit);
        assert!(case.sessions.create_session().await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_dropped_while_its_victim_closes_leaves_a_free_place() {
    let case = Case::new(1);
    let (id, transport) = case.ready().await;
    case.inner.set(Call::Close, Act::Slow(Duration::from_millis(50)));
    let newcomer = timeout(Duration::from_millis(20), case.sessions.create_session()).await;
    assert!(newcomer.is_err(), "it waits for its victim");
    tokio::time::sleep(SECOND).await;
    drop(transport);
    let standing = case.standing();
    assert_eq!((standing.live, standing.reserved, standing.existing, standing.leases), (0, 0, 0, 0));
    assert_eq!(standing.parked, 1, "the victim stays closed, and is parked");
    assert!(!case.sessions.has_session(&id).await.expect("asks"));
    assert!(case.sessions.create_session().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_passes_its_turn_on() {
    let case = Case::new(2);
    let mut held = vec![case.ready().await, case.ready().await];
    case.inner.set(Call::Close, Act::Slow(Duration::from_millis(50)));
    let create = |sessions: Arc<Manager>| tokio::spawn(async move { sessions.create_session().await });
    let gives_up = create(Arc::clone(&case.sessions));
    let stays = create(Arc::clone(&case.sessions));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(case.sessions.stats().closing, 2, "each has taken a victim");
    gives_up.abort();
    assert!(gives_up.await.is_err());
    let takes_the_turn = create(Arc::clone(&case.sessions));
    let _stays = stays.await.expect("no panic").expect("its victim's place");
    let _took = takes_the_turn.await.expect("no panic").expect("the place of the one that gave up");
    held.clear();
    let standing = case.standing();
    assert_eq!((standing.live, standing.reserved, standing.existing), (2, 0, 2));
    assert_eq!(case.inner.most(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_dropped_with_a_place_gives_the_place_back() {
    let case = Case::new(1);
    let (_id, transport) = case.ready().await;
    case.inner.set(Call::Close, Act::Slow(Duration::from_millis(50)));
    let mut waiter = Box::pin(case.sessions.create_session());
    assert!(futures_util::poll!(&mut waiter).is_pending());
    // The place comes while the waiter is not polled.
    tokio::time::sleep(Duration::from_millis(60)).await;
    drop(transport);
    assert_eq!(case.sessions.stats().reserved, 1);
    drop(waiter);
    assert_eq!(case.sessions.stats().reserved, 0);
    assert!(case.sessions.create_session().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_created_session_whose_request_is_dropped_is_ended() {
    let case = Case::new(1);
    let before = case.standing();
    drop(case.sessions.create_session().await.expect("room"));
    assert_eq!(case.standing(), before);
    assert_eq!(case.witness.reasons(), [CloseReason::Ended]);
}

#[tokio::test(start_paused = true)]
async fn an_initialize_that_comes_to_nothing_frees_the_place() {
    for fate in FATES {
        let case = Case::new(1);
        let before = case.standing();
        let (id, transport) = case.sessions.create_session().await.expect("room");
        case.inner.set(Call::Initialize, fate.act());
        let sessions = Arc::clone(&case.sessions);
        let attempt = async move { sessions.initialize_session(&id, initialize()).await };
        match fate {
            Fate::NotBegun => {
                drop(attempt);
                tokio::time::sleep(31 * SECOND).await;
            }
            Fate::Never => assert!(timeout(10 * SECOND, attempt).await.is_err()),
            fate => fate.befall(attempt).await,
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(case.standing(), before, "{fate:?}: though a caller still holds the transport");
        drop(transport);
        assert_eq!(case.standing(), before, "{fate:?}");
        let reason = if matches!(fate, Fate::NotBegun) { CloseReason::InitTimeout } else { CloseReason::InitFailed };
        assert_eq!(case.witness.reasons(), [reason], "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_fails_in_the_inner_manager_leaves_the_session_parked() {
    for fate in FATES {
        let case = Case::new(1);
        let id = case.parked().await;
        let before = case.standing();
        case.inner.set(Call::Restore, fate.act());
        let (sessions, parked) = (Arc::clone(&case.sessions), Arc::clone(&id));
        fate.befall(async move { sessions.restore_session(parked).await }).await;
        assert_eq!(case.standing(), before, "{fate:?}");
        case.inner.set(Call::Restore, Act::Ok);
        let again = case.sessions.restore_session(Arc::clone(&id)).await.expect("room");
        assert!(matches!(again, RestoreOutcome::Restored(_)), "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_fails_in_admission_leaves_the_session_parked() {
    for fate in FATES {
        let case = Case::new(1);
        let id = case.parked().await;
        let before = case.standing();
        case.gate.set(fate.verdict());
        let (sessions, parked) = (Arc::clone(&case.sessions), Arc::clone(&id));
        fate.befall(async move { sessions.restore_session(parked).await }).await;
        assert_eq!(case.standing(), before, "{fate:?}");
        case.gate.set(Verdict::Admit);
        let again = case.sessions.restore_session(Arc::clone(&id)).await.expect("room");
        assert!(matches!(again, RestoreOutcome::Restored(_)), "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_dropped_while_its_victim_closes_leaves_both_parked() {
    let case = Case::new(1);
    let id = case.parked().await;
    let (other, transport) = case.ready().await;
    case.inner.set(Call::Close, Act::Slow(Duration::from_millis(50)));
    let restore = timeout(Duration::from_millis(20), case.sessions.restore_session(Arc::clone(&id))).await;
    assert!(restore.is_err(), "it waits for its victim");
    tokio::time::sleep(SECOND).await;
    drop(transport);
    let standing = case.standing();
    assert_eq!((standing.live, standing.reserved, standing.parked, standing.leases), (0, 0, 2, 0));
    for id in [id, other] {
        assert!(matches!(case.sessions.restore_session(id).await, Ok(RestoreOutcome::Restored(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restored_session_whose_request_is_dropped_is_parked_again() {
    let case = Case::new(1);
    let id = case.parked().await;
    let before = case.standing();
    for _ in 0..3 {
        let outcome = case.sessions.restore_session(Arc::clone(&id)).await.expect("room");
        assert!(matches!(outcome, RestoreOutcome::Restored(_)));
        assert_eq!(case.sessions.stats().parked, 0);
        drop(outcome);
        assert_eq!(case.standing(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restored_session_whose_replay_is_dropped_is_parked_again() {
    let case = Case::new(1);
    let id = case.parked().await;
    let before = case.standing();
    let Ok(RestoreOutcome::Restored(transport)) = case.sessions.restore_session(Arc::clone(&id)).await else {
        panic!("not restored")
    };
    case.inner.set(Call::Initialize, Act::Never);
    assert!(timeout(SECOND, case.sessions.initialize_session(&id, initialize())).await.is_err());
    drop(transport);
    tokio::time::sleep(SECOND).await;
    assert_eq!(case.standing(), before);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fails_in_the_inner_manager_leaves_its_session_idle() {
    for fate in FATES {
        let case = Case::new(1);
        let (id, mut transport) = case.ready().await;
        assert!(transport.receive().await.is_some(), "initialized");
        let before = case.standing();
        case.inner.set(Call::Stream, fate.act());
        let sessions = Arc::clone(&case.sessions);
        let of = Arc::clone(&id);
        let attempt = async move { sessions.create_stream(&of, list_tools(1)).await.map(drop) };
        match fate {
            Fate::Never => Fate::Dropped.befall(attempt).await,
            fate => fate.befall(attempt).await,
        }
        assert_eq!(case.sessions.stats().busy, 0, "{fate:?}");
        assert_eq!(case.standing(), before, "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn closes_that_fail_or_panic_free_the_place() {
    for act in [Act::Error, Act::Panic, Act::Slow(SECOND)] {
        let case = Case::new(1);
        let before = case.standing();
        let (id, _transport) = case.sessions.create_session().await.expect("room");
        case.inner.set(Call::Close, act);
        let closed = case.sessions.close_session(&id).await;
        assert_eq!(closed.is_err(), matches!(act, Act::Error), "{act:?}");
        assert_eq!(case.standing(), before, "{act:?}");
        assert_eq!(case.witness.reasons(), [CloseReason::Client], "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_dropped_goes_on() {
    let case = Case::new(1);
    let before = case.standing();
    let (id, _transport) = case.sessions.create_session().await.expect("room");
    case.inner.set(Call::Close, Act::Slow(Duration::from_millis(50)));
    assert!(timeout(Duration::from_millis(10), case.sessions.close_session(&id)).await.is_err());
    tokio::time::sleep(SECOND).await;
    assert_eq!(case.standing(), before);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_never_returns_keeps_its_place_and_shows_as_stuck() {
    let case = Case::new(1);
    let (id, _transport) = case.sessions.create_session().await.expect("room");
    case.inner.set(Call::Close, Act::Never);
    case.sessions.close_session(&id).await.expect("bounded by the close deadline");
    let stats = case.sessions.stats();
    assert_eq!((stats.live, stats.closing, stats.stuck), (1, 1, 1));
    assert!(matches!(case.sessions.create_session().await, Err(PolicyError::ServerFull(_))));
    assert_eq!(case.gate.out(), 1, "the refused newcomer's permit is back");
    assert_eq!(case.inner.most(), 1);
}
