//! By what clients are told apart.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::Arrival;
use crate::context::ClientContext;

/// By what clients are told apart: the principal, else the address, else nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ClientKey {
    /// The authenticated subject.
    Principal(Arc<str>),
    /// The address; of an IPv6 address the /64, since one client has all of it.
    Address(IpAddr),
    /// Nothing is known.
    Anonymous,
}

impl ClientKey {
    /// The key of an arrival.
    #[must_use]
    pub fn of(arrival: &Arrival<'_>) -> Self {
        let context = arrival.context();
        if let Some(principal) = context.and_then(ClientContext::principal) {
            return Self::Principal(principal.into());
        }
        match context.and_then(ClientContext::peer) {
            Some(peer) => Self::Address(network(peer)),
            None => Self::Anonymous,
        }
    }

    /// [`of`](Self::of), saying once that nothing is known.
    pub(super) fn warning_of() -> impl Fn(&Arrival<'_>) -> Self + Send + Sync {
        let warned = AtomicBool::new(false);
        move |arrival| {
            let key = Self::of(arrival);
            if key == Self::Anonymous && !warned.swap(true, Relaxed) {
                tracing::warn!(
                    "a policy per client is asked without a client context: all such clients share one limit (said once)"
                );
            }
            key
        }
    }
}

/// The part of an address that stands for one client.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::ArrivalKind;
    use super::*;

    fn key(context: &ClientContext) -> ClientKey {
        ClientKey::of(&Arrival::new(Instant::now(), ArrivalKind::Create).with_context(context))
    }

    fn address(text: &str) -> ClientContext {
        ClientContext::new().with_peer(text.parse().expect("an address"))
    }

    #[test]
    fn the_principal_comes_first() {
        assert_eq!(key(&address("192.0.2.1").with_principal("alice")), ClientKey::Principal("alice".into()));
    }

    #[test]
    fn one_ipv6_client_has_one_key_whatever_address_of_its_network_it_uses() {
        assert_eq!(key(&address("2001:db8:1:2::1")), key(&address("2001:db8:1:2:ffff:ffff:ffff:ffff")));
        assert_ne!(key(&address("2001:db8:1:2::1")), key(&address("2001:db8:1:3::1")));
    }

    #[test]
    fn an_ipv4_address_is_one_client_however_it_is_written() {
        assert_eq!(key(&address("192.0.2.1")), key(&address("::ffff:192.0.2.1")));
        assert_ne!(key(&address("192.0.2.1")), key(&address("192.0.2.2")));
    }

    #[test]
    fn those_of_whom_nothing_is_known_share_a_key() {
        assert_eq!(key(&ClientContext::new()), ClientKey::Anonymous);
        assert_eq!(ClientKey::of(&Arrival::new(Instant::now(), ArrivalKind::Create)), ClientKey::Anonymous);
    }
}
