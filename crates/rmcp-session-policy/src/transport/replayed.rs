//! [`Replayed`]: stored events, and live ones after them.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;
use std::pin::Pin;
use std::task::{Context, Poll};

use foldhash::fast::RandomState;
use futures_core::Stream;
use rmcp::transport::streamable_http_server::session::{EventStream, ServerSseMessage};

/// How many events are remembered while stored events still come, so that none comes twice. More than a live stream holds
/// back while its client reads stored ones.
const REMEMBERED: usize = 1_024;

/// A stream of the events that an event store has after some event, and of live ones.
///
/// The live stream has to be opened before the store is asked, so that no event is in neither. An event in both comes once:
/// they are told apart by the ids of the store, so both streams must have them. Stored events come first as long as the
/// store has them at hand; a store may keep its stream open, so the end of the live stream is the end.
pub(crate) struct Replayed<L> {
    /// `None` once it has ended.
    stored: Option<EventStream>,
    live: Pin<Box<L>>,
    seen: Seen,
}

/// The hashes of the ids that came last.
#[derive(Default)]
struct Seen {
    hasher: RandomState,
    ids: HashSet<u64, RandomState>,
    order: VecDeque<u64>,
}

impl Seen {
    /// Returns false if the id was seen.
    fn insert(&mut self, id: &str) -> bool {
        let id = self.hasher.hash_one(id);
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }

    fn contains(&self, id: &str) -> bool {
        !self.ids.is_empty() && self.ids.contains(&self.hasher.hash_one(id))
    }
}

impl<L> Replayed<L> {
    pub(crate) fn new(stored: EventStream, live: L) -> Self {
        Self { stored: Some(stored), live: Box::pin(live), seen: Seen::default() }
    }
}

impl<L: Stream<Item = ServerSseMessage>> Stream for Replayed<L> {
    type Item = ServerSseMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { stored, live, seen } = self.get_mut();
        while let Some(events) = stored {
            match events.as_mut().poll_next(cx) {
                Poll::Ready(Some(event)) => {
                    if event.event_id.as_deref().is_none_or(|id| seen.insert(id)) {
                        return Poll::Ready(Some(event));
                    }
                }
                Poll::Ready(None) => *stored = None,
                Poll::Pending => break,
            }
        }
        loop {
            match live.as_mut().poll_next(cx) {
                Poll::Ready(Some(event)) => {
                    let is_new = match (&event.event_id, &stored) {
                        (Some(id), Some(_)) => seen.insert(id),
                        (Some(id), None) => !seen.contains(id),
                        (None, _) => true,
                    };
                    if is_new {
                        return Poll::Ready(Some(event));
                    }
                }
                end => return end,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt, stream};

    use super::*;

    fn events(ids: &[usize]) -> Vec<ServerSseMessage> {
        let event = |id: &usize| ServerSseMessage::priming(id.to_string(), std::time::Duration::ZERO);
        ids.iter().map(event).collect()
    }

    /// The ids that come until nothing is ready or all is over, and whether it is over.
    fn all<L: Stream<Item = ServerSseMessage>>(mut replayed: Replayed<L>) -> (Vec<usize>, bool) {
        let mut ids = Vec::new();
        loop {
            match replayed.next().now_or_never() {
                Some(Some(event)) => ids.push(event.event_id.expect("an id").parse().expect("a number")),
                Some(None) => return (ids, true),
                None => return (ids, false),
            }
        }
    }

    #[test]
    fn stored_events_come_first_and_none_comes_twice() {
        let live = || stream::iter(events(&[2, 3, 4, 5]));
        let stored = || stream::iter(events(&[1, 2, 3]));
        assert_eq!(all(Replayed::new(stored().boxed_sync(), live())), (vec![1, 2, 3, 4, 5], true));
        let open = stored().chain(stream::pending()).boxed_sync();
        assert_eq!(all(Replayed::new(open, live())), (vec![1, 2, 3, 4, 5], true));
        let open = stored().chain(stream::pending()).boxed_sync();
        assert_eq!(all(Replayed::new(open, live().chain(stream::pending()))), (vec![1, 2, 3, 4, 5], false));
        assert_eq!(all(Replayed::new(stream::empty().boxed_sync(), live())), (vec![2, 3, 4, 5], true));
    }

    #[test]
    fn what_was_heard_live_is_not_replayed_by_a_store_that_tells_of_it_later() {
        let mut polls = 0;
        let stored = events(&[4, 5, 6]);
        let mut rest = stored.into_iter();
        let late = stream::poll_fn(move |cx: &mut Context<'_>| {
            polls += 1;
            if polls == 1 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(rest.next())
        });
        let live = stream::iter(events(&[4])).chain(stream::pending());
        assert_eq!(all(Replayed::new(late.boxed_sync(), live)), (vec![4, 5, 6], false));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        for id in 0..10 * REMEMBERED {
            assert!(seen.insert(&id.to_string()));
        }
        assert_eq!((seen.ids.len(), seen.order.len()), (REMEMBERED, REMEMBERED));
        assert!(seen.contains(&(10 * REMEMBERED - 1).to_string()) && !seen.contains("0"));
    }

    /// As `boxed`, for a stream that is `Sync` too.
    trait BoxedSync: Stream<Item = ServerSseMessage> + Send + Sync + Sized + 'static {
        fn boxed_sync(self) -> EventStream {
            Box::pin(self)
        }
    }

    impl<S: Stream<Item = ServerSseMessage> + Send + Sync + 'static> BoxedSync for S {}
}
