//! Memory: of the card, of a MIG device, of the BAR.

use nvml_wrapper_sys::bindings::{
    nvmlBAR1Memory_t, nvmlConfComputeMemSizeInfo_t, nvmlConfComputeSystemState_t, nvmlDevice_t, nvmlMemory_t,
    nvmlMemory_v2_t,
};

use crate::abi::{Answer, NOT_SUPPORTED, Out, nvml, version_word, zeroed};
use crate::state::{Device, Handles};
use crate::view::View;

/// (total, reserved, used) in bytes.
fn sizes(view: &View, device: nvmlDevice_t) -> Answer<(u64, u64, u64)> {
    Ok(match view.device(device)? {
        Device::Whole(gpu) => (gpu.total(), gpu.card.reserved_mib << 20, gpu.card.used_mib << 20),
        Device::Mig(gpu, instance) => {
            let total = gpu.profile(instance).ok_or(NOT_SUPPORTED)?.memory_mib << 20;
            (total, 0, (instance.used_mib << 20).min(total))
        }
    })
}

nvml! {
    /// Version 1 counts what the driver keeps as used.
    fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: Out<nvmlMemory_t>) |view| {
        let (total, reserved, used) = sizes(view, device)?;
        memory.put(nvmlMemory_t { total, free: total - reserved - used, used: reserved + used })
    }

    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: Out<nvmlMemory_v2_t>) |view| {
        let (total, reserved, used) = sizes(view, device)?;
        memory.versioned(2)?;
        let version = version_word::<nvmlMemory_v2_t>(2);
        memory.put(nvmlMemory_v2_t { version, total, reserved, free: total - reserved - used, used })
    }

    fn nvmlDeviceGetBAR1MemoryInfo(device: nvmlDevice_t, bar: Out<nvmlBAR1Memory_t>) |view| {
        let card = &view.gpu_of(device)?.card;
        let (total, used) = (card.bar1_mib << 20, card.bar1_used_mib.min(card.bar1_mib) << 20);
        bar.put(nvmlBAR1Memory_t { bar1Total: total, bar1Free: total - used, bar1Used: used })
    }

    fn nvmlDeviceGetConfComputeMemSizeInfo(device: nvmlDevice_t, size: Out<nvmlConfComputeMemSizeInfo_t>) |view| {
        let gpu = view.gpu(device)?;
        if gpu.card.architecture < 9 {
            return Err(NOT_SUPPORTED);
        }
        size.put(nvmlConfComputeMemSizeInfo_t { protectedMemSizeKib: 0, unprotectedMemSizeKib: gpu.total() >> 10 })
    }
    fn nvmlDeviceGetConfComputeProtectedMemoryUsage(device: nvmlDevice_t, memory: Out<nvmlMemory_t>) |view| {
        if view.gpu(device)?.card.architecture < 9 {
            return Err(NOT_SUPPORTED);
        }
        memory.put(nvmlMemory_t { total: 0, free: 0, used: 0 })
    }
    fn nvmlSystemGetConfComputeState(state: Out<nvmlConfComputeSystemState_t>) |_| { state.put(zeroed()) }
}
