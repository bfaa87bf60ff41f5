//! k3s and RKE2: the template that their containerd's configuration is generated from.

use model::{Intent, Plan, Seen};

use super::runtime::Runtime;
use super::{restart, runtime_class, write};
use crate::facts::Rancher;

const BASE: &str = "{{ template \"base\" . }}";

pub(super) fn plan(one: &Rancher, intent: &Intent, runtime: &Runtime, plan: &mut Plan) {
    let name = one.name;
    let file = match &one.generated.says {
        Seen::Is(file) => file,
        Seen::Absent => {
            plan.notes
                .push(format!("{name} has not run yet, so the form of its configuration is not known: start it once"));
            return;
        }
        Seen::Unreadable(reason) => {
            plan.notes.push(format!("{name}: {reason}"));
            return;
        }
    };
    if file.enable_cdi.map_or(file.version < 3, |(on, _)| !on) {
        plan.notes.push(format!(
            "{name}'s containerd reads no CDI specs: {} says no enable_cdi; update {name}, or ask by the runtime",
            one.generated.path
        ));
    }
    let Some(path) = runtime.path.as_deref().filter(|_| runtime.asked || runtime.default) else { return };
    if runtime.default {
        plan.notes.push(format!(
            "{name}: its default runtime is its own setting: default-runtime: nvidia in /etc/rancher/{name}/config.yaml"
        ));
    }
    let because = ["container/gpu-way".to_owned()];
    let outage = format!("{name} on this node takes no orders until it is up again; pods run on");
    if let Some(found) = &one.finds {
        // Found by itself, it is in the generated file already; a second table of the name would break the file.
        let real = one.nvidia_path();
        if real.is_none() {
            plan.changes.push(restart(&one.unit, &outage, &because));
        } else if intent.runtime.is_some() && runtime.ours && real != Some(path) {
            plan.notes.push(format!(
                "{name} finds {found} by itself and names it nvidia: remove nvidia-container-toolkit, then plan again"
            ));
        }
        runtime_class(plan);
        return;
    }
    let text = match &one.template.says {
        Seen::Is(text) => text.clone(),
        Seen::Absent => format!("{BASE}\n"),
        Seen::Unreadable(reason) => {
            plan.notes.push(format!("{} could not be read: {reason}", one.template.path));
            return;
        }
    };
    let cgroup = if file.text().contains("SystemdCgroup = true") { "  SystemdCgroup = true\n" } else { "" };
    let Some(now) = with_runtime(&text, file.plugin(), path, cgroup) else { return };
    if now == text {
        return;
    }
    let title = format!("name {} nvidia in the template of {name}'s containerd", runtime.whose());
    plan.changes.push(write(title, &one.template, now, &because));
    plan.changes.push(restart(&one.unit, &outage, &because));
    runtime_class(plan);
}

/// A template is no TOML: the table is added at its end, or the value in it replaced on its line.
fn with_runtime(text: &str, plugin: &str, path: &str, cgroup: &str) -> Option<String> {
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let header = |line: &str| {
        let line: String = line.chars().filter(|c| !matches!(c, '"' | '\'' | ' ' | '\t')).collect();
        line.starts_with('[') && line.contains("runtimes.nvidia.options]")
    };
    let mut inside = false;
    let mut out = String::with_capacity(text.len() + 256);
    let mut replaced = false;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        if trimmed.starts_with('[') {
            inside = header(trimmed);
        } else if inside && trimmed.starts_with("BinaryName") && !replaced {
            let white = line.len() - trimmed.len();
            out.push_str(line.get(..white)?);
            out.push_str(&format!("BinaryName = \"{path}\"{newline}"));
            replaced = true;
            continue;
        }
        out.push_str(line);
    }
    if replaced {
        return Some(out);
    }
    if !out.ends_with('\n') {
        out.push_str(newline);
    }
    let table = format!(
        "\n[plugins.\"{plugin}\".containerd.runtimes.nvidia]\n  runtime_type = \"io.containerd.runc.v2\"\n\n\
         [plugins.\"{plugin}\".containerd.runtimes.nvidia.options]\n  BinaryName = \"{path}\"\n{cgroup}"
    );
    Some(out + &table.replace('\n', newline))
}

#[cfg(test)]
mod tests {
    use super::{BASE, with_runtime};

    #[test]
    fn a_template_gets_one_table_and_then_one_value() {
        let first = with_runtime(&format!("{BASE}\n# mine\n"), "io.containerd.cri.v1.runtime", "/a/b", "").unwrap();
        assert_eq!(
            first,
            "{{ template \"base\" . }}\n# mine\n\n[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.nvidia]\n  \
             runtime_type = \"io.containerd.runc.v2\"\n\n\
             [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.nvidia.options]\n  BinaryName = \"/a/b\"\n"
        );
        assert_eq!(with_runtime(&first, "x", "/a/b", "").unwrap(), first);
        assert_eq!(with_runtime(&first, "x", "/c", "").unwrap(), first.replace("/a/b", "/c"));
    }
}
