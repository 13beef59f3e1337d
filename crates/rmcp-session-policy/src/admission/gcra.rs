//! The generic cell rate algorithm: arithmetic on a quota, a state and a moment.
//!
//! Source: ITU-T I.371 (2004), annex A, and ATM Forum Traffic Management 4.1, section 4.4.2, "virtual scheduling". The
//! state is one number, the *theoretical arrival time*: the moment at which the bucket will be full again.

/// How many, and how fast they come back. In nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    /// The time in which one token comes back, rounded up: rounding lets nobody in who would not be otherwise.
    pub(super) interval: u64,
    /// The time in which an empty bucket fills.
    pub(super) full: u64,
}

impl Quota {
    /// The state after an admission at `now`, or how long to wait for one.
    pub(super) fn admit(self, arrival_time: u64, now: u64) -> Result<u64, u64> {
        let after = self.after(arrival_time, now);
        let latest = now.saturating_add(self.full);
        if after <= latest { Ok(after) } else { Err(after - latest) }
    }

    /// The state after an admission at `now` that was let in.
    pub(super) fn after(self, arrival_time: u64, now: u64) -> u64 {
        arrival_time.max(now).saturating_add(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_per_interval() {
        let quota = Quota { interval: 10, full: 30 };
        let mut state = 0;
        for _ in 0..3 {
            state = quota.admit(state, 0).expect("within the burst");
        }
        assert_eq!(quota.admit(state, 0), Err(10));
        assert_eq!(quota.admit(state, 9), Err(1));
        assert_eq!(quota.admit(state, 10), Ok(40));
    }

    #[test]
    fn an_idle_bucket_is_no_more_than_full() {
        let quota = Quota { interval: 10, full: 20 };
        let mut state = 0;
        for _ in 0..2 {
            state = quota.admit(state, 1_000).expect("within the burst");
        }
        assert_eq!(quota.admit(state, 1_000), Err(10));
    }
}
