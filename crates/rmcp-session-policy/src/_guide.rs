//! Guides. These modules hold text only.
//! [The whole book](https://github.com/rmcp-session-policy/rmcp-session-policy/blob/main/docs/SUMMARY.md) has more.

/// What clients are told: the layer's answers, principals, proxies, requests without a session.
#[doc = include_str!("../docs/http.md")]
pub mod http {}

/// Sessions that outlive their process: what a directory stores, what a request costs, how to write a backend.
#[doc = include_str!("../docs/directory.md")]
pub mod directory {}

/// Why sessions ended and clients were rejected: every sentence, and what is kept.
#[doc = include_str!("../docs/explanations.md")]
pub mod explanations {}

/// Changing settings while the server runs: what each does to the sessions there are.
#[doc = include_str!("../docs/live-change.md")]
pub mod live_change {}

/// How clients behave: what the official SDKs and common hosts do with each answer.
#[doc = include_str!("../docs/clients.md")]
pub mod clients {}

/// Writing a policy: one of each kind, its tests, and its bench.
#[cfg(feature = "testing")]
#[doc = include_str!("../docs/writing-a-policy.md")]
pub mod writing_a_policy {}

/// The operator's page: which clients may use it, what it shows, its JSON API.
#[doc = include_str!("../docs/operator-page.md")]
pub mod operator_page {}

/// Moving from the crate `mcp-session`.
#[doc = include_str!("../docs/moving-from-mcp-session.md")]
pub mod moving_from_mcp_session {}

/// Operating: all metrics, and what to watch.
#[cfg(feature = "metrics")]
#[doc = include_str!("../docs/operating.md")]
pub mod operating {}
