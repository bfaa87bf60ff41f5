//! Module configuration, lists, rules and the initramfs.

use std::collections::BTreeSet;

use formats::modprobe::{Directive, Modprobe};
use formats::modules::ModuleList;
use gpu::Inventory;
use machine::{Machine, MachineExt};
use model::{Bdf, Reason, Seen, Source};

use crate::facts::{Conf, Held, InitTool, Initramfs, Kernel, Listed, ModprobeLine};
use crate::plan::hold;

pub(super) fn observe(machine: &dyn Machine, gpus: &Inventory) -> Conf {
    let mut blind = None;
    let mut modprobe = Vec::new();
    // A name in an earlier directory hides the same name in a later one (modprobe.d(5)).
    let dirs =
        ["/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"];
    for path in files(machine, &dirs, ".conf", &mut blind) {
        if let Some(text) = read(machine, &path, &mut blind) {
            modprobe.extend(Modprobe::parse(&text).lines().iter().filter_map(|line| row(&path, line.line, &line.what)));
        }
    }
    let mut listed = Vec::new();
    let mut lists = vec!["/etc/modules".to_owned(), "/etc/initramfs-tools/modules".to_owned()];
    let dirs = ["/etc/modules-load.d", "/run/modules-load.d", "/usr/lib/modules-load.d"];
    // Debian links modules-load.d/modules.conf to /etc/modules: one file, read once.
    lists.extend(files(machine, &dirs, ".conf", &mut blind).into_iter().filter(|p| !p.ends_with("/modules.conf")));
    for path in lists {
        if let Some(text) = read(machine, &path, &mut blind) {
            let one = |e: formats::modules::Entry| Listed { source: Source::line(&*path, e.line), module: e.name };
            listed.extend(ModuleList::parse(&text).entries().into_iter().map(one));
        }
    }
    let mut held = Vec::new();
    for path in
        files(machine, &["/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d"], ".rules", &mut blind)
    {
        // The systems' own hundreds of rules never set an override; those that do say so in their name.
        let ours = path.starts_with("/etc/") || path.contains("vfio");
        if let Some(text) = ours.then(|| read(machine, &path, &mut blind)).flatten() {
            for (line, card) in hold::parse_rules(&text) {
                let source = Source::line(&*path, line);
                held.push(Held { source, bdf: card.bdf, matches: card.matches(gpus) });
            }
        }
    }
    for name in machine.names("/etc/driverctl.d") {
        let path = format!("/etc/driverctl.d/{name}");
        let bdf: Option<Bdf> = name.strip_prefix("pci-").unwrap_or(&name).parse().ok();
        if let (Some(bdf), Seen::Is(driver)) = (bdf, machine.value(&path))
            && driver == "vfio-pci"
        {
            held.push(Held { source: Source::file(path), bdf, matches: true });
        }
    }
    Conf { modprobe, listed, held, blind, ids_now: machine.value_fact("/sys/module/vfio_pci/parameters/ids") }
}

/// Paths by directory order, a later name that an earlier directory has left out.
fn files(machine: &dyn Machine, dirs: &[&str], end: &str, blind: &mut Option<(String, Reason)>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut paths = Vec::new();
    for dir in dirs {
        match machine.list(dir) {
            Seen::Is(names) => {
                for name in names.into_iter().filter(|name| name.ends_with(end)) {
                    let path = format!("{dir}/{name}");
                    if seen.insert(name) {
                        paths.push(path);
                    }
                }
            }
            Seen::Unreadable(reason) if dir.starts_with("/etc/") => {
                blind.get_or_insert(((*dir).to_owned(), reason));
            }
            _ => {}
        }
    }
    paths
}

fn read(machine: &dyn Machine, path: &str, blind: &mut Option<(String, Reason)>) -> Option<String> {
    match machine.text(path) {
        Seen::Is(text) => Some(text),
        Seen::Absent => None,
        Seen::Unreadable(reason) => {
            blind.get_or_insert((path.to_owned(), reason));
            None
        }
    }
}

fn row(path: &str, line: u32, what: &Directive) -> Option<ModprobeLine> {
    let (verb, module, args) = match what {
        Directive::Options { module, options } => ("options", module, options.clone()),
        Directive::Blacklist { module } => ("blacklist", module, Vec::new()),
        Directive::Install { module, command } => {
            ("install", module, command.split_whitespace().map(str::to_owned).collect())
        }
        Directive::Softdep { module, pre, .. } => ("softdep", module, pre.clone()),
        Directive::Alias { .. } | Directive::Remove { .. } | Directive::Other(_) => return None,
    };
    Some(ModprobeLine { source: Source::line(path, line), verb, module: module.clone(), args })
}

pub(super) fn initramfs(machine: &dyn Machine, kernel: &Kernel) -> Initramfs {
    let debian = machine.exists("/var/lib/dpkg/status");
    let booster = machine.names("/boot").iter().any(|name| name.starts_with("booster-") && name.ends_with(".img"));
    let tool = if machine.exists("/run/ostree-booted") {
        Some(InitTool::Ostree)
    } else if debian && super::installed(machine, "initramfs-tools").is_there() {
        Some(InitTool::InitramfsTools)
    } else if debian && super::installed(machine, "dracut").is_there() {
        Some(InitTool::Dracut)
    } else if booster && machine.exists("/usr/bin/booster") {
        Some(InitTool::Booster)
    } else if machine.exists("/etc/mkinitcpio.conf") {
        Some(InitTool::Mkinitcpio)
    } else if machine.exists("/etc/initramfs-tools/initramfs.conf") {
        Some(InitTool::InitramfsTools)
    } else if machine.exists("/etc/dracut.conf") || machine.is_dir("/usr/lib/dracut") {
        Some(InitTool::Dracut)
    } else {
        None
    };
    let image = match kernel.release.get() {
        None => Seen::Absent,
        Some(release) => image(machine, release),
    };
    let mut inputs = Vec::new();
    let dirs = [
        "/etc/modprobe.d",
        "/etc/initramfs-tools/hooks",
        "/etc/initramfs-tools/scripts/init-top",
        "/etc/initramfs-tools/conf.d",
        "/etc/dracut.conf.d",
        "/etc/mkinitcpio.conf.d",
    ];
    let mut paths: Vec<String> = [
        "/etc/initramfs-tools/modules",
        "/etc/initramfs-tools/initramfs.conf",
        "/etc/mkinitcpio.conf",
        "/etc/booster.yaml",
        crate::plan::files::SETTER,
    ]
    .map(str::to_owned)
    .into();
    for dir in dirs {
        paths.extend(machine.names(dir).into_iter().map(|name| format!("{dir}/{name}")));
    }
    paths.push(crate::plan::files::RULES.to_owned());
    for path in paths {
        if let Seen::Is(stat) = machine.stat(&path) {
            inputs.push((path, stat.mtime));
        }
    }
    Initramfs { tool, image, inputs }
}

/// The running kernel's image, under the name that its distribution gives it.
fn image(machine: &dyn Machine, release: &str) -> Seen<(String, i64)> {
    let mut names = vec![
        format!("/boot/initrd.img-{release}"),
        format!("/boot/initramfs-{release}.img"),
        format!("/boot/initrd-{release}"),
    ];
    // Arch names images by the kernel's package.
    if let Seen::Is(base) = machine.value(&format!("/lib/modules/{release}/pkgbase")) {
        names.push(format!("/boot/initramfs-{base}.img"));
        names.push(format!("/boot/booster-{base}.img"));
        names.extend(["/efi", "/boot", "/boot/efi"].map(|esp| format!("{esp}/EFI/Linux/arch-{base}.efi")));
    }
    let mut image = Seen::Absent;
    for name in names {
        match machine.stat(&name) {
            Seen::Is(stat) => return Seen::Is((name, stat.mtime)),
            Seen::Unreadable(reason) => image = Seen::Unreadable(reason),
            Seen::Absent => {}
        }
    }
    image
}
