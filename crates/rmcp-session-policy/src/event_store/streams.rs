//! What the wrapper remembers of streams: their last stored event, and of some their first one.

use std::io;
use std::sync::Arc;

use hashlink::LinkedHashMap;
use rmcp::model::ServerJsonRpcMessage;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;

use super::position::{Position, StreamName};

/// How many streams are remembered. The one that has been silent for longest is forgotten first.
const MOST: usize = 4_096;
/// How many bytes of first events are remembered.
const MOST_BYTES: usize = 16 << 20;
/// The longest first event that is remembered, in bytes.
const LONGEST: usize = MOST_BYTES / 16;

/// The streams, the one that was last heard of at the end. It takes 16 MiB for events and some 200 bytes for each of 4,096
/// streams at most.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: LinkedHashMap<StreamName, Stream>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Stream {
    /// The id of the last stored event, as the store has given it.
    last: Option<String>,
    /// Whether a client got an id for the position before the first stored event.
    is_begun: bool,
    /// The first stored event, if that is so. A store tells what comes after an event, so this one has to be kept.
    first: Option<First>,
}

#[derive(Debug)]
struct First {
    id: String,
    message: Arc<ServerJsonRpcMessage>,
    bytes: usize,
}

impl Stream {
    fn bytes(&self) -> usize {
        self.first.as_ref().map_or(0, |first| first.bytes)
    }
}

impl Streams {
    /// Returns the id for an event that is not stored.
    pub(super) fn id_here(&mut self, name: StreamName, number: u64) -> String {
        let stream = self.stream(name);
        let id = match &stream.last {
            Some(last) => Position::After(last).id(number),
            None => {
                stream.is_begun = true;
                Position::Beginning(name).id(number)
            }
        };
        self.shrink();
        id
    }

    /// Records that an event was stored.
    pub(super) fn stored(&mut self, name: StreamName, id: &str, event: &ServerSseMessage) {
        let stream = self.stream(name);
        let is_first = stream.last.is_none() && stream.is_begun;
        stream.last = Some(id.to_owned());
        if is_first
            && let Some(message) = &event.message
            && let Some(bytes) = length(message).map(|length| length + id.len()).filter(|bytes| *bytes <= LONGEST)
        {
            stream.first = Some(First { id: id.to_owned(), message: Arc::clone(message), bytes });
            self.bytes += bytes;
        }
        self.shrink();
    }

    /// Returns the first stored event of a stream, with the id that the store has given it.
    pub(super) fn first(&self, name: StreamName) -> Option<(String, ServerSseMessage)> {
        let First { id, message, .. } = self.streams.get(&name)?.first.as_ref()?;
        let mut event = ServerSseMessage::default();
        event.message = Some(Arc::clone(message));
        Some((id.clone(), event))
    }

    fn stream(&mut self, name: StreamName) -> &mut Stream {
        self.streams.to_back(&name);
        self.streams.entry(name).or_insert_with(Stream::default)
    }

    fn shrink(&mut self) {
        while self.streams.len() > MOST || self.bytes > MOST_BYTES {
            let Some((_, stream)) = self.streams.pop_front() else { return };
            self.bytes -= stream.bytes();
        }
    }
}

/// The length of a message as JSON, in bytes. Costs its serialization, without a buffer.
fn length(message: &ServerJsonRpcMessage) -> Option<usize> {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, message).ok()?;
    Some(count.0)
}

#[cfg(test)]
mod tests {
    use rmcp::model::{ErrorCode, ErrorData, RequestId};

    use super::*;

    fn event(length: usize) -> ServerSseMessage {
        let error = ErrorData::new(ErrorCode(1), "x".repeat(length), None);
        ServerSseMessage::from_message(ServerJsonRpcMessage::error(error, Some(RequestId::Number(1))))
    }

    fn name(number: usize) -> StreamName {
        StreamName::of(&number.to_string())
    }

    #[test]
    fn the_position_is_after_the_last_stored_event_or_before_the_first() {
        let mut streams = Streams::default();
        let begun = streams.id_here(name(1), 7);
        assert_eq!(Position::read(&begun), Some(Position::Beginning(name(1))));
        assert!(streams.first(name(1)).is_none());
        streams.stored(name(1), "a", &event(1));
        streams.stored(name(1), "b", &event(1));
        assert_eq!(streams.id_here(name(1), 8), "~8.b");
        assert_eq!(streams.first(name(1)).expect("the first").0, "a");
        // No client has asked for what comes before this one.
        streams.stored(name(2), "c", &event(1));
        assert!(streams.first(name(2)).is_none());
    }

    #[test]
    fn streams_are_bounded_in_number_and_bytes() {
        let mut streams = Streams::default();
        for number in 0..2 * MOST {
            streams.id_here(name(number), 0);
            streams.stored(name(number), "a", &event(1));
        }
        assert_eq!(streams.streams.len(), MOST);
        assert_eq!(streams.bytes, streams.streams.values().map(Stream::bytes).sum::<usize>());
        assert!(streams.first(name(MOST - 1)).is_none() && streams.first(name(MOST)).is_some(), "the oldest go first");
        for number in 0..100 {
            streams.id_here(name(number), 0);
            streams.stored(name(number), "a", &event(LONGEST - 1_000));
        }
        assert!(streams.streams.len() <= 17 && streams.bytes <= MOST_BYTES, "{}", streams.bytes);
        streams.id_here(name(200), 0);
        streams.stored(name(200), "a", &event(LONGEST));
        assert!(streams.first(name(200)).is_none(), "too long");
        assert_eq!(streams.bytes, streams.streams.values().map(Stream::bytes).sum::<usize>());
    }
}
