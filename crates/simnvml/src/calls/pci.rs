//! The bus, and how cards lie to each other.

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlPciInfo_t, nvmlPciInfoExt_t};

use crate::abi::{Answer, INVALID_ARGUMENT, NOT_SUPPORTED, Out, array, nvml, version_word};
use crate::state::{Handles, Tag, handle};
use crate::view::{Gpu, View};

/// nvmlPciInfo_t: the short form of the address has four digits of domain.
pub(crate) fn info(gpu: &Gpu) -> nvmlPciInfo_t {
    let (domain, bus, device) = gpu.at();
    nvmlPciInfo_t {
        busIdLegacy: array(&format!("{domain:04X}:{bus:02X}:{device:02X}.0")),
        domain,
        bus,
        device,
        pciDeviceId: (gpu.card.device << 16) | 0x10de,
        pciSubSystemId: gpu.card.subsystem,
        busId: array(&gpu.bus_id()),
    }
}

fn pci(view: &View, device: nvmlDevice_t, out: Out<nvmlPciInfo_t>) -> Answer {
    out.put(info(view.gpu_of(device)?))
}

/// Megatransfers a second of a generation.
fn speed(generation: u32) -> u32 {
    match generation {
        0 | 1 => 2500,
        2 => 5000,
        3 => 8000,
        4 => 16000,
        _ => 32000,
    }
}

/// nvmlGpuTopologyLevel_t of two cards: cards with NVLink are on switches of their own (50 node), others on one bridge (30).
fn level(one: &Gpu, other: &Gpu) -> u32 {
    match (one.index == other.index, one.card.nvlinks > 0) {
        (true, _) => 0,
        (_, true) => 50,
        _ => 30,
    }
}

nvml! {
    fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, out: Out<nvmlPciInfo_t>) |view| { pci(view, device, out) }
    fn nvmlDeviceGetPciInfo_v2(device: nvmlDevice_t, out: Out<nvmlPciInfo_t>) |view| { pci(view, device, out) }
    fn nvmlDeviceGetPciInfoExt(device: nvmlDevice_t, out: Out<nvmlPciInfoExt_t>) |view| {
        let gpu = view.gpu(device)?;
        out.versioned(1)?;
        let (domain, bus, slot) = gpu.at();
        out.put(nvmlPciInfoExt_t {
            version: version_word::<nvmlPciInfoExt_t>(1),
            domain,
            bus,
            device: slot,
            pciDeviceId: (gpu.card.device << 16) | 0x10de,
            pciSubSystemId: gpu.card.subsystem,
            baseClass: 3,
            subClass: if gpu.card.display { 0 } else { 2 },
            busId: array(&gpu.bus_id()),
        })
    }

    fn nvmlDeviceGetMaxPcieLinkGeneration(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(view.gpu(device)?.card.pcie.max_gen)
    }
    fn nvmlDeviceGetGpuMaxPcieLinkGeneration(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(view.gpu(device)?.card.pcie.max_gen)
    }
    fn nvmlDeviceGetMaxPcieLinkWidth(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(view.gpu(device)?.card.pcie.max_width)
    }
    fn nvmlDeviceGetCurrPcieLinkGeneration(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(view.gpu(device)?.card.pcie.gen_now)
    }
    fn nvmlDeviceGetCurrPcieLinkWidth(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(view.gpu(device)?.card.pcie.width)
    }
    /// KB/s: 0 sent, 1 received.
    fn nvmlDeviceGetPcieThroughput(device: nvmlDevice_t, counter: u32, out: Out<u32>) |view| {
        let pcie = &view.gpu(device)?.card.pcie;
        match counter {
            0 => out.put(pcie.tx_kib),
            1 => out.put(pcie.rx_kib),
            _ => Err(INVALID_ARGUMENT),
        }
    }
    fn nvmlDeviceGetPcieReplayCounter(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(view.gpu(device)?.card.pcie.replays)
    }
    /// Megabytes a second and lane, as its header numbers them: an enumeration of 2500 to 64000 MT/s, one for each.
    fn nvmlDeviceGetPcieLinkMaxSpeed(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(view.gpu(device)?.card.pcie.max_gen)
    }
    fn nvmlDeviceGetPcieSpeed(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(speed(view.gpu(device)?.card.pcie.gen_now))
    }
    /// 2: PCIe.
    fn nvmlDeviceGetBusType(device: nvmlDevice_t, out: Out<u32>) |view| { view.gpu(device)?; out.put(2) }
    fn nvmlDeviceGetIrqNum(device: nvmlDevice_t, out: Out<u32>) |view| { out.put(40 + view.gpu(device)?.index) }

    fn nvmlDeviceGetTopologyCommonAncestor(one: nvmlDevice_t, other: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(level(view.gpu(one)?, view.gpu(other)?))
    }
    /// Those that are this near or nearer, without the card itself.
    fn nvmlDeviceGetTopologyNearestGpus(device: nvmlDevice_t, near: u32, count: Out<u32>, out: Out<nvmlDevice_t>) |view| {
        let gpu = view.gpu(device)?;
        let found = view.gpus.iter().filter(|other| other.index != gpu.index && level(gpu, other) == near);
        let found: Vec<nvmlDevice_t> = found.map(|other| handle(Tag::Device, other.index, 0)).collect();
        if out.is_null() {
            return count.put(u32::try_from(found.len()).unwrap_or(u32::MAX));
        }
        out.list(count, &found)
    }
    /// 0 well: between cards that have NVLink; 1 where the chipset does not.
    fn nvmlDeviceGetP2PStatus(one: nvmlDevice_t, other: nvmlDevice_t, index: u32, out: Out<u32>) |view| {
        let linked = view.gpu(one)?.card.nvlinks > 0 && view.gpu(other)?.card.nvlinks > 0;
        if index > 4 { return Err(INVALID_ARGUMENT); }
        out.put(if linked { 0 } else { 1 })
    }
    /// Bit masks of CPUs and nodes: the first sixteen CPUs, node 0.
    fn nvmlDeviceGetCpuAffinity(device: nvmlDevice_t, size: u32, out: Out<u64>) |view| {
        view.gpu(device)?;
        mask(size, out, 0xffff)
    }
    fn nvmlDeviceGetCpuAffinityWithinScope(device: nvmlDevice_t, size: u32, out: Out<u64>, _scope: u32) |view| {
        view.gpu(device)?;
        mask(size, out, 0xffff)
    }
    fn nvmlDeviceGetMemoryAffinity(device: nvmlDevice_t, size: u32, out: Out<u64>, _scope: u32) |view| {
        view.gpu(device)?;
        mask(size, out, 1)
    }
    fn nvmlDeviceGetNumaNodeId(device: nvmlDevice_t, _node: Out<u32>) |view| { view.gpu(device)?; Err(NOT_SUPPORTED) }
}

/// A mask's first word, and zeros after it.
fn mask(size: u32, out: Out<u64>, first: u64) -> Answer {
    if size == 0 {
        return Err(INVALID_ARGUMENT);
    }
    (0..(size as usize).min(1024)).try_for_each(|n| out.at(n).put(if n == 0 { first } else { 0 }))
}
