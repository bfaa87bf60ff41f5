//! What the driver floor reads: the cards, the kernel, modprobe.d, packages, device nodes, firmware, NVML.

mod kernels;
mod packages;
mod settings;
mod sources;

use std::collections::BTreeSet;

use formats::hint::Hint;
use gpu::hint::{Astray, Told};
use gpu::{Card, DriverFacts, Inventory};
use machine::{Answer, DMI_TABLE, Machine, MachineExt, Question};
use model::{Bdf, Fact, Reason, Seen, Source, Tool};
use serde::Serialize;

use crate::mig::Kept;
pub(crate) use kernels::newer;
pub use kernels::{Kernel, Power};

pub use packages::Pkg;
pub use settings::Line;
pub use sources::{Archive, Sources};

/// All that the checks and the planner need.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Whether PCI could be listed at all.
    pub looked: Seen<()>,
    /// NVIDIA's cards.
    pub cards: Vec<Card>,
    /// Cards that modprobe.d, a driver_override or vfio-pci itself keeps for a VM.
    pub for_vfio: Vec<Bdf>,
    /// True: the CPU says that a hypervisor runs under this kernel.
    pub vm: Fact<bool>,
    /// What makes this machine a host of VMs: "Proxmox VE"; Absent where nothing does.
    pub hypervisor: Seen<String>,
    /// What would use NVIDIA's driver on this machine itself: a container engine, a kubelet, Jellyfin, by its path.
    pub consumer: Option<String>,
    /// `uname -r`.
    pub release: Fact<String>,
    /// os-release's ID, ID_LIKE, VERSION_ID.
    pub os: Os,
    /// Names in /proc/modules, with `_`.
    pub modules: Fact<Vec<String>>,
    /// Module names that modules.dep of the running kernel lists, with `_`, of those that we ask for.
    pub built: Fact<Vec<String>>,
    /// Lines that keep nouveau from loading by itself.
    pub nouveau_off: Vec<Line>,
    /// A directory of modprobe's that could not be read.
    pub modprobe_unread: Option<Reason>,
    /// Our own drop-in, as it is.
    pub drop_in: Seen<Vec<u8>>,
    /// What makes this system's initramfs.
    pub initramfs: Seen<Tool>,
    /// /lib/modules/REL/build leads somewhere.
    pub headers: Fact<()>,
    pub gcc: Fact<()>,
    pub make: Fact<()>,
    /// Installed packages of NVIDIA's driver and DKMS.
    pub packages: Fact<Vec<Pkg>>,
    /// Driver packages that apt's lists offer. Empty where the lists are empty, too large, or another system's.
    pub offered: Vec<Pkg>,
    /// Names of installed packages: kernels, headers, build tools, NVIDIA's libraries and programs.
    pub present: BTreeSet<String>,
    /// apt's sources of the distribution's own archive; empty elsewhere.
    pub sources: Sources,
    /// RPM Fusion's nonfree archive is set up.
    pub rpmfusion: bool,
    /// Modules that are loaded at every boot, by modules-load.d, with `_`.
    pub loaded_at_boot: Vec<String>,
    /// Kernels with an image, the newest last.
    pub kernels: Vec<Kernel>,
    /// Whether the driver may put the card to sleep.
    pub power: Power,
    /// Xids of this boot, where syslog keeps the kernel's log.
    pub xids: Fact<Vec<Line>>,
    /// nvidia-persistenced is started at boot. Absent: it is not here, or udev starts it.
    pub persistenced: Fact<bool>,
    /// NVIDIA's modules that something beside NVIDIA's modules uses: name and count.
    pub in_use: Vec<(String, u32)>,
    pub driver: DriverFacts,
    /// /dev/nvidiactl, /dev/nvidia-uvm, and /dev/nvidiaN of each card that the driver holds.
    pub nodes: Vec<Node>,
    /// Major numbers in /proc/devices, by name ("nvidia", "nvidia-uvm").
    pub majors: Fact<Vec<(String, u32)>>,
    /// Absent where the machine did not boot by EFI.
    pub secure_boot: Fact<bool>,
    /// The certificate of the key that signs modules built here is among the keys that shim believes (MokListRT).
    /// Absent: there is no such key yet.
    pub enrolled: Fact<bool>,
    pub nvml: Seen<Nvml>,
    /// How cards are to be cut at each boot.
    pub mig_kept: Fact<Kept>,
    /// Something is in /sys/class/iommu.
    pub iommu: Fact<()>,
    pub cmdline: Seen<String>,
    /// What the hypervisor told of the cards' places on the host. Absent: nothing.
    pub told: Fact<Vec<Told>>,
    /// Where each card sits on the host, by its address here.
    pub places: Vec<(Bdf, Hint)>,
    /// Hints that contradict what is here.
    pub astray: Vec<Astray>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Os {
    pub id: String,
    pub like: String,
    pub version: String,
    /// VERSION_CODENAME: "bookworm".
    pub codename: String,
}

/// A device node that the driver's users open.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    pub path: String,
    /// Which driver's major it must have: "nvidia", "nvidia-uvm".
    pub driver: &'static str,
    /// (major, minor); `None` inside Is: there, and no character device.
    pub rdev: Seen<Option<(u32, u32)>>,
    /// What its minor must be.
    pub minor: u32,
}

/// What NVML says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct Nvml {
    pub driver_version: Seen<String>,
    pub gpus: usize,
}

impl Facts {
    /// Cards that a driver on this machine may use.
    pub fn usable(&self) -> impl Iterator<Item = &Card> {
        self.cards.iter().filter(|card| !self.for_vfio.contains(&card.identity.bdf))
    }

    /// True where NVIDIA's driver is to run here.
    pub fn here(&self) -> bool {
        if self.cards.is_empty() {
            return self.traces().is_some();
        }
        self.usable().next().is_some()
            && (self.vm.get() == Some(&true)
                || self.traces().is_some()
                // Bare metal: nouveau on a desktop or on a host of VMs is no fault until something asks for NVIDIA's.
                || (self.consumer.is_some() && !self.hypervisor.is_there()))
    }

    /// What shows that a driver is meant to run here, in words.
    pub fn traces(&self) -> Option<String> {
        if let Seen::Is(version) = &self.driver.kernel {
            return Some(format!("NVIDIA's kernel module {version} is loaded"));
        }
        let package = self.packages.get().and_then(|all| all.iter().find(|package| package.driver()));
        package.map(|package| format!("the package {} is installed", package.name))
    }

    pub fn loaded(&self, module: &str) -> Seen<bool> {
        match &self.modules.value {
            Seen::Is(all) => Seen::Is(all.iter().any(|name| name == module)),
            Seen::Absent => Seen::Is(false),
            Seen::Unreadable(reason) => Seen::Unreadable(reason.clone()),
        }
    }

    /// A module file for the running kernel exists.
    pub fn has_module(&self, module: &str) -> bool {
        self.built.get().is_some_and(|all| all.iter().any(|name| name == module))
    }

    /// nvidia.ko for the running kernel exists, by whichever name the distribution gives it.
    pub fn has_driver_module(&self) -> bool {
        self.built.get().is_some_and(|all| all.iter().any(|name| is_driver(name)))
    }

    pub fn major(&self, driver: &str) -> Option<u32> {
        self.majors.get().and_then(|all| all.iter().find(|(name, _)| name == driver)).map(|(_, major)| *major)
    }
}

const CONSUMERS: [&str; 7] = [
    "/usr/bin/docker",
    "/usr/bin/podman",
    "/usr/bin/containerd",
    "/usr/bin/crio",
    "/usr/bin/kubelet",
    "/usr/local/bin/k3s",
    "/usr/lib/jellyfin",
];

/// Reads it all.
pub fn observe(machine: &dyn Machine, gpus: &Inventory) -> Facts {
    let cards: Vec<Card> = gpus.nvidia().cloned().collect();
    let release = release(machine);
    let dir = release.get().map(|release| format!("/lib/modules/{release}"));
    let conf = settings::read(machine);
    let os = os(machine);
    let cmdline = machine.value("/proc/cmdline");
    let mut nouveau_off = conf.nouveau_off;
    nouveau_off.extend(settings::on_cmdline(&cmdline));
    let for_vfio =
        cards.iter().filter(|card| kept_for_vfio(card, &conf.vfio_ids)).map(|card| card.identity.bdf).collect();
    let tool = |path: &str| Fact::new(machine.stat(path).map(|_| ()), Source::file(path));
    let headers = match &dir {
        Some(dir) => tool(&format!("{dir}/build")),
        None => Fact::new(there(&release.value), release.source.clone()),
    };
    Facts {
        looked: gpus.looked.clone(),
        for_vfio,
        vm: vm(machine),
        hypervisor: hypervisor(machine),
        consumer: CONSUMERS.iter().find(|path| machine.exists(path)).map(|path| (*path).to_owned()),
        sources: sources::read(machine, &os.codename),
        os,
        modules: modules(machine),
        built: built(machine, dir.as_deref(), &release),
        nouveau_off,
        modprobe_unread: conf.unread,
        drop_in: machine.read(crate::NOUVEAU_FILE),
        initramfs: settings::initramfs(machine),
        headers,
        gcc: tool("/usr/bin/gcc"),
        make: tool("/usr/bin/make"),
        packages: packages::installed(machine),
        offered: packages::offered(machine),
        present: packages::present(machine),
        rpmfusion: machine.exists("/etc/yum.repos.d/rpmfusion-nonfree.repo"),
        loaded_at_boot: settings::at_boot(machine),
        kernels: kernels::kernels(machine),
        power: kernels::power(machine),
        xids: kernels::xids(machine),
        persistenced: kernels::persistenced(machine),
        in_use: in_use(machine),
        driver: gpus.driver.clone(),
        nodes: nodes(machine, &cards),
        majors: majors(machine),
        secure_boot: secure_boot(machine),
        enrolled: enrolled(machine),
        mig_kept: Kept::observe(machine),
        nvml: match machine.ask(&Question::Nvml) {
            Seen::Is(Answer::Nvml(report)) => {
                Seen::Is(Nvml { driver_version: report.driver_version.clone(), gpus: report.gpus.len() })
            }
            Seen::Is(Answer::Json(_)) | Seen::Absent => Seen::Absent,
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        },
        iommu: Fact::new(
            machine
                .list("/sys/class/iommu")
                .and_then(|names| if names.is_empty() { Seen::Absent } else { Seen::Is(()) }),
            Source::file("/sys/class/iommu"),
        ),
        told: Fact::new(gpus.hints.clone(), Source::file(DMI_TABLE)),
        places: cards.iter().filter_map(|card| Some((card.identity.bdf, gpus.place(card)?.clone()))).collect(),
        astray: gpus.astray(),
        cards,
        release,
        cmdline,
    }
}

fn there<T>(seen: &Seen<T>) -> Seen<()> {
    seen.as_ref().map(|_| ())
}

fn release(machine: &dyn Machine) -> Fact<String> {
    let running = machine.value_fact("/proc/sys/kernel/osrelease");
    // A tree without /proc has no running kernel; one installed kernel is the one that will run.
    match (&running.value, machine.names("/lib/modules").as_slice()) {
        (Seen::Is(_), _) => running,
        (_, [only]) => Fact::new(Seen::Is(only.clone()), Source::file("/lib/modules")),
        _ => running,
    }
}

fn vm(machine: &dyn Machine) -> Fact<bool> {
    let path = "/proc/cpuinfo";
    let flag = machine.text(path).map(|text| {
        let line = text.lines().find(|line| line.starts_with("flags"));
        line.is_some_and(|line| line.split_whitespace().any(|word| word == "hypervisor"))
    });
    if flag.is_there() {
        return Fact::new(flag, Source::file(path));
    }
    let path = "/sys/class/dmi/id/sys_vendor";
    let vendors = ["QEMU", "innotek", "VMware", "Xen", "Microsoft Corporation", "Amazon EC2", "Google", "Bochs"];
    let vendor = machine.value(path).and_then(|vendor| match vendors.iter().any(|known| vendor.starts_with(known)) {
        true => Seen::Is(true),
        // Clouds sell bare metal under names of their own: no name of a hypervisor says nothing.
        false => Seen::Unreadable(Reason::NotCaptured),
    });
    Fact::new(vendor, Source::file(path))
}

/// Where VMs run from this machine.
fn hypervisor(machine: &dyn Machine) -> Seen<String> {
    if machine.exists("/etc/pve/qemu-server") || machine.exists("/usr/bin/pveversion") {
        return Seen::Is("Proxmox VE".into());
    }
    match machine.list("/etc/libvirt/qemu") {
        Seen::Is(names) if names.iter().any(|name| name.ends_with(".xml")) => Seen::Is("a libvirt host".into()),
        Seen::Unreadable(reason) => Seen::Unreadable(reason),
        _ => Seen::Absent,
    }
}

fn os(machine: &dyn Machine) -> Os {
    let text = machine.text("/etc/os-release").is().or_else(|| machine.text("/usr/lib/os-release").is());
    let text = text.unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
    };
    Os { id: field("ID"), like: field("ID_LIKE"), version: field("VERSION_ID"), codename: field("VERSION_CODENAME") }
}

fn modules(machine: &dyn Machine) -> Fact<Vec<String>> {
    let path = "/proc/modules";
    let names = |text: String| text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    Fact::new(machine.text(path).map(names), Source::file(path))
}

fn built(machine: &dyn Machine, dir: Option<&str>, release: &Fact<String>) -> Fact<Vec<String>> {
    let Some(dir) = dir else { return Fact::new(Seen::Absent, release.source.clone()) };
    let path = format!("{dir}/modules.dep");
    let wanted = ["nouveau", "nvidia_uvm", "nvidia_modeset", "nvidia_drm"];
    let names = machine.text(&path).map(|text| {
        let files = text.lines().filter_map(|line| line.split(':').next()?.rsplit('/').next());
        let names = files.filter_map(|file| file.split_once(".ko")).map(|(name, _)| name.replace('-', "_"));
        names.filter(|name| wanted.contains(&name.as_str()) || is_driver(name)).collect()
    });
    Fact::new(names, Source::file(path))
}

fn kept_for_vfio(card: &Card, ids: &[String]) -> bool {
    let vfio = |seen: &Seen<String>| seen.get().is_some_and(|driver| driver == "vfio-pci");
    vfio(&card.driver) || vfio(&card.driver_override) || ids.contains(&card.identity.id.to_string())
}

fn nodes(machine: &dyn Machine, cards: &[Card]) -> Vec<Node> {
    let node = |path: String, driver: &'static str, minor: u32| {
        let rdev = machine.stat(&path).map(|stat| stat.rdev);
        Node { path, driver, rdev, minor }
    };
    let held = |card: &&Card| card.driver.get().is_some_and(|driver| driver == "nvidia");
    let mut all = vec![node("/dev/nvidiactl".into(), "nvidia", 255), node("/dev/nvidia-uvm".into(), "nvidia-uvm", 0)];
    all.extend(
        cards
            .iter()
            .filter(held)
            .filter_map(|card| minor(machine, card))
            .map(|minor| node(format!("/dev/nvidia{minor}"), "nvidia", minor)),
    );
    all
}

/// The N of /dev/nvidiaN: NVML's, else the driver's own word.
fn minor(machine: &dyn Machine, card: &Card) -> Option<u32> {
    if let Some(minor) = card.nvml.as_ref().and_then(|gpu| gpu.minor.get()) {
        return Some(*minor);
    }
    let text = machine.text(&format!("/proc/driver/nvidia/gpus/{}/information", card.identity.bdf)).is()?;
    text.lines().find_map(|line| line.strip_prefix("Device Minor:")?.trim().parse().ok())
}

fn majors(machine: &dyn Machine) -> Fact<Vec<(String, u32)>> {
    let path = "/proc/devices";
    let read = |text: String| {
        let rows = text.lines().take_while(|line| !line.starts_with("Block")).filter_map(|line| {
            let (major, name) = line.trim().split_once(' ')?;
            // The name was "nvidia-frontend" up to branch 545.
            let name = if name == "nvidia-frontend" { "nvidia" } else { name };
            Some((name.to_owned(), major.parse().ok()?))
        });
        rows.filter(|(name, _)| name.starts_with("nvidia")).collect()
    };
    Fact::new(machine.text(path).map(read), Source::file(path))
}

fn secure_boot(machine: &dyn Machine) -> Fact<bool> {
    let path = format!("/sys/firmware/efi/efivars/{}", formats::efivar::SECURE_BOOT);
    let value = machine.read(&path).and_then(|bytes| match formats::efivar::switch(&bytes) {
        Ok(on) => Seen::Is(on),
        Err(bad) => Seen::Unreadable(Reason::Malformed(format!("{path}: {bad}"))),
    });
    Fact::new(value, Source::file(path))
}

/// Where the certificate of the signing key lies: Ubuntu's shim-signed, and DKMS. In DER.
const CERTIFICATES: [&str; 2] = ["/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub"];

fn enrolled(machine: &dyn Machine) -> Fact<bool> {
    let list = format!("/sys/firmware/efi/efivars/{}", formats::efivar::MOK_LIST);
    let Some((_, certificate)) = CERTIFICATES.iter().find_map(|path| Some((path, machine.read(path).is()?))) else {
        return Fact::new(Seen::Absent, Source::file(CERTIFICATES[1]));
    };
    let value = match machine.read(&list) {
        // The certificate stands in the list as it is in its file; an empty file is in every list.
        Seen::Is(bytes) => {
            Seen::Is(!certificate.is_empty() && bytes.windows(certificate.len()).any(|window| window == certificate))
        }
        Seen::Absent => Seen::Is(false),
        Seen::Unreadable(reason) => Seen::Unreadable(reason),
    };
    Fact::new(value, Source::file(list))
}

/// nvidia.ko by the names that distributions give it: Debian's are nvidia-current.ko, nvidia-current-open.ko,
/// nvidia-tesla-470-current.ko.
pub(crate) fn is_driver(module: &str) -> bool {
    let name = module.replace('-', "_");
    let tesla = name.strip_prefix("nvidia_tesla_").and_then(|rest| rest.strip_suffix("_current"));
    matches!(name.as_str(), "nvidia" | "nvidia_current" | "nvidia_current_open")
        || tesla.is_some_and(|branch| branch.bytes().all(|b| b.is_ascii_digit()))
}

/// /proc/modules: name, size, users, the modules among them.
fn in_use(machine: &dyn Machine) -> Vec<(String, u32)> {
    let text = machine.text("/proc/modules").is().unwrap_or_default();
    let held = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (name, _, users) = (words.next()?, words.next()?, words.next()?.parse::<u32>().ok()?);
        let modules = words.next()?.split(',').filter(|module| !module.is_empty() && *module != "-").count();
        let others = users.saturating_sub(u32::try_from(modules).unwrap_or(0));
        (name.starts_with("nvidia") && name != "nvidiafb" && others > 0).then(|| (name.to_owned(), others))
    });
    held.collect()
}
