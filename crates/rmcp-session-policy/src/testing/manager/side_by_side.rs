//! Plays a history on the manager and in the model, and compares the two after each event.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::answer::{Told, text};
use super::history::Event;
use super::model::{Model, Order, PLACES, Place, STEP, Session};
use super::server::Server;
use crate::eviction::EvictionPolicy;
use crate::observe::CloseReason;
use crate::session::Fingerprint;
use crate::testing::inner::{Act, Call};
use crate::time::{HOUR, MINUTE};

/// The two side by side. Each event happens to both, and after each they have to agree.
struct Both {
    model: Model,
    server: Server,
}

impl Both {
    /// Plays one event on the manager, and then in the model. Returns an error if a client is told something else than
    /// the model says.
    #[expect(clippy::future_not_send, reason = "it runs on one thread")]
    async fn happens(&mut self, event: Event) -> Result<(), String> {
        let Self { model, server } = self;
        model.events += 1;
        let pick = |pick: u8| (!model.sessions.is_empty()).then(|| usize::from(pick) % model.sessions.len());
        match event {
            Event::Open | Event::HalfOpen => {
                let (told, id) = server.initialize().await?;
                let should = if model.make_room(&server.here())? { Told::Answer } else { Told::Refused };
                hold!(told == should, "a newcomer was told {told:?}, not {should:?}");
                if told == Told::Answer {
                    let half = matches!(event, Event::HalfOpen);
                    if !half {
                        server.initialized(&id).await?;
                    }
                    model.open(id, if half { Place::Opening } else { Place::Ready });
                }
            }
            Event::FailToOpen => {
                server.inner.set(Call::Create, Act::Error);
                let told = server.initialize().await?.0;
                hold!(told == Told::Refused, "a newcomer was told {told:?} when the inner manager failed");
                server.inner.set(Call::Create, Act::Ok);
                model.make_room(&server.here())?;
            }
            Event::GiveUp => {
                server.inner.set(Call::Create, Act::Never);
                timeout(STEP, server.initialize()).await.ok();
                server.inner.set(Call::Create, Act::Ok);
                model.make_room(&server.here())?;
            }
            Event::Finish(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].place == Place::Opening) else {
                    return Ok(());
                };
                server.initialized(&model.sessions[nth].id).await?;
                model.touch(nth);
                model.sessions[nth].place = Place::Ready;
            }
            Event::Call(nth) | Event::FailToRestore(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].place != Place::Opening) else {
                    return Ok(());
                };
                let fails = matches!(event, Event::FailToRestore(_));
                if fails {
                    server.inner.set(Call::Restore, Act::Error);
                }
                let told = server.call(&model.sessions[nth].id).await?;
                server.inner.set(Call::Restore, Act::Ok);
                let session = &model.sessions[nth];
                let should = if fails && matches!(session.place, Place::Parked(_)) && !session.is_over_age() {
                    // What made room for it is parked before it is again.
                    model.sessions[nth].place = Place::ComingBack;
                    model.make_room(&server.here())?;
                    model.park(nth);
                    Told::Refused
                } else {
                    model.reach(nth, &server.here())?
                };
                hold!(told == should, "a call was told {told:?}, not {should:?}");
            }
            Event::Hang(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].place != Place::Opening) else {
                    return Ok(());
                };
                let (told, number, answer) = server.hang(&model.sessions[nth].id).await?;
                let should = model.reach(nth, &server.here())?;
                hold!(told == should, "a call was told {told:?}, not {should:?}");
                if told == Told::Answer {
                    model.sessions[nth].called = true;
                    model.sessions[nth].calls.push((number, Some(answer)));
                }
            }
            Event::Cancel(nth) => {
                let Some(nth) = pick(nth).filter(|nth| !model.sessions[*nth].calls.is_empty()) else { return Ok(()) };
                let (number, _answer) = model.sessions[nth].calls.remove(0);
                let params = json!({"requestId": number});
                let message = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
                server.notify(&model.sessions[nth].id, &message).await?;
                model.touch(nth);
            }
            Event::HangUp(nth) => {
                if let Some(nth) = pick(nth)
                    && let Some((_, answer)) = model.sessions[nth].calls.first_mut()
                {
                    drop(answer.take());
                }
            }
            Event::Delete(nth) => {
                let Some(nth) = pick(nth) else { return Ok(()) };
                let status = server.send(Method::DELETE, Some(&model.sessions[nth].id), &Value::Null).await?.status();
                let should = if model.sessions[nth].place == Place::Dead { 404 } else { 202 };
                hold!(status == should, "a DELETE was answered with {status}, not {should}");
                model.sessions[nth].place = Place::Dead;
            }
            Event::Revoke(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].is_live()) else { return Ok(()) };
                let fingerprint = Fingerprint::of(&model.sessions[nth].id);
                let listed = server.sessions.list();
                let listed = listed.iter().find(|listed| listed.fingerprint == fingerprint);
                let key = listed.ok_or("a session that should live is not listed")?.key;
                let ended = server.sessions.terminate(key, CloseReason::Revoked).await;
                hold!(ended == 1, "{ended} sessions were revoked, not one");
                model.sessions[nth].place = Place::Dead;
            }
            Event::Hour => {
                sleep(HOUR).await;
                model.time_passes();
            }
        }
        Ok(())
    }

    /// What the laws say of every moment in which nothing happens: the numbers of sessions and leases, one end of each,
    /// no more sessions inside than places, and a farewell for each call of a session that has ended.
    async fn agree(&mut self) -> Result<(), String> {
        let Self { model, server } = self;
        let stats = server.sessions.stats();
        let told = server.leases.ended();
        let should = [
            ("live", stats.live, model.count(Session::is_live)),
            ("opening", stats.opening, model.count(|session| session.place == Place::Opening)),
            ("busy", stats.busy, model.count(|session| session.is_live() && !session.calls.is_empty())),
            ("parked", stats.parked, model.count(|session| matches!(session.place, Place::Parked(_)))),
            ("reserved", stats.reserved, 0),
            ("closing", stats.closing, 0),
            ("stuck", stats.stuck, 0),
            ("existing in the inner manager", server.inner.existing(), stats.live),
            ("held leases", server.leases.held(), stats.live),
            ("told to have ended", told.len(), model.count(|session| session.place == Place::Dead)),
            ("told so once", told.iter().collect::<BTreeSet<_>>().len(), told.len()),
        ];
        if let Some((what, are, should)) = should.into_iter().find(|(_, are, should)| are != should) {
            return Err(format!("{are} are {what}, not {should}: {stats:?}"));
        }
        hold!(stats.overruled == 0, "the eviction policy was overruled");
        let most = server.inner.most();
        hold!(most <= PLACES, "{most} sessions existed at once, for {PLACES} places");
        let wrong = server.ends.wrong();
        hold!(wrong.is_none(), "{}", wrong.unwrap_or_default());
        // Calls of sessions that have ended got their farewell.
        for session in model.sessions.iter_mut().filter(|session| !session.is_live()) {
            for (number, answer) in session.calls.drain(..) {
                let Some(answer) = answer else { continue };
                let said = timeout(STEP, text(answer)).await.unwrap_or_default();
                let is_farewell = said.contains("\"isError\":true") && said.contains(&format!("\"id\":{number}"));
                hold!(is_farewell, "a call whose session ended was answered with {said:?}");
            }
        }
        Ok(())
    }
}

/// Plays a history, and drains the manager at the end: nothing may be left of it.
///
/// Between two events it waits until no session is closing and the time of none is near.
#[expect(clippy::future_not_send, reason = "it runs on one thread")]
pub(super) async fn run(policy: impl EvictionPolicy, order: Order, history: &[Event]) -> Result<(), String> {
    let mut both = Both { model: Model::new(order), server: Server::new(policy, order)? };
    for event in history {
        both.happens(*event).await?;
        sleep(STEP).await;
        // The model does not know how long a close takes, nor what of an event comes first.
        for _ in 0..1_000 {
            if both.server.sessions.stats().closing == 0 && !both.model.is_someones_time() {
                break;
            }
            sleep(STEP / 20).await;
        }
        both.model.time_passes();
        both.agree().await?;
    }
    let Server { sessions, inner, leases, .. } = &both.server;
    sessions.drain(MINUTE).await;
    let left = (sessions.stats().live, sessions.stats().reserved, inner.existing(), leases.held());
    hold!(left == (0, 0, 0, 0), "sessions, places, sessions inside and leases that a drain left: {left:?}");
    Ok(())
}
