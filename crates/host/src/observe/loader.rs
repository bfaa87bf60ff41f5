//! Which boot loader boots this machine: by evidence, the firmware's variables that the loader itself set first, then
//! the marks that it left in /proc/cmdline, then the files. And which systems keep their boot configuration to
//! themselves, so that files edited here would not last.

use formats::kcmdline::Cmdline;
use machine::{Machine, MachineExt};
use model::{Seen, Source, Tool};

use crate::facts::{Appliance, Distro, Loader};

pub(super) const EFIVARS: &str = "/sys/firmware/efi/efivars";
/// The boot loader interface's vendor GUID (systemd.io/BOOT_LOADER_INTERFACE).
const LOADER_GUID: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const UUIDS: &str = "/etc/kernel/proxmox-boot-uuids";
/// Where an ESP or an XBOOTLDR partition is mounted, by custom.
pub(super) const ENTRIES: [&str; 3] = ["/boot/loader/entries", "/efi/loader/entries", "/boot/efi/loader/entries"];
pub(super) const KERNELSTUB: &str = "/etc/kernelstub/configuration";

pub(super) fn observe(machine: &dyn Machine, distro: &Distro, effective: &str) -> (Loader, Source) {
    if let Some((appliance, path)) = appliance(machine, distro) {
        return (Loader::Appliance(appliance), Source::file(path));
    }
    // ostree writes the entries itself, whichever loader reads them.
    const OSTREE: &str = "/run/ostree-booted";
    if machine.exists(OSTREE) {
        let loader = if machine.exists("/usr/bin/rpm-ostree") { Loader::Ostree } else { Loader::Bootc };
        return (loader, Source::file(OSTREE));
    }
    let var = format!("{EFIVARS}/LoaderInfo-{LOADER_GUID}");
    let stub = format!("{EFIVARS}/StubInfo-{LOADER_GUID}");
    let info = machine.read(&var).map(|bytes| utf16(bytes.get(4..).unwrap_or_default()));
    let line = Cmdline::parse(effective);
    // GRUB passes BOOT_IMAGE=; systemd-boot and the EFI stub pass initrd=\… with backslashes.
    let by_grub = line.last("BOOT_IMAGE").is_some();
    let by_stub = line.last("initrd").is_some_and(|path| path.contains('\\'));
    let image = machine.exists(&stub) && !by_stub;
    let (systemd_boot, said) = match info.get() {
        Some(info) => (info.starts_with("systemd-boot"), Source::file(&*var)),
        None => (by_stub, Source::file("/proc/cmdline")),
    };
    let uuids = machine.text(UUIDS);
    let managed = uuids.get().is_some_and(|text| text.lines().any(|l| !l.trim().is_empty() && !l.starts_with('#')));
    if managed {
        return if systemd_boot && !by_grub {
            let loader = if image { Loader::ProxmoxUnifiedImage } else { Loader::ProxmoxSystemdBoot };
            (loader, said)
        } else if by_grub || machine.stat("/sys/firmware/efi").is_absent() {
            (Loader::ProxmoxGrub, Source::file(UUIDS))
        } else {
            // A tree that is not running: proxmox-boot-tool sets systemd-boot up only where this package is.
            let systemd = super::installed(machine, "systemd-boot").is_there();
            (if systemd { Loader::ProxmoxSystemdBoot } else { Loader::ProxmoxGrub }, Source::file(UUIDS))
        };
    }
    let sdbootutil = machine.exists("/usr/bin/sdbootutil");
    if systemd_boot && !by_grub {
        return if image {
            (Loader::UnifiedImage, Source::file(stub))
        } else if machine.exists(KERNELSTUB) {
            (Loader::Kernelstub, Source::file(KERNELSTUB))
        } else if sdbootutil {
            (Loader::SuseEntries, said)
        } else if plain_entries(machine) {
            (Loader::Entries, said)
        } else {
            (Loader::SystemdBoot, said)
        };
    }
    // A kernel that the firmware or a small loader starts as an image of its own.
    if image && !by_grub && info.get().is_none() {
        return (Loader::UnifiedImage, Source::file(stub));
    }
    for (name, loader) in [("Limine", Loader::Limine), ("rEFInd", Loader::Refind)] {
        if info.get().is_some_and(|info| info.starts_with(name)) {
            return (loader, Source::file(var));
        }
    }
    for path in ["/boot/limine.conf", "/boot/limine/limine.conf", "/boot/EFI/limine/limine.conf"] {
        if !by_grub && machine.exists(path) {
            return (Loader::Limine, Source::file(path));
        }
    }
    // Fedora lets only root look into the directory; that it is there says enough.
    let entries = match machine.list(ENTRIES[0]) {
        Seen::Is(names) => names.iter().any(|name| name.ends_with(".conf")),
        Seen::Unreadable(_) => true,
        Seen::Absent => false,
    };
    if sdbootutil && entries && !distro.debian_family() {
        return (Loader::SuseEntries, Source::file(ENTRIES[0]));
    }
    for cfg in ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"] {
        if machine.exists(cfg) {
            let loader = if entries && !distro.debian_family() { Loader::GrubEntries } else { Loader::Grub };
            return (loader, Source::file(cfg));
        }
    }
    if by_grub || machine.exists("/etc/default/grub") {
        return (Loader::Grub, Source::file(if by_grub { "/proc/cmdline" } else { "/etc/default/grub" }));
    }
    for path in ["/boot/loader/loader.conf", "/efi/loader/loader.conf", "/boot/efi/loader/loader.conf"] {
        if machine.exists(path) {
            let loader = if plain_entries(machine) { Loader::Entries } else { Loader::SystemdBoot };
            return (loader, Source::file(path));
        }
    }
    (Loader::Unknown, Source::Rule("no boot loader's files or marks were found".into()))
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
    String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned()
}

/// True where entries can be seen and none is named as kernel-install names its own: by the entry token, else by the
/// machine's id (kernel-install(8)).
fn plain_entries(machine: &dyn Machine) -> bool {
    let mut tokens: Vec<String> = Vec::new();
    tokens.extend(machine.value("/etc/kernel/entry-token").is());
    tokens.extend(machine.value("/etc/machine-id").is());
    tokens.retain(|token| !token.is_empty());
    let names = ENTRIES.iter().flat_map(|dir| machine.names(dir)).filter(|name| name.ends_with(".conf"));
    let mut any = false;
    for name in names {
        any = true;
        if tokens.iter().any(|token| name.starts_with(&format!("{token}-"))) {
            return false;
        }
    }
    any
}

/// The generator of grub.cfg under the name that it has here.
pub(super) fn mkconfig(machine: &dyn Machine, distro: &Distro) -> Tool {
    if distro.debian_family() {
        return Tool::UpdateGrub;
    }
    let suse = distro.id.starts_with("opensuse") || distro.is("suse") || distro.is("sles");
    if suse && ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|dir| machine.exists(&format!("{dir}/update-bootloader")))
    {
        return Tool::UpdateBootloader;
    }
    let grub2 = machine.exists("/boot/grub2/grub.cfg") && !machine.exists("/boot/grub/grub.cfg");
    if grub2 || suse { Tool::Grub2Mkconfig } else { Tool::GrubMkconfig }
}

/// Systems whose boot configuration is made from elsewhere, with the file that shows it.
fn appliance(machine: &dyn Machine, distro: &Distro) -> Option<(Appliance, &'static str)> {
    const OS: &str = "/etc/os-release";
    let by_id = match distro.id.as_str() {
        "nixos" => Some(Appliance::NixOs),
        "guix" => Some(Appliance::Guix),
        "talos" => Some(Appliance::Talos),
        "vanilla" => Some(Appliance::VanillaOs),
        "flatcar" => Some(Appliance::Flatcar),
        "bottlerocket" => Some(Appliance::Bottlerocket),
        "steamos" => Some(Appliance::SteamOs),
        "unraid" | "unraid-os" => Some(Appliance::Unraid),
        "opensuse-microos" | "opensuse-aeon" | "opensuse-leap-micro" | "sl-micro" | "sle-micro" => {
            Some(Appliance::Transactional)
        }
        _ => None,
    };
    let by_file = [
        ("/etc/NIXOS", Appliance::NixOs),
        ("/etc/unraid-version", Appliance::Unraid),
        // TrueNAS SCALE calls itself Debian; its middleware is what tells.
        ("/usr/bin/midclt", Appliance::TrueNas),
        ("/etc/harvester-release.yaml", Appliance::Harvester),
        ("/hive-config/rig.conf", Appliance::HiveOs),
    ];
    let file = by_file.into_iter().find(|(path, _)| machine.stat(path).is_there());
    // Harvester stands on a SUSE system of that kind: the file says more than the name.
    file.map(|(path, appliance)| (appliance, path)).or_else(|| by_id.map(|appliance| (appliance, OS)))
}

/// Whether an ostree deployment's initramfs is made on this machine already: the origin file of the deployment says
/// so (`regenerate-initramfs=true`).
pub(super) fn local_initramfs(machine: &dyn Machine) -> Seen<bool> {
    const DEPLOY: &str = "/ostree/deploy";
    let mut found = Seen::Absent;
    for os in machine.names(DEPLOY) {
        let dir = format!("{DEPLOY}/{os}/deploy");
        for name in machine.names(&dir).into_iter().filter(|name| name.ends_with(".origin")) {
            match machine.text(&format!("{dir}/{name}")) {
                Seen::Is(text) => {
                    let on = text.lines().any(|line| line.replace(' ', "") == "regenerate-initramfs=true");
                    found = Seen::Is(on || found == Seen::Is(true));
                }
                Seen::Unreadable(reason) if found.is_absent() => found = Seen::Unreadable(reason),
                _ => {}
            }
        }
    }
    found
}
