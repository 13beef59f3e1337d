//! Reference policies, to compare the library's with: well-known algorithms from caches, and one that knows the future.
//!
//! They live here and not in the library, because on session traces none of them is as good as what the library has (see
//! the crate's README). Each is an [`EvictionPolicy`](rmcp_session_policy::eviction::EvictionPolicy), so it is asked and told
//! as any policy is. They are written to be exact and short: some hear of each use, which costs a lock on a server.
//!
//! In a cache an object comes by a miss, and later requests are hits. Here a session comes by `initialize` or by the request
//! that restores it, and `hits` counts the requests after that.

mod belady;
mod clock;
mod hits;
mod hyperbolic;
mod lhd;
mod lru2;
mod s3fifo;
mod sieve;
mod slru;

pub use belady::{Belady, Foresight};
pub use clock::Clock;
pub use hyperbolic::Hyperbolic;
pub use lhd::Lhd;
pub use lru2::Lru2;
pub use s3fifo::S3Fifo;
pub use sieve::Sieve;
pub use slru::Slru;

#[cfg(test)]
mod tests {
    use rmcp_session_policy::testing::eviction::keeps_the_laws;

    use super::*;

    #[test]
    fn references_keep_the_laws_of_eviction() {
        keeps_the_laws(Belady::default);
        keeps_the_laws(Clock::default);
        keeps_the_laws(Hyperbolic::default);
        keeps_the_laws(Lhd::default);
        keeps_the_laws(Lru2::default);
        keeps_the_laws(S3Fifo::default);
        keeps_the_laws(Sieve::default);
        keeps_the_laws(Slru::default);
    }
}
