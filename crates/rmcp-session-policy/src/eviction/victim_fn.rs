//! A policy made of a closure.

use std::fmt;

use super::{Candidates, EvictionPolicy};
use crate::session::SessionKey;

/// Makes a policy of a closure that is asked for a victim.
///
/// ```
/// use rmcp_session_policy::eviction::{Candidates, victim_fn};
///
/// let shortest_name = victim_fn(|candidates: &Candidates<'_>| {
///     candidates.iter().min_by_key(|session| session.client_name().map(str::len)).map(|session| session.key())
/// });
/// # let _: &dyn rmcp_session_policy::eviction::EvictionPolicy = &shortest_name;
/// ```
///
/// Its cost is the closure's: one that looks at [all candidates](Candidates::iter) is for servers with few sessions.
pub const fn victim_fn<F>(choose: F) -> VictimFn<F>
where
    F: FnMut(&Candidates<'_>) -> Option<SessionKey> + Send + 'static,
{
    VictimFn { choose }
}

/// The policy that [`victim_fn()`] makes.
#[derive(Clone)]
pub struct VictimFn<F> {
    choose: F,
}

impl<F> EvictionPolicy for VictimFn<F>
where
    F: FnMut(&Candidates<'_>) -> Option<SessionKey> + Send + 'static,
{
    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        (self.choose)(candidates)
    }
}

impl<F> fmt::Debug for VictimFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VictimFn").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_registry::{TestRegistry, call};

    #[tokio::test(start_paused = true)]
    async fn the_closure_chooses_among_those_that_may_go() {
        let newest = |candidates: &Candidates<'_>| candidates.iter().map(|session| session.key()).max();
        let mut stage = TestRegistry::new(victim_fn(newest));
        let [_, _, third, _] = stage.ready_many();
        let busy = call(&third);
        stage.opening();
        assert_eq!(stage.victims(), [4, 2, 1]);
        drop(busy);
        assert_eq!(stage.victims(), [3]);
        assert_eq!(stage.registry.overruled, 0);
    }
}
