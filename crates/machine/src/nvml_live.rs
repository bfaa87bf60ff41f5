//! NVML by dlopen: the driver's own library, asked once, with a time limit.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::mpsc;
use std::time::Duration;

use model::{Reason, Seen};
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{
    Brand, Clock, ComputeMode, EccCounter, GpuVirtualizationMode, MemoryError, TemperatureSensor,
};
use nvml_wrapper::enums::device::{DeviceArchitecture, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, cuda_driver_version_major, cuda_driver_version_minor};

use crate::nvml::{NvmlGpu, NvmlProcess, NvmlReport};
use crate::{Answer, Machine, MachineExt as _};

/// A driver that hangs (a card fell off the bus) must not hang us. Eight cards without persistence need a second.
const LIMIT: Duration = Duration::from_secs(5);

/// The report of this machine's NVML. Absent: no driver runs, or its library is not installed.
pub(crate) fn ask(machine: &dyn Machine) -> Seen<Answer> {
    let node = machine.stat("/dev/nvidiactl");
    if !node.is_there() {
        if !machine.exists("/proc/driver/nvidia") {
            return Seen::Absent;
        }
        // NVML's start would call nvidia-modprobe to make the node: looking must not change the machine.
        let why = "the driver runs, but /dev/nvidiactl is not there (asking NVML would create it)";
        return Seen::Unreadable(Reason::Other(why.into()));
    }
    limited(LIMIT, || report(&cuda::places("libnvidia-ml.so.1"))).map(|mut report| {
        name_processes(machine, &mut report);
        Answer::Nvml(Box::new(report))
    })
}

/// Runs it in a thread of its own and waits so long. A thread that hangs in the driver is left behind; nothing could
/// stop it.
pub(crate) fn limited<T: Send + 'static>(limit: Duration, look: impl FnOnce() -> Seen<T> + Send + 'static) -> Seen<T> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("driver".into()).spawn(move || {
        let _ = sender.send(look());
    });
    if let Err(error) = thread {
        return Seen::Unreadable(Reason::Other(error.to_string()));
    }
    match receiver.recv_timeout(limit) {
        Ok(seen) => seen,
        Err(mpsc::RecvTimeoutError::Timeout) => Seen::Unreadable(Reason::TimedOut),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Seen::Unreadable(Reason::Other("the driver's reader failed".into()))
        }
    }
}

fn report(libraries: &[String]) -> Seen<NvmlReport> {
    let nvml = match open(libraries) {
        Seen::Is(nvml) => nvml,
        Seen::Absent => return Seen::Absent,
        Seen::Unreadable(reason) => return Seen::Unreadable(reason),
    };
    let count = match nvml.device_count() {
        Ok(count) => count,
        Err(error) => return Seen::Unreadable(reason(&error)),
    };
    Seen::Is(NvmlReport {
        driver_version: seen(nvml.sys_driver_version()),
        nvml_version: seen(nvml.sys_nvml_version()),
        cuda_version: seen(nvml.sys_cuda_driver_version()).map(|version| {
            let part = |number: i32| u32::try_from(number).unwrap_or(0);
            (part(cuda_driver_version_major(version)), part(cuda_driver_version_minor(version)))
        }),
        gpus: (0..count)
            .map(|index| match nvml.device_by_index(index) {
                Ok(device) => one(index, &device),
                // A card that fell off the bus is still one that is there, of which nothing can be seen.
                Err(error) => lost(index, &reason(&error)),
            })
            .collect(),
    })
}

fn open(libraries: &[String]) -> Seen<Nvml> {
    let mut trouble = None;
    for library in libraries {
        match Nvml::builder().lib_path(OsStr::new(library)).init() {
            Ok(nvml) => return Seen::Is(nvml),
            Err(NvmlError::LibloadingError(error)) => {
                let text = error.to_string();
                // Found and not loadable (another architecture, an unreadable file) is worth a word.
                if !text.contains("No such file") {
                    trouble.get_or_insert(Reason::Other(text));
                }
            }
            Err(NvmlError::DriverNotLoaded) => return Seen::Absent,
            Err(error) => return Seen::Unreadable(reason(&error)),
        }
    }
    trouble.map_or(Seen::Absent, Seen::Unreadable)
}

/// NVML's answer as an observation: what the card or this driver does not have is absent.
fn seen<T>(result: Result<T, NvmlError>) -> Seen<T> {
    match result {
        Ok(value) => Seen::Is(value),
        Err(
            NvmlError::NotSupported
            | NvmlError::NotFound
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_),
        ) => Seen::Absent,
        Err(error) => Seen::Unreadable(reason(&error)),
    }
}

fn reason(error: &NvmlError) -> Reason {
    match error {
        NvmlError::NoPermission => Reason::PermissionDenied,
        NvmlError::Timeout => Reason::TimedOut,
        NvmlError::LibRmVersionMismatch => {
            Reason::Other("NVML: the library and the loaded kernel module have different versions".into())
        }
        NvmlError::GpuLost => Reason::Other("NVML: the GPU has fallen off the bus".into()),
        NvmlError::ResetRequired => Reason::Other("NVML: the GPU must be reset before it can be used again".into()),
        NvmlError::OperatingSystem => {
            Reason::Other("NVML: the operating system or the device cgroup denies access to the GPU".into())
        }
        other => Reason::Other(format!("NVML: {other}")),
    }
}

fn one(index: u32, device: &Device<'_>) -> NvmlGpu {
    let pci = seen(device.pci_info());
    let memory = seen(device.memory_info());
    // Drivers before 510 have the first form alone, which does not tell what is reserved.
    let old = if matches!(memory, Seen::Absent) { old_memory(device) } else { Seen::Absent };
    let utilization = seen(device.utilization_rates());
    NvmlGpu {
        index,
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
        memory_total: newest(memory.as_ref().map(|memory| memory.total), || old.as_ref().map(|memory| memory.total)),
        memory_used: newest(memory.as_ref().map(|memory| memory.used), || old.as_ref().map(|memory| memory.used)),
        memory_free: newest(memory.as_ref().map(|memory| memory.free), || old.as_ref().map(|memory| memory.free)),
        memory_reserved: memory.map(|memory| memory.reserved),
        bar1_total: seen(device.bar1_memory_info()).map(|bar| bar.total),
        utilization_gpu: utilization.as_ref().map(|use_of| use_of.gpu),
        utilization_memory: utilization.map(|use_of| use_of.memory),
        utilization_encoder: seen(device.encoder_utilization()).map(|use_of| use_of.utilization),
        utilization_decoder: seen(device.decoder_utilization()).map(|use_of| use_of.utilization),
        temperature: seen(device.temperature(TemperatureSensor::Gpu)),
        // A passively cooled card has no fan 0; an H100 calls that an invalid argument (seen with driver 580).
        fan: match device.fan_speed(0) {
            Err(NvmlError::InvalidArg) => Seen::Absent,
            speed => seen(speed),
        },
        power_draw: seen(device.power_usage()),
        // What is enforced counts the card's own and outside limits; some cards tell only one of the two.
        power_limit: match seen(device.enforced_power_limit()) {
            Seen::Is(limit) => Seen::Is(limit),
            _ => seen(device.power_management_limit()),
        },
        pstate: seen(device.performance_state()).map(|state| state.as_c()).and_then(|state| match state {
            0..=15 => Seen::Is(state),
            _ => Seen::Absent,
        }),
        persistence: seen(device.is_in_persistent_mode()),
        display_active: seen(device.is_display_active()),
        compute_mode: seen(device.compute_mode()).map(|mode| compute_mode(&mode).into()),
        ecc_enabled: seen(device.is_ecc_enabled()).map(|state| state.currently_enabled),
        ecc_uncorrected_volatile: seen(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)),
        mig_enabled: seen(device.mig_mode()).map(|mode| mode.current != 0),
        clock_graphics: seen(device.clock_info(Clock::Graphics)),
        clock_sm: seen(device.clock_info(Clock::SM)),
        clock_memory: seen(device.clock_info(Clock::Memory)),
        clock_video: seen(device.clock_info(Clock::Video)),
        pcie_gen_current: seen(device.current_pcie_link_gen()),
        pcie_gen_max: seen(device.max_pcie_link_gen()),
        pcie_width_current: seen(device.current_pcie_link_width()),
        pcie_width_max: seen(device.max_pcie_link_width()),
        encoder_sessions: seen(device.encoder_stats()).map(|stats| stats.session_count),
        processes: processes(
            newest(seen(device.running_compute_processes()), || seen(device.running_compute_processes_v2())),
            newest(seen(device.running_graphics_processes()), || seen(device.running_graphics_processes_v2())),
        ),
    }
}

/// A GPU that NVML counts and does not open.
/// The first answer, or where the driver has not that form of the call the second.
fn newest<T>(first: Seen<T>, second: impl FnOnce() -> Seen<T>) -> Seen<T> {
    if matches!(first, Seen::Absent) { second() } else { first }
}

#[allow(unsafe_code, reason = "nvml-wrapper gives its handle by an unsafe call")]
fn old_memory(device: &Device<'_>) -> Seen<cuda::NvmlMemory> {
    // SAFETY: the handle is a live device's, whose NVML is initialised for as long as it is borrowed here.
    Seen::from(unsafe { cuda::nvml_memory(device.handle().cast()) })
}

fn lost(index: u32, reason: &Reason) -> NvmlGpu {
    let mut gpu = NvmlGpu::blank(index);
    gpu.bus_id = Seen::Unreadable(reason.clone());
    gpu.name = Seen::Unreadable(reason.clone());
    gpu.uuid = Seen::Unreadable(reason.clone());
    gpu.memory_total = Seen::Unreadable(reason.clone());
    gpu.processes = Seen::Unreadable(reason.clone());
    gpu
}

/// One list of both kinds: a process with a compute and a graphics context is "C+G".
fn processes(compute: Seen<Vec<ProcessInfo>>, graphics: Seen<Vec<ProcessInfo>>) -> Seen<Vec<NvmlProcess>> {
    // A card without graphics (or an old driver) does not have the second list; that is no reason to lose the first.
    let (compute, graphics) = match (compute, graphics) {
        (Seen::Unreadable(reason), _) | (_, Seen::Unreadable(reason)) => return Seen::Unreadable(reason),
        (Seen::Absent, Seen::Absent) => return Seen::Absent,
        (compute, graphics) => (compute.is().unwrap_or_default(), graphics.is().unwrap_or_default()),
    };
    let mut all: BTreeMap<u32, NvmlProcess> = BTreeMap::new();
    for (list, kind) in [(compute, "C"), (graphics, "G")] {
        for process in list {
            let memory = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Seen::Is(bytes),
                UsedGpuMemory::Unavailable => Seen::Absent,
            };
            match all.get_mut(&process.pid) {
                // Several contexts of one kind (MIG slices) are one process.
                Some(known) if known.kind == kind => {}
                Some(known) => known.kind = "C+G".into(),
                None => {
                    let process = NvmlProcess { pid: process.pid, kind: kind.into(), memory, name: Seen::Absent };
                    all.insert(process.pid, process);
                }
            }
        }
    }
    Seen::Is(all.into_values().collect())
}

/// NVML's own names fail across PID namespaces; /proc says who it is here, or that nobody here has that number.
fn name_processes(machine: &dyn Machine, report: &mut NvmlReport) {
    for gpu in &mut report.gpus {
        let Seen::Is(processes) = &mut gpu.processes else { continue };
        for process in processes {
            let command = machine.text(&format!("/proc/{}/cmdline", process.pid));
            process.name = match command.map(|text| text.split('\0').next().unwrap_or_default().to_owned()) {
                Seen::Is(program) if !program.is_empty() => Seen::Is(program),
                Seen::Is(_) => machine.value(&format!("/proc/{}/comm", process.pid)),
                other => other,
            };
        }
    }
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
    use super::*;
    use crate::{FileKind, Memory, Node, NodeKind, memory};

    #[test]
    fn asks_nothing_where_no_driver_runs() {
        let mut machine = Memory::new("no driver");
        for path in ["/dev/nvidiactl", "/proc/driver/nvidia"] {
            machine.insert_gone(path, Seen::Absent);
        }
        assert_eq!(ask(&machine), Seen::Absent);
        // A driver without its node: NVML would make it, so it is not asked.
        let mut bare = Memory::new("no node");
        bare.insert_gone("/dev/nvidiactl", Seen::Absent);
        let stat = memory::stat(FileKind::Dir, 0o555, 0);
        bare.insert("/proc/driver/nvidia", Node { stat, kind: NodeKind::Dir(Seen::Is(Vec::new())) });
        assert!(matches!(ask(&bare), Seen::Unreadable(Reason::Other(why)) if why.contains("/dev/nvidiactl")));
    }

    #[test]
    fn a_library_that_is_not_there_is_absent_and_one_that_cannot_be_loaded_is_not() {
        assert_eq!(report(&["/nowhere/libnvidia-ml.so.1".into(), "/nowhere/else.so".into()]), Seen::Absent);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("libnvidia-ml.so.1");
        std::fs::write(&path, "is no library").expect("writes");
        let path = path.to_str().expect("is text");
        assert!(report(&["/nowhere/libnvidia-ml.so.1".into(), path.into()]).unreadable().is_some());
    }

    #[test]
    fn a_driver_that_hangs_is_given_up() {
        let (hold, held) = mpsc::channel::<()>();
        let hung = limited(Duration::from_millis(30), move || {
            let _ = held.recv();
            Seen::Is(())
        });
        assert_eq!(hung, Seen::Unreadable(Reason::TimedOut));
        drop(hold);
        assert_eq!(limited(LIMIT, || Seen::Is(7)), Seen::Is(7));
    }

    #[test]
    fn what_a_card_does_not_have_is_absent_and_what_fails_is_not() {
        assert_eq!(seen::<u32>(Err(NvmlError::NotSupported)), Seen::Absent);
        assert_eq!(seen::<u32>(Err(NvmlError::FailedToLoadSymbol("old driver".into()))), Seen::Absent);
        assert_eq!(seen::<u32>(Err(NvmlError::NoPermission)), Seen::Unreadable(Reason::PermissionDenied));
        assert!(matches!(seen::<u32>(Err(NvmlError::GpuLost)), Seen::Unreadable(Reason::Other(_))));
        assert_eq!(seen(Ok(0)), Seen::Is(0));
    }

    #[test]
    fn contexts_of_one_process_are_one_line() {
        let process = |pid, bytes| ProcessInfo {
            pid,
            used_gpu_memory: UsedGpuMemory::Used(bytes),
            gpu_instance_id: None,
            compute_instance_id: None,
        };
        let list = processes(Seen::Is(vec![process(9, 1), process(3, 2)]), Seen::Is(vec![process(9, 1)]));
        let list: Vec<(u32, String)> = list.is().into_iter().flatten().map(|p| (p.pid, p.kind)).collect();
        assert_eq!(list, [(3, "C".into()), (9, "C+G".into())]);
        assert_eq!(processes(Seen::Absent, Seen::Absent), Seen::Absent);
        assert_eq!(processes(Seen::Is(Vec::new()), Seen::Absent), Seen::Is(Vec::new()));
        assert!(processes(Seen::Is(Vec::new()), Seen::Unreadable(Reason::TimedOut)).unreadable().is_some());
    }
}
