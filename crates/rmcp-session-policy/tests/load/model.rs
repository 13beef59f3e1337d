//! docs/design.md, L1, L4, L6, L9 and L10.
//!
//! The whole manager beside the test kit's model of it, over random histories on paused time.
//!
//! A history that fails is made as small as it gets, printed, and kept in `tests/proptest-regressions/model.txt`.

use proptest::prelude::*;
use rmcp_session_policy::eviction::{EvictionPolicyExt, Fifo, Lfu, Lru, SessionInfo};
use rmcp_session_policy::testing::manager::{agrees, agrees_in_order, histories};

/// Histories that add up to about 100,000 events.
fn many(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(many(512))]

    #[test]
    fn the_manager_does_as_the_model_says_with_lru(history in histories(400)) {
        let agreed = agrees_in_order(Lru::new(), |who| who.used, &history);
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }
}

proptest! {
    #![proptest_config(many(32))]

    #[test]
    fn the_manager_does_as_the_model_says_with_fifo(history in histories(200)) {
        let agreed = agrees_in_order(Fifo::new(), |who| who.came, &history);
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }

    #[test]
    fn the_manager_does_as_the_model_says_with_any_victim(history in histories(200)) {
        let tiers = || Lru::new().tiers([|session: &SessionInfo<'_>| session.open_streams() == 0]);
        for agreed in [agrees(Lfu::new(), &history), agrees(tiers(), &history)] {
            prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
        }
    }
}
