//! One look at all cards and at who uses them: what `top`, the exporter and the page are made of.

use std::collections::BTreeMap;
use std::time::SystemTime;

use gpu::Holder;
use gpu::attribution::Attribution;
use machine::nvml::{NvmlGpu, NvmlProcess};
use model::{Bdf, Seen};
use serde::Serialize;

/// All that one look saw.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    #[serde(skip)]
    pub time: SystemTime,
    /// The machine or the driver's library is a simulated one.
    pub simulated: bool,
    /// NVIDIA's driver. Absent: none runs here. Unreadable: NVML could not be asked, and why.
    pub driver: Seen<String>,
    /// The cards that NVIDIA's driver has, in NVML's order.
    pub cards: Vec<CardNow>,
    /// The cards that it has not: a VM's, another driver's, nobody's.
    pub away: Vec<Away>,
    /// This looks from inside a container or another PID namespace: whose NVML's processes are is not to be told here.
    pub blind: bool,
}

/// A card that NVML tells of.
#[derive(Clone, Debug, Serialize)]
pub struct CardNow {
    /// `None`: NVML did not tell its bus id (a lost card).
    pub bdf: Option<Bdf>,
    /// Its own processes are moved into [`CardNow::processes`].
    pub gpu: NvmlGpu,
    /// Absent and unreadable as NVML's list of them.
    pub processes: Seen<Vec<ProcessNow>>,
    /// How often each Xid came since the sampler was opened.
    pub xids: BTreeMap<u64, u64>,
}

/// A process on a card, with whose it is.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessNow {
    #[serde(flatten)]
    pub process: NvmlProcess,
    pub whose: Attribution,
}

/// A card that is not NVIDIA's driver's now.
#[derive(Clone, Debug, Serialize)]
pub struct Away {
    pub bdf: Bdf,
    pub name: String,
    /// "vfio-pci", "nouveau"; absent: none holds it.
    pub driver: Seen<String>,
    pub holder: Holder,
}
