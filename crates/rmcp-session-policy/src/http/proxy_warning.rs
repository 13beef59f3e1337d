//! A warning that there seems to be a proxy that is not among the trusted ones.
//!
//! The check is a guess, so it only logs, and it gives up at the first sign that it is wrong: a second peer, or a
//! trusted proxy.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use http::HeaderMap;
use ipnet::IpNet;

use super::forwarded::ForwardedHeader;
use super::forwarded::is_trusted;

/// The number of forwarded requests from one peer, and no other, after which the warning is logged.
const ENOUGH: u32 = 100;

/// The count once the search is over.
const OVER: u32 = u32::MAX;

/// Detects a proxy that is not trusted: every request so far came from one peer, and [`ENOUGH`] of them had a forwarding
/// header. Policies per client then see all clients as one.
#[derive(Debug, Default)]
pub(super) struct ForgottenProxy {
    /// The peer of the first request. The search is over when a request comes from another one.
    only_peer: OnceLock<IpAddr>,
    /// Forwarded requests so far, or [`OVER`] once there was a warning or the search was given up.
    forwarded: AtomicU32,
}

impl ForgottenProxy {
    /// Checks a request, and logs the warning at the [`ENOUGH`]th forwarded one. Costs one relaxed load once the search
    /// is over.
    ///
    /// `peer` is the address of the connection, before any forwarding header is read. Requests may call this at the
    /// same time: only one of them logs.
    pub(super) fn look(&self, peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) {
        if self.forwarded.load(Relaxed) == OVER {
            return;
        }
        if is_trusted(peer, trusted) || *self.only_peer.get_or_init(|| peer) != peer {
            self.forwarded.store(OVER, Relaxed);
            return;
        }
        let names = [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded].map(ForwardedHeader::name);
        if !names.iter().any(|name| headers.contains_key(*name)) {
            return;
        }
        let count = |seen: u32| (seen != OVER).then(|| if seen + 1 == ENOUGH { OVER } else { seen + 1 });
        if self.forwarded.fetch_update(Relaxed, Relaxed, count) == Ok(ENOUGH - 1) {
            tracing::warn!(
                %peer,
                "every request so far comes from one address and says that it was forwarded: name the proxy with \
                 trusted_proxies(), or all of its clients share one address, and each limit per client (said once)"
            );
        }
    }
}
