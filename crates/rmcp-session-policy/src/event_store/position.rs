//! The event ids of the wrapper, each of which is a position in a stream.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What the ids that are not the store's begin with.
const MARK: char = '~';

/// The name under which the store knows a stream: 16 bytes of a hash of rmcp's id, which contains the session id for some
/// streams. It is the same in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StreamName([u8; 16]);

impl StreamName {
    /// Hashes the id of a stream, by the key derivation of BLAKE3 with a context of its own.
    pub(super) fn of(stream_id: &str) -> Self {
        let hash = blake3::derive_key("rmcp-session-policy 2026-11-28 event stream", stream_id.as_bytes());
        let mut name = [0; 16];
        name.copy_from_slice(&hash[..16]);
        Self(name)
    }

    /// The name as text, 22 characters.
    pub(super) fn text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    fn read(text: &str) -> Option<Self> {
        Some(Self(URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?))
    }
}

/// Where a client has been in a stream when it got an event.
///
/// | id | position |
/// |---|---|
/// | an id of the store | after this event |
/// | `~=<id>` | the same, for an id that begins with `~` |
/// | `~<number>.<id>` | after an event that is not stored; the id is that of the last stored event before it |
/// | `~<number>~<stream>` | before the first stored event of the stream |
///
/// The number makes the id differ from other ids of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position<'a> {
    After(&'a str),
    Beginning(StreamName),
}

impl<'a> Position<'a> {
    /// Parses an id. `None` if no wrapper has made it.
    pub(super) fn read(id: &'a str) -> Option<Self> {
        let Some(rest) = id.strip_prefix(MARK) else { return Some(Self::After(id)) };
        if let Some(id) = rest.strip_prefix('=') {
            return Some(Self::After(id));
        }
        let (number, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        match rest.split_at_checked(1)? {
            _ if number.is_empty() => None,
            (".", id) => Some(Self::After(id)),
            ("~", stream) => StreamName::read(stream).map(Self::Beginning),
            _ => None,
        }
    }

    /// The id of an event that is not stored.
    pub(super) fn id(&self, number: u64) -> String {
        match self {
            Self::After(id) => format!("{MARK}{number}.{id}"),
            Self::Beginning(stream) => format!("{MARK}{number}{MARK}{}", stream.text()),
        }
    }
}

/// The id of an event that is stored. Almost always that of the store.
pub(super) fn stored_id(id: String) -> String {
    if id.starts_with(MARK) { format!("{MARK}={id}") } else { id }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_says_the_position_it_was_made_of(id in ".{0,20}|~[0-9=~.]{0,10}", number: u64, stream in ".{0,20}") {
            let stream = StreamName::of(&stream);
            let (after, beginning) = (Position::After(&id), Position::Beginning(stream));
            let [stored, unstored, begun] = [stored_id(id.clone()), after.id(number), beginning.id(number)];
            prop_assert_eq!(Position::read(&stored), Some(after.clone()));
            prop_assert_eq!(Position::read(&unstored), Some(after));
            prop_assert_eq!(Position::read(&begun), Some(beginning));
        }

        #[test]
        fn no_text_panics(id in "~?.{0,20}|~[0-9]{0,3}[.~=]?.{0,30}") {
            Position::read(&id);
        }
    }

    #[test]
    fn ids_that_no_wrapper_makes_are_none() {
        for id in ["~", "~5", "~.a", "~~", "~x", "~5~", "~5~AAAA", "~5\u{1F600}"] {
            assert_eq!(Position::read(id), None, "{id}");
        }
        assert_eq!(Position::read("5~"), Some(Position::After("5~")));
    }

    /// Another release must find what this one has stored.
    #[test]
    fn a_stream_has_the_same_name_in_each_process() {
        assert_eq!(StreamName::of("8b1f6c1e-7d55-4b7e-9f0c-1f0f3a5c2d11:common").text(), "F-9C9diM6EdybQvxTZ9XhQ");
    }
}
