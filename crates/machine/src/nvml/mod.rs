//! NVML's inventory as data. N/A stays N/A: a field that the card or driver does not report is [`Seen::Absent`].
//!
//! A card's topics beyond the first are each one value, so that a report tells what was asked: a topic that was not asked is
//! unreadable with that reason, and one that an older capture does not have was not recorded.

mod card;
mod state;

use model::{Reason, Seen};
use serde::{Deserialize, Serialize};

pub use card::{NvmlBoard, NvmlCounts, NvmlErrors, NvmlHealth, NvmlPlaces, reasons};
pub use state::{
    NvmlClocks, NvmlEngines, NvmlHeat, NvmlLink, NvmlLinks, NvmlMig, NvmlMigDevice, NvmlMigInstance, NvmlMigProfile,
    NvmlModulePower, NvmlPcie, NvmlPower, NvmlSession,
};

pub use crate::nvml_live::vigil::{Said, Vigil};
pub use crate::nvml_live::watch::{Watch, Xid};
use crate::{Answer, Kind, Machine, Question};

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What every report shows and checks need.
    Plain,
    /// What nvidia-smi's table and list show: the plain report, the power's average, and the parts of a card that is cut.
    Table,
    /// All topics: some milliseconds a card, and 40 for the throughput of its link.
    All,
    /// For who asks each second ([`Watch`]): all topics but the link's throughput. What a card is, its settings and MIG's, its
    /// counts of errors, NVLink and the board are at most a minute old.
    Now,
}

/// NVML's report. Beyond [`Depth::Plain`], a machine that answers only the plain question (an older capture) gives that.
pub fn ask(machine: &dyn Machine, depth: Depth) -> Seen<NvmlReport> {
    let plain = || report(machine.ask(&Question::Nvml));
    match depth {
        Depth::Plain => plain(),
        // a recording has all of it
        Depth::Table if machine.kind() == Kind::Live => report(crate::nvml_live::ask(machine, depth)),
        Depth::Table | Depth::All | Depth::Now => match report(machine.ask(&Question::NvmlAll)) {
            Seen::Absent | Seen::Unreadable(Reason::NotCaptured) => plain(),
            seen => seen,
        },
    }
}

fn report(answer: Seen<Answer>) -> Seen<NvmlReport> {
    answer.and_then(|answer| match answer {
        Answer::Nvml(report) => Seen::Is(*report),
        Answer::Json(_) => Seen::Unreadable(Reason::Malformed("NVML's answer is no NVML report".into())),
    })
}

/// A topic with its fields.
pub type Topic<T> = Seen<Box<T>>;

/// Of a report that is older than the topic.
fn not_recorded<T>() -> Topic<T> {
    Seen::Unreadable(Reason::NotCaptured)
}

/// Of a report for which it was not asked.
pub(crate) fn not_asked<T>() -> Topic<T> {
    Seen::Unreadable(Reason::Other("not asked".into()))
}

/// All that one NVML session says. Source of each field: the NVML function named beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmlReport {
    /// nvmlSystemGetDriverVersion, e.g. "580.159.04".
    pub driver_version: Seen<String>,
    /// nvmlSystemGetNVMLVersion, e.g. "13.580.159.04".
    pub nvml_version: Seen<String>,
    /// nvmlSystemGetCudaDriverVersion_v2 as (major, minor).
    pub cuda_version: Seen<(u32, u32)>,
    /// nvmlSystemGetConfComputeState: what confidential computing is here ("off", "on", "developer tools").
    #[serde(default)]
    pub confidential: Seen<String>,
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
    #[serde(default = "not_recorded")]
    pub health: Topic<NvmlHealth>,
    #[serde(default = "not_recorded")]
    pub board: Topic<NvmlBoard>,
    #[serde(default = "not_recorded")]
    pub errors: Topic<NvmlErrors>,
    #[serde(default = "not_recorded")]
    pub clocks: Topic<NvmlClocks>,
    #[serde(default = "not_recorded")]
    pub power: Topic<NvmlPower>,
    #[serde(default = "not_recorded")]
    pub heat: Topic<NvmlHeat>,
    #[serde(default = "not_recorded")]
    pub pcie: Topic<NvmlPcie>,
    #[serde(default = "not_recorded")]
    pub engines: Topic<NvmlEngines>,
    #[serde(default = "not_recorded")]
    pub nvlink: Topic<NvmlLinks>,
    #[serde(default = "not_recorded")]
    pub mig: Topic<NvmlMig>,
    /// Bytes. Recorded since the topics are.
    #[serde(default)]
    pub bar1_used: Seen<u64>,
    #[serde(default)]
    pub bar1_free: Seen<u64>,
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
    /// The MIG instances it runs in.
    #[serde(default)]
    pub gpu_instance: Seen<u32>,
    #[serde(default)]
    pub compute_instance: Seen<u32>,
    /// Per cent of time: nvmlDeviceGetProcessUtilization. Absent where it did not run, or was not asked.
    #[serde(default)]
    pub sm: Seen<u32>,
    #[serde(default)]
    pub memory_use: Seen<u32>,
    #[serde(default)]
    pub encoder: Seen<u32>,
    #[serde(default)]
    pub decoder: Seen<u32>,
}

impl NvmlProcess {
    /// One of which nothing but its number and kind is known.
    pub fn blank(pid: u32, kind: &str) -> Self {
        NvmlProcess {
            pid,
            kind: kind.into(),
            memory: Seen::Absent,
            name: Seen::Absent,
            gpu_instance: Seen::Absent,
            compute_instance: Seen::Absent,
            sm: Seen::Absent,
            memory_use: Seen::Absent,
            encoder: Seen::Absent,
            decoder: Seen::Absent,
        }
    }
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
            health: n(),
            board: n(),
            errors: n(),
            clocks: n(),
            power: n(),
            heat: n(),
            pcie: n(),
            engines: n(),
            nvlink: n(),
            mig: n(),
            bar1_used: n(),
            bar1_free: n(),
        }
    }
}
