//! CRI-O and Podman: they merge drop-ins key by key, so a file of our own says the whole.

use model::{Before, Change, Effective, Layer, Op, Undo};
use model::{Content, Digest, Intent, Plan, Risk, Seen};

use super::runtime::Runtime;
use super::{restart, runtime_class};
use crate::Facts;
use crate::facts::DropIn;

/// CRI-O: CDI is always on; a runtime of that name where one is asked for.
pub(super) fn crio(facts: &Facts, _: &Intent, runtime: &Runtime, plan: &mut Plan) {
    let Some(path) = runtime.path.as_deref().filter(|_| runtime.asked || runtime.default) else { return };
    let default = if runtime.default { "[crio.runtime]\ndefault_runtime = \"nvidia\"\n\n" } else { "" };
    let text = format!(
        "# Written by thruway container apply; thruway undo takes it away.\n{default}[crio.runtime.runtimes.nvidia]\n\
         runtime_path = \"{path}\"\nruntime_type = \"oci\"\n"
    );
    if drop_in(facts, "crio", &text, runtime, plan) {
        runtime_class(plan);
        let outage = "CRI-O takes no orders for some seconds; its containers and pods run on";
        plan.changes.push(restart("crio.service", outage, &["container/gpu-way".to_owned()]));
    }
}

/// Podman has no daemon and reads CDI specs unasked; only `--runtime nvidia` needs a word.
pub(super) fn podman(facts: &Facts, _: &Intent, runtime: &Runtime, plan: &mut Plan) {
    let Some(path) = runtime.path.as_deref().filter(|_| runtime.asked || runtime.default) else { return };
    let default = if runtime.default { "runtime = \"nvidia\"\n\n" } else { "" };
    let text = format!(
        "# Written by thruway container apply; thruway undo takes it away.\n[engine]\n{default}[engine.runtimes]\n\
         nvidia = [\"{path}\"]\n"
    );
    drop_in(facts, "podman", &text, runtime, plan);
}

fn drop_in(facts: &Facts, engine: &str, text: &str, runtime: &Runtime, plan: &mut Plan) -> bool {
    let Some(DropIn { path, text: found, .. }) = facts.drop_ins.iter().find(|one| one.engine == engine) else {
        return false;
    };
    let expects = match found {
        Seen::Is(found) if found == text => return false,
        Seen::Is(found) => Before::File(Digest::of(found.as_bytes())),
        Seen::Absent => Before::NoFile,
        Seen::Unreadable(reason) => {
            plan.notes.push(format!("{path} could not be read: {reason}"));
            return false;
        }
    };
    let name = if engine == "crio" { "CRI-O" } else { "Podman" };
    let default = if runtime.default { ", the default one," } else { "" };
    plan.changes.push(Change {
        layer: Layer::Container,
        title: format!("name {} nvidia{default} in {name}", runtime.whose()),
        op: Op::WriteFile { path: (*path).to_owned(), content: Content::Text(text.to_owned()), mode: 0o644 },
        expects,
        because: vec!["container/gpu-way".to_owned()],
        risk: if runtime.default { vec![Risk::Security(runtime.default_risk().to_owned())] } else { Vec::new() },
        effective: Effective::NextContainer,
        undo: Undo::Exact,
    });
    true
}
