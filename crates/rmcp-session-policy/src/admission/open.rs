//! [`Open`]: the policy that admits every arrival.

use std::any::Any;

use async_trait::async_trait;
use tokio::time::Instant;

use super::shape::same;
use super::{AdmissionPolicy, Arrival, Permit, Rejection, Replicate};

/// Admits every arrival. The capacity of the manager still holds.
///
/// Cost: none. Not for servers that unknown clients can reach: opening a session needs no credentials.
///
/// ```
/// use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, ArrivalKind, Open};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// assert!(Open.admit(&Arrival::new(Instant::now(), ArrivalKind::Create)).await.is_ok());
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

#[async_trait]
impl AdmissionPolicy for Open {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        Ok(Permit::free())
    }

    fn retune(&self, to: &dyn AdmissionPolicy, _: Instant) -> bool {
        same::<Self>(to).is_some()
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
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
