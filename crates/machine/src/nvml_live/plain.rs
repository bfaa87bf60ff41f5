//! What is asked of a card always.

use std::collections::BTreeMap;

use cuda::nvml::{Calls, Device as Own, NvmlCode, RunningProcess};
use model::Seen;
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{
    Brand, Clock, ComputeMode, EccCounter, GpuVirtualizationMode, MemoryError, TemperatureSensor,
};
use nvml_wrapper::enums::device::{DeviceArchitecture, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;

use super::{said, seen};
use crate::nvml::{NvmlGpu, NvmlHealth, NvmlProcess, not_asked};

/// The same device for the calls that nvml-wrapper does not make.
#[allow(unsafe_code, reason = "nvml-wrapper gives its handle by an unsafe call")]
pub(super) fn own<'a>(device: &'a Device<'_>, calls: &'a Calls) -> Own<'a> {
    // SAFETY: the handle is a live device's, whose NVML is initialised for as long as it is borrowed here.
    unsafe { calls.device(device.handle().cast()) }
}

/// All that is asked always.
pub(super) fn one(index: u32, device: &Device<'_>, calls: &Calls) -> NvmlGpu {
    let mut gpu = identity(index, device, calls);
    settings(&mut gpu, device, calls);
    now(&mut gpu, device, calls);
    gpu
}

/// What stays as it is for as long as NVML is open.
fn identity(index: u32, device: &Device<'_>, calls: &Calls) -> NvmlGpu {
    let pci = seen(device.pci_info());
    NvmlGpu {
        bus_id: pci.as_ref().map(|pci| pci.bus_id.clone()),
        pci_device_id: pci.as_ref().map(|pci| pci.pci_device_id),
        pci_subsystem_id: pci.and_then(|pci| pci.pci_sub_system_id.into()),
        name: seen(device.name()),
        uuid: seen(device.uuid()),
        serial: seen(device.serial()),
        minor: seen(device.minor_number()),
        vbios: seen(device.vbios_version()),
        architecture: seen(device.architecture()).and_then(|arch| match arch {
            DeviceArchitecture::Unknown => Seen::Absent,
            known => Seen::Is(format!("{known:?}")),
        }),
        brand: seen(device.brand()).and_then(|known| brand(&known)),
        compute_capability: seen(device.cuda_compute_capability()).map(|version| (version.major, version.minor)),
        virtualization: seen(device.virtualization_mode()).map(|mode| virtualization(&mode).into()),
        bar1_total: said(own(device, calls).bar1()).map(|bar| bar.bar1Total),
        pcie_gen_max: seen(device.max_pcie_link_gen()),
        pcie_width_max: seen(device.max_pcie_link_width()),
        board: not_asked(),
        errors: not_asked(),
        clocks: not_asked(),
        power: not_asked(),
        heat: not_asked(),
        pcie: not_asked(),
        engines: not_asked(),
        nvlink: not_asked(),
        mig: not_asked(),
        ..NvmlGpu::blank(index)
    }
}

/// What somebody sets, what is counted over days, and how far the BAR is used.
fn settings(gpu: &mut NvmlGpu, device: &Device<'_>, calls: &Calls) {
    let own = own(device, calls);
    let bar1 = said(own.bar1());
    gpu.bar1_used = bar1.as_ref().map(|bar| bar.bar1Used);
    gpu.bar1_free = bar1.map(|bar| bar.bar1Free);
    gpu.persistence = seen(device.is_in_persistent_mode());
    gpu.display_active = seen(device.is_display_active());
    gpu.compute_mode = seen(device.compute_mode()).map(|mode| compute_mode(&mode).into());
    let ecc = said(own.ecc_mode());
    gpu.ecc_enabled = ecc.as_ref().map(|(now, _)| *now != 0);
    let mig = said(own.mig_mode());
    gpu.mig_enabled = mig.as_ref().map(|(now, _)| *now != 0);
    let pending = |mode: Seen<(u32, u32)>| mode.map(|(_, pending)| pending != 0);
    gpu.health = Seen::Is(Box::new(health(&own, pending(mig), pending(ecc))));
}

/// What changes, into a card whose identity is known.
pub(super) fn now(gpu: &mut NvmlGpu, device: &Device<'_>, calls: &Calls) {
    let own = own(device, calls);
    let memory = seen(device.memory_info());
    // Drivers before 510 have the first form alone, which does not tell what is reserved.
    let old = if matches!(memory, Seen::Absent) { said(own.memory()) } else { Seen::Absent };
    gpu.memory_total = newest(memory.as_ref().map(|memory| memory.total), || old.as_ref().map(|memory| memory.total));
    gpu.memory_used = newest(memory.as_ref().map(|memory| memory.used), || old.as_ref().map(|memory| memory.used));
    gpu.memory_free = newest(memory.as_ref().map(|memory| memory.free), || old.as_ref().map(|memory| memory.free));
    gpu.memory_reserved = memory.map(|memory| memory.reserved);
    let utilization = seen(device.utilization_rates());
    gpu.utilization_gpu = utilization.as_ref().map(|use_of| use_of.gpu);
    gpu.utilization_memory = utilization.map(|use_of| use_of.memory);
    gpu.utilization_encoder = seen(device.encoder_utilization()).map(|use_of| use_of.utilization);
    gpu.utilization_decoder = seen(device.decoder_utilization()).map(|use_of| use_of.utilization);
    gpu.temperature = seen(device.temperature(TemperatureSensor::Gpu));
    // A passively cooled card has no fan 0; an H100 calls that an invalid argument (seen with driver 580).
    gpu.fan = match device.fan_speed(0) {
        Err(NvmlError::InvalidArg) => Seen::Absent,
        speed => seen(speed),
    };
    gpu.power_draw = seen(device.power_usage());
    // What is enforced counts the card's own and outside limits; some cards tell only one of the two.
    gpu.power_limit = match seen(device.enforced_power_limit()) {
        Seen::Is(limit) => Seen::Is(limit),
        _ => seen(device.power_management_limit()),
    };
    gpu.pstate = seen(device.performance_state()).map(|state| state.as_c()).and_then(|state| match state {
        0..=15 => Seen::Is(state),
        _ => Seen::Absent,
    });
    gpu.ecc_uncorrected_volatile = seen(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile));
    gpu.clock_graphics = seen(device.clock_info(Clock::Graphics));
    gpu.clock_sm = seen(device.clock_info(Clock::SM));
    gpu.clock_memory = seen(device.clock_info(Clock::Memory));
    gpu.clock_video = seen(device.clock_info(Clock::Video));
    gpu.pcie_gen_current = seen(device.current_pcie_link_gen());
    gpu.pcie_width_current = seen(device.current_pcie_link_width());
    gpu.encoder_sessions = seen(device.encoder_stats()).map(|stats| stats.session_count);
    gpu.processes = processes(
        newest(seen(device.running_compute_processes()), || seen(device.running_compute_processes_v2())),
        newest(seen(device.running_graphics_processes()), || seen(device.running_graphics_processes_v2())),
        own.mps_processes().unwrap_or_default(),
    );
    if let Seen::Is(health) = &mut gpu.health {
        health.event_reasons = newest(said(own.event_reasons()), || said(own.throttle_reasons()));
    }
}

/// The first answer, or where the driver has not that form of the call the second.
pub(super) fn newest<T>(first: Seen<T>, second: impl FnOnce() -> Seen<T>) -> Seen<T> {
    if matches!(first, Seen::Absent) { second() } else { first }
}

/// NVML_FI_DEV_RETIRED_SBE, RETIRED_DBE, RETIRED_PENDING, GET_GPU_RECOVERY_ACTION.
const FIELDS: [(u32, u32); 4] = [(29, 0), (30, 0), (31, 0), (230, 0)];

fn health(own: &Own<'_>, mig_pending: Seen<bool>, ecc_pending: Seen<bool>) -> NvmlHealth {
    let fields = own.fields(&FIELDS);
    let [single, double, pending, recovery] = [0, 1, 2, 3].map(|n| field(&fields, n));
    let small = |number: Seen<i64>| number.map(|number| u32::try_from(number).unwrap_or(0));
    let rows = said(own.remapped());
    NvmlHealth {
        ecc_pending,
        corrected_volatile: said(own.ecc_total(0, 0)),
        corrected_aggregate: said(own.ecc_total(0, 1)),
        uncorrected_aggregate: said(own.ecc_total(1, 1)),
        retired_single: small(single),
        retired_double: small(double),
        retired_pending: pending.map(|number| number != 0),
        remapped_corrected: rows.as_ref().map(|rows| rows.0),
        remapped_uncorrected: rows.as_ref().map(|rows| rows.1),
        remapped_pending: rows.as_ref().map(|rows| rows.2),
        remapped_failed: rows.map(|rows| rows.3),
        event_reasons: Seen::Absent,
        mig_pending,
        recovery: recovery.map(|action| {
            match action {
                0 => "None",
                1 => "Reset",
                2 => "Reboot",
                3 => "Drain P2P",
                4 => "Drain and Reset",
                5 => "Recover IMEX Domain",
                6 => "Bus Reset",
                7 => "System Reboot",
                _ => "Unknown",
            }
            .into()
        }),
        pcie_gen_max_card: said(own.pcie_gen_max_card()),
    }
}

/// One of a list of fields. A field's number that the driver does not know is what it does not have.
pub(super) fn field(fields: &Result<Vec<Result<i64, NvmlCode>>, NvmlCode>, n: usize) -> Seen<i64> {
    match fields {
        Ok(list) => match list.get(n) {
            Some(Err(NvmlCode::INVALID_ARGUMENT)) | None => Seen::Absent,
            Some(one) => said(*one),
        },
        Err(code) => said(Err(*code)),
    }
}

/// One list of all kinds: a process with a compute and a graphics context in the same instance is "C+G", and one that computes
/// through an MPS server "M+C".
pub(super) fn processes(
    compute: Seen<Vec<ProcessInfo>>,
    graphics: Seen<Vec<ProcessInfo>>,
    mps: Vec<RunningProcess>,
) -> Seen<Vec<NvmlProcess>> {
    // A card without graphics (or an old driver) does not have the second list; that is no reason to lose the first.
    let (compute, graphics) = match (compute, graphics) {
        (Seen::Unreadable(reason), _) | (_, Seen::Unreadable(reason)) => return Seen::Unreadable(reason),
        (Seen::Absent, Seen::Absent) => return Seen::Absent,
        (compute, graphics) => (compute.is().unwrap_or_default(), graphics.is().unwrap_or_default()),
    };
    let known = |process: ProcessInfo| RunningProcess {
        pid: process.pid,
        memory: match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
        gpu_instance: process.gpu_instance_id,
        compute_instance: process.compute_instance_id,
    };
    let compute = compute.into_iter().map(known).collect();
    let graphics = graphics.into_iter().map(known).collect();
    let mut all: BTreeMap<(u32, Option<u32>, Option<u32>), NvmlProcess> = BTreeMap::new();
    for (list, kind) in [(compute, "C"), (graphics, "G"), (mps, "M+C")] {
        for process in list {
            let RunningProcess { pid, memory, gpu_instance, compute_instance } = process;
            match all.get_mut(&(pid, gpu_instance, compute_instance)) {
                Some(known) if known.kind == kind => {}
                Some(known) if kind == "M+C" => known.kind = kind.into(),
                Some(known) => known.kind = "C+G".into(),
                None => {
                    let mut process = NvmlProcess::blank(pid, kind);
                    process.memory = memory.into();
                    process.gpu_instance = gpu_instance.into();
                    process.compute_instance = compute_instance.into();
                    all.insert((pid, gpu_instance, compute_instance), process);
                }
            }
        }
    }
    Seen::Is(all.into_values().collect())
}

/// As nvidia-smi spells them.
fn brand(brand: &Brand) -> Seen<String> {
    Seen::Is(match brand {
        Brand::Unknown => return Seen::Absent,
        Brand::Nvidia => "NVIDIA".into(),
        Brand::NvidiaRTX => "NVIDIA RTX".into(),
        Brand::QuadroRTX => "Quadro RTX".into(),
        other => format!("{other:?}"),
    })
}

fn virtualization(mode: &GpuVirtualizationMode) -> &'static str {
    match mode {
        GpuVirtualizationMode::Bare => "None",
        GpuVirtualizationMode::PassThrough => "Pass-Through",
        GpuVirtualizationMode::Vgpu => "vGPU",
        GpuVirtualizationMode::HostVgpu => "Host vGPU",
        GpuVirtualizationMode::HostVsga => "Host vSGA",
    }
}

fn compute_mode(mode: &ComputeMode) -> &'static str {
    match mode {
        ComputeMode::Default => "Default",
        ComputeMode::ExclusiveThread => "Exclusive_Thread",
        ComputeMode::Prohibited => "Prohibited",
        ComputeMode::ExclusiveProcess => "Exclusive_Process",
    }
}

#[cfg(test)]
mod tests {
    use model::Reason;

    use super::*;

    #[test]
    fn contexts_of_one_process_are_one_line() {
        let process = |pid, bytes| ProcessInfo {
            pid,
            used_gpu_memory: UsedGpuMemory::Used(bytes),
            gpu_instance_id: None,
            compute_instance_id: None,
        };
        let list = processes(Seen::Is(vec![process(9, 1), process(3, 2)]), Seen::Is(vec![process(9, 1)]), Vec::new());
        let list: Vec<(u32, String)> = list.is().into_iter().flatten().map(|p| (p.pid, p.kind)).collect();
        assert_eq!(list, [(3, "C".into()), (9, "C+G".into())]);
        assert_eq!(processes(Seen::Absent, Seen::Absent, Vec::new()), Seen::Absent);
        assert_eq!(processes(Seen::Is(Vec::new()), Seen::Absent, Vec::new()), Seen::Is(Vec::new()));
        assert!(processes(Seen::Is(Vec::new()), Seen::Unreadable(Reason::TimedOut), Vec::new()).unreadable().is_some());
    }
}
