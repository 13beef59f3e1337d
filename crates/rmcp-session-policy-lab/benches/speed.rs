//! How long ten million events in memory take through each policy, without the time to parse them. Run it with `cargo bench -p rmcp-session-policy-lab`; the arguments are names of policies.

use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use clap::ValueEnum;
use rmcp_session_policy_lab::LabError;
use rmcp_session_policy_lab::event::Event;
use rmcp_session_policy_lab::generate::generate;
use rmcp_session_policy_lab::observer::Observer;
use rmcp_session_policy_lab::policies::PolicyName;
use rmcp_session_policy_lab::presets::Preset;
use rmcp_session_policy_lab::simulator::{Idle, Settings, Simulator};
use rmcp_session_policy_lab::survey::Survey;

/// The preset `mixed` has ten million events in this number of hours.
const HOURS: f64 = 236.0;

#[derive(Default)]
struct Restores(u64);

impl Observer for Restores {
    fn request(&mut self, _: &Event, has_place: bool, _: u64) {
        self.0 += u64::from(!has_place);
    }
}

fn main() -> Result<(), LabError> {
    let named: Vec<_> = std::env::args().filter_map(|name| PolicyName::from_str(&name, true).ok()).collect();
    let policies = if named.is_empty() { vec![PolicyName::Lru, PolicyName::Default] } else { named };
    let mut out = std::io::stdout().lock();
    let (survey, events) = events()?;
    let places = survey.needed / 2;
    writeln!(out, "{} events of {} sessions, {places} places", events.len(), survey.sessions())
        .map_err(LabError::Write)?;
    for policy in policies.into_iter().filter(|policy| !policy.needs_foresight()) {
        let settings =
            Settings { max_sessions: places, parks: true, idle: Idle::Always, cuts_busy: policy.cuts_busy() };
        let mut simulator = Simulator::new(policy.make().0, settings, &survey, Restores::default());
        let start = Instant::now();
        simulator.play(&events);
        let took = start.elapsed();
        let restores = black_box(simulator.finish().0);
        writeln!(out, "{:<12} {:>6.2} s {restores:>9} restores", policy.name(), took.as_secs_f64())
            .map_err(LabError::Write)?;
    }
    Ok(())
}

/// Makes up the events, and forgets the text.
fn events() -> Result<(Survey, Vec<Event>), LabError> {
    let mut text = Vec::new();
    generate(&Preset::load("mixed")?, 1, Some(HOURS), &mut text)?;
    let survey = Survey::of(&text[..], false)?;
    let mut events = Vec::with_capacity(survey.events as usize);
    survey.replay(&text[..], |chunk| events.extend(chunk))?;
    Ok((survey, events))
}
