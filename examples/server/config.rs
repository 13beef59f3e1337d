//! `--config FILE`: the flags from a TOML file, which is read again on SIGHUP. The command line wins.
//!
//! The keys are the long names of the flags: `max-sessions = 100`. A file with one bad line changes nothing.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use rmcp_session_policy::{ConfigError, LiveSettings};
use toml::de::{DeTable, DeValue};

use super::{Args, Sessions};

/// The flags that may change while the server runs.
const LIVE: [&str; 10] = [
    "max-sessions",
    "eviction",
    "rate",
    "per-client-rate",
    "idle-timeout",
    "max-lifetime",
    "init-timeout",
    "parked",
    "request-rate",
    "drain-grace",
];

/// The flags, from the command line and the file.
pub(crate) struct Loaded {
    pub(crate) args: Args,
    typed: Vec<OsString>,
    matches: ArgMatches,
    file: Option<File>,
}

/// A file that was read and is valid by itself.
struct File {
    path: PathBuf,
    flags: Vec<Flag>,
}

struct Flag {
    key: String,
    values: Vec<String>,
    line: usize,
}

impl Loaded {
    /// Reads the flags.
    ///
    /// # Errors
    ///
    /// Returns one line that says what is wrong, and where.
    pub(crate) fn new(typed: Vec<OsString>, matches: ArgMatches) -> Result<Self, String> {
        let args = Args::from_arg_matches(&matches).map_err(|error| said(&error))?;
        let Some(path) = &args.config else { return Ok(Self { args, typed, matches, file: None }) };
        let file = File::read(path)?;
        let mut all = typed.clone();
        let is_typed =
            |flag: &&Flag| matches.value_source(&flag.key.replace('-', "_")) == Some(ValueSource::CommandLine);
        for flag in file.flags.iter().filter(|flag| !is_typed(flag)) {
            all.extend(flag.values.iter().map(|value| format!("--{}={value}", flag.key).into()));
        }
        let matches = Args::command().try_get_matches_from(all).map_err(|error| said(&error))?;
        let args = Args::from_arg_matches(&matches).map_err(|error| said(&error))?;
        Ok(Self { args, typed, matches, file: Some(file) })
    }

    /// Whether there is a file to read again.
    pub(crate) const fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Reads the file again, and puts in force what has changed: all of it, or nothing. Returns the flags that changed.
    ///
    /// # Errors
    ///
    /// Returns one line that says what is wrong, and where. Nothing has changed then.
    pub(crate) async fn reload(&mut self, sessions: &Sessions) -> Result<Vec<String>, String> {
        let matches = Args::command().try_get_matches_from(&self.typed).map_err(|error| said(&error))?;
        let after = Self::new(self.typed.clone(), matches)?;
        let changed = self.changed(&after);
        if let Some(key) = changed.iter().find(|key| !LIVE.contains(&key.as_str())) {
            return Err(after.at(key, "cannot change while the server runs"));
        }
        let is_changed = |key: &str| changed.iter().any(|changed| changed == key);
        // A policy that stays keeps what it has learned.
        let change = |settings: LiveSettings| {
            let mut settings = after.args.live(settings);
            if is_changed("eviction") {
                settings = after.args.eviction.set(settings);
            }
            if is_changed("rate") || is_changed("per-client-rate") {
                settings = settings.admission(after.args.admission());
            }
            if is_changed("request-rate") {
                settings = settings.requests(after.args.requests());
            }
            settings
        };
        sessions.reconfigure(change).await.map_err(|error| after.explain(&error))?;
        *self = after;
        Ok(changed)
    }

    /// The flags that have other values than before.
    fn changed(&self, after: &Self) -> Vec<String> {
        let values = |matches: &ArgMatches, id: &str| -> Vec<OsString> {
            matches.get_raw(id).into_iter().flatten().map(OsString::from).collect()
        };
        let command = Args::command();
        let keys = command.get_arguments().filter_map(|flag| Some((flag.get_id().as_str(), flag.get_long()?)));
        let keys = keys.filter(|(id, _)| *id != "help" && values(&self.matches, id) != values(&after.matches, id));
        keys.map(|(_, key)| key.to_owned()).collect()
    }

    /// Says where the setting of an error is.
    pub(crate) fn explain(&self, error: &ConfigError) -> String {
        let key = match &*error.setting {
            "max_parked" => "parked".to_owned(),
            setting => setting.replace('_', "-"),
        };
        let (value, remedy) = (&error.value, &error.remedy);
        if Args::command().get_arguments().any(|flag| flag.get_long() == Some(&key)) {
            return self.at(&key, &format!("is {value}: {remedy}"));
        }
        error.to_string()
    }

    /// Says something of a flag, with its line if it is in the file.
    fn at(&self, key: &str, what: &str) -> String {
        let Some(file) = &self.file else { return format!("{key} {what}") };
        match file.flags.iter().find(|flag| flag.key == key) {
            Some(flag) => at(&file.path, flag.line, &format!("{key} {what}")),
            None => format!("{}: {key} {what}", file.path.display()),
        }
    }
}

impl File {
    fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let line = |span: Range<usize>| text[..span.start.min(text.len())].matches('\n').count() + 1;
        let table = DeTable::parse(&text).map_err(|error| {
            let line = error.span().map_or(1, &line);
            at(path, line, error.message().lines().next().unwrap_or("no TOML"))
        })?;
        let mut flags = Vec::new();
        for (key, value) in table.get_ref() {
            let line = line(key.span());
            let flag = flag(key.get_ref(), value.get_ref()).map_err(|wrong| at(path, line, &wrong))?;
            flags.push(Flag { line, ..flag });
        }
        flags.sort_by_key(|flag| flag.line);
        Ok(Self { path: path.to_owned(), flags })
    }
}

/// One flag of the file, checked as if it was typed alone.
fn flag(key: &str, value: &DeValue<'_>) -> Result<Flag, String> {
    let command = Args::command();
    let known = command.get_arguments().any(|flag| flag.get_long() == Some(key));
    if !known || ["config", "help"].contains(&key) {
        return Err(format!("{key} is no setting: use the name of a flag, such as max-sessions"));
    }
    let values = match value {
        DeValue::Array(values) => values.iter().map(|value| text(value.get_ref())).collect::<Option<_>>(),
        value => text(value).map(|text| vec![text]),
    };
    let values: Vec<String> =
        values.ok_or_else(|| format!("{key}: write a number, a text in quotes, or a list of them"))?;
    let typed = values.iter().map(|value| format!("--{key}={value}"));
    Args::try_parse_from(std::iter::once("server".to_owned()).chain(typed)).map_err(|error| said(&error))?;
    Ok(Flag { key: key.to_owned(), values, line: 0 })
}

fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        _ => None,
    }
}

fn at(path: &Path, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", path.display())
}

/// What clap says, in one line.
pub(crate) fn said(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.lines().take_while(|line| !line.starts_with("Usage") && !line.starts_with("For more"));
    let line = said.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
