//! Docker: daemon.json, and what of it a reload is enough for.

use formats::daemonjson::{DaemonJson, JsonError};
use model::{Before, Change, Effective, Intent, Layer, Op, Plan, Refusal, Risk, Seen, ServiceVerb, Undo};
use serde_json::json;

use super::runtime::{NAME, Runtime};
use super::{restart, service, write};
use crate::Facts;
use crate::facts::{Docker, Reads, Rootless, Written};

const HOOK: &str = "nvidia-container-runtime-hook";

/// What was done to a daemon.json.
struct Edited {
    text: String,
    did: Vec<&'static str>,
    because: Vec<String>,
    risk: Vec<Risk>,
    /// CDI is read at the daemon's start only; runtimes and the default one also on SIGHUP.
    needs_restart: bool,
}

pub(super) fn plan(facts: &Facts, docker: &Docker, intent: &Intent, runtime: &Runtime, plan: &mut Plan) {
    let Some(file) = readable(&docker.config, intent, plan) else { return };
    let wrong = docker.runtime_there == Seen::Is(false);
    let mut edited = match edit(&file, docker.reads(), wrong, intent, runtime) {
        Ok(edited) => edited,
        Err(bad) => {
            plan.notes.push(format!("{}:{} cannot be edited: {}", docker.config.path, bad.line, bad.says));
            return;
        }
    };
    let named = docker.nvidia_path();
    let needed = named.is_none() && (docker.reads() == Reads::TooOld || intent.default_runtime);
    if runtime.path.is_none() && (needed || wrong) {
        plan.notes.push(no_runtime(docker));
    }
    if runtime.ours && runtime.asked {
        hook_name(facts, intent, &mut edited, plan);
    }
    if edited.did.is_empty() && !edited.needs_restart {
        return;
    }
    edited.because.dedup();
    if edited.text != file.text() {
        let mut change = write(edited.did.join(", "), &docker.config, edited.text.clone(), &edited.because);
        change.risk = edited.risk.clone();
        plan.changes.push(change);
    }
    let runs = docker.info.is_there();
    plan.changes.push(if runs && !edited.needs_restart {
        let title = "let docker.service read its runtimes again; containers run on".to_owned();
        service(title, "docker.service", ServiceVerb::Reload, Vec::new(), &edited.because)
    } else {
        let live = docker.info.get().is_some_and(|info| info.live_restore);
        let outage = if live {
            "Docker takes no orders for some seconds; its containers run on (live-restore is on)"
        } else {
            "every container of this Docker stops, and only those with a restart policy start again (live-restore is off)"
        };
        restart("docker.service", outage, &edited.because)
    });
}

/// A rootless daemon reads its user's file and is restarted by its user.
pub(super) fn plan_rootless(docker: &Docker, rootless: &Rootless, intent: &Intent, runtime: &Runtime, plan: &mut Plan) {
    let Some(file) = readable(&rootless.config, &Intent { engine: None, ..intent.clone() }, plan) else { return };
    // The same program; of the daemon only its file is known.
    let told = file.get(&["features", "cdi"]).and_then(|value| value.as_bool());
    let version = docker.version.get();
    let reads = match version {
        Some(version) if !version.at_least(&[25]) => Reads::TooOld,
        Some(version) if told.unwrap_or(version.at_least(&[28, 2])) => Reads::Yes,
        Some(_) => Reads::Off,
        None => return,
    };
    let edited = match edit(&file, reads, false, intent, runtime) {
        Ok(edited) if !edited.did.is_empty() && edited.text != file.text() => edited,
        Ok(_) => return,
        Err(bad) => {
            plan.notes.push(format!("{}:{} cannot be edited: {}", rootless.config.path, bad.line, bad.says));
            return;
        }
    };
    let user = &rootless.user;
    let title = format!("{}, in {user}'s own Docker", edited.did.join(", "));
    let mut change = write(title, &rootless.config, edited.text, &edited.because);
    change.risk = edited.risk;
    plan.changes.push(change);
    plan.notes.push(format!(
        "{user}'s Docker reads its file at its next start: as {user}, systemctl --user restart docker (its containers stop)"
    ));
}

fn readable(config: &Written<DaemonJson>, intent: &Intent, plan: &mut Plan) -> Option<DaemonJson> {
    match &config.says {
        Seen::Is(file) => Some(file.clone()),
        Seen::Absent => DaemonJson::parse(b"").ok(),
        Seen::Unreadable(reason) => {
            let says = format!("{} cannot be edited: {reason}", config.path);
            // Only who asks for Docker by name is refused for it: the other floors' plans must not hang on it.
            if intent.engine.is_some() {
                plan.refusals.push(Refusal {
                    because: "container/daemon-json-broken".to_owned(),
                    says,
                    instead: "mend the file first; thruway doctor shows the line".to_owned(),
                });
            } else {
                plan.notes.push(says);
            }
            None
        }
    }
}

fn edit(file: &DaemonJson, reads: Reads, wrong: bool, intent: &Intent, runtime: &Runtime) -> Result<Edited, JsonError> {
    let (mut did, mut because, mut risk) = (Vec::new(), Vec::new(), Vec::new());
    let mut needs_restart = false;
    let mut now = file.clone();
    let told_cdi = file.get(&["features", "cdi"]) == Some(json!(true));
    if reads == Reads::Off || (intent.cdi && !told_cdi && reads == Reads::Yes) {
        now = now.set(&["features", "cdi"], &json!(true))?;
        because.push("container/cdi-not-enabled".to_owned());
        did.push("let Docker read CDI specs");
        needs_restart = reads == Reads::Off;
    }
    if let Some(path) = &runtime.path {
        let named = file.get(&["runtimes", NAME, "path"]).and_then(|value| value.as_str().map(str::to_owned));
        let needed = named.is_none() && (reads == Reads::TooOld || runtime.default || runtime.asked);
        let other = named.as_ref().is_some_and(|named| wrong || (runtime.asked && named != path));
        let title = if runtime.ours { "name thruway's runtime nvidia" } else { "name NVIDIA's runtime" };
        if other {
            now = now.set(&["runtimes", NAME, "path"], &json!(path))?;
            because.push(if wrong { "container/runtime-path-missing" } else { "container/gpu-way" }.to_owned());
            did.push(if runtime.ours { title } else { "name NVIDIA's runtime where it is" });
        } else if needed {
            now = now.set(&["runtimes", NAME], &json!({"path": path, "runtimeArgs": []}))?;
            because.push("container/gpu-way".to_owned());
            did.push(title);
        }
        if runtime.default && file.get(&["default-runtime"]) != Some(json!(NAME)) {
            now = now.set(&["default-runtime"], &json!(NAME))?;
            because.push("container/gpu-way".to_owned());
            did.push("make it the default");
            risk.push(Risk::Security(runtime.default_risk().to_owned()));
        }
    }
    Ok(Edited { text: now.text().to_owned(), did, because, risk, needs_restart })
}

/// `docker run --gpus` needs a program of this name on dockerd's path, which dockerd looks for at its start only. Where
/// NVIDIA's has the name in /usr/bin, ours comes before it in /usr/local/bin: no file of a package is touched.
fn hook_name(facts: &Facts, intent: &Intent, edited: &mut Edited, plan: &mut Plan) {
    let Some(target) = &facts.own.runtime else { return };
    let dir = match &facts.toolkit.hook {
        None => "/usr/bin",
        Some(_) if facts.own.bears_hook || !intent.replace_toolkit => return,
        Some(_) => "/usr/local/bin",
    };
    let because = "container/gpu-way".to_owned();
    plan.changes.push(Change {
        layer: Layer::Container,
        title: format!("answer dockerd as {HOOK}, which docker run --gpus needs"),
        op: Op::Link { path: format!("{dir}/{HOOK}"), target: target.clone() },
        expects: Before::NoFile,
        because: vec![because.clone()],
        risk: Vec::new(),
        effective: Effective::NextContainer,
        undo: Undo::Exact,
    });
    edited.because.push(because);
    edited.needs_restart = true;
}

fn no_runtime(docker: &Docker) -> String {
    let version = docker.version.get().map_or_else(|| "this Docker".to_owned(), |version| format!("Docker {version}"));
    match (docker.reads(), docker.nvidia_path()) {
        (Reads::TooOld, _) => format!(
            "{version} reads no CDI specs and no runtime for GPUs is installed: install thruway-runtime (or \
             nvidia-container-toolkit), or update Docker to 25 or later, then plan again"
        ),
        (_, Some(path)) => format!(
            "daemon.json names {path}, which is not there: install thruway-runtime or nvidia-container-toolkit, then \
             plan again"
        ),
        (_, None) => {
            "no runtime for GPUs can be the default: neither thruway-runtime nor nvidia-container-toolkit is installed"
                .to_owned()
        }
    }
}
