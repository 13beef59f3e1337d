//! The bodies of requests and responses.
//!
//! The layer has to know what a request is before rmcp acts on it, and that takes the whole body (law L16). It does not
//! read the body ahead of rmcp: rmcp reads it through [`RequestBody`], which shows each piece to a [`Gate`] and ends
//! only when the gate lets it. [`PolicyBody`] carries in the other direction what has to live as long as the response.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;

use super::held_lease::HeldLease;
use super::tracked::TrackedBody;

/// Withholds the end of a request's body until it has decided: rmcp acts once it has seen that end.
pub(super) trait Gate: Send + Sync {
    /// Looks at the next bytes of the body.
    ///
    /// It is called once for each data frame, in order, before rmcp gets the frame. Trailers are not shown.
    fn see(&self, chunk: &Bytes);
    /// Decides, with the whole body, whether the request goes on.
    ///
    /// It is called at most once, when the body has ended without an error.
    fn decide(self: Arc<Self>) -> Decision;
}

/// The decision of a [`Gate`].
pub(super) enum Decision {
    /// The body ends, and rmcp serves the request.
    Pass,
    /// The body fails with [`BodyError::Refused`]. The gate keeps the reason, since rmcp answers the error by a
    /// response of its own.
    Refuse,
    /// A policy is asked first; the future resolves to whether the request passes.
    Ask(BoxFuture<'static, bool>),
}

pin_project! {
    /// Wraps the body of a request and withholds its end until the layer has checked all of it.
    ///
    /// If the layer rejects the request then, the body yields [`BodyError::Refused`] once, and ends after that.
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        gate: Option<Arc<dyn Gate>>,
        asking: Option<BoxFuture<'static, bool>>,
        refused: bool,
    }
}

impl<B> RequestBody<B> {
    /// Wraps a body. Without a gate it ends when the inner body does.
    ///
    /// `gate` is there until the inner body has ended, and is then asked once. `asking` is its question to a policy,
    /// while that is under way. `refused` is set for good once the answer was no.
    pub(super) fn new(inner: B, gate: Option<Arc<dyn Gate>>) -> Self {
        Self { inner, gate, asking: None, refused: false }
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

/// Says why the body of a request ends early.
#[derive(Debug)]
#[non_exhaustive]
pub enum BodyError<E> {
    /// The body could not be read.
    Inner(E),
    /// The request is rejected. The layer answers it and discards what the service answers to this error.
    Refused,
}

impl<E: fmt::Display> fmt::Display for BodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(error) => error.fmt(f),
            Self::Refused => f.write_str("the request is refused"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for BodyError<E> {}

impl<B: Body> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = BodyError<B::Error>;

    /// Yields the frames of the inner body as one piece of bytes each. At its end it asks the gate, and waits for the
    /// answer of a policy if it has to. An error of the inner body is passed on, and the gate is not asked then.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        if *this.refused {
            return Poll::Ready(None);
        }
        if this.asking.is_none() {
            if let Some(frame) = ready!(this.inner.poll_frame(cx)) {
                let frame = match frame {
                    Ok(frame) => frame.map_data(|mut data| data.copy_to_bytes(data.remaining())),
                    Err(error) => return Poll::Ready(Some(Err(BodyError::Inner(error)))),
                };
                if let (Some(gate), Some(data)) = (&this.gate, frame.data_ref()) {
                    gate.see(data);
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            *this.asking = match this.gate.take().map(Gate::decide) {
                None | Some(Decision::Pass) => return Poll::Ready(None),
                Some(Decision::Refuse) => Some(Box::pin(async { false })),
                Some(Decision::Ask(asking)) => Some(asking),
            };
        }
        if let Some(asking) = this.asking {
            *this.refused = !ready!(asking.as_mut().poll(cx));
            *this.asking = None;
        }
        Poll::Ready(this.refused.then_some(Err(BodyError::Refused)))
    }

    fn is_end_stream(&self) -> bool {
        // False until the gate has decided: a reader that sees true would take the body as complete.
        self.gate.is_none() && self.asking.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pin_project! {
    /// Wraps the body of a response: that of the service, or one of the layer.
    ///
    /// It is `Unpin` and `Sync` where the body of the service is. A body of the layer is one piece in memory and never
    /// fails.
    #[derive(Debug)]
    pub struct PolicyBody<B> {
        #[pin]
        kind: BodyKind<B>,
    }
}

pin_project! {
    /// Says where the body comes from.
    ///
    /// A body of the service has the lease of a request without a session, if its admission gave one.
    #[derive(Debug)]
    #[project = Projected]
    enum BodyKind<B> {
        // What the request holds of its admission is held until the body ends, and by the handler until it is done.
        Service { #[pin] inner: TrackedBody<B>, lease: Option<HeldLease> },
        Own { #[pin] inner: Full<Bytes> },
    }
}

impl<B> PolicyBody<B> {
    /// Wraps the body of the service. The lease is given back when the body has ended or is dropped; [`HeldLease`] says
    /// how long a handler may hold it after that.
    pub(super) const fn service(inner: TrackedBody<B>, lease: Option<HeldLease>) -> Self {
        Self { kind: BodyKind::Service { inner, lease } }
    }

    /// Makes the body of an answer by the layer.
    pub(super) fn own(text: impl Into<Bytes>) -> Self {
        Self { kind: BodyKind::Own { inner: Full::new(text.into()) } }
    }
}

impl<B: Body<Data = Bytes>> Body for PolicyBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    /// Gives the lease back as soon as the body has ended, since the server may keep a body for a while after that.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            Projected::Service { inner, lease } => {
                let frame = inner.poll_frame(cx);
                if matches!(frame, Poll::Ready(None)) {
                    *lease = None;
                }
                frame
            }
            Projected::Own { inner } => inner.poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Service { inner, .. } => inner.is_end_stream(),
            BodyKind::Own { inner } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Service { inner, .. } => inner.size_hint(),
            BodyKind::Own { inner } => inner.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_a_response_is_sync_and_unpin_where_the_service_s_is() {
        const fn is_sync<T: Sync + Unpin>() {}
        is_sync::<PolicyBody<Full<Bytes>>>();
    }
}
