//! Everybody may come in.

use async_trait::async_trait;
use tokio::time::Instant;

use super::{AdmissionPolicy, Arrival, Permit, Rejection, Replicate};

/// Lets everybody in. The capacity still holds.
///
/// Not for servers that strangers can reach: opening a session needs no credentials.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

#[async_trait]
impl AdmissionPolicy for Open {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        Ok(Permit::free())
    }
}

impl Replicate for Open {
    fn replicate(&self) -> Self {
        Self
    }

    fn is_fresh(&self, _: Instant) -> bool {
        true
    }
}
