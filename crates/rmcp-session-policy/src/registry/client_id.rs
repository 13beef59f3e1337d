//! [`ClientId`], and [`ClientOf`]: how the registry tells clients apart.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use crate::admission::ClientKey;
use crate::context::ClientContext;

/// Stands for a client: a keyed hash of what tells it from others. A session keeps these eight bytes, not its client's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientId(u64);

#[cfg(test)]
impl ClientId {
    pub(super) const fn of(number: u64) -> Self {
        Self(number)
    }
}

/// Finds the client of a context.
///
/// The manager calls it without a lock, since it may run code of the server's author.
#[derive(Clone)]
pub(crate) struct ClientOf(Arc<Find>);

type Find = dyn Fn(Option<&ClientContext>) -> Option<ClientId> + Send + Sync;

impl ClientOf {
    /// By principal, else by address.
    pub(crate) fn per_client() -> Self {
        Self::per_known(ClientKey::warning_of_context(
            "a limit per client knows no client: such clients have no limit",
            ClientKey::of_context,
        ))
    }

    /// By principal, else by network.
    pub(crate) fn per_prefix() -> Self {
        Self::per_known(ClientKey::warning_of_context(
            "a share per prefix knows no client: such clients have no share",
            ClientKey::by_prefix,
        ))
    }

    fn per_known(key: impl Fn(Option<&ClientContext>) -> ClientKey + Send + Sync + 'static) -> Self {
        Self::new(move |context| Some(key(context)).filter(|key| *key != ClientKey::Anonymous))
    }

    /// By a key of the server's author. A client that has none is unknown.
    pub(crate) fn per_key<K: Hash>(key: impl Fn(&ClientContext) -> Option<K> + Send + Sync + 'static) -> Self {
        Self::new(move |context| context.and_then(&key))
    }

    fn new<K: Hash>(key: impl Fn(Option<&ClientContext>) -> Option<K> + Send + Sync + 'static) -> Self {
        let hashes = RandomState::new();
        Self(Arc::new(move |context| key(context).map(|key| ClientId(hashes.hash_one(key)))))
    }

    /// Whether both are one: the ids that they find may be compared.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// `None` if the client is unknown.
    pub(crate) fn find(&self, context: Option<&ClientContext>) -> Option<ClientId> {
        (self.0)(context)
    }
}

impl fmt::Debug for ClientOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOf").finish_non_exhaustive()
    }
}

/// A client by each of the two limits, which may tell clients apart in different ways. `None` where there is no limit, or the client is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClientIds {
    /// For its share of the places.
    pub(crate) share: Option<ClientId>,
    /// For the most sessions that it may have.
    pub(crate) max: Option<ClientId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> ClientContext {
        ClientContext::new().with_peer(address.parse().unwrap())
    }

    #[test]
    fn a_client_is_its_principal_or_else_its_address_or_its_network() {
        let same = |of: &ClientOf, one: &ClientContext, two: &ClientContext| of.find(Some(one)) == of.find(Some(two));
        let [one, two, three] = ["192.0.2.1", "192.0.2.200", "192.0.3.1"].map(at);
        let (each, prefix) = (ClientOf::per_client(), ClientOf::per_prefix());
        assert!(!same(&each, &one, &two) && same(&prefix, &one, &two) && !same(&prefix, &one, &three));
        let [one, two, three] = ["2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:2::1"].map(at);
        assert!(!same(&each, &one, &two) && same(&prefix, &one, &two) && !same(&prefix, &one, &three));
        let alice = |context: &ClientContext| context.clone().with_principal("alice");
        assert!(same(&each, &alice(&one), &alice(&three)) && same(&prefix, &alice(&one), &alice(&three)));
        assert!(!same(&prefix, &alice(&one), &one));
    }

    #[test]
    fn an_unknown_client_is_none() {
        let unknown = ClientContext::new();
        for of in [ClientOf::per_client(), ClientOf::per_prefix()] {
            assert_eq!((of.find(None), of.find(Some(&unknown))), (None, None));
        }
        let by_plan = ClientOf::per_key(|client| client.header("x-plan").map(str::to_owned));
        assert_eq!((by_plan.find(None), by_plan.find(Some(&unknown))), (None, None));
    }
}
