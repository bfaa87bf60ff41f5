//! The driver's user side on a machine: libraries, programs, firmware and loader files.

use std::collections::{BTreeMap, BTreeSet};

use formats::ldsocache::{Arch, Cache};
use gpu::Inventory;
use machine::{Machine, MachineExt};
use serde::Serialize;

/// All files of one driver version that a container may need. Paths are the machine's own, links resolved.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DriverFiles {
    /// "580.159.04".
    pub version: String,
    pub libraries: Vec<Library>,
    pub binaries: Vec<Binary>,
    /// GSP firmware, full paths.
    pub firmware: Vec<String>,
    /// Vulkan, EGL, OpenCL and OptiX files for the container's loaders.
    pub loader_files: Vec<MountFile>,
    /// What was odd, one sentence each.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Library {
    /// "/usr/local/nvidia/lib64/libcuda.so.580.159.04".
    pub path: String,
    /// The names that programs ask for: the file's own, its SONAME, for some the bare ".so".
    pub names: Vec<String>,
    /// "vdpau" for libraries that live in that directory below the library directory.
    pub below: Option<&'static str>,
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

/// Directories that hold the driver's libraries on known distributions, in the order in which loaders search them.
const LIBRARY_DIRS: [&str; 9] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/usr/lib64",
    "/usr/lib",
    // Container-optimised systems and driver containers.
    "/usr/local/nvidia/lib64",
    "/home/kubernetes/bin/nvidia/lib64",
    "/opt/nvidia/lib64",
];

/// Programs that containers use. An engine's own daemon for switches stays outside.
const BINARIES: [&str; 5] =
    ["nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"];

/// (below a configuration or data directory, in the container).
const LOADER_FILES: [(&str, &str); 8] = [
    ("vulkan/icd.d/nvidia_icd.json", "/etc/vulkan/icd.d/nvidia_icd.json"),
    ("vulkan/implicit_layer.d/nvidia_layers.json", "/etc/vulkan/implicit_layer.d/nvidia_layers.json"),
    ("glvnd/egl_vendor.d/10_nvidia.json", "/usr/share/glvnd/egl_vendor.d/10_nvidia.json"),
    ("egl/egl_external_platform.d/15_nvidia_gbm.json", "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json"),
    (
        "egl/egl_external_platform.d/10_nvidia_wayland.json",
        "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
    ),
    ("egl/egl_external_platform.d/20_nvidia_xcb.json", "/usr/share/egl/egl_external_platform.d/20_nvidia_xcb.json"),
    ("OpenCL/vendors/nvidia.icd", "/etc/OpenCL/vendors/nvidia.icd"),
    ("nvidia/nvoptix.bin", "/usr/share/nvidia/nvoptix.bin"),
];

/// Libraries that carry a version of their own and not the driver's.
const OWN_VERSION: [&str; 4] =
    ["libnvidia-egl-gbm.so.", "libnvidia-egl-wayland.so.", "libnvidia-egl-xcb.so.", "libnvidia-egl-xlib.so."];

/// SONAMEs by library, for trees whose links are missing. Every other library's SONAME is its file name.
const SONAMES: [(&str, &str); 20] = [
    ("libEGL_nvidia.so", "0"),
    ("libGLESv1_CM_nvidia.so", "1"),
    ("libGLESv2_nvidia.so", "2"),
    ("libGLX_nvidia.so", "0"),
    ("libcuda.so", "1"),
    ("libcudadebugger.so", "1"),
    ("libnvcuvid.so", "1"),
    ("libnvidia-allocator.so", "1"),
    ("libnvidia-api.so", "1"),
    ("libnvidia-cfg.so", "1"),
    ("libnvidia-encode.so", "1"),
    ("libnvidia-fbc.so", "1"),
    ("libnvidia-ml.so", "1"),
    ("libnvidia-ngx.so", "1"),
    ("libnvidia-nvvm.so", "4"),
    ("libnvidia-opencl.so", "1"),
    ("libnvidia-opticalflow.so", "1"),
    ("libnvidia-ptxjitcompiler.so", "1"),
    ("libnvoptix.so", "1"),
    ("libvdpau_nvidia.so", "1"),
];

/// Libraries that programs open by their bare ".so" name although that is a developer's link.
const BARE: [&str; 2] = ["libcuda.so", "libnvidia-opticalflow.so"];

/// A wrapper script is small; the smallest of the driver's real programs has 18 KiB.
const SCRIPT_SIZE: u64 = 4096;

/// Finds the files of driver `version`. Looks only at directories and links, and at the first bytes of programs that
/// are too small to be real; never at a library's bytes.
pub fn driver_files(machine: &dyn Machine, inventory: &Inventory, version: &str) -> DriverFiles {
    let mut found = DriverFiles { version: version.to_owned(), ..DriverFiles::default() };
    let known = inventory.driver.library_path.get().and_then(|path| path.rsplit_once('/')).map(|(dir, _)| dir);
    let cached = if known.is_none() { cached_dirs(machine) } else { Vec::new() };
    let mut seen_dirs = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for dir in known.into_iter().chain(cached.iter().map(String::as_str)).chain(LIBRARY_DIRS) {
        let Some(dir) = machine.resolve(dir).is() else { continue };
        if seen_dirs.insert(dir.clone()) {
            libraries_in(machine, &dir, None, version, &mut taken, &mut found.libraries);
            libraries_in(machine, &format!("{dir}/vdpau"), Some("vdpau"), version, &mut taken, &mut found.libraries);
        }
    }
    found.libraries.sort_by(|a, b| a.names.first().cmp(&b.names.first()));
    // "/usr/local/nvidia" where the libraries are in /usr/local/nvidia/lib64: such trees carry bin, share and firmware.
    let own_root = found
        .libraries
        .iter()
        .find_map(|library| library.path.rsplit_once('/').and_then(|(dir, _)| dir.strip_suffix("/lib64")))
        .filter(|root| !root.is_empty() && *root != "/usr")
        .map(str::to_owned);
    binaries(machine, own_root.as_deref(), &mut found);
    firmware(machine, own_root.as_deref(), version, &mut found);
    loader_files(machine, own_root.as_deref(), &mut found);
    found
}

/// The directories in which the loader's cache knows the driver's two main libraries.
fn cached_dirs(machine: &dyn Machine) -> Vec<String> {
    let cache = machine.read("/etc/ld.so.cache").is().and_then(|bytes| Cache::parse(&bytes).ok());
    let Some(cache) = cache else { return Vec::new() };
    let entries = ["libcuda.so.1", "libnvidia-ml.so.1"].into_iter().flat_map(|soname| cache.named(soname));
    let native = entries.filter(|entry| matches!(entry.arch(), Arch::X86_64 | Arch::Aarch64));
    // An entry may be a link into the driver's own directory.
    let files = native.filter_map(|entry| machine.resolve(&entry.path).is());
    files.filter_map(|path| path.rsplit_once('/').map(|(dir, _)| dir.to_owned())).collect()
}

fn libraries_in(
    machine: &dyn Machine,
    dir: &str,
    below: Option<&'static str>,
    version: &str,
    taken: &mut BTreeSet<String>,
    out: &mut Vec<Library>,
) {
    let names = machine.names(dir);
    let suffix = format!(".{version}");
    // "libcuda.so" → "libcuda.so.580.159.04"
    let mut files: BTreeMap<&str, &str> = BTreeMap::new();
    for name in &names {
        let own = OWN_VERSION.iter().find_map(|stem| {
            let rest = name.strip_prefix(stem)?;
            rest.contains('.').then(|| stem.trim_end_matches('.'))
        });
        let stem = match name.strip_suffix(&suffix) {
            Some(stem) if name.starts_with("lib") && stem.ends_with(".so") => stem,
            _ => match own {
                Some(stem) => stem,
                None => continue,
            },
        };
        files.insert(stem, name);
    }
    for (stem, file) in files {
        if !taken.insert(file.to_owned()) {
            continue;
        }
        let path = format!("{dir}/{file}");
        let path = machine.resolve(&path).is().unwrap_or(path);
        let mut wanted = vec![file.to_owned()];
        let prefix = format!("{stem}.");
        for name in names.iter().filter(|name| name.starts_with(&prefix) && *name != file) {
            // A link beside the file, by its number alone: the SONAME that ldconfig made.
            let number = name.strip_prefix(&prefix).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
            if number && machine.link_name(&format!("{dir}/{name}")).get().is_some_and(|to| to == file) {
                wanted.push(name.clone());
            }
        }
        if wanted.len() == 1 {
            let soname = SONAMES.iter().find(|(known, _)| *known == stem);
            wanted.extend(soname.map(|(stem, number)| format!("{stem}.{number}")));
        }
        if BARE.contains(&stem) {
            wanted.push(stem.to_owned());
        }
        out.push(Library { path, names: wanted, below });
    }
}

fn binaries(machine: &dyn Machine, own_root: Option<&str>, found: &mut DriverFiles) {
    let own = own_root.map(|root| format!("{root}/bin"));
    // the last is NixOS's
    let dirs = [
        "/usr/bin",
        "/usr/sbin",
        "/usr/local/bin",
        "/opt/bin",
        "/usr/lib/nvidia/current",
        "/run/current-system/sw/bin",
    ];
    let dirs: Vec<&str> = dirs.into_iter().chain(own.as_deref()).collect();
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

fn firmware(machine: &dyn Machine, own_root: Option<&str>, version: &str, found: &mut DriverFiles) {
    let own = own_root.map(|root| format!("{root}/firmware"));
    for dir in ["/lib/firmware", "/usr/lib/firmware", "/run/current-system/firmware"].into_iter().chain(own.as_deref())
    {
        let dir = format!("{dir}/nvidia/{version}");
        let names = machine.names(&dir);
        let gsp = names.iter().filter(|name| name.starts_with("gsp") && name.ends_with(".bin"));
        let paths: Vec<String> = gsp.map(|name| format!("{dir}/{name}")).collect();
        if !paths.is_empty() {
            found.firmware = paths;
            return;
        }
    }
}

fn loader_files(machine: &dyn Machine, own_root: Option<&str>, found: &mut DriverFiles) {
    let own = own_root.map(|root| format!("{root}/share"));
    for (name, container) in LOADER_FILES {
        for dir in
            ["/etc", "/usr/local/share", "/usr/share", "/run/opengl-driver/share"].into_iter().chain(own.as_deref())
        {
            let path = format!("{dir}/{name}");
            if machine.exists(&path) {
                let host = machine.resolve(&path).is().unwrap_or(path);
                found.loader_files.push(MountFile { host, container: container.to_owned() });
                break;
            }
        }
    }
}
