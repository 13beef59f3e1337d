//! [`ClientKey`]: the key of [`per_client`](super::AdmissionPolicyExt::per_client) and
//! [`per_prefix`](super::AdmissionPolicyExt::per_prefix).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::Arrival;
use crate::context::ClientContext;

/// Identifies a client: by the principal if it is known, else by the address, else not at all.
///
/// ```
/// use std::net::IpAddr;
///
/// use rmcp_session_policy::ClientContext;
/// use rmcp_session_policy::admission::{Arrival, ArrivalKind, ClientKey};
/// use tokio::time::Instant;
///
/// # fn main() -> Result<(), std::net::AddrParseError> {
/// let client = ClientContext::new().with_peer("2001:db8:1:2:3:4:5:6".parse()?);
/// let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
/// assert_eq!(ClientKey::of(&arrival), ClientKey::Anonymous);
/// let network: IpAddr = "2001:db8:1:2::".parse()?;
/// assert_eq!(ClientKey::of(&arrival.with_context(&client)), ClientKey::Address(network));
///
/// let client = client.with_principal("alice");
/// assert_eq!(ClientKey::of(&arrival.with_context(&client)), ClientKey::Principal("alice".into()));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ClientKey {
    /// The authenticated subject.
    Principal(Arc<str>),
    /// The address. An IPv6 address is cut to its /64, since one client usually has all of it; for a client behind a
    /// translator (NAT64, Teredo) this is its IPv4 address.
    ///
    /// With [`per_prefix`](super::AdmissionPolicyExt::per_prefix) it is cut to its network: /24 of IPv4, /48 of IPv6.
    Address(IpAddr),
    /// No principal and no address is known. All such clients are one.
    Anonymous,
}

impl ClientKey {
    /// Returns the key of an arrival.
    #[must_use]
    pub fn of(arrival: &Arrival<'_>) -> Self {
        Self::of_context(arrival.context())
    }

    /// Returns the key of a client.
    pub(crate) fn of_context(context: Option<&ClientContext>) -> Self {
        Self::by(context, network)
    }

    /// Returns the key of a client by its network: /24 of an IPv4 address, /48 of an IPv6 address.
    pub(crate) fn by_prefix(context: Option<&ClientContext>) -> Self {
        Self::by(context, |address| Self::prefix_of(address).0)
    }

    /// Returns the network of an address, and how many bits of it are the network's.
    pub(crate) fn prefix_of(address: IpAddr) -> (IpAddr, u8) {
        match network(address) {
            IpAddr::V4(address) => (Ipv4Addr::from_bits(address.to_bits() & !0xff).into(), 24),
            // All clients behind a translator of the local network are in one /48. If the prefix of the translator is
            // the usual /96, the last 8 bits are those of the IPv4 address.
            IpAddr::V6(address) if is_of_local_translator(address) => {
                (Ipv6Addr::from_bits(address.to_bits() & !0xff).into(), 120)
            }
            IpAddr::V6(address) => (Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 48)).into(), 48),
        }
    }

    /// Returns the key of a client: its principal, else what `part` takes of its address.
    fn by(context: Option<&ClientContext>, part: impl FnOnce(IpAddr) -> IpAddr) -> Self {
        if let Some(principal) = context.and_then(ClientContext::principal) {
            return Self::Principal(principal.into());
        }
        context.and_then(ClientContext::peer).map_or(Self::Anonymous, |peer| Self::Address(part(peer)))
    }

    /// Returns [`of`](Self::of) as a closure that logs a warning at the first arrival of an unknown client.
    pub(super) fn warning_of() -> impl Fn(&Arrival<'_>) -> Self + Send + Sync {
        let key = Self::warning_of_context(
            "a policy per client knows no client: all such clients share one limit",
            Self::of_context,
        );
        move |arrival| key(arrival.context())
    }

    /// Returns `key` as a closure that logs a warning at the first unknown client.
    pub(crate) fn warning_of_context(
        warning: &'static str,
        key: fn(Option<&ClientContext>) -> Self,
    ) -> impl Fn(Option<&ClientContext>) -> Self + Send + Sync {
        let warned = AtomicBool::new(false);
        move |context| {
            let key = key(context);
            if key == Self::Anonymous && !warned.swap(true, Relaxed) {
                let remedy = match context {
                    Some(_) => {
                        "no peer address is known: serve with `into_make_service_with_connect_info`, or give the layer `peer(..)`"
                    }
                    None => {
                        "there is no client context: put `sessions.layer()` around rmcp's service, or use `ClientContext::scope`"
                    }
                };
                tracing::warn!(remedy, "{warning} (said once)");
            }
            key
        }
    }
}

/// Returns the part of an address that identifies one client.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if is_of_local_translator(address) => address.into(),
        IpAddr::V6(address) => match inside(address) {
            Some(address) => address.into(),
            None => Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 64)).into(),
        },
        v4 => v4,
    }
}

/// Whether an address is that of a client behind a translator with a prefix of the local network (RFC 8215). Each client
/// has one such address.
const fn is_of_local_translator(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [0x64, 0xff9b, 1, ..])
}

/// Returns the IPv4 address in an IPv6 address that a translator made: NAT64 (RFC 6052) or Teredo (RFC 4380). The rest of
/// such an address belongs to the translator and is the same for all its clients.
const fn inside(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => address.to_bits(),
        [0x2001, 0, ..] => !address.to_bits(),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(bits as u32))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::ArrivalKind;
    use super::*;

    fn key(context: &ClientContext) -> ClientKey {
        ClientKey::of(&Arrival::new(Instant::now(), ArrivalKind::Create).with_context(context))
    }

    fn prefix(context: &ClientContext) -> ClientKey {
        ClientKey::by_prefix(Some(context))
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
    fn clients_behind_a_translator_are_told_apart_by_the_ipv4_address_inside() {
        assert_eq!(key(&address("64:ff9b::192.0.2.1")), key(&address("192.0.2.1")));
        assert_ne!(key(&address("64:ff9b::192.0.2.1")), key(&address("64:ff9b::192.0.2.2")));
        // Where the IPv4 address is in a network's own prefix is known to that network only.
        assert_ne!(key(&address("64:ff9b:1::192.0.2.1")), key(&address("64:ff9b:1::192.0.2.2")));
        // Teredo: the server's address, flags, and port and address of the client, inverted.
        assert_eq!(key(&address("2001:0:4136:e378:8000:63bf:3fff:fdfe")), key(&address("192.0.2.1")));
    }

    #[test]
    fn a_prefix_is_24_bits_of_ipv4_and_48_bits_of_ipv6() {
        assert_eq!(prefix(&address("192.0.2.1")), ClientKey::Address([192, 0, 2, 0].into()));
        assert_eq!(prefix(&address("192.0.2.1")), prefix(&address("::ffff:192.0.2.255")));
        assert_ne!(prefix(&address("192.0.2.1")), prefix(&address("192.0.3.1")));
        let ipv6 = prefix(&address("2001:db8:1:2::1"));
        assert_eq!(ipv6, ClientKey::Address("2001:db8:1::".parse().expect("an address")));
        assert_eq!(ipv6, prefix(&address("2001:db8:1:ffff:ffff:ffff:ffff:ffff")));
        assert_ne!(ipv6, prefix(&address("2001:db8:2::1")));
    }

    #[test]
    fn a_prefix_of_clients_behind_a_translator_is_that_of_their_ipv4_addresses() {
        assert_eq!(prefix(&address("64:ff9b::192.0.2.1")), prefix(&address("192.0.2.2")));
        assert_eq!(prefix(&address("64:ff9b:1::192.0.2.1")), prefix(&address("64:ff9b:1::192.0.2.2")));
        assert_ne!(prefix(&address("64:ff9b:1::192.0.2.1")), prefix(&address("64:ff9b:1::192.0.3.1")));
        assert_eq!(prefix(&address("2001:0:4136:e378:8000:63bf:3fff:fdfe")), prefix(&address("192.0.2.1")));
    }

    #[test]
    fn a_principal_is_a_client_of_its_own_whatever_its_prefix() {
        let [alice, bob] = ["alice", "bob"].map(|principal| address("192.0.2.1").with_principal(principal));
        assert_eq!(prefix(&alice), ClientKey::Principal("alice".into()));
        assert_ne!(prefix(&alice), prefix(&bob));
        assert_eq!(prefix(&ClientContext::new()), ClientKey::Anonymous);
    }

    #[test]
    fn those_of_whom_nothing_is_known_share_a_key() {
        assert_eq!(key(&ClientContext::new()), ClientKey::Anonymous);
        assert_eq!(ClientKey::of(&Arrival::new(Instant::now(), ArrivalKind::Create)), ClientKey::Anonymous);
    }
}
