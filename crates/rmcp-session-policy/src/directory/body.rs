//! The encoding of what a directory keeps of a session and does not read itself.
//!
//! A body is a version byte, and then fields: a tag of one byte, a length of four (little endian), and as many bytes. A
//! field with an unknown tag is skipped, so that a newer release may add fields; one that older releases must not skip
//! raises the version.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::stored::StoredBody;
use crate::context::ClientContext;

/// The version of the encoding.
const VERSION: u8 = 1;

/// The longest body, in bytes. A session whose body is longer is not stored; a longer body is not decoded.
const LONGEST: usize = 1 << 20;

/// The tags of the fields.
mod tag {
    pub(super) const INITIALIZE_PARAMS: u8 = 1;
    pub(super) const PROTOCOL_VERSION: u8 = 2;
    pub(super) const ADDRESS: u8 = 3;
    pub(super) const PRINCIPAL: u8 = 4;
    pub(super) const SERVICE: u8 = 5;
    /// Whether it is sensitive, the length of the name in two bytes, the name, the value.
    pub(super) const HEADER: u8 = 6;
    /// There is a context, even if nothing of it is known.
    pub(super) const CONTEXT: u8 = 7;
    /// The 32 bytes of the key that seals the event ids of the session.
    pub(super) const SEAL_KEY: u8 = 8;
    /// The version in four bytes, the length of the name in one, the name, the value.
    pub(super) const DATA: u8 = 9;
}

/// What the body of a stored session says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    /// The parameters of `initialize`, serialized as JSON.
    pub(crate) initialize_params: Arc<[u8]>,
    /// The protocol version that `initialize` was answered with.
    pub(crate) protocol_version: Option<Arc<str>>,
    /// The client that opened the session.
    pub(crate) context: Option<Arc<ClientContext>>,
    /// The key that seals its event ids. `None` if a release without that field has written it.
    pub(crate) seal_key: Option<StoredSealKey>,
    /// What handlers keep in the session, as far as its types are registered.
    pub(crate) data: Vec<StoredValue>,
}

/// The key that seals the event ids of a session.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoredSealKey(pub(crate) [u8; 32]);

impl fmt::Debug for StoredSealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredSealKey(..)")
    }
}

/// A value that handlers keep in a session.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoredValue {
    /// At most 255 bytes.
    pub(crate) name: Arc<str>,
    pub(crate) version: u32,
    pub(crate) bytes: Arc<[u8]>,
}

impl StoredValue {
    /// The name and the value, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.name.len() + self.bytes.len()
    }
}

/// Shows the length alone: the value is the data of users.
impl fmt::Debug for StoredValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredValue({:?}, version {}, {} bytes)", self.name, self.version, self.bytes.len())
    }
}

/// Says why a body cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// A newer release has written it. A server of that release can decode it.
    #[error("a newer release has written it")]
    Newer,
    #[error("it is damaged")]
    Damaged,
}

impl Body {
    /// Encodes it. `None` if it is too long.
    pub(crate) fn encode(&self) -> Option<StoredBody> {
        let mut bytes = vec![VERSION];
        field(&mut bytes, tag::INITIALIZE_PARAMS, &[&self.initialize_params])?;
        if let Some(version) = &self.protocol_version {
            field(&mut bytes, tag::PROTOCOL_VERSION, &[version.as_bytes()])?;
        }
        if let Some(context) = &self.context {
            encode_context(&mut bytes, context)?;
        }
        if let Some(StoredSealKey(key)) = &self.seal_key {
            field(&mut bytes, tag::SEAL_KEY, &[key])?;
        }
        for value in &self.data {
            let length = [u8::try_from(value.name.len()).ok()?];
            let parts = [&value.version.to_le_bytes()[..], &length, value.name.as_bytes(), &value.bytes];
            field(&mut bytes, tag::DATA, &parts)?;
        }
        Some(StoredBody::from_bytes(bytes))
    }

    /// Decodes a body. Costs a copy of it.
    pub(crate) fn decode(body: &StoredBody) -> Result<Self, BodyError> {
        let bytes = body.as_bytes();
        let (version, mut rest) = bytes.split_first().ok_or(BodyError::Damaged)?;
        if *version > VERSION {
            return Err(BodyError::Newer);
        }
        if *version == 0 || bytes.len() > LONGEST {
            return Err(BodyError::Damaged);
        }
        let mut initialize_params = None;
        let mut protocol_version = None;
        let mut context = None::<ClientContext>;
        let mut seal_key = None;
        let mut data = Vec::new();
        while let Some((tag, value)) = next_field(&mut rest)? {
            match tag {
                tag::INITIALIZE_PARAMS => initialize_params = Some(value.into()),
                tag::PROTOCOL_VERSION => protocol_version = Some(text(value)?.into()),
                tag::SEAL_KEY => {
                    seal_key = Some(StoredSealKey(value.try_into().map_err(|_| BodyError::Damaged)?));
                }
                tag::DATA => data.push(stored_value(value)?),
                _ => decode_context(&mut context, tag, value)?,
            }
        }
        let initialize_params = initialize_params.ok_or(BodyError::Damaged)?;
        Ok(Self { initialize_params, protocol_version, context: context.map(Arc::new), seal_key, data })
    }
}

fn encode_context(bytes: &mut Vec<u8>, context: &ClientContext) -> Option<()> {
    field(bytes, tag::CONTEXT, &[])?;
    match context.peer() {
        Some(IpAddr::V4(address)) => field(bytes, tag::ADDRESS, &[&address.octets()])?,
        Some(IpAddr::V6(address)) => field(bytes, tag::ADDRESS, &[&address.octets()])?,
        None => {}
    }
    if let Some(principal) = context.principal() {
        field(bytes, tag::PRINCIPAL, &[principal.as_bytes()])?;
    }
    if let Some(service) = context.service() {
        field(bytes, tag::SERVICE, &[service.as_bytes()])?;
    }
    for (name, value) in context.headers() {
        let length = u16::try_from(name.as_str().len()).ok()?.to_le_bytes();
        let sensitive = [u8::from(value.is_sensitive())];
        field(bytes, tag::HEADER, &[&sensitive, &length, name.as_str().as_bytes(), value.as_bytes()])?;
    }
    Some(())
}

/// Reads a field of the context, and skips one that is unknown.
fn decode_context(context: &mut Option<ClientContext>, tag: u8, value: &[u8]) -> Result<(), BodyError> {
    if !(tag::ADDRESS..=tag::CONTEXT).contains(&tag) {
        return Ok(());
    }
    let before = context.take().unwrap_or_default();
    *context = Some(match tag {
        tag::ADDRESS => before.with_peer(address(value)?),
        tag::PRINCIPAL => before.with_principal(text(value)?),
        tag::SERVICE => before.with_service(text(value)?.into()),
        tag::HEADER => {
            let (name, value) = header(value)?;
            before.with_header(name, value)
        }
        _ => before,
    });
    Ok(())
}

/// Appends a field, of which the value is some parts. `None` if the body gets too long.
fn field(bytes: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) -> Option<()> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    bytes.push(tag);
    bytes.extend(u32::try_from(length).ok()?.to_le_bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    (bytes.len() <= LONGEST).then_some(())
}

/// Takes the next field. `None` at the end.
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, BodyError> {
    let Some((tag, after)) = rest.split_first() else { return Ok(None) };
    let (length, after) = after.split_first_chunk().ok_or(BodyError::Damaged)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| BodyError::Damaged)?;
    let (value, after) = after.split_at_checked(length).ok_or(BodyError::Damaged)?;
    *rest = after;
    Ok(Some((*tag, value)))
}

fn text(value: &[u8]) -> Result<&str, BodyError> {
    std::str::from_utf8(value).map_err(|_| BodyError::Damaged)
}

fn address(value: &[u8]) -> Result<IpAddr, BodyError> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Ok(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(value).map_err(|_| BodyError::Damaged)?;
    Ok(Ipv6Addr::from(octets).into())
}

fn stored_value(value: &[u8]) -> Result<StoredValue, BodyError> {
    let (version, rest) = value.split_first_chunk().ok_or(BodyError::Damaged)?;
    let (length, rest) = rest.split_first().ok_or(BodyError::Damaged)?;
    let (name, bytes) = rest.split_at_checked((*length).into()).ok_or(BodyError::Damaged)?;
    Ok(StoredValue { name: text(name)?.into(), version: u32::from_le_bytes(*version), bytes: bytes.into() })
}

fn header(value: &[u8]) -> Result<(HeaderName, HeaderValue), BodyError> {
    let (sensitive, rest) = value.split_first().ok_or(BodyError::Damaged)?;
    let (length, rest) = rest.split_first_chunk().ok_or(BodyError::Damaged)?;
    let (name, value) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or(BodyError::Damaged)?;
    let name = HeaderName::from_bytes(name).map_err(|_| BodyError::Damaged)?;
    let mut value = HeaderValue::from_bytes(value).map_err(|_| BodyError::Damaged)?;
    value.set_sensitive(*sensitive != 0);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full() -> Body {
        let context = ClientContext::new().with_peer([192, 0, 2, 7].into()).with_principal("alice");
        let context = context.with_service("search".into());
        let context = context.with_header(http::header::ACCEPT, HeaderValue::from_static("a"));
        let mut secret = HeaderValue::from_static("b");
        secret.set_sensitive(true);
        let context = context.with_header(http::header::ACCEPT, secret);
        Body {
            initialize_params: b"{}".as_slice().into(),
            protocol_version: Some("2025-11-25".into()),
            context: Some(Arc::new(context)),
            seal_key: Some(StoredSealKey([8; 32])),
            data: vec![data("cart", 1, b"[1,2]"), data("", u32::MAX, b"")],
        }
    }

    fn data(name: &str, version: u32, bytes: &[u8]) -> StoredValue {
        StoredValue { name: name.into(), version, bytes: bytes.into() }
    }

    fn empty() -> Body {
        let (initialize_params, data) = ([].into(), Vec::new());
        Body { initialize_params, protocol_version: None, context: None, seal_key: None, data }
    }

    #[test]
    fn a_body_comes_back_as_it_was() {
        let unknown = Body { context: Some(Arc::default()), ..empty() };
        for body in [full(), empty(), unknown] {
            assert_eq!(Body::decode(&body.encode().expect("short")), Ok(body));
        }
        let back = Body::decode(&full().encode().expect("short")).expect("whole");
        let sensitive: Vec<_> = back.context.iter().flat_map(|context| context.headers()).collect();
        assert_eq!(sensitive.iter().map(|(_, value)| value.is_sensitive()).collect::<Vec<_>>(), [false, true]);
    }

    /// A release that decodes otherwise would lose the sessions of the release before it.
    #[test]
    fn the_encoding_is_that_of_the_first_release() {
        let body = Body { context: Some(Arc::new(ClientContext::new().with_principal("al"))), ..empty() };
        let bytes = [1, 1, 0, 0, 0, 0, 7, 0, 0, 0, 0, 4, 2, 0, 0, 0, b'a', b'l'];
        assert_eq!(body.encode().expect("short").as_bytes(), bytes);
        let body = Body { seal_key: Some(StoredSealKey([3; 32])), ..empty() };
        let bytes = [&[1, 1, 0, 0, 0, 0, 8, 32, 0, 0, 0][..], &[3; 32]].concat();
        assert_eq!(body.encode().expect("short").as_bytes(), bytes);
        let body = Body { data: vec![data("n", 2, b"7")], ..empty() };
        let bytes = [1, 1, 0, 0, 0, 0, 9, 7, 0, 0, 0, 2, 0, 0, 0, 1, b'n', b'7'];
        assert_eq!(body.encode().expect("short").as_bytes(), bytes);
    }

    #[test]
    fn a_seal_key_shows_nothing_of_itself() {
        assert!(format!("{:?}", full()).contains("seal_key: Some(StoredSealKey(..))"));
    }

    #[test]
    fn a_field_of_a_later_release_is_skipped_and_a_later_version_is_told_apart() {
        let mut bytes = full().encode().expect("short").as_bytes().to_vec();
        field(&mut bytes, 200, &[b"of a later release"]).expect("short");
        assert_eq!(Body::decode(&StoredBody::from_bytes(bytes.as_slice())), Ok(full()));
        bytes[0] = VERSION + 1;
        assert_eq!(Body::decode(&StoredBody::from_bytes(bytes.as_slice())), Err(BodyError::Newer));
        bytes[0] = 0;
        assert_eq!(Body::decode(&StoredBody::from_bytes(bytes)), Err(BodyError::Damaged));
    }

    #[test]
    fn a_body_that_is_too_long_is_not_encoded() {
        let body = |bytes: usize| Body { initialize_params: vec![0; bytes].into(), ..empty() };
        let longest = LONGEST - 1 - 5;
        let encoded = body(longest).encode().expect("as long as allowed");
        assert_eq!((encoded.as_bytes().len(), Body::decode(&encoded)), (LONGEST, Ok(body(longest))));
        assert!(body(longest + 1).encode().is_none());
    }

    proptest! {
        #[test]
        fn hostile_bytes_give_an_error_or_a_body(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let decoded = Body::decode(&StoredBody::from_bytes(bytes));
            if let Ok(body) = decoded {
                prop_assert_eq!(Body::decode(&body.encode().expect("short")), Ok(body));
            }
        }

        /// Bytes that differ a little from a body reach further into the decoder than random ones.
        #[test]
        fn damaged_bodies_give_an_error_or_a_body(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            length in any::<prop::sample::Index>(),
        ) {
            let mut bytes = full().encode().expect("short").as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(length.index(bytes.len() + 1));
            if let Ok(body) = Body::decode(&StoredBody::from_bytes(bytes)) {
                prop_assert_eq!(Body::decode(&body.encode().expect("short")), Ok(body));
            }
        }

        #[test]
        fn every_context_comes_back(
            principal in proptest::option::of(".{0,20}"),
            address in proptest::option::of(any::<u128>()),
            values in prop::collection::vec("[ -~]{0,20}", 0..4),
            params in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut context = ClientContext::new();
            if let Some(principal) = principal {
                context = context.with_principal(principal);
            }
            if let Some(address) = address {
                context = context.with_peer(Ipv6Addr::from(address).into());
            }
            for value in values {
                context = context.with_header(http::header::VIA, HeaderValue::from_str(&value).expect("visible"));
            }
            let body = Body { initialize_params: params.into(), context: Some(Arc::new(context)), ..empty() };
            prop_assert_eq!(Body::decode(&body.encode().expect("short")), Ok(body));
        }
    }
}
