//! The labels of GPU feature discovery, as a pure function: `nvidia.com/gpu.product` and the rest.
//!
//! Source: the README of NVIDIA's gpu-feature-discovery (part of k8s-device-plugin), and what it writes.

use std::collections::BTreeMap;

use gpu::Inventory;
use machine::Machine;

use crate::plugin::Config;

/// What all labels of this module begin with.
pub const PREFIX: &str = "nvidia.com/";

/// What the labels are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// "580.159.04", where NVML answered; none: no driver works, and no label of a GPU is true.
    pub driver: Option<String>,
    /// The newest CUDA that the driver can do.
    pub cuda: Option<(u32, u32)>,
    /// The machine's product name by DMI.
    pub machine: Option<String>,
    /// Cards that can be offered to pods, by index.
    pub cards: Vec<Card>,
    pub vgpu: Option<Vgpu>,
    /// Seconds since 1970, where the timestamp is wanted.
    pub timestamp: Option<u64>,
}

/// One card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// "NVIDIA H100 80GB HBM3".
    pub product: String,
    /// MiB; none where it has no memory of its own.
    pub memory: Option<u64>,
    /// CUDA compute capability.
    pub compute: Option<(u32, u32)>,
    /// PCI class and subclass: 0x0300, 0x0302.
    pub class: Option<u32>,
    pub mig: bool,
    pub mig_capable: bool,
    /// The NVLink fabric: cluster UUID and clique.
    pub fabric: Option<(String, u32)>,
    pub parts: Vec<Part>,
}

/// A MIG device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// "1g.10gb", "1g.5gb+me".
    pub profile: String,
    /// MiB.
    pub memory: Option<u64>,
    pub multiprocessors: Option<u32>,
    /// Compute slices of its GPU instance and of its compute instance.
    pub slices_gi: Option<u32>,
    pub slices_ci: Option<u32>,
    pub copy: Option<u32>,
    pub decoder: Option<u32>,
    pub encoder: Option<u32>,
    pub jpeg: Option<u32>,
    pub ofa: Option<u32>,
}

/// What a vGPU's guest is told of its host, in the function's vendor-specific capability.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vgpu {
    /// "550.54.15".
    pub driver: String,
    /// "r550_40".
    pub branch: String,
}

impl Facts {
    /// Of an inventory (of [`gpu::observe_all`], where a card is cut by MIG); reads the DMI name.
    pub fn observe(machine: &dyn Machine, inventory: &Inventory, config: &Config) -> Facts {
        let _ = (machine, inventory, config);
        Facts::default()
    }
}

/// All labels of a node. Empty where no driver works.
pub fn labels(facts: &Facts, config: &Config) -> BTreeMap<String, String> {
    let _ = (facts, config);
    BTreeMap::new()
}

/// True for a label that [`labels`] can have written.
pub fn is_ours(key: &str) -> bool {
    let _ = key;
    false
}
