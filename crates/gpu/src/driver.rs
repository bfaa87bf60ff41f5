//! NVIDIA's driver on this machine: the module that runs and the library that programs find.

use formats::ldsocache::{Arch, Cache};
use machine::{Machine, MachineExt as _};
use model::{Bdf, Reason, Seen};

use crate::{DriverFacts, ModuleKind};

const LIBRARY: &str = "libnvidia-ml.so.1";
const CACHE: &str = "/etc/ld.so.cache";

/// Where the library lies when no cache leads to it: the loader's own directories by distribution, then the places
/// that container hosts and NixOS use.
const DIRS: [&str; 8] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/local/nvidia/lib64",
    "/run/opengl-driver/lib",
    "/usr/lib/wsl/lib",
];

/// The version of the module that runs, and nothing else.
pub fn driver_version(machine: &dyn Machine) -> Seen<String> {
    module(machine).0
}

pub(crate) fn observe(machine: &dyn Machine) -> DriverFacts {
    let (kernel, kind) = module(machine);
    let found = library(machine);
    let library = found.as_ref().map(|found| found.version.clone());
    DriverFacts {
        kernel,
        kind,
        library: match library {
            Seen::Is(Some(version)) => Seen::Is(version),
            Seen::Is(None) => Seen::Unreadable(Reason::Other("the library's file name has no version".into())),
            Seen::Absent => Seen::Absent,
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        },
        library_via: found.get().map(|found| found.via.clone()),
        library_path: found.map(|found| found.path),
    }
}

/// A line of `/proc/driver/nvidia/gpus/BDF/information`, "Device Minor", "GPU UUID".
pub(crate) fn information(machine: &dyn Machine, bdf: Bdf, key: &str) -> Option<String> {
    let text = machine.text(&format!("/proc/driver/nvidia/gpus/{bdf}/information")).is()?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let value = lines.into_iter().find(|(name, _)| name.trim() == key)?.1.trim().to_owned();
    // The driver masks what it does not know yet with question marks.
    (!value.is_empty() && !value.contains('?')).then_some(value)
}

fn module(machine: &dyn Machine) -> (Seen<String>, Option<ModuleKind>) {
    match machine.text("/proc/driver/nvidia/version") {
        Seen::Is(text) => {
            let line = text.lines().find(|line| line.starts_with("NVRM version:")).unwrap_or_default();
            let kind = if line.contains("Open Kernel Module") { ModuleKind::Open } else { ModuleKind::Proprietary };
            match line.split_whitespace().find(|word| is_version(word)) {
                Some(version) => (Seen::Is(version.to_owned()), Some(kind)),
                None => {
                    let what = "/proc/driver/nvidia/version: no version stands in its NVRM line";
                    (Seen::Unreadable(Reason::Malformed(what.into())), None)
                }
            }
        }
        Seen::Absent => (machine.value("/sys/module/nvidia/version"), None),
        Seen::Unreadable(reason) => match machine.value("/sys/module/nvidia/version") {
            Seen::Is(version) => (Seen::Is(version), None),
            _ => (Seen::Unreadable(reason), None),
        },
    }
}

/// "580.159.04", "510.54": numbers and dots, a dot at least.
fn is_version(word: &str) -> bool {
    let mut parts = 0;
    for part in word.split('.') {
        if part.is_empty() || part.len() > 4 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        parts += 1;
    }
    (2..=4).contains(&parts)
}

struct Found {
    path: String,
    via: String,
    version: Option<String>,
}

fn library(machine: &dyn Machine) -> Seen<Found> {
    let mut unseen = None;
    match machine.read(CACHE) {
        Seen::Is(bytes) => match Cache::parse(&bytes) {
            Ok(cache) => {
                // A 32-bit library is not what we would load.
                let mut wide = cache.named(LIBRARY).filter(|entry| !matches!(entry.arch(), Arch::I386 | Arch::X32));
                if let Some(found) = wide.find_map(|entry| look(machine, &entry.path, "ld.so.cache", &mut unseen)) {
                    return Seen::Is(found);
                }
            }
            Err(error) => unseen = Some(Reason::Malformed(format!("{CACHE}: {error}"))),
        },
        Seen::Absent => {}
        Seen::Unreadable(reason) => unseen = Some(reason),
    }
    let found = DIRS.iter().find_map(|dir| look(machine, &format!("{dir}/{LIBRARY}"), dir, &mut unseen));
    match (found, unseen) {
        (Some(found), _) => Seen::Is(found),
        // Where a place could not be looked at, "not there" is not ours to say.
        (None, Some(reason)) => Seen::Unreadable(reason),
        (None, None) => Seen::Absent,
    }
}

fn look(machine: &dyn Machine, path: &str, via: &str, unseen: &mut Option<Reason>) -> Option<Found> {
    match machine.stat(path) {
        Seen::Is(_) => {
            let path = machine.resolve(path).is().unwrap_or_else(|| path.to_owned());
            Some(Found { version: version_of(&path), path, via: via.into() })
        }
        Seen::Absent => None,
        Seen::Unreadable(reason) => {
            unseen.get_or_insert(reason);
            None
        }
    }
}

/// The version at the end of the real file's name: "…/libnvidia-ml.so.580.159.04".
fn version_of(path: &str) -> Option<String> {
    let (_, version) = path.rsplit_once(".so.")?;
    is_version(version).then(|| version.to_owned())
}
