//! Which boot loader boots this machine, and what command line it was told, will use, and has used.

use std::collections::BTreeMap;

use formats::bootentries::{LoaderEntry, grub_linux};
use formats::kcmdline::Cmdline;
use formats::shellvars::ShellVars;
use machine::{Machine, MachineExt};
use model::{Fact, Reason, Seen, Source};

use crate::facts::{Boot, Distro, Loader, Written};

const EFIVARS: &str = "/sys/firmware/efi/efivars";
/// The boot loader interface's vendor GUID (systemd.io/BOOT_LOADER_INTERFACE).
const LOADER_GUID: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const UUIDS: &str = "/etc/kernel/proxmox-boot-uuids";

pub(super) fn observe(machine: &dyn Machine, distro: &Distro) -> Boot {
    let effective = machine.value_fact("/proc/cmdline");
    let (loader, loader_source) = loader(machine, distro, effective.get().map_or("", String::as_str));
    let grub = grub(machine);
    let kernel_cmdline = kernel_cmdline(machine);
    let (written, pieces, other) = match loader.reads() {
        Some("/etc/kernel/cmdline") => (kernel_cmdline.0, kernel_cmdline.1, grub.1),
        Some(_) => (grub.0, grub.1, kernel_cmdline.1),
        None => {
            let source = Source::Rule("the boot loader is not known".into());
            (Fact::new(Seen::Absent, source), Vec::new(), grub.1.into_iter().chain(kernel_cmdline.1).collect())
        }
    };
    let secure_boot = machine
        .read(&format!("{EFIVARS}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
        .map(|bytes| bytes.get(4) == Some(&1));
    Boot {
        loader,
        loader_source,
        effective,
        written,
        generated: generated(machine, loader),
        unread: other,
        pieces,
        secure_boot,
    }
}

/// By evidence: the firmware's variables that the loader itself set, then the marks that it left in /proc/cmdline,
/// then the files.
fn loader(machine: &dyn Machine, distro: &Distro, effective: &str) -> (Loader, Source) {
    let var = format!("{EFIVARS}/LoaderInfo-{LOADER_GUID}");
    let info = machine.read(&var).map(|bytes| utf16(bytes.get(4..).unwrap_or_default()));
    let line = Cmdline::parse(effective);
    // GRUB passes BOOT_IMAGE=; systemd-boot and the EFI stub pass initrd=\… with backslashes.
    let by_grub = line.last("BOOT_IMAGE").is_some();
    let by_stub = line.last("initrd").is_some_and(|path| path.contains('\\'));
    let (systemd_boot, said) = match info.get() {
        Some(info) => (info.starts_with("systemd-boot"), Source::file(&*var)),
        None => (by_stub, Source::file("/proc/cmdline")),
    };
    let uuids = machine.text(UUIDS);
    let managed = uuids.get().is_some_and(|text| text.lines().any(|l| !l.trim().is_empty() && !l.starts_with('#')));
    if managed {
        return if systemd_boot && !by_grub {
            (Loader::ProxmoxSystemdBoot, said)
        } else if by_grub || machine.stat("/sys/firmware/efi").is_absent() {
            (Loader::ProxmoxGrub, Source::file(UUIDS))
        } else {
            // A tree that is not running: proxmox-boot-tool sets systemd-boot up only where this package is.
            let systemd = super::installed(machine, "systemd-boot").is_there();
            (if systemd { Loader::ProxmoxSystemdBoot } else { Loader::ProxmoxGrub }, Source::file(UUIDS))
        };
    }
    if systemd_boot && !by_grub {
        let stub = format!("{EFIVARS}/StubInfo-{LOADER_GUID}");
        if machine.exists(&stub) && !by_stub {
            return (Loader::UnifiedImage, Source::file(stub));
        }
        return (Loader::SystemdBoot, said);
    }
    for cfg in ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"] {
        if machine.exists(cfg) {
            let entries = machine.names("/boot/loader/entries").iter().any(|name| name.ends_with(".conf"));
            let loader = if entries && !distro.debian_family() { Loader::GrubEntries } else { Loader::Grub };
            return (loader, Source::file(cfg));
        }
    }
    if by_grub || machine.exists("/etc/default/grub") {
        return (Loader::Grub, Source::file(if by_grub { "/proc/cmdline" } else { "/etc/default/grub" }));
    }
    if machine.exists("/boot/loader/loader.conf") || machine.exists("/boot/efi/loader/loader.conf") {
        return (Loader::SystemdBoot, Source::file("/boot/loader/loader.conf"));
    }
    (Loader::Unknown, Source::Rule("no boot loader's files or marks were found".into()))
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
    String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned()
}

const VARIABLES: [&str; 2] = ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"];

/// /etc/default/grub and then Debian's grub.d in order: later assignments win.
fn grub(machine: &dyn Machine) -> (Fact<String>, Vec<Written>) {
    const DEFAULT: &str = "/etc/default/grub";
    let mut paths = vec![DEFAULT.to_owned()];
    let drop_ins = machine.names("/etc/default/grub.d").into_iter().filter(|name| name.ends_with(".cfg"));
    paths.extend(drop_ins.map(|name| format!("/etc/default/grub.d/{name}")));
    let mut env = BTreeMap::new();
    let mut pieces = Vec::new();
    let mut source = Source::file(DEFAULT);
    for path in paths {
        let text = match machine.text(&path) {
            Seen::Is(text) => text,
            Seen::Absent if path == DEFAULT => return (Fact::new(Seen::Absent, source), pieces),
            Seen::Absent => continue,
            Seen::Unreadable(reason) => return (Fact::new(Seen::Unreadable(reason), Source::file(path)), pieces),
        };
        let vars = match ShellVars::parse(&text) {
            Ok(vars) => vars,
            Err(error) => {
                let reason = Reason::Malformed(format!("{path}:{}: {}", error.line, error.what));
                return (Fact::new(Seen::Unreadable(reason), Source::line(&*path, error.line)), pieces);
            }
        };
        for assignment in vars.assignments().iter().filter(|a| VARIABLES.contains(&a.name.as_str())) {
            let mut alone = env.clone();
            vars.eval(&mut alone);
            source = Source::line(&*path, assignment.line);
            let text = alone.get(&assignment.name).cloned().unwrap_or_default();
            pieces.push(Written { source: source.clone(), text });
        }
        vars.eval(&mut env);
    }
    let joined: Vec<String> = VARIABLES.iter().filter_map(|name| env.remove(*name)).filter(|v| !v.is_empty()).collect();
    (Fact::new(Seen::Is(joined.join(" ")), source), pieces)
}

fn kernel_cmdline(machine: &dyn Machine) -> (Fact<String>, Vec<Written>) {
    const PATH: &str = "/etc/kernel/cmdline";
    let fact = machine.value_fact(PATH);
    let pieces = fact.get().map(|text| Written { source: Source::line(PATH, 1), text: text.clone() });
    let pieces = pieces.into_iter().collect();
    (fact, pieces)
}

fn generated(machine: &dyn Machine, loader: Loader) -> Seen<Vec<Written>> {
    if matches!(loader, Loader::Grub) {
        for path in ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"] {
            match machine.text(path) {
                Seen::Is(text) => {
                    let written = |l: formats::bootentries::GrubLinux| Written {
                        source: Source::line(path, l.line),
                        text: l.args,
                    };
                    return Seen::Is(grub_linux(&text).into_iter().map(written).collect());
                }
                Seen::Unreadable(reason) => return Seen::Unreadable(reason),
                Seen::Absent => {}
            }
        }
        return Seen::Absent;
    }
    let mut found = Vec::new();
    for dir in ["/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries"] {
        for name in machine.names(dir).into_iter().rev().filter(|name| name.ends_with(".conf")) {
            let path = format!("{dir}/{name}");
            if let Seen::Is(text) = machine.text(&path)
                && let Some((line, text)) = LoaderEntry::parse(&text).options
            {
                found.push(Written { source: Source::line(path, line), text });
            }
        }
    }
    if found.is_empty() {
        let what = "the boot entries lie on an EFI system partition that is not mounted";
        return Seen::Unreadable(Reason::Other(what.into()));
    }
    Seen::Is(found)
}
