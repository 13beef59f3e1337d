//! Reading and dropping the rest of a request's body when its answer is already known.
//!
//! If an answer leaves before the body was read, the client may lose it: the server closes a connection with unread
//! input, and what the client still sends meets a reset. So the rest is read and dropped first, within bounds.
//!
//! This happens only for a request that the layer rejects by its headers alone. Every other request goes to rmcp, which
//! reads the body itself.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::request::{Chunks, Envelope};

/// The largest body that is kept to find the id of its request, in bytes.
pub(super) const KEPT_BYTES: usize = 8 << 10;

/// The number of bodies that are read at one time only to be dropped.
const AT_ONCE: usize = 256;

/// Limits how much is read of the bodies of requests that are rejected before they are read.
///
/// Clones share one limit on the number of bodies, so it holds for all services that one layer is put around.
#[derive(Clone, Debug)]
pub(super) struct Discard {
    /// The most of one body, in bytes. The default is rmcp's own limit for a body.
    pub(super) bytes: usize,
    /// How long one body is read at most. It bounds a client that sends its body slowly.
    pub(super) time: Duration,
    /// Has one permit for each body that may be read at the same time. Without a free permit a body is not read at all:
    /// the layer does not wait for one.
    bodies: Arc<Semaphore>,
}

impl Default for Discard {
    fn default() -> Self {
        Self { bytes: 4 << 20, time: Duration::from_secs(5), bodies: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// The result of reading a body and dropping it.
///
/// The default is the result of a body that was not read to its end: its reading failed, took too long, or was too
/// much.
#[derive(Debug, Default)]
pub(super) struct Discarded {
    /// Whether the end was reached. If not, the connection must be closed.
    pub(super) is_complete: bool,
    /// The id and method of the request, if the body is small enough to be kept.
    pub(super) envelope: Option<Envelope>,
}

impl Discarded {
    /// Makes the result for a request without a body.
    pub(super) const fn nothing() -> Self {
        Self { is_complete: true, envelope: None }
    }
}

impl Discard {
    /// Reads a body and drops it.
    ///
    /// Returns at once, without reading, if the client waits for `100 Continue`, the body says that it is longer than
    /// the limit, or too many bodies are being read. The result is then complete only if the body is empty.
    pub(super) async fn read<B: Body>(&self, body: B, expects_continue: bool) -> Discarded {
        // A client that sent `Expect: 100-continue` has sent no body and gets the answer instead.
        let is_sent = !expects_continue && body.size_hint().lower() <= self.bytes as u64;
        let Some(_slot) = is_sent.then(|| self.bodies.try_acquire().ok()).flatten() else {
            return Discarded { is_complete: body.is_end_stream(), envelope: None };
        };
        timeout(self.time, self.drain(body)).await.unwrap_or_default()
    }

    /// Reads a body to its end, unless it fails or is longer than the limit. It keeps at most [`KEPT_BYTES`] of it.
    async fn drain<B: Body>(&self, body: B) -> Discarded {
        let mut body = pin!(body);
        let (mut kept, mut length) = (Chunks::default(), 0_usize);
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Discarded::default() };
            let Ok(mut data) = frame.into_data() else { continue };
            length = length.saturating_add(data.remaining());
            if length > self.bytes {
                return Discarded::default();
            }
            if length <= KEPT_BYTES {
                // A copy, since the connection's read buffer may be much larger than this piece.
                kept.push(Bytes::copy_from_slice(&data.copy_to_bytes(data.remaining())));
            }
        }
        let envelope = if length <= KEPT_BYTES { Envelope::of(&kept.join()) } else { None };
        Discarded { is_complete: true, envelope }
    }
}
