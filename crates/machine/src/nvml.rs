//! NVML's inventory as data. N/A stays N/A: a field that the card or driver does not report is [`Seen::Absent`].

use model::Seen;
use serde::{Deserialize, Serialize};

/// All that one NVML session says. Source of each field: the NVML function named beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmlReport {
    /// nvmlSystemGetDriverVersion, e.g. "580.159.04".
    pub driver_version: Seen<String>,
    /// nvmlSystemGetNVMLVersion, e.g. "13.580.159.04".
    pub nvml_version: Seen<String>,
    /// nvmlSystemGetCudaDriverVersion_v2 as (major, minor).
    pub cuda_version: Seen<(u32, u32)>,
    /// In NVML's order, which is PCI bus order.
    pub gpus: Vec<NvmlGpu>,
}

/// One GPU. Units are in the field names or comments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmlGpu {
    pub index: u32,
    /// nvmlDeviceGetPciInfo_v3, "00000000:01:00.0".
    pub bus_id: Seen<String>,
    /// Device number in the high half, vendor in the low: 0x1d0110de.
    pub pci_device_id: Seen<u32>,
    pub pci_subsystem_id: Seen<u32>,
    pub name: Seen<String>,
    pub uuid: Seen<String>,
    pub serial: Seen<String>,
    /// The N of /dev/nvidiaN. It can differ from the index.
    pub minor: Seen<u32>,
    pub vbios: Seen<String>,
    /// "Pascal", "Hopper": nvmlDeviceGetArchitecture.
    pub architecture: Seen<String>,
    pub brand: Seen<String>,
    /// nvmlDeviceGetCudaComputeCapability.
    pub compute_capability: Seen<(i32, i32)>,
    /// nvmlDeviceGetVirtualizationMode: "None", "Pass-Through", "vGPU".
    pub virtualization: Seen<String>,
    /// Bytes.
    pub memory_total: Seen<u64>,
    pub memory_used: Seen<u64>,
    pub memory_free: Seen<u64>,
    pub memory_reserved: Seen<u64>,
    pub bar1_total: Seen<u64>,
    /// Per cent of time, since the last sample.
    pub utilization_gpu: Seen<u32>,
    pub utilization_memory: Seen<u32>,
    pub utilization_encoder: Seen<u32>,
    pub utilization_decoder: Seen<u32>,
    /// Degrees Celsius.
    pub temperature: Seen<u32>,
    /// Per cent.
    pub fan: Seen<u32>,
    /// Milliwatts.
    pub power_draw: Seen<u32>,
    pub power_limit: Seen<u32>,
    /// 0 is fastest: P0.
    pub pstate: Seen<u32>,
    pub persistence: Seen<bool>,
    pub display_active: Seen<bool>,
    /// "Default", "Exclusive_Process", "Prohibited".
    pub compute_mode: Seen<String>,
    pub ecc_enabled: Seen<bool>,
    pub ecc_uncorrected_volatile: Seen<u64>,
    /// nvmlDeviceGetMigMode, current.
    pub mig_enabled: Seen<bool>,
    /// MHz.
    pub clock_graphics: Seen<u32>,
    pub clock_sm: Seen<u32>,
    pub clock_memory: Seen<u32>,
    pub clock_video: Seen<u32>,
    pub pcie_gen_current: Seen<u32>,
    pub pcie_gen_max: Seen<u32>,
    pub pcie_width_current: Seen<u32>,
    pub pcie_width_max: Seen<u32>,
    /// nvmlDeviceGetEncoderStats: sessions now.
    pub encoder_sessions: Seen<u32>,
    pub processes: Seen<Vec<NvmlProcess>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmlProcess {
    /// In the init PID namespace; inside a container it means nothing.
    pub pid: u32,
    /// "C" compute, "G" graphics, "C+G" both.
    pub kind: String,
    /// Bytes.
    pub memory: Seen<u64>,
    /// From /proc/PID/comm or cmdline where it can be read.
    pub name: Seen<String>,
}

impl NvmlGpu {
    /// A GPU of which nothing but its index is known.
    pub fn blank(index: u32) -> Self {
        fn n<T>() -> Seen<T> {
            Seen::Absent
        }
        NvmlGpu {
            index,
            bus_id: n(),
            pci_device_id: n(),
            pci_subsystem_id: n(),
            name: n(),
            uuid: n(),
            serial: n(),
            minor: n(),
            vbios: n(),
            architecture: n(),
            brand: n(),
            compute_capability: n(),
            virtualization: n(),
            memory_total: n(),
            memory_used: n(),
            memory_free: n(),
            memory_reserved: n(),
            bar1_total: n(),
            utilization_gpu: n(),
            utilization_memory: n(),
            utilization_encoder: n(),
            utilization_decoder: n(),
            temperature: n(),
            fan: n(),
            power_draw: n(),
            power_limit: n(),
            pstate: n(),
            persistence: n(),
            display_active: n(),
            compute_mode: n(),
            ecc_enabled: n(),
            ecc_uncorrected_volatile: n(),
            mig_enabled: n(),
            clock_graphics: n(),
            clock_sm: n(),
            clock_memory: n(),
            clock_video: n(),
            pcie_gen_current: n(),
            pcie_gen_max: n(),
            pcie_width_current: n(),
            pcie_width_max: n(),
            encoder_sessions: n(),
            processes: n(),
        }
    }
}
