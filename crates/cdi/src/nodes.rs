//! Device nodes: one GPU's own, and those that all share.

use gpu::{Card, Inventory};
use machine::{FileKind, Machine, MachineExt};
use model::{Bdf, Seen};
use serde::Serialize;

/// The driver's own nodes beside the GPUs'. nvidia-modeset comes into being at first use and may be missing.
pub const CONTROL_NODES: [&str; 4] =
    ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];

/// One GPU that NVIDIA's driver holds, as containers know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuNodes {
    pub bdf: Bdf,
    /// "GeForce GT 1030".
    pub name: String,
    /// NVML's index, which is the order of the bus.
    pub index: u32,
    /// The N of /dev/nvidiaN; it can differ from the index.
    pub minor: Option<u32>,
    pub uuid: Option<String>,
    /// MIG is on: then the whole GPU is not given away as one.
    pub mig: bool,
    /// /dev/nvidiaN first, then those of DRM.
    pub nodes: Vec<String>,
}

/// The GPUs that NVIDIA's driver holds, in the order of their index. NVML is not needed: /proc/driver/nvidia has the
/// minor and the UUID. What could not be found is said in `notes`.
pub fn gpu_nodes(machine: &dyn Machine, inventory: &Inventory, notes: &mut Vec<String>) -> Vec<GpuNodes> {
    let mut found = Vec::new();
    for card in inventory.nvidia() {
        let bdf = card.identity.bdf;
        let information = machine.text(&format!("/proc/driver/nvidia/gpus/{bdf}/information"));
        let ours = card.driver.get().is_some_and(|driver| driver == "nvidia") || information.is_there();
        if !ours {
            continue;
        }
        let text = information.is().unwrap_or_default();
        let position = u32::try_from(found.len()).unwrap_or(u32::MAX);
        found.push(one(machine, card, &text, position, notes));
    }
    found.sort_by_key(|gpu| gpu.index);
    found
}

fn one(machine: &dyn Machine, card: &Card, information: &str, position: u32, notes: &mut Vec<String>) -> GpuNodes {
    let bdf = card.identity.bdf;
    let nvml = card.nvml.as_deref();
    let field = |name: &str| {
        let line = information.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
        line.map(str::trim).filter(|value| !value.is_empty())
    };
    let minor = nvml.and_then(|gpu| gpu.minor.get().copied()).or_else(|| field("Device Minor")?.parse().ok());
    // Before the first use the driver prints question marks for the UUID.
    let uuid = nvml
        .and_then(|gpu| gpu.uuid.get().cloned())
        .or_else(|| card.identity.uuid.clone())
        .or_else(|| field("GPU UUID").map(str::to_owned))
        .filter(|uuid| uuid.starts_with("GPU-") && !uuid.contains('?'));
    let mut nodes = Vec::new();
    match minor {
        Some(minor) => nodes.extend(node(machine, &format!("/dev/nvidia{minor}"), notes)),
        None => notes.push(format!("the device number of {} ({}) is not known", bdf.short(), card.short_name())),
    }
    for name in machine.names(&format!("/sys/bus/pci/devices/{bdf}/drm")) {
        let number = name.strip_prefix("card").or_else(|| name.strip_prefix("renderD"));
        if number.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit())) {
            let path = format!("/dev/dri/{name}");
            if !machine.stat(&path).is_absent() {
                nodes.push(path);
            }
        }
    }
    GpuNodes {
        bdf,
        name: card.short_name().to_owned(),
        index: nvml.map_or(position, |gpu| gpu.index),
        minor,
        uuid,
        mig: nvml.is_some_and(|gpu| gpu.mig_enabled == Seen::Is(true)),
        nodes,
    }
}

/// The node, unless it is certainly not there: an engine refuses to start a container for a missing one.
fn node(machine: &dyn Machine, path: &str, notes: &mut Vec<String>) -> Option<String> {
    match machine.stat(path) {
        Seen::Is(stat) if stat.kind != FileKind::CharDevice => {
            notes.push(format!("{path} is no character device and is left out"));
            None
        }
        Seen::Absent => {
            notes.push(format!("{path} is not there and is left out; nvidia-modprobe or nvidia-smi makes it"));
            None
        }
        Seen::Is(_) | Seen::Unreadable(_) => Some(path.to_owned()),
    }
}

/// The shared nodes that are there.
pub(crate) fn control_nodes(machine: &dyn Machine, notes: &mut Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for path in CONTROL_NODES {
        match machine.stat(path) {
            Seen::Absent if path.ends_with("-uvm") => notes.push(format!(
                "{path} is not there, so CUDA would fail in containers; nvidia-modprobe -u -c 0 loads the module and makes it"
            )),
            Seen::Absent if path.ends_with("ctl") => {
                notes.push(format!("{path} is not there, so nothing would work in containers; nvidia-smi makes it"));
            }
            Seen::Absent => {}
            Seen::Is(_) | Seen::Unreadable(_) => found.push(path.to_owned()),
        }
    }
    found
}
