//! The places that a trace needs: with that number, a policy that knows the future loses no session that is called again.

use crate::event::Micros;

/// From when to when a session needs its place.
#[derive(Clone, Copy, Debug)]
pub struct Stay {
    opened: Micros,
    /// The end of its last call; the opening if it never calls.
    until: Micros,
}

impl Stay {
    /// Begins with the opening of a session.
    #[must_use]
    pub const fn from(opened: Micros) -> Self {
        Self { opened, until: opened }
    }

    /// Takes a call in, which ends at this moment.
    pub fn call(&mut self, end: Micros) {
        self.until = self.until.max(end);
    }
}

/// Returns the most sessions that are at one time between their opening and the end of their last call, after `warm`.
///
/// Sessions that never call need no place. Of a session that ends when another is opened, only one counts. O(n log n) for
/// n sessions.
pub fn needed(stays: impl Iterator<Item = Stay>, warm: Micros) -> usize {
    let mut steps: Vec<(Micros, bool)> = stays
        .filter(|stay| stay.until > stay.opened.max(warm))
        .flat_map(|stay| [(stay.opened, true), (stay.until, false)])
        .collect();
    // Ends before beginnings. All that begin before `warm` are there at `warm`, so the most are never before it.
    steps.sort_unstable();
    let (mut now, mut most) = (0_usize, 0);
    for (_, begins) in steps {
        now = if begins { now + 1 } else { now - 1 };
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stays(spans: &[(Micros, Micros)]) -> impl Iterator<Item = Stay> {
        spans.iter().map(|(opened, until)| {
            let mut stay = Stay::from(*opened);
            stay.call(*until);
            stay
        })
    }

    #[test]
    fn the_most_at_one_time_count() {
        assert_eq!(needed(stays(&[(0, 10), (5, 15), (10, 20), (14, 16)]), 0), 3);
        assert_eq!(needed(stays(&[(0, 10), (10, 20)]), 0), 1);
        assert_eq!(needed([Stay::from(3)].into_iter(), 0), 0, "it never calls");
    }

    #[test]
    fn what_ends_in_the_warm_up_does_not_count() {
        let crowd = [(0, 10), (1, 10), (2, 10), (9, 30), (25, 40)];
        assert_eq!(needed(stays(&crowd), 0), 4);
        assert_eq!(needed(stays(&crowd), 10), 2);
        assert_eq!(needed(stays(&crowd), 35), 1);
    }
}
