//! [`keeps_the_laws`]: the laws of a session directory, one function for each.
#![expect(
    clippy::future_not_send,
    reason = "they run on the thread that checks, so what opens a directory need not be"
)]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::history;
use crate::context::ClientContext;
use crate::directory::{
    Change, Claim, Due, Epoch, Found, FoundState, OwnerDigest, SessionDigest, SessionDirectory, StoredBody,
    StoredSession, Usage,
};

/// How long a directory may take for anything. A correct one takes less; the time only bounds a check that fails.
pub(super) const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 400 } else { 10_000 });

/// A law that is broken, as a sentence without its end.
pub(super) type Checked = Result<(), String>;

/// Checks a session directory against the contract of [`SessionDirectory`].
///
/// `make` makes an empty directory, and returns what opens it as one more server each time. A server is gone when what was
/// opened is dropped, as its process would be. The clock is the real one, and the checks take as long as some thousand
/// writes and look-ups do.
///
/// - A claim is won once, of many at a time, and not from another server that has the session and is there.
/// - A server wins the claim of a session that is live at itself.
/// - Writes that are stale or late have no effect, over random histories of three servers beside a model.
/// - A session that has ended for good does not come back, also when its end meets a claim.
/// - What a server that is gone has left ending, and what is past its lifetime and that no server has, is due at one other
///   server, with what is stored of it, and does not come back.
/// - A server sees its own writes at once, and others see them once they are durable.
/// - What is [`written`](SessionDirectory::written) or [flushed](SessionDirectory::flush) outlives its server.
/// - The sessions of a server that is gone may be claimed.
/// - A server is told of the sessions that others have claimed, also after a wait that was dropped.
/// - Ages and idle times go on, and all that is stored comes back as it was.
///
/// ```
/// use rmcp_session_policy::testing::directory::{MemoryDirectory, keeps_the_laws};
///
/// keeps_the_laws(async || {
///     let directory = MemoryDirectory::new();
///     async move || directory.another_server()
/// });
/// ```
///
/// # Panics
///
/// Panics if the directory breaks a law, with that law. Panics within an async runtime: it makes one of its own, with
/// several threads.
#[track_caller]
pub fn keeps_the_laws<O, D>(make: impl AsyncFn() -> O)
where
    O: AsyncFn() -> D,
    D: SessionDirectory,
{
    let runtime = runtime();
    let checked = runtime.block_on(async {
        look_ups_change_nothing(&make().await).await?;
        all_comes_back(&make().await).await?;
        own_writes_are_seen(&make().await).await?;
        a_claim_is_won_once(&make().await).await?;
        a_live_session_is_not_won(&make().await).await?;
        a_server_wins_what_it_has_itself(&make().await).await?;
        a_server_that_is_gone_has_none(&make().await).await?;
        an_end_is_an_end(&make().await).await?;
        an_end_meets_a_claim(&make().await).await?;
        an_ending_is_finished(&make().await).await?;
        what_no_server_has_is_due_after_its_lifetime(&make().await).await?;
        the_loser_is_told(&make().await).await?;
        many_are_written(&make().await).await
    });
    let checked = checked.and_then(|()| history::follows_the_model(&runtime, &make));
    if let Err(law) = checked {
        panic!("the session directory: {law}");
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    #[expect(clippy::expect_used, reason = "a test cannot go on without")]
    runtime.expect("a runtime; these functions are not for async tests")
}

/// The digest of a session of a check.
pub(super) fn id(name: impl std::fmt::Display) -> SessionDigest {
    SessionDigest::of(&name.to_string())
}

/// A session that was used so often.
pub(super) fn session(uses: u64) -> StoredSession {
    let usage = Usage::default().with_uses(uses);
    StoredSession::new(None, Duration::ZERO, usage, StoredBody::from_bytes(uses.to_be_bytes()))
}

pub(super) async fn look(directory: &impl SessionDirectory, id: &SessionDigest) -> Result<Option<Found>, String> {
    match timeout(PATIENCE, directory.look(id)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(away)) => Err(format!("a look-up failed: {away:?}")),
        Err(_) => Err("a look-up was not answered".into()),
    }
}

/// Looks a session up that must be there.
async fn see(directory: &impl SessionDirectory, id: &SessionDigest) -> Result<Found, String> {
    look(directory, id).await?.ok_or_else(|| "a session that was written is not there".into())
}

pub(super) async fn claim(
    directory: &impl SessionDirectory,
    id: &SessionDigest,
    seen: &Found,
) -> Result<Claim, String> {
    match timeout(PATIENCE, directory.claim(id, seen)).await {
        Ok(Ok(claim)) => Ok(claim),
        Ok(Err(away)) => Err(format!("a claim failed: {away:?}")),
        Err(_) => Err("a claim was not answered".into()),
    }
}

pub(super) async fn flush(directory: &impl SessionDirectory) -> Checked {
    match timeout(2 * PATIENCE, directory.flush(Instant::now() + PATIENCE)).await {
        Ok(0) => Ok(()),
        Ok(left) => Err(format!("a flush left {left} sessions that were not written")),
        Err(_) => Err("a flush took longer than it was given".into()),
    }
}

/// Waits until a session is parked for a server, as it is when the server that had it is gone.
pub(super) async fn see_parked(directory: &impl SessionDirectory, id: &SessionDigest) -> Result<Found, String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = see(directory, id).await?;
        if found.state == FoundState::Parked {
            return Ok(found);
        }
        if Instant::now() >= until {
            return Err("the session of a server that is gone cannot be claimed".into());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn must(holds: bool, law: &str) -> Checked {
    if holds { Ok(()) } else { Err(law.into()) }
}

/// Makes a session that a server has opened and parked.
async fn parked(server: &impl SessionDirectory, name: &str) -> Result<SessionDigest, String> {
    let id = id(name);
    server.write(&id, Epoch::FIRST, Change::Opened(session(1)));
    server.write(&id, Epoch::FIRST, Change::Parked(session(2)));
    flush(server).await?;
    Ok(id)
}

async fn all_comes_back<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    const HOUR: Duration = Duration::from_secs(3_600);
    let (first, second) = (open().await, open().await);
    let owner = OwnerDigest::of(&ClientContext::new().with_principal("alice"));
    let gap = Some(Duration::from_millis(1_500));
    let usage = Usage::default().with_idle(HOUR).with_uses(1 << 40).with_calls(u32::MAX, gap);
    let bytes: Vec<u8> = (0..=255).cycle().take(40_000).collect();
    let stored = StoredSession::new(owner, 24 * HOUR, usage, StoredBody::from_bytes(bytes)).with_ready(true);
    let began = Instant::now();
    let id = id("all");
    first.write(&id, Epoch::FIRST, Change::Opened(stored.clone()));
    first.write(&id, Epoch::FIRST, Change::Parked(stored.clone()));
    flush(&first).await?;
    sleep(Duration::from_millis(200)).await;
    let found = see(&second, &id).await?;
    must(found.owner == owner, "the owner that a look-up finds is not the one that was stored")?;
    let claimed = claim(&second, &id, &found).await?;
    let Claim::Yours(epoch, back) = claimed else { return Err("a parked session was not won".into()) };
    must(epoch == Epoch::FIRST.next(), "the epoch of a claim is not the next one")?;
    // A backend may store whole milliseconds.
    let (least, most) = (Duration::from_millis(198), began.elapsed() + Duration::from_millis(2));
    let went_on = |now: Duration, then: Duration| (least..=most).contains(&now.saturating_sub(then));
    must(went_on(found.age, stored.age), "the age that a look-up finds does not go on")?;
    must(went_on(back.age, stored.age), "the age does not go on")?;
    must(went_on(back.usage.idle, usage.idle), "the idle time does not go on")?;
    let same = StoredSession { age: stored.age, usage: back.usage.with_idle(usage.idle), ..back };
    must(same == stored, "what is stored of a session does not come back as it was")
}

async fn look_ups_change_nothing<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    let (first, second) = (open().await, open().await);
    must(look(&second, &id("nothing")).await?.is_none(), "a look-up finds what was not written")?;
    let id = parked(&first, "looked up").await?;
    let once = see(&second, &id).await?;
    must((once.state, once.epoch) == (FoundState::Parked, Epoch::FIRST), "a parked session is not found as parked")?;
    for server in [&first, &second, &first] {
        let again = see(server, &id).await?;
        must((again.state, again.epoch) == (once.state, once.epoch), "a look-up changed a session")?;
    }
    // Of what it has parked, a manager knows the epoch alone.
    let won = matches!(claim(&first, &id, &Found::parked_here(once.epoch)).await?, Claim::Yours(..));
    must(won, "a server cannot claim a session that it has parked, by its epoch")
}

async fn own_writes_are_seen<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    let server = open().await;
    for round in 0..100 {
        let id = id(round);
        server.write(&id, Epoch::FIRST, Change::Opened(session(1)));
        let state = see(&server, &id).await?.state;
        must(state == FoundState::Live, "a server does not see a session that it has just opened")?;
        server.write(&id, Epoch::FIRST, Change::Used(Usage::default().with_uses(7)));
        server.write(&id, Epoch::FIRST, Change::Parked(session(8)));
        let found = see(&server, &id).await?;
        must(found.state == FoundState::Parked, "a server does not see that it has just parked a session")?;
        let Claim::Yours(epoch, back) = claim(&server, &id, &found).await? else {
            return Err("a claim does not see that the same server has just parked the session".into());
        };
        must(back.usage.uses == 8, "a claim does not see what the same server has just written")?;
        server.write(&id, epoch, Change::Released);
        let state = see(&server, &id).await?.state;
        must(state == FoundState::Parked, "a session that was released is not parked")?;
    }
    Ok(())
}

async fn a_claim_is_won_once<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    const AT_ONCE: usize = 8;
    let first = open().await;
    let mut servers = Vec::new();
    for _ in 0..AT_ONCE {
        servers.push(Arc::new(open().await));
    }
    for round in 0..20 {
        let id = parked(&first, &format!("raced for {round}")).await?;
        let seen = see(&*servers[0], &id).await?;
        // Two claims by each server.
        let claims = servers.iter().chain(&servers).map(|server| {
            let server = Arc::clone(server);
            tokio::spawn(async move { claim(&*server, &id, &seen).await })
        });
        let mut won = 0;
        for claim in claims.collect::<Vec<_>>() {
            match claim.await.map_err(|_| "a claim panicked".to_owned())?? {
                Claim::Yours(..) => won += 1,
                Claim::Elsewhere(_) => {}
                Claim::Gone => return Err("a session is gone though it was only claimed".into()),
            }
        }
        must(won == 1, &format!("{won} of {} claims with one epoch were won", 2 * AT_ONCE))?;
    }
    Ok(())
}

async fn a_live_session_is_not_won<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    let (first, second) = (open().await, open().await);
    let id = id("live");
    first.write(&id, Epoch::FIRST, Change::Opened(session(1)));
    first.write(&id, Epoch::FIRST, Change::Ready);
    flush(&first).await?;
    let found = see(&second, &id).await?;
    must(found.state == FoundState::Live, "a live session is not found as live")?;
    let claimed = claim(&second, &id, &found).await?;
    must(claimed == Claim::Elsewhere(found.server), "a session that is live at another server was won")?;
    // The answer of before still holds.
    first.write(&id, Epoch::FIRST, Change::Parked(session(3)));
    flush(&first).await?;
    let Claim::Yours(epoch, back) = claim(&second, &id, &see(&second, &id).await?).await? else {
        return Err("a session that was live and is parked was not won".into());
    };
    must((epoch, back.usage.uses) == (Epoch::FIRST.next(), 3), "a claim gave what was stored before it was parked")?;
    must(see(&first, &id).await?.server != found.server, "the server of a session is not the one that claimed it")
}

/// A server that lost a session without a word, because its queue was full, claims it anew. It wins once under each epoch.
async fn a_server_wins_what_it_has_itself<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    let (first, second) = (open().await, open().await);
    let id = id("its own");
    first.write(&id, Epoch::FIRST, Change::Opened(session(1)));
    flush(&first).await?;
    let found = see(&first, &id).await?;
    must(found.state == FoundState::Live, "a live session is not found as live")?;
    let Claim::Yours(epoch, back) = claim(&first, &id, &found).await? else {
        return Err("a server cannot claim a session that is live at itself".into());
    };
    must((epoch, back.usage.uses) == (Epoch::FIRST.next(), 1), "a claim of an own session gave what was not stored")?;
    let again = claim(&first, &id, &found).await?;
    must(again == Claim::Elsewhere(found.server), "a claim with an old epoch was won")?;
    let others = claim(&second, &id, &see(&second, &id).await?).await?;
    must(others == Claim::Elsewhere(found.server), "a session that was claimed anew was won by another server")
}

async fn a_server_that_is_gone_has_none<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    let (first, second) = (open().await, open().await);
    let (one, two) = (id("written"), id("flushed"));
    let until = || Instant::now() + PATIENCE;
    must(first.written(&one, until()).await, "a session of which nothing was written is not written")?;
    first.write(&one, Epoch::FIRST, Change::Opened(session(1)));
    first.write(&one, Epoch::FIRST, Change::Used(Usage::default().with_uses(5)));
    first.write(&one, Epoch::FIRST, Change::Data(session(4)));
    first.write(&one, Epoch::FIRST, Change::Used(Usage::default().with_uses(5)));
    must(first.written(&one, until()).await, "a session was not written in ten seconds")?;
    must(see(&second, &one).await?.state == FoundState::Live, "others do not see what is written")?;
    first.write(&two, Epoch::FIRST, Change::Opened(session(6)));
    flush(&first).await?;
    drop(first);
    for (id, uses, body) in [(one, 5, session(4).body), (two, 6, session(6).body)] {
        let found = see_parked(&second, &id).await?;
        let Claim::Yours(epoch, back) = claim(&second, &id, &found).await? else {
            return Err("the session of a server that is gone was not won".into());
        };
        must(epoch > found.epoch, "the epoch does not grow when the server before is gone")?;
        must(back.usage.uses == uses, "what was written is lost with its server")?;
        must(back.body == body, "session data that was written is lost with its server")?;
    }
    Ok(())
}

async fn an_end_is_an_end<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    let (first, second) = (open().await, open().await);
    let is_ended = async |id: &SessionDigest| -> Result<bool, String> {
        let found = look(&second, id).await?;
        Ok(found.is_none_or(|found| found.state == FoundState::Dead))
    };
    let late = [
        Change::Ready,
        Change::Used(Usage::default()),
        Change::Data(session(3)),
        Change::Parked(session(3)),
        Change::Released,
        Change::Opened(session(4)),
    ];
    for (name, changes) in [
        ("dead at once", vec![Change::Opened(session(1)), Change::Dead]),
        ("dead when parked", vec![Change::Opened(session(1)), Change::Parked(session(2)), Change::Dead]),
    ] {
        for (place, late) in late.iter().enumerate() {
            let id = id(format!("{name} {place}"));
            for change in &changes {
                first.write(&id, Epoch::FIRST, change.clone());
                flush(&first).await?;
            }
            must(is_ended(&id).await?, "a session that has ended is still there")?;
            first.write(&id, Epoch::FIRST, late.clone());
            flush(&first).await?;
            must(is_ended(&id).await?, "a session that has ended came back by a late write")?;
        }
    }
    let id = parked(&first, "seen before its end").await?;
    let seen = see(&second, &id).await?;
    first.write(&id, Epoch::FIRST, Change::Dead);
    flush(&first).await?;
    must(claim(&second, &id, &seen).await? == Claim::Gone, "a claim of a session that has ended is not answered Gone")?;
    must(claim(&first, &id, &seen).await? == Claim::Gone, "a server can claim a session that it has ended")
}

/// The end of a parked session at one server, and its claim by another: after the claim the end has no effect, and at the same
/// time one of them has.
async fn an_end_meets_a_claim<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    const STALE: &str = "a stale end took a session from the server that had claimed it";
    let (first, second) = (Arc::new(open().await), Arc::new(open().await));
    let id = parked(&*first, "deleted late").await?;
    let won = claim(&*second, &id, &see(&*second, &id).await?).await?;
    must(matches!(won, Claim::Yours(..)), "a parked session was not won")?;
    first.write(&id, Epoch::FIRST, Change::Dead);
    flush(&*first).await?;
    let found = look(&*second, &id).await?;
    must(found.is_some_and(|found| found.state == FoundState::Live), STALE)?;
    for round in 0..50 {
        let id = parked(&*first, &format!("deleted {round}")).await?;
        let seen = see(&*second, &id).await?;
        let ending = Arc::clone(&first);
        let end = tokio::spawn(async move {
            ending.write(&id, Epoch::FIRST, Change::Dead);
            flush(&*ending).await
        });
        let won = claim(&*second, &id, &seen).await?;
        end.await.map_err(|_| "a write panicked".to_owned())??;
        let found = look(&*second, &id).await?;
        let is_there = found.is_some_and(|found| found.state != FoundState::Dead);
        match won {
            Claim::Yours(..) => must(is_there, STALE)?,
            Claim::Gone => must(!is_there, "a session that has ended came back")?,
            Claim::Elsewhere(_) => return Err("a session that no server has is elsewhere".into()),
        }
    }
    Ok(())
}

/// What is due at a server now.
async fn due(server: &impl SessionDirectory, lifetime: Option<Duration>) -> Result<Vec<Due>, String> {
    match timeout(PATIENCE, server.take_due(lifetime)).await {
        Ok(Ok(due)) => Ok(due),
        Ok(Err(away)) => Err(format!("what is due cannot be taken: {away:?}")),
        Err(_) => Err("the question of what is due was not answered".into()),
    }
}

async fn must_have_ended(server: &impl SessionDirectory, id: &SessionDigest, law: &str) -> Checked {
    let found = look(server, id).await?;
    must(found.is_none_or(|found| found.state == FoundState::Dead), law)
}

/// Sessions that a server has set to ending: one that was live, one that was parked, one that was never stored before, one
/// with a late write, and one of which it also wrote that it is dead. Then the server is gone.
async fn an_ending_is_finished<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    const BACK: &str = "a session that was ending came back";
    let (first, second, third) = (open().await, open().await, open().await);
    let names = ["ending, live", "ending, parked", "ending, new", "ending, late", "ending and dead"];
    for name in names {
        let id = id(name);
        let carried = (name == "ending, new").then(|| session(9));
        if carried.is_none() {
            first.write(&id, Epoch::FIRST, Change::Opened(session(9)));
            flush(&first).await?;
        }
        if name == "ending, parked" {
            first.write(&id, Epoch::FIRST, Change::Parked(session(9)));
            flush(&first).await?;
        }
        let seen = look(&second, &id).await?;
        first.write(&id, Epoch::FIRST, Change::Ending(carried));
        flush(&first).await?;
        must_have_ended(&second, &id, "a session that is ending is still there").await?;
        must_have_ended(&first, &id, "a session that is ending is still there").await?;
        if let Some(seen) = seen {
            must(claim(&second, &id, &seen).await? == Claim::Gone, "a session that is ending was claimed")?;
        }
        match name {
            "ending, late" => first.write(&id, Epoch::FIRST, Change::Data(session(10))),
            "ending and dead" => first.write(&id, Epoch::FIRST, Change::Dead),
            _ => {}
        }
        flush(&first).await?;
    }
    must(due(&second, None).await?.is_empty(), "a session that is ending at a server is due at another one")?;
    drop(first);
    let (mut taken, until) = (Vec::new(), Instant::now() + PATIENCE);
    while taken.len() < names.len() - 1 {
        must(Instant::now() < until, "a session that a server has left ending is not due at the next one")?;
        taken.extend(due(&second, None).await?);
        sleep(Duration::from_millis(5)).await;
    }
    taken.extend(due(&third, None).await?);
    taken.extend(due(&second, None).await?);
    let mut expected: Vec<_> = names[..names.len() - 1].iter().map(id).collect();
    expected.sort_unstable();
    taken.sort_unstable_by_key(|due| due.id);
    must(taken.windows(2).all(|two| two[0].id != two[1].id), "a session was due twice")?;
    must(taken.iter().map(|due| due.id).collect::<Vec<_>>() == expected, "what is due is not what was left ending")?;
    for due in taken {
        must(due.was_ending && due.epoch == Epoch::FIRST.next(), "what was left ending is due as what is too old")?;
        let (back, stored) = (due.session.usage.uses, due.session.body == session(9).body);
        must(back == 9 && stored, "what is due is not what was stored")?;
        must_have_ended(&third, &due.id, BACK).await?;
        second.write(&due.id, due.epoch, Change::Dead);
        flush(&second).await?;
        must_have_ended(&third, &due.id, BACK).await?;
    }
    drop(second);
    sleep(Duration::from_millis(20)).await;
    must(due(&third, None).await?.is_empty(), "a session that is dead is due")
}

async fn what_no_server_has_is_due_after_its_lifetime<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    const HOUR: Duration = Duration::from_secs(3_600);
    let (first, second) = (open().await, open().await);
    let aged = |hours: u32, uses| StoredSession { age: hours * HOUR, ..session(uses) };
    for (name, hours, is_parked) in [("old", 3, true), ("young", 1, true), ("old and live", 3, false)] {
        first.write(&id(name), Epoch::FIRST, Change::Opened(aged(hours, 3)));
        if is_parked {
            first.write(&id(name), Epoch::FIRST, Change::Parked(aged(hours, 4)));
        }
    }
    flush(&first).await?;
    must(due(&second, None).await?.is_empty(), "a session is due though it has no lifetime")?;
    let taken = due(&second, Some(2 * HOUR)).await?;
    let [old] = &taken[..] else {
        return Err(format!(
            "{} of the sessions past their lifetime that no server has are due, instead of 1",
            taken.len()
        ));
    };
    must(old.id == id("old") && !old.was_ending, "another session is due than the one past its lifetime")?;
    must(old.session.age >= 3 * HOUR && old.session.usage.uses == 4, "what is due is not what was stored")?;
    must_have_ended(&second, &old.id, "a session that is due may still be claimed").await?;
    must_have_ended(&first, &old.id, "a session that is due may still be claimed").await?;
    first.write(&old.id, Epoch::FIRST, Change::Dead);
    flush(&first).await?;
    for name in ["young", "old and live"] {
        must(look(&second, &id(name)).await?.is_some(), "a session that is not due has gone")?;
    }
    drop(second);
    let until = Instant::now() + PATIENCE;
    loop {
        match &due(&first, Some(2 * HOUR)).await?[..] {
            [again] => return must(again.id == old.id && again.was_ending, "what was left ending is not due again"),
            [] => must(Instant::now() < until, "a stale end took a session from the server that ends it")?,
            _ => return Err("a session that is live is due".into()),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn the_loser_is_told<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    let (first, second) = (open().await, open().await);
    let quiet = timeout(Duration::from_millis(50), first.lost()).await;
    must(quiet.is_err(), "a server is told of a loss though no session was claimed")?;
    let mut expected = Vec::new();
    for name in ["lost one", "lost two"] {
        let id = parked(&first, name).await?;
        let claimed = claim(&second, &id, &see(&second, &id).await?).await?;
        must(matches!(claimed, Claim::Yours(..)), "a parked session was not won")?;
        expected.push((id, Epoch::FIRST));
    }
    let (mut told, until) = (Vec::new(), Instant::now() + PATIENCE);
    while told.len() < expected.len() {
        let Ok(lost) = timeout_at(until, first.lost()).await else {
            return Err("a server is not told of the sessions that others have claimed".into());
        };
        told.extend(lost);
    }
    told.sort_unstable();
    expected.sort_unstable();
    must(told == expected, "the losses that a server is told of are not those that it had")?;
    let own = timeout(Duration::from_millis(50), second.lost()).await;
    must(own.is_err(), "a server is told of the sessions that it has claimed itself")
}

/// Many sessions written in one go: none is mixed up with another, and no change is lost or out of order.
async fn many_are_written<D: SessionDirectory>(open: &impl AsyncFn() -> D) -> Checked {
    const MANY: u64 = 500;
    let (first, second) = (open().await, open().await);
    for number in 0..MANY {
        first.write(&id(number), Epoch::FIRST, Change::Opened(session(number)));
    }
    for number in 0..MANY {
        let used = Usage::default().with_uses(1_000 + number);
        first.write(&id(number), Epoch::FIRST, Change::Used(used));
        if number % 2 == 0 {
            first.write(&id(number), Epoch::FIRST, Change::Parked(session(2_000 + number)));
        }
        if number % 5 == 0 {
            first.write(&id(number), Epoch::FIRST, Change::Dead);
        }
    }
    flush(&first).await?;
    for number in 0..MANY {
        let found = look(&second, &id(number)).await?.filter(|found| found.state != FoundState::Dead);
        let expected = match (number % 5, number % 2) {
            (0, _) => None,
            (_, 0) => Some(FoundState::Parked),
            _ => Some(FoundState::Live),
        };
        must(found.map(|found| found.state) == expected, "of many sessions, some are not as they were written")?;
        if let Some(found) = found.filter(|found| found.state == FoundState::Parked) {
            let claimed = claim(&second, &id(number), &found).await?;
            let Claim::Yours(_, back) = claimed else { return Err("a parked session was not won".into()) };
            must(back.usage.uses == 2_000 + number, "of many sessions, some are mixed up")?;
        }
    }
    Ok(())
}
