//! Policies and observers that record what they were told.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    missing_docs,
    missing_debug_implementations,
    reason = "a fixture, of which each test file uses a part"
)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, ArrivalKind, Permit, Rejection};
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, Lru, SessionInfo};
use rmcp_session_policy::{CloseReason, SessionEvent, SessionKey, SessionObserver};

/// An event that the observer received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Opened(SessionKey),
    Restored(SessionKey),
    Refused(ArrivalKind),
    Closed(SessionKey, CloseReason),
}

/// Writes down every event; clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Witness(Arc<Mutex<Vec<Heard>>>);

impl Witness {
    pub fn heard(&self) -> Vec<Heard> {
        self.0.lock().expect("no panic under it").clone()
    }

    /// The ends, in their order.
    pub fn closed(&self) -> Vec<(SessionKey, CloseReason)> {
        let ends = |heard: &Heard| if let Heard::Closed(key, reason) = *heard { Some((key, reason)) } else { None };
        self.heard().iter().filter_map(ends).collect()
    }

    pub fn reasons(&self) -> Vec<CloseReason> {
        self.closed().into_iter().map(|(_, reason)| reason).collect()
    }

    /// Every session came once, and ended at most once, after it came.
    pub fn assert_one_end_each(&self) {
        let (mut here, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for heard in self.heard() {
            match heard {
                Heard::Opened(key) | Heard::Restored(key) => assert!(here.insert(key) && !gone.contains(&key)),
                Heard::Closed(key, _) => assert!(here.remove(&key) && gone.insert(key), "{key:?} ended twice"),
                Heard::Refused(_) => {}
            }
        }
    }
}

impl SessionObserver for Witness {
    fn observe(&self, event: &SessionEvent<'_>) {
        let heard = match event {
            SessionEvent::Opened { session, .. } => Heard::Opened(session.key()),
            SessionEvent::Restored { session, .. } => Heard::Restored(session.key()),
            SessionEvent::Rejected { kind, .. } => Heard::Refused(*kind),
            SessionEvent::Closed { session, reason, .. } => Heard::Closed(session.key(), *reason),
            _ => return,
        };
        self.0.lock().expect("no panic under it").push(heard);
    }
}

/// Least recently used, with an account of the sessions it was told of. Clones of the account share it.
#[derive(Debug, Default)]
pub struct Accountant {
    lru: Lru,
    pub account: Account,
}

#[derive(Clone, Debug, Default)]
pub struct Account(Arc<Mutex<BTreeSet<SessionKey>>>, Arc<AtomicUsize>);

impl Account {
    /// The sessions that the policy has been told of and not told the end of.
    pub fn keys(&self) -> BTreeSet<SessionKey> {
        self.0.lock().expect("no panic under it").clone()
    }

    /// Calls that broke the contract of the policy.
    pub fn faults(&self) -> usize {
        self.1.load(SeqCst)
    }
}

impl EvictionPolicy for Accountant {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        if !self.account.0.lock().expect("no panic under it").insert(session.key()) {
            self.account.1.fetch_add(1, SeqCst);
        }
        self.lru.on_insert(session);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        if !self.account.0.lock().expect("no panic under it").remove(&session.key()) {
            self.account.1.fetch_add(1, SeqCst);
        }
        self.lru.on_remove(session);
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.lru.on_suspend(session);
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.lru.on_resume(session);
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.lru.victim(candidates)
    }
}

/// What an admission policy does.
#[derive(Clone, Copy, Debug, Default)]
pub enum Verdict {
    #[default]
    Admit,
    Refuse,
    Slow(Duration),
    Never,
    Panic,
}

/// Admits as configured, and counts the permits and leases that it has given. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    verdict: Arc<Mutex<Verdict>>,
    out: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    undone: Arc<AtomicUsize>,
}

impl Gate {
    pub fn set(&self, verdict: Verdict) {
        *self.verdict.lock().expect("no panic under it") = verdict;
    }

    /// Permits and leases that are held at this moment.
    pub fn out(&self) -> usize {
        self.out.load(SeqCst)
    }

    /// Permits that were undone.
    pub fn undone(&self) -> usize {
        self.undone.load(SeqCst)
    }

    pub fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

#[derive(Debug)]
struct Out(Arc<AtomicUsize>);

impl Drop for Out {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[async_trait::async_trait]
impl AdmissionPolicy for Gate {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        self.asked.fetch_add(1, SeqCst);
        self.out.fetch_add(1, SeqCst);
        let out = Out(Arc::clone(&self.out));
        let verdict = *self.verdict.lock().expect("no panic under it");
        match verdict {
            Verdict::Admit => {}
            Verdict::Refuse => return Err(rejection()),
            Verdict::Slow(how) => tokio::time::sleep(how).await,
            Verdict::Never => std::future::pending().await,
            Verdict::Panic => panic!("as told"),
        }
        let undone = Arc::clone(&self.undone);
        Ok(Permit::holding(out).and(Permit::undone_by(move || {
            undone.fetch_add(1, SeqCst);
        })))
    }
}

pub fn rejection() -> Rejection {
    Rejection::new("gate")
}
