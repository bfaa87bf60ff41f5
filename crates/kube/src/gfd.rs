//! The labels of GPU feature discovery, as a pure function: `nvidia.com/gpu.product` and the rest.
//!
//! Source: the README of NVIDIA's gpu-feature-discovery (part of k8s-device-plugin), and what it writes.

mod labels;
mod vgpu;

use gpu::Inventory;
use machine::nvml::{NvmlLinks, NvmlMigDevice};
use machine::{Machine, MachineExt as _};
use model::Seen;

use crate::plugin::{self, Config, Found};

pub use labels::{is_ours, labels};

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
    /// Of an inventory (of [`gpu::observe_all`], where a card is cut by MIG or sits in a fabric) and what of it can be offered;
    /// reads the machine's name, and of a vGPU its function's configuration space. The timestamp is the caller's.
    pub fn observe(machine: &dyn Machine, inventory: &Inventory, found: &Found, config: &Config) -> Facts {
        let report = inventory.nvml.get();
        let mut cards = Vec::new();
        for gpu in found.gpus.iter().filter(|gpu| gpu.withheld.is_none() && config.lets(gpu)) {
            let Some(card) = inventory.card(gpu.bdf) else { continue };
            cards.push(observed(gpu, card, config));
        }
        let name = machine.value(&config.labels.machine_type_file).is();
        let awake = |card: &&gpu::Card| card.power.get().is_none_or(|state| !state.starts_with("D3"));
        let vgpu = inventory.nvidia().filter(awake).find_map(|card| vgpu::observe(machine, card.identity.bdf));
        Facts {
            driver: report.filter(|_| found.nvml).and_then(|report| report.driver_version.get().cloned()),
            cuda: report.and_then(|report| report.cuda_version.get().copied()),
            machine: name.filter(|name| !name.is_empty()),
            cards,
            vgpu,
            timestamp: None,
        }
    }
}

fn observed(gpu: &plugin::Gpu, card: &gpu::Card, config: &Config) -> Card {
    let nvml = card.nvml.as_deref();
    // a fabric of one machine has no number: all of them would look like one
    let in_fabric = |links: &NvmlLinks| {
        let is = |seen: &Seen<String>, wanted: &str| seen.get().is_some_and(|text| text == wanted);
        let cluster = links.cluster.get().filter(|id| id.chars().any(|c| c.is_ascii_hexdigit() && c != '0'))?;
        (is(&links.state, "Completed") && is(&links.status, "Success"))
            .then_some((cluster.clone(), *links.clique.get()?))
    };
    let fabric = nvml.and_then(|gpu| gpu.nvlink.get()).and_then(|links| in_fabric(links));
    let devices = nvml.and_then(|gpu| gpu.mig.get()).and_then(|mig| mig.devices.get());
    let wanted = gpu.parts.iter().filter(|part| config.lets_part(gpu, part));
    let part = |part: &plugin::Part| {
        let device = devices.into_iter().flatten().find(|device| device.index == part.index);
        let number = |get: fn(&NvmlMigDevice) -> &Seen<u32>| device.and_then(|device| get(device).get().copied());
        let (gi, ci) = slices(&part.profile);
        Part {
            profile: part.profile.clone(),
            memory: device.and_then(|device| device.memory_total.get()).map(|bytes| bytes >> 20),
            multiprocessors: number(|device| &device.multiprocessors),
            slices_gi: gi,
            slices_ci: ci,
            copy: number(|device| &device.copy_engines),
            decoder: number(|device| &device.decoders),
            encoder: number(|device| &device.encoders),
            jpeg: number(|device| &device.jpegs),
            ofa: number(|device| &device.ofas),
        }
    };
    let compute = nvml.and_then(|gpu| gpu.compute_capability.get().copied());
    Card {
        product: gpu.product.clone(),
        // what has no memory of its own reports none, or 0
        memory: nvml.and_then(|gpu| gpu.memory_total.get()).map(|bytes| bytes >> 20).filter(|mib| *mib > 0),
        compute: compute.and_then(|(major, minor)| Some((u32::try_from(major).ok()?, u32::try_from(minor).ok()?))),
        class: Some(card.class >> 8),
        mig: gpu.mig,
        mig_capable: gpu.mig || nvml.is_some_and(|gpu| gpu.mig_enabled.is_there()),
        fabric,
        parts: wanted.map(part).collect(),
    }
}

/// Compute slices of the GPU instance and of the compute instance: of "3g.20gb" 3 and 3, of "1c.3g.20gb" 3 and 1.
fn slices(profile: &str) -> (Option<u32>, Option<u32>) {
    let number = |part: &str, letter: char| part.strip_suffix(letter).and_then(|digits| digits.parse().ok());
    let mut parts = profile.split(['.', '+']);
    let first = parts.next().unwrap_or_default();
    match number(first, 'c') {
        Some(ci) => (parts.next().and_then(|part| number(part, 'g')), Some(ci)),
        None => (number(first, 'g'), number(first, 'g')),
    }
}

#[cfg(test)]
mod tests;
