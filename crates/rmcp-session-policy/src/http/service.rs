//! [`PolicyService`]: the service that the layer makes.
//!
//! A request goes through these steps:
//!
//! - `enter` reads the headers: what the request is ([`Head`]), its client, and whether the session that it names
//!   belongs to that client. It also rejects what the headers alone show to be rejected.
//! - A request that is rejected there is answered by `answer_early`, and rmcp does not see it.
//! - A request for a session that may be in the directory waits for `look_up`, and is rejected or goes on.
//! - Any other request goes to rmcp with a body that the layer checks as rmcp reads it (its [`Visit`] is the [`Gate`]).
//! - `Visit::through` waits for rmcp's response, and replaces it if the layer or the manager rejected the request.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use rmcp::transport::streamable_http_server::session::SessionManager;
use tower_service::Service;

use super::answer;
use super::body::{Gate, PolicyBody, RequestBody};
use super::discard::Discarded;
use super::held_lease;
use super::request::{Head, LAST_EVENT_ID, RequestTarget, SESSION_ID, expects_continue, session_named_by};
use super::settings::Settings;
use super::visit::{Progress, Visit};
use crate::error::Rejected;
use crate::manager::{EndedStream, ManagerInner, Owner};
use crate::scope::note_found;

/// Serves requests through rmcp's service, under policies; made by [`PolicyLayer`](super::PolicyLayer).
///
/// Clones share the manager and the settings. A clone costs a clone of the service inside and two reference counts.
pub struct PolicyService<S, I: SessionManager> {
    inner: S,
    shared: Arc<ManagerInner<I>>,
    settings: Arc<Settings>,
}

impl<S, I: SessionManager> PolicyService<S, I> {
    pub(super) fn new(inner: S, shared: Arc<ManagerInner<I>>, settings: Settings) -> Self {
        Self { inner, shared, settings: Arc::new(settings) }
    }
}

impl<S: Clone, I: SessionManager> Clone for PolicyService<S, I> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared), settings: Arc::clone(&self.settings) }
    }
}

impl<S, I: SessionManager> fmt::Debug for PolicyService<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyService").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The future of one request, boxed because each way through the layer has a future of its own.
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S, I, B, R> Service<Request<B>> for PolicyService<S, I>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    I: SessionManager,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
    R: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<PolicyBody<R>>;
    type Error = S::Error;
    type Future = BoxFuture<Result<Self::Response, S::Error>>;

    /// The layer is always ready itself, so this is the readiness of the service inside.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    /// Takes the request in at once, and returns the future that answers it. The look at the session and a rejection by
    /// the headers happen in this call, before the future is polled.
    ///
    /// The service inside is called here too, except for a stream that is replayed under a policy: its policy has to be
    /// asked first, which takes an await.
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let visit = match self.enter(&parts) {
            Ok(visit) => visit,
            Err(turned_away) => return answer_early(Arc::clone(&self.settings), turned_away, body),
        };
        if visit.looks {
            return look_up_and_serve(self.take_inner(), visit, parts, body);
        }
        let asks_first = visit.asks_about_replay();
        let (visit, request) = admit_body(visit, parts, body);
        if asks_first {
            let mut inner = self.take_inner();
            return Box::pin(async move {
                match visit.ask().await {
                    Ok(()) => visit.through(inner.call(request)).await,
                    Err(refusal) => Ok(visit.refused(&refusal, &Discarded::nothing())),
                }
            });
        }
        // Called at once, as for most requests: to call it later it would have to be cloned.
        Box::pin(visit.through(self.inner.call(request)))
    }
}

/// Makes the request that rmcp gets: without the id of a session that it is not for, and with a body that the visit checks.
fn admit_body<I: SessionManager, B>(
    visit: Visit<I>,
    mut parts: Parts,
    body: B,
) -> (Arc<Visit<I>>, Request<RequestBody<B>>) {
    if !visit.head.is_in_session() {
        parts.headers.remove(SESSION_ID);
    }
    if visit.may_be_asked() {
        visit.lock().lease_slot = Some(held_lease::carried_by(&mut parts.extensions));
    }
    let visit = Arc::new(visit);
    // Only a POST has a body that says what it is.
    let gate = (visit.method == Method::POST).then(|| Arc::clone(&visit) as Arc<dyn Gate>);
    (visit, Request::from_parts(parts, RequestBody::new(body, gate)))
}

/// Looks for the session of a request in the directory, and passes the request on if it is there and the client's.
fn look_up_and_serve<S, I, B, R>(
    mut inner: S,
    visit: Visit<I>,
    parts: Parts,
    body: B,
) -> BoxFuture<Result<Response<PolicyBody<R>>, S::Error>>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    I: SessionManager,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
    R: Body<Data = Bytes> + Send + 'static,
{
    Box::pin(async move {
        let found = match visit.look_up().await {
            Ok(found) => found,
            Err(refusal) => {
                let (expects_continue, version) = (expects_continue(&parts), parts.version);
                let settings = Arc::clone(&visit.settings);
                let why = refusal.map_or(Why::NotFound, |refusal| Why::Rejected(Box::new((visit, refusal))));
                return answer_early(settings, TurnedAway { expects_continue, version, why }, body).await;
            }
        };
        let last_event_id = last_event_id_of(&visit, &parts);
        if let Some(ended) = found.zip(last_event_id).and_then(|(found, id)| visit.shared.ended_there(&found, id)) {
            let version = parts.version;
            let settings = Arc::clone(&visit.settings);
            let turned_away = TurnedAway::<I> { expects_continue: false, version, why: Why::StreamEnded(ended) };
            return answer_early(settings, turned_away, body).await;
        }
        let (visit, request) = admit_body(visit, parts, body);
        // Within the scope of the request, which the manager reads it from.
        let noted = async move {
            if let Some(found) = found {
                note_found(found);
            }
            inner.call(request).await
        };
        visit.through(noted).await
    })
}

/// The id of the event after which a GET wants to listen to its session.
fn last_event_id_of<'a, I: SessionManager>(visit: &Visit<I>, parts: &'a Parts) -> Option<&'a str> {
    if visit.head.target != RequestTarget::Listen {
        return None;
    }
    parts.headers.get(LAST_EVENT_ID)?.to_str().ok()
}

/// Holds a request that is answered before its body is read.
///
/// What is kept of its head is what `answer_early` needs: the rest is dropped before the body is read.
struct TurnedAway<I: SessionManager> {
    /// Whether the client sends its body only if it is asked to. Nothing is read then.
    expects_continue: bool,
    version: http::Version,
    why: Why<I>,
}

/// Says why a request is answered without rmcp.
enum Why<I: SessionManager> {
    /// Its session does not exist, or belongs to another client.
    NotFound,
    /// The client is unknown, and the layer rejects unknown clients.
    Anonymous,
    /// It resumes the stream of a request that has ended, of a session that is not live.
    StreamEnded(EndedStream),
    /// The manager or its admission policy rejects it. The rejection was counted and reported. Boxed, since it is large
    /// and rare.
    Rejected(Box<(Visit<I>, Rejected)>),
}

impl<S, I: SessionManager> PolicyService<S, I> {
    /// Reads the headers: which client asks for what, and whether the session belongs to it.
    ///
    /// The order matters. An unknown client is rejected before its session is looked for. A session of another client
    /// is answered like one that does not exist. Only then is the request asked about as a newcomer, without consuming
    /// anything of a quota.
    ///
    /// Costs a look-up of the session, and for a newcomer one `peek` of the admission policy. If there is a directory, and the
    /// session is not one of this client that is live or parked here, the visit says that it is still to be looked for there.
    fn enter(&self, parts: &Parts) -> Result<Visit<I>, TurnedAway<I>> {
        let named = session_named_by(parts);
        let head = Head::of(parts, named.is_some(), self.settings.without_sessions);
        let version = parts.version;
        let turned_away = |why| TurnedAway { expects_continue: expects_continue(parts), version, why };
        let mut context = self.settings.context(parts);
        if head.target == RequestTarget::Listen {
            context = context.listening();
        }
        if self.settings.refuse_anonymous && context.peer().is_none() && context.principal().is_none() {
            return Err(turned_away(Why::Anonymous));
        }
        let mut looks = false;
        let session = match named.filter(|_| head.is_in_session()) {
            None => None,
            // One look-up tells whether the id is known and belongs to this client. To other clients it does not exist.
            Some(id) => match self.shared.owner(id, Some(&context)) {
                Owner::Same(id) => Some(id),
                // Another client's is looked for as well, or it would be told from an unknown one by what it costs, and by
                // the answer when it may not be looked for.
                Owner::Unknown | Owner::Other if self.shared.has_directory() => {
                    looks = true;
                    Some(id.into())
                }
                Owner::Unknown | Owner::Other => return Err(turned_away(Why::NotFound)),
            },
        };
        let visit = Visit {
            shared: Arc::clone(&self.shared),
            settings: Arc::clone(&self.settings),
            context: Arc::new(context),
            head,
            method: parts.method.clone(),
            version,
            session,
            looks,
            progress: Mutex::new(Progress::default()),
        };
        // One that is still to be looked for may be another client's.
        let ended = visit.session.as_deref().filter(|_| !looks).zip(last_event_id_of(&visit, parts));
        if let Some(ended) = ended.and_then(|(id, event)| visit.shared.ended_here(id, event)) {
            return Err(turned_away(Why::StreamEnded(ended)));
        }
        match visit.refuse_by_head() {
            Ok(()) => Ok(visit),
            Err(refusal) => Err(turned_away(Why::Rejected(Box::new((visit, refusal))))),
        }
    }

    /// Takes the service that was polled ready, which must be the one that is called later. A clone replaces it.
    fn take_inner(&mut self) -> S
    where
        S: Clone,
    {
        let clone = self.inner.clone();
        std::mem::replace(&mut self.inner, clone)
    }
}

/// Reads and drops the body of a request, then answers it.
///
/// If the rest of the body could not be read within the bounds, the answer closes the connection.
fn answer_early<I, B, R, E>(
    settings: Arc<Settings>,
    turned_away: TurnedAway<I>,
    body: B,
) -> BoxFuture<Result<Response<PolicyBody<R>>, E>>
where
    I: SessionManager,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
    R: Send + 'static,
{
    Box::pin(async move {
        let TurnedAway { expects_continue, version, why } = turned_away;
        let discarded = settings.discard.read(body, expects_continue).await;
        Ok(match why {
            Why::NotFound => answer::not_found(version, !discarded.is_complete),
            Why::Anonymous => answer::anonymous(version, !discarded.is_complete),
            Why::StreamEnded(ended) => answer::ended_stream(ended, version),
            Why::Rejected(refused) => {
                let (visit, refusal) = *refused;
                visit.refused(&refusal, &discarded)
            }
        })
    })
}
