//! [`SessionDirectory`], the trait of the backends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::away::Away;
use super::change::Change;
use super::claim::Claim;
use super::digest::SessionDigest;
use super::due::Due;
use super::epoch::Epoch;
use super::found::Found;

/// How long a request waits for the directory, for each of its calls.
pub(crate) const DIRECTORY_WAIT: Duration = Duration::from_millis(50);

/// Keeps sessions beyond the process that serves them. One value is one *server* of the directory: one process, from its
/// start to its end.
///
/// Give it to [`PolicySessionManagerBuilder::directory`](crate::PolicySessionManagerBuilder::directory). The kit
/// `testing::directory` (feature `testing`) has an implementation in memory, and holds others to this contract.
///
/// # Contract
///
/// What the manager guarantees:
///
/// - It writes a change only of a session that it has, under the epoch of that: [`Epoch::FIRST`] for one that was opened
///   here, else the epoch of the claim, or the one with which it took the session as [due](Self::take_due). The changes of
///   one session are in order. No change but [`Change::Ending`] and [`Change::Dead`] follows [`Change::Parked`] or
///   [`Change::Released`] under the same epoch, and none but [`Change::Dead`] follows [`Change::Ending`].
/// - It makes few look-ups at a time, one for each digest, and waits 50 ms for each at most. It drops the future then.
/// - It never drops the future of a claim. It waits 50 ms for it, and releases later what it won later.
/// - It gives no method a session id.
///
/// What a backend guarantees:
///
/// - **One owner.** Of all claims with the same epoch, at most one is won: it raises the epoch by one, and the server that
///   made it has the session ([`Claim::Yours`]). A session that is live at another server is not won
///   ([`Claim::Elsewhere`]), unless that server is gone. One that is live at the server that claims is won: it has lost the
///   session, since its queue had no room for a change. When a server is gone is for the backend to say; it must be sure,
///   or be ready to report what it took away by [`lost`](Self::lost).
/// - **Fencing.** A write under an epoch that is not that of the directory has no effect, nor has one that does not apply
///   (the table of [`Change`]).
/// - **An end is an end.** After [`Change::Ending`] or [`Change::Dead`] no claim is won, and no write but that of
///   [`Change::Dead`] has an effect. The backend remembers it at least as long as a session may live or stay parked.
/// - **Own writes are seen.** A look-up or claim of this server sees what it wrote before, whether that is durable or not.
/// - **Look-ups change nothing.** Nor do they wait for writes of other servers.
/// - **Time.** Ages and idle times go on while a session is stored; see [`StoredSession`](super::StoredSession).
/// - **Bounds.** Memory, and what is stored, are bounded by configuration, whatever servers write: a queue holds one change
///   for each session ([`Change::after`]).
///
/// A backend that knows that no other server can have claimed a session since it was parked here (it is the only server of
/// its directory, say) may answer a claim from its own memory.
///
/// # Implementing
///
/// It is an async trait of the crate [`async_trait`](mod@async_trait). Methods are called on many tasks at a time. None should panic: a
/// panic ends the request that calls it.
#[async_trait]
pub trait SessionDirectory: fmt::Debug + Send + Sync + 'static {
    /// Looks a session up. `None` if the directory does not have it. Changes nothing.
    ///
    /// The client of a request waits for it, 50 ms at most. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Away`] if the directory cannot tell now.
    async fn look(&self, id: &SessionDigest) -> Result<Option<Found>, Away>;

    /// Claims a session for this server, if it is still as `seen`: compares the epoch, and sets the server and the next
    /// epoch in one step. Of `seen` only the epoch counts: of a session that it has parked, a server gives no more.
    ///
    /// The client of a request waits for it, 50 ms at most; the manager takes the answer later too. The answer is
    /// [`Claim::Elsewhere`] also if the session was claimed and parked again since the look-up.
    ///
    /// # Errors
    ///
    /// [`Away`] if the directory cannot tell now. Then the claim is not won, now or later.
    async fn claim(&self, id: &SessionDigest, seen: &Found) -> Result<Claim, Away>;

    /// Queues a change of a session that this server has, or parked. Does not wait, and does not fail: what could not be
    /// written is told by [`written`](Self::written) and [`flush`](Self::flush).
    ///
    /// Requests call it, so it should cost microseconds.
    fn write(&self, id: &SessionDigest, epoch: Epoch, change: Change);

    /// Waits until what this server wrote of a session before this call is durable, at most until that moment. Returns
    /// whether it is. It is, if nothing is queued of it.
    async fn written(&self, id: &SessionDigest, until: Instant) -> bool;

    /// Whether answers wait until what they acknowledge is durable: the answer to `initialize`, and that to a call that
    /// changed session data. The manager then calls [`written`](Self::written) before it sends them, and waits 50 ms for
    /// it at most. Does not change. Defaults to no.
    ///
    /// The answer that confirms an end for good always waits.
    fn is_awaited(&self) -> bool {
        false
    }

    /// Notes that this server is about to stop: it parks each session once that is idle. Look-ups of other servers should
    /// say so of the sessions that it has ([`Found::leaving`]); requests for them then wait for a time, and are refused
    /// otherwise. Cannot be taken back. Does not wait. By default it does nothing.
    fn leave(&self) {}

    /// Waits until other servers have claimed sessions that this server had or parked, and returns them with the epochs
    /// under which this server had them. Each is reported once, at least if this server had it live. May wait for ever.
    ///
    /// One task of the manager calls it. Cancel safe: what a dropped future would have returned, a later one returns.
    async fn lost(&self) -> Vec<(SessionDigest, Epoch)>;

    /// Takes some sessions, 100 at most, that are to be ended though no request asks for that:
    ///
    /// - those that no server has, and that are past the age up to which this directory keeps sessions, or were opened at
    ///   least `lifetime` ago;
    /// - those that a server has left [ending](Change::Ending) which is gone by now.
    ///
    /// In one step each of them is set to ending at this server, under the next epoch; so of all servers one gets it. The
    /// manager does what the end is to do, and writes [`Change::Dead`]. A backend that is asked once leaves the sessions that
    /// are past their age to this method as long as its bounds allow it.
    ///
    /// A manager with a hook for [final ends](crate::PolicySessionManagerBuilder::on_final_end) calls it, every 30 seconds.
    /// No request waits for it. The manager drops its future only when it is dropped itself; what that call has taken is due
    /// again once this server is gone.
    ///
    /// # Errors
    ///
    /// [`Away`] if the directory cannot tell now. Then none is taken.
    async fn take_due(&self, lifetime: Option<Duration>) -> Result<Vec<Due>, Away>;

    /// Waits until all that this server wrote before is durable, at most until that moment. Returns how many sessions have
    /// changes that are not. A drain calls it.
    async fn flush(&self, until: Instant) -> usize;
}

#[async_trait]
impl<T: SessionDirectory + ?Sized> SessionDirectory for Arc<T> {
    async fn look(&self, id: &SessionDigest) -> Result<Option<Found>, Away> {
        (**self).look(id).await
    }

    async fn claim(&self, id: &SessionDigest, seen: &Found) -> Result<Claim, Away> {
        (**self).claim(id, seen).await
    }

    fn write(&self, id: &SessionDigest, epoch: Epoch, change: Change) {
        (**self).write(id, epoch, change);
    }

    async fn written(&self, id: &SessionDigest, until: Instant) -> bool {
        (**self).written(id, until).await
    }

    fn is_awaited(&self) -> bool {
        (**self).is_awaited()
    }

    fn leave(&self) {
        (**self).leave();
    }

    async fn lost(&self) -> Vec<(SessionDigest, Epoch)> {
        (**self).lost().await
    }

    async fn take_due(&self, lifetime: Option<Duration>) -> Result<Vec<Due>, Away> {
        (**self).take_due(lifetime).await
    }

    async fn flush(&self, until: Instant) -> usize {
        (**self).flush(until).await
    }
}
