//! What was seen of engines, specs and containers.

use std::collections::BTreeMap;

use cdi::{Generated, Judged, NoSpec};
use formats::cdispec::Spec;
use formats::containerdtoml::ContainerdToml;
use formats::daemonjson::DaemonJson;
use machine::ContainerdSays;
use model::{Digest, Fact, Reason, Seen};
use serde::Serialize;

use crate::Version;

#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// `Unreadable` where PCI could not be listed.
    pub looked: Seen<()>,
    /// Whether programs could be looked for at all.
    pub programs: Seen<()>,
    /// NVIDIA's cards, "01:00.0 (GeForce GT 1030)", with their identity.
    pub cards: BTreeMap<String, String>,
    /// The running driver's version.
    pub driver: Seen<String>,
    pub docker: Option<Docker>,
    pub podman: Option<Fact<Version>>,
    pub containerd: Option<Containerd>,
    pub crio: Option<Fact<Version>>,
    /// What thruway says to CRI-O and Podman: drop-ins of its own.
    pub drop_ins: Vec<DropIn>,
    /// k3s and RKE2, each with its own containerd.
    pub rancher: Vec<Rancher>,
    /// Users' own rootless Docker daemons, by what their set-up tool leaves.
    pub rootless: Vec<Rootless>,
    pub toolkit: Toolkit,
    /// thruway's own programs for containers.
    pub own: Own,
    /// The spec that this machine should have now.
    pub wanted: Result<Box<Generated>, NoSpec>,
    /// Spec files of all directories that engines read, by path.
    pub specs: Vec<SpecFile>,
    /// Spec directories that could not be listed.
    pub specs_unseen: Vec<(String, Reason)>,
    /// Docker came as a snap, whose confinement hides the driver from it.
    pub snap: bool,
    /// Nodes of NVIDIA's that are there now, of those that a container needs beside its cards.
    pub control_nodes: Vec<String>,
    /// Running containers of Docker.
    pub containers: Seen<Vec<GpuContainer>>,
    /// The /dev/char links that systemd needs to know NVIDIA's nodes by.
    pub char_links: Vec<CharLink>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Docker {
    pub version: Fact<Version>,
    pub config: Written<DaemonJson>,
    pub info: Seen<DockerInfo>,
    /// Whether the program that daemon.json names nvidia is there; absent where it names none.
    pub runtime_there: Seen<bool>,
}

/// `docker info`, as far as a GPU goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DockerInfo {
    pub runtimes: Vec<String>,
    pub default_runtime: Option<String>,
    /// Empty: this daemon reads no CDI specs, or is too old to say so.
    pub cdi_dirs: Vec<String>,
    pub cgroup_driver: Option<String>,
    pub live_restore: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Containerd {
    pub version: Fact<Version>,
    /// The file that rules the CRI plugin: the last one, the main file and its imports in their order, that says
    /// something of it; the main file where none does. Before 2.1 it replaces what the others say of the plugin.
    pub config: Written<ContainerdToml>,
    /// All files, the main one first.
    pub files: Vec<(String, Option<Digest>)>,
    /// What it comes to, by containerd itself.
    pub says: Seen<ContainerdSays>,
    /// The kubelet speaks to it.
    pub kubelet: Seen<bool>,
}

/// k3s or RKE2: containerd's configuration is generated at each start from a template that the user may give.
#[derive(Clone, Debug, Serialize)]
pub struct Rancher {
    /// "k3s", "rke2".
    pub name: &'static str,
    /// "k3s.service", "k3s-agent.service", …
    pub unit: String,
    /// What it generated at its last start.
    pub generated: Written<ContainerdToml>,
    /// The template for that form of configuration; its text.
    pub template: Written<String>,
    /// Path of the program that its start takes for NVIDIA's runtime, and then names nvidia by itself.
    pub finds: Option<String>,
}

/// A user's own Docker daemon.
#[derive(Clone, Debug, Serialize)]
pub struct Rootless {
    pub user: String,
    pub config: Written<DaemonJson>,
}

/// A configuration file of ours in an engine's drop-in directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DropIn {
    pub engine: &'static str,
    pub path: &'static str,
    pub text: Seen<String>,
}

/// thruway's programs, by full path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Own {
    pub runtime: Option<String>,
    pub hook: Option<String>,
    /// What bears NVIDIA's runtime's name is thruway's (a link).
    pub bears_runtime: bool,
    /// The same of nvidia-container-runtime-hook, which dockerd looks for on its path.
    pub bears_hook: bool,
    /// /usr/bin/thruway, where the unit that keeps the specs true starts it.
    pub program: bool,
    /// That unit's file, wherever it lies, and its bytes' digest.
    pub unit: Option<(String, Digest)>,
    /// systemd wants the unit at boot.
    pub wanted: bool,
    /// udev's rule that wants it when the driver comes.
    pub rule: bool,
}

/// A configuration file: its bytes' digest, and what it says or why it says nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Written<T> {
    pub path: String,
    pub digest: Option<Digest>,
    /// Malformed text is `Unreadable(Malformed)`, with the line beside it.
    #[serde(skip)]
    pub says: Seen<T>,
    pub bad_line: Option<u32>,
}

/// NVIDIA's container toolkit.
#[derive(Clone, Debug, Serialize)]
pub struct Toolkit {
    /// Full path of nvidia-container-runtime.
    pub runtime: Option<String>,
    /// Full path of nvidia-container-runtime-hook, which `docker run --gpus` needs.
    pub hook: Option<String>,
    /// Full path of nvidia-ctk.
    pub ctk: Option<String>,
    /// Absent: not installed as a package.
    pub version: Fact<Version>,
    /// The nvidia-docker2 package, given up in 2023.
    pub docker2: Fact<Version>,
    /// Its units that keep a CDI spec fresh, where systemd wants them at boot.
    pub units: Vec<String>,
    /// OCI hook files (hooks.d) that start its hook in every container of Podman and CRI-O.
    pub hook_files: Vec<(String, Digest)>,
    /// Its config.toml, with what is wrong in it.
    pub config: Written<NvidiaConfig>,
    /// /sbin/ldconfig is a script beside ldconfig.real, as on Ubuntu.
    pub ldconfig_wrapped: bool,
    /// Containers without privilege may name GPUs in their environment; the default is yes.
    pub env_accepted: Fact<bool>,
}

/// What NVIDIA's config.toml says beside who may ask, with 1-based lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NvidiaConfig {
    /// `default-kind` of its CDI mode.
    pub default_kind: Option<(String, u32)>,
    /// `ldconfig`; an `@` before it means the host's.
    pub ldconfig: Option<(String, u32)>,
}

#[derive(Clone, Debug, Serialize)]
pub struct SpecFile {
    pub path: String,
    pub digest: Option<Digest>,
    pub state: SpecState,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpecState {
    Unreadable(Reason),
    /// No CDI spec: the line and what is wrong.
    Broken {
        line: u32,
        says: String,
    },
    Parsed {
        spec: Box<Spec>,
        /// What engines refuse it for.
        problems: Vec<String>,
        judged: Judged,
        /// The 1-based line of each of `judged.faults`, where it has one.
        lines: Vec<Option<u32>>,
    },
}

impl SpecFile {
    pub fn dir(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(dir, _)| dir)
    }

    pub fn spec(&self) -> Option<&Spec> {
        match &self.state {
            SpecState::Parsed { spec, .. } => Some(spec),
            _ => None,
        }
    }

    /// A spec of NVIDIA GPUs under the name that everybody uses.
    pub fn ours(&self) -> bool {
        self.spec().is_some_and(|spec| spec.kind == cdi::KIND)
    }

    /// It says of this machine what is not so.
    pub fn stale(&self) -> bool {
        matches!(&self.state, SpecState::Parsed { judged, .. } if !judged.faults.is_empty())
    }

    /// Sound, and true of this machine as far as could be seen.
    pub fn healthy(&self) -> bool {
        matches!(&self.state, SpecState::Parsed { problems, judged, .. } if problems.is_empty() && judged.faults.is_empty())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuContainer {
    pub name: String,
    pub image: String,
    /// NVIDIA_VISIBLE_DEVICES, where it is set.
    pub visible: Option<String>,
    pub runtime: String,
    /// Devices were asked of the engine (`--gpus`, `--device`).
    pub requested: bool,
    /// Nodes of NVIDIA's that it was given and that its device cgroup no longer lets it open, "/dev/nvidia0 (195:0)". Absent:
    /// it was given none, or its cgroup is of version 2, whose rules no file shows.
    pub lost: Seen<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CharLink {
    /// "/dev/nvidia0".
    pub node: String,
    /// "/dev/char/195:0".
    pub link: String,
    pub there: Seen<bool>,
}

/// Whether an engine reads CDI specs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    Yes,
    /// It could, and is not told to.
    Off,
    /// It is too old.
    TooOld,
    Unknown(Reason),
}

impl Docker {
    pub fn reads(&self) -> Reads {
        if self.info.get().is_some_and(|info| !info.cdi_dirs.is_empty()) {
            return Reads::Yes;
        }
        let version = match &self.version.value {
            Seen::Is(version) => version,
            Seen::Absent => return Reads::Unknown(Reason::Other("Docker's version is not known".into())),
            Seen::Unreadable(reason) => return Reads::Unknown(reason.clone()),
        };
        if !version.at_least(&[25]) {
            return Reads::TooOld;
        }
        let told = match &self.config.says {
            Seen::Is(file) => file.get(&["features", "cdi"]).and_then(|value| value.as_bool()),
            Seen::Absent => None,
            Seen::Unreadable(reason) => return Reads::Unknown(reason.clone()),
        };
        // On by default since 28.2 (moby pull request 49963).
        if told.unwrap_or(version.at_least(&[28, 2])) { Reads::Yes } else { Reads::Off }
    }

    /// The daemon runs and knows the runtime nvidia.
    pub fn knows_nvidia(&self) -> bool {
        self.info.get().is_some_and(|info| info.runtimes.iter().any(|name| name == "nvidia"))
    }

    /// The path that daemon.json gives for the runtime named nvidia.
    pub fn nvidia_path(&self) -> Option<String> {
        self.config.says.get()?.get(&["runtimes", "nvidia", "path"])?.as_str().map(str::to_owned)
    }

    pub fn default_runtime(&self) -> Option<String> {
        let written = self.config.says.get().and_then(|file| file.get(&["default-runtime"]));
        written.and_then(|value| value.as_str().map(str::to_owned))
    }
}

impl Containerd {
    pub fn reads(&self) -> Reads {
        let version = match &self.version.value {
            Seen::Is(version) => version,
            Seen::Absent => return Reads::Unknown(Reason::Other("containerd's version is not known".into())),
            Seen::Unreadable(reason) => return Reads::Unknown(reason.clone()),
        };
        if !version.at_least(&[1, 7]) {
            return Reads::TooOld;
        }
        let told = match &self.config.says {
            Seen::Is(file) => file.enable_cdi.map(|(on, _)| on),
            Seen::Absent => None,
            Seen::Unreadable(reason) => return Reads::Unknown(reason.clone()),
        };
        if told.unwrap_or(version.at_least(&[2])) { Reads::Yes } else { Reads::Off }
    }

    /// The program that stands under the runtime name nvidia.
    pub fn nvidia_path(&self) -> Option<&str> {
        let file = self.config.says.get()?;
        file.runtimes.iter().find(|(name, _)| name == "nvidia").map(|(_, path)| path.as_deref().unwrap_or("runc"))
    }

    pub fn default_runtime(&self) -> Option<&str> {
        self.config.says.get()?.default_runtime.as_deref()
    }
}

impl Rancher {
    /// The program that its containerd knows as nvidia.
    pub fn nvidia_path(&self) -> Option<&str> {
        let file = self.generated.says.get()?;
        file.runtimes.iter().find(|(name, _)| name == "nvidia").map(|(_, path)| path.as_deref().unwrap_or("runc"))
    }
}

impl Facts {
    /// containerd counts as an engine of its own where Kubernetes uses it or nothing stands above it. Docker's own
    /// containerd, whose CRI plugin is switched off or unused, does not.
    pub fn containerd_counts(&self) -> Option<&Containerd> {
        let containerd = self.containerd.as_ref()?;
        let off = containerd.config.says.get().is_some_and(|file| file.cri_disabled.is_some());
        let used = containerd.kubelet == Seen::Is(true);
        (!off && (used || self.docker.is_none())).then_some(containerd)
    }

    /// "Docker 20.10.12", in the order docker, podman, containerd, CRI-O.
    pub fn engine_names(&self) -> Vec<String> {
        let name = |name: &str, version: &Fact<Version>| match version.get() {
            Some(version) => format!("{name} {version}"),
            None => name.to_owned(),
        };
        let mut names = Vec::new();
        names.extend(self.docker.as_ref().map(|docker| name("Docker", &docker.version)));
        names.extend(self.podman.as_ref().map(|version| name("Podman", version)));
        names.extend(self.containerd_counts().map(|containerd| name("containerd", &containerd.version)));
        names.extend(self.crio.as_ref().map(|version| name("CRI-O", version)));
        names.extend(self.rancher.iter().map(|one| match one.name {
            "rke2" => "RKE2".to_owned(),
            name => name.to_owned(),
        }));
        names
    }

    /// Each engine that counts, with whether it reads CDI specs and whether NVIDIA's older runtime serves it.
    pub fn ways(&self) -> Vec<(String, Reads, bool)> {
        let mut ways = Vec::new();
        let mut names = self.engine_names().into_iter();
        let mut next = || names.next().unwrap_or_default();
        if let Some(docker) = &self.docker {
            // `--gpus` needs only the hook on dockerd's path.
            let runtime = docker.runtime_there == Seen::Is(true);
            ways.push((next(), docker.reads(), runtime || self.toolkit.hook.is_some()));
        }
        if let Some(podman) = &self.podman {
            let reads = match &podman.value {
                Seen::Is(version) if version.at_least(&[4, 1]) => Reads::Yes,
                Seen::Is(_) => Reads::TooOld,
                Seen::Absent => Reads::Unknown(Reason::Other("Podman's version is not known".into())),
                Seen::Unreadable(reason) => Reads::Unknown(reason.clone()),
            };
            ways.push((next(), reads, false));
        }
        if let Some(containerd) = self.containerd_counts() {
            let runtime = containerd.nvidia_path().is_some_and(|path| self.is_runtime(path));
            ways.push((next(), containerd.reads(), runtime));
        }
        if self.crio.is_some() {
            ways.push((next(), Reads::Yes, false));
        }
        for one in &self.rancher {
            let told = one.generated.says.get().and_then(|file| file.enable_cdi.map(|(on, _)| on));
            let new = one.generated.says.get().is_some_and(|file| file.version >= 3);
            let reads = match &one.generated.says {
                Seen::Unreadable(reason) => Reads::Unknown(reason.clone()),
                Seen::Absent => Reads::Unknown(Reason::Other(format!("{} has not run yet", one.name))),
                Seen::Is(_) if told.unwrap_or(new) => Reads::Yes,
                Seen::Is(_) => Reads::Off,
            };
            ways.push((next(), reads, one.nvidia_path().is_some_and(|path| self.is_runtime(path))));
        }
        ways
    }

    /// A program of this machine that gives containers GPUs: NVIDIA's runtime or thruway's.
    pub fn is_runtime(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        let known = [self.toolkit.runtime.as_deref(), self.own.runtime.as_deref()];
        known
            .into_iter()
            .flatten()
            .any(|known| known == path || known.rsplit('/').next() == Some(name) && !path.contains('/'))
    }

    /// A spec that thruway's service writes, and writes anew when it is no longer true.
    pub fn is_refreshed(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        path.contains("/run/cdi/") && (name == cdi::SPEC_NAME || name.starts_with("thruway.dev-"))
    }

    /// The devices that two specs of one directory define, with both files: engines then resolve neither.
    pub fn conflicts(&self) -> Vec<(String, &str, &str)> {
        let mut seen: BTreeMap<(&str, String), &str> = BTreeMap::new();
        let mut twice = Vec::new();
        for file in &self.specs {
            let SpecState::Parsed { spec, problems, .. } = &file.state else { continue };
            // What engines refuse cancels nothing.
            if !problems.is_empty() {
                continue;
            }
            for device in &spec.devices {
                let name = format!("{}={}", spec.kind, device.name);
                match seen.insert((file.dir(), name.clone()), &file.path) {
                    Some(other) if other != file.path => twice.push((name, other, file.path.as_str())),
                    _ => {}
                }
            }
        }
        twice
    }

    /// The spec that engines use for NVIDIA GPUs, where it is sound, true, and not hidden or cancelled by another.
    pub fn sound_spec(&self) -> Option<&SpecFile> {
        let mut ours = self.specs.iter().filter(|file| file.ours());
        let all_true = ours.clone().all(|file| !file.stale());
        ours.rfind(|file| file.healthy()).filter(|_| all_true && self.conflicts().is_empty())
    }

    /// The cards in words: by name while they are few.
    pub fn cards_named(&self) -> String {
        let names: Vec<&str> = self.cards.keys().map(String::as_str).collect();
        if names.len() > 2 { format!("the {} NVIDIA cards", names.len()) } else { names.join(" and ") }
    }

    /// True where this floor has nothing to say: no engine, or certainly no NVIDIA card.
    pub fn nothing_here(&self) -> bool {
        self.engine_names().is_empty() || (self.cards.is_empty() && self.looked.is_there())
    }
}
