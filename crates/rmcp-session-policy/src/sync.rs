//! The synchronization primitives of a session: the usual ones, or loom's in tests that try every interleaving.
//!
//! The condition is `all(test, loom)`: `--cfg loom` reaches every crate of a build, but only the tests of this crate
//! depend on loom.

/// An atomic that loom need not model, because it is written under a lock and decides no race.
pub(crate) use std::sync::atomic::AtomicU32 as UncheckedU32;

#[cfg(all(test, loom))]
pub(crate) use checked::{AtomicBool, AtomicU32, AtomicU64, Lazy, Mutex, MutexGuard, Notify, SegQueue, fence};
#[cfg(not(all(test, loom)))]
pub(crate) use {
    crossbeam_queue::SegQueue,
    lazy::Lazy,
    std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence},
    std::sync::{Mutex, MutexGuard},
    tokio::sync::Notify,
};

#[cfg(not(all(test, loom)))]
mod lazy {
    use std::sync::OnceLock;

    /// Holds a value that is allocated at its first use; until then it takes one pointer and a state.
    #[derive(Debug)]
    pub(crate) struct Lazy<T>(OnceLock<Box<T>>);

    impl<T> Default for Lazy<T> {
        fn default() -> Self {
            Self(OnceLock::new())
        }
    }

    impl<T: Default> Lazy<T> {
        pub(crate) fn get(&self) -> Option<&T> {
            self.0.get().map(|made| &**made)
        }

        pub(crate) fn get_or_make(&self) -> &T {
            self.0.get_or_init(Box::default)
        }
    }
}

#[cfg(all(test, loom))]
mod checked {
    use std::collections::VecDeque;
    use std::sync::atomic::Ordering::{self, AcqRel, SeqCst};

    use loom::sync::atomic;
    pub(crate) use loom::sync::{Mutex, MutexGuard};
    use tokio::sync::futures::Notified;

    pub(crate) use loom::sync::atomic::fence;

    /// Holds a value that exists from the beginning, but is visible only from its first use on.
    #[derive(Debug, Default)]
    pub(crate) struct Lazy<T> {
        value: T,
        made: AtomicBool,
    }

    impl<T> Lazy<T> {
        pub(crate) fn get(&self) -> Option<&T> {
            self.made.load(Ordering::Acquire).then_some(&self.value)
        }

        pub(crate) fn get_or_make(&self) -> &T {
            self.made.store(true, Ordering::Release);
            &self.value
        }
    }

    /// Puts a fence before each `SeqCst` access. Loom treats `SeqCst` accesses as `AcqRel`, but models `SeqCst` fences,
    /// which make them sequential again.
    fn fenced(order: Ordering) -> Ordering {
        if order == SeqCst {
            fence(SeqCst);
        }
        order
    }

    macro_rules! atomics {
        ($($name:ident($value:ty): $($method:ident -> $returns:ty),*;)*) => {$(
            #[derive(Debug, Default)]
            pub(crate) struct $name(atomic::$name);

            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    self.0.load(fenced(order))
                }

                $(pub(crate) fn $method(&self, value: $value, order: Ordering) -> $returns {
                    self.0.$method(value, fenced(order))
                })*
            }
        )*};
    }

    atomics! {
        AtomicBool(bool): store -> (), swap -> bool;
        AtomicU32(u32): fetch_add -> u32, fetch_sub -> u32;
        AtomicU64(u64): store -> (), fetch_add -> u64, fetch_sub -> u64, fetch_and -> u64, fetch_or -> u64, fetch_max -> u64;
    }

    impl AtomicU64 {
        pub(crate) fn fetch_update(
            &self,
            set: Ordering,
            fetch: Ordering,
            update: impl FnMut(u64) -> Option<u64>,
        ) -> Result<u64, u64> {
            self.0.fetch_update(fenced(set), fetch, update)
        }
    }

    /// A queue in which each operation is one step for loom.
    #[derive(Debug)]
    pub(crate) struct SegQueue<T>(Mutex<VecDeque<T>>);

    impl<T> Default for SegQueue<T> {
        fn default() -> Self {
            Self(Mutex::new(VecDeque::new()))
        }
    }

    impl<T> SegQueue<T> {
        pub(crate) fn push(&self, value: T) {
            self.0.lock().expect("loom poisons no lock").push_back(value);
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.0.lock().expect("loom poisons no lock").pop_front()
        }

        pub(crate) fn len(&self) -> usize {
            self.0.lock().expect("loom poisons no lock").len()
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.len() == 0
        }
    }

    /// Wraps tokio's `Notify`, which loom cannot model. Each call is one step for loom, through an access of a counter.
    #[derive(Debug, Default)]
    pub(crate) struct Notify {
        notify: tokio::sync::Notify,
        steps: atomic::AtomicU32,
    }

    impl Notify {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn notified(&self) -> Notified<'_> {
            self.steps.fetch_add(1, AcqRel);
            self.notify.notified()
        }

        pub(crate) fn notify_waiters(&self) {
            self.steps.fetch_add(1, AcqRel);
            self.notify.notify_waiters();
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::SeqCst;

    use loom::{model, thread};

    use super::*;

    #[test]
    fn of_two_who_write_and_then_look_at_the_other_one_sees_it() {
        model(|| {
            let words = Arc::new([AtomicBool::default(), AtomicBool::default()]);
            let other = Arc::clone(&words);
            let other = thread::spawn(move || {
                other[1].store(true, SeqCst);
                other[0].load(SeqCst)
            });
            words[0].store(true, SeqCst);
            let seen = words[1].load(SeqCst);
            assert!(other.join().unwrap() || seen);
        });
    }
}
