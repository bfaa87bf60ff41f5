//! containerd: the file that rules its CRI plugin is edited in place.
//!
//! No drop-in of our own: before containerd 2.1 what an imported file says of a plugin replaces all that the main file
//! says of it, so a drop-in would have to carry every CRI setting there is, and would freeze them: an edit of the main
//! file would then do nothing. One edited file with the journal's exact undo is the smaller change, and right in all
//! versions. Where a drop-in (NVIDIA's, as a rule) rules the plugin already, that one is edited.

use formats::containerdtoml::{ContainerdToml, Runtime as Named, Wish};
use model::{Intent, Plan, Refusal, Risk, Seen};

use super::runtime::{NAME, Runtime};
use super::{restart, runtime_class, write};
use crate::facts::{Containerd, Reads};

pub(super) fn plan(containerd: &Containerd, intent: &Intent, runtime: &Runtime, plan: &mut Plan) {
    let reads = containerd.reads();
    let path = &containerd.config.path;
    let named = runtime.path.as_deref().filter(|_| runtime.asked || runtime.default).filter(|path| {
        let default = !runtime.default || containerd.default_runtime() == Some(NAME);
        containerd.nvidia_path() != Some(*path) || !default
    });
    if reads == Reads::TooOld && named.is_none() && intent.engine.is_some() && !runtime.asked {
        plan.refusals.push(Refusal {
            because: "container/gpu-way".to_owned(),
            says: "this containerd is too old to read CDI specs".to_owned(),
            instead: "update containerd to 1.7 or later, or say --runtime thruway".to_owned(),
        });
    }
    let told = containerd.config.says.get().and_then(|file| file.enable_cdi).is_some_and(|(on, _)| on);
    let cdi = reads == Reads::Off || (intent.cdi && reads == Reads::Yes && !told);
    if !cdi && named.is_none() {
        return;
    }
    let two = containerd.version.get().is_some_and(|version| version.at_least(&[2]));
    let file = match &containerd.config.says {
        Seen::Is(file) => file.clone(),
        Seen::Absent => match ContainerdToml::parse(b"") {
            Ok(empty) => empty,
            Err(_) => return,
        },
        Seen::Unreadable(reason) => {
            plan.notes.push(format!("{path} cannot be edited: {reason}"));
            return;
        }
    };
    if two && file.version < 2 && file.has_plugins {
        plan.notes.push(format!(
            "{path} is of version 1, of whose CRI settings containerd 2 takes none: migrate it first (containerd config \
             migrate > config.new), then plan again"
        ));
        return;
    }
    if let Some(line) = file.cri_disabled {
        plan.notes.push(format!(
            "{path}:{line} switches the CRI plugin off: what is written for it works from when \"cri\" is taken out of \
             disabled_plugins"
        ));
    }
    let wish = Wish {
        version: if two { 3 } else { 2 },
        cdi,
        runtime: named.map(|binary| Named { name: NAME, binary, default: runtime.default }),
    };
    let text = match file.with(&wish) {
        Ok(text) => text,
        Err(bad) => {
            plan.notes.push(format!("{path}:{} cannot be edited: {}", bad.line, bad.says));
            return;
        }
    };
    let mut because = Vec::new();
    let mut did = Vec::new();
    if cdi {
        because.push("container/cdi-not-enabled".to_owned());
        did.push("let containerd read CDI specs".to_owned());
    }
    if named.is_some() {
        because.push("container/gpu-way".to_owned());
        let default = if runtime.default { ", the default one," } else { "" };
        did.push(format!("name {} nvidia{default} in containerd", runtime.whose()));
        runtime_class(plan);
    }
    let mut change = write(did.join(", "), &containerd.config, text, &because);
    if runtime.default && named.is_some() {
        change.risk.push(Risk::Security(runtime.default_risk().to_owned()));
    }
    plan.changes.push(change);
    let outage = "containerd takes no orders for some seconds; its containers and pods run on";
    plan.changes.push(restart("containerd.service", outage, &because));
}
