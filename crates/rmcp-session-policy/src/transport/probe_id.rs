//! The ids of the pings that probe listening streams.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rmcp::model::RequestId;

use super::seal::{SEAL_CHARS, SealKey};

/// How each such id begins, of every manager of this crate. rmcp's own ids are numbers.
pub(crate) const PROBE_PREFIX: &str = "listener-probe-";

/// The longest id: the beginning, 16 digits, and a seal. Longer ones are not looked at.
pub(crate) const PROBE_ID_BYTES: usize = PROBE_PREFIX.len() + 16 + 1 + SEAL_CHARS;

/// A probe that is under way. Clients never see the number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProbeNumber(u64);

/// Makes the ids of probes, and knows its own again without a list of them.
///
/// An id is a pseudo-random number under a key that only this manager has, with a seal. So a client can neither guess the id
/// of a probe that it was not sent nor count the probes of others, and an answer that comes late is known for what it is.
pub(super) struct ProbeIds {
    key: SealKey,
    /// How many ids were made.
    made: AtomicU64,
}

impl ProbeIds {
    pub(super) const fn new(key: SealKey) -> Self {
        Self { key, made: AtomicU64::new(0) }
    }

    /// Makes an id that was not made before.
    pub(super) fn next(&self) -> (ProbeNumber, RequestId) {
        let number = self.key.number(self.made.fetch_add(1, Relaxed));
        let mut id = format!("{PROBE_PREFIX}{number:x}");
        self.key.seal(&mut id);
        (ProbeNumber(number), RequestId::String(id.into()))
    }

    /// The probe of an id that was made here. `None` for each other id. Costs a keyed hash of the id.
    pub(super) fn read(&self, id: &str) -> Option<ProbeNumber> {
        if id.len() > PROBE_ID_BYTES {
            return None;
        }
        let number = self.key.open(id)?.strip_prefix(PROBE_PREFIX)?;
        u64::from_str_radix(number, 16).ok().map(ProbeNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> ProbeIds {
        ProbeIds::new(SealKey::random().expect("random bytes"))
    }

    fn text(id: RequestId) -> String {
        let RequestId::String(id) = id else { panic!("rmcp's own ids are numbers") };
        id.to_string()
    }

    #[test]
    fn an_id_is_known_where_it_was_made_and_nowhere_else() {
        let (here, there) = (ids(), ids());
        let (number, id) = here.next();
        let id = text(id);
        assert_eq!((here.read(&id), there.read(&id)), (Some(number), None));
        let changed = id.replace(PROBE_PREFIX, "listener-probe-0");
        let cut = id.split('.').next().unwrap_or_default();
        let rest = id.trim_start_matches(PROBE_PREFIX);
        for made_up in [&*changed, cut, rest, PROBE_PREFIX, "", "."] {
            assert_eq!(here.read(made_up), None, "{made_up}");
        }
    }

    #[test]
    fn ids_do_not_tell_how_many_there_were() {
        let ids = ids();
        let numbers: Vec<_> = (0..100).map(|_| ids.next().0.0).collect();
        let neighbours = numbers.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 1 << 32).count();
        assert_eq!(neighbours, 0);
    }

    /// So that the layer finds an id in a body without a parse.
    #[test]
    fn json_writes_an_id_as_it_is() {
        let id = text(ids().next().1);
        assert!(id.len() <= PROBE_ID_BYTES);
        assert_eq!(serde_json::to_string(&id).expect("JSON"), format!("\"{id}\""));
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    }
}
