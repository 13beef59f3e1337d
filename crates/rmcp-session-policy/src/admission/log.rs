//! [`Log`]: moments in order, any of which can be removed in constant time.

const NONE: u32 = u32::MAX;
/// The moment of an entry that is free.
const FREE: u64 = u64::MAX;
const FIRST_CHUNK: u32 = 16;

/// Holds moments in order. Appending, removing the oldest and removing any other cost O(1) each, also in the worst case.
///
/// It is a linked list over an arena of chunks, each twice as large as the one before. Growing copies nothing, so the
/// cost of a step does not depend on the number of entries. Memory grows with the largest number of entries at one
/// time.
///
/// Free entries are used again in the order in which they became free. The list then runs through memory in one
/// direction, which processors prefetch. If the entry freed last were used first, the order would be shuffled and each
/// step would miss the caches.
#[derive(Debug)]
pub(super) struct Log {
    chunks: Vec<Vec<Entry>>,
    /// The number of entries that were ever used.
    used: u32,
    first_free: u32,
    last_free: u32,
    oldest: u32,
    newest: u32,
    len: usize,
}

#[derive(Debug)]
struct Entry {
    at: u64,
    before: u32,
    after: u32,
}

/// Identifies an entry by its index and its moment, so that a token from an earlier use of the index does not match.
/// After [`Log::pop_oldest`] the caller must therefore not append an entry with the same moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    index: u32,
    at: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { chunks: Vec::new(), used: 0, first_free: NONE, last_free: NONE, oldest: NONE, newest: NONE, len: 0 }
    }
}

/// Returns the chunk of an entry, and its place there.
const fn locate(index: u32) -> (usize, usize) {
    let chunk = (index / FIRST_CHUNK + 1).ilog2();
    let start = FIRST_CHUNK * ((1 << chunk) - 1);
    (chunk as usize, (index - start) as usize)
}

impl Log {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        (self.oldest != NONE).then(|| self.entry(self.oldest).at)
    }

    pub(super) fn newest(&self) -> Option<u64> {
        (self.newest != NONE).then(|| self.entry(self.newest).at)
    }

    fn entry(&self, index: u32) -> &Entry {
        let (chunk, place) = locate(index);
        &self.chunks[chunk][place]
    }

    fn entry_mut(&mut self, index: u32) -> &mut Entry {
        let (chunk, place) = locate(index);
        &mut self.chunks[chunk][place]
    }

    /// Appends a moment.
    pub(super) fn push(&mut self, at: u64) -> Token {
        let before = self.newest;
        let index = if self.first_free == NONE {
            let index = self.used;
            let (chunk, _) = locate(index);
            if chunk == self.chunks.len() {
                self.chunks.push(Vec::with_capacity((FIRST_CHUNK as usize) << chunk));
            }
            self.chunks[chunk].push(Entry { at, before, after: NONE });
            self.used += 1;
            index
        } else {
            let index = self.first_free;
            let entry = self.entry_mut(index);
            let next_free = entry.after;
            (entry.at, entry.before, entry.after) = (at, before, NONE);
            self.first_free = next_free;
            if next_free == NONE {
                self.last_free = NONE;
            }
            index
        };
        if before == NONE {
            self.oldest = index;
        } else {
            self.entry_mut(before).after = index;
        }
        self.newest = index;
        self.len += 1;
        Token { index, at }
    }

    /// Removes a moment, if it is still there.
    pub(super) fn remove(&mut self, token: Token) {
        if self.entry(token.index).at == token.at {
            self.unlink(token.index);
        }
    }

    /// Removes the oldest moment.
    pub(super) fn pop_oldest(&mut self) {
        if self.oldest != NONE {
            self.unlink(self.oldest);
        }
    }

    fn unlink(&mut self, index: u32) {
        let entry = self.entry_mut(index);
        let (before, after) = (entry.before, entry.after);
        (entry.at, entry.after) = (FREE, NONE);
        match self.last_free {
            NONE => self.first_free = index,
            last => self.entry_mut(last).after = index,
        }
        self.last_free = index;
        match before {
            NONE => self.oldest = after,
            before => self.entry_mut(before).after = after,
        }
        match after {
            NONE => self.newest = before,
            after => self.entry_mut(after).before = before,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_double() {
        assert_eq!([0, 15, 16, 47, 48].map(locate), [(0, 0), (0, 15), (1, 0), (1, 31), (2, 0)]);
    }

    #[test]
    fn a_token_of_an_entry_that_is_gone_takes_nothing_out() {
        let mut log = Log::default();
        let stale = log.push(1);
        log.pop_oldest();
        log.push(2);
        log.remove(stale);
        assert_eq!((log.len(), log.oldest()), (1, Some(2)));
    }

    proptest! {
        #[test]
        fn it_is_a_vector_with_removal(steps in prop::collection::vec((0..3u8, any::<prop::sample::Index>()), 0..300)) {
            let mut log = Log::default();
            let mut model: Vec<(u64, Token)> = Vec::new();
            for (at, (step, any)) in (0u64..).zip(steps) {
                match step {
                    0 if !model.is_empty() => log.remove(model.remove(any.index(model.len())).1),
                    1 if !model.is_empty() => {
                        log.pop_oldest();
                        model.remove(0);
                    }
                    _ => model.push((at, log.push(at))),
                }
                prop_assert_eq!(log.len(), model.len());
                prop_assert_eq!(log.oldest(), model.first().map(|(at, _)| *at));
                prop_assert_eq!(log.newest(), model.last().map(|(at, _)| *at));
            }
        }
    }
}
