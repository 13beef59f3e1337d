//! [`Permit`] and [`Lease`]: an admission before and after it is final.

use std::fmt;

/// Holds an admission that can still be undone: dropping it is the undo, [`commit`](Self::commit) makes it final.
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

/// Holds what a session keeps of its admission while it lives.
///
/// The manager drops the lease when the session is gone.
///
/// ```
/// use std::sync::Arc;
///
/// use rmcp_session_policy::admission::Permit;
///
/// let seat = Arc::new(());
/// let lease = Permit::holding(Arc::clone(&seat)).commit();
/// assert_eq!(Arc::strong_count(&seat), 2);
/// drop(lease);
/// assert_eq!(Arc::strong_count(&seat), 1);
/// ```
#[must_use = "dropped at once, what the session should hold is free at once"]
pub struct Lease {
    parts: Parts<Box<dyn Send>>,
}

/// Makes an admission final, or undoes it when dropped. [`Permit::reserving`] takes one.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
///
/// use rmcp_session_policy::admission::{Lease, Permit, Reservation};
///
/// struct Reserved(Arc<AtomicI32>, bool);
///
/// impl Reservation for Reserved {
///     fn commit(mut self: Box<Self>) -> Lease {
///         self.1 = true;
///         Lease::free()
///     }
/// }
///
/// impl Drop for Reserved {
///     fn drop(&mut self) {
///         self.0.fetch_sub(i32::from(!self.1), SeqCst);
///     }
/// }
///
/// let used = Arc::new(AtomicI32::new(2));
/// drop(Permit::reserving(Reserved(Arc::clone(&used), false)));
/// assert_eq!(used.load(SeqCst), 1, "undone");
/// drop(Permit::reserving(Reserved(Arc::clone(&used), false)).commit());
/// assert_eq!(used.load(SeqCst), 1, "final");
/// ```
pub trait Reservation: Send + 'static {
    /// Makes the admission final, and returns what the session holds from then on.
    fn commit(self: Box<Self>) -> Lease;
}

/// Holds none, one or many; only many allocate a list.
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
    /// Makes a permit with nothing to undo and nothing to hold.
    pub const fn free() -> Self {
        Self { parts: Parts::None }
    }

    /// Makes a permit that calls `undo` if it is dropped without a commit.
    pub fn undone_by(undo: impl FnOnce() + Send + 'static) -> Self {
        Self::reserving(UndoneBy(Some(undo)))
    }

    /// Makes a permit that holds `guard` until it is undone, or until the session is gone.
    pub fn holding(guard: impl Send + 'static) -> Self {
        Self::reserving(Holding(guard))
    }

    /// Makes a permit that calls [`Reservation::commit`] when it is committed, and drops `reservation` if it is undone.
    pub fn reserving(reservation: impl Reservation) -> Self {
        Self { parts: Parts::One(Box::new(reservation)) }
    }

    /// Joins two permits: both are undone, or both are committed.
    pub fn and(self, other: Self) -> Self {
        Self { parts: self.parts.join(other.parts) }
    }

    /// Makes the admission final: the session exists now.
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
    /// Makes a lease that holds nothing.
    pub const fn free() -> Self {
        Self { parts: Parts::None }
    }

    /// Joins two leases: both are held until the session is gone.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use rmcp_session_policy::admission::Lease;
    ///
    /// let seat = Arc::new(());
    /// let both = Lease::holding(Arc::clone(&seat)).and(Lease::holding(Arc::clone(&seat)));
    /// assert_eq!(Arc::strong_count(&seat), 3);
    /// drop(both);
    /// assert_eq!(Arc::strong_count(&seat), 1);
    /// ```
    pub fn and(self, other: Self) -> Self {
        Self { parts: self.parts.join(other.parts) }
    }

    pub(crate) const fn is_free(&self) -> bool {
        matches!(self.parts, Parts::None)
    }

    /// Makes a lease that holds `guard` until the session is gone.
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
