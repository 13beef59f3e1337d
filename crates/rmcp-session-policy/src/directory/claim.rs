//! [`Claim`]: the answer to a claim.

use super::epoch::Epoch;
use super::server_id::ServerId;
use super::stored::StoredSession;

/// Says which server has a session after a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// The server that claimed it has it now, under this epoch. This is what was stored of it.
    Yours(Epoch, StoredSession),
    /// Another server has it, or had it since the look-up.
    Elsewhere(ServerId),
    /// It is not in the directory, or has ended for good.
    Gone,
}
