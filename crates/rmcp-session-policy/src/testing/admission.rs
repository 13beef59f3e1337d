//! The laws of admission policies.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Broken, HISTORIES, paused, through};
use crate::ClientContext;
use crate::admission::{AdmissionPolicy, Arrival, ArrivalKind, Lease, Permit, Rejection, Retry};

/// How many clients come.
const CLIENTS: u8 = 3;

/// What happens to a policy.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A client comes, and gets a session if it may come in.
    Come(u8),
    /// A client comes, and if it may come in the creation of its session fails at once.
    Fail(u8),
    /// The same, but the failure takes so long, and meanwhile another creation of that client fails at once.
    FailLate(u8, Duration),
    /// The same, but the failure comes only with the next `Failed`.
    Begin(u8),
    /// All creations that were begun fail.
    Failed,
    /// A client comes, and is gone before the policy has answered.
    Cancel(u8),
    /// It is asked whether a client would be refused.
    Peek(u8),
    /// One of the sessions ends.
    End(u8),
    /// Time passes.
    Pass(Duration),
}

/// Holds a policy to the laws of admission.
///
/// - A permit that is dropped before its session exists leaves the policy as if it had never been asked, and meanwhile
///   lets nobody in who would have been refused.
/// - The same holds if the future of [`admit`](AdmissionPolicy::admit) is dropped.
/// - [`peek`](AdmissionPolicy::peek) changes nothing, and refuses nobody whom `admit` lets in.
/// - Who waits as long as a rejection says, and comes when nobody else did meanwhile, is let in.
/// - What [`validate`](AdmissionPolicy::validate) says of the policy is that its settings are sound.
/// - It does not panic.
///
/// Three clients come, told apart by their addresses; time passes in steps of up to two seconds, so limits of a few
/// sessions in some seconds show the most.
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
/// If the policy breaks a law: with the law, and a short history in which it is broken.
#[track_caller]
pub fn keeps_the_laws<P: AdmissionPolicy>(make: impl Fn() -> P) {
    let history = vec((0..16_u8, any::<u8>()), 1..80);
    through(&history, "the admission policy", HISTORIES, |history| {
        let events: Vec<_> = history.into_iter().map(|(kind, pick)| event(kind, pick)).collect();
        paused(hold(&make, &events))
            .map_err(|(law, after)| Broken { law: law.into(), history: events[..after].to_vec() })
    });
}

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

fn client(number: u8) -> ClientContext {
    ClientContext::new().with_peer(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)))
}

fn arrival(context: &ClientContext, now: Instant) -> Arrival<'_> {
    Arrival::new(now, ArrivalKind::Create).with_context(context)
}

/// Two of the same policy: one goes through everything, the other hears only of what came to be.
struct Twins<P> {
    tried: P,
    spared: P,
    sessions: Vec<(Lease, Lease)>,
    /// Creations under way, of which only the one hears, and which all fail.
    begun: Vec<Permit>,
    /// Somebody came in while a creation was under way: a policy that has several quotas to choose from may have taken
    /// another one than if it had not been, so from here on the two are not compared.
    apart: bool,
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

    async fn come(&mut self, number: u8) -> Result<Option<Rejection>, &'static str> {
        let context = client(number);
        let arrival = arrival(&context, self.now);
        let would = self.tried.peek(&arrival);
        let did = self.tried.admit(&arrival).await;
        if would.is_err() && did.is_ok() {
            return Err("`peek` refused somebody whom `admit` let in");
        }
        let under_way = !self.begun.is_empty();
        let spared = match &did {
            // While creations are under way it may be stricter: then only one hears of whom it refuses.
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
            (Ok(_), Err(_)) => return Err("it let somebody in for whom it has no quota"),
            (Err(_), Ok(_)) => return Err("what was undone, cancelled or only peeked at still counts"),
            (Err(rejection), Err(_)) => return Ok(Some(rejection)),
        }
        Ok(None)
    }

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
/// Plays a history. The law that was broken, and after how many events.
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
    // From the beginning once more, up to the first who was refused; who then waits.
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
