//! What command line this machine was told, will use, and has used: by the loader that boots it.

use std::collections::BTreeMap;

use formats::bootentries::{LoaderEntry, grub_linux, grubenv};
use formats::shellvars::ShellVars;
use machine::{Machine, MachineExt};
use model::{Fact, Reason, Seen, Source};

use super::loader::{self, EFIVARS, ENTRIES, KERNELSTUB};
use crate::facts::{Boot, Distro, Loader, Written};

const KERNEL_CMDLINE: &str = "/etc/kernel/cmdline";
const CMDLINE_D: &str = "/etc/cmdline.d";

pub(super) fn observe(machine: &dyn Machine, distro: &Distro) -> Boot {
    let effective = machine.value_fact("/proc/cmdline");
    let (loader, loader_source) = loader::observe(machine, distro, effective.get().map_or("", String::as_str));
    let generated = generated(machine, loader);
    let mut sources = vec![
        ("/etc/default/grub", grub(machine)),
        (KERNEL_CMDLINE, kernel_cmdline(machine)),
        (KERNELSTUB, kernelstub(machine)),
    ];
    if loader == Loader::UnifiedImage
        && let Some(found) = cmdline_d(machine)
    {
        sources.push((CMDLINE_D, found));
    }
    let reads = match loader {
        Loader::UnifiedImage if sources.len() > 3 => Some(CMDLINE_D),
        _ => loader.reads(),
    };
    let mut written = Fact::new(Seen::Absent, Source::Rule("the boot loader is not known".into()));
    let (mut pieces, mut unread) = (Vec::new(), Vec::new());
    for (name, (fact, its)) in sources {
        // What kernelstub makes of its own file is no file that another loader would have read.
        if reads == Some(name) {
            (written, pieces) = (fact, its);
        } else if name != KERNELSTUB && reads.is_some() || loader == Loader::Unknown {
            unread.extend(its);
        }
    }
    if loader.entries_are_the_source() {
        written = match &generated {
            Seen::Is(entries) => match entries.first() {
                Some(first) => Fact::new(Seen::Is(first.text.clone()), first.source.clone()),
                None => Fact::new(Seen::Absent, Source::file(ENTRIES[0])),
            },
            Seen::Absent => Fact::new(Seen::Absent, Source::file(ENTRIES[0])),
            Seen::Unreadable(reason) => Fact::new(Seen::Unreadable(reason.clone()), Source::file(ENTRIES[0])),
        };
        // Here /etc/default/grub and /etc/kernel/cmdline are what kernels to come get: written, and no mistake.
        pieces = generated.get().cloned().unwrap_or_default();
        unread.clear();
    }
    let secure_boot = machine
        .read(&format!("{EFIVARS}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
        .map(|bytes| bytes.get(4) == Some(&1));
    Boot {
        loader,
        loader_source,
        mkconfig: loader::mkconfig(machine, distro),
        effective,
        written,
        generated,
        unread,
        pieces,
        secure_boot,
        local_initramfs: loader::local_initramfs(machine),
    }
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
    let fact = machine.value_fact(KERNEL_CMDLINE);
    let pieces = fact.get().map(|text| Written { source: Source::line(KERNEL_CMDLINE, 1), text: text.clone() });
    let pieces = pieces.into_iter().collect();
    (fact, pieces)
}

/// The pieces that mkinitcpio joins into an image's command line; lines that begin with `#` are no part of it
/// (mkinitcpio(8)). `None` where there are none: then /etc/kernel/cmdline is read.
fn cmdline_d(machine: &dyn Machine) -> Option<(Fact<String>, Vec<Written>)> {
    let mut pieces = Vec::new();
    for name in machine.names(CMDLINE_D).into_iter().filter(|name| name.ends_with(".conf")) {
        let path = format!("{CMDLINE_D}/{name}");
        match machine.text(&path) {
            Seen::Is(text) => {
                for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')) {
                    let source = Source::line(&*path, u32::try_from(at + 1).unwrap_or(u32::MAX));
                    pieces.push(Written { source, text: line.trim().to_owned() });
                }
            }
            Seen::Unreadable(reason) => return Some((Fact::new(Seen::Unreadable(reason), Source::file(path)), pieces)),
            Seen::Absent => {}
        }
    }
    let last = pieces.last()?.source.clone();
    pieces.retain(|piece| !piece.text.is_empty());
    let joined: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
    Some((Fact::new(Seen::Is(joined.join(" ")), last), pieces))
}

/// The user's part of kernelstub's JSON: `user.kernel_options`, a list of words.
fn kernelstub(machine: &dyn Machine) -> (Fact<String>, Vec<Written>) {
    let source = Source::file(KERNELSTUB);
    let line = machine.text(KERNELSTUB).and_then(|text| {
        let malformed = |what: String| Seen::Unreadable(Reason::Malformed(format!("{KERNELSTUB}: {what}")));
        let value: serde_json::Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => return malformed(format!("line {}: is no JSON", error.line())),
        };
        match value.pointer("/user/kernel_options") {
            Some(serde_json::Value::Array(words)) => {
                let words: Vec<&str> = words.iter().filter_map(serde_json::Value::as_str).collect();
                Seen::Is(words.join(" "))
            }
            Some(serde_json::Value::String(words)) => Seen::Is(words.clone()),
            _ => malformed("has no user.kernel_options".into()),
        }
    });
    let pieces = line.get().map(|text| Written { source: source.clone(), text: text.clone() }).into_iter().collect();
    (Fact::new(line, source), pieces)
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
    let env = ["/boot/grub2/grubenv", "/boot/grub/grubenv"].iter().find_map(|path| machine.text(path).is());
    let env = env.unwrap_or_default();
    let saved = grubenv(&env, "saved_entry").filter(|_| loader == Loader::GrubEntries);
    let mut found = Vec::new();
    for dir in ENTRIES {
        for name in newest_first(machine.names(dir)).into_iter().filter(|name| name.ends_with(".conf")) {
            let path = format!("{dir}/{name}");
            let Seen::Is(text) = machine.text(&path) else { continue };
            let Some((line, text)) = LoaderEntry::parse(&text).options else { continue };
            // Older Fedora keeps the arguments of all entries in the environment block.
            let text = text.replace("$kernelopts", grubenv(&env, "kernelopts").unwrap_or("$kernelopts"));
            let written = Written { source: Source::line(path, line), text };
            if saved.is_some_and(|saved| name.strip_suffix(".conf") == Some(saved)) {
                found.insert(0, written);
            } else {
                found.push(written);
            }
        }
    }
    if found.is_empty() {
        let what = "the boot entries lie on an EFI system partition that is not mounted";
        return Seen::Unreadable(Reason::Other(what.into()));
    }
    Seen::Is(found)
}

/// Entries in the order of a menu: by version, highest first; a rescue entry is nobody's default.
fn newest_first(mut names: Vec<String>) -> Vec<String> {
    names.sort_by_key(|name| {
        let rescue = name.contains("rescue") || name.contains("fallback");
        (!rescue, super::numbers(name), name.clone())
    });
    names.reverse();
    names
}
