//! The service that the layer makes.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::HeaderName;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::{Instant, timeout};
use tower_service::Service;

use super::answer::{self, Asked};
use super::body::{Beginning, PolicyBody, TeeBody};
use super::layer::Settings;
use crate::admission::{Arrival, ArrivalKind, Lease};
use crate::context::{ClientContext, Outcome};
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
pub struct PolicyService<S, I> {
    inner: S,
    shared: Arc<Shared<I>>,
    settings: Arc<Settings>,
}

impl<S, I> PolicyService<S, I> {
    pub(super) fn new(inner: S, shared: Arc<Shared<I>>, settings: Settings) -> Self {
        Self { inner, shared, settings: Arc::new(settings) }
    }
}

impl<S: Clone, I> Clone for PolicyService<S, I> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared), settings: Arc::clone(&self.settings) }
    }
}

impl<S, I> fmt::Debug for PolicyService<S, I> {
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
        // The one that was polled ready is the one to call.
        let clone = self.clone();
        let this = std::mem::replace(self, clone);
        Box::pin(this.answer(request))
    }
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
        let initialize = header(METHOD) == Some("initialize");
        let names_it = header(PROTOCOL_VERSION).is_some_and(|version| version >= SESSIONLESS);
        let sessionless = without_sessions || (names_it && !initialize);
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
    async fn answer<B, R>(mut self, request: Request<B>) -> Result<Response<PolicyBody<R>>, S::Error>
    where
        S: Service<Request<TeeBody<B>>, Response = Response<R>>,
        B: Body,
    {
        let (parts, body) = request.into_parts();
        let Reading { session, asked, kind } = Reading::of(&parts, self.settings.without_sessions);
        let mut context = self.settings.context(&parts);
        if parts.method == Method::GET {
            context = context.passive();
        }
        if self.settings.refuse_anonymous && context.peer().is_none() && context.principal().is_none() {
            return Ok(answer::anonymous());
        }
        let session = session.map(str::to_owned);
        if let Some(id) = &session {
            // One look tells whether the id is anybody's; to whom it does not belong it does not exist.
            match self.shared.owner(id, context.principal()) {
                Owner::Same => {}
                Owner::Unknown if self.settings.elsewhere => {}
                Owner::Unknown | Owner::Other => return Ok(answer::not_found()),
            }
        }
        if parts.method == Method::POST {
            self.shared.count_request(kind);
        }
        let version = parts.version;
        let lease = match peek_or_admit(&self.shared, &self.settings, kind, &context).await {
            Ok(lease) => lease,
            Err(refusal) => {
                let id = read_id(body).await;
                return Ok(answer::refused(&refusal, asked, id, version));
            }
        };
        let beginning = Beginning::default();
        let request = Request::from_parts(parts, TeeBody::new(body, beginning.clone()));
        let (response, outcome) = context.observe(self.inner.call(request)).await;
        let response = response?;
        let (asked, id) = (asked, || beginning.request_id());
        let absent = match outcome {
            Some(Outcome::Refused(refusal)) => return Ok(answer::refused(&refusal, asked, id(), version)),
            Some(Outcome::NotFound) => true,
            None => response.status() == StatusCode::NOT_FOUND && session.is_some(),
        };
        if absent {
            // rmcp says that a session is not there also to a request that another one's restore has misled. As long as
            // the session is parked, its client must not take it for dead.
            let known = session.as_deref().is_some_and(|id| self.shared.owner(id, None) != Owner::Unknown);
            if !known {
                return Ok(answer::not_found());
            }
            let refusal = answer::still_parked(self.shared.max_sessions());
            return Ok(answer::refused(&refusal, asked, id(), version));
        }
        Ok(response.map(|body| PolicyBody::service(body, lease)))
    }
}

/// Sheds a newcomer before rmcp reads its body, and lets a request without a session in.
async fn peek_or_admit<I: SessionManager>(
    shared: &Shared<I>,
    settings: &Settings,
    kind: Option<ArrivalKind>,
    context: &ClientContext,
) -> Result<Option<Lease>, Refusal> {
    let Some(kind) = kind else { return Ok(None) };
    if shared.is_draining() {
        return Err(shared.turn_away(Refusal::draining(kind), Some(context)));
    }
    let arrival = Arrival::new(Instant::now(), kind).with_context(context);
    let refused = |rejection| shared.turn_away(Refusal::rejected(kind, &rejection), Some(context));
    match (kind, &settings.sessionless, shared.admission()) {
        (ArrivalKind::Request, Some(policy), _) => {
            policy.admit(&arrival).await.map(|permit| Some(permit.commit())).map_err(refused)
        }
        (ArrivalKind::Create, _, Some(policy)) => policy.peek(&arrival).map(|()| None).map_err(refused),
        _ => Ok(None),
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
