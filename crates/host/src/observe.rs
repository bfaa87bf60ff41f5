//! Machine → facts of the host floor. Reads only; asks nothing.

mod boot;
mod conf;
mod loader;
mod platform;
mod usage;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};

use gpu::Inventory;
use machine::{Machine, MachineExt};
use model::{Fact, Seen, Source};

use crate::facts::{Distro, Facts, Iommu, Kernel, Place};

/// Reads all that the host floor's checks and planner need.
pub fn observe(machine: &dyn Machine, gpus: &Inventory) -> Facts {
    let distro = distro(machine);
    let kernel = kernel(machine);
    let boot = boot::observe(machine, &distro);
    let iommu = iommu(machine, gpus, &kernel, &boot.effective);
    let platform = platform::observe(machine, gpus);
    let conf = conf::observe(machine, gpus);
    let initramfs = conf::initramfs(machine, &kernel);
    let usage = usage::observe(machine, gpus);
    let place = place(machine, gpus);
    let texts = texts(machine);
    let mut facts = Facts {
        place,
        distro,
        kernel,
        boot,
        iommu,
        platform,
        conf,
        initramfs,
        usage,
        wanted: Vec::new(),
        inventory: gpus.clone(),
        users: gpu::users(machine, gpus),
        remembered: BTreeMap::new(),
        texts,
    };
    facts.wanted = wanted::observe(machine, &facts);
    facts
}

/// A hypervisor shows itself to its guests: by CPUID (the `hypervisor` flag) and by the firmware's names.
fn place(machine: &dyn Machine, gpus: &Inventory) -> Place {
    const CPUINFO: &str = "/proc/cpuinfo";
    let cpuinfo = machine.text(CPUINFO);
    if let Seen::Is(text) = &cpuinfo {
        for (at, line) in text.lines().enumerate() {
            let Some((key, flags)) = line.split_once(':') else { continue };
            if key.trim() == "flags" {
                return if flags.split_whitespace().any(|flag| flag == "hypervisor") {
                    let source = Source::line(CPUINFO, u32::try_from(at + 1).unwrap_or(u32::MAX));
                    Place::Guest { says: "the CPU has the flag \"hypervisor\"".into(), source }
                } else {
                    Place::Metal
                };
            }
        }
    }
    const VENDOR: &str = "/sys/class/dmi/id/sys_vendor";
    const GUESTS: [&str; 8] =
        ["QEMU", "VMware", "Xen", "innotek", "Amazon EC2", "Google", "Parallels", "OpenStack Foundation"];
    match machine.value(VENDOR) {
        Seen::Is(vendor) if GUESTS.iter().any(|guest| vendor.starts_with(guest)) => {
            Place::Guest { says: format!("the firmware's vendor is {vendor}"), source: Source::file(VENDOR) }
        }
        Seen::Is(_) => Place::Metal,
        // NVML knows a pass-through guest by the card itself (nvmlDeviceGetVirtualizationMode).
        _ if passed_through(gpus) => Place::Guest {
            says: "NVML says that the card is passed through".into(),
            source: Source::Answer("NVML".into()),
        },
        _ => match cpuinfo {
            Seen::Unreadable(reason) => Place::Unknown(format!("{CPUINFO}: {reason}")),
            _ => Place::Unknown(format!("neither {CPUINFO} nor {VENDOR} says whether a hypervisor is below")),
        },
    }
}

fn passed_through(gpus: &Inventory) -> bool {
    let modes = gpus.cards.iter().filter_map(|card| card.nvml.as_ref()?.virtualization.get());
    modes.into_iter().any(|mode| mode == "Pass-Through" || mode == "vGPU")
}

fn distro(machine: &dyn Machine) -> Distro {
    let mut env = BTreeMap::new();
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Seen::Is(text) = machine.text(path) {
            if let Ok(vars) = formats::shellvars::ShellVars::parse(&text) {
                vars.eval(&mut env);
            }
            break;
        }
    }
    let get = |name: &str| env.get(name).cloned().unwrap_or_default();
    let proxmox = match installed(machine, "pve-manager") {
        Seen::Is(version) => Seen::Is(version),
        _ if machine.is_dir("/etc/pve") => Seen::Is(String::new()),
        other => match other {
            Seen::Unreadable(reason) if !machine.stat("/etc/pve").is_absent() => Seen::Unreadable(reason),
            _ => Seen::Absent,
        },
    };
    Distro {
        id: get("ID"),
        like: get("ID_LIKE").split_whitespace().map(str::to_owned).collect(),
        pretty: get("PRETTY_NAME"),
        proxmox,
    }
}

/// The version of an installed Debian package.
fn installed(machine: &dyn Machine, package: &str) -> Seen<String> {
    let status = machine.text("/var/lib/dpkg/status");
    status.and_then(|text| Seen::from(formats::dpkg::installed(&text, package)))
}

fn kernel(machine: &dyn Machine) -> Kernel {
    const RELEASE: &str = "/proc/sys/kernel/osrelease";
    let mut release = machine.value_fact(RELEASE);
    // A tree without /proc: the newest kernel that is installed is the one that will boot.
    if release.get().is_none() {
        let mut names = machine.names("/lib/modules");
        names.retain(|name| name.starts_with(|c: char| c.is_ascii_digit()));
        names.sort_by_key(|name| numbers(name));
        if let Some(newest) = names.pop() {
            release = Fact::new(Seen::Is(newest), Source::file("/lib/modules"));
        }
    }
    let (modules, builtin) = match release.get() {
        Some(release) => (
            module_names(machine, &format!("/lib/modules/{release}/modules.dep")),
            module_names(machine, &format!("/lib/modules/{release}/modules.builtin")),
        ),
        None => (Seen::Absent, Seen::Absent),
    };
    let loaded = machine.text("/proc/modules").map(|text| {
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect::<BTreeSet<_>>()
    });
    let cpu_vendor = machine.text("/proc/cpuinfo").and_then(|text| {
        let vendor = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == "vendor_id");
        Seen::from(vendor.map(|(_, value)| value.trim().to_owned()))
    });
    let intel_on = match release.get() {
        Some(release) => machine
            .text(&format!("/boot/config-{release}"))
            .map(|text| text.lines().any(|line| line == "CONFIG_INTEL_IOMMU_DEFAULT_ON=y")),
        None => Seen::Absent,
    };
    Kernel { release, cpu_vendor, modules, builtin, loaded, intel_on }
}

/// The numbers in a version, for ordering: "6.8.12-4-pve" → [6, 8, 12, 4].
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// `kernel/drivers/vfio/pci/vfio-pci.ko.zst: …` → `vfio_pci`.
fn module_names(machine: &dyn Machine, path: &str) -> Seen<BTreeSet<String>> {
    machine.text(path).map(|text| {
        let name = |line: &str| {
            let file = line.split(':').next()?.trim().rsplit('/').next()?;
            Some(file.split_once(".ko")?.0.replace('-', "_"))
        };
        text.lines().filter_map(name).collect()
    })
}

fn iommu(machine: &dyn Machine, gpus: &Inventory, kernel: &Kernel, effective: &Fact<String>) -> Iommu {
    let units = machine.list("/sys/class/iommu");
    let table = ["DMAR", "IVRS"].into_iter().find(|t| machine.exists(&format!("/sys/firmware/acpi/tables/{t}")));
    let table = match table {
        Some(table) => Seen::Is(table.to_owned()),
        None => match machine.list("/sys/firmware/acpi/tables") {
            Seen::Is(_) => Seen::Absent,
            // No ACPI directory at all, though the firmware's directory is there: no tables either.
            Seen::Absent => Seen::Absent,
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        },
    };
    let mut reserved = BTreeMap::new();
    for group in gpus.cards.iter().filter_map(|card| card.group.get()) {
        let path = format!("/sys/kernel/iommu_groups/{}/reserved_regions", group.number);
        let lines = machine.text(&path).map(|text| text.lines().map(str::to_owned).collect());
        reserved.insert(group.number, lines);
    }
    let remaps = remaps(machine, &units, kernel, effective);
    let unsafe_now = machine.value_fact("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
    Iommu { units, table, remaps, unsafe_now, reserved }
}

/// Whether interrupts are remapped: by the chip names of /proc/interrupts ("IR-PCI-MSI"), else by the unit's
/// capability bits and the command line.
fn remaps(machine: &dyn Machine, units: &Seen<Vec<String>>, kernel: &Kernel, effective: &Fact<String>) -> Fact<bool> {
    const INTERRUPTS: &str = "/proc/interrupts";
    if let Seen::Is(text) = machine.text(INTERRUPTS)
        && text.contains("IO-APIC")
    {
        return Fact::new(Seen::Is(text.contains("IR-IO-APIC")), Source::file(INTERRUPTS));
    }
    let units = match units {
        Seen::Is(units) if !units.is_empty() => units,
        Seen::Unreadable(reason) => {
            return Fact::new(Seen::Unreadable(reason.clone()), Source::file("/sys/class/iommu"));
        }
        _ => return Fact::new(Seen::Absent, Source::file("/sys/class/iommu")),
    };
    if let Some(line) = effective.get() {
        let line = formats::kcmdline::Cmdline::parse(line);
        if line.has("intremap=off") || line.has("nointremap") {
            return Fact::new(Seen::Is(false), Source::file("/proc/cmdline"));
        }
    }
    for unit in units.iter().filter(|unit| unit.starts_with("dmar")) {
        let path = format!("/sys/class/iommu/{unit}/intel-iommu/ecap");
        // Extended capability register, bit 3: interrupt remapping (VT-d specification, 11.4.3).
        let bit = machine.value(&path).and_then(|text| match u64::from_str_radix(text.trim_start_matches("0x"), 16) {
            Ok(ecap) => Seen::Is(ecap & 8 != 0),
            Err(_) => Seen::Unreadable(model::Reason::Malformed(format!("{path}: is no hexadecimal number"))),
        });
        if bit != Seen::Is(true) {
            return Fact::new(bit, Source::file(path));
        }
    }
    let _ = kernel;
    // AMD's units always can, and the kernel has it on unless told otherwise.
    Fact::new(Seen::Is(true), Source::Rule("the IOMMU's units can, and /proc/cmdline does not switch it off".into()))
}

/// The files that a plan of this floor may write or edit.
fn texts(machine: &dyn Machine) -> BTreeMap<String, Seen<String>> {
    use crate::plan::files;
    let mut paths: Vec<String> = files::OWN.iter().map(|path| (*path).to_owned()).collect();
    let edited = ["/etc/default/grub", "/etc/kernel/cmdline", "/etc/kernelstub/configuration", "/etc/booster.yaml"];
    let lists = ["/etc/modules", "/etc/initramfs-tools/modules", "/etc/mkinitcpio.conf", "/etc/dracut.conf"];
    paths.extend(edited.into_iter().chain(lists).map(str::to_owned));
    let dirs = ["/etc/default/grub.d", "/etc/modprobe.d", "/etc/modules-load.d", "/etc/cmdline.d"];
    for dir in dirs.into_iter().chain(["/etc/dracut.conf.d", "/etc/mkinitcpio.conf.d"]).chain(loader::ENTRIES) {
        paths.extend(machine.names(dir).into_iter().map(|name| format!("{dir}/{name}")));
    }
    let read = |path: String| {
        // Bytes that are no UTF-8 must not be written back as something else.
        let text = machine.read(&path).and_then(|bytes| match String::from_utf8(bytes) {
            Ok(text) => Seen::Is(text),
            Err(_) => Seen::Unreadable(model::Reason::Malformed(format!("{path}: is no UTF-8"))),
        });
        (path, text)
    };
    paths.into_iter().map(read).collect()
}
