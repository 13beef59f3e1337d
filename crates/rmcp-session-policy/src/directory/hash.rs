//! Digests that are the same in each process, on each machine and in each release.

use sha2::{Digest, Sha256};

/// The bytes that a digest keeps of SHA-256. Two of 2^40 sessions have the same with a probability of 2^-49.
pub(super) const DIGEST_BYTES: usize = 16;

/// Returns the first half of the SHA-256 of some fields.
///
/// `purpose` keeps digests for different purposes apart. Each field is preceded by its length in eight bytes, so that no
/// two lists of fields give the same text; a field that is missing differs from an empty one. Costs one block of SHA-256
/// for each 64 bytes.
pub(super) fn digest(purpose: &str, fields: &[Option<&str>]) -> [u8; DIGEST_BYTES] {
    let mut hasher = Sha256::new();
    hasher.update(b"rmcp-session-policy/");
    hasher.update(purpose.as_bytes());
    for field in fields {
        // No text is that long.
        let length = field.map_or(u64::MAX, |field| field.len() as u64);
        hasher.update(length.to_be_bytes());
        hasher.update(field.unwrap_or_default().as_bytes());
    }
    let whole = hasher.finalize();
    let mut half = [0; DIGEST_BYTES];
    half.copy_from_slice(&whole[..DIGEST_BYTES]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lists_of_fields_are_one_text() {
        let lists: [&[Option<&str>]; 6] =
            [&[Some("ab"), Some("c")], &[Some("a"), Some("bc")], &[Some("abc")], &[None], &[Some("")], &[]];
        let mut digests: Vec<_> = lists.iter().map(|fields| digest("test", fields)).collect();
        digests.push(digest("other", lists[0]));
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 7);
    }
}
