//! The client's address behind trusted proxies, from `X-Forwarded-For` and `Forwarded`.
//!
//! Policies limit clients by address, so a client must not be able to choose its own. Two rules see to that. The layer
//! reads the header only of a peer that is a trusted proxy, and it reads from the right, where the proxies append, up
//! to the first address that is not trusted.
//!
//! What a client wrote to the left is not parsed, so it can neither fail a request nor hide what stands to its right.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::str;

use http::HeaderMap;
use ipnet::{IpNet, Ipv4Net};

/// Names the header in which trusted proxies write the client's address.
///
/// ```
/// use rmcp_session_policy::PolicySessionManager;
/// use rmcp_session_policy::http::ForwardedHeader;
///
/// let sessions = PolicySessionManager::local().build()?;
/// let layer = sessions.layer().trusted_proxies(["10.0.0.0/8"])?.forwarded_header(ForwardedHeader::Forwarded);
/// # drop(layer);
/// assert_eq!(ForwardedHeader::default(), ForwardedHeader::XForwardedFor);
/// # Ok::<(), rmcp_session_policy::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl ForwardedHeader {
    /// Returns the name of the header in lower case, as a `HeaderMap` looks it up.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

/// Returns the client's address: the right-most hop that is not a trusted proxy.
///
/// Each proxy appends the address that called it. Entries to the right of the first untrusted hop were written by trusted
/// proxies; entries to the left of it may be forged and are not read. If an entry is not an address, the hop that wrote
/// it is the client. An empty entry is skipped (RFC 9110, section 5.6.1.2).
///
/// Several lines of the header count as one, the last line being the right-most. Without a header, or if all hops are
/// trusted, the left-most hop that was read is the client.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, header: ForwardedHeader, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    if !is_trusted(client, trusted) {
        return client;
    }
    for line in headers.get_all(header.name()).iter().rev() {
        for entry in elements(line.as_bytes(), header) {
            let address = match header {
                ForwardedHeader::XForwardedFor => address(entry),
                ForwardedHeader::Forwarded => forwarded_for(entry).and_then(|node| address(&node)),
            };
            let Some(address) = address else { return client };
            client = address;
            if !is_trusted(client, trusted) {
                return client;
            }
        }
    }
    client
}

/// Returns whether an address is that of a trusted proxy. An IPv4 address that is written as an IPv6 one is compared as
/// IPv4. Costs one comparison for each network.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// Parses an address or a network. IPv4 addresses that are written as IPv6 ones become IPv4, as the addresses of peers
/// do.
///
/// Returns `None` if the text is neither.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let network = text.parse().or_else(|_| text.parse().map(|address: IpAddr| address.into())).ok()?;
    let IpNet::V6(mapped) = network else { return Some(network) };
    let inside = mapped.addr().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    let inside = inside.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    Some(inside.map_or(network, IpNet::from))
}

/// Returns the elements of a line from right to left, without the empty ones.
///
/// Commas separate the elements. In `Forwarded` a comma within a quoted string does not; `X-Forwarded-For` has no
/// quoted strings. Nothing is allocated, and nothing left of the element that was asked for last is looked at.
fn elements(line: &[u8], header: ForwardedHeader) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    let split = move || {
        let line = rest?;
        let comma = match header {
            ForwardedHeader::XForwardedFor => line.iter().rposition(|byte| *byte == b','),
            ForwardedHeader::Forwarded => last_comma(line),
        };
        let element = match comma {
            Some(comma) => {
                rest = Some(&line[..comma]);
                &line[comma + 1..]
            }
            None => {
                rest = None;
                line
            }
        };
        Some(element.trim_ascii())
    };
    std::iter::from_fn(split).filter(|element| !element.is_empty())
}

/// The last comma that stands outside of quoted strings (RFC 9110, section 5.6.4).
///
/// Read from right to left, so that a client cannot hide what its proxy appended behind a quotation mark of its own.
/// That is unambiguous: within a quoted string a quotation mark stands behind a backslash, and the first one stands
/// behind `=`.
fn last_comma(line: &[u8]) -> Option<usize> {
    let is_escaped = |at: usize| line[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
    let mut quoted = false;
    (0..line.len()).rev().find(|at| match line[*at] {
        b'"' if !is_escaped(*at) => {
            quoted = !quoted;
            false
        }
        byte => byte == b',' && !quoted,
    })
}

/// The `for` of one element of a `Forwarded` header (RFC 7239): `None` if there is none, or more than one, or the
/// element is malformed.
fn forwarded_for(element: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut node = None;
    let mut rest = element;
    loop {
        rest = match rest.trim_ascii_start() {
            [] => return node,
            [b';', rest @ ..] => rest,
            pair => {
                let equals = pair.iter().position(|byte| *byte == b'=')?;
                let (value, rest) = value(&pair[equals + 1..])?;
                if pair[..equals].trim_ascii_end().eq_ignore_ascii_case(b"for") && node.replace(value).is_some() {
                    return None;
                }
                match rest.trim_ascii_start() {
                    rest @ ([] | [b';', ..]) => rest,
                    _ => return None,
                }
            }
        }
    }
}

/// The value at the beginning of a text, a token or a quoted string, and what follows it.
///
/// A token ends at the next semicolon. Returns `None` if a token has a quotation mark, or a quoted string has no end.
fn value(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let text = text.trim_ascii_start();
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| *byte == b';').unwrap_or(text.len());
        let (token, rest) = (text[..end].trim_ascii_end(), &text[end..]);
        return (!token.contains(&b'"')).then_some((token.into(), rest));
    };
    let mut escaped = false;
    let end = quoted.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some((unescaped(&quoted[..end]), &quoted[end + 1..]))
}

/// What stands in a quoted string, without the backslashes that escape. Allocates only if there is one.
fn unescaped(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return text.into();
    }
    let mut bytes = text.iter();
    let next = || match bytes.next()? {
        b'\\' => bytes.next().copied(),
        byte => Some(*byte),
    };
    std::iter::from_fn(next).collect::<Vec<_>>().into()
}

/// An address, with or without a port; an IPv6 address in brackets or bare. `None` for everything else, such as
/// `unknown` or an obfuscated name of RFC 7239.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn seen(peer: &str, name: &'static str, lines: &[&str]) -> String {
        seen_in_bytes(peer, name, &lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>())
    }

    fn seen_in_bytes(peer: &str, name: &'static str, lines: &[&[u8]]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line).expect("a header"));
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

    #[test]
    fn a_quoted_string_is_one_token_whatever_separators_stand_in_it() {
        let by_standard = |line| seen("10.0.0.1", "forwarded", &[line]);
        assert_eq!(by_standard(r#"for=198.51.100.7;host="a,for=10.9.8.1""#), "198.51.100.7");
        assert_eq!(by_standard(r#"host="a;for=10.9.8.1";for=198.51.100.7"#), "198.51.100.7");
        assert_eq!(by_standard(r#"for=203.0.113.6, for=198.51.100.7;host="a\",for=10.9.8.1""#), "198.51.100.7");
        assert_eq!(by_standard(r#"for=203.0.113.6, for=198.51.100.7;host="a\\", for=10.9.8.1"#), "198.51.100.7");
        assert_eq!(by_standard(r#"for="\[2001:db8::\7]:4711";host="\"""#), "2001:db8::7");
    }

    #[test]
    fn what_a_client_wrote_cannot_hide_what_its_proxy_wrote_right_of_it() {
        let by_standard = |line| seen("10.0.0.1", "forwarded", &[line]);
        assert_eq!(by_standard(r#"for=203.0.113.6;host=", for=198.51.100.7"#), "198.51.100.7");
        assert_eq!(by_standard(r#"for=203.0.113.6;host="\, for=198.51.100.7;host="b""#), "198.51.100.7");
    }

    #[test]
    fn an_element_of_the_standard_header_that_is_malformed_names_no_address() {
        let by_standard = |line| seen("10.0.0.1", "forwarded", &[line]);
        assert_eq!(by_standard(r#"for=203.0.113.6;host="a"#), "10.0.0.1");
        assert_eq!(by_standard(r#"for=203.0.113.6;host="a"b"#), "10.0.0.1");
        assert_eq!(by_standard("for=203.0.113.6;for=198.51.100.7"), "10.0.0.1", "which of the two?");
        assert_eq!(by_standard(";; for=198.51.100.7 ;"), "198.51.100.7", "a pair may be empty");
    }

    #[test]
    fn only_the_elements_that_are_looked_at_must_be_addresses() {
        let bytes = |line| seen_in_bytes("10.0.0.1", "x-forwarded-for", &[line]);
        assert_eq!(bytes(b"\xff, 203.0.113.9"), "203.0.113.9");
        assert_eq!(bytes(b"203.0.113.9, \xff"), "10.0.0.1");
        assert_eq!(seen_in_bytes("10.0.0.1", "forwarded", &[b"for=\xff, for=203.0.113.9"]), "203.0.113.9");
    }

    #[test]
    fn empty_elements_are_skipped() {
        assert_eq!(seen("10.0.0.1", "x-forwarded-for", &["203.0.113.1,"]), "203.0.113.1");
        assert_eq!(seen("10.0.0.1", "x-forwarded-for", &["203.0.113.1, , 10.0.0.1"]), "203.0.113.1");
        assert_eq!(seen("10.0.0.1", "x-forwarded-for", &["203.0.113.1", "", " ,\t"]), "203.0.113.1");
        assert_eq!(seen("10.0.0.1", "forwarded", &["for=203.0.113.1, ,"]), "203.0.113.1");
    }
}
