//! [`Metrics`]: what of a manager is measured, as its author says.

use super::catalogue::BUCKETS;
use crate::config_error::ConfigError;

/// How many names of client software, and how many labels, there may be.
const MOST_CLIENTS: usize = 100;
const MOST_LABELS: usize = 16;
/// The longest name of client software that is kept of a session, in bytes.
const LONGEST_CLIENT: usize = 128;
/// The keys that the library sets.
const OWN: &[&str] = &[
    "client",
    "error.type",
    "kind",
    "mcp.protocol.version",
    "network.protocol.name",
    "network.transport",
    "outcome",
    "policy",
    "reason",
];

/// Has a manager record metrics, through the facade [`metrics`](https://docs.rs/metrics), so that any exporter serves.
///
/// **Install the recorder first.** The handles are made once, in
/// [`build`](crate::PolicySessionManagerBuilder::build); without a recorder they record nothing, for ever. Histograms and
/// counters are recorded where something happens. Gauges are set by
/// [`publish_metrics`](crate::PolicySessionManager::publish_metrics): call it before each render of a page of metrics, or on a
/// timer.
///
/// The repository's `docs/operating.md` lists all metrics. No label is a session id, an address or a principal, and no stranger
/// makes a series: client software is a label only if it is [listed](Self::clients), and rejections name the first 32 policies.
///
/// Cost: a counter for each request within a session, some histograms for each session that ends. Without the feature
/// `metrics` there is none, and without this setting next to none.
///
/// ```
/// use rmcp_session_policy::{Metrics, PolicySessionManager};
///
/// // The recorder of an exporter is installed here, before the manager is built.
/// let metrics = Metrics::new().clients(["claude-code", "cursor-vscode"]).label("service", "tickets");
/// let sessions = PolicySessionManager::local().metrics(metrics).build()?;
/// sessions.publish_metrics();
/// # Ok::<(), rmcp_session_policy::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Metrics {
    pub(super) clients: Vec<String>,
    pub(super) labels: Vec<(String, String)>,
}

impl Metrics {
    /// Records metrics without a label of the author's.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which names of client software (`clientInfo.name`) are values of the label `client`: at most 100, of 128 bytes at
    /// most each. Any other is `other`, since clients choose their names. Defaults to none: there is no such label.
    pub fn clients<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.clients = names.into_iter().map(Into::into).collect();
        self.clients.sort_unstable();
        self.clients.dedup();
        self
    }

    /// Adds a label to each series, such as the name of the service. Two managers of one process need one each, or their gauges
    /// overwrite each other. At most 16. Defaults to none.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// Returns the name and the bounds of the buckets of each histogram, in the unit of the histogram, for exporters that have
    /// to be told. Without them many exporters compute quantiles, which cannot be added over servers.
    ///
    /// ```
    /// use rmcp_session_policy::Metrics;
    ///
    /// for (name, bounds) in Metrics::buckets() {
    ///     // With metrics-exporter-prometheus: `.set_buckets_for_metric(Matcher::Full(name.to_string()), bounds)?`
    ///     assert!(name.starts_with("mcp.server.session.") && !bounds.is_empty());
    /// }
    /// ```
    #[must_use]
    pub const fn buckets() -> &'static [(&'static str, &'static [f64])] {
        BUCKETS
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.clients.len() > MOST_CLIENTS {
            let remedy = format!("allow at most {MOST_CLIENTS} names");
            return Err(ConfigError::new("metrics.clients", self.clients.len(), remedy));
        }
        if let Some(name) = self.clients.iter().find(|name| name.is_empty() || name.len() > LONGEST_CLIENT) {
            let remedy = format!("allow names of 1 to {LONGEST_CLIENT} bytes");
            return Err(ConfigError::new("metrics.clients", name, remedy));
        }
        if self.labels.len() > MOST_LABELS {
            let remedy = format!("allow at most {MOST_LABELS} labels");
            return Err(ConfigError::new("metrics.label", self.labels.len(), remedy));
        }
        for (place, (key, _)) in self.labels.iter().enumerate() {
            let is_repeated = self.labels[..place].iter().any(|(other, _)| other == key);
            if key.is_empty() || is_repeated || OWN.contains(&key.as_str()) {
                return Err(ConfigError::new("metrics.label", key, "allow a key once, and none that the library sets"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let error = |metrics: Metrics| metrics.check().expect_err("it makes no sense").to_string();
        let many = (0..101).map(|number| number.to_string());
        assert_eq!(error(Metrics::new().clients(many)), "metrics.clients is 101: allow at most 100 names");
        assert_eq!(error(Metrics::new().clients([""])), "metrics.clients is \"\": allow names of 1 to 128 bytes");
        assert!(error(Metrics::new().clients(["n".repeat(129)])).ends_with("1 to 128 bytes"));
        let many = (0..17).fold(Metrics::new(), |metrics, number| metrics.label(number.to_string(), ""));
        assert_eq!(error(many), "metrics.label is 17: allow at most 16 labels");
        for labels in [vec![""], vec!["reason"], vec!["a", "a"]] {
            let metrics = labels.iter().fold(Metrics::new(), |metrics, key| metrics.label(*key, "v"));
            assert!(error(metrics).contains("allow a key once"), "{labels:?}");
        }
        let good = Metrics::new().clients(["a", "a", "b"]).label("service", "tickets");
        assert!(good.check().is_ok() && good.clients == ["a", "b"]);
    }
}
