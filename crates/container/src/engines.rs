//! Looking at engines: programs, packages, configuration files, and what a running daemon says.

use formats::daemonjson::DaemonJson;
use formats::dpkg::Package;
use machine::{Engine, Machine, MachineExt, Question};
use model::{Digest, Fact, Reason, Seen, Source};
use serde_json::Value;

mod containerd;
mod own;
mod victims;

pub(crate) use containerd::{containerd, rancher};
pub use own::{CRIO_DROP_IN, PODMAN_DROP_IN};
pub(crate) use own::{drop_ins, own};

use crate::Version;
use crate::facts::{Docker, DockerInfo, GpuContainer, Rootless, Toolkit, Written};

const DIRS: [&str; 7] =
    ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/local/nvidia/toolkit", "/bin", "/sbin"];
const DPKG: &str = "/var/lib/dpkg/status";

/// Packages by name, where this machine has dpkg.
pub(crate) fn packages(machine: &dyn Machine) -> Seen<Vec<Package>> {
    let names = [
        "docker-ce",
        "docker.io",
        "moby-engine",
        "containerd.io",
        "containerd",
        "podman",
        "cri-o",
        "nvidia-container-toolkit",
        "nvidia-container-toolkit-base",
        "nvidia-docker2",
    ];
    machine.text(DPKG).map(|text| {
        let mut found = formats::dpkg::packages(&text, |name| names.contains(&name));
        found.retain(Package::installed);
        found
    })
}

pub(crate) fn program(machine: &dyn Machine, name: &str) -> Option<String> {
    DIRS.iter().map(|dir| format!("{dir}/{name}")).find(|path| machine.exists(path))
}

/// The version of the first of these packages that is installed.
fn packaged(packages: &Seen<Vec<Package>>, names: &[&str]) -> Fact<Version> {
    let found = packages.as_ref().and_then(|all| {
        let package = names.iter().find_map(|name| all.iter().find(|package| package.name == *name));
        Seen::from(package.map(|package| package.version.clone()))
    });
    let value = found.and_then(|text| match Version::parse(&text) {
        Some(version) => Seen::Is(version),
        None => Seen::Unreadable(Reason::Malformed(format!("{DPKG}: \"{}\" is no version", text.escape_debug()))),
    });
    Fact::new(value, Source::file(DPKG))
}

pub(crate) fn docker(machine: &dyn Machine, packages: &Seen<Vec<Package>>) -> Option<Docker> {
    program(machine, "dockerd")?;
    let answer = machine.ask(&Question::EngineInfo(Engine::Docker));
    let value = answer.as_ref().and_then(|answer| Seen::from(answer.json().cloned()));
    let info = value.as_ref().map(info);
    let said = value.get().and_then(|value| value.get("ServerVersion")?.as_str());
    let version = match said.and_then(Version::parse) {
        Some(version) => Fact::new(Seen::Is(version), Source::Answer(Question::EngineInfo(Engine::Docker).to_string())),
        None => packaged(packages, &["docker-ce", "docker.io", "moby-engine"]),
    };
    let config = daemon_json(machine, "/etc/docker/daemon.json");
    let named = config.says.as_ref().and_then(|file| Seen::from(file.get(&["runtimes", "nvidia", "path"])));
    let runtime_there = named.map(|path| match path.as_str() {
        Some(path) if path.contains('/') => machine.exists(path),
        Some(name) => program(machine, name).is_some(),
        None => false,
    });
    Some(Docker { version, config, info, runtime_there })
}

fn daemon_json(machine: &dyn Machine, path: &str) -> Written<DaemonJson> {
    written(machine, path, |bytes| DaemonJson::parse(bytes).map_err(|bad| (bad.line, bad.says)))
}

/// Users' daemons: dockerd-rootless-setuptool.sh leaves a user unit, and the user may have written a daemon.json.
pub(crate) fn rootless(machine: &dyn Machine) -> Vec<Rootless> {
    let mut found = Vec::new();
    for user in machine.names("/home") {
        let home = format!("/home/{user}/.config");
        let path = format!("{home}/docker/daemon.json");
        if machine.exists(&format!("{home}/systemd/user/docker.service")) || machine.exists(&path) {
            found.push(Rootless { user, config: daemon_json(machine, &path) });
        }
    }
    found
}

fn info(value: &Value) -> DockerInfo {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let runtimes = value.get("Runtimes").and_then(Value::as_object);
    let dirs = value.get("CDISpecDirs").and_then(Value::as_array);
    DockerInfo {
        runtimes: runtimes.map(|map| map.keys().cloned().collect()).unwrap_or_default(),
        default_runtime: text("DefaultRuntime"),
        cdi_dirs: dirs.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        cgroup_driver: text("CgroupDriver"),
        live_restore: value.get("LiveRestoreEnabled").and_then(Value::as_bool).unwrap_or(false),
    }
}

pub(crate) fn podman(machine: &dyn Machine, packages: &Seen<Vec<Package>>) -> Option<Fact<Version>> {
    program(machine, "podman")?;
    let answer = machine.ask(&Question::EngineInfo(Engine::Podman));
    let said = answer.get().and_then(|answer| answer.json()?.pointer("/version/Version")?.as_str());
    Some(match said.and_then(Version::parse) {
        Some(version) => Fact::new(Seen::Is(version), Source::Answer(Question::EngineInfo(Engine::Podman).to_string())),
        None => packaged(packages, &["podman"]),
    })
}

pub(crate) fn crio(machine: &dyn Machine, packages: &Seen<Vec<Package>>) -> Option<Fact<Version>> {
    program(machine, "crio")?;
    Some(packaged(packages, &["cri-o"]))
}

pub(crate) fn toolkit(machine: &dyn Machine, packages: &Seen<Vec<Package>>) -> Toolkit {
    const CONFIG: &str = "/etc/nvidia-container-runtime/config.toml";
    let key = "accept-nvidia-visible-devices-envvar-when-unprivileged";
    // One flat key; a commented one is the default, which is true.
    let line = |text: String| {
        (1u32..).zip(text.lines()).find_map(|(number, line)| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| (value.trim().starts_with("true"), number))
        })
    };
    let env_accepted = match machine.text(CONFIG).map(line) {
        Seen::Is(Some((accepted, number))) => Fact::new(Seen::Is(accepted), Source::line(CONFIG, number)),
        Seen::Is(None) | Seen::Absent => Fact::new(Seen::Is(true), Source::Rule(format!("{key} is true by default"))),
        Seen::Unreadable(reason) => Fact::new(Seen::Unreadable(reason), Source::file(CONFIG)),
    };
    Toolkit {
        runtime: program(machine, "nvidia-container-runtime"),
        hook: program(machine, "nvidia-container-runtime-hook")
            .or_else(|| program(machine, "nvidia-container-toolkit")),
        ctk: program(machine, "nvidia-ctk"),
        version: packaged(packages, &["nvidia-container-toolkit", "nvidia-container-toolkit-base"]),
        docker2: packaged(packages, &["nvidia-docker2"]),
        config: own::nvidias_config(machine),
        ldconfig_wrapped: machine.exists("/sbin/ldconfig.real"),
        units: own::nvidias_units(machine),
        hook_files: own::hook_files(machine),
        env_accepted,
    }
}

/// Docker's running containers, as far as GPUs go.
pub(crate) fn containers(machine: &dyn Machine) -> Seen<Vec<GpuContainer>> {
    machine.ask(&Question::Containers(Engine::Docker)).and_then(|answer| {
        match answer.json().and_then(Value::as_array) {
            Some(all) => Seen::Is(all.iter().map(|value| container(machine, value)).collect()),
            None => Seen::Unreadable(Reason::Malformed("docker inspect: no list of containers".into())),
        }
    })
}

fn container(machine: &dyn Machine, value: &Value) -> GpuContainer {
    let text = |at: &str| value.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let env = value.pointer("/Config/Env").and_then(Value::as_array).into_iter().flatten();
    let visible = env.filter_map(Value::as_str).find_map(|line| line.strip_prefix("NVIDIA_VISIBLE_DEVICES="));
    let full = |at: &str| value.pointer(at).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    GpuContainer {
        name: text("/Name").trim_start_matches('/').to_owned(),
        image: text("/Config/Image").to_owned(),
        visible: visible.map(str::to_owned),
        runtime: text("/HostConfig/Runtime").to_owned(),
        requested: full("/HostConfig/DeviceRequests") || full("/HostConfig/Devices"),
        lost: victims::lost(machine, text("/Id"), value.pointer("/State/Pid").and_then(Value::as_u64)),
    }
}

pub(super) fn written<T>(
    machine: &dyn Machine,
    path: &str,
    parse: impl FnOnce(&[u8]) -> Result<T, (u32, String)>,
) -> Written<T> {
    let mut bad_line = None;
    let bytes = machine.read(path);
    let digest = bytes.get().map(|bytes| Digest::of(bytes));
    let says = bytes.and_then(|bytes| match parse(&bytes) {
        Ok(value) => Seen::Is(value),
        Err((line, says)) => {
            bad_line = Some(line);
            Seen::Unreadable(Reason::Malformed(format!("{path}:{line}: {says}")))
        }
    });
    Written { path: path.to_owned(), digest, says, bad_line }
}
