//! [`SlidingWindow`]: an exact limit on the number in any window of time.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::log::{Log, Token};
use super::shape::same;
use super::{AdmissionPolicy, Arrival, Lease, Permit, Rejection, Replicate, Reservation, Retry};
use crate::config_error::ConfigError;

/// Admits at most `limit` within any window of time, exactly.
///
/// An admission at `t` counts until just before `t + window`, so waiting exactly as long as a rejection says is enough.
/// An admission that is undone is removed from the log, as if it had never been asked for.
///
/// Source: the sliding-window log, which keeps the moment of each admission. Cost: O(1) per decision at any limit, also
/// in the worst case; 16 bytes per admission in the window.
///
/// Not where bursts should be smoothed: the whole limit may arrive at once. See [`TokenBucket`](super::TokenBucket).
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, ArrivalKind, Retry, SlidingWindow};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let policy = SlidingWindow::new(2, Duration::from_secs(10));
/// let start = Instant::now();
/// let at = |seconds| Arrival::new(start + Duration::from_secs(seconds), ArrivalKind::Create);
/// let _first = policy.admit(&at(0)).await.unwrap().commit();
/// let _second = policy.admit(&at(4)).await.unwrap().commit();
/// let rejection = policy.admit(&at(7)).await.unwrap_err();
/// assert_eq!(rejection.retry(), Retry::After(Duration::from_secs(3)));
/// assert!(policy.admit(&at(10)).await.is_ok());
/// # }
/// ```
#[derive(Debug)]
pub struct SlidingWindow {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    window: Duration,
    epoch: Option<Instant>,
    log: Log,
}

impl State {
    /// Converts a moment to nanoseconds, not before the newest in the log: two threads may take the lock in another order
    /// than they read the clock.
    fn nanos(&mut self, now: Instant) -> u64 {
        let epoch = *self.epoch.get_or_insert(now);
        let nanos = now.saturating_duration_since(epoch).as_nanos();
        // Less than `u64::MAX`: an admission with an expiry that saturates there then never expires.
        u64::try_from(nanos).map_or(u64::MAX - 1, |nanos| nanos.min(u64::MAX - 1)).max(self.log.newest().unwrap_or(0))
    }
}

impl SlidingWindow {
    /// Admits at most `limit` within any `window`.
    #[must_use]
    pub fn new(limit: usize, window: Duration) -> Self {
        Self { state: Arc::new(Mutex::new(State { limit, window, epoch: None, log: Log::default() })) }
    }

    fn numbers(&self) -> (usize, Duration) {
        let state = self.lock();
        (state.limit, state.window)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When an admission stops counting.
    fn expires(&self, at: u64) -> u64 {
        at.saturating_add(u64::try_from(self.window.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Checks whether there is room now.
    fn room(&mut self, now: u64) -> Result<(), Rejection> {
        // One admission adds one entry, so removing up to two per decision keeps up with any backlog, and no decision
        // pays for all entries that expired since the last one. Only after a lower limit there may be more than it.
        let mut removed = 0;
        while (removed < 2 || self.log.len() >= self.limit)
            && self.log.oldest().is_some_and(|at| self.expires(at) <= now)
        {
            self.log.pop_oldest();
            removed += 1;
        }
        if self.log.len() < self.limit {
            return Ok(());
        }
        // Above a limit that was lowered more than the oldest has to go; the newest is the last.
        let last = if self.log.len() > self.limit { self.log.newest() } else { self.log.oldest() };
        let retry = match last {
            Some(last) => Retry::After(Duration::from_nanos(self.expires(last).saturating_sub(now))),
            None => Retry::Never,
        };
        Err(Rejection::new("sliding_window")
            .with_retry(retry)
            .with_limit(self.limit as u64, 0)
            .with_period(self.window))
    }
}

/// Removes an admission from the log when dropped without a commit.
struct Admitted {
    state: Arc<Mutex<State>>,
    token: Option<Token>,
}

impl Reservation for Admitted {
    fn commit(mut self: Box<Self>) -> Lease {
        self.token = None;
        Lease::free()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).log.remove(token);
        }
    }
}

#[async_trait]
impl AdmissionPolicy for SlidingWindow {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        let mut state = self.lock();
        let now = state.nanos(arrival.now());
        state.room(now)?;
        let token = Some(state.log.push(now));
        drop(state);
        Ok(Permit::reserving(Admitted { state: Arc::clone(&self.state), token }))
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        let mut state = self.lock();
        let now = state.nanos(arrival.now());
        state.room(now)
    }

    fn retune(&self, to: &dyn AdmissionPolicy, now: Instant) -> bool {
        let Some(to) = same::<Self>(to) else { return false };
        if !Arc::ptr_eq(&self.state, &to.state) {
            let (limit, window) = to.numbers();
            let mut state = self.lock();
            (state.limit, state.window) = (limit, window);
            // What a shorter window leaves out counts no more.
            let now = state.nanos(now);
            while state.log.oldest().is_some_and(|at| state.expires(at) <= now) {
                state.log.pop_oldest();
            }
        }
        true
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let (limit, window) = self.numbers();
        if limit == 0 {
            return Err(ConfigError::new("the limit of SlidingWindow", limit, "allow at least 1 per window"));
        }
        if limit > i32::MAX as usize {
            return Err(ConfigError::new("the limit of SlidingWindow", limit, "allow at most 2,147,483,647"));
        }
        if window.is_zero() {
            return Err(ConfigError::new("the window of SlidingWindow", window, "allow more than zero"));
        }
        Ok(())
    }
}

impl Replicate for SlidingWindow {
    fn replicate(&self) -> Self {
        let (limit, window) = self.numbers();
        Self::new(limit, window)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let now = state.nanos(now);
        state.log.newest().is_none_or(|newest| state.expires(newest) <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ArrivalKind;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn admit(policy: &SlidingWindow, now: Instant) -> Result<Permit, Rejection> {
        use futures_util::FutureExt;
        policy.admit(&Arrival::new(now, ArrivalKind::Create)).now_or_never().expect("never waits")
    }

    #[test]
    fn waiting_as_long_as_the_refusal_says_is_enough_and_less_is_not() {
        let policy = SlidingWindow::new(2, 10 * SECOND);
        let start = Instant::now();
        drop(admit(&policy, start).expect("first").commit());
        drop(admit(&policy, start + 3 * SECOND).expect("second").commit());
        let refused = admit(&policy, start + 4 * SECOND).expect_err("full");
        assert_eq!(refused.retry(), Retry::After(6 * SECOND));
        assert_eq!((refused.limit(), refused.remaining()), (Some(2), Some(0)));
        assert!(admit(&policy, start + 10 * SECOND - Duration::from_nanos(1)).is_err());
        drop(admit(&policy, start + 10 * SECOND).expect("the first has left").commit());
        assert_eq!(admit(&policy, start + 10 * SECOND).expect_err("full again").retry(), Retry::After(3 * SECOND));
    }

    #[test]
    fn an_undo_after_the_window_has_passed_takes_no_other_admission_out() {
        let policy = SlidingWindow::new(1, SECOND);
        let start = Instant::now();
        let open = admit(&policy, start).expect("first");
        drop(admit(&policy, start + SECOND).expect("the first has left").commit());
        drop(open);
        assert!(admit(&policy, start + SECOND).is_err());
    }

    #[test]
    fn a_limit_of_nothing_is_named_and_lets_nobody_in() {
        let policy = SlidingWindow::new(0, SECOND);
        assert_eq!(
            policy.validate().expect_err("refused").to_string(),
            "the limit of SlidingWindow is 0: allow at least 1 per window"
        );
        assert_eq!(admit(&policy, Instant::now()).expect_err("never").retry(), Retry::Never);
    }

    #[test]
    fn what_is_in_a_window_beyond_the_reach_of_the_clock_counts_for_ever() {
        let century = 36_500 * 24 * crate::time::HOUR;
        for window in [Duration::MAX, 10 * century] {
            let policy = SlidingWindow::new(1, window);
            let start = Instant::now();
            drop(admit(&policy, start).expect("first").commit());
            assert!((0..8).all(|centuries| admit(&policy, start + centuries * century).is_err()));
        }
    }

    #[test]
    fn it_is_fresh_once_nothing_counts() {
        let policy = SlidingWindow::new(3, SECOND);
        let start = Instant::now();
        drop(admit(&policy, start).expect("first").commit());
        assert!(!policy.is_fresh(start + SECOND / 2));
        assert!(policy.is_fresh(start + SECOND));
    }

    proptest! {
        /// Against a plain list of the admissions that count, in which what is undone was never asked for.
        #[test]
        fn it_is_a_list_of_what_counts(
            limit in 1usize..5,
            steps in prop::collection::vec((0u64..4, 0u8..3, any::<prop::sample::Index>()), 1..120),
        ) {
            let policy = SlidingWindow::new(limit, 5 * SECOND);
            let mut now = Instant::now();
            let mut open: Vec<(Instant, Permit)> = Vec::new();
            let mut model: Vec<Instant> = Vec::new();
            for (pass, step, any) in steps {
                now += u32::try_from(pass).expect("small") * SECOND;
                match step {
                    0 if !open.is_empty() => {
                        let (at, permit) = open.remove(any.index(open.len()));
                        drop(permit);
                        if let Some(place) = model.iter().position(|admitted| *admitted == at) {
                            model.remove(place);
                        }
                    }
                    1 if !open.is_empty() => drop(open.remove(any.index(open.len())).1.commit()),
                    _ => {
                        let counting = model.iter().filter(|at| **at + 5 * SECOND > now).count();
                        match admit(&policy, now) {
                            Ok(permit) => {
                                prop_assert!(counting < limit);
                                open.push((now, permit));
                                model.push(now);
                            }
                            Err(rejection) => {
                                prop_assert!(counting >= limit);
                                let oldest = model.iter().filter(|at| **at + 5 * SECOND > now).min().copied();
                                let wait = oldest.map(|at| at + 5 * SECOND - now);
                                prop_assert_eq!(Some(rejection.retry()), wait.map(Retry::After));
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn after_a_change_what_was_admitted_counts_under_the_new_numbers() {
        use futures_util::FutureExt;
        let start = Instant::now();
        let at = |secs| Arrival::new(start + Duration::from_secs(secs), ArrivalKind::Create);
        let admit = |policy: &SlidingWindow, secs| {
            let admitted = policy.admit(&at(secs)).now_or_never().expect("never waits");
            admitted.map(|permit| drop(permit.commit())).map_err(|no| no.retry())
        };
        let policy = SlidingWindow::new(10, 60 * SECOND);
        for secs in 0..10 {
            assert_eq!(admit(&policy, secs), Ok(()));
        }
        assert!(policy.retune(&SlidingWindow::new(3, 60 * SECOND), at(9).now()));
        let Err(Retry::After(wait)) = admit(&policy, 10) else { panic!("there are ten") };
        assert_eq!(wait, 59 * SECOND, "that is enough");
        assert_eq!(admit(&policy, 69), Ok(()));
        assert!(policy.retune(&SlidingWindow::new(3, SECOND), at(70).now()));
        assert_eq!([70, 70, 70].map(|secs| admit(&policy, secs).is_ok()), [true; 3]);
        assert!(!policy.retune(&super::super::TokenBucket::per_second(1), at(70).now()));
    }
}
