//! Whether two policies have one shape, so that one can take over the numbers of the other.

use std::any::{Any, TypeId};

use super::AdmissionPolicy;

/// The other policy, if it is of this type.
pub(super) fn same<P: Any>(to: &dyn AdmissionPolicy) -> Option<&P> {
    to.as_any()?.downcast_ref()
}

/// Whether two closures of one type are the same. One that captures something may have captured something else.
pub(super) const fn captures_nothing<F>() -> bool {
    size_of::<F>() == 0
}

/// Where the keys of a keyed policy come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Client,
    Prefix,
    Session,
    /// A closure of this type, which captures nothing.
    Closure(TypeId),
}

impl KeyKind {
    /// The kind of keys that a closure makes. `None` if another closure of its type may make other keys.
    pub(super) fn of<F: 'static>(_: &F) -> Option<Self> {
        captures_nothing::<F>().then(|| Self::Closure(TypeId::of::<F>()))
    }
}
