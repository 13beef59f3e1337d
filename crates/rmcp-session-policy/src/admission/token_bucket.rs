//! [`TokenBucket`]: a limit on the rate, with bursts.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::gcra::{Quota, interval};
use super::shape::same;
use super::{AdmissionPolicy, Arrival, Lease, Permit, Rejection, Replicate, Reservation, Retry};
use crate::config_error::ConfigError;

/// Admits a burst, then a steady number per unit of time.
///
/// Waiting exactly as long as a rejection says is enough.
///
/// An admission that is undone leaves the bucket as if it had never been asked for. Adding the token back would not be
/// correct: if the bucket has refilled meanwhile, that would admit one too many. So the bucket remembers the admissions
/// since the oldest one that may still be undone, and replays them without the undone one.
///
/// Source: GCRA (ITU-T I.371, annex A), which needs one number and no timer. Cost: O(1) per decision; an undo costs one
/// step for each admission since the oldest one that is still open and since the bucket was last full.
///
/// Not where an exact limit in any window is promised: up to twice the burst may arrive around a pause. See
/// [`SlidingWindow`](super::SlidingWindow).
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, ArrivalKind, Retry, TokenBucket};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let policy = TokenBucket::per_minute(6).burst(2);
/// let start = Instant::now();
/// let at = |seconds| Arrival::new(start + Duration::from_secs(seconds), ArrivalKind::Create);
/// let _first = policy.admit(&at(0)).await.unwrap().commit();
/// let _second = policy.admit(&at(0)).await.unwrap().commit();
/// let rejection = policy.admit(&at(4)).await.unwrap_err();
/// assert_eq!(rejection.retry(), Retry::After(Duration::from_secs(6)));
/// assert!(policy.admit(&at(10)).await.is_ok());
/// # }
/// ```
#[derive(Debug)]
pub struct TokenBucket {
    state: Arc<Mutex<Bucket>>,
}

/// The numbers of a bucket.
#[derive(Clone, Copy, Debug)]
struct Rate {
    tokens: f64,
    per: Duration,
    burst: Option<u32>,
    /// The quota made of the three settings above; `None` if they make no sense.
    quota: Option<Quota>,
}

impl TokenBucket {
    /// Admits `tokens` per `per`. The burst defaults to the tokens of one second, at least 1.
    #[must_use]
    pub fn new(tokens: impl Into<f64>, per: Duration) -> Self {
        Self::of(Rate { tokens: tokens.into(), per, burst: None, quota: None }.settled())
    }

    fn of(rate: Rate) -> Self {
        Self { state: Arc::new(Mutex::new(Bucket::new(rate))) }
    }

    /// Admits `tokens` per second.
    #[must_use]
    pub fn per_second(tokens: impl Into<f64>) -> Self {
        Self::new(tokens, Duration::from_secs(1))
    }

    /// Admits `tokens` per minute.
    #[must_use]
    pub fn per_minute(tokens: impl Into<f64>) -> Self {
        Self::new(tokens, Duration::from_secs(60))
    }

    /// Sets the number that may be admitted at once after a pause. Defaults to the tokens of one second, rounded up, at
    /// least 1.
    #[must_use]
    pub fn burst(self, tokens: u32) -> Self {
        {
            let rate = &mut self.lock().rate;
            *rate = Rate { burst: Some(tokens), ..*rate }.settled();
        }
        self
    }

    fn lock(&self) -> MutexGuard<'_, Bucket> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rate {
    fn is_valid(&self) -> bool {
        self.tokens.is_finite() && self.tokens > 0.0 && !self.per.is_zero()
    }

    fn size(&self) -> u32 {
        self.burst.unwrap_or_else(|| {
            let per_second = self.tokens / self.per.as_secs_f64();
            per_second.ceil().clamp(1.0, f64::from(u32::MAX)) as u32
        })
    }

    fn settled(mut self) -> Self {
        self.quota = self.to_quota();
        self
    }

    fn to_quota(self) -> Option<Quota> {
        if !self.is_valid() || self.size() == 0 {
            return None;
        }
        Quota::new(interval(self.tokens, self.per)?, self.size())
    }

    fn refusal(&self, retry: Retry) -> Rejection {
        let rejection = Rejection::new("token_bucket").with_retry(retry).with_limit(u64::from(self.size()), 0);
        match self.quota {
            Some(quota) => rejection.with_period(quota.period()),
            None => rejection,
        }
    }
}

/// Holds the state of a bucket, and what an undo needs.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    epoch: Option<Instant>,
    latest: u64,
    arrival_time: u64,
    /// The theoretical arrival time before the first of `steps`, and the quota in force then.
    before: u64,
    quota_before: Option<Quota>,
    /// What has happened since the oldest admission that may still be undone.
    steps: VecDeque<Step>,
    /// The number of the first of `steps`.
    first: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Admission {
        at: u64,
        fate: Fate,
    },
    /// From here on this quota is in force.
    Retuned {
        at: u64,
        to: Quota,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Undone,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            epoch: None,
            latest: 0,
            arrival_time: 0,
            before: 0,
            quota_before: None,
            steps: VecDeque::new(),
            first: 0,
        }
    }

    /// Converts a moment to nanoseconds, never before that of the previous decision.
    fn nanos(&mut self, now: Instant) -> u64 {
        let epoch = *self.epoch.get_or_insert(now);
        let nanos = now.saturating_duration_since(epoch).as_nanos();
        self.latest = self.latest.max(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.latest
    }

    /// Admits one and returns the number of the admission, or returns the time to wait.
    fn admit(&mut self, quota: Quota, now: u64) -> Result<u64, u64> {
        let after = quota.admit(self.arrival_time, now)?;
        if self.arrival_time <= now {
            // The bucket is full, and it would be full without any of the admissions so far, so undoing one changes
            // nothing.
            self.first += self.steps.len() as u64;
            self.steps.clear();
        }
        self.begin(quota);
        self.arrival_time = after;
        self.steps.push_back(Step::Admission { at: now, fate: Fate::Open });
        Ok(self.first + self.steps.len() as u64 - 1)
    }

    /// Notes what is before the first step.
    fn begin(&mut self, quota: Quota) {
        if self.steps.is_empty() {
            (self.before, self.quota_before) = (self.arrival_time, Some(quota));
        }
    }

    /// Puts another rate in force. What is owed is as many tokens as before.
    fn retune(&mut self, rate: Rate, now: u64) {
        if let (Some(from), Some(to)) = (self.rate.quota, rate.quota) {
            if !self.steps.is_empty() {
                self.steps.push_back(Step::Retuned { at: now, to });
            }
            self.arrival_time = from.convert(self.arrival_time, now, to);
        }
        self.rate = rate;
    }

    /// The state after a step.
    fn after(state: (u64, Quota), step: &Step) -> (u64, Quota) {
        let (time, quota) = state;
        match *step {
            Step::Admission { fate: Fate::Undone, .. } => state,
            Step::Admission { at, .. } => (quota.after(time, at), quota),
            Step::Retuned { at, to } => (quota.convert(time, at, to), to),
        }
    }

    fn settle(&mut self, number: u64, settled: Fate) {
        let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        let Some(quota) = self.quota_before else { return };
        let Some(Step::Admission { fate, .. }) = place.and_then(|place| self.steps.get_mut(place)) else { return };
        *fate = settled;
        if settled == Fate::Undone {
            (self.arrival_time, _) = self.steps.iter().fold((self.before, quota), Self::after);
        }
        let mut state = (self.before, quota);
        while let Some(oldest) =
            self.steps.front().filter(|step| !matches!(step, Step::Admission { fate: Fate::Open, .. }))
        {
            state = Self::after(state, oldest);
            self.steps.pop_front();
            self.first += 1;
        }
        (self.before, self.quota_before) = (state.0, Some(state.1));
    }
}

/// Undoes an admission when dropped without a commit.
struct Admitted {
    bucket: Arc<Mutex<Bucket>>,
    number: u64,
    fate: Fate,
}

impl Reservation for Admitted {
    fn commit(mut self: Box<Self>) -> Lease {
        self.fate = Fate::Committed;
        Lease::free()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.settle(self.number, self.fate);
    }
}

#[async_trait]
impl AdmissionPolicy for TokenBucket {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        let number = {
            let mut bucket = self.lock();
            let rate = bucket.rate;
            let quota = rate.quota.ok_or_else(|| rate.refusal(Retry::Never))?;
            let now = bucket.nanos(arrival.now());
            bucket.admit(quota, now).map_err(|wait| rate.refusal(Retry::After(Duration::from_nanos(wait))))?
        };
        // A drop without a commit is the undo.
        let admitted = Admitted { bucket: Arc::clone(&self.state), number, fate: Fate::Undone };
        Ok(Permit::reserving(admitted))
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        let mut bucket = self.lock();
        let rate = bucket.rate;
        let quota = rate.quota.ok_or_else(|| rate.refusal(Retry::Never))?;
        let now = bucket.nanos(arrival.now());
        let admitted = quota.admit(bucket.arrival_time, now).map(drop);
        admitted.map_err(|wait| rate.refusal(Retry::After(Duration::from_nanos(wait))))
    }

    fn retune(&self, to: &dyn AdmissionPolicy, now: Instant) -> bool {
        let Some(to) = same::<Self>(to) else { return false };
        if !Arc::ptr_eq(&self.state, &to.state) {
            let rate = to.lock().rate;
            let mut bucket = self.lock();
            let now = bucket.nanos(now);
            bucket.retune(rate, now);
        }
        true
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let rate = self.lock().rate;
        if !rate.tokens.is_finite() || rate.tokens <= 0.0 {
            return Err(ConfigError::new("the rate of TokenBucket", rate.tokens, "allow more than zero"));
        }
        if rate.per.is_zero() {
            return Err(ConfigError::new("the period of TokenBucket", rate.per, "allow more than zero"));
        }
        if rate.size() == 0 {
            return Err(ConfigError::new("the burst of TokenBucket", rate.size(), "allow at least 1"));
        }
        if rate.quota.is_none() {
            let remedy = "an empty bucket must fill within 36,500 days: allow a higher rate or a smaller burst";
            return Err(match rate.burst {
                Some(burst) if burst > 1 => ConfigError::new("the burst of TokenBucket", burst, remedy),
                _ => ConfigError::new("the rate of TokenBucket", rate.tokens, remedy),
            });
        }
        Ok(())
    }
}

impl Replicate for TokenBucket {
    fn replicate(&self) -> Self {
        Self::of(self.lock().rate)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        let mut bucket = self.lock();
        let now = bucket.nanos(now);
        bucket.arrival_time <= now
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use governor::clock::FakeRelativeClock;
    use governor::{Quota as TheirQuota, RateLimiter};
    use proptest::prelude::*;

    use super::super::ArrivalKind;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn admit(policy: &TokenBucket, now: Instant) -> Result<Permit, Rejection> {
        policy.admit(&Arrival::new(now, ArrivalKind::Create)).now_or_never().expect("never waits")
    }

    /// Spends all there is; how many that was.
    fn spend(policy: &TokenBucket, now: Instant) -> usize {
        std::iter::from_fn(|| admit(policy, now).ok()).map(|permit| drop(permit.commit())).count()
    }

    #[test]
    fn a_burst_then_evenly() {
        let policy = TokenBucket::per_second(5).burst(20);
        let start = Instant::now();
        assert_eq!(spend(&policy, start), 20);
        assert_eq!(admit(&policy, start).expect_err("empty").retry(), Retry::After(SECOND / 5));
        assert_eq!(spend(&policy, start + SECOND), 5);
        assert_eq!(spend(&policy, start + 100 * SECOND), 20);
    }

    #[test]
    fn unless_told_otherwise_the_burst_is_what_comes_in_a_second() {
        let now = Instant::now();
        assert_eq!(spend(&TokenBucket::per_second(5), now), 5);
        assert_eq!(spend(&TokenBucket::per_minute(600), now), 10);
        assert_eq!(spend(&TokenBucket::per_minute(6), now), 1);
        assert_eq!(spend(&TokenBucket::new(3, SECOND / 2), now), 6);
    }

    #[test]
    fn reservations_held_over_a_refill_and_undone_after_it_let_no_more_through() {
        let policy = TokenBucket::per_second(1).burst(10);
        let start = Instant::now();
        let held: Vec<_> = (0..10).map(|_| admit(&policy, start).expect("a token")).collect();
        let refilled = start + 10 * SECOND;
        assert_eq!(spend(&policy, refilled), 10);
        drop(held);
        assert_eq!(spend(&policy, refilled), 0, "as if the held had never been asked for");
    }

    #[test]
    fn a_reservation_held_over_a_refill_undoes_itself_and_no_later_one() {
        let policy = TokenBucket::per_second(1);
        let start = Instant::now();
        let held = admit(&policy, start).expect("a token");
        let _later = admit(&policy, start + SECOND).expect("a token again");
        drop(held);
        assert!(admit(&policy, start + SECOND).is_err());
    }

    #[test]
    fn reservations_undone_at_once_leave_the_bucket_full() {
        let policy = TokenBucket::per_second(1).burst(10);
        let start = Instant::now();
        let held: Vec<_> = (0..10).map(|_| admit(&policy, start).expect("a token")).collect();
        assert_eq!(spend(&policy, start), 0);
        drop(held);
        assert_eq!(spend(&policy, start), 10);
        assert!(policy.lock().steps.is_empty());
    }

    #[test]
    fn settings_that_make_no_sense_are_named_and_let_nobody_in() {
        let text = |policy: TokenBucket| {
            assert_eq!(admit(&policy, Instant::now()).expect_err("never").retry(), Retry::Never);
            policy.validate().expect_err("refused").to_string()
        };
        assert_eq!(text(TokenBucket::per_second(0)), "the rate of TokenBucket is 0.0: allow more than zero");
        assert_eq!(text(TokenBucket::per_second(f64::NAN)), "the rate of TokenBucket is NaN: allow more than zero");
        assert_eq!(text(TokenBucket::new(1, Duration::ZERO)), "the period of TokenBucket is 0ns: allow more than zero");
        assert_eq!(text(TokenBucket::per_second(1).burst(0)), "the burst of TokenBucket is 0: allow at least 1");
    }

    #[test]
    fn settings_beyond_the_reach_of_the_clock_are_named_and_refuse_every_arrival() {
        let year = 365 * 24 * crate::time::HOUR;
        let text = |policy: TokenBucket| {
            assert_eq!(admit(&policy, Instant::now()).expect_err("never").retry(), Retry::Never);
            policy.validate().expect_err("refused").to_string()
        };
        let remedy = "an empty bucket must fill within 36,500 days: allow a higher rate or a smaller burst";
        assert_eq!(text(TokenBucket::new(1, year).burst(1_000)), format!("the burst of TokenBucket is 1000: {remedy}"));
        assert_eq!(text(TokenBucket::per_second(1e-300)), format!("the rate of TokenBucket is 1e-300: {remedy}"));
        assert_eq!(text(TokenBucket::new(1, Duration::MAX)), format!("the rate of TokenBucket is 1.0: {remedy}"));
        let most = TokenBucket::new(1, year).burst(100);
        assert!(most.validate().is_ok());
        assert_eq!(spend(&most, Instant::now()), 100);
    }

    /// Rates and bursts of all sizes.
    fn any_bucket() -> impl Strategy<Value = TokenBucket> {
        let tokens = prop_oneof![
            (1u32..1_000).prop_map(f64::from),
            (0.001f64..1_000.0),
            (-1_030i32..1_020, 1.0f64..2.0).prop_map(|(exponent, mantissa)| mantissa * 2f64.powi(exponent)),
        ];
        let per = prop_oneof![
            (1u64..1_000_000).prop_map(Duration::from_nanos),
            (1u64..4_000_000_000).prop_map(Duration::from_secs),
            Just(Duration::MAX),
        ];
        let burst = prop_oneof![Just(None), (1u32..20).prop_map(Some), (1u32..=u32::MAX).prop_map(Some)];
        (tokens, per, burst).prop_map(|(tokens, per, burst)| {
            let bucket = TokenBucket::new(tokens, per);
            burst.map(|burst| TokenBucket::new(tokens, per).burst(burst)).unwrap_or(bucket)
        })
    }

    proptest! {
        /// Whatever is accepted, and however long it goes on: never more than the burst and what the rate brought.
        #[test]
        fn no_more_come_in_than_the_burst_and_the_rate_allow(
            bucket in any_bucket(),
            // In parts of the time in which a token comes back, in which an empty bucket fills, and in years.
            steps in prop::collection::vec((0u8..3, 0.0f64..3.0), 1..60),
        ) {
            let rate = bucket.lock().rate;
            let seconds_per_token = rate.per.as_secs_f64() / rate.tokens;
            let (burst, start) = (f64::from(rate.size()), Instant::now());
            let mut now = start;
            let mut admitted = 0u64;
            for (unit, parts) in steps {
                let unit = [seconds_per_token, seconds_per_token * burst, 31_536_000.0][usize::from(unit)];
                let pass = Duration::try_from_secs_f64(unit * parts).unwrap_or(Duration::MAX);
                now = now.checked_add(pass.min(Duration::from_secs(10 * 31_536_000))).expect("within reach");
                // One that waited as long as it was told, and all that follow at once.
                for _ in 0..100 {
                    match admit(&bucket, now) {
                        Ok(permit) => {
                            drop(permit.commit());
                            admitted += 1;
                        }
                        Err(_) => break,
                    }
                }
                let brought = (now - start).as_secs_f64() / seconds_per_token;
                let most = if bucket.validate().is_ok() { burst + brought } else { 0.0 };
                // The tolerance is that of the test's own floats.
                prop_assert!(admitted as f64 <= most * (1.0 + 1e-12) + 1e-6, "{admitted} of {most}: {bucket:?}");
            }
        }

        /// Against a history in which what was undone was never asked for.
        #[test]
        fn what_is_undone_was_never_asked_for(
            steps in prop::collection::vec((0u64..3_000, 0u8..4, any::<prop::sample::Index>()), 1..150),
        ) {
            let policy = TokenBucket::per_second(1).burst(4);
            let quota = policy.lock().rate.quota.expect("valid");
            let start = Instant::now();
            let mut millis = 0;
            let mut open: Vec<(usize, Permit)> = Vec::new();
            let mut history: Vec<Option<u64>> = Vec::new();
            for (pass, step, any) in steps {
                millis += pass;
                match step {
                    0 if !open.is_empty() => {
                        let (which, permit) = open.remove(any.index(open.len()));
                        drop(permit);
                        history[which] = None;
                    }
                    1 if !open.is_empty() => drop(open.remove(any.index(open.len())).1.commit()),
                    _ => {
                        let now = Duration::from_millis(millis);
                        // Late enough that the bucket of the model is full at the start.
                        let nanos = now.as_nanos() as u64 + 1_000_000_000_000;
                        let state = history.iter().flatten().fold(0, |state, at| quota.after(state, *at));
                        let expected = quota.admit(state, nanos);
                        match admit(&policy, start + now) {
                            Ok(permit) => {
                                prop_assert!(expected.is_ok());
                                open.push((history.len(), permit));
                                history.push(Some(nanos));
                            }
                            Err(rejection) => {
                                let wait = Duration::from_nanos(expected.expect_err("refused by the model too"));
                                prop_assert_eq!(rejection.retry(), Retry::After(wait));
                            }
                        }
                    }
                }
            }
        }

        /// Against an independent crate, with its fake clock.
        #[test]
        fn it_decides_as_governor_does(
            burst in 1u32..10,
            per_second in 1u32..100,
            steps in prop::collection::vec(0u64..400, 1..200),
        ) {
            let clock = FakeRelativeClock::default();
            let nonzero = |n| std::num::NonZeroU32::new(n).expect("more than zero");
            // Theirs rounds the interval down; ours up. Compared where it is whole.
            let per_second = [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100][per_second as usize % 11];
            let theirs = TheirQuota::per_second(nonzero(per_second)).allow_burst(nonzero(burst));
            let theirs = RateLimiter::direct_with_clock(theirs, clock.clone());
            let ours = TokenBucket::per_second(per_second).burst(burst);
            let start = Instant::now();
            let mut millis = 0;
            for pass in steps {
                millis += pass;
                clock.advance(Duration::from_millis(pass));
                let decision = admit(&ours, start + Duration::from_millis(millis));
                prop_assert_eq!(decision.is_ok(), theirs.check().is_ok());
                drop(decision.map(Permit::commit));
            }
        }
    }

    #[test]
    fn a_change_keeps_the_tokens_owed_and_an_undo_is_exact_across_it() {
        let start = Instant::now();
        let at = |secs| Arrival::new(start + Duration::from_secs(secs), ArrivalKind::Create);
        let admit = |policy: &TokenBucket, secs| policy.admit(&at(secs)).now_or_never().expect("never waits");
        let changed = TokenBucket::per_second(1).burst(4);
        let expected = TokenBucket::per_second(1).burst(4);
        // The other one is never asked for what is undone here.
        let undone = admit(&changed, 0).expect("full");
        for policy in [&changed, &expected] {
            for _ in 0..3 {
                drop(admit(policy, 0).expect("a burst of four").commit());
            }
            assert!(policy.retune(&TokenBucket::per_second(0.1).burst(4), at(0).now()));
        }
        assert!(admit(&changed, 1).is_err(), "four are owed, at ten seconds each");
        drop(undone);
        let left = [&changed, &expected].map(|policy| {
            let first = admit(policy, 11).map(|permit| drop(permit.commit())).is_ok();
            (first, admit(policy, 11).map(drop).map_err(|no| no.retry()))
        });
        assert_eq!(left[0], left[1]);
        assert!(changed.lock().steps.is_empty(), "nothing is remembered for an undo");
    }

    proptest! {
        /// A bucket in which some admissions are undone decides as one that was never asked for them, whatever changes.
        #[test]
        fn an_undo_is_exact_whatever_the_rates(
            steps in prop::collection::vec((0..3_u8, 0..20_u64, 1..6_u32), 0..40),
            keeps in prop::collection::vec(any::<bool>(), 40),
        ) {
            let start = Instant::now();
            let rate = |number: u32| TokenBucket::new(number, Duration::from_secs(10)).burst(number);
            let (changed, expected) = (rate(3), rate(3));
            let (mut now, mut open) = (start, Vec::new());
            for ((step, wait, number), keep) in steps.into_iter().zip(keeps) {
                now += Duration::from_secs(wait);
                let arrival = Arrival::new(now, ArrivalKind::Create);
                let ask = |policy: &TokenBucket| policy.admit(&arrival).now_or_never().expect("never waits");
                match step {
                    0 => for policy in [&changed, &expected] {
                        assert!(policy.retune(&rate(number), now));
                    },
                    _ if keep => {
                        // What is open now may make it stricter, and never more lenient.
                        if let Ok(permit) = ask(&changed) {
                            drop(permit.commit());
                            prop_assert!(ask(&expected).map(|permit| drop(permit.commit())).is_ok());
                        }
                    }
                    _ => open.extend(ask(&changed).ok()),
                }
            }
            drop(open);
            let arrival = Arrival::new(now, ArrivalKind::Create);
            prop_assert_eq!(changed.peek(&arrival).map_err(|no| no.retry()), expected.peek(&arrival).map_err(|no| no.retry()));
        }
    }
}
