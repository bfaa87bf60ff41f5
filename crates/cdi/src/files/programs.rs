//! The driver's programs.

use machine::{Machine, MachineExt as _};

use super::{Binary, DriverFiles};

/// Programs that containers use. The daemon of switches (nv-fabricmanager) stays outside.
const BINARIES: [&str; 7] = [
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex",
    "nvidia-imex-ctl",
];

/// A wrapper script is small; the smallest of the driver's real programs has 18 KiB.
const SCRIPT_SIZE: u64 = 4096;

pub(super) fn find(machine: &dyn Machine, own_root: Option<&str>, found: &mut DriverFiles) {
    let own = own_root.map(|root| format!("{root}/bin"));
    // the last is NixOS's
    let dirs = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/bin", "/run/current-system/sw/bin"];
    // Debian keeps each series in a directory of its own, to which alternatives lead
    let series = machine.names("/usr/lib/nvidia");
    let series: Vec<String> = series.iter().map(|name| format!("/usr/lib/nvidia/{name}")).collect();
    let dirs: Vec<&str> = dirs.into_iter().chain(own.as_deref()).chain(series.iter().map(String::as_str)).collect();
    for name in BINARIES {
        let mut script = None;
        let mut real = None;
        for dir in &dirs {
            let path = format!("{dir}/{name}");
            let Some(stat) = machine.stat(&path).is() else { continue };
            let program = stat.size >= SCRIPT_SIZE
                || machine.read(&path).get().is_some_and(|bytes| bytes.starts_with(b"\x7fELF"));
            if program {
                real = Some(machine.resolve(&path).is().unwrap_or(path));
                break;
            }
            script.get_or_insert(path);
        }
        match (real, script) {
            (Some(path), Some(script)) => {
                found.notes.push(format!("{script} is a wrapper script; containers get the program itself, {path}"));
                found.binaries.push(Binary { name: name.to_owned(), path });
            }
            (Some(path), None) => found.binaries.push(Binary { name: name.to_owned(), path }),
            (None, Some(script)) => {
                found.notes.push(format!(
                    "{script} is a wrapper script and the program behind it was not found; containers get none"
                ));
            }
            (None, None) if name == "nvidia-smi" => {
                found.notes.push("nvidia-smi was not found; containers get none".to_owned());
            }
            (None, None) => {}
        }
    }
}
