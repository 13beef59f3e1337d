//! [`Access`]: which requests the router answers, and what each response forbids browsers to do with it.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, FORWARDED, HOST, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, VIA, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};

use super::hosts::Hosts;
use super::refusal::Refusal;

/// The header that each action has to carry. A page of another origin cannot set it, because the router answers no CORS
/// request.
pub(super) const ACTION: HeaderName = HeaderName::from_static("x-admin-action");

/// What proxies add to the requests that they pass on.
const FORWARDED_BY: [HeaderName; 10] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-envoy-external-address"),
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("true-client-ip"),
];
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a browser may do with a response: load the style and the script of this router, ask this router, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The headers of each response.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (X_FRAME_OPTIONS, "DENY"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Which clients are answered.
#[derive(Clone, Debug)]
pub(super) enum Clients {
    /// Those of this machine.
    Loopback,
    /// Those that know the token, of which this is the hash. A comparison of hashes takes the same time for each input.
    Token(blake3::Hash),
    /// All, since something in front of the router has authorized them.
    All,
}

/// Which requests are answered.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) hosts: Hosts,
    pub(super) clients: Clients,
}

impl Access {
    /// Checks a request. `is_public` says that it is for a file of the page, which tells nothing of any session.
    pub(super) fn check(&self, request: &Request, is_public: bool) -> Result<(), Refusal> {
        let headers = request.headers();
        self.check_host(request)?;
        check_origin(request, is_public)?;
        self.check_client(request, is_public)?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) && !headers.contains_key(ACTION) {
            return Err(Refusal::forbidden("an action needs the header x-admin-action, with any value"));
        }
        Ok(())
    }

    /// Over HTTP/2 the URI names the host, else a header does. If both do, both have to be right.
    fn check_host(&self, request: &Request) -> Result<(), Refusal> {
        let named = request.headers().get_all(HOST).iter().map(|host| host.to_str().ok());
        let mut named = named.chain(request.uri().authority().map(|authority| Some(authority.as_str()))).peekable();
        if named.peek().is_some() && named.all(|host| host.is_some_and(|host| self.hosts.allow(host))) {
            return Ok(());
        }
        let text =
            "this host is not served here: ask for localhost, or for one of the hosts that the router was built with";
        Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, text))
    }

    fn check_client(&self, request: &Request, is_public: bool) -> Result<(), Refusal> {
        match &self.clients {
            Clients::All => Ok(()),
            Clients::Loopback => check_peer(request),
            Clients::Token(_) if is_public => Ok(()),
            Clients::Token(token) => check_token(request.headers(), token),
        }
    }
}

fn check_peer(request: &Request) -> Result<(), Refusal> {
    let peer = request.extensions().get().map(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| peer.ip());
    if !peer.as_ref().map(IpAddr::to_canonical).is_some_and(|peer| peer.is_loopback()) {
        return Err(Refusal::forbidden("only clients of this machine are answered"));
    }
    // A proxy on this machine is a loopback peer, and its clients are anywhere. Not each one says that it is there: one that
    // is told nothing may add no header, but speaks HTTP/1.0, which no browser does.
    let is_forwarded = FORWARDED_BY.iter().any(|header| request.headers().contains_key(header));
    if is_forwarded || request.version() == Version::HTTP_10 {
        return Err(Refusal::forbidden("a request through a proxy needs a router with a token, or authorized outside"));
    }
    Ok(())
}

fn check_token(headers: &HeaderMap, token: &blake3::Hash) -> Result<(), Refusal> {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(7));
    match given {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"bearer ") && blake3::hash(given) == *token => Ok(()),
        _ => Err(Refusal::new(StatusCode::UNAUTHORIZED, "send the token, as in Authorization: Bearer TOKEN")),
    }
}

/// A browser says which site a request comes from; other clients say nothing. A link of another site may lead to the page,
/// but not into the API.
fn check_origin(request: &Request, is_public: bool) -> Result<(), Refusal> {
    let headers = request.headers();
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str().as_bytes()));
    let is_own = |origin: &HeaderValue| {
        let origin = origin.as_bytes();
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
    };
    let is_near = |site: &HeaderValue| site == "same-origin" || site == "none";
    let is_same = headers.get_all(ORIGIN).iter().all(is_own);
    if is_same && (is_public || headers.get_all(FETCH_SITE).iter().all(is_near)) {
        return Ok(());
    }
    Err(Refusal::forbidden("the request comes from another site"))
}

/// Puts the headers of each response on one.
pub(super) fn seal(mut response: Response) -> Response {
    let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if is_unauthorized {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        refusal.into_response()
    }
}
