//! Requests without a session, which a drain waits for and ends: first the request in the layer, then the body of its
//! response.
//!
//! [`TrackedBody`] has three duties. It tells the tracker whether the client reads, so that a drain does not wait for
//! one that has stopped. It ends the body when a drain cuts the request off, with an answer as the last event if none
//! was sent. And it tells the manager if the client of an `initialize` went away before it had the answer.
//!
//! Only an event stream can be ended that way. A body of another type is one answer that is complete already: a drain
//! waits until it was read.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::{Body, Frame, SizeHint};
use memchr::memmem;
use pin_project_lite::pin_project;
use rmcp::model::{RequestId, ServerJsonRpcMessage, ServerResult, SubscriptionsListenResult};
use tokio::sync::futures::OwnedNotified;

use super::request::{Chunks, Envelope};
use crate::admission::ArrivalKind;
use crate::error::Rejected;
use crate::tracker::Tracked;

/// The number of frames that a body may still yield once it is to end, since the answer may be among them. Without a
/// limit, a handler that sends without a pause would hold up the end.
const LAST_FRAMES: u8 = 16;

/// What ends an event of an event stream. Text put in before it would become part of that event.
const EVENT_END: &[u8] = b"\n\n";

/// Returns whether a drain cuts a request off. If not, the task is woken when it does.
///
/// Without a signal it only looks, and no task is woken. The signal has to be made before the call, by
/// [`Tracked::signal`].
pub(super) fn is_cut(tracked: &Tracked, signal: Option<Pin<&mut OwnedNotified>>, cx: &mut Context<'_>) -> bool {
    let is_given = || signal.is_some_and(|signal| signal.poll(cx).is_ready());
    // A drain sets the flag before it gives the signal.
    tracked.is_to_be_cut() || is_given() && tracked.is_to_be_cut()
}

/// Returns whether the body of a request without a session asks for a listening stream, which ends only when the client
/// or the server ends it.
///
/// Costs two searches of the body, and the parse of it only if one of them finds something.
pub(super) fn listens(body: &[u8]) -> bool {
    // JSON has two ways to escape a slash.
    let may_listen = memmem::find(body, b"subscriptions/listen").is_some() || memchr::memchr(b'\\', body).is_some();
    may_listen && Envelope::of(body).is_some_and(|envelope| &*envelope.method == "subscriptions/listen")
}

/// Holds what is needed of a request to answer it when its response is cut off.
///
/// Most requests need no answer from here, so the body is parsed only for an answer that needs the id. A body that is
/// too large to keep was parsed already: then `chunks` is empty.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// The body, until the first call of the method `envelope` that has to parse it.
    chunks: Chunks,
    /// The id and method once they are known. `None` also if the body is no request.
    envelope: Option<Envelope>,
}

impl Request {
    pub(super) const fn new(chunks: Chunks, envelope: Option<Envelope>) -> Self {
        Self { chunks, envelope }
    }

    /// Returns its id and method, if it is a request. The first call parses the body and drops it.
    pub(super) fn envelope(&mut self) -> Option<&Envelope> {
        if self.envelope.is_none() {
            self.envelope = Envelope::of(&std::mem::take(&mut self.chunks).join());
        }
        self.envelope.as_ref()
    }
}

pin_project! {
    /// Wraps the body of a response. If the request is tracked, a drain can end the body.
    ///
    /// While the body is read, `inner` is there. When a drain cuts the request off, the body drops `inner`, which also
    /// ends the handler, and yields the farewell if one is due. After that it drops `tracking`, and the drain no longer
    /// waits for the request. `signal` is there only for an event stream.
    #[derive(Debug)]
    pub(super) struct TrackedBody<B> {
        // `None` once the body is cut off.
        #[pin]
        inner: Option<B>,
        tracking: Option<Tracking>,
        // Boxed, so that the body is `Unpin` if the service's body is.
        signal: Option<Pin<Box<OwnedNotified>>>,
    }
}

/// Holds what is kept of a tracked request while its body is read.
#[derive(Debug)]
struct Tracking {
    /// Counts the request until this is dropped.
    tracked: Tracked,
    /// The request, for the id of the farewell.
    request: Request,
    /// Whether the body can be ended by a last event.
    is_event_stream: bool,
    /// The last frame that was not a comment. If the answer was sent, it is in the data of this event. Empty at the
    /// beginning, and for bodies that are no event stream.
    last: Bytes,
    /// How many more frames the body may yield after the cut. It counts down from [`LAST_FRAMES`], in a drain only.
    frames_left: u8,
    /// There for the answer to an `initialize` which opened a session.
    unheard: Option<Unheard>,
}

/// Calls a closure if the body of the answer to an `initialize` is dropped before the answer was read.
///
/// The client may then not know its session id, so its session is not parked if the handshake times out. The closure is
/// called at most once, where the body is dropped or ends.
struct Unheard(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Unheard {
    /// Looks at a frame. If it holds the answer, not only what comes before it, the closure will not be called.
    fn hears(&mut self, frame: &[u8]) {
        if memmem::find(frame, b"jsonrpc").is_some() {
            self.0 = None;
        }
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell();
        }
    }
}

impl std::fmt::Debug for Unheard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Unheard").field(&self.0.is_some()).finish()
    }
}

impl<B> TrackedBody<B> {
    /// Wraps a body that no drain looks at, such as one within a session: the session counts its request and ends it.
    pub(super) const fn untracked(inner: B) -> Self {
        Self { inner: Some(inner), tracking: None, signal: None }
    }

    /// Wraps the body of a tracked request.
    ///
    /// `headers` are those of the response: they say whether it is an event stream. Unless the request is a listener,
    /// the body counts as unread from now on. The signal is made here, before the first look at the flag, so that no
    /// cut is missed.
    pub(super) fn new(inner: B, headers: &HeaderMap, mut tracked: Tracked, mut request: Request) -> Self {
        let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
        let is_event_stream = content_type.is_some_and(|value| value.starts_with(b"text/event-stream"));
        if tracked.is_listener() {
            // The stream may last for days, so keep the id and drop the rest of the request.
            request.envelope();
        }
        tracked.gave();
        let signal = is_event_stream.then(|| Box::pin(tracked.signal()));
        let tracking =
            Tracking { tracked, request, is_event_stream, last: Bytes::new(), frames_left: LAST_FRAMES, unheard: None };
        Self { inner: Some(inner), tracking: Some(tracking), signal }
    }

    /// Calls `tell` if the body is dropped before it yielded the answer. Does nothing if the request is not tracked.
    pub(super) fn or_unheard(mut self, tell: impl FnOnce() + Send + Sync + 'static) -> Self {
        if let Some(tracking) = &mut self.tracking {
            tracking.unheard = Some(Unheard(Some(Box::new(tell))));
        }
        self
    }
}

impl Tracking {
    /// Records a frame that the body yielded.
    ///
    /// It makes the request count as unread until the body is polled again.
    fn note(&mut self, frame: &Frame<Bytes>) {
        self.tracked.gave();
        // A comment only keeps the connection alive and is no event.
        if let Some(data) = frame.data_ref()
            && self.is_event_stream
            && !data.starts_with(b":")
        {
            self.last = data.clone();
            if let Some(unheard) = &mut self.unheard {
                unheard.hears(data);
            }
        }
    }

    /// Returns the event that ends the request, or `None` if it was answered, the body is in the middle of an event, or
    /// the request has no id.
    ///
    /// A listening stream gets the result that completes it, a call the error of a drain.
    fn farewell(&mut self) -> Option<Bytes> {
        let is_between_events = self.last.is_empty() || self.last.ends_with(EVENT_END);
        let id = self.request.envelope().map(|envelope| envelope.id.clone())?;
        if !is_between_events || answers(&self.last, &id) {
            return None;
        }
        let message = if self.tracked.is_listener() {
            // MCP's way to tell a client that the server stops.
            let result = SubscriptionsListenResult::complete(id.clone());
            ServerJsonRpcMessage::response(ServerResult::SubscriptionsListenResult(result), id)
        } else {
            ServerJsonRpcMessage::error(Rejected::draining(ArrivalKind::Request).answer(), Some(id))
        };
        let message = serde_json::to_string(&message).ok()?;
        Some(format!("data: {message}\n\n").into())
    }
}

/// Returns whether an event holds the answer to a request.
///
/// A message with a method is a request or notification of the server, even if its id is the same.
fn answers(event: &[u8], id: &RequestId) -> bool {
    #[derive(serde::Deserialize)]
    struct Message {
        id: Option<RequestId>,
        method: Option<serde::de::IgnoredAny>,
    }
    let lines = event.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data:"));
    lines
        .filter_map(|line| serde_json::from_slice::<Message>(line).ok())
        .any(|message| message.method.is_none() && message.id.as_ref() == Some(id))
}

impl<B: Body<Data = Bytes>> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    /// Polls the inner body before it looks for a cut, so an answer that is there is yielded before the end. Without
    /// tracking it costs nothing more than the inner body.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            *this.tracking = None;
            return Poll::Ready(None);
        };
        let Some(tracking) = this.tracking else { return inner.poll_frame(cx) };
        tracking.tracked.asked();
        if tracking.frames_left > 0 {
            let frame = inner.poll_frame(cx);
            match &frame {
                Poll::Ready(Some(Ok(frame))) => {
                    tracking.note(frame);
                    tracking.frames_left -= u8::from(tracking.is_event_stream && tracking.tracked.is_to_be_cut());
                }
                Poll::Ready(_) => *this.tracking = None,
                Poll::Pending => {}
            }
            if frame.is_ready() || !tracking_is_cut(this.tracking, this.signal.as_mut().map(Pin::as_mut), cx) {
                return frame;
            }
        }
        let farewell = this.tracking.as_mut().and_then(Tracking::farewell);
        // Dropping the body also ends the handler.
        this.inner.set(None);
        match (farewell, this.tracking) {
            (Some(farewell), Some(tracking)) => {
                tracking.tracked.note_cut();
                tracking.tracked.gave();
                Poll::Ready(Some(Ok(Frame::data(farewell))))
            }
            (_, tracking) => {
                *tracking = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}

/// Returns whether the body of an event stream is to end. False for a body that is not tracked, or of another type.
fn tracking_is_cut(tracking: &Option<Tracking>, signal: Option<Pin<&mut OwnedNotified>>, cx: &mut Context<'_>) -> bool {
    let tracking = tracking.as_ref().filter(|tracking| tracking.is_event_stream);
    tracking.is_some_and(|tracking| is_cut(&tracking.tracked, signal, cx))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::task::Waker;

    use http::HeaderValue;

    use super::*;
    use crate::session::Signals;
    use crate::tracker::Class;
    use crate::tracker::RequestTracker;

    /// Yields its frames and then waits for more.
    struct Waits(VecDeque<&'static str>);

    impl Body for Waits {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(text) => Poll::Ready(Some(Ok(Frame::data(text.into())))),
                None => Poll::Pending,
            }
        }
    }

    fn tracker() -> Arc<RequestTracker> {
        Arc::new(RequestTracker::new(Arc::new(Signals::default())))
    }

    /// Returns all that a body yields until it ends or waits, and whether it has ended.
    fn read(body: &mut Pin<Box<TrackedBody<Waits>>>) -> (String, bool) {
        let mut text = String::new();
        loop {
            match body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(frame))) => text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
                Poll::Ready(None) => return (text, true),
                Poll::Pending => return (text, false),
                Poll::Ready(Some(Err(never))) => match never {},
            }
        }
    }

    /// Returns what a body that yielded these frames yields once it is cut off.
    fn cut_off(frames: &[&'static str], content_type: &'static str) -> (String, bool) {
        let tracker = tracker();
        let tracked = tracker.enter(Class::Call, 1).unwrap();
        let mut request = Chunks::default();
        request.push(Bytes::from_static(br#"{"jsonrpc": "2.0", "id": "x", "method": "tools/call"}"#));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let inner = Waits(frames.iter().copied().collect());
        let mut body = Box::pin(TrackedBody::new(inner, &headers, tracked, Request::new(request, None)));
        assert_eq!(read(&mut body), (frames.concat(), false));
        tracker.cut();
        read(&mut body)
    }

    #[test]
    fn a_body_that_is_cut_off_ends_with_the_error_unless_it_held_the_answer() {
        let (progress, priming) = ("data: {\"jsonrpc\":\"2.0\",\"method\":\"p\",\"params\":{}}\n\n", "data:\n\n");
        let asked = "data: {\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"elicitation/create\"}\n\n";
        let of_another = "data: {\"jsonrpc\":\"2.0\",\"id\":\"y\",\"result\":{}}\n\n";
        for frames in [&[][..], &[priming], &[progress], &[asked], &[of_another], &[progress, ":\n\n"]] {
            let (text, has_ended) = cut_off(frames, "text/event-stream");
            let error: serde_json::Value =
                serde_json::from_str(text.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap()).unwrap();
            assert_eq!((&error["id"], &error["error"]["code"]), (&"x".into(), &503.into()), "{frames:?}");
            assert!(has_ended, "{frames:?}");
        }
        let result = "id: 7\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":{\"method\":1}}\n\n";
        let error = "data: {\"jsonrpc\":\"2.0\",\"id\":\"x\",\"error\":{\"code\":1,\"message\":\"m\"}}\n\n";
        let half = "data: {\"jsonrpc\":";
        for frames in [&[result][..], &[error], &[result, ":\n\n"], &[half]] {
            assert_eq!(cut_off(frames, "text/event-stream"), (String::new(), true), "{frames:?}");
        }
    }

    #[test]
    fn what_is_no_event_stream_is_not_cut_off() {
        assert_eq!(cut_off(&["{"], "application/json"), (String::new(), false));
    }

    #[test]
    fn a_body_that_never_waits_is_cut_off_nevertheless() {
        let tracker = tracker();
        let tracked = tracker.enter(Class::Call, 1).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        let inner = Waits(vec!["data: 1\n\n"; 1_000].into());
        let mut body = Box::pin(TrackedBody::new(inner, &headers, tracked, Request::default()));
        tracker.cut();
        let (text, has_ended) = read(&mut body);
        assert!(has_ended && text.lines().count() < 100, "{text}");
    }

    #[test]
    fn no_more_of_a_class_are_tracked_than_there_may_be() {
        let tracker = tracker();
        let first = tracker.enter(Class::Listener, 1).unwrap();
        assert!(tracker.enter(Class::Listener, 1).is_none());
        assert_eq!(tracker.listeners(), 1);
        drop(first);
        assert!(tracker.enter(Class::Listener, 1).is_some());
    }
}
