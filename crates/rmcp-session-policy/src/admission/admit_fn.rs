//! A policy made of a closure.

use std::fmt;

use async_trait::async_trait;

use super::{AdmissionPolicy, Arrival, Permit, Rejection};

/// Makes a policy of a closure.
///
/// ```
/// use rmcp_session_policy::admission::{Arrival, Permit, Rejection, admit_fn};
///
/// let from_here = admit_fn(|arrival: &Arrival<'_>| match arrival.context().and_then(|context| context.peer()) {
///     Some(peer) if peer.is_loopback() => Ok(Permit::free()),
///     _ => Err(Rejection::new("from_here")),
/// });
/// # let _: &dyn rmcp_session_policy::admission::AdmissionPolicy = &from_here;
/// ```
pub const fn admit_fn<F>(admit: F) -> AdmitFn<F>
where
    F: Fn(&Arrival<'_>) -> Result<Permit, Rejection> + Send + Sync + 'static,
{
    AdmitFn { admit }
}

/// The policy that [`admit_fn`] makes.
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
}

impl<F> fmt::Debug for AdmitFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmitFn").finish_non_exhaustive()
    }
}
