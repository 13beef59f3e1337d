//! What a request is: within a session, opening one, or without one.
//!
//! rmcp decides this by the headers and the body together. The headers alone are not enough, since a client sets them
//! freely. [`Head`] holds what the headers say for certain; [`Head::judge`] decides with the body, using rmcp's own
//! parser.
//!
//! The body counts because of the revision of MCP that has no sessions: its requests carry metadata in the body, and
//! rmcp serves those without a session even if they name one. A client could otherwise choose which limits its request
//! meets (law L16).
//!
//! The other types here read what an answer needs: [`Envelope`] the id and the method, from the body that [`Chunks`]
//! kept.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{EXPECT, HeaderName};
use http::request::Parts;
use memchr::memmem::Finder;
use rmcp::model::{ClientJsonRpcMessage, ClientRequest, GetMeta, JsonRpcMessage, ProtocolVersion, RequestId};

use crate::transport::{PROBE_ID_BYTES, PROBE_PREFIX};

/// Names the session of a request, and in the answer to an `initialize` the session that was opened.
pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// Names the revision of MCP that a client speaks. A client without the header is taken for one that speaks an older
/// revision.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Repeats the method of the body. The layer reads it only if the protocol version has no sessions.
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// Names the event after which a GET resumes a stream.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The first revision of MCP in which requests belong to no session.
const SESSIONLESS: &str = "2026-07-28";

/// Searches bodies for the key of the metadata. It is made once, since making it costs more than a search.
///
/// The key is a prefix: the metadata of MCP has several keys that begin with it.
static METADATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("io.modelcontextprotocol"));
/// Searches bodies for an escaped character. JSON can write each letter of a word that way, so a body that has one may
/// hold any word.
static ESCAPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\\u"));
/// Searches bodies for the name of the method, to parse only bodies that may be a `ping`.
static PING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("ping"));

/// Searches bodies for the id of a probe. No JSON writes one escaped.
static PROBE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(PROBE_PREFIX));

/// Says what rmcp does with a request.
///
/// The headers give the target of [`Head`], and the body may turn it into [`Sessionless`](Self::Sessionless), but into
/// nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestTarget {
    /// It opens a session, or is rejected because it names none.
    Open,
    /// It is handed to the session that its header names.
    Within,
    /// It opens a listening stream of the session that its header names.
    Listen,
    /// It ends the session that its header names.
    Close,
    /// It is served without a session.
    Sessionless,
    /// It replays the stream of a request without a session.
    Replay,
    /// rmcp rejects its method.
    Other,
}

/// Holds what the headers of a request say.
///
/// It is made once for each request, before anything of its body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// What the request is, unless its body says that it is served without a session.
    pub(super) target: RequestTarget,
    /// Whether the body must be read to know that. Only a POST with a protocol version needs it.
    by_body: bool,
    /// Whether the protocol version that the headers name has no sessions. A body may name another version, which
    /// counts more.
    is_late: bool,
}

impl Head {
    /// Reads the headers. `without_sessions` says that rmcp is configured to keep none.
    ///
    /// `has_session` says whether the request names a session, known or not.
    pub(super) fn of(parts: &Parts, has_session: bool, without_sessions: bool) -> Self {
        let version = text(parts, &PROTOCOL_VERSION);
        let is_late = version.is_some_and(|version| version >= SESSIONLESS);
        let (target, by_body) = match parts.method {
            Method::POST if without_sessions => (RequestTarget::Sessionless, false),
            // rmcp rejects an `initialize` with a header that names another method, and serves the rest without a
            // session.
            Method::POST if is_late && names_another_method(parts) => (RequestTarget::Sessionless, false),
            // rmcp rejects metadata in a body unless the headers repeat its version, so without the header there is none.
            Method::POST if has_session => (RequestTarget::Within, version.is_some()),
            Method::POST => (RequestTarget::Open, version.is_some()),
            Method::GET if without_sessions || is_late => match parts.headers.contains_key(LAST_EVENT_ID) {
                true => (RequestTarget::Replay, false),
                false => (RequestTarget::Other, false),
            },
            Method::GET if has_session => (RequestTarget::Listen, false),
            // The fallback of a client that tries the HTTP+SSE transport from before 2025-03-26.
            Method::GET => (RequestTarget::Open, false),
            Method::DELETE if has_session && !without_sessions && !is_late => (RequestTarget::Close, false),
            _ => (RequestTarget::Other, false),
        };
        Self { target, by_body, is_late }
    }

    /// Returns whether the headers alone tell what the request is.
    ///
    /// If so, the layer asks before the body is read whether the request may begin, and does not ask again.
    pub(super) const fn is_decided(self) -> bool {
        !self.by_body
    }

    /// Returns whether the request is for the session that its header names, as far as the headers tell.
    ///
    /// If so, the layer looks for the session and compares its owner. If not, it takes the session id out of the
    /// headers.
    pub(super) const fn is_in_session(self) -> bool {
        matches!(self.target, RequestTarget::Within | RequestTarget::Listen | RequestTarget::Close)
    }

    /// Decides with the body what the request is. The body is parsed only if it may hold the keys that matter.
    ///
    /// A body that is not JSON, or no message, keeps the target of the headers. Costs two searches of the body, and the
    /// parse of it if one of them finds something.
    pub(super) fn judge(self, body: &[u8]) -> RequestTarget {
        if !self.by_body || !may_have_metadata(body) {
            return self.target;
        }
        match serde_json::from_slice(body) {
            Ok(message) if self.is_sessionless(&message) => RequestTarget::Sessionless,
            // rmcp rejects a body that is not a message.
            _ => self.target,
        }
    }

    /// Returns whether rmcp serves a message without a session, by the rules of `is_legacy_request` and `handle_post`
    /// in its server.
    ///
    /// It has to follow rmcp in each version that this crate supports. A deviation would let a client pass by the
    /// limits of sessions, or be refused by limits that are not its own.
    fn is_sessionless(self, message: &ClientJsonRpcMessage) -> bool {
        let JsonRpcMessage::Request(request) = message else { return self.is_late };
        match &request.request {
            ClientRequest::InitializeRequest(_) => return false,
            ClientRequest::DiscoverRequest(_) if self.target == RequestTarget::Open => return true,
            _ => {}
        }
        let meta = request.request.get_meta();
        let is_late = meta.protocol_version().map_or(self.is_late, |version| !version.has_initialize());
        is_late || meta.missing_required_keys(&ProtocolVersion::V_2026_07_28).is_empty()
    }
}

/// Returns the id of the probe that a body answers, of this manager or another. `None` for any other body.
///
/// It does not matter what the answer is. Costs a search of the body, and a parse if it has such an id.
pub(super) fn probe_answered_by(body: &[u8]) -> Option<Box<str>> {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        id: std::borrow::Cow<'a, str>,
        method: Option<serde::de::IgnoredAny>,
    }
    PROBE.find(body)?;
    let answer: Answer<'_> = serde_json::from_slice(body).ok()?;
    let is_probe = answer.id.starts_with(PROBE_PREFIX) && answer.id.len() <= PROBE_ID_BYTES;
    (is_probe && answer.method.is_none()).then(|| answer.id.into())
}

/// Returns the session that a request names. Like rmcp, it ignores an id that is not text.
pub(super) fn session_named_by(parts: &Parts) -> Option<&str> {
    text(parts, &SESSION_ID)
}

/// Returns whether the client waits for `100 Continue` before it sends its body.
///
/// Such a client sends nothing if it gets an answer first, so there is no body to discard.
pub(super) fn expects_continue(parts: &Parts) -> bool {
    parts.headers.get(EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Returns the first value of a header. `None` if there is none or it is not text.
fn text<'a>(parts: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    parts.headers.get(name)?.to_str().ok()
}

/// Returns whether there is an `Mcp-Method` header, and the first is not `initialize`.
///
/// rmcp then serves no `initialize` by this request, so it opens no session, whatever its body says.
fn names_another_method(parts: &Parts) -> bool {
    parts.headers.get(METHOD).is_some_and(|method| method.as_bytes() != b"initialize")
}

/// Returns whether a body may hold the keys of a request without a session, written out or escaped. Most bodies are
/// told apart by it without a parse.
fn may_have_metadata(body: &[u8]) -> bool {
    METADATA.find(body).is_some() || ESCAPE.find(body).is_some()
}

/// Holds what an answer to a request needs of it.
///
/// A notification and an answer of the client have no envelope, since nothing may be answered to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) id: RequestId,
    pub(super) method: Box<str>,
}

impl Envelope {
    /// Reads the id and the method of a JSON-RPC request, if the body is a complete one.
    ///
    /// Returns `None` for a body without an id or a method, with one of them twice, or that is no object. It parses the
    /// whole body but keeps only these two.
    pub(super) fn of(body: &[u8]) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Request<'a> {
            id: RequestId,
            #[serde(borrow)]
            method: std::borrow::Cow<'a, str>,
        }
        // serde would also accept a list of an id and a method.
        let is_object = body.trim_ascii_start().first() == Some(&b'{');
        let request = is_object.then(|| serde_json::from_slice::<Request<'_>>(body).ok()).flatten()?;
        Some(Self { id: request.id, method: request.method.into() })
    }

    /// Returns whether it is a `ping`, which restores its session only into a free place. If there is none, the layer
    /// answers it.
    pub(super) fn is_ping(&self) -> bool {
        &*self.method == "ping"
    }

    /// Returns whether it is a `tools/call`. Its rejection has the form that [`CallRejection`](crate::CallRejection)
    /// sets.
    pub(super) fn is_call(&self) -> bool {
        &*self.method == "tools/call"
    }

    /// Returns whether a body may hold the word `ping`, written out or escaped.
    ///
    /// It only saves the parse of other bodies: a body with the word elsewhere passes it too.
    pub(super) fn may_be_ping(body: &[u8]) -> bool {
        PING.find(body).is_some() || ESCAPE.find(body).is_some()
    }

    /// Returns whether a body may be a request other than `server/discover`.
    ///
    /// Returns false for a notification, which no policy is asked about, and true for a body that is no message, so
    /// that a client cannot pass by the policy with one.
    pub(super) fn asks_for_more_than_discover(body: &[u8]) -> bool {
        #[derive(serde::Deserialize)]
        struct Message<'a> {
            id: Option<RequestId>,
            #[serde(borrow)]
            method: std::borrow::Cow<'a, str>,
        }
        // If the body cannot be read, it may be.
        serde_json::from_slice::<Message<'_>>(body)
            .map_or(true, |message| message.id.is_some() && message.method != "server/discover")
    }
}

/// Collects the bytes of a body.
///
/// A body that arrives in one piece is shared with its reader. A body in more pieces is copied: a handle to a piece is
/// larger than a piece of one byte, and the client chooses the number of pieces.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// All bytes, unless they are in `rest`.
    first: Bytes,
    /// All bytes, once there was a second piece. Then `first` is empty.
    rest: BytesMut,
}

impl Chunks {
    /// Adds a piece. The first is kept as it is, without a copy. An empty one changes nothing.
    pub(super) fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = chunk;
        } else if !chunk.is_empty() {
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
            self.rest.extend_from_slice(&chunk);
        }
    }

    /// Returns all bytes in one piece. Most bodies already are.
    ///
    /// It copies nothing, and more pieces may be added after it.
    pub(super) fn join(&mut self) -> Bytes {
        if !self.rest.is_empty() {
            self.first = std::mem::take(&mut self.rest).freeze();
        }
        self.first.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_in(body: &str) -> Option<RequestId> {
        Envelope::of(body.as_bytes()).map(|envelope| envelope.id)
    }

    #[test]
    fn only_a_request_has_an_id() {
        assert_eq!(id_in(r#" {"method": "ping", "id": 7}"#), Some(RequestId::Number(7)));
        let none = [
            r#"{"id": 7}"#,
            r#"{"id": 7, "method": 1}"#,
            r#"[7, "ping"]"#,
            r#"{"method": "ping", "id": 7, "id": 8}"#,
            r#"{"id": 7, "method"#,
        ];
        assert!(none.iter().all(|body| id_in(body).is_none()));
    }

    #[test]
    fn chunks_are_one_body() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.join(), "");
        for chunk in ["{\"id\"", "", ": 7}"] {
            chunks.push(Bytes::from_static(chunk.as_bytes()));
        }
        assert_eq!((chunks.join(), chunks.join()), ("{\"id\": 7}".into(), "{\"id\": 7}".into()));
        chunks.push(Bytes::from_static(b" "));
        assert_eq!(chunks.join(), "{\"id\": 7} ");
    }

    /// A client that sends its body byte by byte must not make the server keep 32 bytes for each.
    #[test]
    fn many_small_chunks_take_the_room_of_one_large() {
        const LENGTH: usize = 100_000;
        let (mut chunks, byte) = (Chunks::default(), Bytes::from_static(b" "));
        for _ in 0..LENGTH {
            chunks.push(byte.clone());
        }
        assert!(chunks.rest.capacity() <= 2 * LENGTH, "{} bytes", chunks.rest.capacity());
        assert_eq!(chunks.join().len(), LENGTH);
    }
}
