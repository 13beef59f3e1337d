//! [`Visit`]: one request on its way through the layer.
//!
//! A [`Visit`] is made from the headers, is the [`Gate`] of the body while rmcp reads it, and makes the response at the
//! end. The steps run one after the other on the task of the request, but in different futures, so what is found out on
//! the way is in [`Progress`], behind a lock that only this request takes.
//!
//! | step | what it sets |
//! |---|---|
//! | `refuse_by_head` | `tracked`, for a request without a body |
//! | `PolicyService::call` | `lease_slot` |
//! | `see` | `chunks` |
//! | `decide` | `target`, `envelope`, `tracked`, `refusal`, `answers_probe`; it empties `chunks` if the body is large |
//! | `ask` | `lease`; it takes `lease_slot` |
//! | `through` | it takes all of it, when rmcp has answered |

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use http::{Method, Response, StatusCode, Version};
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use super::answer::{self, Answered};
use super::body::{Decision, Gate, PolicyBody};
use super::discard::{Discarded, KEPT_BYTES};
use super::held_lease::{HeldLease, LeaseSlot};
use super::request::{Chunks, Envelope, Head, RequestTarget, SESSION_ID, probe_answered_by};
use super::settings::Settings;
use super::tracked::{self, TrackedBody, is_cut, listens};
use crate::admission::{AdmissionPolicy, Arrival, ArrivalKind};
use crate::context::ClientContext;
use crate::directory::Found;
use crate::error::Rejected;
use crate::manager::{Asker, LookedUp, ManagerInner, Owner, rejected};
use crate::observe::RejectionReason;
use crate::scope::{Outcome, note_ping, observe};
use crate::tracker::{Class, Tracked};

/// Holds one request on its way through the layer: what is known of it, what was decided, and what the decision needs.
///
/// Everything but `progress` is set from the headers and stays as it is.
pub(super) struct Visit<I: SessionManager> {
    pub(super) shared: Arc<ManagerInner<I>>,
    pub(super) settings: Arc<Settings>,
    /// The client. Policies and observers see it, and the session that the request opens keeps it.
    pub(super) context: Arc<ClientContext>,
    /// What the headers say. The body may still turn it into a request without a session.
    pub(super) head: Head,
    pub(super) method: Method,
    /// The HTTP version, for the answer.
    pub(super) version: Version,
    /// The session that the request is for. It belongs to the client of the request, unless that is still to be looked
    /// up. `None` for a newcomer, and for a request that names a session but is served without one.
    pub(super) session: Option<SessionId>,
    /// Whether the session is neither live nor parked here, so that it has to be looked for in the directory.
    pub(super) looks: bool,
    /// Taken for a moment by each step, and never held while a policy is asked or rmcp is called.
    pub(super) progress: Mutex<Progress>,
}

/// Holds how far the request is.
///
/// It begins empty. `through` takes it out as a whole when rmcp has answered.
#[derive(Default)]
pub(super) struct Progress {
    /// The body until it is checked; after that only if it is small.
    chunks: Chunks,
    /// What the request is, once the body is checked. `None` if rmcp answered without reading the body to its end; then
    /// the headers decide.
    target: Option<RequestTarget>,
    /// What an answer needs, if the body is too large to be kept.
    envelope: Option<Envelope>,
    /// What a request without a session holds of its admission.
    lease: Option<HeldLease>,
    /// Where the extensions of the request carry that too.
    pub(super) lease_slot: Option<Arc<LeaseSlot>>,
    /// The token that makes a drain wait for a request without a session, or for one that opens a session. [`Tracked`]
    /// counts the request until it is dropped.
    pub(super) tracked: Option<Tracked>,
    /// Why the layer rejected the request when its body was checked. It was counted and reported. rmcp's own answer to
    /// the body that failed is dropped then.
    refusal: Option<Rejected>,
    /// Whether the request was the answer to a probe, which is done with it.
    answers_probe: bool,
}

impl<I: SessionManager> Visit<I> {
    pub(super) fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what an admission policy is asked about: this client, now.
    fn arrival(&self, kind: ArrivalKind) -> Arrival<'_> {
        Arrival::new(Instant::now(), kind).with_context(&self.context)
    }

    /// Counts a rejection, tells the observer of it, and returns it. It must be called once for each rejection that the
    /// layer makes itself; those of the manager were counted there.
    pub(super) fn turn_away(&self, refusal: Rejected) -> Rejected {
        // A newcomer, and a request without a session, may name one all the same.
        let session = self.session.as_deref().filter(|_| refusal.kind == ArrivalKind::Restore);
        self.shared.turn_away(refusal, Asker { context: Some(&self.context), session })
    }

    /// Counts a POST, once, when it is known what it is. Other methods are not counted.
    fn count(&self, target: RequestTarget) {
        if self.method == Method::POST {
            self.shared.count_request(target == RequestTarget::Sessionless);
        }
    }

    /// Rejects a newcomer or a request without a session before its body is read, if the headers show what it is.
    ///
    /// The rejection was counted and reported; the caller only has to answer. A request without a body is tracked here,
    /// since the gate is never asked about it.
    pub(super) fn refuse_by_head(&self) -> Result<(), Rejected> {
        let begins = || if self.head.is_decided() { self.may_begin(self.head.target) } else { Ok(()) };
        // A request without a body is tracked at once.
        let tracks = || if self.method == Method::POST { Ok(()) } else { self.track(self.head.target, &[]) };
        begins().and_then(|()| tracks()).inspect_err(|_| self.count(self.head.target))
    }

    /// Checks whether a request of that kind may begin. Consumes nothing.
    ///
    /// Rejects newcomers while newcomers are refused, requests without a session during a drain, and newcomers whose
    /// admission policy would reject them. Always admits what is for a session: the manager judges that. An early no
    /// spares rmcp the work; the manager asks again, and its answer counts.
    fn may_begin(&self, target: RequestTarget) -> Result<(), Rejected> {
        let kind = match target {
            RequestTarget::Open => ArrivalKind::Create,
            RequestTarget::Sessionless | RequestTarget::Replay => ArrivalKind::Request,
            _ => return Ok(()),
        };
        if self.shared.stops_taking(kind) {
            return Err(self.turn_away(Rejected::draining(kind)));
        }
        match self.shared.admission() {
            Some(policy) if kind == ArrivalKind::Create => policy
                .peek(&self.arrival(kind))
                .map_err(|rejection| self.turn_away(Rejected::by_policy(kind, &rejection))),
            _ => Ok(()),
        }
    }

    /// Returns the policy of requests without a session. If there is none and the request names a session, returns the
    /// policy of requests within a session, so that such a request cannot bypass it.
    ///
    /// Returns `None` if no policy has to be asked.
    fn sessionless_policy(&self) -> Option<Arc<dyn AdmissionPolicy>> {
        let within = || self.session.as_ref().and_then(|_| self.shared.requests());
        self.settings.sessionless.clone().or_else(within)
    }

    /// Returns whether a policy may be asked about a POST as a request without a session. The handler of such a request
    /// then holds its lease.
    ///
    /// It is asked before the body is known, so it says yes where the body may still make it such a request.
    pub(super) fn may_be_asked(&self) -> bool {
        let may_be = !self.head.is_decided() || self.head.target == RequestTarget::Sessionless;
        may_be && self.sessionless_policy().is_some()
    }

    /// Returns whether a policy must be asked about a stream that is replayed without a session.
    ///
    /// Without an event store there is nothing to replay, and rmcp rejects the request by itself. Such a request is a
    /// GET: it has no body that a gate could hold back, so the policy is asked before rmcp is called.
    pub(super) fn asks_about_replay(&self) -> bool {
        self.head.target == RequestTarget::Replay
            && self.settings.sessionless.is_some()
            && self.shared.has_event_store()
    }

    /// Asks the policy whether a request without a session is admitted, and keeps its lease.
    ///
    /// The permit is committed at once, since the request is served next. If this future is dropped while the policy
    /// decides, the drop of the policy's own future undoes the admission. A free lease is not kept. The error was
    /// counted and reported.
    pub(super) async fn ask(&self) -> Result<(), Rejected> {
        let Some(policy) = self.sessionless_policy() else { return Ok(()) };
        let kind = ArrivalKind::Request;
        let admitted = policy.admit(&self.arrival(kind)).await;
        let permit = admitted.map_err(|rejection| self.turn_away(Rejected::by_policy(kind, &rejection)))?;
        let lease = permit.commit();
        if !lease.is_free() {
            let mut progress = self.lock();
            // A listening stream has no handler that works for it. With an event store rmcp never ends the one it has.
            let listens = progress.tracked.as_ref().is_some_and(Tracked::is_listener);
            let outlived_for = (!listens).then(|| self.shared.max_busy());
            let slot = progress.lease_slot.take().unwrap_or_default();
            progress.lease = Some(HeldLease::new(slot, lease, outlived_for));
        }
        Ok(())
    }

    /// Answers a request that is rejected before the service has seen it.
    ///
    /// `discarded` is what was read of the body: the answer needs its id, and closes the connection if there is more of
    /// it.
    pub(super) fn refused<R>(&self, refusal: &Rejected, discarded: &Discarded) -> Response<PolicyBody<R>> {
        // A client has to hear that its session cannot be looked up now, which is no answer of that session.
        let target = if self.looks { RequestTarget::Other } else { self.head.target };
        let answered = Answered {
            target,
            envelope: discarded.envelope.as_ref(),
            rejection: self.shared.call_rejection(),
            version: self.version,
            closes: !discarded.is_complete,
        };
        answer::refused(refusal, answered)
    }

    /// Looks for the session in the directory. `None` if it is here by now.
    ///
    /// Returns an error if the session does not exist or is another client's (`None`), or if that cannot be said now. The
    /// rejection was counted and reported then.
    pub(super) async fn look_up(&self) -> Result<Option<Found>, Option<Rejected>> {
        let id = self.session.as_deref().unwrap_or_default();
        match self.shared.look_up(id, Some(&self.context)).await {
            Ok(LookedUp::Known(Some(found))) => Ok(Some(found)),
            // Another request has restored it. Whether it is this client's was not looked at.
            Ok(LookedUp::Known(None)) if matches!(self.shared.owner(id, Some(&self.context)), Owner::Same(_)) => {
                Ok(None)
            }
            Ok(_) => Err(None),
            Err(error) => Err(rejected(ArrivalKind::Restore, &error).map(|refusal| self.turn_away(refusal))),
        }
    }

    /// Waits for rmcp's answer, and replaces it by what the manager decided.
    ///
    /// The context of the client is in scope while rmcp runs, and the manager leaves its decision there. The first of
    /// these that applies makes the response:
    ///
    /// - A drain cut the request off: the error of a drain.
    /// - rmcp's service failed: its error, as it is.
    /// - The request was the answer to a probe of a listening stream: 202.
    /// - The layer rejected the request when it saw the body: that rejection.
    /// - The manager rejected it: that rejection, or a pong for the `ping` of a session that stays parked.
    /// - Nothing is left of the stream to resume: 405.
    /// - The session does not exist: 404, unless it is parked or live again; then a rejection, so that the client keeps
    ///   its session.
    /// - Otherwise rmcp's own response, with a body that is tracked and that holds the lease.
    pub(super) async fn through<R, E>(
        self: Arc<Self>,
        response: impl Future<Output = Result<Response<R>, E>>,
    ) -> Result<Response<PolicyBody<R>>, E> {
        let (response, outcome) = observe(Arc::clone(&self.context), self.until_cut(response)).await;
        let Progress { chunks, target, envelope, lease, tracked, refusal, answers_probe, .. } =
            std::mem::take(&mut *self.lock());
        let target = target.unwrap_or(self.head.target);
        let mut request = tracked::Request::new(chunks, envelope);
        let answered = |refusal: &Rejected, envelope: Option<&Envelope>| {
            let rejection = self.shared.call_rejection();
            answer::refused(refusal, Answered { target, envelope, rejection, version: self.version, closes: false })
        };
        let Some(response) = response else {
            return Ok(answered(&self.turn_away(Rejected::draining(ArrivalKind::Request)), request.envelope()));
        };
        let response = response?;
        if answers_probe {
            return Ok(answer::accepted());
        }
        if let Some(refusal) = refusal {
            if let Some(tracked) = tracked {
                tracked.refuse();
            }
            return Ok(answered(&refusal, request.envelope()));
        }
        let is_absent = match outcome {
            Some(Outcome::Rejected(refusal)) => {
                let envelope = request.envelope();
                return Ok(match self.pong(&refusal, envelope) {
                    Some(pong) => pong,
                    None => answered(&refusal, envelope),
                });
            }
            Some(Outcome::StreamOver) => return Ok(answer::stream_over(self.version)),
            Some(Outcome::NotFound) => true,
            Some(Outcome::Absent) => response.status() == StatusCode::NOT_FOUND,
            None => false,
        };
        if is_absent {
            // rmcp also answers 404 to a request that waited for the restore of another request. While the session is
            // parked, its client must not be told that it is gone.
            let is_known = |id: &SessionId| self.shared.owner(id, None) != Owner::Unknown;
            if !self.session.as_ref().is_some_and(is_known) {
                return Ok(answer::not_found(self.version, false));
            }
            return Ok(answered(&answer::still_parked(self.shared.max_sessions()), request.envelope()));
        }
        let opens = target == RequestTarget::Open && self.method == Method::POST;
        if opens && response.status().is_success() && !response.headers().contains_key(SESSION_ID) {
            self.shared.warn_of_no_sessions();
        }
        let (parts, body) = response.into_parts();
        let opened = tracked.as_ref().and_then(|_| parts.headers.get(SESSION_ID));
        let body = match (tracked, opened) {
            (Some(tracked), Some(id)) if opens => {
                let (shared, id) = (Arc::downgrade(&self.shared), id.clone());
                TrackedBody::new(body, &parts.headers, tracked, request).or_unheard(move || {
                    if let (Some(shared), Ok(id)) = (shared.upgrade(), id.to_str()) {
                        shared.note_unheard(id);
                    }
                })
            }
            (Some(tracked), _) => TrackedBody::new(body, &parts.headers, tracked, request),
            (None, _) => TrackedBody::untracked(body),
        };
        Ok(Response::from_parts(parts, PolicyBody::service(body, lease)))
    }

    /// Answers the ping of a parked session that finds no free place: the session exists and stays parked.
    ///
    /// Returns `None` if the request is no `ping`, was rejected for another reason, or its session is no longer parked.
    /// The age of the parked session counts from now.
    fn pong<R>(&self, refusal: &Rejected, envelope: Option<&Envelope>) -> Option<Response<PolicyBody<R>>> {
        let ping = envelope.filter(|envelope| envelope.is_ping())?;
        let is_full = refusal.kind == ArrivalKind::Restore && refusal.reason == RejectionReason::ServerFull;
        let is_parked = is_full && self.session.as_ref().is_some_and(|id| self.shared.touch_parked(id));
        is_parked.then(|| answer::pong(ping.id.clone()))
    }
}

impl<I: SessionManager> Visit<I> {
    /// Registers a request without a session with the tracker, so that a drain waits for it.
    ///
    /// A POST that opens a session is registered too, until its answer was read. Requests within a session are not:
    /// their session counts them. Returns an error, counted and reported, if there are too many listening streams or
    /// the server drains. The drain is looked for after the registration, so either the drain sees this request or this
    /// request sees the drain.
    pub(super) fn track(&self, target: RequestTarget, body: &[u8]) -> Result<(), Rejected> {
        let class = match target {
            RequestTarget::Replay => Class::Listener,
            RequestTarget::Sessionless if listens(body) => Class::Listener,
            RequestTarget::Sessionless => Class::Call,
            RequestTarget::Open if self.method == Method::POST => Class::Opening,
            _ => return Ok(()),
        };
        let most = match class {
            Class::Listener => self.settings.max_listeners.unwrap_or_else(|| self.shared.max_sessions()),
            Class::Call | Class::Opening => usize::MAX,
        };
        let Some(tracked) = self.shared.tracker().enter(class, most) else {
            return Err(self.turn_away(Rejected::too_many_listeners(most)));
        };
        // Check once more, now that a drain sees the request.
        if class != Class::Opening && self.shared.stops_taking(ArrivalKind::Request) {
            tracked.refuse();
            return Err(self.turn_away(Rejected::draining(ArrivalKind::Request)));
        }
        self.lock().tracked = Some(tracked);
        Ok(())
    }

    /// Takes the body if it is the answer to a probe of a listening stream. Returns whether it was.
    fn take_probe_answer(&self, body: &[u8]) -> bool {
        self.shared.probes_listeners()
            && self.session.as_ref().is_some_and(|session| {
                probe_answered_by(body).is_some_and(|id| self.shared.take_probe_answer_early(session, &id))
            })
    }

    /// Waits for the response. Returns `None` if a drain cuts the request off before. The response is then dropped, and
    /// rmcp's work for it with it.
    ///
    /// It takes the lock on the progress each time it is polled and the response is not there yet.
    pub(super) async fn until_cut<F: Future>(&self, response: F) -> Option<F::Output> {
        let (mut response, mut signal) = (pin!(response), pin!(None::<OwnedNotified>));
        poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            // The poll above registers the request once its body is read.
            let mut progress = self.lock();
            let Some(tracked) = &mut progress.tracked else { return Poll::Pending };
            if signal.is_none() {
                signal.set(Some(tracked.signal()));
            }
            if !is_cut(tracked, signal.as_mut().as_pin_mut(), cx) {
                return Poll::Pending;
            }
            tracked.note_cut();
            Poll::Ready(None)
        })
        .await
    }
}

impl<I: SessionManager> Gate for Visit<I> {
    /// Keeps the piece. Its bytes are shared with rmcp, unless the body has several pieces.
    fn see(&self, chunk: &Bytes) {
        self.lock().chunks.push(chunk.clone());
    }

    /// Judges the request by its whole body, and rejects or tracks it accordingly.
    ///
    /// The answer to a probe is taken here, and does not count as a request: rmcp would have its session restored. A request within a session always passes, since the manager decides on it; a `ping` is noted in the scope, which
    /// is why this must run in the scope of the request. Any other request is tracked first, and then rejected if its
    /// headers did not show what it is and it may not begin. A request without a session is last put to its policy.
    ///
    /// Of a body that is too large to keep, only the id and the method stay.
    fn decide(self: Arc<Self>) -> Decision {
        let body = self.lock().chunks.join();
        let target = self.head.judge(&body);
        let is_large = body.len() > KEPT_BYTES;
        let envelope = if is_large { Envelope::of(&body) } else { None };
        {
            let mut progress = self.lock();
            progress.target = Some(target);
            progress.envelope = envelope;
            if is_large {
                progress.chunks = Chunks::default();
            }
        }
        if target == RequestTarget::Within && self.take_probe_answer(&body) {
            self.lock().answers_probe = true;
            return Decision::Refuse;
        }
        self.count(target);
        if target == RequestTarget::Within {
            if Envelope::may_be_ping(&body) && Envelope::of(&body).is_some_and(|envelope| envelope.is_ping()) {
                note_ping();
            }
            return Decision::Pass;
        }
        let begins = || if self.head.is_decided() { Ok(()) } else { self.may_begin(target) };
        if let Err(refusal) = self.track(target, &body).and_then(|()| begins()) {
            self.lock().refusal = Some(refusal);
            return Decision::Refuse;
        }
        // A client that is rejected at `server/discover` assumes a server of an older revision and opens a session.
        let asks = target == RequestTarget::Sessionless
            && self.sessionless_policy().is_some()
            && Envelope::asks_for_more_than_discover(&body);
        if !asks {
            return Decision::Pass;
        }
        Decision::Ask(Box::pin(async move {
            let refusal = self.ask().await.err();
            let passes = refusal.is_none();
            self.lock().refusal = refusal;
            passes
        }))
    }
}
