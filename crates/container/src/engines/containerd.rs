//! containerd's configuration files, its imports, and those that k3s and RKE2 generate.

use formats::containerdtoml::ContainerdToml;
use formats::dpkg::Package;
use machine::{ContainerdSays, Machine, MachineExt, Question};
use model::{Fact, Seen, Source};

use super::{packaged, program, written};
use crate::Version;
use crate::facts::{Containerd, Rancher, Written};

const MAIN: &str = "/etc/containerd/config.toml";
/// As many files as a sane configuration has: a chain of imports must end.
const FILES: usize = 64;

pub(crate) fn containerd(machine: &dyn Machine, packages: &Seen<Vec<Package>>) -> Option<Containerd> {
    program(machine, "containerd")?;
    let says = machine.ask(&Question::ContainerdConfig).and_then(|answer| {
        let value = answer.json().and_then(|value| serde_json::from_value::<ContainerdSays>(value.clone()).ok());
        Seen::from(value)
    });
    let said = says.get().and_then(|says| Version::parse(says.version.as_deref()?));
    let version = match said {
        Some(version) => Fact::new(Seen::Is(version), Source::Answer(Question::ContainerdConfig.to_string())),
        None => packaged(packages, &["containerd.io", "containerd"]),
    };
    let files = files(machine);
    let of = |one: &Written<ContainerdToml>| (one.path.clone(), one.digest.clone());
    let all = files.iter().map(of).collect();
    let rules = |one: &Written<ContainerdToml>| one.says.get().is_some_and(|file| file.has_cri);
    let at = files.iter().rposition(rules).unwrap_or(0);
    let config = files.into_iter().nth(at)?;
    let flags = machine.text("/var/lib/kubelet/kubeadm-flags.env");
    let kubelet = match flags {
        Seen::Is(text) => Seen::Is(text.contains("containerd.sock")),
        Seen::Absent => Seen::Is(false),
        Seen::Unreadable(reason) => Seen::Unreadable(reason),
    };
    Some(Containerd { version, config, files: all, says, kubelet })
}

fn toml(machine: &dyn Machine, path: &str) -> Written<ContainerdToml> {
    written(machine, path, |bytes| ContainerdToml::parse(bytes).map_err(|bad| (bad.line, bad.says)))
}

/// The main file, then what it imports in containerd's order: each pattern's matches by name; an import's own imports
/// come after all of its fellows.
fn files(machine: &dyn Machine) -> Vec<Written<ContainerdToml>> {
    let mut found = vec![toml(machine, MAIN)];
    let mut at = 0;
    while let Some(file) = found.get(at) {
        let (from, imports) = (file.path.clone(), file.says.get().map(|file| file.imports.clone()).unwrap_or_default());
        for pattern in imports {
            for path in matches(machine, &from, &pattern) {
                if found.len() < FILES && !found.iter().any(|file| file.path == path) {
                    found.push(toml(machine, &path));
                }
            }
        }
        at += 1;
    }
    found
}

/// The files of a pattern: absolute, or beside the file that names it; `*` in its last part alone.
fn matches(machine: &dyn Machine, from: &str, pattern: &str) -> Vec<String> {
    let beside = from.rsplit_once('/').map_or("", |(dir, _)| dir);
    let full = if pattern.starts_with('/') { pattern.to_owned() } else { format!("{beside}/{pattern}") };
    let Some((dir, name)) = full.rsplit_once('/') else { return Vec::new() };
    let Some((front, back)) = name.split_once('*') else {
        return if machine.exists(&full) { vec![full] } else { Vec::new() };
    };
    let mut names = machine.names(dir);
    names.sort();
    names.retain(|name| name.len() >= front.len() + back.len() && name.starts_with(front) && name.ends_with(back));
    names.into_iter().map(|name| format!("{dir}/{name}")).collect()
}

/// Where k3s and RKE2 look for NVIDIA's runtime at their start (pkg/agent/containerd of k3s): found there, their
/// containerd gets a runtime nvidia without being told.
const FINDS: [&str; 4] = ["/usr/local/nvidia/toolkit", "/opt/kwasm/bin", "/usr/local/bin", "/usr/bin"];

pub(crate) fn rancher(machine: &dyn Machine) -> Vec<Rancher> {
    let mut found = Vec::new();
    for (name, units) in
        [("k3s", ["k3s.service", "k3s-agent.service"]), ("rke2", ["rke2-server.service", "rke2-agent.service"])]
    {
        let dirs =
            ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
        let unit = units.into_iter().find(|unit| dirs.iter().any(|dir| machine.exists(&format!("{dir}/{unit}"))));
        let Some(unit) = unit else { continue };
        let dir = format!("/var/lib/rancher/{name}/agent/etc/containerd");
        let generated = toml(machine, &format!("{dir}/config.toml"));
        let new = generated.says.get().is_some_and(|file| file.version >= 3);
        let template = if new { "config-v3.toml.tmpl" } else { "config.toml.tmpl" };
        let template = written(machine, &format!("{dir}/{template}"), |bytes| {
            String::from_utf8(bytes.to_vec()).map_err(|_| (1, "is no UTF-8".to_owned()))
        });
        let finds = FINDS.iter().map(|dir| format!("{dir}/nvidia-container-runtime")).find(|path| machine.exists(path));
        found.push(Rancher { name, unit: unit.to_owned(), generated, template, finds });
    }
    found
}
