//! Whether what a plan promised is so, by what the engine says of itself and by the machine's files.

use cdi::NoSpec;
use model::{Evidence, GpuRuntime, Intent, Outcome, OutcomeState, Seen, Source};

use crate::Facts;
use crate::facts::{Containerd, Docker, Reads, SpecState};

/// Looks at the spec and at each engine again.
pub fn verify(facts: &Facts, intent: &Intent) -> Vec<Outcome> {
    if facts.nothing_here() || facts.cards.is_empty() {
        return Vec::new();
    }
    let mut outcomes = vec![spec(facts)];
    if let Some(docker) = facts.docker.as_ref().filter(|_| intent.engine.as_deref().is_none_or(|e| e == "docker")) {
        outcomes.extend(docker_reads(docker));
        outcomes.extend(docker_runtime(docker, intent));
    }
    let wanted = |name: &str| intent.engine.as_deref().is_none_or(|engine| engine == name);
    let asked = intent.runtime.is_some_and(|whose| whose != GpuRuntime::Nobody) || intent.replace_toolkit;
    let counted = match intent.engine.as_deref() {
        Some("containerd") => facts.containerd.as_ref(),
        _ => facts.containerd_counts(),
    };
    if let Some(containerd) = counted.filter(|_| wanted("containerd")) {
        if asked {
            outcomes.push(containerd_runtime(facts, containerd));
        }
        let state = match containerd.reads() {
            Reads::Yes => OutcomeState::Held,
            Reads::Off => OutcomeState::Failed("enable_cdi is not set".to_owned()),
            Reads::TooOld => OutcomeState::Failed("it is too old".to_owned()),
            Reads::Unknown(reason) => OutcomeState::Unknown(reason.to_string()),
        };
        let value = format!("{} by its version and file", facts.engine_names().join(", "));
        let evidence = vec![Evidence { source: Source::file(&containerd.config.path), value }];
        outcomes.push(Outcome { says: "containerd reads CDI specs".to_owned(), state, evidence });
    }
    outcomes
}

fn spec(facts: &Facts) -> Outcome {
    let says = format!("a CDI spec of {} is true of this machine", cdi::KIND);
    let mut evidence = Vec::new();
    let state = match &facts.wanted {
        Err(NoSpec::NoDriver) => OutcomeState::Pending("NVIDIA's kernel driver to run".to_owned()),
        Err(NoSpec::Unknown(reason)) => OutcomeState::Unknown(reason.to_string()),
        Err(why) => OutcomeState::Failed(why.to_string()),
        Ok(_) => match facts.sound_spec() {
            Some(file) => {
                let devices = file.spec().map_or(0, |spec| spec.devices.len());
                evidence.push(Evidence { source: Source::file(&file.path), value: format!("{devices} devices") });
                match &file.state {
                    SpecState::Parsed { judged, .. } => match judged.unseen.first() {
                        Some((path, reason)) => OutcomeState::Unknown(format!("{path}: {reason}")),
                        None => OutcomeState::Held,
                    },
                    _ => OutcomeState::Held,
                }
            }
            None => match facts.specs_unseen.first() {
                Some((dir, reason)) => OutcomeState::Unknown(format!("{dir}: {reason}")),
                None => OutcomeState::Failed(match facts.specs.iter().find(|file| file.ours()) {
                    Some(file) => format!("{} is stale, unsound, or defined twice", file.path),
                    None => "there is none".to_owned(),
                }),
            },
        },
    };
    Outcome { says, state, evidence }
}

/// What the file says, by containerd's own reading of it where that could be had.
fn containerd_runtime(facts: &Facts, containerd: &Containerd) -> Outcome {
    let path = containerd.nvidia_path();
    let by_itself = containerd.says.get();
    let state = match (path, by_itself) {
        (None, _) => OutcomeState::Failed(format!("{} names no runtime nvidia", containerd.config.path)),
        (Some(path), _) if !facts.is_runtime(path) => OutcomeState::Failed(format!("{path} is not there")),
        (Some(_), Some(says)) if says.error.is_some() => {
            OutcomeState::Failed(format!("containerd cannot load it: {}", says.error.as_deref().unwrap_or_default()))
        }
        (Some(path), Some(says)) if says.runtimes.get("nvidia").map(String::as_str) != Some(path) => {
            OutcomeState::Failed("by its own reading containerd has no such runtime: another file rules".to_owned())
        }
        (Some(_), _) => OutcomeState::Held,
    };
    let value = format!("runtime nvidia: {}", path.unwrap_or("none"));
    let evidence = vec![Evidence { source: Source::file(&containerd.config.path), value }];
    Outcome { says: "containerd knows the runtime nvidia".to_owned(), state, evidence }
}

/// Docker 25 and later: what the daemon says counts, what the file says is pending until it is read.
fn docker_reads(docker: &Docker) -> Option<Outcome> {
    let state = match (docker.reads(), &docker.info) {
        (Reads::TooOld, _) => return None,
        (Reads::Unknown(reason), _) => OutcomeState::Unknown(reason.to_string()),
        (Reads::Off, _) => OutcomeState::Failed("features.cdi is not set in daemon.json".to_owned()),
        (Reads::Yes, Seen::Is(info)) if info.cdi_dirs.is_empty() => {
            OutcomeState::Pending("a restart of Docker".to_owned())
        }
        (Reads::Yes, Seen::Is(_)) => OutcomeState::Held,
        (Reads::Yes, Seen::Absent) => OutcomeState::Pending("a start of Docker".to_owned()),
        (Reads::Yes, Seen::Unreadable(reason)) => OutcomeState::Unknown(reason.to_string()),
    };
    let value = match docker.info.get() {
        Some(info) if !info.cdi_dirs.is_empty() => format!("CDI directories: {}", info.cdi_dirs.join(", ")),
        _ => "no CDI directories".to_owned(),
    };
    let evidence = vec![Evidence { source: Source::Answer("docker info".to_owned()), value }];
    Some(Outcome { says: "Docker reads CDI specs".to_owned(), state, evidence })
}

/// Where daemon.json names the older runtime.
fn docker_runtime(docker: &Docker, intent: &Intent) -> Option<Outcome> {
    let path = docker.nvidia_path()?;
    let default = docker.default_runtime().is_some_and(|name| name == "nvidia");
    let state = match &docker.info {
        _ if docker.runtime_there == Seen::Is(false) => OutcomeState::Failed(format!("{path} is not there")),
        Seen::Is(info) if !info.runtimes.iter().any(|name| name == "nvidia") => {
            OutcomeState::Pending("a reload of Docker".to_owned())
        }
        Seen::Is(info) if default && info.default_runtime.as_deref() != Some("nvidia") => {
            OutcomeState::Pending("a restart of Docker".to_owned())
        }
        Seen::Is(_) if intent.default_runtime && !default => {
            OutcomeState::Failed("default-runtime is not nvidia in daemon.json".to_owned())
        }
        Seen::Is(_) => OutcomeState::Held,
        Seen::Absent => OutcomeState::Pending("a start of Docker".to_owned()),
        Seen::Unreadable(reason) => OutcomeState::Unknown(reason.to_string()),
    };
    let runtimes = docker.info.get().map_or_else(String::new, |info| info.runtimes.join(", "));
    let evidence =
        vec![Evidence { source: Source::Answer("docker info".to_owned()), value: format!("runtimes: {runtimes}") }];
    Some(Outcome { says: format!("Docker knows the runtime nvidia ({path})"), state, evidence })
}
