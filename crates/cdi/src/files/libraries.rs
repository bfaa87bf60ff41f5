//! Libraries: in which directories, of which version, under which names.

use std::collections::{BTreeMap, BTreeSet};

use formats::ldsocache::{Arch, Cache};
use machine::{Machine, MachineExt as _};
use model::{Reason, Seen};

use super::{DriverFiles, Library, real};

/// The library directory of Debian's family in a container, by the word size and processor.
pub(crate) const MULTIARCH: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
pub(crate) const NARROW_DIR: &str = "/usr/lib/i386-linux-gnu";

/// Directories that hold the driver's libraries on known distributions, in the order in which loaders search them.
const DIRS: [&str; 9] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    // Container-optimised systems and driver containers.
    "/usr/local/nvidia/lib64",
    "/home/kubernetes/bin/nvidia/lib64",
    "/opt/nvidia/lib64",
    // NixOS: links into the store
    "/run/opengl-driver/lib",
    "/usr/lib/wsl/lib",
];

/// For 32-bit programs: Debian's family, Arch, NixOS. Fedora's is /usr/lib, which is among those above.
const NARROW: [&str; 3] = [NARROW_DIR, "/usr/lib32", "/run/opengl-driver-32/lib"];

/// Where X's modules are, below a library directory or /usr/lib, /usr/lib64.
const XORG: [&str; 6] = [
    "nvidia/xorg",
    "xorg/modules/drivers",
    "xorg/modules/extensions",
    "xorg/modules/updates/drivers",
    "xorg/modules/updates/extensions",
    "xorg/modules",
];

/// Libraries that carry a version of their own and not the driver's.
const OWN_VERSION: [&str; 6] = [
    "libnvidia-egl-gbm.so.",
    "libnvidia-egl-wayland.so.",
    "libnvidia-egl-wayland2.so.",
    "libnvidia-egl-xcb.so.",
    "libnvidia-egl-xlib.so.",
    "libnvidia-nvvm70.so.",
];

/// SONAMEs by library, for files that cannot be read. Every other library's SONAME is its file name.
const SONAMES: [(&str, &str); 25] = [
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
    ("libnvidia-egl-gbm.so", "1"),
    ("libnvidia-egl-wayland.so", "1"),
    ("libnvidia-encode.so", "1"),
    ("libnvidia-fbc.so", "1"),
    ("libnvidia-ifr.so", "1"),
    ("libnvidia-ml.so", "1"),
    ("libnvidia-ngx.so", "1"),
    ("libnvidia-nvvm.so", "4"),
    ("libnvidia-opencl.so", "1"),
    ("libnvidia-opticalflow.so", "1"),
    ("libnvidia-ptxjitcompiler.so", "1"),
    ("libnvidia-sandboxutils.so", "1"),
    ("libnvidia-vulkan-producer.so", "1"),
    ("libnvoptix.so", "1"),
    ("libvdpau_nvidia.so", "1"),
];

/// Names by which programs open a library although no ldconfig makes them.
const ASKED: [(&str, &str); 3] = [
    ("libcuda.so", "libcuda.so"),
    ("libnvidia-opticalflow.so", "libnvidia-opticalflow.so"),
    ("libGLX_nvidia.so", "libGLX_indirect.so.0"),
];

/// Mesa's libgbm opens its backend by this name; it is the allocator.
const GBM: (&str, &str) = ("libnvidia-allocator.so", "gbm/nvidia-drm_gbm.so");

/// What the loader's cache says of the driver.
#[derive(Default)]
pub(crate) struct Cached {
    /// Directories with the driver's main libraries, links resolved.
    pub(crate) wide: Vec<String>,
    pub(crate) narrow: Vec<String>,
    /// The file that the loader takes for libnvidia-ml.so.1, links resolved.
    pub(crate) library: Option<String>,
}

impl Cached {
    pub(crate) fn read(machine: &dyn Machine) -> Cached {
        let mut found = Cached::default();
        let cache = machine.read("/etc/ld.so.cache").is().and_then(|bytes| Cache::parse(&bytes).ok());
        let Some(cache) = cache else { return found };
        for soname in ["libnvidia-ml.so.1", "libcuda.so.1", "libGLX_nvidia.so.0"] {
            for entry in cache.named(soname) {
                let (dirs, wide) = match entry.arch() {
                    Arch::X86_64 | Arch::Aarch64 => (&mut found.wide, true),
                    Arch::I386 => (&mut found.narrow, false),
                    _ => continue,
                };
                // An entry may be a link into the driver's own directory.
                let Some(path) = machine.resolve(&entry.path).is() else { continue };
                let Some((dir, _)) = path.rsplit_once('/') else { continue };
                if !dirs.iter().any(|known| known == dir) {
                    dirs.push(dir.to_owned());
                }
                if wide && soname == "libnvidia-ml.so.1" {
                    found.library.get_or_insert(path);
                }
            }
        }
        found
    }
}

pub(super) fn find(
    machine: &dyn Machine,
    cached: &Cached,
    known: Option<&str>,
    version: &str,
    found: &mut DriverFiles,
) {
    let mut taken = Taken::default();
    let mut dirs = BTreeSet::new();
    let wide = known.into_iter().chain(cached.wide.iter().map(String::as_str)).chain(DIRS);
    let narrow = cached.narrow.iter().map(String::as_str).chain(NARROW);
    let mut found_in = Vec::new();
    // Debian keeps each series in a directory of its own: nvidia/current, nvidia/tesla-470
    let series: Vec<(String, bool)> = MULTIARCH
        .iter()
        .map(|dir| (*dir, false))
        .chain([(NARROW_DIR, true)])
        .flat_map(|(dir, narrow)| {
            let names = machine.names(&format!("{dir}/nvidia"));
            let names = names.into_iter().filter(|name| name != "xorg");
            names.map(move |name| (format!("{dir}/nvidia/{name}"), narrow)).collect::<Vec<_>>()
        })
        .collect();
    let series = series.iter().map(|(dir, narrow)| (dir.as_str(), *narrow));
    for (dir, guess) in wide.map(|dir| (dir, false)).chain(narrow.map(|dir| (dir, true))).chain(series) {
        let names = machine.names(dir);
        if names.is_empty() {
            continue;
        }
        let Some(dir) = machine.resolve(dir).is() else { continue };
        if !dirs.insert(dir.clone()) {
            continue;
        }
        // Fedora's /usr/lib has the 32-bit ones; Arch's the 64-bit ones, and no lib64 of its own
        let guess =
            guess || (dir == "/usr/lib" && !found.libraries.is_empty() && found_in.contains(&"/usr/lib64".to_owned()));
        let before = found.libraries.len();
        let has_vdpau = names.iter().any(|name| name == "vdpau");
        libraries_in(machine, &dir, &names, None, guess, version, &mut taken, found);
        if has_vdpau {
            let below = format!("{dir}/vdpau");
            libraries_in(machine, &below, &machine.names(&below), Some("vdpau"), guess, version, &mut taken, found);
        }
        if found.libraries.len() > before {
            found_in.push(dir);
        }
    }
    xorg(machine, &found_in, version, found);
    let by_name = |a: &Library, b: &Library| a.names.first().cmp(&b.names.first());
    found.libraries.sort_by(by_name);
    found.twins.sort_by(by_name);
}

#[derive(Default)]
struct Taken {
    wide: BTreeSet<String>,
    narrow: BTreeSet<String>,
}

#[allow(clippy::too_many_arguments, reason = "one directory, looked at once")]
fn libraries_in(
    machine: &dyn Machine,
    dir: &str,
    names: &[String],
    below: Option<&'static str>,
    guess: bool,
    version: &str,
    taken: &mut Taken,
    out: &mut DriverFiles,
) {
    let suffix = format!(".{version}");
    // "libcuda.so" → "libcuda.so.580.159.04"
    let mut files: BTreeMap<&str, &str> = BTreeMap::new();
    for name in names.iter().filter(|name| name.starts_with("lib")) {
        let stem = match name.strip_suffix(&suffix) {
            Some(stem) if stem.ends_with(".so") => stem,
            _ => {
                let own = OWN_VERSION.iter().find_map(|stem| {
                    let rest = name.strip_prefix(stem)?;
                    // one number is the SONAME's link
                    (rest.contains('.') || *stem == "libnvidia-nvvm70.so.").then(|| stem.trim_end_matches('.'))
                });
                match own {
                    Some(stem) => stem,
                    None => continue,
                }
            }
        };
        files.insert(stem, name);
    }
    for (stem, file) in files {
        let mut path = format!("{dir}/{file}");
        let mut told = machine.library(&path);
        if matches!(told, Seen::Unreadable(Reason::BadLink)) {
            path = machine.resolve(&path).is().unwrap_or(path);
            told = machine.library(&path);
        }
        let told = told.is();
        let narrow = told.as_ref().map_or(guess, |object| object.narrow());
        let known = if narrow { &mut taken.narrow } else { &mut taken.wide };
        if !known.insert(file.to_owned()) {
            continue;
        }
        let mut wanted = vec![file.to_owned()];
        match told {
            Some(object) => wanted.extend(object.soname),
            None => wanted.extend(guessed(machine, dir, names, stem, file)),
        }
        if wanted.get(1).is_some_and(|soname| soname == file) {
            wanted.truncate(1);
        }
        wanted.extend(ASKED.iter().filter(|(of, _)| *of == stem).map(|(_, name)| (*name).to_owned()));
        let bare = names.iter().find(|name| *name == stem).filter(|name| !wanted.contains(name)).cloned();
        let also = (GBM.0 == stem && below.is_none() && !narrow).then_some(GBM.1);
        let library = Library { path, names: wanted, bare, below, also };
        if narrow { out.twins.push(library) } else { out.libraries.push(library) }
    }
}

/// The SONAME of a file that cannot be read: by the links beside it, else as known.
fn guessed(machine: &dyn Machine, dir: &str, names: &[String], stem: &str, file: &str) -> Vec<String> {
    let prefix = format!("{stem}.");
    let mut found = Vec::new();
    for name in names.iter().filter(|name| name.starts_with(&prefix) && *name != file) {
        // A link beside the file, by its number alone: the SONAME that ldconfig made.
        let number = name.strip_prefix(&prefix).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        if number && machine.link_name(&format!("{dir}/{name}")).get().is_some_and(|to| to == file) {
            found.push(name.clone());
        }
    }
    if found.is_empty() {
        let soname = SONAMES.iter().find(|(known, _)| *known == stem);
        found.extend(soname.map(|(stem, number)| format!("{stem}.{number}")));
    }
    found
}

/// X's driver and its GLX module: the first of each.
fn xorg(machine: &dyn Machine, dirs: &[String], version: &str, out: &mut DriverFiles) {
    let glx = format!("libglxserver_nvidia.so.{version}");
    let mut wanted = vec!["nvidia_drv.so", glx.as_str()];
    let places = dirs.iter().map(String::as_str).chain(["/usr/lib64", "/usr/lib", "/usr/X11R6/lib"]);
    for place in places.flat_map(|dir| XORG.iter().map(move |below| format!("{dir}/{below}"))) {
        if wanted.is_empty() {
            return;
        }
        let Some(dir) = machine.list(&place).is() else { continue };
        wanted.retain(|name| {
            let there = dir.iter().any(|file| file == name);
            if there {
                let place = machine.resolve(&place).is().unwrap_or_else(|| place.clone());
                let mut names = vec![(*name).to_owned()];
                names.extend((*name == glx).then(|| "libglxserver_nvidia.so".to_owned()));
                let path = real(machine, &place, name);
                out.libraries.push(Library { path, names, bare: None, below: Some("nvidia/xorg"), also: None });
            }
            !there
        });
    }
}
