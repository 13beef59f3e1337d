//! The service that the layer makes.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::HeaderName;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::BodyExt;
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::time::{Instant, timeout};
use tower_service::Service;

use super::answer::{self, Asked};
use super::body::{Beginning, PolicyBody, TeeBody};
use super::layer::Settings;
use crate::admission::{Arrival, ArrivalKind, Lease};
use crate::context::{ClientContext, Outcome, observe};
use crate::error::Refusal;
use crate::manager::{Owner, Shared};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");

/// The first revision of MCP whose requests belong to no session.
const SESSIONLESS: &str = "2026-07-28";

/// How long the id of a request that is refused may take to arrive.
const ID_TIMEOUT: Duration = Duration::from_millis(250);

/// rmcp's service under policies; made by [`PolicyLayer`](super::PolicyLayer).
pub struct PolicyService<S, I: SessionManager> {
    inner: S,
    shared: Arc<Shared<I>>,
    settings: Arc<Settings>,
}

impl<S, I: SessionManager> PolicyService<S, I> {
    pub(super) fn new(inner: S, shared: Arc<Shared<I>>, settings: Settings) -> Self {
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

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S, I, B, R> Service<Request<B>> for PolicyService<S, I>
where
    S: Service<Request<TeeBody<B>>, Response = Response<R>> + Clone + Send + 'static,
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let entry = match self.enter(&parts) {
            Ok(entry) => entry,
            Err(answer) => return Box::pin(async move { Ok(answer()) }),
        };
        let beginning = Beginning::default();
        let admitted = self.admit(&entry);
        let settings = Arc::clone(&self.settings);
        let exit = Exit { shared: Arc::clone(&self.shared), entry, beginning: beginning.clone() };
        let request = |body| Request::from_parts(parts, TeeBody::new(body, beginning));
        match admitted {
            Ok(Admitted::Already) => {
                // Called at once, as most are: a service to call later would have to be cloned.
                let response = self.inner.call(request(body));
                Box::pin(exit.through(response, None))
            }
            Ok(Admitted::IfPolicyAgrees) => {
                let request = request(body);
                // The one that was polled ready is the one to call.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                Box::pin(async move {
                    match exit.admit(&settings).await {
                        Ok(lease) => exit.through(inner.call(request), lease).await,
                        Err(refusal) => Ok(exit.refused_unread(&refusal, request.into_body()).await),
                    }
                })
            }
            Err(refusal) => Box::pin(async move { Ok(exit.refused_unread(&refusal, body).await) }),
        }
    }
}

/// A request that may go on, as far as its headers tell.
struct Entry {
    session: Option<SessionId>,
    asked: Asked,
    kind: Option<ArrivalKind>,
    context: Arc<ClientContext>,
    version: Version,
}

impl Entry {
    fn arrival(&self, kind: ArrivalKind) -> Arrival<'_> {
        Arrival::new(Instant::now(), kind).with_context(&self.context)
    }
}

/// Whether a request is let in.
enum Admitted {
    /// It is, or it is for the session manager to say.
    Already,
    /// The policy of requests without a session must say, and may take its time.
    IfPolicyAgrees,
}

/// What the headers say of a request.
struct Reading<'a> {
    session: Option<&'a str>,
    asked: Asked,
    kind: Option<ArrivalKind>,
}

impl<'a> Reading<'a> {
    fn of(parts: &'a Parts, without_sessions: bool) -> Self {
        let header = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let session = header(SESSION_ID);
        let names_it = header(PROTOCOL_VERSION).is_some_and(|version| version >= SESSIONLESS);
        let sessionless = without_sessions || (names_it && header(METHOD) != Some("initialize"));
        let kind = match (&parts.method, session) {
            (&Method::POST, _) if sessionless => Some(ArrivalKind::Request),
            (&Method::POST, None) => Some(ArrivalKind::Create),
            _ => None,
        };
        let asked = match session {
            Some(_) if parts.method == Method::POST && !sessionless => Asked::Within,
            Some(_) if parts.method == Method::GET => Asked::Listen,
            _ => Asked::New,
        };
        Self { session: session.filter(|_| !sessionless), asked, kind }
    }
}

impl<S, I: SessionManager> PolicyService<S, I> {
    /// Looks at the headers: who asks, and whether the session is theirs.
    fn enter<R>(&self, parts: &Parts) -> Result<Entry, fn() -> Response<PolicyBody<R>>> {
        let Reading { session, asked, kind } = Reading::of(parts, self.settings.without_sessions);
        let mut context = self.settings.context(parts);
        if parts.method == Method::GET {
            context = context.listening();
        }
        if self.settings.refuse_anonymous && context.peer().is_none() && context.principal().is_none() {
            return Err(answer::anonymous);
        }
        let session = match session {
            None => None,
            // One look tells whether the id is anybody's; to whom it does not belong it does not exist.
            Some(id) => match self.shared.owner(id, context.principal()) {
                Owner::Same(id) => Some(id),
                Owner::Unknown if self.settings.elsewhere => Some(id.into()),
                Owner::Unknown | Owner::Other => return Err(answer::not_found),
            },
        };
        let entry = Entry { session, asked, kind, context: Arc::new(context), version: parts.version };
        if parts.method == Method::POST {
            self.shared.count_request(kind);
        }
        Ok(entry)
    }

    /// Sheds a newcomer before rmcp reads its body.
    fn admit(&self, entry: &Entry) -> Result<Admitted, Refusal> {
        let Some(kind) = entry.kind else { return Ok(Admitted::Already) };
        if self.shared.is_draining() {
            return Err(self.shared.turn_away(Refusal::draining(kind), Some(&entry.context)));
        }
        match (kind, self.shared.admission()) {
            (ArrivalKind::Request, _) if self.settings.sessionless.is_some() => Ok(Admitted::IfPolicyAgrees),
            (ArrivalKind::Create, Some(policy)) => match policy.peek(&entry.arrival(kind)) {
                Ok(()) => Ok(Admitted::Already),
                Err(rejection) => Err(self.shared.turn_away(Refusal::rejected(kind, &rejection), Some(&entry.context))),
            },
            _ => Ok(Admitted::Already),
        }
    }
}

/// What is needed to answer a request on its way out.
struct Exit<I: SessionManager> {
    shared: Arc<Shared<I>>,
    entry: Entry,
    beginning: Beginning,
}

impl<I: SessionManager> Exit<I> {
    /// Lets a request without a session in.
    async fn admit(&self, settings: &Settings) -> Result<Option<Lease>, Refusal> {
        let (Some(policy), kind) = (settings.sessionless.as_deref(), ArrivalKind::Request) else { return Ok(None) };
        let admitted = policy.admit(&self.entry.arrival(kind)).await;
        let refused = |rejection| self.shared.turn_away(Refusal::rejected(kind, &rejection), Some(&self.entry.context));
        admitted.map(|permit| Some(permit.commit())).map_err(refused)
    }

    /// The answer to a request whose body nobody has read.
    async fn refused_unread<R>(&self, refusal: &Refusal, body: impl Body) -> Response<PolicyBody<R>> {
        answer::refused(refusal, self.entry.asked, read_id(body).await, self.entry.version)
    }

    /// Waits for rmcp's answer, and puts the true one in its place.
    async fn through<R, E>(
        self,
        response: impl Future<Output = Result<Response<R>, E>>,
        lease: Option<Lease>,
    ) -> Result<Response<PolicyBody<R>>, E> {
        let Self { shared, entry: Entry { session, asked, context, version, .. }, beginning } = self;
        let (response, outcome) = observe(context, response).await;
        let response = response?;
        let absent = match outcome {
            Some(Outcome::Refused(refusal)) => {
                return Ok(answer::refused(&refusal, asked, beginning.request_id(), version));
            }
            Some(Outcome::StreamOver) => return Ok(answer::stream_over()),
            Some(Outcome::NotFound) => true,
            None => response.status() == StatusCode::NOT_FOUND && session.is_some(),
        };
        if absent {
            // rmcp says that a session is not there also to a request that another one's restore has misled. As long as
            // the session is parked, its client must not take it for dead.
            if session.is_none_or(|id| shared.owner(&id, None) == Owner::Unknown) {
                return Ok(answer::not_found());
            }
            let refusal = answer::still_parked(shared.max_sessions());
            return Ok(answer::refused(&refusal, asked, beginning.request_id(), version));
        }
        Ok(response.map(|body| PolicyBody::service(body, lease)))
    }
}

/// Reads the id of a request that is refused, as far as that is quick and small.
async fn read_id<B: Body>(body: B) -> Option<rmcp::model::RequestId> {
    let beginning = Beginning::default();
    let mut body = pin!(body);
    let read = async {
        while !beginning.is_full() {
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(mut data) = frame.into_data() {
                        while data.has_remaining() {
                            beginning.keep(data.chunk());
                            let length = data.chunk().len();
                            data.advance(length);
                        }
                    }
                }
                Some(Err(_)) => return None,
                None => return beginning.request_id(),
            }
        }
        None
    };
    timeout(ID_TIMEOUT, read).await.ok().flatten()
}
