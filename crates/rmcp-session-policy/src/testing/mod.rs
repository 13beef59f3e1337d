//! Holds policies of your own to the laws.
//!
//! [`eviction::keeps_the_laws`] and [`admission::keeps_the_laws`] put a policy through random histories, as the manager
//! would, and panic with the law it broke and the smallest history they found in which it does. They are meant for
//! ordinary `#[test]`s; they run a clock of their own, so they must not be called within an async runtime.
//!
//! ```
//! use rmcp_session_policy::eviction::Lru;
//! use rmcp_session_policy::testing;
//!
//! testing::eviction::keeps_the_laws(Lru::new);
//! testing::eviction::asks_about_few(Lru::new);
//! ```
//!
//! [`manager::keeps_the_laws`] does the same to a whole manager with your policy in it, and [`inner::Scripted`] is an inner
//! manager that fails, dawdles or panics as a test tells it to.

pub mod admission;
pub mod eviction;
pub mod inner;
pub mod manager;

use std::borrow::Cow;
use std::fmt;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

/// How many random histories a policy is put through.
const HISTORIES: u32 = 256;

/// The law that a policy broke, and what it had gone through until then.
struct Broken<E> {
    law: Cow<'static, str>,
    history: Vec<E>,
}

impl<E: fmt::Debug> Broken<E> {
    fn text(&self) -> String {
        format!("{}, after {:?}", self.law, self.history)
    }
}

/// Runs an async scenario, in which time passes as it is told to.
fn paused<T>(scenario: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    #[expect(clippy::expect_used, reason = "a test cannot go on without")]
    runtime.expect("a runtime; these functions are not for async tests").block_on(scenario)
}

/// Puts something through random histories, and panics with the smallest one in which it breaks a law.
#[track_caller]
fn through<S: Strategy, E: fmt::Debug>(
    histories: &S,
    what: &str,
    cases: u32,
    check: impl Fn(S::Value) -> Result<(), Broken<E>>,
) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4_096, ..Config::default() };
    let checked = TestRunner::new(config)
        .run(histories, |history| check(history).map_err(|broken| TestCaseError::fail(broken.text())));
    match checked {
        Ok(()) => {}
        Err(TestError::Fail(broken, _)) => panic!("{what}: {broken}"),
        Err(TestError::Abort(why)) => panic!("{what}: the test itself failed: {why}"),
    }
}
