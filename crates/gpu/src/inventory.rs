//! The inventory's form: every display and 3D controller with its companions, and every PCI function they share
//! the machine with.

use machine::nvml::{NvmlGpu, NvmlReport};
use model::{Bdf, Identity, PciId, Seen};
use serde::{Deserialize, Serialize};

use crate::hint::Told;

/// All PCI functions of a machine, its cards, and NVIDIA's driver if one runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inventory {
    /// Display and 3D controllers of any vendor (class 03), by address. Functions of one slot are one card.
    pub cards: Vec<Card>,
    /// Every PCI function, by address; what groups and losses are judged by.
    pub functions: Vec<Function>,
    /// `Unreadable` where /sys/bus/pci could not be listed: then "no card" must not be said.
    pub looked: Seen<()>,
    pub nvml: Seen<NvmlReport>,
    pub driver: DriverFacts,
    /// What this machine's hypervisor told of its cards' places. Absent: nothing.
    pub hints: Seen<Vec<Told>>,
}

/// One PCI function as sysfs has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Function {
    pub bdf: Bdf,
    pub id: PciId,
    pub subsystem: Option<PciId>,
    /// Class, subclass, programming interface: 0x030000.
    pub class: u32,
    pub revision: u8,
    /// Is: a driver holds it. Absent: none does.
    pub driver: Seen<String>,
    /// `driver_override`; Absent where unset ("(null)") or not supported.
    pub driver_override: Seen<String>,
    pub group: Seen<u32>,
    /// A bridge (header type 1): not counted when a group's viability is judged.
    pub bridge: bool,
    pub numa: Option<i32>,
}

/// A GPU: function 0 of a display class, with the other functions of its slot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Card {
    pub identity: Identity,
    pub class: u32,
    /// "VGA compatible controller", "3D controller", "Display controller".
    pub class_name: String,
    /// From the system's pci.ids, else a built-in extract, else "Device 1d01".
    pub vendor_name: String,
    pub device_name: String,
    pub subsystem_name: Option<String>,
    pub revision: u8,
    pub driver: Seen<String>,
    pub driver_override: Seen<String>,
    pub group: Seen<Group>,
    /// The card's other functions: audio, USB-C (xHCI), UCSI.
    pub companions: Vec<Bdf>,
    /// `reset_method`, in the kernel's order. Absent: the card cannot be reset alone.
    pub reset: Seen<Vec<String>>,
    pub boot_vga: bool,
    pub bars: Vec<Bar>,
    /// Bytes, all memory BARs.
    pub bar_sum: u64,
    pub link: Seen<Link>,
    pub numa: Option<i32>,
    /// The physical slot, by /sys/bus/pci/slots. Absent: the firmware names none for it.
    pub slot: Seen<String>,
    /// The bridge above it; none on a root bus.
    pub port: Option<Bdf>,
    /// `power_state`: "D0", "D3cold".
    pub power: Seen<String>,
    pub arch: Option<Arch>,
    /// The same card in NVML's report.
    pub nvml: Option<Box<NvmlGpu>>,
    pub holder: Holder,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    pub number: u32,
    /// Every function of the group, bridges too, the card's own included.
    pub members: Vec<Bdf>,
    /// `/sys/kernel/iommu_groups/N/type`: "DMA", "DMA-FQ", "identity".
    pub kind: Seen<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bar {
    pub index: u8,
    /// Bytes.
    pub size: u64,
    /// Physical start; 0 where not assigned or hidden.
    pub start: u64,
    pub prefetchable: bool,
    pub wide: bool,
}

/// PCIe link, now and at most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Link {
    pub now: Speed,
    pub max: Speed,
}

/// GT/s times ten (25, 50, 80, 160, 320, 640) and lanes; 0 is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Speed {
    pub gts_x10: u32,
    pub lanes: u32,
}

/// Who has the card now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "who", content = "names")]
pub enum Holder {
    /// Bound to vfio-pci or unbound, and nobody uses it.
    Nobody,
    /// A host driver has it; the processes that hold it open, "PID name", where they could be seen.
    Host(Vec<String>),
    /// These VMs run with it: "100 (media)".
    Vm(Vec<String>),
    /// Container names or ids.
    Containers(Vec<String>),
    /// "namespace/pod".
    Pods(Vec<String>),
    Unknown(String),
}

/// NVIDIA's generations, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    Tesla,
    Fermi,
    Kepler,
    Maxwell,
    Pascal,
    Volta,
    Turing,
    Ampere,
    Ada,
    Hopper,
    Blackwell,
}

/// NVIDIA's driver on this machine, kernel side and user side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DriverFacts {
    /// Version of the loaded module: /proc/driver/nvidia/version or /sys/module/nvidia/version.
    pub kernel: Seen<String>,
    pub kind: Option<ModuleKind>,
    /// Version of libnvidia-ml on this machine's library path, from its file name.
    pub library: Seen<String>,
    /// Where that library is: "/usr/local/nvidia/lib64/libnvidia-ml.so.580.159.04".
    pub library_path: Seen<String>,
    /// How the loader finds it: "ld.so.cache", "/usr/lib/x86_64-linux-gnu".
    pub library_via: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleKind {
    Open,
    Proprietary,
}

impl Inventory {
    /// NVIDIA's cards.
    pub fn nvidia(&self) -> impl Iterator<Item = &Card> {
        self.cards.iter().filter(|card| card.identity.id.vendor == PciId::NVIDIA)
    }

    pub fn card(&self, bdf: Bdf) -> Option<&Card> {
        self.cards.iter().find(|card| card.identity.bdf == bdf)
    }

    pub fn function(&self, bdf: Bdf) -> Option<&Function> {
        self.functions.iter().find(|function| function.bdf == bdf)
    }

    /// All functions of a card's slot, function 0 first.
    pub fn functions_of(&self, card: &Card) -> Vec<&Function> {
        self.functions.iter().filter(|f| f.bdf.same_slot(&card.identity.bdf)).collect()
    }
}

impl Card {
    /// "GeForce GT 1030" out of "GP108 [GeForce GT 1030]", else the whole name.
    pub fn short_name(&self) -> &str {
        match (self.device_name.find('['), self.device_name.rfind(']')) {
            (Some(open), Some(close)) if open < close => &self.device_name[open + 1..close],
            _ => &self.device_name,
        }
    }
}
