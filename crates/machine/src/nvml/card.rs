//! What a card is and what of it wants attention. [`NvmlHealth`] is asked always; the other topics where they are shown.

use model::Seen;
use serde::{Deserialize, Serialize};

/// What a check needs. Cheap: a handful of calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlHealth {
    /// ECC as it will be after the next reset. nvmlDeviceGetEccMode.
    pub ecc_pending: Seen<bool>,
    /// Since the driver was loaded, and ever. nvmlDeviceGetTotalEccErrors.
    pub corrected_volatile: Seen<u64>,
    pub corrected_aggregate: Seen<u64>,
    pub uncorrected_aggregate: Seen<u64>,
    /// Pages taken out of use, by cause: several single-bit errors, a double-bit error. Before Ampere.
    pub retired_single: Seen<u32>,
    pub retired_double: Seen<u32>,
    /// A page waits for a reboot to be taken out. nvmlDeviceGetRetiredPagesPendingStatus.
    pub retired_pending: Seen<bool>,
    /// Rows of memory replaced by spare ones. nvmlDeviceGetRemappedRows; Ampere and later.
    pub remapped_corrected: Seen<u32>,
    pub remapped_uncorrected: Seen<u32>,
    pub remapped_pending: Seen<bool>,
    pub remapped_failed: Seen<bool>,
    /// Bits of nvmlClocksEventReason: why the clocks are what they are.
    pub event_reasons: Seen<u64>,
    /// MIG as it will be after the next reset. nvmlDeviceGetMigMode.
    pub mig_pending: Seen<bool>,
    /// "None", "Reset", "Reboot", "Drain P2P", "Drain and Reset": NVML_FI_DEV_GET_GPU_RECOVERY_ACTION.
    pub recovery: Seen<String>,
    /// The link's generation that the card alone can do; [`super::NvmlGpu::pcie_gen_max`] counts the slot too.
    pub pcie_gen_max_card: Seen<u32>,
}

/// Bits of nvmlClocksEventReason that are a fault or a limit; the rest (idle, application clocks) are not.
pub mod reasons {
    pub const IDLE: u64 = 0x1;
    pub const APPLICATION: u64 = 0x2;
    pub const SW_POWER_CAP: u64 = 0x4;
    pub const HW_SLOWDOWN: u64 = 0x8;
    pub const SYNC_BOOST: u64 = 0x10;
    pub const SW_THERMAL: u64 = 0x20;
    pub const HW_THERMAL: u64 = 0x40;
    pub const HW_POWER_BRAKE: u64 = 0x80;
    pub const DISPLAY: u64 = 0x100;
}

/// Identity beyond the name. Sources: the nvmlDeviceGet… of each field's name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlBoard {
    pub part_number: Seen<String>,
    /// No public call tells it; reports of nvidia-smi do.
    pub gpu_part_number: Seen<String>,
    pub board_id: Seen<u32>,
    pub multi_gpu: Seen<bool>,
    pub module_id: Seen<u32>,
    /// The chip's own number, as unique as the UUID: "0x" and 16 digits.
    pub pdi: Seen<String>,
    pub inforom_image: Seen<String>,
    pub inforom_oem: Seen<String>,
    pub inforom_ecc: Seen<String>,
    pub inforom_power: Seen<String>,
    pub gsp_version: Seen<String>,
    pub gsp_enabled: Seen<bool>,
    pub gsp_default: Seen<bool>,
    /// "None", "HMM", "ATS".
    pub addressing: Seen<String>,
    /// A monitor is connected: nvmlDeviceGetDisplayMode.
    pub display_attached: Seen<bool>,
    pub accounting: Seen<bool>,
    pub accounting_buffer: Seen<u32>,
    /// "All On", "Compute", "Low Double Precision".
    pub operation_mode: Seen<String>,
    pub operation_mode_pending: Seen<String>,
    pub c2c: Seen<bool>,
    /// "Non SR-IOV", "SR-IOV".
    pub host_vgpu_mode: Seen<String>,
    /// PCI base class and sub class: 3 and 2 is a 3D controller.
    pub pci_class: Seen<(u32, u32)>,
    pub chassis_serial: Seen<String>,
    pub slot: Seen<u32>,
    pub tray: Seen<u32>,
    pub host_id: Seen<u32>,
    pub peer_type: Seen<String>,
    /// The module id that the platform tells; some drivers tell it alone.
    pub platform_module: Seen<u32>,
    pub sparse_operation: Seen<bool>,
    pub egm: Seen<String>,
    /// Bytes: memory that confidential computing protects.
    pub protected_total: Seen<u64>,
    pub protected_used: Seen<u64>,
    pub protected_free: Seen<u64>,
}

/// Memory errors by place. Volatile: since the driver was loaded; aggregate: ever.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlErrors {
    pub volatile: NvmlCounts,
    pub aggregate: NvmlCounts,
    pub sram_threshold_exceeded: Seen<bool>,
    /// Uncorrectable errors of SRAM, ever, by where they were.
    pub sram_l2: Seen<u64>,
    pub sram_sm: Seen<u64>,
    pub sram_microcontroller: Seen<u64>,
    pub sram_pcie: Seen<u64>,
    pub sram_other: Seen<u64>,
    pub channel_repair_pending: Seen<bool>,
    pub tpc_repair_pending: Seen<bool>,
    pub unrepairable_memory: Seen<bool>,
    pub remapped_corrected_inactive: Seen<u32>,
    pub remapped_uncorrected_inactive: Seen<u32>,
    /// Banks by what they have left for remapping: max, high, partial, low, none.
    pub histogram: Seen<[u32; 5]>,
    /// Addresses of retired pages.
    pub retired_single_pages: Seen<Vec<u64>>,
    pub retired_double_pages: Seen<Vec<u64>>,
}

/// nvmlDeviceGetSramEccErrorStatus for SRAM's kinds, nvmlDeviceGetMemoryErrorCounter for the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlCounts {
    pub sram_corrected: Seen<u64>,
    pub sram_uncorrected_parity: Seen<u64>,
    pub sram_uncorrected_secded: Seen<u64>,
    pub dram_corrected: Seen<u64>,
    pub dram_uncorrected: Seen<u64>,
    pub corrected: NvmlPlaces,
    pub uncorrected: NvmlPlaces,
}

/// nvmlDeviceGetMemoryErrorCounter's places; cards since Ampere tell SRAM and device memory alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlPlaces {
    pub l1: Seen<u64>,
    pub l2: Seen<u64>,
    pub device_memory: Seen<u64>,
    pub registers: Seen<u64>,
    pub texture: Seen<u64>,
    pub cbu: Seen<u64>,
    pub sram: Seen<u64>,
}
