//! docs/design.md, L9.
//!
//! A refused or cut-off `tools/call` is answered with a result that a model can read; any other request with an error.

use std::sync::Arc;

use crate::session::{Driver, settle};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::admission::{Arrival, Rejection, RejectionClass, Retry, admit_fn};
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::{CallRejection, CloseReason, MINUTE, PolicySessionManager, PolicySessionManagerBuilder};
use serde_json::{Value, json};

type Manager = PolicySessionManager<LocalSessionManager>;

fn refusing(retry: Retry) -> PolicySessionManagerBuilder<LocalSessionManager> {
    let gate = move |_: &Arrival<'_>| {
        let rejection = Rejection::new("gate").with_class(RejectionClass::Quota);
        Err(rejection.with_limit(7, 0).with_retry(retry))
    };
    PolicySessionManager::local().requests(admit_fn(gate))
}

async fn answer(builder: PolicySessionManagerBuilder<LocalSessionManager>, method: &str, params: Value) -> Value {
    let sessions: Arc<Manager> = Arc::new(builder.build().expect("valid"));
    let alice = Driver::ready(&sessions).await.expect("room");
    let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    let mut answers = alice.send(request).await.expect("a stream").answers().await;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

fn echo() -> Value {
    json!({ "name": "echo", "arguments": { "text": "hi" } })
}

fn data() -> Value {
    json!({ "reason": "quota", "policy": "gate", "retryAfterSeconds": 60, "retryAfterMs": 60_000, "limit": 7, "remaining": 0 })
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_says_why_and_when_to_come_back() {
    let mut rejection = data();
    rejection["code"] = json!(429);
    let said = "The tool was not called: refused by gate. Try again in 60 s.";
    let whole = json!({ "jsonrpc": "2.0", "id": 7, "result": {
        "content": [{ "type": "text", "text": said }], "isError": true,
        "_meta": { "rmcp-session-policy/rejection": rejection } } });
    assert_eq!(answer(refusing(Retry::After(MINUTE)), "tools/call", echo()).await, whole);
    for (retry, said) in [(Retry::Unknown, "Try again later."), (Retry::Never, "Do not try again.")] {
        let answer = answer(refusing(retry), "tools/call", echo()).await;
        let said = format!("The tool was not called: refused by gate. {said}");
        assert_eq!(answer["result"]["content"][0]["text"], said);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_other_than_calls_and_calls_by_choice_are_answered_with_an_error() {
    let error = json!({ "code": 429, "message": "refused by gate: retry after 60 s", "data": data() });
    let whole = json!({ "jsonrpc": "2.0", "id": 7, "error": error });
    assert_eq!(answer(refusing(Retry::After(MINUTE)), "tools/list", json!({})).await, whole);
    let by_choice = refusing(Retry::After(MINUTE)).reject_calls_with(CallRejection::Error);
    assert_eq!(answer(by_choice, "tools/call", echo()).await, whole);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_off_says_whether_to_try_again() {
    let ends = [
        (CloseReason::Evicted, 503, "the session was closed (evicted). Try again."),
        (CloseReason::Revoked, 404, "the session was closed (revoked). It needs a new session."),
    ];
    for (reason, code, said) in ends {
        for rejection in [CallRejection::Result, CallRejection::Error] {
            let builder = PolicySessionManager::local().reject_calls_with(rejection);
            let sessions: Arc<Manager> = Arc::new(builder.build().expect("valid"));
            let alice = Driver::ready(&sessions).await.expect("room");
            let call = tokio::spawn(alice.sleep(600_000).await.expect("lives").answers());
            settle().await;
            sessions.terminate(|_: &SessionInfo<'_>| true, reason).await;
            let answers = call.await.expect("no panic");
            assert_eq!(answers.len(), 1, "{answers:?}");
            if rejection == CallRejection::Result {
                let told = &answers[0]["result"];
                let text = format!("This call was cut off and may or may not have had its effect: {said}");
                assert_eq!((&told["isError"], &told["content"][0]["text"]), (&json!(true), &json!(text)));
                let meta = json!({ "rmcp-session-policy/rejection": { "code": code, "reason": reason.as_str() } });
                assert_eq!(told["_meta"], meta);
            } else {
                let error = &answers[0]["error"];
                assert_eq!((&error["code"], &error["data"]["reason"]), (&json!(code), &json!(reason.as_str())));
            }
        }
    }
}
