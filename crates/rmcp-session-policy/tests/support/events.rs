//! An event store in memory, which behaves as a test sets it.

#![allow(
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    missing_docs,
    missing_debug_implementations,
    reason = "a fixture"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};

use futures_util::{StreamExt, stream};
use rmcp::transport::streamable_http_server::session::{
    EventId, EventStore, EventStoreError, EventStream, ServerSseMessage,
};

/// How a store behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    Well,
    /// The stream of a replay stays open, as a distributed log's may.
    Open,
    Fails,
    Hangs,
    Panics,
}

const MOODS: [Mood; 5] = [Mood::Well, Mood::Open, Mood::Fails, Mood::Hangs, Mood::Panics];

/// An event store as rmcp requires: its ids are unique, and it does not check the owner of an id.
#[derive(Default)]
pub struct Events {
    pub events: Mutex<Vec<(String, ServerSseMessage)>>,
    mood: AtomicU8,
    pub replays: AtomicUsize,
}

impl Events {
    /// Sets how it behaves.
    pub fn is_in(&self, mood: Mood) {
        self.mood.store(mood as u8, SeqCst);
    }

    async fn behave(&self) -> Result<(), EventStoreError> {
        match MOODS[usize::from(self.mood.load(SeqCst))] {
            Mood::Well | Mood::Open => Ok(()),
            Mood::Fails => Err("as told".into()),
            Mood::Hangs => std::future::pending().await,
            Mood::Panics => panic!("as told"),
        }
    }

    /// The stream of each event that it has, as it was named.
    pub fn streams(&self) -> Vec<String> {
        self.events.lock().expect("no panic").iter().map(|(stream, _)| stream.clone()).collect()
    }
}

#[async_trait::async_trait]
impl EventStore for Events {
    async fn store_event(&self, stream_id: &str, event: &ServerSseMessage) -> Result<EventId, EventStoreError> {
        self.behave().await?;
        let mut events = self.events.lock().expect("no panic");
        let id = format!("{}.event", events.len());
        let mut event = event.clone();
        event.event_id = Some(id.clone());
        events.push((stream_id.to_owned(), event));
        Ok(id)
    }

    async fn replay_events_after(&self, last_event_id: &str) -> Result<EventStream, EventStoreError> {
        self.replays.fetch_add(1, SeqCst);
        self.behave().await?;
        let events = self.events.lock().expect("no panic");
        let is_last = |(_, event): &(String, ServerSseMessage)| event.event_id.as_deref() == Some(last_event_id);
        let place = events.iter().position(is_last).ok_or("no such event")?;
        let stream_id = events[place].0.clone();
        let later: Vec<_> =
            events[place + 1..].iter().filter(|(id, _)| *id == stream_id).map(|(_, event)| event.clone()).collect();
        let later = stream::iter(later);
        Ok(if self.mood.load(SeqCst) == Mood::Open as u8 {
            Box::pin(later.chain(stream::pending()))
        } else {
            Box::pin(later)
        })
    }
}
