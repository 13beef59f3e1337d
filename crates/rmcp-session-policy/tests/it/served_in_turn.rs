//! docs/design.md, L6.
//!
//! Waiting restores are served before waiting newcomers, and each group by client in turn. So a flood from one client does
//! not delay other clients.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::session::{Driver, Http, SlowToInitialize, initialize_params, settle};
use futures_util::future::join_all;
use rmcp::transport::streamable_http_server::session::local::{LocalSessionManager, SessionTransport};
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionManager};
use rmcp_session_policy::eviction::{Lru, SessionInfo};
use rmcp_session_policy::{
    ClientContext, CloseReason, PolicyError, PolicySessionManager, PolicySessionManagerBuilder, PolicyTransport,
    RejectionReason, SECOND,
};
use serde_json::json;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout};

type Manager = PolicySessionManager<LocalSessionManager>;

const MILLI: Duration = Duration::from_millis(1);

fn manager(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Arc<Manager> {
    Arc::new(configure(PolicySessionManager::local().eviction(Lru::new())).build().expect("valid"))
}

fn address(last: u8) -> ClientContext {
    ClientContext::new().with_peer([192, 0, 2, last].into())
}

/// A session that only began its handshake.
async fn half_open(sessions: &Arc<Manager>) -> Result<Driver<Manager>, <Manager as SessionManager>::Error> {
    let driver = Driver::open(sessions).await?;
    driver.initialize().await?;
    Ok(driver)
}

/// A session that is parked.
async fn parked(sessions: &Arc<Manager>) -> Driver<Manager> {
    let driver = Driver::ready(sessions).await.expect("room");
    driver.store(&sessions.parking()).await;
    sessions.terminate(|session: &SessionInfo<'_>| session.uses() == 0, CloseReason::Evicted).await;
    driver
}

/// Whether the restore of a parked session is admitted; rmcp would restore it next.
async fn is_let_in(driver: &Driver<Manager>) -> bool {
    let asks = async {
        match driver.manager.has_session(&driver.id).await {
            Ok(there) => !there,
            Err(PolicyError::ServerFull(_)) => false,
            Err(other) => panic!("{other}"),
        }
    };
    ClientContext::new().scope(asks).await
}

/// Restores a parked session.
async fn restore(
    driver: &Driver<Manager>,
) -> Result<PolicyTransport<SessionTransport>, <Manager as SessionManager>::Error> {
    let restores = async {
        assert!(!driver.manager.has_session(&driver.id).await?);
        match driver.manager.restore_session(Arc::clone(&driver.id)).await? {
            RestoreOutcome::Restored(transport) => Ok(transport),
            _ => panic!("it is parked"),
        }
    };
    ClientContext::new().scope(restores).await
}

/// A newcomer that waits, and what becomes of it; counts how often it is polled.
struct Newcomer {
    task: JoinHandle<bool>,
    polls: Arc<AtomicUsize>,
}

impl Newcomer {
    /// Opens a session and leaves it half-open.
    fn half_open(sessions: &Arc<Manager>, context: ClientContext, order: &Order, name: usize) -> Self {
        let (sessions, order, polls) = (Arc::clone(sessions), Arc::clone(order), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&polls);
        let task = tokio::spawn(async move {
            let opens = async {
                let opened = half_open(&sessions).await;
                if opened.is_ok() {
                    order.lock().expect("no panic").push(name);
                }
                opened.is_ok()
            };
            let mut opens = pin!(context.scope(opens));
            poll_fn(|cx| {
                count.fetch_add(1, SeqCst);
                opens.as_mut().poll(cx)
            })
            .await
        });
        Self { task, polls }
    }
}

/// The newcomers that came in, in that order.
type Order = Arc<std::sync::Mutex<Vec<usize>>>;

fn polls(newcomers: &[Newcomer]) -> usize {
    newcomers.iter().map(|newcomer| newcomer.polls.load(SeqCst)).sum()
}

/// Returns the order in which a server with one place serves newcomers of these clients, which come in this order.
async fn order_of(contexts: impl IntoIterator<Item = ClientContext>) -> Vec<usize> {
    let sessions = manager(|b| b.max_sessions(1));
    let _first = half_open(&sessions).await.expect("room");
    let order = Order::default();
    let mut newcomers = Vec::new();
    for (name, context) in contexts.into_iter().enumerate() {
        newcomers.push(Newcomer::half_open(&sessions, context, &order, name));
        settle().await;
    }
    sleep(2 * SECOND).await;
    order.lock().expect("no panic").clone()
}

#[tokio::test(start_paused = true)]
async fn newcomers_are_served_by_address_in_turn_and_in_order_within_one() {
    let order = order_of([1, 1, 1, 1, 2, 3, 2].map(address)).await;
    assert_eq!(order, [0, 4, 5, 1, 6, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn newcomers_of_known_principals_are_served_by_principal_whatever_their_address() {
    let alice = || address(1).with_principal("alice");
    let order = order_of([alice(), alice(), alice(), address(1), address(1).with_principal("bob"), alice()]).await;
    assert_eq!(order, [0, 3, 4, 1, 2, 5]);
}

#[tokio::test(start_paused = true)]
async fn newcomers_without_principal_or_address_each_count_alone() {
    let unknown = ClientContext::new;
    let order = order_of([address(1), address(1), unknown(), unknown(), address(1), unknown()]).await;
    assert_eq!(order, [0, 2, 3, 5, 1, 4]);
}

#[tokio::test(start_paused = true)]
async fn one_ipv6_network_is_one_client() {
    let host = |host: &str| ClientContext::new().with_peer(host.parse().expect("an address"));
    let order = order_of(["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"].map(host)).await;
    assert_eq!(order, [0, 3, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_gives_up_loses_no_turn_of_its_client_and_no_place() {
    let sessions = manager(|b| b.max_sessions(1));
    let _first = half_open(&sessions).await.expect("room");
    let order = Order::default();
    let mut newcomers = Vec::new();
    for (name, client) in [1, 2, 1, 2].into_iter().enumerate() {
        newcomers.push(Newcomer::half_open(&sessions, address(client), &order, name));
        settle().await;
    }
    newcomers[0].task.abort();
    sleep(SECOND).await;
    assert_eq!(*order.lock().expect("no panic"), [2, 1, 3]);
    assert_eq!((sessions.stats().live, sessions.stats().reserved), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn no_newcomer_is_refused_because_others_of_its_client_wait() {
    let sessions = manager(|b| b.max_sessions(20));
    let newcomers = (0..256).map(|_| {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(address(1).scope(async move { Driver::ready(&sessions).await.map(drop) }))
    });
    for newcomer in join_all(newcomers).await {
        newcomer.expect("no panic").expect("its turn comes");
    }
}

/// Everything that wakes the first of 256 newcomers wakes only that one.
#[tokio::test(start_paused = true)]
async fn one_of_the_waiting_newcomers_looks_for_a_place_at_a_time() {
    let sessions = manager(|b| b.max_sessions(20).max_opening(2));
    let user = Driver::ready(&sessions).await.expect("room");
    let mut busy = Vec::new();
    for _ in 0..17 {
        let driver = Driver::ready(&sessions).await.expect("room");
        busy.push(driver.sleep(60_000).await.expect("lives"));
    }
    let slow = join_all((0..2).map(|_| Driver::open_with(&sessions, SlowToInitialize(SECOND / 2)))).await;
    let slow = slow.into_iter().map(|slow| {
        let slow = slow.expect("room");
        tokio::spawn(async move { slow.initialize().await.map(drop) })
    });
    let slow: Vec<_> = slow.collect();
    settle().await;
    let order = Order::default();
    let newcomers: Vec<_> =
        (0..256).map(|name| Newcomer::half_open(&sessions, address(name as u8), &order, name)).collect();
    settle().await;
    let before = polls(&newcomers);
    assert_eq!(before, 256, "each once");
    for _ in 0..100 {
        // Each ends an activity of a session that is suspended, and so may be a chance for a newcomer.
        user.echo("hi").await.expect("lives");
    }
    sleep(400 * MILLI).await;
    let looks = polls(&newcomers) - before;
    assert!(looks <= 110, "{looks} looks for a hundred chances and four tenths of a second");
    assert!(order.lock().expect("no panic").is_empty(), "both half-open ones are being answered");
    join_all(slow).await;
    sleep(SECOND).await;
    let (served, looks) = (order.lock().expect("no panic").len(), polls(&newcomers) - before);
    assert!(served > 5, "{served}");
    // Each wakes for its turn, for its place, for the answers of its handshake, and to be told that it waited too long.
    assert!(looks < 110 + 256 + 20 * served, "{looks} looks for {served} that came in");
}

#[tokio::test(start_paused = true)]
async fn a_restore_does_not_wait_for_handshakes() {
    let sessions = manager(|b| b.max_sessions(4).max_opening(1));
    let back = parked(&sessions).await;
    let mut users = Vec::new();
    for _ in 0..3 {
        users.push(Driver::ready(&sessions).await.expect("room"));
        settle().await;
    }
    let slow = Driver::open_with(&sessions, SlowToInitialize(5 * SECOND)).await.expect("room");
    let slow = tokio::spawn(async move { slow.initialize().await.map(drop) });
    settle().await;
    let order = Order::default();
    let newcomer = Newcomer::half_open(&sessions, address(1), &order, 0);
    settle().await;
    let began = Instant::now();
    let _back = restore(&back).await.expect("room");
    assert_eq!(began.elapsed(), Duration::ZERO);
    let lives = join_all(users.iter().map(Driver::lives)).await;
    assert_eq!(lives, [false, true, true], "the policy's choice went");
    assert!(!newcomer.task.await.expect("no panic"), "the newcomer waited, for no user goes for a handshake");
    slow.await.expect("no panic").expect("it kept its place");
}

#[tokio::test(start_paused = true)]
async fn a_restore_takes_the_oldest_half_open_session_that_may_go_before_any_user() {
    let sessions = manager(|b| b.max_sessions(4).max_opening(2));
    let back = parked(&sessions).await;
    let users = [Driver::ready(&sessions).await.expect("room"), Driver::ready(&sessions).await.expect("room")];
    let silent = [half_open(&sessions).await.expect("room"), half_open(&sessions).await.expect("room")];
    sleep(SECOND).await;
    assert!(is_let_in(&back).await);
    assert_eq!(join_all(silent.iter().map(Driver::lives)).await, [false, true]);
    assert_eq!(join_all(users.iter().map(Driver::lives)).await, [true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_restore_waits_where_only_half_open_sessions_amid_their_handshakes_are_there() {
    let sessions = manager(|b| b.max_sessions(2).max_opening(1));
    let back = parked(&sessions).await;
    let answered = [half_open(&sessions).await.expect("room"), half_open(&sessions).await.expect("room")];
    let began = Instant::now();
    assert!(is_let_in(&back).await, "once one of them said nothing for a moment");
    assert!((100 * MILLI..=102 * MILLI).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert!(!answered[0].lives().await && answered[1].lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_initialize_is_being_answered_is_not_evicted_for_a_restore() {
    let sessions = manager(|b| b.max_sessions(1));
    let back = parked(&sessions).await;
    let slow = Driver::open_with(&sessions, SlowToInitialize(5 * SECOND)).await.expect("room");
    let slow = tokio::spawn(async move { slow.initialize().await.map(|_| slow) });
    settle().await;
    let began = Instant::now();
    assert!(!is_let_in(&back).await);
    assert!(began.elapsed() <= SECOND, "{:?}", began.elapsed());
    slow.await.expect("no panic").expect("it kept its place");
}

/// A session that has its place, but is not there yet, is named by no policy: its coming must wake what waits.
#[tokio::test(start_paused = true)]
async fn a_restore_waits_until_a_session_restored_just_before_it_is_idle() {
    let sessions = manager(|b| b.max_sessions(1));
    let [first, second] = [parked(&sessions).await, parked(&sessions).await];
    let began = Instant::now();
    let comes_back = async {
        assert!(!sessions.has_session(&first.id).await.expect("a free place"));
        let waits = tokio::spawn({
            let (sessions, id) = (Arc::clone(&sessions), Arc::clone(&second.id));
            ClientContext::new().scope(async move { sessions.has_session(&id).await })
        });
        settle().await;
        let restored = sessions.restore_session(Arc::clone(&first.id)).await.expect("its place");
        settle().await;
        (waits, restored)
    };
    let (waits, _restored) = ClientContext::new().scope(comes_back).await;
    // What came back is used, and idle again.
    first.notify("notifications/initialized", json!({})).await.expect("lives");
    assert!(!waits.await.expect("no panic").expect("let in"));
    assert!(began.elapsed() < 100 * MILLI, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn restores_are_served_before_newcomers() {
    let sessions = manager(|b| b.max_sessions(1));
    let back = parked(&sessions).await;
    let _answered = half_open(&sessions).await.expect("room");
    let order = Order::default();
    let mut newcomers = Vec::new();
    for name in 0..3 {
        newcomers.push(Newcomer::half_open(&sessions, address(name), &order, name.into()));
        settle().await;
    }
    let began = Instant::now();
    let _back = restore(&back).await.expect("room");
    assert!(began.elapsed() < 100 * MILLI, "as soon as the half-open one may go: {:?}", began.elapsed());
    for newcomer in newcomers {
        assert!(!newcomer.task.await.expect("no panic"), "though each of them came before it");
    }
}

/// A briefly protected session must not make the manager refuse a newcomer, even one that has waited long.
#[tokio::test(start_paused = true)]
async fn a_newcomer_that_waited_for_handshakes_still_waits_briefly_for_a_call_to_be_answered() {
    let sessions = manager(|b| b.max_sessions(1));
    let first = half_open(&sessions).await.expect("room");
    let order = Order::default();
    let newcomer = Newcomer::half_open(&sessions, address(1), &order, 0);
    sleep(90 * MILLI).await;
    first.initialized().await.expect("lives");
    let call = first.sleep(10).await.expect("lives");
    assert_eq!(call.text().await, "slept 10");
    assert!(newcomer.task.await.expect("no panic"));
}

#[tokio::test(start_paused = true)]
async fn all_waiting_newcomers_are_refused_within_the_grace_if_no_session_may_go() {
    let sessions = manager(|b| b.max_sessions(1));
    let busy = Driver::ready(&sessions).await.expect("room");
    let call = busy.sleep(60_000).await.expect("lives");
    let (began, order) = (Instant::now(), Order::default());
    let newcomers: Vec<_> =
        (0..256).map(|name| Newcomer::half_open(&sessions, address((name / 2) as u8), &order, name)).collect();
    for newcomer in newcomers {
        assert!(!newcomer.task.await.expect("no panic"));
    }
    assert!((20 * MILLI..=22 * MILLI).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(sessions.stats().rejected(RejectionReason::ServerFull), 256);
    drop(call);
}

/// A newcomer is refused if no session may go for 20 ms while it waits, even if another one was refused just before.
#[tokio::test(start_paused = true)]
async fn each_newcomer_has_a_grace_of_its_own() {
    let sessions = manager(|b| b.max_sessions(1));
    let busy = Driver::ready(&sessions).await.expect("room");
    let call = tokio::spawn(busy.sleep(30).await.expect("lives").text());
    let order = Order::default();
    let early = Newcomer::half_open(&sessions, address(1), &order, 0);
    sleep(15 * MILLI).await;
    let late = Newcomer::half_open(&sessions, address(2), &order, 1);
    assert!(!early.task.await.expect("no panic"));
    assert!(late.task.await.expect("no panic"));
    call.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_is_refused_has_used_the_turn_of_its_client() {
    let sessions = manager(|b| b.max_sessions(1));
    let busy = Driver::ready(&sessions).await.expect("room");
    let call = tokio::spawn(busy.sleep(24).await.expect("lives").text());
    let order = Order::default();
    let mut newcomers = Vec::new();
    for (name, client) in [1, 1, 2].into_iter().enumerate() {
        newcomers.push(Newcomer::half_open(&sessions, address(client), &order, name));
        sleep(5 * MILLI).await;
    }
    sleep(SECOND).await;
    assert_eq!(*order.lock().expect("no panic"), [2, 1], "not the second of the first client");
    call.await.expect("no panic");
}

// Floods, on paused time: what comes over real connections is in `floods.rs`.

/// A client of a service in process.
#[derive(Clone)]
struct Client {
    http: Arc<Http<Manager>>,
    context: ClientContext,
    /// How long its answers take to it, and what it says next takes back.
    round_trip: Duration,
}

impl Client {
    async fn post(&self, id: Option<&str>, message: &serde_json::Value) -> crate::session::Reply {
        self.context.clone().scope(self.http.request("POST", id, Some(message))).await
    }

    async fn initialize(&self) -> Option<String> {
        let message = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": initialize_params() });
        self.post(None, &message).await.session
    }

    async fn open(&self) -> Option<String> {
        let id = self.initialize().await?;
        sleep(self.round_trip).await;
        let message = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        (self.post(Some(&id), &message).await.status == 202).then_some(id)
    }

    async fn call(&self, id: &str) -> bool {
        let params = json!({ "name": "echo", "arguments": { "text": "here" } });
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        self.post(Some(id), &message).await.text().as_deref() == Some("here")
    }
}

/// Connections from one address that send one bare `initialize` after the other; ends with its drop. Every other one hangs up
/// after a few milliseconds and comes again, so that at each moment some come anew.
struct Flood(Vec<AbortHandle>);

impl Flood {
    fn begin(client: &Client, connections: usize) -> Self {
        let connection = |nth: usize| {
            let client = client.clone();
            let patience = if nth.is_multiple_of(2) { 30 * SECOND } else { MILLI * (5 + nth as u32 % 40) };
            let floods = async move {
                loop {
                    timeout(patience, client.initialize()).await.ok();
                    sleep(MILLI).await;
                }
            };
            tokio::spawn(floods).abort_handle()
        };
        Self((0..connections).map(connection).collect())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Parked users call and newcomers come while others flood the server with handshakes that are never finished.
async fn all_are_served_amid_a_flood(places: usize, connections: usize, honest: usize, round_trip: Duration) {
    let sessions = manager(|b| b.max_sessions(places));
    let http = Arc::new(Http::new(&sessions, Some(sessions.parking())));
    let client = |nth: usize| {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0xC612_0000 + nth as u32));
        Client { http: Arc::clone(&http), context: ClientContext::new().with_peer(address), round_trip }
    };
    let mut users = Vec::new();
    for nth in 0..places + honest {
        let user = client(nth + 1);
        let id = user.open().await.expect("room");
        // Two calls in an hour: none of these is a session that never called.
        assert!(user.call(&id).await);
        users.push((user, id));
    }
    assert_eq!(sessions.stats().parked, honest);
    let flood = Flood::begin(&client(0), connections);
    sleep(SECOND).await;
    let calls = users[..honest].iter().enumerate().map(|(nth, (user, id))| async move {
        sleep(nth as u32 * SECOND / 20).await;
        user.call(id).await
    });
    let newcomers = (0..honest).map(|nth| {
        let newcomer = client(0x1_0000 + nth);
        async move {
            sleep(nth as u32 * SECOND / 20).await;
            let began = Instant::now();
            let id = newcomer.open().await?;
            let took = began.elapsed();
            newcomer.call(&id).await.then_some(took)
        }
    });
    let (calls, newcomers) = tokio::join!(join_all(calls), join_all(newcomers));
    drop(flood);
    let answered = calls.iter().filter(|answered| **answered).count();
    assert_eq!(answered, honest, "parked users of {honest}, {places} places, {connections} connections");
    let in_time = newcomers.iter().flatten().filter(|took| **took <= SECOND).count();
    assert_eq!(in_time, honest, "newcomers, {places} places, {connections} connections: {newcomers:?}");
}

#[tokio::test(start_paused = true)]
async fn seven_newcomers_and_seven_parked_users_are_served_amid_a_flood_over_256_connections() {
    all_are_served_amid_a_flood(20, 256, 7, 20 * MILLI).await;
}

#[tokio::test(start_paused = true)]
async fn all_are_served_amid_a_flood_on_20_places() {
    for connections in [16, 64, 256] {
        all_are_served_amid_a_flood(20, connections, 20, 20 * MILLI).await;
    }
}

/// A half-open session is kept for 100 ms only; but it is parked then, and comes back.
#[tokio::test(start_paused = true)]
async fn newcomers_over_slow_networks_come_in_amid_a_flood_too() {
    all_are_served_amid_a_flood(20, 64, 20, 300 * MILLI).await;
}

#[tokio::test(start_paused = true)]
async fn all_are_served_amid_a_flood_on_100_places() {
    for connections in [16, 64, 256] {
        all_are_served_amid_a_flood(100, connections, 40, 20 * MILLI).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_are_served_amid_a_flood_on_1000_places() {
    all_are_served_amid_a_flood(1_000, 256, 20, 20 * MILLI).await;
}
