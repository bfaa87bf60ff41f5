//! A CDI spec from a driver root.

use std::fmt;

use formats::cdispec::{Device, DeviceNode, Edits, Mount, Spec};
use gpu::Inventory;
use machine::{Machine, MachineExt};
use model::{Reason, Seen};
use serde::Serialize;

use crate::nodes::control_nodes;
use crate::{DriverFiles, GpuNodes, KIND, driver_files, gpu_nodes};

/// How a spec is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where libraries are put in the container; empty: the places in which the loaders of Debian's and of Red Hat's
    /// families look without a cache.
    pub library_dirs: Vec<String>,
}

/// A spec, what it was made from, and what a reader should know of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generated {
    pub spec: Spec,
    pub gpus: Vec<GpuNodes>,
    pub files: DriverFiles,
    pub notes: Vec<String>,
}

/// Why no spec can be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoSpec {
    /// No NVIDIA card on this machine.
    NoCard,
    /// NVIDIA's kernel driver does not run, or holds no card.
    NoDriver,
    /// The loaded module and the libraries are of different versions.
    Mismatch { kernel: String, library: String },
    /// The driver runs, yet none of its libraries was found.
    NoLibraries { version: String },
    /// MIG is on for every card.
    OnlyMig,
    /// We could not look.
    Unknown(Reason),
}

impl fmt::Display for NoSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoSpec::NoCard => f.write_str("this machine has no NVIDIA card"),
            NoSpec::NoDriver => f.write_str("NVIDIA's kernel driver does not run here"),
            NoSpec::Mismatch { kernel, library } => {
                write!(f, "the loaded kernel module is {kernel} and the driver's libraries are {library}")
            }
            NoSpec::NoLibraries { version } => write!(f, "no library of driver {version} was found"),
            NoSpec::OnlyMig => f.write_str("MIG is on for every card, and whole cards cannot be given away"),
            NoSpec::Unknown(reason) => write!(f, "could not look: {reason}"),
        }
    }
}

impl std::error::Error for NoSpec {}

/// Makes a spec for every card that NVIDIA's driver holds: each by index and by UUID, and `all`.
///
/// Device nodes are given by path alone. The engine then looks their numbers up when a container starts, and the
/// dynamic majors of nvidia-uvm and nvidia-caps cannot go stale in a file that outlives a reboot.
pub fn generate(machine: &dyn Machine, inventory: &Inventory, options: &Options) -> Result<Generated, NoSpec> {
    if inventory.nvidia().next().is_none() {
        return Err(match inventory.looked.unreadable() {
            Some(reason) => NoSpec::Unknown(reason.clone()),
            None => NoSpec::NoCard,
        });
    }
    let version = match &inventory.driver.kernel {
        Seen::Is(version) => version.clone(),
        Seen::Absent => return Err(NoSpec::NoDriver),
        Seen::Unreadable(reason) => return Err(NoSpec::Unknown(reason.clone())),
    };
    let mut notes = Vec::new();
    let gpus = gpu_nodes(machine, inventory, &mut notes);
    if gpus.is_empty() {
        return Err(NoSpec::NoDriver);
    }
    if let Some(library) = inventory.driver.library.get().filter(|library| **library != version) {
        return Err(NoSpec::Mismatch { kernel: version, library: library.clone() });
    }
    let files = driver_files(machine, inventory, &version);
    if files.libraries.is_empty() {
        return Err(NoSpec::NoLibraries { version });
    }
    notes.extend(files.notes.iter().cloned());
    let mut devices = Vec::new();
    let mut all = Vec::new();
    for gpu in &gpus {
        if gpu.mig {
            notes.push(format!(
                "MIG is on for {} ({}), and its instances are not in this spec",
                gpu.bdf.short(),
                gpu.name
            ));
            continue;
        }
        if gpu.nodes.is_empty() {
            continue;
        }
        all.extend(gpu.nodes.iter().cloned());
        devices.push(device(gpu.index.to_string(), &gpu.nodes));
        devices.extend(gpu.uuid.as_ref().map(|uuid| device(uuid.clone(), &gpu.nodes)));
    }
    if devices.is_empty() {
        return Err(if gpus.iter().all(|gpu| gpu.mig) { NoSpec::OnlyMig } else { NoSpec::NoDriver });
    }
    devices.push(device("all".to_owned(), &all));
    let dirs = container_dirs(machine, options);
    let container_edits = Edits {
        // An image whose default runtime is NVIDIA's would be edited a second time without this.
        env: vec!["NVIDIA_VISIBLE_DEVICES=void".to_owned()],
        device_nodes: nodes(&control_nodes(machine, &mut notes)),
        mounts: mounts(&files, &dirs),
        ..Edits::default()
    };
    notes.push(format!(
        "libraries are mounted in {} and found there without ldconfig; an image that keeps its own copy of one of \
         them in its ld.so.cache uses its own",
        dirs.join(" and ")
    ));
    let mut spec = Spec { kind: KIND.to_owned(), devices, container_edits, ..Spec::default() };
    spec.cdi_version = spec.needed_version().to_owned();
    Ok(Generated { spec, gpus, files, notes })
}

fn device(name: String, paths: &[String]) -> Device {
    let container_edits = Edits { device_nodes: nodes(paths), ..Edits::default() };
    Device { name, container_edits, ..Device::default() }
}

fn nodes(paths: &[String]) -> Vec<DeviceNode> {
    let mut nodes: Vec<DeviceNode> =
        paths.iter().map(|path| DeviceNode { path: path.clone(), ..DeviceNode::default() }).collect();
    nodes.sort_by(|a, b| depth(&a.path).cmp(&depth(&b.path)).then_with(|| a.path.cmp(&b.path)));
    nodes.dedup();
    nodes
}

/// The directories that glibc searches by itself: the multiarch one in Debian's family, lib64 in Red Hat's and SUSE's.
fn container_dirs(machine: &dyn Machine, options: &Options) -> Vec<String> {
    if !options.library_dirs.is_empty() {
        return options.library_dirs.clone();
    }
    let arm = machine.exists("/lib/ld-linux-aarch64.so.1");
    let multiarch = if arm { "/usr/lib/aarch64-linux-gnu" } else { "/usr/lib/x86_64-linux-gnu" };
    vec![multiarch.to_owned(), "/usr/lib64".to_owned()]
}

fn mounts(files: &DriverFiles, dirs: &[String]) -> Vec<Mount> {
    let mut mounts = Vec::new();
    let mut add = |host: &str, container: String| {
        mounts.push(Mount {
            host_path: host.to_owned(),
            container_path: container,
            kind: None,
            options: ["ro", "nosuid", "nodev", "rbind", "rprivate"].map(str::to_owned).to_vec(),
        });
    };
    for library in &files.libraries {
        for dir in dirs {
            let dir = library.below.map_or_else(|| dir.clone(), |below| format!("{dir}/{below}"));
            // The same file at each of its names. The loader knows a file by device and inode, so it loads it once.
            for name in &library.names {
                add(&library.path, format!("{dir}/{name}"));
            }
        }
    }
    for binary in &files.binaries {
        add(&binary.path, format!("/usr/bin/{}", binary.name));
    }
    for path in &files.firmware {
        let name = path.rsplit('/').next().unwrap_or_default();
        add(path, format!("/lib/firmware/nvidia/{}/{name}", files.version));
    }
    for file in &files.loader_files {
        add(&file.host, file.container.clone());
    }
    // Shallow first, so that no mount hides an earlier one.
    mounts.sort_by(|a, b| {
        depth(&a.container_path)
            .cmp(&depth(&b.container_path))
            .then_with(|| a.container_path.cmp(&b.container_path))
            .then_with(|| a.host_path.cmp(&b.host_path))
    });
    mounts.dedup_by(|a, b| a.container_path == b.container_path);
    mounts
}

fn depth(path: &str) -> usize {
    path.matches('/').count()
}
