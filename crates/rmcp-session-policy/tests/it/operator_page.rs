//! docs/operator-page.md.
//!
//! What the operator's page and its API show and do.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::testing::inner::Scripted;
use rmcp_session_policy::{ClientContext, Fingerprint, MINUTE, PolicySessionManager, SECOND};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::operator::{action, ask, read, request};
use crate::session::{Driver, settle};
use crate::web::{self, Server};

/// No answer of the API is longer.
const LONGEST: usize = 200 * 1024;

type Sessions = PolicySessionManager<LocalSessionManager>;

fn page<I: SessionManager>(sessions: &PolicySessionManager<I>) -> Router {
    sessions.admin().actions(true).build().expect("valid")
}

fn local() -> Arc<Sessions> {
    Arc::new(PolicySessionManager::local().build().expect("valid"))
}

async fn open_as(sessions: &Arc<Sessions>, principal: &str, address: [u8; 4]) -> Driver<Sessions> {
    let context = ClientContext::new().with_principal(principal).with_peer(address.into());
    context.scope(Driver::ready(sessions)).await.expect("room")
}

fn column<'a>(list: &'a Value, name: &str) -> Vec<&'a Value> {
    list["sessions"].as_array().expect("a list").iter().map(|session| &session[name]).collect()
}

#[tokio::test]
async fn the_overview_has_the_numbers_and_limits_of_the_manager() {
    let sessions = PolicySessionManager::local().max_sessions(8).max_opening(2).max_parked(5).max_parked_streams(3);
    let sessions = Arc::new(sessions.build().expect("valid"));
    let page = page(&sessions);
    let busy = Driver::ready(&sessions).await.expect("room");
    let call = busy.sleep(60_000).await.expect("lives");
    let _opening = Driver::open(&sessions).await.expect("room");
    let gone = Driver::ready(&sessions).await.expect("room");
    sessions.close_session(&gone.id).await.expect("closes");
    // It is live until its service has let go of it.
    while sessions.stats().live > 2 {
        tokio::task::yield_now().await;
    }
    let overview = read(&page, "/api/overview").await;
    assert_eq!(overview["limits"], json!({"sessions": 8, "opening": 2, "parked": 5, "parked_streams": 3}));
    let now = &overview["now"];
    assert_eq!((&now["live"], &now["busy"], &now["opening"]), (&json!(2), &json!(1), &json!(1)));
    assert_eq!((&now["draining"], &now["surge_ms"]), (&json!(false), &Value::Null));
    assert_eq!((&overview["counts"]["opened"], &overview["counts"]["closed"]["client"]), (&json!(3), &json!(1)));
    let last = &overview["explanations"][0];
    assert_eq!((&last["what"], &last["reason"]), (&json!("ended"), &json!("client")));
    assert_eq!(last["fingerprint"], json!(Fingerprint::of(&gone.id).to_string()));
    assert!(last["text"].as_str().expect("text").starts_with("closed by its client"));
    assert_eq!((&overview["actions"], &overview["drain"]), (&json!(true), &Value::Null));
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn the_charts_have_the_last_ten_minutes_and_end_with_the_router() {
    let sessions = local();
    let page = page(&sessions);
    tokio::time::sleep(20 * MINUTE + SECOND).await;
    let _session = sessions.create_session().await.expect("room");
    tokio::time::sleep(2 * MINUTE).await;
    let history = read(&page, "/api/overview").await["history"].take();
    let live = history["live"].as_array().expect("a list");
    assert_eq!((live.len(), &live[95], &live[96]), (120, &json!(0), &json!(1)), "{live:?}");
    assert_eq!((&history["ago_ms"][0], &history["ago_ms"][119]), (&json!(596_000), &json!(1_000)));
    let with_the_page = Handle::current().metrics().num_alive_tasks();
    drop(page);
    settle().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), with_the_page - 1);
}

#[tokio::test]
async fn the_list_is_filtered_sorted_and_paged() {
    let sessions = local();
    let page = page(&sessions);
    let mut all = Vec::new();
    for number in 0..30_u8 {
        let user = ["alice", "bob", "Carol"][usize::from(number) % 3];
        all.push(open_as(&sessions, user, [10, 0, 0, number]).await);
    }
    for session in &all[..4] {
        session.echo("e").await.expect("lives");
    }
    all[2].echo("e").await.expect("lives");
    let call = all[7].sleep(60_000).await.expect("lives");

    let list = read(&page, "/api/sessions?sort=uses&per_page=10").await;
    assert_eq!((&list["live"], &list["matching"], &list["pages"]), (&json!(30), &json!(30), &json!(3)));
    assert_eq!(column(&list, "uses"), [2, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
    let mut seen = HashSet::new();
    for number in 1..=3 {
        let list = read(&page, &format!("/api/sessions?sort=uses&per_page=10&page={number}")).await;
        seen.extend(column(&list, "session").into_iter().map(Value::to_string));
    }
    assert_eq!(seen.len(), 30, "each session is on one page");
    let beyond = read(&page, "/api/sessions?sort=uses&per_page=10&page=18446744073709551615").await;
    assert_eq!(
        (&beyond["page"], column(&beyond, "uses").len()),
        (&json!(3), 10),
        "beyond the end there is the last page"
    );

    let list = read(&page, "/api/sessions?sort=address&order=descending&per_page=2").await;
    assert_eq!(column(&list, "address"), ["10.0.0.29", "10.0.0.28"]);
    let list = read(&page, "/api/sessions?filter=CAROL&sort=age").await;
    assert_eq!((&list["matching"], column(&list, "principal").len()), (&json!(10), 10));
    let print = Fingerprint::of(&all[5].id).to_string();
    let list = read(&page, &format!("/api/sessions?filter={}", &print[..7])).await;
    assert!(column(&list, "fingerprint").contains(&&json!(print)), "{list}");
    assert_eq!(read(&page, "/api/sessions?busy=true").await["sessions"][0]["address"], "10.0.0.7");
    assert_eq!(read(&page, "/api/sessions?address=10.0.0.1").await["matching"], 1);
    assert_eq!(read(&page, "/api/sessions?principal=bob").await["matching"], 10);
    assert_eq!(read(&page, "/api/sessions?principal=bo").await["matching"], 0, "a principal is named in full");
    assert_eq!(read(&page, "/api/sessions?phase=opening").await["matching"], 0);
    assert_eq!(read(&page, "/api/sessions?filter=driver").await["matching"], 30, "the client's software");
    for sort in ["fingerprint", "phase", "client", "principal", "age", "idle", "in_flight", "streams", "restores"] {
        assert_eq!(read(&page, &format!("/api/sessions?sort={sort}")).await["sort"], sort);
    }
    drop(call);
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_answered_with_400() {
    let page = page(&local());
    let long = format!("/api/sessions?filter={}", "a".repeat(257));
    let unknown = format!("/api/sessions?{}=1", "a".repeat(10_000));
    for path in [
        "/api/sessions?sort=id",
        "/api/sessions?page=0",
        "/api/sessions?page=-1",
        "/api/sessions?per_page=0",
        "/api/sessions?per_page=51",
        "/api/sessions?address=localhost",
        "/api/sessions?pages=3",
        "/api/sessions/xyz",
        "/api/sessions/+1234567",
        "/api/explanations?count=51",
        "/api/selection",
        "/api/selection?session=1-01234567&principal=alice",
        "/api/selection?session=1",
        &*long,
        &*unknown,
    ] {
        let answer = ask(&page, request("GET", path)).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.json()["error"].is_string() && answer.body.len() < 1_024, "{path}: {}", answer.text());
    }
    for body in [
        json!({}),
        json!([]),
        json!({"session": 1}),
        json!({"session": "1"}),
        json!({"principal": "a", "address": "::1"}),
        json!({"all": true}),
    ] {
        assert_eq!(ask(&page, action("/api/terminate", &body)).await.status, 400, "{body}");
    }
    for seconds in [json!(0), json!(3_601), json!(-1), json!("1"), Value::Null] {
        let body = json!({ "deadline_seconds": seconds });
        assert_eq!(ask(&page, action("/api/drain", &body)).await.status, 400, "{body}");
    }
    let long = json!({ "principal": "a".repeat(65 * 1024) });
    assert_eq!(ask(&page, action("/api/terminate", &long)).await.status, 413);
    assert_eq!(ask(&page, request("GET", "/api/none")).await.status, 404);
    assert_eq!(ask(&page, request("DELETE", "/api/sessions")).await.status, 403, "without the header of actions");
}

#[tokio::test]
async fn one_session_is_terminated_and_no_other() {
    let sessions = local();
    let page = page(&sessions);
    let alice = open_as(&sessions, "alice", [10, 0, 0, 1]).await;
    let bob = open_as(&sessions, "bob", [10, 0, 0, 1]).await;
    let print = Fingerprint::of(&alice.id);
    let found = read(&page, &format!("/api/sessions/{print}")).await;
    assert_eq!((found["live"].as_array().map(Vec::len), &found["live"][0]["principal"]), (Some(1), &json!("alice")));
    let name = found["live"][0]["session"].as_str().expect("text");
    assert!(name.ends_with(&format!("-{print}")), "{name}");
    let stale = name.replace(&print.to_string(), &Fingerprint::of(&bob.id).to_string());
    let answer = ask(&page, action("/api/terminate", &json!({"session": stale}))).await;
    assert_eq!(answer.json(), json!({"ended": 0}), "the number alone is not enough");
    assert_eq!(read(&page, &format!("/api/selection?session={name}")).await, json!({"live": 1, "parked": 0}));
    let answer = ask(&page, action("/api/terminate", &json!({"session": name, "at_most": 1}))).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"ended": 1})));
    assert!(!alice.lives().await && bob.lives().await);
    let found = read(&page, &format!("/api/sessions/{print}")).await;
    assert_eq!((&found["live"], &found["parked"]), (&json!([]), &json!([])), "it cannot be restored");
    assert!(found["explanations"][0]["text"].as_str().expect("text").starts_with("terminated by an operator"));
    let again = ask(&page, action("/api/terminate", &json!({"session": name}))).await;
    assert_eq!(again.json(), json!({"ended": 0}));
}

#[tokio::test]
async fn all_of_a_principal_or_an_address_are_terminated_if_they_are_no_more_than_was_confirmed() {
    let server = Server::start(PolicySessionManager::local().max_sessions(3)).await;
    let page = page(&server.sessions);
    let parked = server.open_as("mallory").await;
    let first = server.open_as("mallory").await;
    let alice = server.open_as("alice").await;
    let _second = server.open_as("mallory").await;
    let all = json!({"live": 2, "parked": 1});
    assert_eq!(read(&page, "/api/selection?principal=mallory").await, all);
    let found = read(&page, &format!("/api/sessions/{}", Fingerprint::of(&parked))).await;
    assert_eq!((&found["live"], &found["parked"][0]["principal"]), (&json!([]), &json!("mallory")));
    assert_eq!(found["parked"][0]["phase"], "parked");

    let few = ask(&page, action("/api/terminate", &json!({"principal": "mallory", "at_most": 2}))).await;
    assert_eq!((few.status.as_u16(), &few.json()["live"], &few.json()["parked"]), (409, &json!(2), &json!(1)));
    assert_eq!(server.sessions.stats().live, 3, "none was ended");
    let done = ask(&page, action("/api/terminate", &json!({"principal": "mallory", "at_most": 3}))).await;
    assert_eq!(done.json(), json!({"ended": 3}));
    for session in [&parked, &first] {
        let answer = server.post(Some(session), &web::call(9, "count", &json!({}))).header("x-user", "mallory");
        assert_eq!(answer.send().await.expect("answers").status(), 404);
    }
    assert_eq!(server.tell("alice", &alice, "count", &json!({})).await, "1");
    let done = ask(&page, action("/api/terminate", &json!({"address": "127.0.0.1"}))).await;
    assert_eq!(done.json(), json!({"ended": 1}));
    assert_eq!(server.sessions.stats().live, 0);
}

#[tokio::test]
async fn the_list_says_how_often_a_session_was_restored() {
    let server = Server::start(PolicySessionManager::local().max_sessions(1)).await;
    let page = page(&server.sessions);
    let [alice, bob] = [server.open_as("alice").await, server.open_as("bob").await];
    for (user, session) in [("alice", &alice), ("bob", &bob), ("alice", &alice)] {
        assert_eq!(server.tell(user, session, "echo", &json!({"text": "here"})).await, "here");
    }
    let list = read(&page, "/api/sessions").await;
    assert_eq!((column(&list, "principal"), column(&list, "restores")), (vec![&json!("alice")], vec![&json!(2)]));
    let found = read(&page, &format!("/api/sessions/{}", Fingerprint::of(&bob))).await;
    assert_eq!((&found["parked"][0]["restores"], &found["parked"][0]["uses"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_drain_is_begun_once_and_shows_how_far_it_is() {
    let sessions = local();
    let page = page(&sessions);
    let busy = Driver::ready(&sessions).await.expect("room");
    let _idle = Driver::ready(&sessions).await.expect("room");
    let call = busy.sleep(300).await.expect("lives");
    let begun = ask(&page, action("/api/drain", &json!({"deadline_seconds": 30}))).await;
    assert_eq!((begun.status.as_u16(), &begun.json()["sessions"]), (202, &json!(2)));
    assert_eq!(ask(&page, action("/api/drain", &json!({"deadline_seconds": 30}))).await.status, 409);
    let overview = read(&page, "/api/overview").await;
    assert_eq!((&overview["now"]["draining"], &overview["drain"]["report"]), (&json!(true), &Value::Null));
    assert!(sessions.create_session().await.is_err(), "newcomers are refused");
    assert_eq!(call.text().await, "slept 300", "calls in flight finish");
    let report = loop {
        let report = read(&page, "/api/overview").await["drain"]["report"].take();
        if !report.is_null() {
            break report;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((&report["finished"], &report["cut_off"], &report["stuck"]), (&json!(2), &json!(0), &json!(0)));
}

#[tokio::test]
async fn what_clients_send_is_text_however_it_looks() {
    let sessions = PolicySessionManager::builder(Scripted::new()).build().expect("valid");
    let page = page(&sessions);
    let evil = "alice\r\nSet-Cookie: a=b\r\n\r\n<script>alert(1)</script>\u{202e}\0";
    let open = sessions.create_session();
    let _session = ClientContext::new().with_principal(evil).scope(open).await.expect("room");
    let answer = ask(&page, request("GET", "/api/sessions")).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert!(!answer.headers.contains_key("set-cookie") && !answer.text().contains(['\r', '\n', '\0']));
    assert_eq!(answer.json()["sessions"][0]["principal"], evil);
    let done = ask(&page, action("/api/terminate", &json!({"principal": evil, "at_most": 1}))).await;
    assert_eq!(done.json(), json!({"ended": 1}), "it can be named");
}

#[tokio::test]
async fn names_of_any_length_are_cut() {
    let server = Server::start(PolicySessionManager::local()).await;
    let page = page(&server.sessions);
    let mut hello = web::initialize(1);
    hello["params"]["clientInfo"]["name"] = json!("<b>".repeat(10_000_000 / 3));
    let answer = server.post(None, &hello).send().await.expect("answers").status();
    assert!(answer == 200 || answer == 413, "{answer}");
    // Each byte of these takes six in JSON, and one of it takes a kilobyte in a header.
    let worst = "\u{1}".repeat(1_000);
    hello["params"]["clientInfo"] = json!({"name": worst, "version": worst});
    for _ in 0..100 {
        let user = "p".repeat(1_000);
        let answer = server.post(None, &hello).header("x-user", user).send().await.expect("answers");
        assert_eq!(answer.status(), 200);
        answer.bytes().await.expect("a body");
    }
    let longest = "\u{1}".repeat(1_000_000);
    let context = ClientContext::new().with_principal(&*longest);
    let _session = context.scope(server.sessions.create_session()).await.expect("room");
    for path in
        ["/api/sessions?per_page=50&sort=client&order=descending", "/api/sessions?sort=principal", "/api/overview"]
    {
        let answer = ask(&page, request("GET", path)).await;
        assert!(answer.body.len() < LONGEST, "{path}: {} bytes", answer.body.len());
    }
    let list = read(&page, "/api/sessions?sort=principal&per_page=1").await;
    let first = &list["sessions"][0];
    assert_eq!((first["principal"].as_str().map(str::len), &first["principal_cut"]), (Some(256), &json!(true)));
}

#[tokio::test]
async fn the_settings_in_force_are_shown_with_how_often_they_changed() {
    let sessions = PolicySessionManager::builder(Scripted::new()).max_sessions(20).build().expect("valid");
    let page = page(&sessions);
    let before = read(&page, "/api/settings").await;
    assert_eq!((&before["changes"], &before["settings"]["max_sessions"]), (&json!(0), &json!(20)));
    let change = sessions.reconfigure(|settings| settings.max_sessions(10).idle_timeout(MINUTE)).await;
    change.expect("valid");
    let after = read(&page, "/api/settings").await;
    assert_eq!((&after["changes"], &after["settings"]["max_sessions"]), (&json!(1), &json!(10)));
    assert_eq!(
        (&after["settings"]["idle_timeout"], &after["settings"]["idle_timeout_ms"]),
        (&json!("after"), &json!(60_000))
    );
    assert!(after["since_ms"].as_u64() >= before["since_ms"].as_u64());
    let limits = read(&page, "/api/overview").await;
    assert_eq!(limits["limits"]["sessions"], 10);
}

/// The worst case of the API's bounds, and what a look takes: printed, not asserted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_longer_than_200_kib_with_100_000_sessions() {
    const SESSIONS: usize = 100_000;
    let sessions = PolicySessionManager::builder(Scripted::new()).max_sessions(SESSIONS).max_opening(SESSIONS);
    let sessions = sessions.build().expect("valid");
    let page = page(&sessions);
    let mut all = Vec::with_capacity(SESSIONS);
    for number in 0..SESSIONS {
        let principal = format!("{}{}", "\u{1}".repeat(400), number % 1_000);
        let context = ClientContext::new().with_principal(principal).with_peer([10, 0, 0, 1].into());
        all.push(context.scope(sessions.create_session()).await.expect("room"));
    }
    for path in [
        "/api/overview",
        "/api/sessions",
        "/api/sessions?sort=principal&page=1900",
        "/api/sessions?sort=fingerprint&filter=ab",
        "/api/selection?address=10.0.0.1",
        "/api/explanations",
    ] {
        let begun = Instant::now();
        let answer = ask(&page, request("GET", path)).await;
        eprintln!("{path}: {} bytes, {:?}", answer.body.len(), begun.elapsed());
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.len() < LONGEST, "{path}: {} bytes", answer.body.len());
    }
}

#[tokio::test]
async fn no_answer_has_a_session_id() {
    let server = Server::start(PolicySessionManager::local().max_sessions(20)).await;
    let page = page(&server.sessions);
    let mut ids = Vec::new();
    for number in 0..40 {
        ids.push(server.open_as(["alice", "bob"][number % 2]).await);
    }
    for (number, id) in ids.iter().enumerate() {
        server.tell(["alice", "bob"][number % 2], id, "count", &json!({})).await;
    }
    let mut said = String::new();
    let prints = ids.iter().map(|id| format!("/api/sessions/{}", Fingerprint::of(id)));
    let fixed =
        ["/", "/script.js", "/api/overview", "/api/sessions", "/api/explanations", "/api/selection?principal=bob"];
    for path in prints.chain(fixed.map(str::to_owned)) {
        let answer = ask(&page, request("GET", &path)).await;
        said += &format!("{:?} {}", answer.headers, answer.text());
    }
    said += &ask(&page, action("/api/terminate", &json!({"principal": "bob"}))).await.text();
    said += &read(&page, "/api/explanations").await.to_string();
    assert!(said.contains(&Fingerprint::of(&ids[39]).to_string()) && said.contains("terminated by an operator"));
    for id in &ids {
        assert!(!said.contains(id.as_str()), "an id");
    }
}
