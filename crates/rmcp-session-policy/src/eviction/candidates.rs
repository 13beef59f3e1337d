//! The sessions that may go.

use std::fmt;

use tokio::time::Instant;

use super::info::SessionInfo;
use crate::context::ClientContext;
use crate::session::{Record, SessionKey};

/// How many sessions of a sample are drawn at one time.
pub(crate) const AHEAD: usize = 32;

/// What a choice of a victim sees of all sessions. The registry implements it, so that policies do not know the
/// registry.
pub(crate) trait View {
    /// Returns a session that is not closing, whether it may go or not. Costs one look.
    fn get(&self, key: SessionKey) -> Option<&Record>;

    /// How many sessions are in the policy's order.
    fn listed(&self) -> usize;

    /// Returns one of these by its place in a list of them, in no particular order, if it may go. Costs one look.
    fn nth(&self, place: usize) -> Option<&Record>;

    /// Draws places at random, each below [`listed`](Self::listed), and brings their sessions into the cache. Some
    /// session is listed, and there are at most [`AHEAD`] places.
    fn draw_ahead(&self, places: &mut [usize]);

    /// Draws one of these that may go at random. The registry takes each one out of the order that was drawn and may not
    /// go, so the cost is O(1), amortized. `None` if none was found.
    fn draw(&self) -> Option<&Record>;

    /// Returns the sessions in the policy's order that may go. Costs a look at each session in the order.
    fn candidates(&self) -> Box<dyn Iterator<Item = &Record> + '_>;
}

/// The sessions at the moment of one choice. It is valid during one call of [`victim`](super::EvictionPolicy::victim).
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    view: &'a dyn View,
    now: Instant,
    newcomer: Option<&'a ClientContext>,
}

impl<'a> Candidates<'a> {
    pub(crate) const fn new(view: &'a dyn View, now: Instant, newcomer: Option<&'a ClientContext>) -> Self {
        Self { view, now, newcomer }
    }

    /// The moment of the choice.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// The client that the place is wanted for, if that is known. It opens a session, or its session is to be restored.
    #[must_use]
    pub const fn newcomer(&self) -> Option<&'a ClientContext> {
        self.newcomer
    }

    /// What is known of a session at this moment, whether it may go or not. `None` if it has ended. Constant time.
    ///
    /// For a policy that keeps an order of its own: it need not know which sessions may go.
    #[must_use]
    pub fn get(&self, key: SessionKey) -> Option<SessionInfo<'a>> {
        self.view.get(key).map(SessionInfo::of)
    }

    /// At most `count` sessions that may go, drawn at random; one may be drawn twice. If there are no more than `count` in
    /// the order, all of them that may go. None only if no session may go.
    ///
    /// Costs O(count), amortized, however many sessions there are and however many of them are busy.
    pub fn sample(&self, count: usize) -> impl Iterator<Item = SessionInfo<'a>> + use<'a> {
        let (view, listed) = (self.view, self.view.listed());
        let all = listed <= count;
        let count = listed.min(count);
        let mut ahead = [0; AHEAD];
        let draw = move |nth: usize| {
            if all {
                return view.nth(nth);
            }
            if nth.is_multiple_of(AHEAD) {
                view.draw_ahead(&mut ahead[..AHEAD.min(count - nth)]);
            }
            view.nth(ahead[nth % AHEAD]).or_else(|| view.draw())
        };
        (0..count).filter_map(draw).map(SessionInfo::of)
    }

    /// All sessions that may go, in no particular order, without the [suspended](super::EvictionPolicy::on_suspend)
    /// ones. Its cost grows with the number of sessions: for policies that must look at all of them, and for servers
    /// with few sessions.
    pub fn iter(&self) -> impl Iterator<Item = SessionInfo<'a>> + use<'a> {
        self.view.candidates().map(SessionInfo::of)
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidates").field("now", &self.now).finish_non_exhaustive()
    }
}
