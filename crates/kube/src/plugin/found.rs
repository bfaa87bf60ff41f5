//! A node's cards as the agent needs them: little, plain, and kept in its state directory, so that it can register with
//! the kubelet before the driver has answered.

use cdi::GpuNodes;
use gpu::promises::{Promised, promised};
use gpu::{Card, Inventory};
use journal::ledger::{Ledger, Owner};
use machine::nvml::{Depth, NvmlGpu, NvmlReport};
use machine::{Machine, MachineExt as _};
use model::{Bdf, Seen};
use serde::{Deserialize, Serialize};

/// The version of the form in which it is kept. A reader takes no other.
pub const FORM: u32 = 1;

/// What was found on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub form: u32,
    /// "580.159.04"; none where no driver runs.
    pub driver: Option<String>,
    /// NVML answered for a card: the driver works, and not only is there.
    pub nvml: bool,
    /// NVIDIA's cards by index, those that cannot be offered too.
    pub gpus: Vec<Gpu>,
    /// The nodes that all share and that are there: "/dev/nvidiactl".
    pub control: Vec<String>,
    /// IMEX channels whose nodes are there.
    pub imex: Vec<u32>,
    /// What could not be seen, in words.
    pub notes: Vec<String>,
}

/// One card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    pub bdf: Bdf,
    /// "GPU-…"; none where no driver told it: such a card cannot be offered.
    pub uuid: Option<String>,
    /// NVML's.
    pub index: u32,
    /// The N of /dev/nvidiaN; it can differ from the index.
    pub minor: Option<u32>,
    /// As NVML names it: "NVIDIA H100 80GB HBM3".
    pub product: String,
    /// The NUMA node; none where the kernel does not know it (-1, as in most VMs).
    pub numa: Option<u32>,
    /// Its own nodes: /dev/nvidia0 first, then those of DRM.
    pub nodes: Vec<String>,
    pub mig: bool,
    pub parts: Vec<Part>,
    /// Why it is not to be offered: vfio-pci holds it, it is promised to a VM, it has fallen off the bus.
    pub withheld: Option<String>,
    /// The bridges above it, root bus first: ["pci0000:17", "0000:17:01.0", …].
    pub path: Vec<String>,
    /// NVML's board number, where several GPUs are on one board.
    pub board: Option<u32>,
    /// Active NVLinks: to which card, or to a switch (none), and how many.
    pub nvlinks: gpu::topo::Links,
}

/// A MIG device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// "MIG-…".
    pub uuid: Option<String>,
    /// The M of G:M.
    pub index: u32,
    /// "1g.10gb", "1g.5gb+me".
    pub profile: String,
    /// Its two nodes below /dev/nvidia-caps.
    pub nodes: Vec<String>,
}

/// What of an inventory can be offered; reads device nodes, the tree's paths and the ledger. An inventory of
/// [`gpu::observe_all`] tells NVLinks too; of cards with MIG on NVML is asked again where it does not tell their instances.
pub fn look(machine: &dyn Machine, inventory: &Inventory) -> Found {
    let mut notes = Vec::new();
    let nodes = cdi::gpu_nodes(machine, inventory, &mut notes);
    let cut = nodes.iter().any(|gpu| gpu.mig);
    let told = |report: &NvmlReport| report.gpus.iter().any(|gpu| gpu.mig.get().is_some());
    let asked = match inventory.nvml.get() {
        Some(report) if cut && !told(report) => machine::nvml::ask(machine, Depth::All).is(),
        _ => None,
    };
    let ledger = journal::ledger::read(machine);
    let mut gpus: Vec<Gpu> = Vec::new();
    for (position, card) in inventory.nvidia().enumerate() {
        let own = nodes.iter().find(|own| own.bdf == card.identity.bdf);
        let full = asked.as_ref().and_then(|report| of(report, card.identity.bdf));
        gpus.push(gpu(machine, card, own, full.or(card.nvml.as_deref()), position));
    }
    for (gpu, card) in gpus.iter_mut().zip(inventory.nvidia()) {
        gpu.withheld = withheld(card).or_else(|| promise(&ledger, inventory, card));
    }
    gpus.sort_by_key(|gpu| (gpu.index, gpu.bdf));
    let answers = |report: &NvmlReport| report.gpus.iter().any(|gpu| gpu.name.is_there());
    let channels = machine.names(IMEX).into_iter().filter_map(|name| name.strip_prefix("channel")?.parse().ok());
    Found {
        form: FORM,
        driver: inventory.driver.kernel.get().cloned(),
        nvml: inventory.nvml.get().is_some_and(answers),
        gpus,
        control: cdi::CONTROL_NODES.iter().filter(|path| machine.exists(path)).map(|&path| path.to_owned()).collect(),
        imex: channels.collect(),
        notes,
    }
}

const IMEX: &str = "/dev/nvidia-caps-imex-channels";

fn of(report: &NvmlReport, bdf: Bdf) -> Option<&NvmlGpu> {
    report.gpus.iter().find(|gpu| gpu.bus_id.get().and_then(|id| id.parse::<Bdf>().ok()) == Some(bdf))
}

fn gpu(machine: &dyn Machine, card: &Card, own: Option<&GpuNodes>, nvml: Option<&NvmlGpu>, position: usize) -> Gpu {
    let bdf = card.identity.bdf;
    let product = nvml.and_then(|gpu| gpu.name.get().cloned());
    let board = nvml.and_then(|gpu| gpu.board.get()).filter(|board| board.multi_gpu == Seen::Is(true));
    let devices = nvml.and_then(|gpu| gpu.mig.get()).and_then(|mig| mig.devices.get());
    let profile = |index: u32| {
        let device = devices.into_iter().flatten().find(|device| device.index == index);
        device.and_then(|device| device.profile.get().cloned()).unwrap_or_default()
    };
    let parts = own.into_iter().flat_map(|own| &own.parts);
    Gpu {
        bdf,
        uuid: own
            .and_then(|own| own.uuid.clone())
            .or_else(|| card.identity.uuid.clone())
            .filter(|uuid| !uuid.contains('?')),
        index: own.map_or(position as u32, |own| own.index),
        minor: own.and_then(|own| own.minor),
        product: product.unwrap_or_else(|| card.short_name().to_owned()),
        numa: card.numa.and_then(|node| u32::try_from(node).ok()),
        nodes: own.map(|own| own.nodes.clone()).unwrap_or_default(),
        mig: own.is_some_and(|own| own.mig),
        parts: parts
            .map(|part| Part {
                uuid: part.uuid.clone(),
                index: part.index,
                profile: profile(part.index),
                nodes: part.nodes.clone(),
            })
            .collect(),
        withheld: None,
        path: gpu::topo::path(machine, bdf),
        board: board.and_then(|board| board.board_id.get().copied()),
        nvlinks: gpu::topo::nvlinks(nvml),
    }
}

/// Who has the card in place of NVIDIA's driver.
fn withheld(card: &Card) -> Option<String> {
    match &card.driver {
        Seen::Is(driver) if driver == "nvidia" => None,
        Seen::Is(driver) if driver == "vfio-pci" => Some("vfio-pci holds it, for a VM".into()),
        Seen::Is(driver) => Some(format!("the driver {driver} holds it")),
        Seen::Absent => Some("no driver holds it".into()),
        Seen::Unreadable(why) => Some(format!("which driver holds it could not be seen: {why}")),
    }
}

/// To whom the ledger promises it, where that is not to pods: a card is not offered by two roads.
fn promise(ledger: &Ledger, inventory: &Inventory, card: &Card) -> Option<String> {
    match promised(ledger, inventory, card) {
        Promised::To { to: Owner::Pods } | Promised::Moved { to: Owner::Pods, .. } | Promised::Nobody => None,
        Promised::To { to } => Some(format!("it is promised to {to}")),
        Promised::Moved { to, from } => Some(format!("it was promised to {to} when it sat at {}", from.short())),
        // the promise is of another card
        Promised::OtherCard { .. } => None,
        Promised::Unreadable { why } => Some(format!("to whom it is promised cannot be read: {why}")),
    }
}

#[cfg(test)]
mod tests;
