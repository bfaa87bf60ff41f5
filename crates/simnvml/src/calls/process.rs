//! Who uses a card. Numbers are those of the first PID namespace, as the driver's.

use nvml_wrapper_sys::bindings::{
    nvmlAccountingStats_t, nvmlDevice_t, nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t, nvmlProcessUtilizationSample_t,
};

use crate::abi::{Answer, NOT_FOUND, NOT_SUPPORTED, Out, nvml};
use crate::card::Process;
use crate::state::{Device, Handles};
use crate::view::View;

/// "Not available": all ones.
const NONE: u32 = u32::MAX;

/// The processes of a kind on a device: on a MIG device its own, on a card all.
fn of(view: &View, device: nvmlDevice_t, kind: &str) -> Answer<Vec<Process>> {
    let (gpu, only) = match view.device(device)? {
        Device::Whole(gpu) => (gpu, None),
        Device::Mig(gpu, instance) => (gpu, Some(instance.gi)),
    };
    let here = |process: &&Process| process.kind == kind && only.is_none_or(|gi| process.gi == Some(gi));
    Ok(gpu.card.processes.iter().filter(here).cloned().collect())
}

fn memory(process: &Process) -> u64 {
    process.memory_mib.map_or(u64::MAX, |mib| mib << 20)
}

fn old(view: &View, device: nvmlDevice_t, kind: &str, count: Out<u32>, out: Out<nvmlProcessInfo_v1_t>) -> Answer {
    let list = of(view, device, kind)?;
    let list: Vec<_> = list.iter().map(|it| nvmlProcessInfo_v1_t { pid: it.pid, usedGpuMemory: memory(it) }).collect();
    out.list(count, &list)
}

/// The second form, which the third has again since a release of branch 535.
fn new(view: &View, device: nvmlDevice_t, kind: &str, count: Out<u32>, out: Out<nvmlProcessInfo_v2_t>) -> Answer {
    let list = of(view, device, kind)?;
    let info = |it: &Process| nvmlProcessInfo_v2_t {
        pid: it.pid,
        usedGpuMemory: memory(it),
        gpuInstanceId: it.gi.unwrap_or(NONE),
        computeInstanceId: it.gi.map_or(NONE, |_| 0),
    };
    out.list(count, &list.iter().map(info).collect::<Vec<_>>())
}

macro_rules! lists {
    ($($kind:literal: $one:ident $two:ident $three:ident;)*) => {$(
        nvml! {
            fn $one(device: nvmlDevice_t, count: Out<u32>, out: Out<nvmlProcessInfo_v1_t>) |view| {
                old(view, device, $kind, count, out)
            }
            fn $two(device: nvmlDevice_t, count: Out<u32>, out: Out<nvmlProcessInfo_v2_t>) |view| {
                new(view, device, $kind, count, out)
            }
            fn $three(device: nvmlDevice_t, count: Out<u32>, out: Out<nvmlProcessInfo_v2_t>) |view| {
                new(view, device, $kind, count, out)
            }
        }
    )*};
}
lists! {
    "C": nvmlDeviceGetComputeRunningProcesses nvmlDeviceGetComputeRunningProcesses_v2
        nvmlDeviceGetComputeRunningProcesses_v3;
    "G": nvmlDeviceGetGraphicsRunningProcesses nvmlDeviceGetGraphicsRunningProcesses_v2
        nvmlDeviceGetGraphicsRunningProcesses_v3;
    "M": nvmlDeviceGetMPSComputeRunningProcesses nvmlDeviceGetMPSComputeRunningProcesses_v2
        nvmlDeviceGetMPSComputeRunningProcesses_v3;
}

/// Microseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

nvml! {
    /// NOT_FOUND where nothing ran since then, which is no error to a client. Not of cards that are cut up.
    fn nvmlDeviceGetProcessUtilization(
        device: nvmlDevice_t, out: Out<nvmlProcessUtilizationSample_t>, count: Out<u32>, last: u64
    ) |view| {
        let gpu = view.gpu(device)?;
        if gpu.mig_enabled() { return Err(NOT_SUPPORTED); }
        let now = now();
        let sample = |it: &Process| it.sm.map(|sm| nvmlProcessUtilizationSample_t {
            pid: it.pid,
            timeStamp: now,
            smUtil: sm,
            memUtil: it.mem,
            encUtil: it.enc,
            decUtil: it.dec,
        });
        let samples: Vec<_> = gpu.card.processes.iter().filter_map(sample).collect();
        if samples.is_empty() || last > now {
            count.put(0)?;
            return Err(NOT_FOUND);
        }
        out.list(count, &samples)
    }

    fn nvmlDeviceGetAccountingMode(device: nvmlDevice_t, mode: Out<u32>) |view| { view.gpu(device)?; mode.put(0) }
    fn nvmlDeviceGetAccountingBufferSize(device: nvmlDevice_t, size: Out<u32>) |view| { view.gpu(device)?; size.put(4000) }
    fn nvmlDeviceGetAccountingPids(device: nvmlDevice_t, count: Out<u32>, pids: Out<u32>) |view| {
        view.gpu(device)?;
        pids.list(count, &[])
    }
    /// Accounting is off, so nobody is found.
    fn nvmlDeviceGetAccountingStats(device: nvmlDevice_t, _pid: u32, _stats: Out<nvmlAccountingStats_t>) |view| {
        view.gpu(device)?;
        Err(NOT_FOUND)
    }
}
