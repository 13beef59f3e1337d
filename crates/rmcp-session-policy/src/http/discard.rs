//! What is left of a request's body when its answer is already known.
//!
//! An answer that leaves before the body was read costs the client that answer: the server closes a connection whose input
//! it does not read, and what the client still sends meets a reset. So the rest is read and dropped first, within bounds.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::request::{Chunks, Envelope};

/// The most of a body that is kept to find the id of its request in, in bytes.
pub(super) const KEPT_BYTES: usize = 8 << 10;

/// How many bodies are read at once only to be dropped.
const AT_ONCE: usize = 256;

/// How much is read of the bodies of requests that are refused before they are read.
#[derive(Clone, Debug)]
pub(super) struct Discard {
    /// The most of one body, in bytes. As rmcp's default for what it reads at all.
    pub(super) bytes: usize,
    pub(super) time: Duration,
    bodies: Arc<Semaphore>,
}

impl Default for Discard {
    fn default() -> Self {
        Self { bytes: 4 << 20, time: Duration::from_secs(5), bodies: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// What came of reading a body to its end.
#[derive(Debug, Default)]
pub(super) struct Discarded {
    /// Whether the end was reached: if not, the connection is of no use any more.
    pub(super) is_complete: bool,
    /// What the request is, where it is small enough to be kept.
    pub(super) envelope: Option<Envelope>,
}

impl Discarded {
    /// There was no body.
    pub(super) const fn nothing() -> Self {
        Self { is_complete: true, envelope: None }
    }
}

impl Discard {
    /// Reads a body and drops it.
    pub(super) async fn read<B: Body>(&self, body: B, expects_continue: bool) -> Discarded {
        // A client that waits to be told to send its body hears the answer instead.
        let is_sent = !expects_continue && body.size_hint().lower() <= self.bytes as u64;
        let Some(_slot) = is_sent.then(|| self.bodies.try_acquire().ok()).flatten() else {
            return Discarded { is_complete: body.is_end_stream(), envelope: None };
        };
        timeout(self.time, self.drain(body)).await.unwrap_or_default()
    }

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
                // A copy: what the connection read into may be much larger.
                kept.push(Bytes::copy_from_slice(&data.copy_to_bytes(data.remaining())));
            }
        }
        let envelope = if length <= KEPT_BYTES { Envelope::of(&kept.join()) } else { None };
        Discarded { is_complete: true, envelope }
    }
}
