//! modprobe's settings that speak of nouveau or give cards to vfio-pci, and what makes the initramfs.

use formats::modprobe::{Directive, Modprobe};
use machine::{Machine, MachineExt};
use model::{Reason, Seen, Source, Tool};
use serde::Serialize;

/// modprobe reads the first directory that has a file of a name, and passes the others' by.
pub(super) const DIRS: [&str; 5] =
    ["/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"];

/// A line of a file, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub source: Source,
    pub text: String,
}

#[derive(Default)]
pub(super) struct Conf {
    pub nouveau_off: Vec<Line>,
    /// `options vfio-pci ids=`, each "10de:1d01".
    pub vfio_ids: Vec<String>,
    pub unread: Option<Reason>,
}

pub(super) fn read(machine: &dyn Machine) -> Conf {
    let mut conf = Conf::default();
    let mut shadowed: Vec<String> = Vec::new();
    for dir in DIRS {
        match machine.list(dir) {
            Seen::Is(names) => {
                for name in names.into_iter().filter(|name| name.ends_with(".conf")) {
                    if !shadowed.contains(&name) {
                        file(machine, &format!("{dir}/{name}"), &mut conf);
                        shadowed.push(name);
                    }
                }
            }
            Seen::Absent => {}
            Seen::Unreadable(reason) => conf.unread = Some(reason),
        }
    }
    conf
}

fn file(machine: &dyn Machine, path: &str, conf: &mut Conf) {
    let text = match machine.text(path) {
        Seen::Is(text) => text,
        Seen::Absent => return,
        Seen::Unreadable(reason) => {
            conf.unread = Some(reason);
            return;
        }
    };
    for line in Modprobe::parse(&text).lines() {
        let mut keep = |module: &str, text: String| {
            if module == "nouveau" {
                conf.nouveau_off.push(Line { source: Source::line(path, line.line), text });
            }
        };
        match &line.what {
            Directive::Blacklist { module } => keep(module, format!("blacklist {module}")),
            Directive::Install { module, command } if loads_nothing(command) => {
                keep(module, format!("install {module} {command}"));
            }
            Directive::Options { module, options } if module.replace('-', "_") == "vfio_pci" => {
                let ids = options.iter().filter_map(|word| word.strip_prefix("ids=")).flat_map(|ids| ids.split(','));
                // An entry may go on with subsystem and class: vendor:device is the front of it.
                let fronts = ids.map(|id| id.splitn(3, ':').take(2).collect::<Vec<_>>().join(":").to_lowercase());
                conf.vfio_ids.extend(fronts);
            }
            // Options alone do not keep nouveau away: the module still takes the card.
            _ => {}
        }
    }
}

fn loads_nothing(command: &str) -> bool {
    command.split_whitespace().next().is_some_and(|program| program.ends_with("/false") || program.ends_with("/true"))
}

/// Tokens of the running kernel's command line that keep nouveau away.
pub(super) fn on_cmdline(cmdline: &Seen<String>) -> Vec<Line> {
    let words = cmdline.get().map(String::as_str).unwrap_or_default().split_whitespace();
    let off = |word: &&str| match word.split_once('=') {
        Some(("module_blacklist" | "modprobe.blacklist" | "rd.driver.blacklist", list)) => {
            list.split(',').any(|name| name == "nouveau")
        }
        _ => false,
    };
    let line = |word: &str| Line { source: Source::file("/proc/cmdline"), text: word.to_owned() };
    words.filter(off).map(line).collect()
}

/// Modules that systemd-modules-load loads at every boot (modules-load.d(5)), with `_`.
pub(super) fn at_boot(machine: &dyn Machine) -> Vec<String> {
    let mut all = Vec::new();
    let mut take = |path: &str| {
        let text = machine.text(path).is().unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
        all.extend(lines.map(|line| line.replace('-', "_")));
    };
    take("/etc/modules");
    for dir in ["/etc/modules-load.d", "/usr/lib/modules-load.d"] {
        for name in machine.names(dir).iter().filter(|name| name.ends_with(".conf")) {
            take(&format!("{dir}/{name}"));
        }
    }
    all
}

/// By the program that is installed: an update-initramfs may be dracut's wrapper, so dracut is asked for first.
pub(super) fn initramfs(machine: &dyn Machine) -> Seen<Tool> {
    let has = |paths: &[&str]| paths.iter().any(|path| machine.exists(path));
    if has(&["/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut"]) {
        return Seen::Is(Tool::Dracut);
    }
    if has(&["/usr/sbin/update-initramfs", "/sbin/update-initramfs", "/etc/initramfs-tools/initramfs.conf"]) {
        return Seen::Is(Tool::UpdateInitramfs);
    }
    if has(&["/usr/bin/mkinitcpio", "/etc/mkinitcpio.conf"]) {
        return Seen::Is(Tool::Mkinitcpio);
    }
    match machine.stat("/usr/sbin") {
        Seen::Unreadable(reason) => Seen::Unreadable(reason),
        _ => Seen::Absent,
    }
}

#[cfg(test)]
mod tests {
    use machine::Memory;

    use super::*;

    #[test]
    fn what_keeps_nouveau_away_is_found_with_its_line() {
        let mut machine = Memory::new("test");
        machine.insert_file(
            "/etc/modprobe.d/a.conf",
            b"# blacklist nouveau\nblacklist \\\n nouveau\noptions nouveau modeset=0\n",
        );
        machine
            .insert_file("/lib/modprobe.d/b.conf", b"install nouveau /bin/false # gone\ninstall nouveau modprobe x\n");
        machine.insert_file("/lib/modprobe.d/a.conf", b"install nouveau /bin/false\n");
        machine.insert_file("/etc/modprobe.d/vfio.conf", b"options vfio-pci ids=10DE:1d01,10de:0fb8 disable_vga=1\n");
        let conf = read(&machine);
        let lines: Vec<String> = conf.nouveau_off.iter().map(|line| line.source.to_string()).collect();
        assert_eq!(lines, ["/etc/modprobe.d/a.conf:2", "/lib/modprobe.d/b.conf:1"]);
        assert_eq!(conf.vfio_ids, ["10de:1d01", "10de:0fb8"]);
    }

    #[test]
    fn the_command_line_counts_too() {
        let found = on_cmdline(&Seen::Is("quiet modprobe.blacklist=radeon,nouveau nouveau.modeset=0".into()));
        assert_eq!(found.len(), 1);
    }
}
