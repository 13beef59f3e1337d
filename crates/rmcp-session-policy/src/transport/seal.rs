//! Seals: what makes a text ours, for one session or one principal.

use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How many bytes of the HMAC a seal keeps.
const SEAL_BYTES: usize = 16;

/// How long a seal is as text.
pub(crate) const SEAL_CHARS: usize = 22;

/// A key that seals texts, and knows its own seals again.
///
/// A sealed text is `<text>.<seal>`: the seal is the first half of an HMAC-SHA-256 over the text, in base64url. It tells
/// nothing of the key.
///
/// A manager has one key of its own, which no client knows. The keys of sessions and principals are made of it: a client
/// knows the id of its session, and must not be able to seal what it likes.
#[derive(Clone)]
pub(crate) struct SealKey(Hmac<Sha256>);

impl SealKey {
    /// A key that only this process knows.
    ///
    /// # Errors
    ///
    /// Fails if the operating system has no random bytes.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// The key of a session, the same in each incarnation.
    pub(crate) fn of_session(&self, id: &str) -> Self {
        self.derive("session", id)
    }

    /// The key of a principal, or of requests without one.
    pub(crate) fn of_principal(&self, principal: Option<&str>) -> Self {
        match principal {
            Some(principal) => self.derive("principal", principal),
            None => self.derive("anonymous", ""),
        }
    }

    fn derive(&self, purpose: &str, name: &str) -> Self {
        let mac = self.0.clone().chain_update(purpose).chain_update([0]).chain_update(name);
        Self::from_bytes(&mac.finalize().into_bytes().into())
    }

    fn from_bytes(bytes: &[u8; 32]) -> Self {
        // As HMAC itself pads a key that is shorter than a block.
        let mut block = [0; 64];
        block[..bytes.len()].copy_from_slice(bytes);
        Self(Hmac::new(&block.into()))
    }

    /// Appends the seal.
    pub(crate) fn seal(&self, text: &mut String) {
        let seal = self.0.clone().chain_update(text.as_bytes()).finalize().into_bytes();
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(&seal[..SEAL_BYTES], text);
    }

    /// Gives the text back that this key has sealed. Compares in constant time.
    pub(crate) fn open<'a>(&self, sealed: &'a str) -> Option<&'a str> {
        let (text, seal) = sealed.rsplit_once('.')?;
        // A decoder may ask for more room than it needs in the end.
        let mut bytes = [0; SEAL_CHARS];
        if seal.len() != SEAL_CHARS || URL_SAFE_NO_PAD.decode_slice(seal, &mut bytes).ok()? != SEAL_BYTES {
            return None;
        }
        let mac = self.0.clone().chain_update(text.as_bytes());
        mac.verify_truncated_left(&bytes[..SEAL_BYTES]).ok()?;
        Some(text)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// The key of one session or principal, made when it is first needed: most never need it.
#[derive(Debug)]
pub(crate) struct LazySealKey {
    root: Arc<SealKey>,
    key: OnceLock<Box<SealKey>>,
}

impl LazySealKey {
    /// A key to be made of this one.
    pub(crate) const fn new(root: Arc<SealKey>) -> Self {
        Self { root, key: OnceLock::new() }
    }

    pub(crate) fn get(&self, make: impl FnOnce(&SealKey) -> SealKey) -> &SealKey {
        self.key.get_or_init(|| Box::new(make(&self.root)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_and_each_principal_has_a_key_of_its_own() {
        let [root, other] = [SealKey::from_bytes(&[1; 32]), SealKey::from_bytes(&[2; 32])];
        let keys = [
            root.of_session("a"),
            root.of_session("b"),
            root.of_session(""),
            root.of_principal(Some("a")),
            root.of_principal(Some("b")),
            root.of_principal(Some("")),
            root.of_principal(None),
            other.of_session("a"),
            other.of_principal(Some("a")),
            other.of_principal(None),
            SealKey::random().expect("random bytes"),
            SealKey::random().expect("random bytes"),
            root,
            other,
        ];
        for (place, key) in keys.iter().enumerate() {
            let mut sealed = "text".to_owned();
            key.seal(&mut sealed);
            for (other, stranger) in keys.iter().enumerate() {
                assert_eq!(stranger.open(&sealed), (place == other).then_some("text"), "{place} by {other}");
            }
        }
    }

    #[test]
    fn a_key_shows_nothing_of_itself() {
        assert_eq!(format!("{:?}", SealKey::from_bytes(&[1; 32]).of_session("secret")), "SealKey(..)");
    }

    /// Another server and another version must agree. The value was computed with Python's hmac.
    #[test]
    fn the_seal_of_one_key_and_session_is_always_the_same() {
        let mut sealed = "0/3.17.Nw".to_owned();
        SealKey::from_bytes(&[1; 32]).of_session("8b1f6c1e-7d55-4b7e-9f0c-1f0f3a5c2d11").seal(&mut sealed);
        assert_eq!(sealed, "0/3.17.Nw.V4WFf2VWLIg6L9eyn3qdxQ");
    }
}
