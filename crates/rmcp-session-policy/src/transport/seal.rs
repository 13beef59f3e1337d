//! Seals, which prove that this manager made a text for one session or one principal.
//!
//! Without a seal, a client could ask a shared event store for the events of another session. See `event_id` for what
//! is sealed.

use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake3::{Hash, Hasher};

use crate::directory::StoredSealKey;

/// How many bytes of the keyed hash a seal keeps. A client cannot guess that many, and each event id is shorter for it.
const SEAL_BYTES: usize = 16;

/// The length of a seal as text: [`SEAL_BYTES`] in base64url without padding.
pub(crate) const SEAL_CHARS: usize = 22;

/// A key that seals texts, and verifies its own seals.
///
/// A sealed text is `<text>.<seal>`: the seal is the first half of the keyed BLAKE3 hash of the text, in base64url. The
/// seal reveals nothing of the key.
///
/// Each manager has a secret root key. The keys of sessions and principals are derived from it and not from session ids
/// alone, because a client knows the id of its session and must not be able to make seals.
#[derive(Clone)]
pub(crate) struct SealKey([u8; 32]);

impl SealKey {
    /// Creates a random key.
    ///
    /// # Errors
    ///
    /// Fails if the operating system has no random bytes.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The key of a session that was stored in a directory, by this manager or one before it.
    pub(crate) const fn of_stored(stored: &StoredSealKey) -> Self {
        Self(stored.0)
    }

    /// What a directory stores of the key of a session.
    pub(crate) const fn to_stored(&self) -> StoredSealKey {
        StoredSealKey(self.0)
    }

    /// Derives the key of a session, which is the same in each incarnation. With a directory it is stored there, and each
    /// later server uses that one.
    pub(crate) fn of_session(&self, id: &str) -> Self {
        self.derive("session", id)
    }

    /// Derives the key of a principal, or of requests without one. It seals the events of streams without a session.
    pub(crate) fn of_principal(&self, principal: Option<&str>) -> Self {
        match principal {
            Some(principal) => self.derive("principal", principal),
            None => self.derive("anonymous", ""),
        }
    }

    /// Derives the key of the ids of probes.
    pub(crate) fn of_probes(&self) -> Self {
        self.derive("probes", "")
    }

    /// A number that looks random to all that do not have the key.
    pub(super) fn number(&self, nth: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&blake3::keyed_hash(&self.0, &nth.to_be_bytes()).as_bytes()[..8]);
        u64::from_be_bytes(bytes)
    }

    /// Derives a key for one purpose. A zero byte stands between purpose and name, so no two pairs give the same text.
    fn derive(&self, purpose: &str, name: &str) -> Self {
        let mut hasher = Hasher::new_keyed(&self.0);
        hasher.update(purpose.as_bytes()).update(&[0]).update(name.as_bytes());
        Self(hasher.finalize().into())
    }

    /// The seal of a text in bytes.
    fn hash(&self, text: &str) -> [u8; SEAL_BYTES] {
        let mut seal = [0; SEAL_BYTES];
        seal.copy_from_slice(&blake3::keyed_hash(&self.0, text.as_bytes()).as_bytes()[..SEAL_BYTES]);
        seal
    }

    /// Appends a dot and the seal. Costs one keyed hash of the text.
    pub(crate) fn seal(&self, text: &mut String) {
        let mut seal = [0; SEAL_CHARS];
        // The buffer is exactly as long as the text.
        URL_SAFE_NO_PAD.encode_slice(self.hash(text), &mut seal).ok();
        text.push('.');
        text.push_str(std::str::from_utf8(&seal).unwrap_or_default());
    }

    /// Returns the text without its seal if the seal is of this key; `None` for each other text. Compares in constant
    /// time.
    pub(crate) fn open<'a>(&self, sealed: &'a str) -> Option<&'a str> {
        let (text, seal) = sealed.rsplit_once('.')?;
        // The decoder may require a larger buffer than its result.
        let mut bytes = [0; SEAL_CHARS];
        if seal.len() != SEAL_CHARS || URL_SAFE_NO_PAD.decode_slice(seal, &mut bytes).ok()? != SEAL_BYTES {
            return None;
        }
        // Hashes are compared in constant time.
        let padded = |half: &[u8]| {
            let mut whole = [0; 32];
            whole[..SEAL_BYTES].copy_from_slice(half);
            Hash::from_bytes(whole)
        };
        if padded(&self.hash(text)) != padded(&bytes[..SEAL_BYTES]) {
            return None;
        }
        Some(text)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// The key of one session or principal, derived at its first use. Most are never used.
#[derive(Debug)]
pub(crate) struct LazySealKey {
    root: Arc<SealKey>,
    key: OnceLock<SealKey>,
    /// Whether the key was given, and cannot be derived from the root.
    is_given: bool,
}

impl LazySealKey {
    /// Creates a key that will be derived from this root.
    pub(crate) const fn new(root: Arc<SealKey>) -> Self {
        Self { root, key: OnceLock::new(), is_given: false }
    }

    /// Creates a key that another root has made.
    pub(crate) fn given(root: Arc<SealKey>, key: SealKey) -> Self {
        Self { root, key: key.into(), is_given: true }
    }

    /// The key, if it cannot be derived from the root.
    pub(crate) fn as_given(&self) -> Option<&SealKey> {
        self.key.get().filter(|_| self.is_given)
    }

    /// Returns the key, and derives it from the root at the first call. `make` must always derive the same key.
    pub(crate) fn get(&self, make: impl FnOnce(&SealKey) -> SealKey) -> &SealKey {
        self.key.get_or_init(|| make(&self.root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_and_each_principal_has_a_key_of_its_own() {
        let [root, other] = [SealKey([1; 32]), SealKey([2; 32])];
        let keys = [
            root.of_session("a"),
            root.of_session("b"),
            root.of_session(""),
            root.of_principal(Some("a")),
            root.of_principal(Some("b")),
            root.of_principal(Some("")),
            root.of_principal(None),
            root.of_probes(),
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
        assert_eq!(format!("{:?}", SealKey([1; 32]).of_session("secret")), "SealKey(..)");
    }

    /// Other servers and other versions must make the same seals.
    #[test]
    fn the_seal_of_one_key_and_session_is_always_the_same() {
        let mut sealed = "0/3.17.Nw".to_owned();
        SealKey([1; 32]).of_session("8b1f6c1e-7d55-4b7e-9f0c-1f0f3a5c2d11").seal(&mut sealed);
        assert_eq!(sealed, "0/3.17.Nw.ZI4Y3VrJ4yFkdgLJr-Gjaw");
    }
}
