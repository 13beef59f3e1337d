//! The bodies of requests and responses.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use rmcp::model::RequestId;

use crate::admission::Lease;

/// How much of a request's body is kept to find its id in.
pub(super) const KEPT_BYTES: usize = 8 << 10;

/// The beginning of a request's body.
#[derive(Clone, Debug, Default)]
pub(super) struct Beginning(Arc<Mutex<Vec<u8>>>);

impl Beginning {
    pub(super) fn keep(&self, data: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = (KEPT_BYTES + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&data[..data.len().min(room)]);
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() > KEPT_BYTES
    }

    /// The id of the JSON-RPC request, if this is all of one.
    pub(super) fn request_id(&self) -> Option<RequestId> {
        #[derive(serde::Deserialize)]
        struct Request<'a> {
            id: RequestId,
            #[serde(borrow, rename = "method")]
            _method: Cow<'a, str>,
        }
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // To serde a list of an id and anything would be a request too.
        let is_object = kept.trim_ascii_start().first() == Some(&b'{');
        (is_object && kept.len() <= KEPT_BYTES)
            .then(|| serde_json::from_slice::<Request<'_>>(&kept).ok())
            .flatten()
            .map(|request| request.id)
    }
}

pin_project! {
    /// The body of a request, whose beginning is kept to find the request's id in.
    #[derive(Debug)]
    pub struct TeeBody<B> {
        #[pin]
        inner: B,
        beginning: Beginning,
    }
}

impl<B> TeeBody<B> {
    pub(super) const fn new(inner: B, beginning: Beginning) -> Self {
        Self { inner, beginning }
    }
}

impl<B: Body> Body for TeeBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = this.inner.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            // A buffer in several parts is rare, and of it the first must do.
            this.beginning.keep(data.chunk());
            if data.chunk().len() < data.remaining() {
                this.beginning.keep(&[0; KEPT_BYTES + 1]);
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pin_project! {
    /// The body of a response: the service's, or our own.
    #[derive(Debug)]
    pub struct PolicyBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = Projected]
    enum Kind<B> {
        // What the request holds of its admission is held until the body ends. Behind a lock only to be `Sync`.
        Service { #[pin] inner: B, lease: Mutex<Option<Lease>> },
        Own { #[pin] inner: Full<Bytes> },
    }
}

impl<B> PolicyBody<B> {
    pub(super) const fn service(inner: B, lease: Option<Lease>) -> Self {
        Self { kind: Kind::Service { inner, lease: Mutex::new(lease) } }
    }

    pub(super) fn own(text: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Own { inner: Full::new(text.into()) } }
    }
}

impl<B: Body<Data = Bytes>> Body for PolicyBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            Projected::Service { inner, lease } => {
                let frame = inner.poll_frame(cx);
                if matches!(frame, Poll::Ready(None)) {
                    *lease.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
                }
                frame
            }
            Projected::Own { inner } => inner.poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Service { inner, .. } => inner.is_end_stream(),
            Kind::Own { inner } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Service { inner, .. } => inner.size_hint(),
            Kind::Own { inner } => inner.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_in(body: &str) -> Option<RequestId> {
        let beginning = Beginning::default();
        beginning.keep(body.as_bytes());
        beginning.request_id()
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
    fn a_body_may_be_shared_between_threads_if_the_service_s_may() {
        const fn is_sync<T: Sync>() {}
        is_sync::<PolicyBody<Full<Bytes>>>();
    }
}
