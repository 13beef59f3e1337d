//! The client's address by what proxies say, in headers that any client can write.

#![no_main]

use std::net::IpAddr;

use arbitrary::Arbitrary;
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use libfuzzer_sys::{Corpus, fuzz_target};
use rmcp_session_policy::http::ForwardedHeader;
use rmcp_session_policy::http::fuzzing;

#[derive(Arbitrary, Debug)]
struct Request<'a> {
    peer: IpAddr,
    by_standard: bool,
    lines: Vec<&'a [u8]>,
    trusted: Vec<(IpAddr, u8)>,
}

fuzz_target!(|request: Request<'_>| -> Corpus {
    let Request { peer, by_standard, lines, trusted } = request;
    let header = if by_standard { ForwardedHeader::Forwarded } else { ForwardedHeader::XForwardedFor };
    let name = if by_standard { "forwarded" } else { "x-forwarded-for" };
    let mut headers = HeaderMap::new();
    for line in &lines {
        let Ok(line) = HeaderValue::from_bytes(line) else { return Corpus::Reject };
        headers.append(name, line);
    }
    let trusted: Vec<_> = trusted.into_iter().filter_map(|(net, prefix)| IpNet::new(net, prefix).ok()).collect();
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address.to_canonical()));

    let client = fuzzing::client(peer, &headers, header, &trusted);
    if !is_trusted(peer) {
        assert_eq!(client, peer, "a peer that is no proxy cannot speak for others");
    }
    // What stands left of the client is hearsay: it must make no difference.
    if client != peer && !is_trusted(client) {
        let hearsay = HeaderValue::from_static(if by_standard { "for=192.0.2.99" } else { "192.0.2.99" });
        let mut more = HeaderMap::new();
        more.append(name, hearsay);
        for line in headers.get_all(name) {
            more.append(name, line.clone());
        }
        assert_eq!(fuzzing::client(peer, &more, header, &trusted), client);
        // On the same line too, behind a quotation mark that is never closed. Only a proxy that itself writes half a
        // quoted string cannot be told from its client.
        let Some(first) = lines.first().filter(|line| !by_standard || !line.contains(&b'"')) else {
            return Corpus::Keep;
        };
        let hearsay: &[u8] = if by_standard { b"for=192.0.2.99;host=\", " } else { b"\xff, 192.0.2.99, " };
        let Ok(first) = HeaderValue::from_bytes(&[hearsay, first].concat()) else { return Corpus::Keep };
        more.clear();
        more.append(name, first);
        for line in headers.get_all(name).iter().skip(1) {
            more.append(name, line.clone());
        }
        assert_eq!(fuzzing::client(peer, &more, header, &trusted), client);
    }
    // No proxy is trusted, so none is believed.
    assert_eq!(fuzzing::client(peer, &headers, header, &[]), peer);
    Corpus::Keep
});
