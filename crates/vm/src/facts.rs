//! What the checks and the planner of this floor know of a machine.

use std::collections::BTreeMap;

use formats::domxml::Domain;
use formats::efistore::SecureBoot;
use formats::pveconf::Conf;
use formats::qemuargs::QemuArgs;
use gpu::{Card, Inventory};
use model::{Bdf, Digest, Reason, Seen, Source};
use serde::Serialize;

/// The VM floor of one machine.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// A running hypervisor: its definitions are changed through its own tools or API, not as files.
    pub live: bool,
    /// Absent: not Proxmox VE.
    pub pve: Seen<Pve>,
    /// Is: libvirt's QEMU driver is here; the unit that reads its definitions ("libvirtd.service"), where known.
    pub libvirt: Seen<Option<String>>,
    /// By id, Proxmox VE's first.
    pub vms: Vec<Vm>,
    /// Definitions that are there and could not be read or parsed: then "no VM has the card" must not be said.
    pub unread: Vec<(Source, Reason)>,
    /// QEMU processes that belong to no definition.
    pub loose: Vec<(u32, QemuArgs)>,
    /// /etc/pve/mapping/pci.cfg.
    pub mappings: Seen<Vec<Mapping>>,
    pub memory: HostMemory,
    pub host: Host,
    /// "GenuineIntel", "AuthenticAMD": /proc/cpuinfo.
    pub cpu_vendor: Seen<String>,
    /// "address sizes : 43 bits physical" of /proc/cpuinfo.
    pub phys_bits: Seen<u32>,
    pub gpus: Inventory,
}

/// A Proxmox VE node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pve {
    /// pve-manager's version from dpkg: "7.1-8".
    pub version: Seen<String>,
    /// The node's own name: where /etc/pve/local leads.
    pub node: Seen<String>,
    /// /etc/pve/storage.cfg: storages that may hold disk images.
    pub storages: Vec<Storage>,
    pub backups: Vec<Backup>,
}

/// A backup job of /etc/pve/jobs.cfg that is enabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backup {
    pub id: String,
    pub line: u32,
    /// The VMIDs that it covers; none is all.
    pub vms: Option<Vec<u32>>,
    /// "snapshot" (also where none is said), "suspend", "stop".
    pub mode: String,
}

impl Backup {
    pub fn covers(&self, vmid: Option<u32>) -> bool {
        self.vms.as_ref().is_none_or(|ids| vmid.is_some_and(|vmid| ids.contains(&vmid)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Storage {
    pub id: String,
    /// "dir", "lvmthin", "zfspool", …
    pub kind: String,
    /// `content` holds `images`.
    pub images: bool,
    /// Where its disks are: a directory, or the one of a volume group's or a pool's devices. None for kinds whose disks
    /// are no file here (rbd, iscsi).
    pub dir: Option<String>,
}

impl Storage {
    /// Its volumes are files in a directory for each VM.
    pub fn is_files(&self) -> bool {
        matches!(self.kind.as_str(), "dir" | "btrfs" | "nfs" | "cifs" | "cephfs" | "glusterfs")
    }
}

/// The store of a UEFI guest's variables, read with no VM running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vars {
    pub path: String,
    pub says: Seen<SecureBoot>,
}

/// A named PCI device of a Proxmox VE cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mapping {
    pub id: String,
    pub entries: Vec<MappingEntry>,
}

/// One node's device behind a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MappingEntry {
    pub node: String,
    /// "0000:26:00" or "0000:26:00.0", more parted by `;`.
    pub path: String,
    /// "10de:1d01".
    pub id: Option<String>,
    pub subsystem: Option<String>,
    pub group: Option<i64>,
    pub line: u32,
}

/// Host memory, MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostMemory {
    pub total: Seen<u64>,
    pub available: Seen<u64>,
    /// What ZFS's cache could give back: arcstats `size` − `c_min`. Absent without ZFS.
    pub arc: Seen<u64>,
}

/// What of the host decides whether a VM with a card starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// /proc/sys/kernel/hostname, else /etc/hostname.
    pub name: Seen<String>,
    /// The CPU offers VT-x or SVM: `vmx` or `svm` in /proc/cpuinfo.
    pub virtualization: Seen<bool>,
    /// The CPU has pages of 1 GiB: `pdpe1gb` in /proc/cpuinfo.
    pub gib_pages: Seen<bool>,
    /// Address bits of the narrowest of Intel's IOMMU units (the MGAW field of `cap`), and the file. Absent on AMD.
    pub iommu_bits: Seen<(u32, String)>,
    pub hugepages: Vec<HugePages>,
    /// NUMA nodes with their CPUs.
    pub nodes: Vec<(u32, Vec<u32>)>,
    /// vfio_iommu_type1's `dma_entry_limit`: mappings that one VM may hold.
    pub dma_entries: Seen<u64>,
    /// /proc/sys/kernel/osrelease: "6.12.48+deb13-amd64".
    pub kernel: Seen<String>,
    /// qemu-server's version from dpkg: "8.0.8". Absent: not Proxmox VE, or not installed as a package.
    pub qemu_server: Seen<String>,
    /// ROM files that definitions name, and whether each is there.
    pub roms: BTreeMap<String, bool>,
    /// Virtual machines under high availability: (VMID, line of /etc/pve/ha/resources.cfg).
    pub ha: Vec<(String, u32)>,
}

/// The huge pages of one size on one NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HugePages {
    pub node: u32,
    pub kib: u64,
    pub total: u64,
    pub free: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VmKind {
    Proxmox,
    Libvirt,
}

/// A value, and the line of the definition where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting<T> {
    pub value: T,
    pub line: Option<u32>,
}

/// One virtual machine, whatever defines it.
#[derive(Clone, Debug, Serialize)]
pub struct Vm {
    pub kind: VmKind,
    /// "100", or libvirt's name.
    pub id: String,
    pub name: String,
    /// Where its definition stands, as people name it: /etc/pve/qemu-server/100.conf.
    pub path: String,
    /// The same with links resolved: what a plan writes.
    pub real_path: String,
    pub digest: Digest,
    /// SHA-1 of the file: what `qm set --digest` compares. Proxmox VE only.
    pub sha1: String,
    pub template: bool,
    /// `lock:` of Proxmox VE: backup, migrate, …
    pub lock: Option<Setting<String>>,
    /// As written; none: the hypervisor's default (i440fx).
    pub machine: Option<Setting<String>>,
    pub q35: bool,
    pub firmware: Option<Setting<String>>,
    pub uefi: bool,
    pub efidisk: Option<Efidisk>,
    /// Secure Boot with enrolled keys, as the definition has it: only firmware that is UEFI.
    pub enrolled_keys: Option<Setting<bool>>,
    /// Only of a UEFI VM that is given something and does not run. Absent in it: the first start makes it.
    pub vars: Option<Vars>,
    /// CPU model: "host", "kvm64"; none: the hypervisor's default.
    pub cpu: Option<Setting<String>>,
    /// KVM is kept from the guest's sight: `hidden=1`, `<kvm><hidden state='on'/>`.
    pub kvm_hidden: bool,
    /// MiB.
    pub memory: Setting<u64>,
    /// True where a balloon device is there (Proxmox VE's default).
    pub balloon: Setting<bool>,
    pub onboot: Option<Setting<bool>>,
    pub scsihw: Option<Setting<String>>,
    /// A disk hangs on the SCSI controller.
    pub scsi_disks: bool,
    /// `vga:` and `serial0:`: a console besides the card.
    pub console: bool,
    /// "l26", "win11".
    pub ostype: Option<String>,
    pub given: Vec<Given>,
    /// Changes that wait for a stop and start: (key, new value or none for a deletion, line).
    pub pending: Vec<(String, Option<String>, Option<u32>)>,
    pub snapshots: Vec<String>,
    /// What the guest is told of its cards' places from the next start on: the texts, unread.
    pub hints: Vec<Setting<String>>,
    pub running: Running,
    #[serde(skip)]
    pub bytes: Vec<u8>,
    #[serde(skip)]
    pub conf: Option<Conf>,
    #[serde(skip)]
    pub domain: Option<Domain>,
}

/// Proxmox VE's EFI variables disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Efidisk {
    pub volume: String,
    /// "2m" (also where left out) or "4m".
    pub efitype: String,
    pub enrolled: bool,
    /// `ms-cert`: which of Microsoft's certificates are on it ("2011", "2023k").
    pub certs: Option<String>,
    pub line: u32,
}

/// One line or element that gives host functions to a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Given {
    /// "hostpci0", "hostdev", "args".
    pub key: String,
    pub line: Option<u32>,
    /// As written: "0000:26:00,pcie=1".
    pub text: String,
    /// Every host function this takes, addresses without a function expanded to all of the slot.
    pub functions: Vec<Bdf>,
    /// Named without a function: all functions go, as one multifunction device.
    pub whole: bool,
    pub mapping: Option<String>,
    /// On a PCIe port (and not on the legacy bus).
    pub pcie: bool,
    pub x_vga: bool,
    /// The ROM file as a path on the host.
    pub romfile: Option<String>,
}

/// Whether a VM runs, by its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Running {
    No,
    Yes { pid: u32, args: Box<QemuArgs> },
    Unknown(Reason),
}

impl Facts {
    /// The VMs that name a function of this slot, templates left out.
    pub fn owners(&self, card: Bdf) -> Vec<&Vm> {
        self.vms.iter().filter(|vm| !vm.template && vm.names(card)).collect()
    }

    pub fn vm(&self, id: &str) -> Option<&Vm> {
        self.vms.iter().find(|vm| vm.id == id).or_else(|| self.vms.iter().find(|vm| vm.name == id))
    }

    /// The cards among what a VM is given, by address.
    pub fn cards_of(&self, vm: &Vm) -> Vec<&Card> {
        self.gpus.cards.iter().filter(|card| vm.names(card.identity.bdf)).collect()
    }

    /// The VMs that are given a card (of any vendor), templates left out.
    pub fn with_card(&self) -> impl Iterator<Item = &Vm> {
        self.vms.iter().filter(|vm| !vm.template && !self.cards_of(vm).is_empty())
    }

    /// All functions of a card's slot.
    pub fn functions(&self, card: &Card) -> Vec<Bdf> {
        let mut all = vec![card.identity.bdf];
        all.extend(self.gpus.functions_of(card).iter().map(|function| function.bdf));
        all.extend(&card.companions);
        all.sort_unstable();
        all.dedup();
        all
    }

    /// True where this machine has a hypervisor's definitions.
    pub fn here(&self) -> bool {
        self.pve.is_there() || self.libvirt.is_there()
    }
}

impl Vm {
    /// What the variable store says, where it could be read.
    pub fn secure_boot(&self) -> Option<(&str, &SecureBoot)> {
        let vars = self.vars.as_ref()?;
        Some((&vars.path, vars.says.get()?))
    }

    /// True where the definition names a function of this slot.
    pub fn names(&self, card: Bdf) -> bool {
        self.given.iter().any(|given| given.functions.iter().any(|function| function.same_slot(&card)))
    }

    /// "VM 100 (mufti-4)", "VM media".
    pub fn title(&self) -> String {
        if self.name.is_empty() || self.name == self.id {
            format!("VM {}", self.id)
        } else {
            format!("VM {} ({})", self.id, self.name)
        }
    }

    /// The definition, at the line of this setting.
    pub fn source(&self, line: Option<u32>) -> Source {
        Source::File { path: self.path.clone(), line }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.running, Running::Yes { .. })
    }

    /// Windows, by its `ostype`.
    pub fn is_windows(&self) -> bool {
        self.ostype.as_deref().is_some_and(|kind| kind.starts_with('w'))
    }
}

/// "0-3,8": the numbers of a CPU or node list. A list that is no list is empty; one that is too long is cut.
pub(crate) fn numbers(list: &str) -> Vec<u32> {
    let mut all = Vec::new();
    for part in list.trim().split([',', ';', ' ']).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) else { continue };
        all.extend((first..=last).take(4096));
    }
    all
}
