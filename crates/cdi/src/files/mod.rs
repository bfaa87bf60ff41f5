//! The driver's user side on a machine: libraries, programs, firmware, loader files and sockets.

mod data;
mod libraries;
mod programs;

use gpu::Inventory;
use machine::{FileKind, Machine, MachineExt as _};
use model::Seen;
use serde::Serialize;

pub(crate) use libraries::{Cached, MULTIARCH, NARROW_DIR};

/// All files of one driver version that a container may need. Paths are the machine's own, links resolved.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DriverFiles {
    /// "580.159.04".
    pub version: String,
    /// For 64-bit programs, by name.
    pub libraries: Vec<Library>,
    /// The same for 32-bit programs.
    pub twins: Vec<Library>,
    pub binaries: Vec<Binary>,
    /// GSP firmware.
    pub firmware: Vec<MountFile>,
    /// Vulkan, EGL, OpenCL, OptiX and X files for the container's loaders.
    pub loader_files: Vec<MountFile>,
    /// Where the driver's daemons listen, full paths.
    pub sockets: Vec<String>,
    /// What was odd, one sentence each.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Library {
    /// "/usr/local/nvidia/lib64/libcuda.so.580.159.04".
    pub path: String,
    /// The names that programs ask for: the file's own, its SONAME, for some the bare ".so".
    pub names: Vec<String>,
    /// The developer's link ".so" that this machine has and few programs open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bare: Option<String>,
    /// "vdpau", "nvidia/xorg": the directory below the library directory in which it lives.
    pub below: Option<&'static str>,
    /// A name below the library directory that must lead to it as well: "gbm/nvidia-drm_gbm.so".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Binary {
    pub name: String,
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct MountFile {
    pub host: String,
    pub container: String,
}

/// Sockets of the persistence daemon and the fabric manager, and MPS's pipe directory.
const SOCKETS: [&[&str]; 3] = [
    &["/run/nvidia-persistenced/socket", "/var/run/nvidia-persistenced/socket"],
    &["/run/nvidia-fabricmanager/socket", "/var/run/nvidia-fabricmanager/socket"],
    &["/tmp/nvidia-mps"],
];

/// Finds the files of driver `version`. Looks at directories, links, the heads of the libraries and the first bytes of programs
/// that are too small to be real.
pub fn driver_files(machine: &dyn Machine, inventory: &Inventory, version: &str) -> DriverFiles {
    let known = inventory.driver.library_path.get().and_then(|path| path.rsplit_once('/')).map(|(dir, _)| dir);
    find(machine, machine, &Cached::read(machine), known, version)
}

/// `driver`: where its files are; `machine`: whose kernel runs it.
pub(crate) fn find(
    driver: &dyn Machine,
    machine: &dyn Machine,
    cached: &Cached,
    known: Option<&str>,
    version: &str,
) -> DriverFiles {
    let mut found = DriverFiles { version: version.to_owned(), ..DriverFiles::default() };
    libraries::find(driver, cached, known, version, &mut found);
    // "/usr/local/nvidia" where the libraries are in /usr/local/nvidia/lib64: such trees carry bin, share and firmware.
    let own_root = found
        .libraries
        .iter()
        .find_map(|library| {
            let (dir, _) = library.path.rsplit_once('/')?;
            dir.strip_suffix("/lib64").or_else(|| dir.strip_suffix("/lib").filter(|_| dir.starts_with("/nix/store/")))
        })
        .filter(|root| !root.is_empty() && *root != "/usr")
        .map(str::to_owned);
    programs::find(driver, own_root.as_deref(), &mut found);
    data::firmware(driver, machine, own_root.as_deref(), version, &mut found);
    data::loader_files(driver, own_root.as_deref(), &mut found);
    for places in SOCKETS {
        let there = places.iter().find(|path| {
            matches!(machine.stat(path), Seen::Is(stat) if matches!(stat.kind, FileKind::Socket | FileKind::Dir))
        });
        found.sockets.extend(there.map(|path| (*path).to_owned()));
    }
    found
}

/// The path, with what is left of its links resolved; `dir` is resolved already.
fn real(machine: &dyn Machine, dir: &str, name: &str) -> String {
    let path = format!("{dir}/{name}");
    match machine.link(&path) {
        Seen::Is(_) => machine.resolve(&path).is().unwrap_or(path),
        _ => path,
    }
}
