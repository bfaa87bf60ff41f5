//! Clocks, power, heat, the bus, the engines: what changes from second to second.

use model::Seen;
use serde::{Deserialize, Serialize};

/// MHz: graphics, SM, memory, video.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlClocks {
    pub max_graphics: Seen<u32>,
    pub max_sm: Seen<u32>,
    pub max_memory: Seen<u32>,
    pub max_video: Seen<u32>,
    pub application_graphics: Seen<u32>,
    pub application_memory: Seen<u32>,
    pub default_graphics: Seen<u32>,
    pub default_memory: Seen<u32>,
    pub boost_max_graphics: Seen<u32>,
    /// (now, default).
    pub auto_boost: Seen<(bool, bool)>,
    /// Bits of nvmlClocksEventReason that this card can give.
    pub reasons_supported: Seen<u64>,
    /// How long each reason held the clocks down since the driver was loaded, in microseconds.
    pub held_sw_power_cap: Seen<u64>,
    pub held_sync_boost: Seen<u64>,
    pub held_sw_thermal: Seen<u64>,
    pub held_hw_thermal: Seen<u64>,
    pub held_hw_power_brake: Seen<u64>,
    /// Each memory clock with the graphics clocks that go with it.
    pub supported: Seen<Vec<(u32, Vec<u32>)>>,
}

/// Milliwatts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlPower {
    /// The card can be given a limit: nvmlDeviceGetPowerManagementMode.
    pub managed: Seen<bool>,
    pub average: Seen<u32>,
    pub instant: Seen<u32>,
    pub enforced: Seen<u32>,
    pub requested: Seen<u32>,
    pub default: Seen<u32>,
    pub min: Seen<u32>,
    pub max: Seen<u32>,
    pub memory_average: Seen<u32>,
    pub memory_instant: Seen<u32>,
    pub module: NvmlModulePower,
    /// Millijoules since the driver was loaded.
    pub energy: Seen<u64>,
}

/// Of the whole module, where a superchip has one (scope 1 of the power fields).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlModulePower {
    pub average: Seen<u32>,
    pub instant: Seen<u32>,
    pub enforced: Seen<u32>,
    pub requested: Seen<u32>,
    pub default: Seen<u32>,
    pub min: Seen<u32>,
    pub max: Seen<u32>,
}

/// Degrees Celsius. Cards since Hopper tell margins (T.Limit) in place of thresholds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlHeat {
    pub memory: Seen<u32>,
    /// Degrees left until the card slows down.
    pub margin: Seen<i32>,
    pub shutdown: Seen<u32>,
    pub slowdown: Seen<u32>,
    pub gpu_max: Seen<u32>,
    pub memory_max: Seen<u32>,
    pub margin_shutdown: Seen<i32>,
    pub margin_slowdown: Seen<i32>,
    pub margin_gpu_max: Seen<i32>,
    pub margin_memory_max: Seen<i32>,
    /// Per cent of each fan.
    pub fans: Seen<Vec<u32>>,
}

/// The PCIe link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlPcie {
    pub replays: Seen<u32>,
    pub replay_rollovers: Seen<u32>,
    /// KB/s over the 20 ms in which it was measured; seen from the card.
    pub sent: Seen<u32>,
    pub received: Seen<u32>,
    pub host_gen_max: Seen<u32>,
}

/// Video engines and who uses them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlEngines {
    /// Per cent.
    pub jpeg: Seen<u32>,
    pub ofa: Seen<u32>,
    pub encoder_fps: Seen<u32>,
    /// Microseconds.
    pub encoder_latency: Seen<u32>,
    /// Frame buffer capture: sessions, frames a second, microseconds.
    pub capture: Seen<(u32, u32, u32)>,
    pub sessions: Seen<Vec<NvmlSession>>,
}

/// nvmlEncoderSessionInfo_t.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmlSession {
    pub id: u32,
    pub pid: u32,
    /// "H.264", "HEVC", "AV1"; of a codec that is newer than this program "codec N".
    pub codec: String,
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    /// Microseconds.
    pub latency: u32,
}

/// NVLink and its fabric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlLinks {
    /// Empty on a card that has none.
    pub links: Vec<NvmlLink>,
    /// "N/A" cards are absent; else "Not Started", "In Progress", "Completed".
    pub state: Seen<String>,
    /// "Success", or the error: where the state is "Completed".
    pub status: Seen<String>,
    pub clique: Seen<u32>,
    pub cluster: Seen<String>,
    /// "Healthy", "Unhealthy", "Limited Capacity".
    pub summary: Seen<String>,
    /// NVML_GPU_FABRIC_HEALTH_MASK_*, two bits or four a question.
    pub health: Seen<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmlLink {
    pub link: u32,
    pub active: Seen<bool>,
    pub version: Seen<u32>,
    /// "00000000:C0:00.0".
    pub remote: Seen<String>,
    /// "GPU", "IBM NPU", "switch".
    pub remote_kind: Seen<String>,
    /// Replay, recovery, CRC of flits, CRC of data.
    pub errors: Seen<[u64; 4]>,
}

/// A card that can be cut up: its parts, and how else it could be cut.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NvmlMig {
    /// The most MIG devices that this card can have; 0: it cannot be cut.
    pub max: Seen<u32>,
    pub devices: Seen<Vec<NvmlMigDevice>>,
    /// GPU instances, with the compute instances in them: root alone may see them.
    pub instances: Seen<Vec<NvmlMigInstance>>,
    pub profiles: Seen<Vec<NvmlMigProfile>>,
}

/// One MIG device: a compute instance of a GPU instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmlMigDevice {
    pub index: u32,
    pub uuid: Seen<String>,
    /// "1g.10gb".
    pub profile: Seen<String>,
    pub gpu_instance: Seen<u32>,
    pub compute_instance: Seen<u32>,
    /// Bytes.
    pub memory_total: Seen<u64>,
    pub memory_used: Seen<u64>,
    pub memory_free: Seen<u64>,
    pub memory_reserved: Seen<u64>,
    pub bar1_total: Seen<u64>,
    pub bar1_used: Seen<u64>,
    #[serde(default)]
    pub bar1_free: Seen<u64>,
    pub multiprocessors: Seen<u32>,
    pub copy_engines: Seen<u32>,
    pub decoders: Seen<u32>,
    pub encoders: Seen<u32>,
    pub jpegs: Seen<u32>,
    pub ofas: Seen<u32>,
    /// Uncorrectable errors of SRAM since the driver was loaded.
    pub sram_uncorrected: Seen<u64>,
}

/// A GPU instance: its slices of memory, and its compute instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmlMigInstance {
    pub id: u32,
    pub profile: u32,
    pub profile_name: Seen<String>,
    pub start: u32,
    pub size: u32,
    /// (number, compute slices) of each.
    pub compute: Seen<Vec<(u32, u32)>>,
}

/// A way to cut an instance out of this card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmlMigProfile {
    /// As `nvidia-smi mig -lgip` numbers it.
    pub id: u32,
    pub name: Seen<String>,
    pub slices: u32,
    pub count: u32,
    pub remaining: Seen<u32>,
    pub memory_mib: u64,
    pub multiprocessors: u32,
    pub copy_engines: u32,
    pub decoders: u32,
    pub encoders: u32,
    pub jpegs: u32,
    pub ofas: u32,
    /// Where an instance may begin, and how many memory slices it takes.
    pub placements: Seen<Vec<(u32, u32)>>,
}
