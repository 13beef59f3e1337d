//! The dense name of a session.

/// Names one incarnation of a session: a dense index, reused, and a generation, not reused.
///
/// A policy can keep what it knows of a session in a `Vec` at [`index`](Self::index), or in a map by the whole key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    generation: u32,
    index: u32,
}

impl SessionKey {
    pub(crate) const fn new(index: u32, generation: u32) -> Self {
        Self { generation, index }
    }

    /// A small number, less than the most sessions there have been at one time. Another session may have it later.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// Tells sessions apart that had the same index at different times.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }
}
