//! [`Preset`]: a workload as TOML, of the crate's own or of the user.
//!
//! A preset names crowds of actors and how many sessions of each come per hour. The actors of `presets/actors.toml` are
//! known to all presets; a preset may have a table `actors` of its own, which adds to them and replaces those of the same
//! name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::actors::Actor;
use crate::error::LabError;

/// The actors that all presets know.
const ACTORS: &str = include_str!("../presets/actors.toml");

/// The presets of this crate by name.
pub const PRESETS: [(&str, &str); 6] = [
    ("coding", include_str!("../presets/coding.toml")),
    ("chat", include_str!("../presets/chat.toml")),
    ("connector", include_str!("../presets/connector.toml")),
    ("registry", include_str!("../presets/registry.toml")),
    ("cron", include_str!("../presets/cron.toml")),
    ("mixed", include_str!("../presets/mixed.toml")),
];

/// A workload.
///
/// ```
/// use rmcp_session_policy_lab::presets::Preset;
///
/// let preset = Preset::parse("nightly", r#"
///     hours = 12
///     [[crowds]]
///     actor = "cron"
///     per_hour = 40
///     [[crowds]]
///     actor = "reader"
///     per_hour = 100
///     [actors.reader]
///     lists = [1, 1]
///     calls = { geo = 2 }
/// "#)?;
/// assert_eq!(preset.crowds.len(), 2);
/// # Ok::<(), rmcp_session_policy_lab::LabError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// How long it lasts.
    pub hours: f64,
    /// The crowds. Their sessions do not depend on each other.
    pub crowds: Vec<Crowd>,
    /// How the crowds change.
    #[serde(default)]
    pub drift: Option<Drift>,
    /// Actors of its own.
    #[serde(default)]
    pub actors: BTreeMap<String, Actor>,
}

/// Sessions of one actor.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crowd {
    /// The name of the actor.
    pub actor: String,
    /// How many sessions come per hour, over the day.
    pub per_hour: f64,
    /// The share that never calls, if it is not that of the actor.
    #[serde(default)]
    pub never: Option<f64>,
}

/// A change of the crowds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// After which share of the time.
    pub after: f64,
    /// How many times as many sessions come from then on, by the name of the actor.
    pub factors: BTreeMap<String, f64>,
}

/// A crowd with its actor.
#[derive(Clone, Debug)]
pub struct Part {
    /// What its sessions do.
    pub actor: Actor,
    /// How many come per hour.
    pub per_hour: f64,
    /// How many times as many come after the drift.
    pub factor: f64,
}

/// At most this number of hours.
const LONGEST: f64 = 24.0 * 366.0;

impl Preset {
    /// Reads a preset by the name of one of [`PRESETS`], or by the path of a file.
    ///
    /// # Errors
    ///
    /// [`LabError::Preset`], or [`LabError::File`] if there is neither.
    pub fn load(name: &str) -> Result<Self, LabError> {
        if let Some((_, text)) = PRESETS.iter().find(|(preset, _)| *preset == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        if path.extension().is_none() && !path.exists() {
            let names = PRESETS.map(|(name, _)| name).join(", ");
            return Err(wrong(name, format!("it is neither a file nor one of {names}")));
        }
        let text = fs::read_to_string(path).map_err(|source| LabError::File { path: path.to_owned(), source })?;
        Self::parse(name, &text)
    }

    /// Reads a preset from TOML, and checks it. `name` is for messages.
    ///
    /// # Errors
    ///
    /// [`LabError::Preset`] with what is wrong.
    pub fn parse(name: &str, text: &str) -> Result<Self, LabError> {
        let mut preset: Self = toml::from_str(text).map_err(|error| wrong(name, one_line(&error)))?;
        let known: BTreeMap<String, Actor> =
            toml::from_str(ACTORS).map_err(|error| wrong("actors", one_line(&error)))?;
        for (actor, what) in known {
            preset.actors.entry(actor).or_insert(what);
        }
        preset.check().map_err(|problem| wrong(name, problem))?;
        Ok(preset)
    }

    fn check(&self) -> Result<(), String> {
        if !(self.hours > 0.0 && self.hours <= LONGEST) {
            return Err(format!("hours = {} is not between 0 and {LONGEST}", self.hours));
        }
        for crowd in &self.crowds {
            let name = &crowd.actor;
            let actor = self.actors.get(name).ok_or_else(|| format!("there is no actor {name}"))?;
            let never = crowd.never.unwrap_or(actor.never);
            Actor { never, ..actor.clone() }.check().map_err(|problem| format!("actor {name}: {problem}"))?;
            if !(0.0..=1e7).contains(&crowd.per_hour) {
                return Err(format!("per_hour = {} of {name} is not between 0 and 10,000,000", crowd.per_hour));
            }
        }
        let Some(drift) = &self.drift else { return Ok(()) };
        if let Some(name) = drift.factors.keys().find(|name| self.crowds.iter().all(|crowd| crowd.actor != **name)) {
            return Err(format!("drift: there is no crowd of {name}"));
        }
        let is_sound =
            (0.0..=1.0).contains(&drift.after) && drift.factors.values().all(|factor| (0.0..=1_000.0).contains(factor));
        if is_sound { Ok(()) } else { Err("drift: `after` is a share, and factors are from 0 to 1000".into()) }
    }

    /// Returns the crowds with their actors.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let part = |crowd: &Crowd| {
            let mut actor = self.actors.get(&crowd.actor)?.clone();
            actor.never = crowd.never.unwrap_or(actor.never);
            let factor = self.drift.as_ref().and_then(|drift| drift.factors.get(&crowd.actor)).copied();
            Some(Part { actor, per_hour: crowd.per_hour, factor: factor.unwrap_or(1.0) })
        };
        self.crowds.iter().filter_map(part).collect()
    }
}

fn wrong(name: &str, problem: String) -> LabError {
    LabError::Preset { name: name.into(), problem }
}

/// The message of an error of TOML in one line, with the place.
fn one_line(error: &toml::de::Error) -> String {
    let place = error.span().map_or_else(String::new, |span| format!(" (at byte {})", span.start));
    format!("{}{place}", error.message().replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_sound() {
        for (name, _) in PRESETS {
            assert!(!Preset::load(name).unwrap().parts().is_empty(), "{name}");
        }
    }

    #[test]
    fn a_preset_may_change_an_actor() {
        let text =
            "hours = 1\ncrowds = [{ actor = \"chat\", per_hour = 5, never = 0.5 }]\n[actors.chat]\nlists = [7, 7]";
        let preset = Preset::parse("own", text).unwrap();
        let parts = preset.parts();
        assert_eq!((parts[0].actor.lists, parts[0].actor.never, parts[0].factor), ((7, 7), 0.5, 1.0));
    }

    #[test]
    fn what_is_wrong_with_a_preset_is_told_in_one_line() {
        for (text, message) in [
            ("hours = 0\ncrowds = []", "hours = 0 is not between"),
            ("hours = 1", "missing field `crowds`"),
            ("hours = 1\ncrowds = [{ actor = \"poet\", per_hour = 1 }]", "there is no actor poet"),
            ("hours = 1\ncrowds = [{ actor = \"chat\", per_hour = -1 }]", "per_hour = -1"),
            ("hours = 1\ncrowds = [{ actor = \"chat\", per_hour = 1, never = 2 }]", "actor chat: never = 2"),
            ("hours = 1\ncrowds = []\ndrift = { after = 0.5, factors = { chat = 2 } }", "no crowd of chat"),
            ("hours = 1\ncrowds = []\nhour = 2", "unknown field `hour`"),
        ] {
            let error = Preset::parse("own", text).unwrap_err().to_string();
            assert!(error.starts_with("preset own: ") && error.contains(message), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error = Preset::load("nothing").unwrap_err().to_string();
        assert!(error.contains("coding, chat, connector"), "{error}");
    }
}
