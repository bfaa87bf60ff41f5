//! thruway's own programs and files among the engines', and what of NVIDIA's stands in their place.

use cdi::unit;
use machine::{Machine, MachineExt};
use model::{Digest, Seen};

use super::{program, written};
use crate::facts::{DropIn, NvidiaConfig, Own, Written};

/// CRI-O reads the files of its directory in the order of their names, so that ours comes after NVIDIA's 99-nvidia.
pub const CRIO_DROP_IN: &str = "/etc/crio/crio.conf.d/99-thruway.conf";
pub const PODMAN_DROP_IN: &str = "/etc/containers/containers.conf.d/99-thruway.conf";

pub(crate) fn drop_ins(machine: &dyn Machine) -> Vec<DropIn> {
    [("crio", CRIO_DROP_IN), ("podman", PODMAN_DROP_IN)]
        .map(|(engine, path)| DropIn { engine, path, text: machine.text(path) })
        .into()
}

pub(crate) fn own(machine: &dyn Machine) -> Own {
    let ours = |name: &str| {
        let path = program(machine, name);
        let real = path.and_then(|path| machine.resolve(&path).is());
        real.is_some_and(|path| path.ends_with("/thruway-runtime"))
    };
    Own {
        runtime: program(machine, "thruway-runtime"),
        hook: program(machine, "thruway-hook"),
        bears_runtime: ours("nvidia-container-runtime"),
        bears_hook: ours("nvidia-container-runtime-hook"),
        program: machine.exists("/usr/bin/thruway"),
        unit: UNIT_DIRS.iter().map(|dir| format!("{dir}/{}", unit::SERVICE_NAME)).find_map(|path| {
            let digest = Digest::of(&machine.read(&path).is()?);
            Some((path, digest))
        }),
        wanted: machine
            .names("/etc/systemd/system/multi-user.target.wants")
            .iter()
            .any(|name| name == unit::SERVICE_NAME),
        rule: RULE_DIRS.iter().any(|dir| machine.exists(&format!("{dir}/{}", unit::RULE_NAME))),
    }
}

const UNIT_DIRS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
const RULE_DIRS: [&str; 3] = ["/etc/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"];

/// NVIDIA's units that systemd wants at boot.
pub(crate) fn nvidias_units(machine: &dyn Machine) -> Vec<String> {
    const DIR: &str = "/etc/systemd/system";
    let mut found = Vec::new();
    for dir in machine.names(DIR).into_iter().filter(|name| name.ends_with(".wants")) {
        for unit in machine.names(&format!("{DIR}/{dir}")) {
            if unit.starts_with("nvidia-cdi-refresh.") && !found.contains(&unit) {
                found.push(unit);
            }
        }
    }
    // The path unit first: it starts the service.
    found.sort();
    found
}

/// OCI hook files that start NVIDIA's hook.
pub(crate) fn hook_files(machine: &dyn Machine) -> Vec<(String, Digest)> {
    let mut found = Vec::new();
    for dir in ["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"] {
        for name in machine.names(dir).into_iter().filter(|name| name.ends_with(".json")) {
            let path = format!("{dir}/{name}");
            let Seen::Is(bytes) = machine.read(&path) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            if text.contains("nvidia-container-runtime-hook") || text.contains("nvidia-container-toolkit") {
                found.push((path, Digest::of(&bytes)));
            }
        }
    }
    found
}

/// NVIDIA's config.toml: sound by the same reading as thruway's own, and two of its keys with their lines.
pub(crate) fn nvidias_config(machine: &dyn Machine) -> Written<NvidiaConfig> {
    written(machine, "/etc/nvidia-container-runtime/config.toml", |bytes| {
        let text = String::from_utf8(bytes.to_vec()).map_err(|_| (1, "is no UTF-8".to_owned()))?;
        if let Err(says) = oci::settings::Settings::read(&text, oci::settings::Written::Nvidia) {
            let line = says.split_whitespace().collect::<Vec<_>>().windows(2).find_map(|two| match two {
                [word, number] if word.eq_ignore_ascii_case("line") => number.trim_end_matches([',', ':']).parse().ok(),
                _ => None,
            });
            return Err((line.unwrap_or(1), says.lines().next().unwrap_or("is no TOML").to_owned()));
        }
        let key = |wanted: &str| {
            (1u32..).zip(text.lines()).find_map(|(number, line)| {
                let (name, value) = line.split_once('=')?;
                let value = value.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned();
                (name.trim() == wanted).then_some((value, number))
            })
        };
        Ok(NvidiaConfig { default_kind: key("default-kind"), ldconfig: key("ldconfig") })
    })
}
