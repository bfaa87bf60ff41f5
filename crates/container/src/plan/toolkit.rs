//! Out of NVIDIA's toolkit's hands: its units, its specs, its hook files. Its packages and its config.toml stay.

use model::{Before, Change, Effective, Layer, Op, Plan, ServiceVerb, Undo};

use super::service;
use crate::Facts;

pub(super) fn out_of_the_way(facts: &Facts, plan: &mut Plan) {
    let because = ["container/cdi-spec-conflict".to_owned()];
    for unit in &facts.toolkit.units {
        // Stopped first: a watching unit would write its spec again the moment that it is gone.
        let title = format!("stop {unit}");
        plan.changes.push(service(title, unit, ServiceVerb::Stop, Vec::new(), &because));
        let title = format!("let systemd no longer start {unit}, which writes NVIDIA's CDI spec");
        plan.changes.push(service(title, unit, ServiceVerb::Disable, Vec::new(), &because));
    }
    for file in facts.specs.iter().filter(|file| file.path != super::SPEC_PATH && nvidias(&file.path)) {
        let Some(digest) = &file.digest else { continue };
        plan.changes.push(remove(format!("take away NVIDIA's spec {}", file.path), &file.path, digest, &because));
    }
    for (path, digest) in &facts.toolkit.hook_files {
        let title = format!("take away {path}, which starts NVIDIA's hook in every container");
        plan.changes.push(remove(title, path, digest, &["container/gpu-way".to_owned()]));
    }
    if facts.toolkit.version.get().is_some() {
        plan.notes.push(
            "NVIDIA's packages stay installed, and its config.toml is read by thruway-runtime; remove them when all is \
             well: apt-get remove nvidia-container-toolkit"
                .to_owned(),
        );
    }
}

/// The names that nvidia-ctk and its units write.
fn nvidias(path: &str) -> bool {
    matches!(path.rsplit('/').next(), Some("nvidia.yaml" | "nvidia.json"))
}

fn remove(title: String, path: &str, digest: &model::Digest, because: &[String]) -> Change {
    Change {
        layer: Layer::Container,
        title,
        op: Op::RemoveFile { path: path.to_owned() },
        expects: Before::File(digest.clone()),
        because: because.to_vec(),
        risk: Vec::new(),
        effective: Effective::NextContainer,
        undo: Undo::Exact,
    }
}
