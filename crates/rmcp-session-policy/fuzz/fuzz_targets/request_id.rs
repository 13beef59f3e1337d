//! The id of a request, as it is found in the beginning of its body to answer a refusal.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmcp::model::RequestId;
use rmcp_session_policy::http::fuzzing;
use serde::Deserialize;
use serde_json::Value;

fuzz_target!(|body: (&[u8], usize)| {
    let (body, cut) = body;
    let cut = cut.checked_rem(body.len()).unwrap_or(0);
    let id = fuzzing::request_id([body]);
    assert_eq!(id, fuzzing::request_id([&body[..cut], &body[cut..]]), "however it comes");
    let Some(id) = id else { return };
    // What is not asked for may be what no text can be.
    let Ok(request) = serde_json::from_slice::<Value>(body) else { return };
    assert!(request["method"].is_string(), "an id in what is no request: {request}");
    let said = request.get("id").map(|said| RequestId::deserialize(said).expect("an id"));
    assert_eq!(said, Some(id));
});
