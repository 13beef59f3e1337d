//! docs/design.md, L1 and L18.
//!
//! Settings change while the manager runs, all of a change or nothing of it, and what they say holds for the sessions there
//! are.

use std::sync::Arc;
use std::time::Duration;

use crate::parked::{Manager, ready, scripted};
use crate::scripted::{Call, Line, Scripted, initialized, list_tools};
use futures_util::{FutureExt, poll};
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use rmcp_session_policy::eviction::Lru;
use rmcp_session_policy::{
    CallRejection, ClientContext, CloseReason, HOUR, IdleTimeout, LiveSettings, MINUTE, PolicyError,
    PolicySessionManager, PolicyTransport, SECOND, SettingsInForce, Worth,
};
use tokio::time::{Instant, sleep, timeout};

const MILLI: Duration = Duration::from_millis(1);

type Held = Vec<(SessionId, PolicyTransport<Line>)>;

async fn change(sessions: &Manager<Scripted>, change: impl FnOnce(LiveSettings) -> LiveSettings) {
    sessions.reconfigure(change).await.expect("valid");
}

/// Ready sessions, the first one the oldest. Nothing was parked of them.
async fn open(sessions: &Manager<Scripted>, count: usize) -> Held {
    let mut held = Held::new();
    for _ in 0..count {
        let (id, transport) = sessions.create_session().await.expect("room");
        sessions.accept_message(&id, initialized()).await.expect("accepts");
        held.push((id, transport));
        sleep(MILLI).await;
    }
    held
}

async fn is_live(sessions: &Manager<Scripted>, id: &SessionId) -> bool {
    sessions.has_session(id).await.expect("answers")
}

/// Makes a session busy for as long as it lives: the scripted manager does not answer.
async fn make_busy(sessions: &Manager<Scripted>, id: &SessionId) {
    drop(sessions.create_stream(id, list_tools(1)).await.expect("a stream"));
}

#[tokio::test(start_paused = true)]
async fn a_lower_capacity_evicts_by_policy_at_a_bounded_rate_and_no_busy_session() {
    let (inner, sessions) = scripted(|builder| builder.max_sessions(1_000).eviction(Lru::new()));
    let held = open(&sessions, 1_000).await;
    for (id, _) in &held[..20] {
        make_busy(&sessions, id).await;
    }
    change(&sessions, |settings| settings.max_sessions(100)).await;
    let began = Instant::now();
    assert_eq!((sessions.stats().max_sessions, inner.existing()), (100, 1_000), "nothing is cut");
    let mut before = inner.existing();
    while inner.existing() > 100 {
        sleep(SECOND / 10).await;
        let gone = before - inner.existing();
        assert!(gone <= 70, "{gone} in a tenth of a second");
        assert!(gone >= 10 || inner.existing() == 100, "{gone} in a tenth of a second");
        before = inner.existing();
    }
    assert!(began.elapsed() <= 9 * SECOND, "at least 100 a second");
    sleep(SECOND).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved, stats.busy, stats.overruled), (100, 0, 20, 0));
    assert_eq!(stats.closed(CloseReason::Evicted), 900);
    for (nth, (id, _)) in held.iter().enumerate() {
        let stays = !(20..920).contains(&nth);
        assert_eq!(is_live(&sessions, id).await, stays, "the least recently used go: {nth}");
    }
    // Full again, and as exact as before.
    assert!(sessions.create_session().await.is_ok());
    assert!(inner.existing() <= 100);
}

#[tokio::test(start_paused = true)]
async fn while_there_are_more_than_the_capacity_no_newcomer_enters_and_none_takes_a_victim() {
    let (inner, sessions) = scripted(|builder| builder.max_sessions(100));
    let _held = open(&sessions, 100).await;
    let creations = inner.calls(Call::Create);
    change(&sessions, |settings| settings.max_sessions(50)).await;
    let mut newcomers: Vec<_> = (0..20).map(|_| Box::pin(sessions.create_session())).collect();
    let mut entered = Vec::new();
    while inner.existing() > 50 {
        for newcomer in &mut newcomers {
            assert!(poll!(newcomer).is_pending());
        }
        assert_eq!(inner.calls(Call::Create), creations, "none entered while there were {}", inner.existing());
        sleep(5 * MILLI).await;
    }
    for newcomer in newcomers {
        entered.push(newcomer.await.expect("by a victim of its own"));
        assert!(inner.existing() <= 50);
    }
    assert_eq!(sessions.stats().closed(CloseReason::Evicted), 50 + 20);
}

#[tokio::test(start_paused = true)]
async fn while_all_are_busy_nothing_goes_and_newcomers_are_refused_and_then_ends_are_withdrawn() {
    let (inner, sessions) = scripted(|builder| builder.max_sessions(4));
    let held = open(&sessions, 4).await;
    for (id, _) in &held {
        make_busy(&sessions, id).await;
    }
    change(&sessions, |settings| settings.max_sessions(2)).await;
    let refused = sessions.create_session().await;
    assert!(matches!(refused, Err(PolicyError::ServerFull(ref full)) if full.max_sessions == 2), "{refused:?}");
    sleep(MINUTE).await;
    assert_eq!((inner.existing(), sessions.stats().live), (4, 4));
    for (nth, (id, _)) in held.iter().take(2).enumerate() {
        sessions.close_session(id).await.expect("closes");
        assert_eq!(inner.existing(), 3 - nth);
        assert!(sessions.create_session().await.is_err(), "its place is withdrawn");
    }
    sessions.close_session(&held[2].0).await.expect("closes");
    let _fourth = sessions.create_session().await.expect("below the capacity");
    assert_eq!((inner.existing(), inner.most()), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_was_handed_over_and_not_noticed_is_withdrawn_and_its_waiter_stays_the_first() {
    let (inner, sessions) = scripted(|builder| builder.max_sessions(2));
    let held = open(&sessions, 2).await;
    for (id, _) in &held {
        make_busy(&sessions, id).await;
    }
    let mut first = Box::pin(sessions.create_session());
    let mut second = Box::pin(sessions.create_session());
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    // The first one has the place now, but was not polled since.
    sessions.close_session(&held[0].0).await.expect("closes");
    change(&sessions, |settings| settings.max_sessions(1)).await;
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    assert_eq!((inner.existing(), sessions.stats().reserved), (1, 0));
    sessions.close_session(&held[1].0).await.expect("closes");
    assert!(poll!(&mut second).is_pending());
    let _first = first.now_or_never().expect("at once").expect("its place");
    assert_eq!(inner.existing(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_of_which_the_place_is_withdrawn_takes_a_victim_as_soon_as_one_may_go() {
    let (inner, sessions) = scripted(|builder| builder.max_sessions(2).min_idle(SECOND / 10));
    let held = open(&sessions, 2).await;
    let mut waiting = Box::pin(sessions.create_session());
    assert!(poll!(&mut waiting).is_pending());
    sessions.close_session(&held[0].0).await.expect("closes");
    change(&sessions, |settings| settings.max_sessions(1)).await;
    assert!(poll!(&mut waiting).is_pending());
    let _entered = waiting.await.expect("the other session is idle for long enough by then");
    assert_eq!((inner.existing(), sessions.stats().closed(CloseReason::Evicted)), (1, 1));
    assert!(!is_live(&sessions, &held[1].0).await);
    // What it counted for while it waited counts no more.
    sleep(SECOND).await;
    assert_eq!(sessions.stats().reserved, 0);
}

#[tokio::test(start_paused = true)]
async fn a_place_of_a_creation_that_fails_is_withdrawn_too() {
    use crate::scripted::Act;
    let (inner, sessions) = scripted(|builder| builder.max_sessions(2));
    inner.set(Call::Create, Act::Never);
    let mut never = Box::pin(sessions.create_session());
    assert!(poll!(&mut never).is_pending());
    inner.set(Call::Create, Act::Ok);
    let _held = open(&sessions, 1).await;
    change(&sessions, |settings| settings.max_sessions(1)).await;
    assert_eq!((sessions.stats().live, sessions.stats().reserved), (1, 1));
    drop(never);
    assert_eq!((sessions.stats().live, sessions.stats().reserved), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_higher_capacity_lets_in_what_waits() {
    let (inner, sessions) = scripted(|builder| builder.max_sessions(1));
    let held = open(&sessions, 1).await;
    make_busy(&sessions, &held[0].0).await;
    let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(sessions.create_session())).collect();
    for newcomer in &mut waiting {
        assert!(poll!(newcomer).is_pending());
    }
    change(&sessions, |settings| settings.max_sessions(4).max_opening(4)).await;
    let last = waiting.pop().expect("four");
    let mut entered = Vec::new();
    for newcomer in waiting {
        entered.push(newcomer.now_or_never().expect("at once").expect("a place that was added"));
    }
    assert_eq!((inner.existing(), sessions.stats().closed(CloseReason::Evicted)), (4, 0));
    assert!(last.await.is_err(), "there were three places, and half-open and busy sessions stay");
}

#[tokio::test(start_paused = true)]
async fn a_capacity_that_is_raised_again_ends_the_evictions() {
    let (inner, sessions) = scripted(|builder| builder.max_sessions(1_000));
    let _held = open(&sessions, 1_000).await;
    change(&sessions, |settings| settings.max_sessions(100)).await;
    sleep(SECOND / 2).await;
    let left = inner.existing();
    assert!((500..900).contains(&left), "{left}");
    change(&sessions, |settings| settings.max_sessions(2_000)).await;
    sleep(10 * SECOND).await;
    assert_eq!((inner.existing(), sessions.stats().live), (left, left));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_invalid_names_the_setting_and_changes_nothing() {
    type Change = fn(LiveSettings) -> LiveSettings;
    let (_, sessions) = scripted(|builder| builder.max_sessions(100).eviction(Lru::new()).max_parked_bytes(1 << 20));
    let held = open(&sessions, 100).await;
    let invalid: &[(&str, Change)] = &[
        ("max_sessions", |s| s.max_sessions(0)),
        ("max_opening", |s| s.max_sessions(10).max_opening(11)),
        ("max_opening", |s| s.max_opening(0)),
        ("max_parked_streams", |s| s.max_parked(5).max_parked_streams(6)),
        ("per_client_share", |s| s.per_client_share(1.5)),
        ("per_prefix_share", |s| s.per_prefix_share(f64::NAN)),
        ("per_key_share", |s| s.per_key_share(0.0, |_| Some(1))),
        ("per_client_max", |s| s.per_client_max(0)),
        ("idle_timeout", |s| s.idle_timeout(Duration::ZERO)),
        ("idle_timeout", |s| s.idle_timeout(Worth::keep(1.5))),
        ("idle_timeout", |s| s.max_sessions(7).idle_timeout(Worth::keep(0.5))),
        ("max_lifetime", |s| s.max_lifetime(Duration::ZERO)),
        ("init_timeout", |s| s.init_timeout(Duration::ZERO)),
        ("max_busy", |s| s.max_busy(Duration::ZERO)),
        ("min_idle", |s| s.min_idle(366 * 24 * HOUR)),
        ("close_deadline", |s| s.close_deadline(Duration::ZERO)),
        ("final_end_deadline", |s| s.final_end_deadline(Duration::ZERO)),
        ("expected_downtime", |s| s.expected_downtime(Duration::ZERO)),
        ("max_parked_age", |s| s.max_parked_age(Duration::ZERO)),
        ("max_parked_bytes", |s| s.max_parked_bytes(0)),
        ("max_parked_entry_bytes", |s| s.max_parked_entry_bytes(0)),
        ("max_session_data_bytes", |s| s.max_session_data_bytes(1 << 20)),
    ];
    let before = sessions.settings();
    for (setting, change) in invalid {
        // Beside changes that are valid.
        let error = sessions.reconfigure(|s| change(s.surge_guard(false).max_parked_streams(3))).await.unwrap_err();
        assert_eq!(error.setting, *setting, "{error}");
        assert_eq!(sessions.settings(), before, "{setting}");
    }
    sleep(MINUTE).await;
    assert_eq!((sessions.stats().live, sessions.stats().max_sessions), (100, 100));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn each_setter_sets_what_its_name_says_and_the_rest_stays() {
    type Change = fn(LiveSettings) -> LiveSettings;
    type Expected = fn(&mut SettingsInForce);
    let (_, sessions) = scripted(|builder| builder.max_sessions(1_000));
    let changes: &[(Change, Expected)] = &[
        (|s| s.max_sessions(200), |s| (s.max_sessions, s.max_opening, s.max_parked_streams) = (200, 20, 200)),
        (|s| s.max_opening(7), |s| s.max_opening = 7),
        (|s| s.max_opening(None), |s| s.max_opening = 20),
        (|s| s.idle_timeout(HOUR), |s| s.idle_timeout = IdleTimeout::After(HOUR)),
        (|s| s.idle_timeout(Worth::keep(0.9)), |s| s.idle_timeout = IdleTimeout::Worth(Worth::keep(0.9))),
        (|s| s.max_lifetime(HOUR), |s| s.max_lifetime = Some(HOUR)),
        (|s| s.init_timeout(SECOND), |s| s.init_timeout = SECOND),
        (|s| s.min_idle(SECOND), |s| s.min_idle = SECOND),
        (|s| s.max_busy(MINUTE), |s| s.max_busy = MINUTE),
        (|s| s.close_deadline(SECOND), |s| s.close_deadline = SECOND),
        (|s| s.per_client_share(0.5), |s| s.client_share = Some(("per_client_share", 0.5))),
        (|s| s.per_key_share(0.25, |_| Some(1)), |s| s.client_share = Some(("per_key_share", 0.25))),
        (|s| s.per_prefix_share(0.1), |s| s.client_share = Some(("per_prefix_share", 0.1))),
        (|s| s.per_prefix_share(None), |s| s.client_share = None),
        (|s| s.per_client_max(3), |s| s.per_client_max = Some(3)),
        (|s| s.per_client_max(None), |s| s.per_client_max = None),
        (|s| s.surge_guard(false), |s| s.surge_guard = false),
        (|s| s.max_parked(5_000), |s| s.max_parked = 5_000),
        (|s| s.max_parked_bytes(1 << 20), |s| s.max_parked_bytes = 1 << 20),
        (|s| s.max_parked_entry_bytes(1 << 10), |s| s.max_parked_entry_bytes = 1 << 10),
        (|s| s.max_parked_age(HOUR), |s| s.max_parked_age = HOUR),
        (|s| s.max_parked_streams(9), |s| s.max_parked_streams = 9),
        (|s| s.max_session_data_bytes(99), |s| s.max_session_data_bytes = 99),
        (|s| s.reject_calls_with(CallRejection::Error), |s| s.reject_calls_with = CallRejection::Error),
        (|s| s.final_end_deadline(SECOND), |s| s.final_end_deadline = SECOND),
        (|s| s.expected_downtime(MINUTE), |s| s.expected_downtime = MINUTE),
    ];
    for (nth, (setter, expected)) in changes.iter().enumerate() {
        let mut after = sessions.settings();
        change(&sessions, setter).await;
        let now = sessions.settings();
        expected(&mut after);
        assert!(now.since >= after.since && now.changes == nth as u64 + 1);
        (after.since, after.changes) = (now.since, now.changes);
        assert_eq!(now, after);
    }
}

#[tokio::test(start_paused = true)]
async fn times_count_for_the_sessions_there_are() {
    let (_, sessions) = scripted(|builder| builder.idle_timeout(10 * HOUR).init_timeout(HOUR));
    let held = open(&sessions, 3).await;
    let (opening, _transport) = sessions.create_session().await.expect("room");
    sleep(20 * MINUTE).await;
    sessions.accept_message(&held[0].0, initialized()).await.expect("accepts");
    change(&sessions, |settings| settings.init_timeout(10 * MINUTE)).await;
    sleep(SECOND).await;
    let closed = |reason| sessions.stats().closed(reason);
    assert_eq!((closed(CloseReason::InitTimeout), is_live(&sessions, &opening).await), (1, false));
    change(&sessions, |settings| settings.idle_timeout(15 * MINUTE)).await;
    sleep(SECOND).await;
    assert_eq!((closed(CloseReason::Idle), is_live(&sessions, &held[0].0).await), (2, true));
    change(&sessions, |settings| settings.idle_timeout(None)).await;
    sleep(24 * HOUR).await;
    assert_eq!(sessions.stats().live, 1, "a longer time counts too");
    change(&sessions, |settings| settings.max_lifetime(25 * HOUR)).await;
    sleep(SECOND).await;
    assert_eq!(sessions.stats().live, 1);
    change(&sessions, |settings| settings.max_lifetime(HOUR)).await;
    sleep(SECOND).await;
    assert_eq!((sessions.stats().live, closed(CloseReason::Lifetime)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_protects_sessions_counts_at_once_and_sessions_it_kept_may_go() {
    let builder = |builder: rmcp_session_policy::PolicySessionManagerBuilder<Scripted>| {
        builder.max_sessions(2).min_idle(HOUR).max_busy(2 * HOUR)
    };
    let (_, sessions) = scripted(builder);
    let mut held = open(&sessions, 2).await;
    assert!(sessions.create_session().await.is_err(), "both were used less than an hour ago");
    change(&sessions, |settings| settings.min_idle(Duration::ZERO)).await;
    held.extend(open(&sessions, 1).await);
    assert!(!is_live(&sessions, &held[0].0).await);
    for (id, _) in &held[1..] {
        make_busy(&sessions, id).await;
    }
    sleep(MINUTE).await;
    assert!(sessions.create_session().await.is_err(), "both are busy");
    change(&sessions, |settings| settings.max_busy(MINUTE)).await;
    held.extend(open(&sessions, 1).await);
    // Victims that do not answer take a moment, in which the newcomer may have taken both.
    sleep(SECOND).await;
    held.extend(open(&sessions, 2 - sessions.stats().live).await);
    change(&sessions, |settings| settings.protect(|_| true)).await;
    assert!(sessions.create_session().await.is_err(), "both are protected");
    let mut waiting = Box::pin(sessions.create_session());
    assert!(poll!(&mut waiting).is_pending());
    change(&sessions, LiveSettings::protect_none).await;
    assert!(timeout(10 * MILLI, waiting).await.expect("it looks again at once").is_ok());
}

#[tokio::test(start_paused = true)]
async fn lower_limits_of_the_parking_forget_the_oldest() {
    let (_, sessions) = scripted(|builder| builder.max_sessions(300).max_parked_age(10 * HOUR));
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(ready(&sessions).await);
    }
    sessions.terminate(|_: &rmcp_session_policy::eviction::SessionInfo<'_>| true, CloseReason::Evicted).await;
    assert_eq!(sessions.stats().parked, 300);
    change(&sessions, |settings| settings.max_parked(100).max_parked_streams(100)).await;
    assert_eq!(sessions.stats().parked, 100);
    assert!(sessions.parking().load(&held[299].0).await.expect("loads").is_some(), "the newest stay");
    let bytes = sessions.stats().parked_bytes;
    change(&sessions, |settings| settings.max_parked_bytes(bytes / 2).max_session_data_bytes(0)).await;
    assert!(sessions.stats().parked <= 50 && sessions.stats().parked_bytes <= bytes / 2);
    sleep(HOUR).await;
    assert!(sessions.stats().parked > 0);
    change(&sessions, |settings| settings.max_parked_age(HOUR)).await;
    assert_eq!(sessions.stats().parked, 0);
    change(&sessions, |settings| settings.max_parked(0).max_parked_streams(0)).await;
    let (id, _transport) = ready(&sessions).await;
    sessions.terminate(|_: &rmcp_session_policy::eviction::SessionInfo<'_>| true, CloseReason::Evicted).await;
    assert_eq!((sessions.stats().parked, is_live(&sessions, &id).await), (0, false), "it is off");
}

#[tokio::test(start_paused = true)]
async fn limits_of_clients_count_the_sessions_there_are() {
    let alice = ClientContext::new().with_principal("alice");
    let (inner, sessions) = scripted(|builder| builder.max_sessions(100));
    let held = alice.clone().scope(open(&sessions, 10)).await;
    let _bobs = ClientContext::new().with_principal("bob").scope(open(&sessions, 1)).await;
    let own = |count| alice.clone().scope(open(&sessions, count));
    change(&sessions, |settings| settings.per_client_max(10)).await;
    let _eleventh = own(1).await;
    assert_eq!((inner.existing(), is_live(&sessions, &held[0].0).await), (11, false));
    change(&sessions, |settings| settings.per_client_max(4)).await;
    assert_eq!(inner.existing(), 11, "none goes before the client opens one");
    let _one_more = own(1).await;
    assert_eq!(inner.existing(), 4 + 1, "as many as it takes");
    change(&sessions, |settings| settings.per_client_max(None)).await;
    let _more = own(20).await;
    assert_eq!(inner.existing(), 24 + 1);
    // A share counts them as well, and moving the number keeps the count.
    change(&sessions, |settings| settings.max_sessions(25).per_client_share(0.5)).await;
    let _twice = own(2).await;
    assert_eq!(sessions.list().len(), 25);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_has_beyond_a_lower_limit_goes_in_lots() {
    use crate::scripted::Act;
    let alice = ClientContext::new().with_principal("alice");
    let (inner, sessions) = scripted(|builder| builder.max_sessions(100));
    let held = alice.clone().scope(open(&sessions, 60)).await;
    change(&sessions, |settings| settings.per_client_max(4)).await;
    inner.set(Call::Close, Act::Never);
    let mut waiting = Box::pin(alice.clone().scope(sessions.create_session()));
    assert!(poll!(&mut waiting).is_pending());
    let evicted = || sessions.stats().closed(CloseReason::Evicted);
    assert_eq!(evicted(), 2 * 16, "the lot of its first look, and that of its look whether it may enter");
    assert!(waiting.await.is_err(), "none of them is gone");
    inner.set(Call::Close, Act::Ok);
    sleep(MINUTE).await;
    let _entered = alice.scope(open(&sessions, 1)).await;
    assert_eq!((evicted(), inner.existing()), (57, 4));
    drop(held);
}

#[tokio::test]
async fn changes_at_the_same_time_follow_one_another() {
    let (_, sessions) = scripted(|builder| builder.max_sessions(1));
    let changes = (0..32).map(|_| {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move {
            for _ in 0..10 {
                let more = |settings: LiveSettings| {
                    let now = format!("{settings:?}");
                    let at = now.find("max_sessions: ").expect("it says so") + 14;
                    let now: usize = now[at..].split(',').next().expect("a number").parse().expect("a number");
                    settings.max_sessions(now + 1)
                };
                sessions.reconfigure(more).await.expect("valid");
            }
        })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.expect("no panic");
    }
    let settings = sessions.settings();
    assert_eq!((settings.max_sessions, settings.changes), (321, 320), "no change is lost");
    assert_eq!(sessions.stats().max_sessions, 321);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_panics_or_is_given_up_changes_nothing() {
    let (_, sessions) = scripted(|builder| builder.max_sessions(7));
    let panics = std::panic::AssertUnwindSafe(sessions.reconfigure(|_| panic!("of the test"))).catch_unwind();
    assert!(panics.await.is_err());
    change(&sessions, |settings| settings.max_sessions(8)).await;
    assert_eq!((sessions.stats().max_sessions, sessions.settings().changes), (8, 1));
}

#[tokio::test(start_paused = true)]
async fn the_builder_takes_the_same_changes() {
    let settings = |settings: LiveSettings| settings.max_sessions(5).idle_timeout(MINUTE);
    let sessions = PolicySessionManager::local().settings(settings).build().expect("valid");
    assert_eq!(sessions.settings().max_sessions, 5);
    let error = PolicySessionManager::local().settings(|settings| settings.max_sessions(0)).build().unwrap_err();
    assert_eq!(error.setting, "max_sessions");
}
