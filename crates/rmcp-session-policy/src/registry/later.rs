//! Whom to look at again though nothing happens to them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::roster::Again;
use crate::queue::{Queue, SPARE};
use crate::session::SessionKey;
use crate::timestamp::Timestamp;

/// So many sessions that a predicate keeps from going are looked at again each second: every one of them each second
/// up to this many, and each of a million every hundred seconds.
const DOUBTS_PER_SECOND: usize = 10_000;

/// What is noted of one session, so that it is noted once.
#[derive(Debug)]
pub(super) struct Noted {
    /// [`Timestamp::NEVER`] if no moment is noted.
    at: Timestamp,
    protected: bool,
    hidden: bool,
}

impl Default for Noted {
    fn default() -> Self {
        Self { at: Timestamp::NEVER, protected: false, hidden: false }
    }
}

/// Sessions that were set aside and may go at some moment, known or not, without anything happening to them.
///
/// A note is not searched for when its session ends or is noted for an earlier moment. It goes when its time has come,
/// or when there are twice as many notes as sessions.
#[derive(Debug, Default)]
pub(super) struct Later {
    moments: Queue<Timestamp>,
    protected: Doubts,
    hidden: Doubts,
}

/// Sessions whose predicate is to be asked again, in the order of their moments.
type Doubts = VecDeque<(Instant, SessionKey)>;

impl Later {
    /// Notes a session; of two known moments for one the earlier counts.
    pub(super) fn note(&mut self, key: SessionKey, again: Again, noted: &mut Noted, now: Instant) {
        match again {
            Again::At(at) => {
                if at < noted.at {
                    noted.at = at;
                    self.moments.push(at, key);
                }
            }
            Again::Protected => doubt(&mut self.protected, key, &mut noted.protected, now),
            Again::Hidden => doubt(&mut self.hidden, key, &mut noted.hidden, now),
        }
    }

    /// The next whose moment has come. Its note may have lost its meaning: ask [`Again::is_noted`].
    pub(super) fn next_moment(&mut self, now: Timestamp) -> Option<(SessionKey, Again)> {
        let (at, key) = self.moments.peek().filter(|(at, _)| *at <= now)?;
        self.moments.pop();
        Some((key, Again::At(at)))
    }

    /// The first moment that is noted. Its note may have lost its meaning.
    pub(super) fn first_moment(&self) -> Option<Timestamp> {
        self.moments.peek().map(|(at, _)| at)
    }

    /// The next that is to be asked again whether it is still protected.
    pub(super) fn next_protected(&mut self, now: Instant) -> Option<(SessionKey, Again)> {
        Some((next_doubt(&mut self.protected, now)?, Again::Protected))
    }

    /// The next that is to be asked again whether it is still hidden.
    pub(super) fn next_hidden(&mut self, now: Instant) -> Option<(SessionKey, Again)> {
        Some((next_doubt(&mut self.hidden, now)?, Again::Hidden))
    }

    /// Forgets the notes that have lost their meaning if there are more than twice as many of a kind as sessions.
    pub(super) fn tidy(&mut self, sessions: usize, means: impl Fn(SessionKey, Again) -> bool) {
        self.moments.tidy(sessions, |at, key| means(key, Again::At(at)));
        let most = SPARE + 2 * sessions;
        if self.protected.len() > most {
            self.protected.retain(|(_, key)| means(*key, Again::Protected));
        }
        if self.hidden.len() > most {
            self.hidden.retain(|(_, key)| means(*key, Again::Hidden));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.moments.len() + self.protected.len() + self.hidden.len()
    }
}

impl Again {
    /// Whether the note is the one that counts for its session.
    pub(super) fn is_noted(self, noted: &Noted) -> bool {
        match self {
            Self::At(at) => noted.at == at,
            Self::Protected => noted.protected,
            Self::Hidden => noted.hidden,
        }
    }

    /// Takes the note back; tells whether it was the one that counts.
    pub(super) fn take(self, noted: &mut Noted) -> bool {
        let counts = self.is_noted(noted);
        if counts {
            match self {
                Self::At(_) => noted.at = Timestamp::NEVER,
                Self::Protected => noted.protected = false,
                Self::Hidden => noted.hidden = false,
            }
        }
        counts
    }
}

fn doubt(doubts: &mut Doubts, key: SessionKey, noted: &mut bool, now: Instant) {
    if !std::mem::replace(noted, true) {
        let wait = Duration::from_secs(1 + (doubts.len() / DOUBTS_PER_SECOND) as u64);
        doubts.push_back((now + wait, key));
    }
}

fn next_doubt(doubts: &mut Doubts, now: Instant) -> Option<SessionKey> {
    let &(_, key) = doubts.front().filter(|(at, _)| *at <= now)?;
    doubts.pop_front();
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_two_moments_the_earlier_counts_and_each_is_noted_once() {
        let (key, now) = (SessionKey::new(0, 1), Instant::now());
        let [near, far] = [1, 2].map(Timestamp);
        let (mut later, mut noted) = (Later::default(), Noted::default());
        for again in [far, far, near, near, far].map(Again::At).into_iter().chain([Again::Protected; 2]) {
            later.note(key, again, &mut noted, now);
        }
        assert_eq!(later.len(), 3, "the far moment, the near one, and the doubt");
        let told = std::iter::from_fn(|| later.next_moment(far)).map(|(_, again)| again.take(&mut noted));
        assert_eq!(told.collect::<Vec<_>>(), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn notes_without_a_meaning_are_forgotten_once_there_are_more_than_told() {
        let now = Instant::now();
        for again in [Again::At(Timestamp(1)), Again::Protected, Again::Hidden] {
            let mut later = Later::default();
            for nth in 0..SPARE as u32 + 10 {
                later.note(SessionKey::new(nth, 1), again, &mut Noted::default(), now);
            }
            later.tidy(5, |_, _| false);
            assert_eq!(later.len(), SPARE + 10);
            later.tidy(4, |key, of| of == again && key.index() % 2 == 0);
            assert_eq!(later.len(), SPARE / 2 + 5);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn doubts_wait_a_second_and_longer_the_more_there_are() {
        let now = Instant::now();
        let mut later = Later::default();
        for nth in 0..=DOUBTS_PER_SECOND as u32 {
            later.note(SessionKey::new(nth, 1), Again::Hidden, &mut Noted::default(), now);
        }
        let mut due = |secs| std::iter::from_fn(|| later.next_hidden(now + Duration::from_secs(secs))).count();
        assert_eq!([due(0), due(1), due(2)], [0, DOUBTS_PER_SECOND, 1]);
    }
}
