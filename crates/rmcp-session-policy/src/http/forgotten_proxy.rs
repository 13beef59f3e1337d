//! A warning that a proxy seems to stand between, and was not named.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use http::HeaderMap;
use ipnet::IpNet;

use super::forwarded::ForwardedHeader;
use super::forwarded::is_trusted;

/// How many forwarded requests of one peer, and of no other one, are no chance.
const ENOUGH: u32 = 100;

/// The count once nothing is looked for any more.
const OVER: u32 = u32::MAX;

/// Looks for a proxy that was not named: every request comes from one peer that is not trusted, and they were forwarded.
/// All clients are one then, to policies per client too.
#[derive(Debug, Default)]
pub(super) struct ForgottenProxy {
    only_peer: OnceLock<IpAddr>,
    /// Forwarded requests so far.
    forwarded: AtomicU32,
}

impl ForgottenProxy {
    /// Looks at a request. Costs one relaxed load once the answer is known.
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
