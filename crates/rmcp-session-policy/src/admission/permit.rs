//! What an admission hands out.

use std::fmt;

/// An admission that can still be undone: its drop is the undo, [`commit`](Self::commit) makes it final.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
///
/// use rmcp_session_policy::admission::Permit;
///
/// let tokens = Arc::new(AtomicU32::new(0));
/// let back = Arc::clone(&tokens);
/// let permit = Permit::undone_by(move || drop(back.fetch_add(1, SeqCst)));
/// drop(permit);
/// assert_eq!(tokens.load(SeqCst), 1);
/// ```
#[must_use = "dropped at once, the admission is undone at once"]
pub struct Permit {
    parts: Parts<Box<dyn Reservation>>,
}

/// What a session holds of its admission, for as long as it lives.
#[must_use = "dropped at once, what the session should hold is free at once"]
pub struct Lease {
    parts: Parts<Box<dyn Send>>,
}

/// What a permit stands for. Its drop is the undo.
pub trait Reservation: Send + 'static {
    /// Makes the admission final: from here on only the lease counts.
    fn commit(self: Box<Self>) -> Lease;
}

/// None, one, or many; only many allocate.
enum Parts<T> {
    None,
    One(T),
    Many(Vec<T>),
}

impl<T> Parts<T> {
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, parts) | (parts, Self::None) => parts,
            (one, other) => Self::Many(one.into_vec().into_iter().chain(other.into_vec()).collect()),
        }
    }

    fn into_vec(self) -> Vec<T> {
        match self {
            Self::None => Vec::new(),
            Self::One(part) => vec![part],
            Self::Many(parts) => parts,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(parts) => parts.len(),
        }
    }
}

impl Permit {
    /// An admission with nothing to undo and nothing to hold.
    pub const fn free() -> Self {
        Self { parts: Parts::None }
    }

    /// An admission that `undo` takes back, if it is dropped before it is committed.
    pub fn undone_by(undo: impl FnOnce() + Send + 'static) -> Self {
        Self::reserving(UndoneBy(Some(undo)))
    }

    /// An admission that holds `guard`: until it is undone, or for as long as the session lives.
    pub fn holding(guard: impl Send + 'static) -> Self {
        Self::reserving(Holding(guard))
    }

    /// An admission that wants to know when it is final.
    pub fn reserving(reservation: impl Reservation) -> Self {
        Self { parts: Parts::One(Box::new(reservation)) }
    }

    /// Joins two admissions: both are undone, or both are committed.
    pub fn and(self, other: Self) -> Self {
        Self { parts: self.parts.join(other.parts) }
    }

    /// Makes the admission final: the session exists.
    pub fn commit(self) -> Lease {
        match self.parts {
            Parts::None => Lease { parts: Parts::None },
            Parts::One(reservation) => reservation.commit(),
            Parts::Many(reservations) => {
                let parts = reservations.into_iter().map(|reservation| reservation.commit().parts);
                Lease { parts: parts.fold(Parts::None, Parts::join) }
            }
        }
    }
}

impl Lease {
    /// A session that holds nothing.
    pub const fn free() -> Self {
        Self { parts: Parts::None }
    }

    pub(crate) const fn is_free(&self) -> bool {
        matches!(self.parts, Parts::None)
    }

    /// A session that holds `guard` for as long as it lives.
    pub fn holding(guard: impl Send + 'static) -> Self {
        Self { parts: Parts::One(Box::new(guard)) }
    }
}

struct UndoneBy<F: FnOnce()>(Option<F>);

impl<F: FnOnce() + Send + 'static> Reservation for UndoneBy<F> {
    fn commit(mut self: Box<Self>) -> Lease {
        self.0 = None;
        Lease::free()
    }
}

impl<F: FnOnce()> Drop for UndoneBy<F> {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}

struct Holding<T>(T);

impl<T: Send + 'static> Reservation for Holding<T> {
    fn commit(self: Box<Self>) -> Lease {
        Lease::holding(self.0)
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("reservations", &self.parts.len()).finish()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("held", &self.parts.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;

    struct Count(Arc<AtomicU32>);

    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn what_is_committed_is_not_undone() {
        let undone = Arc::new(AtomicU32::new(0));
        let by = Arc::clone(&undone);
        drop(
            Permit::undone_by(move || {
                by.fetch_add(1, SeqCst);
            })
            .commit(),
        );
        assert_eq!(undone.load(SeqCst), 0);
    }

    #[test]
    fn joined_permits_are_undone_together_and_held_together() {
        let (undone, held) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let make = || {
            let by = Arc::clone(&undone);
            Permit::undone_by(move || {
                by.fetch_add(1, SeqCst);
            })
            .and(Permit::free())
            .and(Permit::holding(Count(Arc::clone(&held))))
        };
        drop(make());
        assert_eq!((undone.load(SeqCst), held.load(SeqCst)), (1, 1));
        let lease = make().commit();
        assert_eq!((undone.load(SeqCst), held.load(SeqCst)), (1, 1));
        drop(lease);
        assert_eq!((undone.load(SeqCst), held.load(SeqCst)), (1, 2));
    }
}
