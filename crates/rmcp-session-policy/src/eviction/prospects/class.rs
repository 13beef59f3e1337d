//! [`Class`]: what sessions have in common that tells when they come back.

use std::time::Duration;

/// How many names are told apart: the commonest, and one for all others.
pub(super) const NAMES: usize = 9;
/// Bounds of the number of calls: 0, 1, 2 to 3, 4 to 15, and more.
const CALLS_FROM: [u64; 4] = [1, 2, 4, 16];
/// Bounds of the last gap in seconds: below 10 s, 1, 4, 12, 40 minutes, and more. No gap is a kind of its own.
const GAPS_FROM: [u64; 5] = [10, 60, 240, 720, 2_400];

/// How many ranges of the number of calls there are.
pub(super) const CALLS: usize = CALLS_FROM.len() + 1;
const GAPS: usize = GAPS_FROM.len() + 2;
const STREAMS: usize = 3;

/// How many classes a group has, which differ by the last gap alone.
pub(super) const GROUP: usize = GAPS;
/// How many groups the classes of the same calls are.
pub(super) const GROUPS: usize = NAMES * STREAMS;
/// How many classes there are.
pub(super) const CLASSES: usize = CALLS * GROUPS * GROUP;

/// Whether a client listens, for the class of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    /// It never did.
    Never,
    /// It does, or its stream has been lost for a moment only.
    Open,
    /// It did, and its stream is lost.
    Lost,
}

/// A kind of sessions, by the name of their client, how often it called, how long it paused last and whether it listens.
///
/// The number puts together what is pooled where a class has little evidence: the classes of a group, which differ by the last
/// gap alone, and the groups of the same calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(u16);

impl Class {
    /// Returns the class. `name` is the place of the client's name among the commonest, [`NAMES`]` - 1` for others.
    pub(super) fn new(name: u8, calls: u64, last_gap: Option<Duration>, listening: Listening) -> Self {
        let calls = CALLS_FROM.partition_point(|from| *from <= calls);
        let gap = last_gap.map_or(0, |gap| 1 + GAPS_FROM.partition_point(|from| *from <= gap.as_secs()));
        let name = usize::from(name).min(NAMES - 1);
        Self((((calls * NAMES + name) * STREAMS + listening as usize) * GAPS + gap) as u16)
    }

    /// Returns a number below [`CLASSES`].
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the place of the client's name, which [`new`](Self::new) was given.
    pub(super) const fn name(self) -> u8 {
        (self.index() / (GAPS * STREAMS) % NAMES) as u8
    }

    /// Returns the class that differs in the client's name alone.
    pub(super) const fn with_name(self, name: u8) -> Self {
        let others = self.index() - self.name() as usize * GAPS * STREAMS;
        Self((others + name as usize * GAPS * STREAMS) as u16)
    }

    /// Returns all classes.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES as u16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_945_classes_and_each_is_found() {
        let mut seen = vec![false; CLASSES];
        for name in 0..NAMES as u8 {
            for calls in [0, 1, 2, 4, 16] {
                for gap in [None, Some(0), Some(10), Some(60), Some(240), Some(720), Some(2_400)] {
                    for listening in [Listening::Never, Listening::Open, Listening::Lost] {
                        let class = Class::new(name, calls, gap.map(Duration::from_secs), listening);
                        assert!(!std::mem::replace(&mut seen[class.index()], true), "{class:?} is two");
                        assert_eq!(class.name(), name);
                    }
                }
            }
        }
        assert_eq!((seen.len(), seen.iter().all(|seen| *seen)), (945, true));
    }

    #[test]
    fn bounds_belong_to_the_upper_range() {
        let of = |calls, millis| Class::new(0, calls, Some(Duration::from_millis(millis)), Listening::Open);
        assert_eq!(of(3, 0), of(2, 9_999));
        assert_ne!(of(3, 9_999), of(3, 10_000));
        assert_eq!(of(15, 2_399_999), of(4, 720_000));
        assert_ne!(of(15, 720_000), of(16, 720_000));
        assert_eq!(of(16, 2_400_000), of(u64::MAX, u64::MAX));
    }

    #[test]
    fn a_name_can_be_taken_out_of_a_class() {
        for class in Class::all() {
            let other = class.with_name(8);
            assert_eq!(other.name(), 8);
            assert_eq!(other.with_name(class.name()), class);
        }
        assert_eq!(Class::new(200, 0, None, Listening::Never).name(), 8);
    }

    #[test]
    fn a_group_differs_by_the_last_gap_alone() {
        let group = |gap| Class::new(3, 7, gap, Listening::Lost).index() / GROUP;
        assert_eq!(group(None), group(Some(Duration::from_secs(100))));
        assert_ne!(group(None), Class::new(3, 7, None, Listening::Open).index() / GROUP);
    }
}
