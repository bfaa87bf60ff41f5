//! What the host floor knows of a machine: enough for every check and for the planner, each with where it was read.

use std::collections::{BTreeMap, BTreeSet};

use gpu::{Card, Function, Inventory, Users};
use model::{Bdf, BindOp, Fact, Seen, Source};
use serde::Serialize;

/// The host floor's facts.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    pub place: Place,
    pub distro: Distro,
    pub kernel: Kernel,
    pub boot: Boot,
    pub iommu: Iommu,
    pub platform: Platform,
    pub conf: Conf,
    pub initramfs: Initramfs,
    pub usage: Usage,
    /// Cards (function 0) that are meant for a VM, as far as this machine says.
    pub wanted: Vec<Want>,
    pub inventory: Inventory,
    /// Who uses each card now; a card that no driver holds is not in it.
    pub users: BTreeMap<Bdf, Users>,
    /// The binds that stand, each from whom the function was first taken to whom it was last given: what the journal
    /// remembers, filled in by whoever reads it.
    pub remembered: BTreeMap<Bdf, BindOp>,
    /// Text of the files that a plan may write or edit; `Absent` is what a new file expects.
    pub texts: BTreeMap<String, Seen<String>>,
}

/// Whether this kernel runs on the metal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Metal,
    /// A hypervisor is below: who says so.
    Guest {
        says: String,
        source: Source,
    },
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Distro {
    /// `ID` of os-release, "" where it could not be read.
    pub id: String,
    pub like: Vec<String>,
    pub pretty: String,
    /// Version of pve-manager, or "" where Proxmox VE is here and its version is not known.
    pub proxmox: Seen<String>,
}

impl Distro {
    /// True for the distribution itself and for those made from it.
    pub fn is(&self, id: &str) -> bool {
        self.id == id || self.like.iter().any(|like| like == id)
    }

    /// Debian's grub-mkconfig reads /etc/default/grub.d; others' does not.
    pub fn debian_family(&self) -> bool {
        matches!(self.id.as_str(), "debian" | "ubuntu" | "linuxmint" | "pop")
            || self.like.iter().any(|like| like == "debian" || like == "ubuntu")
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Kernel {
    /// `5.13.19-2-pve`.
    pub release: Fact<String>,
    /// "GenuineIntel", "AuthenticAMD".
    pub cpu_vendor: Seen<String>,
    /// Names with underscores, out of modules.dep of this kernel.
    pub modules: Seen<BTreeSet<String>>,
    /// Names with underscores, out of modules.builtin.
    pub builtin: Seen<BTreeSet<String>>,
    pub loaded: Seen<BTreeSet<String>>,
    /// CONFIG_INTEL_IOMMU_DEFAULT_ON, by /boot/config-RELEASE.
    pub intel_on: Seen<bool>,
}

impl Kernel {
    /// (major, minor) of the release.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.release.get()?.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    pub fn has_module(&self, name: &str) -> Seen<bool> {
        let name = name.replace('-', "_");
        self.modules.as_ref().map(|modules| modules.contains(&name))
    }

    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.get().is_some_and(|names| names.contains(&name.replace('-', "_")))
    }
}

/// The boot loader in use, and the four states of the kernel command line.
#[derive(Clone, Debug, Serialize)]
pub struct Boot {
    pub loader: Loader,
    /// What shows that it is this loader.
    pub loader_source: Source,
    /// What makes grub.cfg here, where GRUB is the loader.
    pub mkconfig: model::Tool,
    /// `/proc/cmdline`.
    pub effective: Fact<String>,
    /// What the loader's own source files say, joined as the generator joins it.
    pub written: Fact<String>,
    /// What the loader will boot, the default entry first; `Unreadable` where it lies on an unmounted ESP.
    pub generated: Seen<Vec<Written>>,
    /// Command lines in files that this loader does not read.
    pub unread: Vec<Written>,
    /// Every written piece with its line, overridden ones included.
    pub pieces: Vec<Written>,
    /// Secure Boot of this machine's firmware.
    pub secure_boot: Seen<bool>,
    /// On ostree: whether the initramfs is made on this machine already. `Absent` elsewhere.
    pub local_initramfs: Seen<bool>,
}

/// A piece of a command line where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    pub source: Source,
    pub text: String,
}

pub use crate::loader::{Appliance, Loader};

#[derive(Clone, Debug, Serialize)]
pub struct Iommu {
    /// Names in /sys/class/iommu: the units that the kernel runs. Empty or `Absent`: none.
    pub units: Seen<Vec<String>>,
    /// "DMAR" or "IVRS", the firmware's table.
    pub table: Seen<String>,
    /// Interrupt remapping, by effect where that can be seen.
    pub remaps: Fact<bool>,
    /// `allow_unsafe_interrupts` of the loaded module.
    pub unsafe_now: Fact<String>,
    /// IOMMU group → lines of `reserved_regions`, for the groups of display devices.
    pub reserved: BTreeMap<u32, Seen<Vec<String>>>,
}

/// The whole machine, and its display functions one by one.
#[derive(Clone, Debug, Serialize)]
pub struct Platform {
    /// Booted by UEFI, not by a BIOS or its imitation (CSM). `Absent` where no machine runs.
    pub efi: Seen<bool>,
    /// Physical address bits of the CPU.
    pub cpu_bits: Seen<u32>,
    /// Address bits of the narrowest Intel IOMMU unit; `Absent` on AMD.
    pub iommu_bits: Fact<u32>,
    /// `enable_unsafe_noiommu_mode` of the loaded vfio module.
    pub noiommu: Fact<String>,
    pub cards: BTreeMap<Bdf, CardState>,
}

#[derive(Clone, Debug, Serialize)]
pub struct CardState {
    /// BAR → bitmap of the sizes it may have, bit n for 2^(20+n) bytes (`resourceN_resize`).
    pub sizes: BTreeMap<u8, u64>,
    /// PCIe errors since the boot (`aer_dev_correctable`, `aer_dev_fatal`).
    pub corrected: Seen<u64>,
    pub fatal: Seen<u64>,
    /// What shows that the card is set up to be shared out (vGPU, mdev, virtual functions).
    pub vgpu: Option<Source>,
}

impl Iommu {
    /// Whether the kernel runs an IOMMU.
    pub fn on(&self) -> Seen<bool> {
        match &self.units {
            Seen::Is(units) => Seen::Is(!units.is_empty()),
            Seen::Absent => Seen::Is(false),
            Seen::Unreadable(reason) => Seen::Unreadable(reason.clone()),
        }
    }
}

/// Module configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Conf {
    pub modprobe: Vec<ModprobeLine>,
    /// Modules to be loaded at boot or put into the initramfs.
    pub listed: Vec<Listed>,
    /// Functions that a udev rule or driverctl gives to vfio-pci by address.
    pub held: Vec<Held>,
    /// The first file or directory of these that could not be read.
    pub blind: Option<(String, model::Reason)>,
    /// `disable_vga`, `ids` … as the loaded vfio_pci has them.
    pub ids_now: Fact<String>,
}

/// One line of modprobe.d.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModprobeLine {
    pub source: Source,
    /// "options", "blacklist", "install", "softdep".
    pub verb: &'static str,
    pub module: String,
    /// Options, the install command's words, or the modules that a softdep loads before.
    pub args: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub source: Source,
    pub module: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    pub source: Source,
    pub bdf: Bdf,
    /// False where the rule names an identity that the function there does not have.
    pub matches: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Initramfs {
    pub tool: Option<InitTool>,
    /// The running kernel's image and its time of last change.
    pub image: Seen<(String, i64)>,
    /// Files that went into it, with their times.
    pub inputs: Vec<(String, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitTool {
    InitramfsTools,
    Dracut,
    Mkinitcpio,
    Booster,
    /// dracut, run by rpm-ostree for a deployment.
    Ostree,
}

/// What of this machine depends on which PCI function.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    /// Network interface, its function, and whether the default route leaves by it.
    pub nets: Vec<NetUse>,
    /// The default route of IPv4: interface and gateway.
    pub gateway: Option<(String, std::net::Ipv4Addr)>,
    /// Block devices with a mounted file system or swap on them.
    pub disks: Vec<DiskUse>,
    /// Names in /proc/consoles that are no screen: ttyS0, hvc0.
    pub serial: Vec<String>,
    /// "BOOTFB" and the like in /proc/iomem, with the BAR's owner; `Unreadable` where addresses are hidden.
    pub bootfb: Seen<Vec<(Bdf, String)>>,
    /// Names in /dev/vfio: "vfio", and the numbers of the groups that can be opened.
    pub nodes: Seen<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetUse {
    pub name: String,
    pub bdf: Bdf,
    pub up: bool,
    /// The interface through which it carries the default route (itself, or its bridge or bond).
    pub route: Option<String>,
    /// Peers of SSH sessions that come in by it.
    pub ssh: Vec<std::net::Ipv4Addr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskUse {
    pub name: String,
    pub bdf: Bdf,
    /// "/", "swap", "ZFS pool rpool".
    pub on: String,
}

/// A card that is meant for a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Want {
    pub bdf: Bdf,
    /// "hostpci0 of VM 100 names it", "inferred: …".
    pub why: String,
    pub source: Source,
    pub inferred: bool,
}

impl Facts {
    /// The wanted cards that are really there, each with its slot's functions.
    pub fn targets(&self) -> Vec<Target<'_>> {
        self.wanted.iter().filter_map(|want| self.target(want.bdf)).collect()
    }

    pub fn target(&self, bdf: Bdf) -> Option<Target<'_>> {
        let card = self.inventory.cards.iter().find(|card| card.identity.bdf.same_slot(&bdf))?;
        Some(Target { card, functions: self.inventory.functions_of(card) })
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).and_then(Seen::get).map(String::as_str)
    }

    /// What holds a function for vfio-pci at the next boot, as written: a rule by address, driverctl, or `ids=` where
    /// no other driver can come first.
    pub fn written_hold(&self, function: &Function) -> Option<&Source> {
        let by_address = self.conf.held.iter().find(|held| held.bdf == function.bdf && held.matches);
        let first = match &function.driver {
            Seen::Is(driver) => is_vfio(driver) || self.loads_after_vfio(driver),
            _ => true,
        };
        by_address.map(|held| &held.source).or_else(|| self.ids_hold(function).filter(|_| first))
    }

    /// True where modprobe.d has vfio-pci loaded before a driver.
    pub fn loads_after_vfio(&self, driver: &str) -> bool {
        let module = if driver == "xhci_hcd" { "xhci_pci" } else { driver };
        self.conf.modprobe.iter().any(|line| {
            line.verb == "softdep"
                && is_module(&line.module, module)
                && line.args.iter().any(|m| is_module(m, "vfio_pci"))
        })
    }

    /// The `options vfio-pci ids=` line or command line that matches a function's vendor and device.
    pub fn ids_hold(&self, function: &Function) -> Option<&Source> {
        self.ids().into_iter().find(|(_, ids)| ids.contains(&function.id)).map(|(source, _)| source)
    }

    /// Every `ids=` that is written for vfio-pci.
    pub fn ids(&self) -> Vec<(&Source, Vec<model::PciId>)> {
        let parse = |text: &str| -> Vec<model::PciId> {
            // `vendor:device:subvendor:…` may follow; the first two decide.
            let id = |word: &str| word.split(':').take(2).collect::<Vec<_>>().join(":").parse().ok();
            text.split(',').filter_map(id).collect()
        };
        let mut found = Vec::new();
        // Parameters of a built-in driver come from the command line alone.
        if !self.kernel.is_builtin("vfio_pci") {
            for line in self.conf.modprobe.iter().filter(|l| l.verb == "options" && is_module(&l.module, "vfio_pci")) {
                for word in line.args.iter().filter_map(|arg| arg.strip_prefix("ids=")) {
                    found.push((&line.source, parse(word)));
                }
            }
        }
        let cmdline = formats::kcmdline::Cmdline::parse(self.boot.written.get().map_or("", String::as_str));
        for word in cmdline.values("vfio_pci.ids") {
            found.push((&self.boot.written.source, parse(word)));
        }
        found
    }
}

/// A wanted card and all functions of its slot.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    pub card: &'a Card,
    pub functions: Vec<&'a Function>,
}

impl Target<'_> {
    /// "26:00.0 (GeForce GT 1030)".
    pub fn name(&self) -> String {
        format!("{} ({})", self.card.identity.bdf.short(), self.card.short_name())
    }

    pub fn held(&self) -> bool {
        self.functions.iter().all(|f| f.driver.get().is_some_and(|driver| is_vfio(driver)))
    }
}

/// Drivers that leave a device to user space.
pub fn is_vfio(driver: &str) -> bool {
    driver.starts_with("vfio-pci") || driver.ends_with("vfio-pci") || driver == "pci-stub"
}

pub fn is_module(left: &str, right: &str) -> bool {
    formats::modules::same_module(left, right)
}
