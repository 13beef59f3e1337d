//! [`keeps_the_laws`]: checks an admission policy against the laws.
//!
//! The check needs no model of a policy. It runs two copies of the policy side by side: one is asked about every
//! creation, the other only about those that succeed. If an undone admission leaves nothing behind, both always say the
//! same.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Broken, HISTORIES, paused, through};
use crate::ClientContext;
use crate::admission::{AdmissionPolicy, Arrival, ArrivalKind, Lease, Permit, Rejection, Retry};

/// The number of clients. A few are enough to tell limits per client from limits for all.
const CLIENTS: u8 = 3;

/// One step of a history.
///
/// The number in an event picks a client, or for `End` a session.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A client asks for a session, and gets it if the policy admits it. Only this event asks both copies.
    Come(u8),
    /// A client asks for a session. If the policy admits it, the creation fails at once.
    Fail(u8),
    /// The same, but the failure takes this long, and meanwhile another creation of that client fails at once. So the
    /// two are not undone in the order in which they were asked for.
    FailLate(u8, Duration),
    /// The same as `Fail`, but the creation fails at the next `Failed`, or when the history ends.
    Begin(u8),
    /// All creations that were begun fail.
    Failed,
    /// A client asks for a session, and is gone before the policy has answered: the future is polled once and dropped.
    Cancel(u8),
    /// The policy is asked whether it would reject a client.
    Peek(u8),
    /// One of the sessions ends.
    End(u8),
    /// Time passes for the policy, which reads it from the arrival.
    Pass(Duration),
}

/// Checks a policy against the laws of admission.
///
/// - A permit that is dropped before its session exists leaves the policy as if it had never been asked. While it
///   exists, the policy admits no arrival that it would have rejected otherwise.
/// - The same holds if the future of [`admit`](AdmissionPolicy::admit) is dropped.
/// - [`peek`](AdmissionPolicy::peek) changes nothing, and rejects no arrival that `admit` admits.
/// - A client that waits as long as a rejection says is admitted, if no other client came meanwhile.
/// - [`validate`](AdmissionPolicy::validate) accepts its settings.
/// - It does not panic.
///
/// The histories have three clients with different addresses, and time passes in steps of up to two seconds, so use
/// limits of a few sessions in a few seconds.
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::admission::{AdmissionPolicyExt, SlidingWindow};
/// use rmcp_session_policy::testing;
///
/// testing::admission::keeps_the_laws(|| SlidingWindow::new(3, Duration::from_secs(2)).per_client());
/// ```
///
/// # Panics
///
/// Panics if the policy breaks a law, with that law and a short history that breaks it.
#[track_caller]
pub fn keeps_the_laws<P: AdmissionPolicy>(make: impl Fn() -> P) {
    let history = vec((0..16_u8, any::<u8>()), 1..80);
    through(&history, "the admission policy", HISTORIES, |history| {
        let events: Vec<_> = history.into_iter().map(|(kind, pick)| event(kind, pick)).collect();
        paused(hold(&make, &events))
            .map_err(|(law, after)| Broken { law: law.into(), history: events[..after].to_vec() })
    });
}

/// Makes an event of two random numbers. Numbers shrink better than events: a smaller one is a simpler event.
///
/// Each kind has as many numbers as it should have weight. A pick makes times of up to 2.04 seconds.
fn event(kind: u8, pick: u8) -> Event {
    let client = pick % CLIENTS;
    match kind {
        0..=4 => Event::Come(client),
        5 => Event::Fail(client),
        6 => Event::FailLate(client, Duration::from_millis(u64::from(pick) * 8)),
        7 => Event::Begin(client),
        8 => Event::Failed,
        9 => Event::Cancel(client),
        10..=11 => Event::Peek(client),
        12 => Event::End(pick),
        _ => Event::Pass(Duration::from_millis(u64::from(pick) * 8)),
    }
}

/// Makes the context of a client, which differs from the others by its address.
fn client(number: u8) -> ClientContext {
    ClientContext::new().with_peer(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)))
}

/// Makes what the policy is asked about. Every arrival is a creation.
fn arrival(context: &ClientContext, now: Instant) -> Arrival<'_> {
    Arrival::new(now, ArrivalKind::Create).with_context(context)
}

/// Holds two copies of a policy: one is asked about every creation, the other only about those that succeed.
struct Twins<P> {
    /// It is asked about everything.
    tried: P,
    /// It is asked only about arrivals that get their sessions.
    spared: P,
    /// The leases of each live session from both copies. The drop of a pair ends the session.
    sessions: Vec<(Lease, Lease)>,
    /// Creations under way, all of which fail. Only `tried` was asked about them.
    begun: Vec<Permit>,
    /// Whether an arrival was admitted while a creation was under way. A policy with several quotas may then have used
    /// another quota than without that creation, so from then on the two copies are not compared.
    apart: bool,
    /// The moment of the next arrival. The clock of the runtime stands still.
    now: Instant,
}

impl<P: AdmissionPolicy> Twins<P> {
    fn new(make: &impl Fn() -> P) -> Self {
        Self {
            tried: make(),
            spared: make(),
            sessions: Vec::new(),
            begun: Vec::new(),
            apart: false,
            now: Instant::now(),
        }
    }

    /// Has a client come, and compares what the copies say. Returns the rejection if `tried` rejects it, or the law
    /// that was broken.
    ///
    /// While creations are under way, `tried` may reject what `spared` would admit, but not the other way round.
    async fn come(&mut self, number: u8) -> Result<Option<Rejection>, &'static str> {
        let context = client(number);
        let arrival = arrival(&context, self.now);
        let would = self.tried.peek(&arrival);
        let did = self.tried.admit(&arrival).await;
        if would.is_err() && did.is_ok() {
            return Err("`peek` refused an arrival that `admit` let in");
        }
        let under_way = !self.begun.is_empty();
        let spared = match &did {
            // While creations are under way, `tried` may be stricter, so `spared` is not asked about what `tried`
            // rejects.
            Err(_) if under_way || self.apart => return Ok(did.err()),
            _ => self.spared.admit(&arrival).await,
        };
        match (did, spared) {
            (Ok(permit), Ok(spared)) => {
                self.apart |= under_way;
                self.sessions.push((permit.commit(), spared.commit()));
            }
            (Ok(permit), Err(_)) if self.apart => self.sessions.push((permit.commit(), Lease::free())),
            (Ok(_), Err(_)) if under_way => {
                return Err("it let more in than if a creation that fails had never been asked for");
            }
            (Ok(_), Err(_)) => return Err("it admitted an arrival without a quota for it"),
            (Err(_), Ok(_)) => return Err("what was undone, cancelled or only peeked at still counts"),
            (Err(rejection), Err(_)) => return Ok(Some(rejection)),
        }
        Ok(None)
    }

    /// Plays one event. Returns the rejection of a client that came, or the law that was broken. Rejections of
    /// creations that fail anyway are dropped.
    async fn happens(&mut self, event: Event) -> Result<Option<Rejection>, &'static str> {
        match event {
            Event::Come(number) => return self.come(number).await,
            Event::Fail(number) => drop(self.tried.admit(&arrival(&client(number), self.now)).await),
            Event::FailLate(number, time) => {
                let context = client(number);
                let late = self.tried.admit(&arrival(&context, self.now)).await;
                self.now += time;
                drop(self.tried.admit(&arrival(&context, self.now)).await);
                drop(late);
            }
            Event::Begin(number) => self.begun.extend(self.tried.admit(&arrival(&client(number), self.now)).await.ok()),
            Event::Failed => self.begun.clear(),
            Event::Cancel(number) => drop(self.tried.admit(&arrival(&client(number), self.now)).now_or_never()),
            Event::Peek(number) => drop(self.tried.peek(&arrival(&client(number), self.now))),
            Event::End(pick) if !self.sessions.is_empty() => {
                drop(self.sessions.remove(usize::from(pick) % self.sessions.len()));
            }
            Event::End(_) => {}
            Event::Pass(time) => self.now += time,
        }
        Ok(None)
    }
}

#[expect(clippy::future_not_send, reason = "it runs where it is made, whatever makes the policy")]
/// Plays a history. Returns the law that was broken, and after how many events.
///
/// It plays the history once for the comparison. If a client was rejected with a time to come back, it plays it again
/// up to the first such rejection, lets all creations under way fail, waits as long as was said, and expects to be
/// admitted.
async fn hold<P: AdmissionPolicy>(make: &impl Fn() -> P, events: &[Event]) -> Result<(), (&'static str, usize)> {
    if make().validate().is_err() {
        return Err(("`validate` says that its settings make no sense", 0));
    }
    let mut twins = Twins::new(make);
    let mut refused = None;
    for (at, event) in events.iter().enumerate() {
        let rejection = twins.happens(*event).await.map_err(|law| (law, at + 1))?;
        if let (Some(rejection), Event::Come(number)) = (rejection, event) {
            refused.get_or_insert((at, *number, rejection.retry()));
        }
    }
    // Play the history again up to the first rejection, then wait as long as it says and try once more.
    if let Some((at, number, Retry::After(wait))) = refused {
        let mut twins = Twins::new(make);
        for event in &events[..=at] {
            twins.happens(*event).await.map_err(|law| (law, at + 1))?;
        }
        twins.happens(Event::Failed).await.map_err(|law| (law, at + 1))?;
        twins.now += wait;
        let context = client(number);
        if twins.tried.admit(&arrival(&context, twins.now)).await.is_err() {
            return Err(("who waited as long as it said was refused again", at + 1));
        }
    }
    Ok(())
}
