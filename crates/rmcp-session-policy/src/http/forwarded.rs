//! Who the client is when proxies stand between.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

use super::layer::ForwardedHeader;

/// The client's address: the right-most hop that is not a trusted proxy.
///
/// Each proxy appends the address it was called from, so what stands right of the first untrusted hop is true, and what
/// stands left of it is hearsay. An entry that is no address ends the walk at the hop that wrote it.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, header: ForwardedHeader, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address.to_canonical()));
    let mut client = peer;
    if !is_trusted(client) {
        return client;
    }
    let lines = headers.get_all(header.name()).into_iter().collect::<Vec<_>>();
    for line in lines.into_iter().rev() {
        let Ok(line) = line.to_str() else { return client };
        for entry in line.rsplit(',') {
            let address = match header {
                ForwardedHeader::XForwardedFor => address(entry.trim()),
                ForwardedHeader::Forwarded => forwarded_for(entry).and_then(address),
            };
            let Some(address) = address else { return client };
            client = address;
            if !is_trusted(client) {
                return client;
            }
        }
    }
    client
}

/// The `for` of one element of a `Forwarded` header (RFC 7239).
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
    })
}

/// An address, with or without a port; an IPv6 address in brackets or bare.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, name: &'static str, lines: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, line.parse().expect("a header"));
        }
        let header = if name == "forwarded" { ForwardedHeader::Forwarded } else { ForwardedHeader::XForwardedFor };
        let trusted: Vec<IpNet> =
            ["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"].map(|net| net.parse().expect("a network")).into();
        client(peer.parse().expect("an address"), &headers, header, &trusted).to_string()
    }

    #[test]
    fn a_peer_that_is_no_trusted_proxy_is_the_client_whatever_it_claims() {
        assert_eq!(seen("192.0.2.1", "x-forwarded-for", &["198.51.100.9"]), "192.0.2.1");
    }

    #[test]
    fn the_right_most_hop_that_is_not_trusted_is_the_client() {
        assert_eq!(seen("10.0.0.1", "x-forwarded-for", &["203.0.113.6, 198.51.100.9, 10.1.1.1"]), "198.51.100.9");
        assert_eq!(seen("10.0.0.1", "x-forwarded-for", &["203.0.113.6", "198.51.100.9"]), "198.51.100.9");
        assert_eq!(seen("::ffff:10.0.0.1", "x-forwarded-for", &["198.51.100.9:4711"]), "198.51.100.9");
        assert_eq!(seen("fd00::1", "x-forwarded-for", &["[2001:db8::7]:443"]), "2001:db8::7");
    }

    #[test]
    fn what_is_no_address_ends_the_walk_at_the_hop_that_wrote_it() {
        assert_eq!(seen("10.0.0.1", "x-forwarded-for", &["203.0.113.6, unknown, 10.1.1.1"]), "10.1.1.1");
        assert_eq!(seen("10.0.0.1", "x-forwarded-for", &[""]), "10.0.0.1");
    }

    #[test]
    fn without_a_header_the_proxy_is_the_client() {
        assert_eq!(seen("10.0.0.1", "x-forwarded-for", &[]), "10.0.0.1");
    }

    #[test]
    fn the_standard_header_is_read_where_it_was_chosen() {
        assert_eq!(
            seen("127.0.0.1", "forwarded", &[r#"for=203.0.113.6;proto=http, For="[2001:db8::7]:4711";by=10.0.0.1"#]),
            "2001:db8::7"
        );
        assert_eq!(seen("127.0.0.1", "forwarded", &["for=_hidden"]), "127.0.0.1");
    }
}
