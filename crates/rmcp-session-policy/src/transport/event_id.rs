//! Event ids as clients see them: the inner manager's id, the stream that it belongs to, and the seal of the session.
//!
//! rmcp and its event stores do not ask which session an id belongs to, and an id without a store has a meaning in one
//! incarnation only. So the manager adds three parts to each id that a client sees, and checks and removes them when
//! the client resumes (decision 19).

use std::hash::{BuildHasher, RandomState};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rmcp::model::RequestId;

use super::seal::{SEAL_CHARS, SealKey};
use crate::session::SessionKey;

/// The id of the event that rmcp itself puts before a stream of a manager without an event store, to tell the client
/// when to reconnect. It has no seal. To resume after it means to start at the beginning of the stream.
const PRIMING: &str = "0";

/// What the id of an event begins with that says that its stream is over. It has no seal: whichever client makes such an
/// id up learns nothing.
const OVER: &str = "over";

/// What the name of a request begins with if the request is a `tools/call`. No name begins with it by itself: names are
/// numbers, begin with an `I`, or with a `~`.
const CALL: char = 'c';

/// The longest request id that is written in full. Clients choose their ids, and each event id contains one.
const LONGEST_REQUEST_ID: usize = 64;

/// Numbers the incarnations of a session id. The numbers begin at a random one, so other processes use other numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incarnations(u32);

impl Default for Incarnations {
    fn default() -> Self {
        Self(RandomState::new().hash_one(()) as u32)
    }
}

impl Incarnations {
    /// The number of an incarnation, which is part of all its event ids.
    pub(crate) const fn number(self, key: SessionKey) -> u32 {
        self.0.wrapping_add(key.generation())
    }
}

/// The stream that an event belongs to. It is part of the event's id, so it must be the same for the same stream each
/// time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventSource {
    incarnation: u32,
    /// The request of the stream, or none.
    of: Name,
    /// Whether the request is a `tools/call`. A later incarnation, which answers that it was cut off, must know.
    is_call: bool,
}

/// The request that a stream belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    /// No request: a listening stream.
    None,
    /// The id of a request that is a number.
    Number(i64),
    /// The text in base64url, which begins with an `I`. For a long text, its hash after a `~`.
    Text(Box<str>),
}

impl Name {
    /// Names a request. A text gets a `"` before it is encoded, so the name of a text of digits is not that of a
    /// number. Base64url has no `~`, so no short text has the name of a long one.
    fn of(id: &RequestId) -> Self {
        let text = match id {
            RequestId::Number(number) => return Self::Number(*number),
            RequestId::String(text) => format!("\"{text}"),
        };
        Self::Text(if text.len() <= LONGEST_REQUEST_ID {
            URL_SAFE_NO_PAD.encode(text).into()
        } else {
            format!("~{}", URL_SAFE_NO_PAD.encode(blake3::hash(text.as_bytes()).as_bytes())).into()
        })
    }

    /// Returns the id of the request. `None` for a listening stream, for a long text, of which there is only the hash, and
    /// for a text that no [`of`](Self::of) has made.
    ///
    /// The id is no longer than those that are written in full, whatever the name is.
    fn request_id(&self) -> Option<RequestId> {
        let text = match self {
            Self::None => return None,
            Self::Number(number) => return Some(RequestId::Number(*number)),
            Self::Text(text) => text,
        };
        let text = URL_SAFE_NO_PAD.decode(&**text).ok().filter(|text| text.len() <= LONGEST_REQUEST_ID)?;
        let text = std::str::from_utf8(&text).ok()?.strip_prefix('"')?;
        Some(RequestId::String(text.into()))
    }

    /// Reads a name from an event id. The text stays encoded.
    fn read(name: &str) -> Self {
        match name.parse() {
            _ if name.is_empty() => Self::None,
            Ok(number) => Self::Number(number),
            Err(_) => Self::Text(name.into()),
        }
    }
}

impl EventSource {
    /// A listening stream. All listening streams of an incarnation have one source.
    pub(crate) const fn listening(incarnation: u32) -> Self {
        Self { incarnation, of: Name::None, is_call: false }
    }

    /// The stream of a request.
    pub(crate) fn request(incarnation: u32, id: &RequestId, is_call: bool) -> Self {
        Self { incarnation, of: Name::of(id), is_call }
    }

    /// Whether it is the stream of a `tools/call`.
    pub(crate) const fn is_call(&self) -> bool {
        self.is_call
    }

    /// Parses the last two parts of what is sealed.
    fn read(incarnation: &str, name: &str) -> Option<Self> {
        let (name, is_call) = match name.strip_prefix(CALL) {
            Some(name) => (name, true),
            None => (name, false),
        };
        Some(Self { incarnation: incarnation.parse().ok()?, of: Name::read(name), is_call })
    }

    /// The request of the stream, unless it is a listening stream, or the id of the request was too long to be written.
    pub(crate) fn request_id(&self) -> Option<RequestId> {
        self.of.request_id()
    }

    /// Makes the id of the last event of a stream that is over: `over.<incarnation>.<request id>`. No sealed id looks like
    /// it, since the incarnation is a number.
    pub(crate) fn over_id(&self) -> String {
        let mut number = itoa::Buffer::new();
        let name = match &self.of {
            Name::None => "",
            Name::Number(id) => number.format(*id),
            Name::Text(name) => name,
        };
        format!("{OVER}.{}.{name}", self.incarnation)
    }

    pub(crate) const fn is_listening(&self) -> bool {
        matches!(self.of, Name::None)
    }

    /// Whether it is the stream of this request. The incarnation is not compared: [`Resumption::of`] has done that.
    pub(crate) fn is_of(&self, id: &RequestId) -> bool {
        self.of == Name::of(id)
    }

    /// Makes the id that the client sees from the inner manager's id: `<inner id>.<incarnation>.<request id>.<seal>`, with a
    /// `c` before the request id of a `tools/call`.
    /// It is parsed from the right, because the inner id may contain dots. It may be a sealed id itself, of an inner
    /// manager of this crate.
    pub(crate) fn seal(&self, inner: &str, key: &SealKey) -> String {
        let (mut incarnation, mut number) = (itoa::Buffer::new(), itoa::Buffer::new());
        let incarnation = incarnation.format(self.incarnation);
        let name = match &self.of {
            Name::None => "",
            Name::Number(id) => number.format(*id),
            Name::Text(name) => name,
        };
        // Two dots, perhaps the mark of a call, and the seal, which includes its own dot.
        let mut text = String::with_capacity(inner.len() + incarnation.len() + name.len() + SEAL_CHARS + 4);
        for part in [inner, ".", incarnation, "."] {
            text.push_str(part);
        }
        if self.is_call {
            text.push(CALL);
        }
        text.push_str(name);
        key.seal(&mut text);
        text
    }
}

/// An event id that was sealed for the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventId<'a> {
    /// The inner manager's id.
    pub(crate) inner: &'a str,
    /// The stream that the event belongs to, of whichever incarnation.
    pub(crate) source: EventSource,
}

impl<'a> EventId<'a> {
    /// Parses an id from a client. `None` if it does not have the seal of this key.
    ///
    /// Costs one keyed hash. The parts are parsed after the seal is checked, so they are parts that this manager wrote.
    pub(crate) fn open(id: &'a str, key: &SealKey) -> Option<Self> {
        Self::read(key.open(id)?)
    }

    /// Parses what is sealed.
    fn read(text: &'a str) -> Option<Self> {
        let (text, request) = text.rsplit_once('.')?;
        let (inner, incarnation) = text.rsplit_once('.')?;
        Some(Self { inner, source: EventSource::read(incarnation, request)? })
    }
}

/// Whether it is the id of the last event of a stream that is over.
fn is_over_id(id: &str) -> bool {
    let parts = id.strip_prefix(OVER).and_then(|rest| rest.strip_prefix('.')).and_then(|rest| rest.split_once('.'));
    parts.is_some_and(|(incarnation, name)| incarnation.parse::<u32>().is_ok() && !name.contains('.'))
}

/// What a `Last-Event-ID` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resumption<'a> {
    /// The events after this one, from the inner manager. The event is of the present incarnation.
    After(EventId<'a>),
    /// A new listening stream: the event is rmcp's own.
    Listen,
    /// A new listening stream: the event belongs to one of an earlier incarnation. An event store may have what came after
    /// it.
    ListenAfter(EventId<'a>),
    /// The rest of a request's stream of an earlier incarnation, which has cut it off, or had answered it.
    Cut(EventId<'a>),
    /// The rest of such a stream, which was told that before, or of a request whose id is not known. The layer answers 405.
    Over,
    /// The session has no such event: the id has no seal, or not that of this session. rmcp answers with an empty
    /// stream.
    Unknown,
}

impl<'a> Resumption<'a> {
    /// Parses a `Last-Event-ID`. `incarnation` is the present one, and `None` while the session is parked: then no
    /// answer is [`After`](Self::After).
    pub(crate) fn of(last_event_id: &'a str, key: &SealKey, incarnation: Option<u32>) -> Self {
        if last_event_id == PRIMING {
            return Self::Listen;
        }
        match EventId::open(last_event_id, key) {
            Some(event) if Some(event.source.incarnation) == incarnation => Self::After(event),
            event => Self::of_earlier(event, last_event_id),
        }
    }

    /// The event, if the id is one, is of an earlier incarnation.
    fn of_earlier(event: Option<EventId<'a>>, last_event_id: &str) -> Self {
        match event {
            Some(event) if event.source.is_listening() => Self::ListenAfter(event),
            Some(event) if event.source.request_id().is_some() => Self::Cut(event),
            Some(_) => Self::Over,
            None if is_over_id(last_event_id) => Self::Over,
            None => Self::Unknown,
        }
    }

    /// Parses a `Last-Event-ID` of which the seal cannot be checked, for a session that has no incarnation now. What the
    /// id says is then what a client says: it may name any request, as long as the client alone hears of that.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "asked by the HTTP layer"))]
    pub(crate) fn unsealed(last_event_id: &'a str) -> Self {
        if last_event_id == PRIMING {
            return Self::Listen;
        }
        let sealed = last_event_id.rsplit_once('.').filter(|(_, seal)| seal.len() == SEAL_CHARS);
        Self::of_earlier(sealed.and_then(|(text, _)| EventId::read(text)), last_event_id)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// One key for all tests.
    fn key() -> SealKey {
        static KEY: LazyLock<SealKey> = LazyLock::new(|| SealKey::random().expect("random bytes"));
        KEY.of_session("a session")
    }

    fn request_id() -> impl Strategy<Value = RequestId> {
        prop_oneof![
            any::<i64>().prop_map(RequestId::Number),
            any::<String>().prop_map(|text| RequestId::String(text.into())),
            "[a-z]{60,70}".prop_map(|text| RequestId::String(text.into())),
        ]
    }

    proptest! {
        #[test]
        fn an_id_comes_back_as_it_was(
            inner: String,
            incarnation: u32,
            request in proptest::option::of(request_id()),
            is_call: bool,
        ) {
            let source = match &request {
                Some(id) => EventSource::request(incarnation, id, is_call),
                None => EventSource::listening(incarnation),
            };
            prop_assert_eq!(source.is_listening(), request.is_none());
            prop_assert!(request.iter().all(|id| source.is_of(id)));
            let sealed = source.seal(&inner, &key());
            let event = EventId::open(&sealed, &key()).expect("ours");
            prop_assert_eq!((event.inner, &event.source), (&*inner, &source));
            prop_assert_eq!(EventId::open(&sealed, &key().of_session("another")), None);
            // In stacked managers, the sealed id is the inner id of the outer manager.
            let twice = EventSource::listening(incarnation).seal(&sealed, &key());
            prop_assert_eq!(EventId::open(&twice, &key()).expect("ours").inner, sealed);
        }

        #[test]
        fn no_text_from_a_stranger_is_read_or_panics(text: String) {
            prop_assert_eq!(EventId::open(&text, &key()), None);
            prop_assert!(matches!(Resumption::of(&text, &key(), None), Resumption::Unknown));
        }

        #[test]
        fn a_name_is_turned_back_into_the_request_id_unless_it_is_a_hash(request in request_id()) {
            let is_long = matches!(&request, RequestId::String(text) if text.len() >= LONGEST_REQUEST_ID);
            let source = EventSource::request(1, &request, true);
            prop_assert_eq!(source.request_id(), (!is_long).then_some(request));
            prop_assert!(is_over_id(&source.over_id()));
            prop_assert!(matches!(Resumption::unsealed(&source.over_id()), Resumption::Over));
        }

        /// Without a seal a client may say what it likes; what is made of that is short.
        #[test]
        fn an_id_without_a_checked_seal_names_a_short_request_or_none(name in "[A-Za-z0-9_.~-]{0,300}") {
            let id = format!("0/3.17.{name}.AAAAAAAAAAAAAAAAAAAAAA");
            if let Resumption::Cut(event) = Resumption::unsealed(&id)
                && let Some(RequestId::String(text)) = event.source.request_id()
            {
                prop_assert!(text.len() < LONGEST_REQUEST_ID);
            }
        }

        #[test]
        fn two_requests_have_two_names(one in request_id(), other in request_id()) {
            prop_assert_eq!(Name::of(&one) == Name::of(&other), one == other);
        }
    }

    #[test]
    fn an_id_with_any_byte_changed_added_or_missing_is_not_ours() {
        for inner in ["0/3", "", "a.b.c", "0/3.17.Nw.AAAAAAAAAAAAAAAAAAAAAA"] {
            let sealed = EventSource::request(17, &RequestId::Number(7), true).seal(inner, &key());
            for place in 0..sealed.len() {
                for byte in 0..=0x7F_u8 {
                    let mut changed = sealed.clone().into_bytes();
                    if std::mem::replace(&mut changed[place], byte) == byte {
                        continue;
                    }
                    let changed = String::from_utf8(changed).expect("text");
                    assert_eq!(EventId::open(&changed, &key()), None, "{changed}");
                }
                let missing = format!("{}{}", &sealed[..place], &sealed[place + 1..]);
                assert_eq!(EventId::open(&missing, &key()), None, "{missing}");
                assert_eq!(EventId::open(&sealed[..place], &key()), None);
                let added = format!("{}0{}", &sealed[..place], &sealed[place..]);
                assert_eq!(EventId::open(&added, &key()), None, "{added}");
            }
        }
    }

    #[test]
    fn a_number_and_the_same_digits_as_a_string_are_two_requests() {
        let text = |text: &str| RequestId::String(text.into());
        let names =
            [RequestId::Number(1), text("1"), text(""), text("\"1"), text(&"1".repeat(64))].map(|id| Name::of(&id));
        for (place, one) in names.iter().enumerate() {
            assert!(*one != Name::None && !names[place + 1..].contains(one), "{names:?}");
        }
        match Name::of(&text(&"1".repeat(1_000_000))) {
            Name::Text(long) => assert_eq!(long.len(), 44, "a long id costs no more"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_an_id_asks_for_depends_on_its_incarnation() {
        let request = EventSource::request(1, &RequestId::Number(7), true).seal("0/3", &key());
        let listening = EventSource::listening(1).seal("4", &key());
        let ask = |id| [Some(1), Some(2), None].map(|now| Resumption::of(id, &key(), now));
        let after = |id| Resumption::After(EventId::open(id, &key()).expect("ours"));
        let cut = |id| Resumption::Cut(EventId::open(id, &key()).expect("ours"));
        let listen = |id| Resumption::ListenAfter(EventId::open(id, &key()).expect("ours"));
        assert_eq!(ask(&request), [after(&request), cut(&request), cut(&request)]);
        let long = RequestId::String("1".repeat(100).into());
        let long = EventSource::request(1, &long, false).seal("0/3", &key());
        assert_eq!(ask(&long), [after(&long), Resumption::Over, Resumption::Over]);
        let over = EventSource::request(1, &RequestId::Number(7), true).over_id();
        assert_eq!((&*over, ask(&over)), ("over.1.7", [Resumption::Over, Resumption::Over, Resumption::Over]));
        let unsealed = [&*request, &listening, &long, &over, "0", "4", ""].map(Resumption::unsealed);
        let (over, unknown) = (Resumption::Over, Resumption::Unknown);
        let again = listen(&listening);
        let same = [cut(&request), again, over.clone(), over, Resumption::Listen, unknown.clone(), unknown];
        assert_eq!(unsealed, same);
        assert_eq!(ask(&listening), [after(&listening), listen(&listening), listen(&listening)]);
        assert_eq!(ask("0"), [Resumption::Listen, Resumption::Listen, Resumption::Listen]);
        assert_eq!(ask("4"), [Resumption::Unknown, Resumption::Unknown, Resumption::Unknown]);
        assert_eq!(ask(""), [Resumption::Unknown, Resumption::Unknown, Resumption::Unknown]);
    }
}
