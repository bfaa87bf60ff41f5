//! Device nodes: one GPU's own, those of its MIG devices, and those that all share.

use gpu::{Card, Inventory};
use machine::nvml::{Depth, NvmlMigDevice, NvmlReport};
use machine::{FileKind, Machine, MachineExt};
use model::{Bdf, Seen};
use serde::Serialize;

/// The driver's own nodes beside the GPUs'. nvidia-modeset comes into being at first use and may be missing.
pub const CONTROL_NODES: [&str; 4] =
    ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];

const CAPABILITIES: &str = "/proc/driver/nvidia/capabilities";
const MIG_MINORS: &str = "/proc/driver/nvidia-caps/mig-minors";

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
    /// "/dev/dri/by-path/pci-0000:26:00.0-card" and what it says: "../card0".
    pub links: Vec<(String, String)>,
    /// The parts of a card with MIG on.
    pub parts: Vec<MigPart>,
}

/// A MIG device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigPart {
    /// The M of G:M.
    pub index: u32,
    pub uuid: Option<String>,
    /// Its two nodes below /dev/nvidia-caps: the GPU instance's and the compute instance's.
    pub nodes: Vec<String>,
    /// Its profile can draw (1g.12gb+gfx).
    pub graphics: bool,
}

/// The GPUs that NVIDIA's driver holds, in the order of their index. NVML is not needed: /proc/driver/nvidia has the
/// minor and the UUID; only of a card with MIG on it is asked. What could not be found is said in `notes`.
pub fn gpu_nodes(machine: &dyn Machine, inventory: &Inventory, notes: &mut Vec<String>) -> Vec<GpuNodes> {
    let mut found = Vec::new();
    for card in inventory.nvidia() {
        let bdf = card.identity.bdf;
        let information = machine.text(&format!("/proc/driver/nvidia/gpus/{bdf}/information"));
        // a driver of another name has it, whatever is left in /proc
        let ours = match card.driver.get() {
            Some(driver) => driver == "nvidia",
            None => information.is_there(),
        };
        if !ours {
            continue;
        }
        let text = information.is().unwrap_or_default();
        let position = u32::try_from(found.len()).unwrap_or(u32::MAX);
        found.push(one(machine, card, &text, position, notes));
    }
    found.sort_by_key(|gpu| gpu.index);
    mig(machine, inventory.nvml.get(), &mut found, notes);
    found
}

/// The same from /proc/driver/nvidia and a few names of sysfs alone, where they say enough: a spec's own look, which asks
/// nothing else of a machine. `None`: look at everything.
pub(crate) fn quick(machine: &dyn Machine, notes: &mut Vec<String>) -> Option<Vec<GpuNodes>> {
    let names = machine.list("/proc/driver/nvidia/gpus").is()?;
    let mut cards = Vec::new();
    for name in names {
        let bdf: Bdf = name.parse().ok()?;
        let text = machine.text(&format!("/proc/driver/nvidia/gpus/{name}/information")).is()?;
        // NVML does not count what was excluded at the driver's start
        if field(&text, "GPU Excluded") == Some("Yes") {
            continue;
        }
        let driver = machine.link_name(&format!("/sys/bus/pci/devices/{bdf}/driver"));
        if driver.get().is_some_and(|driver| driver != "nvidia") {
            continue;
        }
        cards.push((bdf, text));
    }
    cards.sort_by_key(|(bdf, _)| *bdf);
    let mut found = Vec::new();
    for (index, (bdf, text)) in cards.iter().enumerate() {
        let minor = field(text, "Device Minor").and_then(|minor| minor.parse().ok());
        let model = field(text, "Model").unwrap_or("NVIDIA GPU");
        let (nodes, links) = nodes_of(machine, *bdf, model, minor, notes);
        found.push(GpuNodes {
            bdf: *bdf,
            name: model.strip_prefix("NVIDIA ").unwrap_or(model).to_owned(),
            index: index as u32,
            minor,
            uuid: field(text, "GPU UUID").and_then(uuid),
            mig: false,
            nodes,
            links,
            parts: Vec::new(),
        });
    }
    mig(machine, None, &mut found, notes);
    (!found.is_empty()).then_some(found)
}

/// A line of `information`: "Device Minor: \t 0".
pub(crate) fn field<'t>(information: &'t str, name: &str) -> Option<&'t str> {
    let line = information.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    line.map(str::trim).filter(|value| !value.is_empty())
}

/// Before the first use the driver prints question marks for the UUID.
fn uuid(text: &str) -> Option<String> {
    (text.starts_with("GPU-") && !text.contains('?')).then(|| text.to_owned())
}

fn one(machine: &dyn Machine, card: &Card, information: &str, position: u32, notes: &mut Vec<String>) -> GpuNodes {
    let bdf = card.identity.bdf;
    let nvml = card.nvml.as_deref();
    let minor =
        nvml.and_then(|gpu| gpu.minor.get().copied()).or_else(|| field(information, "Device Minor")?.parse().ok());
    let own = nvml
        .and_then(|gpu| gpu.uuid.get().cloned())
        .or_else(|| card.identity.uuid.clone())
        .or_else(|| field(information, "GPU UUID").map(str::to_owned));
    let (nodes, links) = nodes_of(machine, bdf, card.short_name(), minor, notes);
    GpuNodes {
        bdf,
        name: card.short_name().to_owned(),
        index: nvml.map_or(position, |gpu| gpu.index),
        minor,
        uuid: own.as_deref().and_then(uuid),
        mig: nvml.is_some_and(|gpu| gpu.mig_enabled == Seen::Is(true)),
        nodes,
        links,
        parts: Vec::new(),
    }
}

type NodesAndLinks = (Vec<String>, Vec<(String, String)>);

fn nodes_of(machine: &dyn Machine, bdf: Bdf, name: &str, minor: Option<u32>, notes: &mut Vec<String>) -> NodesAndLinks {
    let mut nodes = Vec::new();
    match minor {
        Some(minor) => nodes.extend(node(machine, &format!("/dev/nvidia{minor}"), notes)),
        None => notes.push(format!("the device number of {} ({name}) is not known", bdf.short())),
    }
    let drm = machine.names(&format!("/sys/bus/pci/devices/{bdf}/drm"));
    for name in &drm {
        let number = ["card", "renderD", "controlD"].iter().find_map(|kind| name.strip_prefix(kind));
        if number.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit())) {
            let path = format!("/dev/dri/{name}");
            if !machine.stat(&path).is_absent() {
                nodes.push(path);
            }
        }
    }
    let mut links = Vec::new();
    for kind in ["card", "render"].into_iter().filter(|_| !drm.is_empty()) {
        let link = format!("/dev/dri/by-path/pci-{bdf}-{kind}");
        // only where it leads to a node of this very card
        let target = machine.link(&link).is().filter(|target| {
            target.rsplit('/').next().is_some_and(|name| nodes.iter().any(|node| *node == format!("/dev/dri/{name}")))
        });
        links.extend(target.map(|target| (link, target)));
    }
    (nodes, links)
}

/// Which cards are cut by MIG, and their parts. The driver lists a card's instances below its capabilities, so that NVML is asked
/// of no other machine; its numbers for the parts, and their UUIDs, nothing else tells. (An H100 with MIG off has the directory
/// too, empty. A card with MIG on that is not cut looks the same: only an inventory with NVML knows it.)
fn mig(machine: &dyn Machine, report: Option<&NvmlReport>, gpus: &mut [GpuNodes], notes: &mut Vec<String>) {
    let cut = |minor: u32| {
        let parts = machine.names(&format!("{CAPABILITIES}/gpu{minor}/mig"));
        parts.iter().any(|name| name.starts_with("gi"))
    };
    for gpu in gpus.iter_mut() {
        gpu.mig |= gpu.minor.is_some_and(cut);
    }
    if !gpus.iter().any(|gpu| gpu.mig) {
        return;
    }
    let told = report.filter(|report| report.gpus.iter().any(|gpu| gpu.mig.get().is_some())).cloned();
    let asked = told.map_or_else(|| machine::nvml::ask(machine, Depth::All), Seen::Is);
    let minors = machine.text(MIG_MINORS).is().unwrap_or_default();
    for gpu in gpus.iter_mut().filter(|gpu| gpu.mig) {
        let same = asked.get().and_then(|report| {
            report.gpus.iter().find(|one| one.bus_id.get().and_then(|id| id.parse::<Bdf>().ok()) == Some(gpu.bdf))
        });
        if same.is_some_and(|one| one.mig_enabled == Seen::Is(false)) {
            // the listing outlived the mode
            gpu.mig = false;
            continue;
        }
        let devices = same.and_then(|one| one.mig.get()).and_then(|mig| mig.devices.get());
        let Some(devices) = devices else {
            notes.push(format!(
                "MIG is on for {} ({}), and its instances are not in this spec: NVML did not tell them",
                gpu.bdf.short(),
                gpu.name
            ));
            continue;
        };
        if devices.is_empty() {
            notes.push(format!(
                "MIG is on for {} ({}) and it is not cut, so nothing of it can be given to a container; thruway mig plan \
                 cuts it, or switches MIG off",
                gpu.bdf.short(),
                gpu.name
            ));
        }
        for device in devices {
            gpu.parts.extend(part(machine, gpu.minor, device, &minors, notes));
        }
    }
}

fn part(
    machine: &dyn Machine,
    minor: Option<u32>,
    device: &NvmlMigDevice,
    minors: &str,
    notes: &mut Vec<String>,
) -> Option<MigPart> {
    let (minor, gi, ci) = (minor?, *device.gpu_instance.get()?, *device.compute_instance.get()?);
    let mut nodes = Vec::new();
    for name in [format!("gpu{minor}/gi{gi}/access"), format!("gpu{minor}/gi{gi}/ci{ci}/access")] {
        let number = minors.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse::<u32>().ok());
        let Some(number) = number else {
            notes.push(format!("{MIG_MINORS} has no line {name}; MIG device {} is left out", device.index));
            return None;
        };
        let path = format!("/dev/nvidia-caps/nvidia-cap{number}");
        if machine.stat(&path).is_absent() {
            notes.push(format!(
                "{path} is not there; MIG device {} is left out (nvidia-modprobe -f {MIG_MINORS} makes it)",
                device.index
            ));
            return None;
        }
        nodes.push(path);
    }
    let graphics = device.profile.get().is_some_and(|profile| profile.contains("+gfx"));
    let uuid = device.uuid.get().filter(|uuid| uuid.starts_with("MIG-")).cloned();
    Some(MigPart { index: device.index, uuid, nodes, graphics })
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
