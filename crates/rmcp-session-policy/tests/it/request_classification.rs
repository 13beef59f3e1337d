//! docs/design.md, L16.
//!
//! The layer classifies a request as rmcp does. The test sends each request of a large table to rmcp alone, to see what
//! rmcp does with it, and to the layer, and compares which policies the layer asks.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use futures_core::Stream;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientJsonRpcMessage, ContentBlock, CustomRequest,
    CustomResult, DiscoverResult, ErrorData, InitializeRequestParams, InitializeResult, ListToolsResult,
    PaginatedRequestParams, ServerJsonRpcMessage,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::{LocalSessionManager, LocalSessionManagerError};
use rmcp::transport::streamable_http_server::session::{
    EventStore, RestoreOutcome, ServerSseMessage, SessionId, SessionManager,
};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{RoleServer, ServerHandler};
use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, Permit, Rejection};
use rmcp_session_policy::{HOUR, PolicySessionManager};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tower_service::Service;

/// What was done for the requests since it was last asked.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn note(&self, what: &'static str) {
        self.0.lock().expect("no panic").push(what);
    }

    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

/// rmcp's own manager, which notes what it is asked for.
struct Inner(LocalSessionManager, Log);

impl SessionManager for Inner {
    type Error = LocalSessionManagerError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.1.note("create");
        self.0.create_session().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.0.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.1.note("has");
        self.0.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.1.note("close");
        self.0.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.1.note("request");
        self.0.create_stream(id, message).await
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.1.note("message");
        self.0.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.1.note("listen");
        self.0.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.1.note("listen");
        self.0.resume(id, last_event_id).await
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        self.1.note("restore");
        self.0.restore_session(id).await
    }

    fn event_store(&self) -> Option<Arc<dyn EventStore>> {
        None
    }
}

/// A handler that counts how often it is asked for anything.
#[derive(Clone)]
struct Handler(Arc<AtomicUsize>);

impl Handler {
    fn count(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl ServerHandler for Handler {
    async fn ping(&self, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.count();
        Ok(())
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        self.count();
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn discover(&self, _: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        self.count();
        Ok(DiscoverResult::from_server_info(self.supported_protocol_versions().into_owned(), self.get_info()))
    }

    async fn call_tool(
        &self,
        _: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.count();
        Ok(CallToolResult::success(vec![ContentBlock::text("called")]).into())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        self.count();
        Ok(ListToolsResult::default())
    }

    async fn on_custom_request(
        &self,
        _: CustomRequest,
        _: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        self.count();
        Ok(CustomResult::new(json!({})))
    }
}

/// A policy that admits everything, and records that it was asked.
#[derive(Debug)]
struct Asked(&'static str, Log);

#[async_trait::async_trait]
impl AdmissionPolicy for Asked {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        self.1.note(self.0);
        Ok(Permit::free())
    }
}

type Http = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

fn boxed<S, R>(service: S) -> Http
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    R: http_body::Body<Data = axum::body::Bytes> + Send + 'static,
    R::Error: Into<axum::BoxError>,
{
    BoxCloneSyncService::new(service.map_response(|response: Response<R>| response.map(Body::new)))
}

/// A server, called in process.
struct Server {
    http: Http,
    log: Log,
    handled: Arc<AtomicUsize>,
    own: Mutex<Option<String>>,
}

fn inner(log: &Log) -> Inner {
    let mut local = LocalSessionManager::default();
    local.session_config.keep_alive = None;
    // The table takes longer than any timeout on a busy machine, and a timeout would be logged for a later request.
    local.session_config.init_timeout = None;
    Inner(local, log.clone())
}

fn service<M: SessionManager>(sessions: Arc<M>, handled: &Arc<AtomicUsize>) -> StreamableHttpService<Handler, M> {
    let mut config = StreamableHttpServerConfig::default();
    config.sse_keep_alive = None;
    let handler = Handler(Arc::clone(handled));
    StreamableHttpService::new(move || Ok(handler.clone()), sessions, config)
}

impl Server {
    fn of(http: Http, log: Log, handled: Arc<AtomicUsize>) -> Self {
        Self { http, log, handled, own: Mutex::default() }
    }

    /// rmcp without policies.
    fn alone() -> Self {
        let (log, handled) = (Log::default(), Arc::default());
        Self::of(boxed(service(Arc::new(inner(&log)), &handled)), log, handled)
    }

    fn under_policies(sessionless: bool) -> Self {
        let (log, handled) = (Log::default(), Arc::default());
        let asked = |name| Asked(name, log.clone());
        let sessions =
            PolicySessionManager::builder(inner(&log)).max_sessions(100_000).init_timeout(HOUR).idle_timeout(None);
        let sessions = sessions.admission(asked("admission"));
        let sessions = Arc::new(sessions.requests(asked("requests")).build().expect("valid"));
        let user = |parts: &http::request::Parts| Some(parts.headers.get("x-user")?.to_str().ok()?.to_owned());
        let mut layer = sessions.layer().principal(user);
        if sessionless {
            layer = layer.sessionless(asked("sessionless")).expect("valid");
        }
        Self::of(boxed(layer.layer(service(sessions, &handled))), log, handled)
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.http.clone().oneshot(request).await.expect("infallible")
    }

    /// The id of a ready session of alice.
    async fn own(&self) -> String {
        let known = self.own.lock().expect("no panic").clone();
        if let Some(id) = known {
            return id;
        }
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "alice", "version": "1"}});
        let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string();
        let response = self.send(post().body(initialize.into()).expect("a request")).await;
        let id = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        read(response).await;
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
        let response =
            self.send(post().header("mcp-session-id", &id).body(initialized.into()).expect("a request")).await;
        assert_eq!(response.status(), 202);
        *self.own.lock().expect("no panic") = Some(id.clone());
        id
    }

    /// Puts a request to the server; gives the status, and what was done for it.
    async fn ask(&self, case: &Case, id: Id) -> Seen {
        let own = self.own().await;
        self.log.take();
        let before = self.handled.load(SeqCst);
        let response = self.send(case.request(id, &own)).await;
        let status = response.status();
        if case.method != "GET" {
            read(response).await;
        }
        let seen = Seen { status, log: self.log.take(), handled: self.handled.load(SeqCst) - before };
        if seen.log.contains(&"close") || case.method == "initialize" {
            *self.own.lock().expect("no panic") = None;
        }
        seen
    }
}

fn post() -> http::request::Builder {
    Request::post("/")
        .header("host", "localhost")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("x-user", "alice")
}

async fn read(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Id {
    Absent,
    Unknown,
    Own,
    Foreign,
}

/// What was done for a request.
#[derive(Debug)]
struct Seen {
    status: StatusCode,
    log: Vec<&'static str>,
    handled: usize,
}

impl Seen {
    fn times(&self, what: &str) -> usize {
        self.log.iter().filter(|done| **done == what).count()
    }

    /// What rmcp alone did with it.
    fn is(&self) -> Is {
        if ["request", "message", "listen", "close"].iter().any(|what| self.log.contains(what)) {
            Is::Within
        } else if self.log.contains(&"create") {
            Is::Opening
        } else if self.handled > 0 {
            Is::Sessionless
        } else {
            Is::Refused
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Within,
    Opening,
    Sessionless,
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    /// A method of MCP, or GET or DELETE.
    method: &'static str,
    version: Option<&'static str>,
    meta: &'static str,
    /// What the `Mcp-Method` headers say.
    said: &'static [&'static str],
    form: &'static str,
}

impl Case {
    fn meta(&self) -> Option<Value> {
        let version = self.version.unwrap_or("2026-07-28");
        let (version_key, capabilities) =
            ("io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities");
        Some(match self.meta {
            "none" => return None,
            "version" => json!({version_key: version}),
            "capabilities" => json!({capabilities: {}}),
            "full" => json!({version_key: version, capabilities: {}}),
            "full of 2026" => json!({version_key: "2026-07-28", capabilities: {}}),
            "no object" => json!({version_key: version, capabilities: 7}),
            other => unreachable!("{other}"),
        })
    }

    fn body(&self) -> String {
        let mut params = match self.method {
            "initialize" => json!({"protocolVersion": self.version.unwrap_or("2025-11-25"), "capabilities": {},
                "clientInfo": {"name": "x", "version": "1"}}),
            "tools/call" => json!({"name": "tool", "arguments": {}}),
            _ => json!({}),
        };
        if let Some(meta) = self.meta() {
            params["_meta"] = meta;
        }
        let mut body = json!({"jsonrpc": "2.0", "method": self.method, "params": params});
        match self.method {
            "response" => body = json!({"jsonrpc": "2.0", "id": 5, "result": {}}),
            method if method.starts_with("notifications/") => {}
            _ => body["id"] = json!(5),
        }
        let body = body.to_string();
        match self.form {
            "plain" => body,
            "escaped" => body
                .replace("io.modelcontextprotocol", "io.\\u006dodelcontextprotocol")
                .replace("\"_meta\"", "\"\\u005fmeta\"")
                .replace("\"ping\"", "\"\\u0070ing\""),
            "slash" => body.replace('/', "\\/"),
            "method twice" => body.replacen("\"method\":", "\"method\":\"server/discover\",\"method\":", 1),
            "meta twice" => body.replacen("\"_meta\":", "\"_meta\":{},\"_meta\":", 1),
            "params twice" => body.replacen("\"params\":", "\"params\":{},\"params\":", 1),
            "id twice" => body.replacen("\"id\":", "\"id\":6,\"id\":", 1),
            "large" => body.replacen('{', &format!("{{\"padding\":\"{}\",", "x".repeat(3 << 20)), 1),
            "in pieces" | "list" => format!("[{body}]"),
            other => unreachable!("{other}"),
        }
    }

    fn request(&self, id: Id, own: &str) -> Request<Body> {
        let mut request = match self.method {
            "GET" => Request::get("/").header("accept", "text/event-stream").header("host", "localhost"),
            "DELETE" => Request::delete("/").header("host", "localhost"),
            _ => Request::post("/")
                .header("host", "localhost")
                .header("accept", "application/json, text/event-stream")
                .header("content-type", "application/json"),
        };
        request = request.header("x-user", if id == Id::Foreign { "bob" } else { "alice" });
        request = match id {
            Id::Absent => request,
            Id::Unknown => request.header("mcp-session-id", "00000000-0000-4000-8000-000000000000"),
            Id::Own | Id::Foreign => request.header("mcp-session-id", own),
        };
        if let Some(version) = self.version {
            request = request.header("mcp-protocol-version", version);
        }
        for said in self.said {
            request = request.header("mcp-method", if *said == "true" { self.method } else { said });
        }
        if self.method == "tools/call" {
            request = request.header("mcp-name", "tool");
        }
        let is_post = !matches!(self.method, "GET" | "DELETE");
        request.body(if is_post { self.body().into() } else { Body::empty() }).expect("a request")
    }

    /// Whether the headers alone say that rmcp serves it without a session.
    fn is_sessionless_by_head(&self) -> bool {
        let is_late = self.version.is_some_and(|version| version >= "2026-07-28");
        let names_another = self.said.first().is_some_and(|said| {
            let said = if *said == "true" { self.method } else { said };
            said != "initialize"
        });
        match self.method {
            "GET" | "DELETE" => is_late,
            _ => is_late && names_another,
        }
    }
}

const METHODS: [&str; 9] = [
    "initialize",
    "ping",
    "tools/list",
    "tools/call",
    "server/discover",
    "notifications/roots/list_changed",
    "response",
    "GET",
    "DELETE",
];
const VERSIONS: [Option<&str>; 8] = [
    None,
    Some("2024-11-05"),
    Some("2025-03-26"),
    Some("2025-11-25"),
    Some("2026-07-28"),
    Some("2027-01-01"),
    Some("2026-01-01"),
    Some("draft"),
];
const METAS: [&str; 6] = ["none", "version", "capabilities", "full", "full of 2026", "no object"];
const SAID: [&[&str]; 5] = [&[], &["true"], &["initialize"], &["tools/list"], &["tools/list", "initialize"]];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for method in METHODS {
        for version in VERSIONS {
            for said in SAID {
                let metas = if matches!(method, "GET" | "DELETE" | "response") { &METAS[..1] } else { &METAS[..] };
                for meta in metas {
                    cases.push(Case { method, version, meta, said, form: "plain" });
                }
            }
        }
    }
    // Bodies that are written to mislead.
    for form in ["escaped", "slash", "method twice", "meta twice", "params twice", "id twice", "list"] {
        for method in ["initialize", "ping", "tools/call", "server/discover"] {
            for version in VERSIONS {
                for meta in ["none", "full", "full of 2026"] {
                    for said in [&[][..], &["true"]] {
                        cases.push(Case { method, version, meta, said, form });
                    }
                }
            }
        }
    }
    for version in [None, Some("2025-11-25"), Some("2026-07-28")] {
        for meta in ["none", "full"] {
            cases.push(Case { method: "tools/call", version, meta, said: &["true"], form: "large" });
        }
    }
    cases
}

#[tokio::test]
async fn every_request_is_classified_as_rmcp_does() {
    let (alone, under) = (Server::alone(), Server::under_policies(true));
    let mut counts = [0; 4];
    for case in cases() {
        let said =
            |what: &str, id: Id, alone: &Seen, under: &Seen| format!("{what}: {case:?} {id:?}\n{alone:?}\n{under:?}");
        for id in [Id::Absent, Id::Own] {
            let (bare, seen) = (alone.ask(&case, id).await, under.ask(&case, id).await);
            counts[bare.is() as usize] += 1;
            let asked = [seen.times("admission"), seen.times("sessionless")];
            let is_discover = case.method == "server/discover" && case.form != "method twice";
            let right = match bare.is() {
                Is::Within => [0, 0],
                Is::Opening => [1, 0],
                Is::Sessionless if is_discover => [0, 0],
                // rmcp decides which of the two methods counts, so the layer may ask the policy for either or for none.
                Is::Sessionless if case.form == "method twice" => [0, asked[1].min(1)],
                Is::Sessionless => [0, 1],
                // Nothing is done for it. The policy may have been asked before rmcp found out.
                Is::Refused => [0, asked[1].min(1)],
            };
            assert_eq!(asked, right, "{}", said("who was asked", id, &bare, &seen));
            assert_eq!(bare.handled, seen.handled, "{}", said("what was handled", id, &bare, &seen));
            let is_unknown_delete = case.method == "DELETE" && id == Id::Absent;
            if !is_unknown_delete {
                assert_eq!(bare.status, seen.status, "{}", said("status", id, &bare, &seen));
            }
            if bare.is() == Is::Within && case.method == "tools/call" && seen.handled > 0 {
                assert_eq!(seen.times("requests"), 1, "{}", said("within", id, &bare, &seen));
            }
            if bare.is() != Is::Within {
                let touched = ["request", "message", "listen", "close", "restore", "requests"];
                assert!(touched.iter().all(|what| seen.times(what) == 0), "{}", said("untouched", id, &bare, &seen));
            }
        }
        // A stranger to a session is told what an unknown id is told, and reaches nothing.
        let [unknown, foreign] = [under.ask(&case, Id::Unknown).await, under.ask(&case, Id::Foreign).await];
        assert_eq!(unknown.status, foreign.status, "{}", said("strangers", Id::Foreign, &unknown, &foreign));
        assert_eq!(unknown.handled, foreign.handled, "{}", said("strangers", Id::Foreign, &unknown, &foreign));
        for (id, seen) in [(Id::Unknown, &unknown), (Id::Foreign, &foreign)] {
            let touched = ["request", "message", "listen", "close", "restore", "requests", "create"];
            let reaches = |what: &&&str| seen.times(what) > 0;
            if case.is_sessionless_by_head() {
                let none = under.ask(&case, Id::Absent).await;
                assert_eq!(
                    (none.status, none.handled),
                    (seen.status, seen.handled),
                    "{}",
                    said("alike", id, &none, seen)
                );
                assert_eq!(none.times("sessionless"), seen.times("sessionless"), "{}", said("alike", id, &none, seen));
            } else {
                assert_eq!((seen.status.as_u16(), seen.handled), (404, 0), "{}", said("stranger", id, seen, seen));
            }
            assert_eq!(touched.iter().find(reaches), None, "{}", said("reaches", id, seen, seen));
        }
    }
    assert!(counts.iter().all(|count| *count > 30), "the table has all kinds: {counts:?}");
}

fn call(version: &str) -> Case {
    let version = if version == "2025-11-25" { Some("2025-11-25") } else { Some("2026-07-28") };
    Case { method: "tools/call", version, meta: "full", said: &["true"], form: "plain" }
}

#[tokio::test]
async fn without_a_policy_of_their_own_requests_outside_their_session_use_the_policy_within() {
    let server = Server::under_policies(false);
    let seen = server.ask(&call("2025-11-25"), Id::Own).await;
    assert_eq!((seen.status, seen.handled, seen.log), (StatusCode::OK, 1, vec!["requests"]));
    let seen = server.ask(&call("2026-07-28"), Id::Absent).await;
    assert_eq!((seen.status, seen.handled, seen.log), (StatusCode::OK, 1, vec![]));
}
