//! [`admit_fn`]: an admission policy from a closure.

use std::any::Any;
use std::fmt;

use async_trait::async_trait;
use tokio::time::Instant;

use super::shape::{captures_nothing, same};
use super::{AdmissionPolicy, Arrival, Permit, Rejection};

/// Makes a policy from a closure, which admits with a [`Permit`] or rejects with a [`Rejection`].
///
/// Cost: that of the closure. Its [`peek`](AdmissionPolicy::peek) always admits. Not for a rule that waits for something
/// or that must reject a flood before request bodies are read: implement [`AdmissionPolicy`] instead.
///
/// ```
/// use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, ArrivalKind, Permit, Rejection, admit_fn};
/// use rmcp_session_policy::ClientContext;
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let from_here = admit_fn(|arrival: &Arrival<'_>| match arrival.context().and_then(|context| context.peer()) {
///     Some(peer) if peer.is_loopback() => Ok(Permit::free()),
///     _ => Err(Rejection::new("from_here")),
/// });
///
/// let local = ClientContext::new().with_peer([127, 0, 0, 1].into());
/// let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
/// assert!(from_here.admit(&arrival.with_context(&local)).await.is_ok());
/// assert!(from_here.admit(&arrival).await.is_err(), "the address is not known");
/// # }
/// ```
pub const fn admit_fn<F>(admit: F) -> AdmitFn<F>
where
    F: Fn(&Arrival<'_>) -> Result<Permit, Rejection> + Send + Sync + 'static,
{
    AdmitFn { admit }
}

/// Asks a closure; made by [`admit_fn`].
#[derive(Clone)]
pub struct AdmitFn<F> {
    admit: F,
}

#[async_trait]
impl<F> AdmissionPolicy for AdmitFn<F>
where
    F: Fn(&Arrival<'_>) -> Result<Permit, Rejection> + Send + Sync + 'static,
{
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        (self.admit)(arrival)
    }

    fn retune(&self, to: &dyn AdmissionPolicy, _: Instant) -> bool {
        captures_nothing::<F>() && same::<Self>(to).is_some()
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl<F> fmt::Debug for AdmitFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmitFn").finish_non_exhaustive()
    }
}
