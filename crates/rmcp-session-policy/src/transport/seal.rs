//! Seals: what makes a text ours, for one session or one principal.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// How many bytes of the HMAC a seal keeps.
const SEAL_BYTES: usize = 16;

/// How long a seal is as text.
pub(crate) const SEAL_CHARS: usize = 22;

/// A key that seals texts, and knows its own seals again.
///
/// A sealed text is `<text>.<seal>`: the seal is the first half of an HMAC-SHA-256 over the text, in base64url. It tells
/// nothing of the key.
#[derive(Clone)]
pub(crate) struct SealKey(Hmac<Sha256>);

impl SealKey {
    /// The key of a session: the same in each incarnation, and on each server that knows the id.
    pub(crate) fn of_session(id: &str) -> Self {
        Self::from_parts("session", id.as_bytes())
    }

    /// A key that only this process knows.
    ///
    /// # Errors
    ///
    /// Fails if the operating system has no random bytes.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self::from_parts("random", &bytes))
    }

    /// The key of a principal, or of requests without one, under this key.
    pub(crate) fn of_principal(&self, principal: Option<&str>) -> Self {
        let mut mac = self.0.clone();
        mac.update(if principal.is_some() { b"principal\0" } else { b"anonymous\0" });
        mac.update(principal.unwrap_or_default().as_bytes());
        Self::from_parts("derived", &mac.finalize().into_bytes())
    }

    /// Makes a key of bytes of any length. `purpose` keeps apart what is keyed by the same bytes.
    fn from_parts(purpose: &str, bytes: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(purpose).chain_update([0]).chain_update(bytes).finalize();
        // As HMAC itself pads a key that is shorter than a block.
        let mut block = [0; 64];
        block[..digest.len()].copy_from_slice(&digest);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_and_each_principal_has_a_key_of_its_own() {
        let root = SealKey::random().expect("random bytes");
        let keys = [
            SealKey::of_session("a"),
            SealKey::of_session("b"),
            SealKey::of_session(""),
            root.of_principal(Some("alice")),
            root.of_principal(Some("bob")),
            root.of_principal(Some("")),
            root.of_principal(None),
            SealKey::random().expect("random bytes").of_principal(Some("alice")),
            root,
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
        assert_eq!(format!("{:?}", SealKey::of_session("secret")), "SealKey(..)");
    }

    /// Another server and another version must agree. The value was computed with Python's hmac.
    #[test]
    fn the_seal_of_a_session_is_always_the_same() {
        let mut sealed = "0/3.17.Nw".to_owned();
        SealKey::of_session("8b1f6c1e-7d55-4b7e-9f0c-1f0f3a5c2d11").seal(&mut sealed);
        assert_eq!(sealed, "0/3.17.Nw.H-Hd4SbGntV8pY1Ff6CQww");
    }
}
