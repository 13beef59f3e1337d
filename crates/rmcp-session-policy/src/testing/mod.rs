//! A test kit for your own policies: random histories that check the laws, and a scripted inner manager.
//!
//! [`eviction::keeps_the_laws`] and [`admission::keeps_the_laws`] run a policy through random histories, as the manager
//! would. If it breaks a law, they panic with that law and the smallest history they found that breaks it. Call them in
//! ordinary `#[test]`s, not within an async runtime: they run a clock of their own.
//!
//! ```
//! use rmcp_session_policy::eviction::Lru;
//! use rmcp_session_policy::testing;
//!
//! testing::eviction::keeps_the_laws(Lru::new);
//! testing::eviction::asks_about_few(Lru::new);
//! ```
//!
//! [`manager::keeps_the_laws`] does the same to a whole manager with your policy in it. [`inner::Scripted`] is an inner
//! manager that fails, delays or panics as a test sets it.
//!
//! [`directory::keeps_the_laws`] holds a session directory to its contract; [`directory::MemoryDirectory`] is one in memory.

pub mod admission;
pub mod directory;
pub mod eviction;
pub mod inner;
pub mod manager;

use std::borrow::Cow;
use std::fmt;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

/// The number of random histories that a policy is run through.
///
/// The check of a whole manager runs fewer, since each of them takes longer.
const HISTORIES: u32 = 256;

/// Holds the law that a policy broke, and the history until then.
struct Broken<E> {
    /// What is wrong, as a sentence without its end: the history follows it in the message.
    law: Cow<'static, str>,
    /// The events that show it.
    history: Vec<E>,
}

impl<E: fmt::Debug> Broken<E> {
    /// Makes the message of the panic: the law, and then the history.
    fn text(&self) -> String {
        format!("{}, after {:?}", self.law, self.history)
    }
}

/// Runs an async scenario on a paused clock.
///
/// It makes a runtime of its own with one thread. Time passes only when all tasks wait, so waits of hours cost nothing.
/// Panics if it is called within a runtime.
fn paused<T>(scenario: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    #[expect(clippy::expect_used, reason = "a test cannot go on without")]
    runtime.expect("a runtime; these functions are not for async tests").block_on(scenario)
}

/// Runs a check over random histories, and panics with the smallest one in which a law is broken.
///
/// `what` names what was tested, and `cases` is the number of histories. Failing histories are not written to a file: a
/// test kit should not leave files in the repositories of others.
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
