//! What a simulated machine's NVML says, as data: cards, boxes of cards, and the control file over them.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::video::Video;

/// A card's text cannot be used, and why. Shown on stderr; the client sees NVML_ERROR_UNKNOWN.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no box and no card is called {0:?}")]
    NoSuch(String),
    #[error("{0}")]
    Toml(#[from] Box<toml::de::Error>),
    #[error("{0}")]
    Wrong(String),
}

impl From<toml::de::Error> for Error {
    fn from(error: toml::de::Error) -> Self {
        Error::Toml(Box::new(error))
    }
}

macro_rules! texts {
    ($($table:ident, $folder:literal: $($name:literal)*;)*) => {$(
        /// Name and text of what is built in.
        pub const $table: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../", $folder, "/", $name, ".toml")))),*];
    )*};
}
texts! {
    CARDS, "cards": "gt1030" "gtx1660" "rtx3090" "rtx4090" "t4" "a100" "h100";
    BOXES, "boxes": "gt1030" "gtx1660" "rtx3090" "rtx4090" "t4" "a100" "h100" "a100-mig" "h100x2" "h100x8" "gt1030-470" "gtx1660-510"
        "rtx3090-535" "h100-mig";
}

/// The text of a built-in card or box.
pub fn built_in(table: &[(&str, &'static str)], name: &str) -> Result<&'static str, Error> {
    table.iter().find(|(key, _)| *key == name).map(|(_, text)| *text).ok_or_else(|| Error::NoSuch(name.into()))
}

/// A box: one driver and its cards.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoxFile {
    pub driver: Driver,
    #[serde(default)]
    pub gpus: Vec<Several>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Driver {
    /// As nvmlSystemGetDriverVersion says it: "580.159.04". Its first number decides which symbols there are.
    pub version: String,
    /// nvmlSystemGetCudaDriverVersion_v2: 1000 * major + 10 * minor.
    pub cuda: i32,
}

/// Cards of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Several {
    /// A built-in card's name.
    pub card: String,
    #[serde(default = "one")]
    pub count: u32,
    /// Laid over the card's table.
    #[serde(default)]
    pub set: toml::Table,
}

fn one() -> u32 {
    1
}

/// Faults, read again at each call. An absent file is an empty one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The version of the kernel module that is loaded, where it is not the library's: nvmlInit fails with 18.
    pub kernel: Option<String>,
    /// Calls that hang, for so long.
    pub hang: Option<Hang>,
    /// Each call takes so many microseconds longer: a real driver's calls are no mere look into a table.
    #[serde(default)]
    pub delay_us: u64,
    /// Function name to NVML return code.
    #[serde(default)]
    pub fail: BTreeMap<String, u32>,
    /// Functions which this driver does not have: 13. (That dlsym fails too is the installer's work.)
    #[serde(default)]
    pub lacks: Vec<String>,
    #[serde(default)]
    pub gpus: Vec<Fault>,
    /// Ways between two cards.
    #[serde(default)]
    pub links: Vec<Link>,
}

/// What is wrong on the way from one card to another. The other direction is another way.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub from: u32,
    pub to: u32,
    /// Bits that are turned over in each copy; bytes from the copy's start.
    #[serde(default)]
    pub flips: Vec<Flip>,
    /// So many times slower than a way of its kind is.
    #[serde(default = "one")]
    pub slow: u32,
    /// False: CUDA has no peer access here, and copies go through the host.
    pub peer: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hang {
    pub milliseconds: u64,
    /// Empty: every call.
    #[serde(default)]
    pub calls: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub index: u32,
    /// Fallen off the bus: 15 from every call with its handle.
    #[serde(default)]
    pub lost: bool,
    /// Xids so far, oldest first. An event set is told of those that come after its registration.
    #[serde(default)]
    pub xids: Vec<u64>,
    /// Cells of its memory that give another bit than was written. ECC corrects one in 32 bytes and tells of two.
    #[serde(default)]
    pub flips: Vec<Flip>,
    /// Bits of the results of its integer multiply-adds that are turned over, in every lane: it computes wrong.
    #[serde(default)]
    pub wrong_bits: u32,
    /// No more memory than this can be had of it by CUDA, in MiB, and that is what it says is free. For tests: a whole
    /// card takes long on a CPU.
    pub cuda_mib: Option<u64>,
    /// Laid over the card's table.
    #[serde(default)]
    pub set: toml::Table,
}

/// A bad cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flip {
    /// From the start of the memory that CUDA gives away.
    pub byte: u64,
    /// 0 to 7.
    pub bit: u8,
}

/// One card. What is `None` the card does not report (NVML_ERROR_NOT_SUPPORTED).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    pub name: String,
    /// nvmlBrandType_t.
    pub brand: u32,
    /// nvmlDeviceArchitecture_t.
    pub architecture: u32,
    pub compute: [i32; 2],
    pub cores: u32,
    pub multiprocessors: u32,
    /// PCI device and (subsystem device << 16 | subsystem vendor).
    pub device: u32,
    pub subsystem: u32,
    /// Domain, bus, device. None: bus 1 and up, by index.
    pub at: Option<[u32; 3]>,
    pub vbios: String,
    pub part: Option<String>,
    /// The first characters; the index follows.
    pub serial: Option<String>,
    pub inforom: Option<Inforom>,
    pub memory_mib: u64,
    pub reserved_mib: u64,
    #[serde(default)]
    pub used_mib: u64,
    pub bar1_mib: u64,
    #[serde(default)]
    pub bar1_used_mib: u64,
    /// Bits.
    pub bus_width: u32,
    /// Level 2 cache.
    #[serde(default)]
    pub l2_kib: u32,
    #[serde(default)]
    pub display: bool,
    /// Has NVENC.
    #[serde(default)]
    pub encoder: bool,
    #[serde(default)]
    pub gsp: bool,
    #[serde(default)]
    pub persistence: bool,
    /// nvmlGpuVirtualizationMode_t: 0 none, 1 passed through.
    #[serde(default)]
    pub virtualization: u32,
    pub pstate: u32,
    pub clocks: Clocks,
    pub pcie: Pcie,
    pub temperature: Temperature,
    pub power: Option<Power>,
    /// nvmlDeviceGetTotalEnergyConsumption, mJ.
    pub energy_mj: Option<u64>,
    /// Per cent, one a fan.
    #[serde(default)]
    pub fans: Vec<u32>,
    /// nvmlClocksEventReason bits; 1 is idle.
    #[serde(default = "idle")]
    pub reasons: u64,
    #[serde(default)]
    pub load: Load,
    pub ecc: Option<Ecc>,
    pub remapped: Option<Remapped>,
    pub retired: Option<Retired>,
    #[serde(default)]
    pub nvlinks: u32,
    #[serde(default)]
    pub nvlink_version: u32,
    pub mig: Option<Mig>,
    #[serde(default)]
    pub processes: Vec<Process>,
    #[serde(default)]
    pub sessions: Vec<Session>,
    #[serde(default)]
    pub video: Video,
}

fn idle() -> u64 {
    1
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inforom {
    pub image: String,
    pub oem: String,
    pub ecc: String,
}

/// MHz of graphics, SM, memory, video: nvmlClockType_t's order.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clocks {
    pub now: [u32; 4],
    pub max: [u32; 4],
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pcie {
    pub max_gen: u32,
    /// Now: an idle card goes down to 1.
    #[serde(rename = "gen")]
    pub gen_now: u32,
    pub max_width: u32,
    pub width: u32,
    /// KB/s, as nvmlDeviceGetPcieThroughput.
    #[serde(default)]
    pub tx_kib: u32,
    #[serde(default)]
    pub rx_kib: u32,
    #[serde(default)]
    pub replays: u32,
}

/// Degrees Celsius.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Temperature {
    pub now: u32,
    pub memory: Option<u32>,
    pub shutdown: Option<u32>,
    pub slowdown: Option<u32>,
    pub memory_max: Option<u32>,
    pub gpu_max: Option<u32>,
    /// T.Limit: degrees that are left, of cards since Ada.
    pub limit_margin: Option<i32>,
    /// T.Limit of shutdown, slowdown, memory, GPU: fields 193 to 196.
    pub tlimit: Option<[i32; 4]>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// None: no sensor, as most GT 1030.
    pub draw_mw: Option<u32>,
    pub instant_mw: Option<u32>,
    pub limit_mw: u32,
    /// default, min, max; None: it cannot be set.
    pub range_mw: Option<[u32; 3]>,
}

/// Per cent of time.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    pub gpu: u32,
    pub memory: u32,
    pub encoder: u32,
    pub decoder: u32,
    pub jpeg: u32,
    pub ofa: u32,
}

/// Errors are counted in device memory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ecc {
    pub enabled: bool,
    pub corrected: u64,
    pub uncorrected: u64,
    pub aggregate_corrected: u64,
    pub aggregate_uncorrected: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Remapped {
    pub corrected: u32,
    pub uncorrected: u32,
    pub pending: bool,
    pub failed: bool,
    /// Banks by what they have left: max, high, partial, low, none.
    pub histogram: [u32; 5],
}

/// Addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retired {
    pub single: Vec<u64>,
    pub double: Vec<u64>,
    pub pending: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mig {
    pub enabled: bool,
    /// What it becomes at the next reset, where that is something else.
    #[serde(default)]
    pub pending: Option<bool>,
    pub profiles: Vec<Profile>,
    #[serde(default)]
    pub instances: Vec<Instance>,
}

/// nvmlGpuInstanceProfileInfo_t.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// NVML_GPU_INSTANCE_PROFILE_*: what profiles are asked by.
    pub profile: u32,
    /// The driver's own number, as `nvidia-smi mig -lgip` shows it.
    pub id: u32,
    pub name: String,
    pub slices: u32,
    pub count: u32,
    pub memory_mib: u64,
    pub sm: u32,
    pub ce: u32,
    #[serde(default)]
    pub dec: u32,
    #[serde(default)]
    pub enc: u32,
    #[serde(default)]
    pub jpeg: u32,
    #[serde(default)]
    pub ofa: u32,
    /// Where it may begin, and how many memory slices it takes.
    pub starts: Vec<u32>,
    pub size: u32,
}

/// A GPU instance with one compute instance that takes all of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    pub profile: String,
    pub gi: u32,
    pub start: u32,
    /// Compute slices of each compute instance; none: one over all of it.
    #[serde(default)]
    pub compute: Option<Vec<u32>>,
    #[serde(default)]
    pub used_mib: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    pub pid: u32,
    /// "C", "G" or "M" (MPS).
    pub kind: String,
    /// None: not told, as inside some containers.
    pub memory_mib: Option<u64>,
    /// The GPU instance it runs in.
    pub gi: Option<u32>,
    /// Per cent; None: no sample.
    pub sm: Option<u32>,
    #[serde(default)]
    pub mem: u32,
    #[serde(default)]
    pub enc: u32,
    #[serde(default)]
    pub dec: u32,
}

/// An encoder session: nvmlEncoderSessionInfo_t.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    pub pid: u32,
    /// 0 H.264, 1 HEVC, 2 AV1.
    pub codec: u32,
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    /// Microseconds.
    pub latency: u32,
}
