//! What no observer asks for today and a later reader may want. Read through a [`crate::Recorder`], so that it lands
//! in the capture.

use model::Seen;

use crate::{FileKind, Machine, MachineExt as _, Question, READ_LIMIT};

/// Files of the system as a whole.
const FILES: &[&str] = &[
    "/proc/cmdline",
    "/proc/version",
    "/proc/modules",
    "/proc/devices",
    "/proc/iomem",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/filesystems",
    "/proc/mounts",
    "/proc/self/cgroup",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/hostname",
    "/etc/hostname",
    "/etc/os-release",
    "/usr/lib/os-release",
    "/etc/debian_version",
    "/etc/modules",
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/etc/kernel/proxmox-boot-uuids",
    "/etc/docker/daemon.json",
    "/etc/containerd/config.toml",
    "/etc/containers/containers.conf",
    "/etc/crio/crio.conf",
    "/etc/nvidia-container-runtime/config.toml",
    "/sys/class/dmi/id/sys_vendor",
    "/sys/class/dmi/id/product_name",
    "/sys/class/dmi/id/board_name",
    "/sys/class/dmi/id/bios_version",
    "/sys/class/dmi/id/bios_date",
    "/sys/kernel/security/lockdown",
    "/boot/grub/grub.cfg",
];

/// Directories whose plain files are read, this many levels down.
const TREES: &[(&str, usize)] = &[
    ("/etc/modprobe.d", 0),
    ("/usr/lib/modprobe.d", 0),
    ("/etc/modules-load.d", 0),
    ("/etc/default/grub.d", 0),
    ("/etc/initramfs-tools", 1),
    ("/etc/dracut.conf.d", 0),
    ("/etc/cdi", 0),
    ("/var/run/cdi", 0),
    ("/etc/crio/crio.conf.d", 0),
    ("/etc/containerd/conf.d", 0),
    ("/etc/udev/rules.d", 0),
    ("/proc/driver/nvidia", 3),
    ("/proc/driver/nvidia-caps", 0),
    ("/sys/class/iommu", 0),
];

/// A PCI function's attributes that the kernel answers from memory. Not `config`, `rom`, `resourceN` or `vpd`, which
/// reach the device and would wake one that sleeps.
const PCI: &[&str] = &[
    "vendor",
    "device",
    "subsystem_vendor",
    "subsystem_device",
    "class",
    "revision",
    "uevent",
    "resource",
    "numa_node",
    "boot_vga",
    "reset_method",
    "driver_override",
    "power_state",
    "d3cold_allowed",
    "enable",
    "modalias",
    "irq",
    "local_cpulist",
    "sriov_numvfs",
    "sriov_totalvfs",
    "power/control",
    "power/runtime_status",
];

/// Attributes that the kernel reads from the device's own registers: only where it is awake.
const AWAKE: &[&str] = &["current_link_speed", "current_link_width", "max_link_speed", "max_link_width"];

/// The most that all of this may weigh together.
const BYTES: usize = 48 << 20;
/// The most names that are looked at.
const LOOKS: usize = 20_000;
const TIME: std::time::Duration = std::time::Duration::from_secs(3);

struct Budget<'a> {
    machine: &'a dyn Machine,
    bytes: usize,
    looks: usize,
    start: std::time::Instant,
}

/// Reads it all, within bounds of time and size; what is absent is recorded as absent.
pub fn extra(machine: &dyn Machine) {
    let mut budget = Budget { machine, bytes: BYTES, looks: LOOKS, start: std::time::Instant::now() };
    for path in FILES {
        budget.file(path);
    }
    for (dir, depth) in TREES {
        budget.tree(dir, *depth);
    }
    budget.pci();
    for question in Question::ALL.into_iter().filter(|question| question.in_passing()) {
        if budget.spent() {
            break;
        }
        machine.ask(&question);
    }
}

impl Budget<'_> {
    fn spent(&self) -> bool {
        self.bytes == 0 || self.looks == 0 || self.start.elapsed() > TIME
    }

    fn file(&mut self, path: &str) {
        if self.spent() {
            return;
        }
        self.looks -= 1;
        // The size first: /proc says 0 and is bounded by READ_LIMIT, a file on a disk must fit what is left.
        let fits = self
            .machine
            .stat(path)
            .is()
            .is_some_and(|stat| stat.kind == FileKind::File && stat.size <= self.bytes.min(READ_LIMIT) as u64);
        if fits && let Seen::Is(bytes) = self.machine.read(path) {
            self.bytes = self.bytes.saturating_sub(bytes.len());
        }
    }

    fn tree(&mut self, dir: &str, depth: usize) {
        for name in self.machine.names(dir) {
            if self.spent() {
                return;
            }
            let path = format!("{dir}/{name}");
            match self.machine.lstat(&path).is().map(|stat| stat.kind) {
                Some(FileKind::File) => self.file(&path),
                Some(FileKind::Link) => {
                    self.machine.stat(&path);
                    self.file(&path);
                }
                Some(FileKind::Dir) if depth > 0 => self.tree(&path, depth - 1),
                _ => self.looks -= 1,
            }
        }
    }

    /// Display controllers, and what shares a slot with one.
    fn pci(&mut self) {
        const DEVICES: &str = "/sys/bus/pci/devices";
        let names = self.machine.names(DEVICES);
        let display = |machine: &dyn Machine, name: &str| {
            machine.value(&format!("{DEVICES}/{name}/class")).is().is_some_and(|class| class.starts_with("0x03"))
        };
        let mut slots: Vec<String> = Vec::new();
        for name in &names {
            if self.spent() {
                return;
            }
            if display(self.machine, name) {
                slots.push(name.split('.').next().unwrap_or_default().to_owned());
            }
        }
        for name in names.iter().filter(|name| slots.iter().any(|slot| name.split('.').next() == Some(slot))) {
            let dir = format!("{DEVICES}/{name}");
            PCI.iter().for_each(|attribute| self.file(&format!("{dir}/{attribute}")));
            for link in ["driver", "iommu_group"] {
                if let Seen::Is(_) = self.machine.link(&format!("{dir}/{link}")) {
                    self.machine.stat(&format!("{dir}/{link}"));
                }
            }
            self.machine.list(&format!("{dir}/iommu_group/devices"));
            let awake = match self.machine.value(&format!("{dir}/power_state")) {
                Seen::Is(state) => state == "D0",
                _ => self.machine.value(&format!("{dir}/power/runtime_status")).is().as_deref() == Some("active"),
            };
            if awake {
                AWAKE.iter().for_each(|attribute| self.file(&format!("{dir}/{attribute}")));
            }
        }
    }
}
