//! Lays a root out.

use std::io::{Error, Result};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use formats::ldsocache::{Arch, Cache, Entry};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use simcards::view::{Gpu, View};
use simcards::{elf as strings, symbols};

use crate::elf::{Class, stub};
use crate::files::{self, Library};
use crate::layout::{Layout, Places, Through};

/// The folder in which the four cdylibs lie: cargo's target/PROFILE/deps.
#[derive(Clone, Debug)]
pub struct Built(pub PathBuf);

/// What was laid out.
#[derive(Clone, Debug)]
pub struct Laid {
    /// What `--root` is to be: the folder, or the driver container's root in it.
    pub root: PathBuf,
    /// The libraries' directory, absolute in that root.
    pub libraries: String,
    /// Where a control file goes.
    pub control: PathBuf,
    /// Device nodes that could not be made (who is not root may not).
    pub missing_nodes: Vec<String>,
}

const KERNEL: &str = "6.12.41-simulated";

pub(crate) struct Tree {
    pub(crate) root: PathBuf,
}

impl Tree {
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let place = self.at(path);
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&place, bytes)?;
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode))
    }

    pub(crate) fn link(&self, path: &str, target: &str) -> Result<()> {
        let place = self.at(path);
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder)?;
        }
        symlink(target, place)
    }
}

/// Lays the driver of a box's text out in a folder that is empty or not there.
pub fn lay(folder: &Path, text: &str, layout: Layout, built: &Built) -> Result<Laid> {
    let view = View::new(text, "").map_err(Error::other)?;
    if folder.exists() && std::fs::read_dir(folder)?.next().is_some() {
        return Err(Error::other(format!("{} is not empty", folder.display())));
    }
    let version = view.driver.version.as_str();
    let places = layout.places(version);
    let under = places.under.trim_start_matches('/');
    let tree = Tree { root: if under.is_empty() { folder.to_owned() } else { folder.join(under) } };
    let words = format!("A simulated driver {version}, laid out by thruway: no file here is NVIDIA's.\n");
    tree.write("/SIMULATED", &words, 0o644)?;
    if places.firmware.starts_with("/usr/lib/") {
        tree.link("/lib", "usr/lib")?;
    }
    tree.write("/etc/os-release", places.os_release, 0o644)?;
    libraries(&tree, &places, &view, text, built)?;
    programs(&tree, &places, layout, version)?;
    for name in files::firmware(view.branch()) {
        tree.write(&format!("{}/nvidia/{version}/{name}", places.firmware), "simulated firmware\n", 0o644)?;
    }
    for (name, text, server) in files::DATA {
        if server || !places.server {
            tree.write(&format!("{}/{name}", places.data), text, 0o644)?;
        }
    }
    if layout == Layout::Guest {
        guest(&tree, version)?;
    } else {
        desktop(&tree, &places, layout, version)?;
    }
    if places.cache {
        cache(&tree, &places, &view)?;
    }
    kernel(&tree, &view)?;
    let missing_nodes = nodes(&tree, &view)?;
    let control = tree.at(&format!("{}/thruway-sim/control.toml", places.libraries));
    Ok(Laid { root: tree.root, libraries: places.libraries, control, missing_nodes })
}

/// Those that we have, by their stem.
fn ours(stem: &str) -> Option<&'static str> {
    Some(match stem {
        "libnvidia-ml.so" => "libsimnvml.so",
        "libcuda.so" => "libsimcuda.so",
        "libnvcuvid.so" => "libsimcuvid.so",
        "libnvidia-encode.so" => "libsimnvenc.so",
        _ => return None,
    })
}

fn libraries(tree: &Tree, places: &Places, view: &View, text: &str, built: &Built) -> Result<()> {
    let version = view.driver.version.as_str();
    let dir = &places.libraries;
    for library in files::of(view.branch(), places.server) {
        let file = library.file(version);
        let bytes = match ours(library.stem) {
            Some(name) => {
                let path = built.0.join(name);
                let bytes = std::fs::read(&path).map_err(|error| {
                    Error::new(
                        error.kind(),
                        format!("{}: {error}; build the simulated libraries first", path.display()),
                    )
                })?;
                let lacks: Vec<&str> =
                    if name == "libsimnvml.so" { symbols::missing(view.branch()).collect() } else { Vec::new() };
                strings::without(&bytes, lacks).map_err(Error::other)?
            }
            None => stub(&library.soname(version), Class::Wide),
        };
        tree.write(&format!("{dir}/{file}"), bytes, 0o755)?;
        if library.stem == "libvdpau_nvidia.so" && !places.server {
            // where libvdpau looks; some packages have it there alone
            tree.link(&format!("{dir}/vdpau/{file}"), &format!("../{file}"))?;
        }
        names(tree, places, library, dir, version)?;
        if let Some(narrow) = places.narrow.filter(|_| library.narrow) {
            tree.write(&format!("{narrow}/{file}"), stub(&library.soname(version), Class::Narrow), 0o755)?;
            if !library.number.is_empty() {
                tree.link(&format!("{narrow}/{}", library.soname(version)), &file)?;
            }
        }
    }
    tree.write(&format!("{dir}/thruway-sim/nvml.toml"), text, 0o644)
}

/// The links that lead to a library: its SONAME, the bare name, and those of the directory that loaders search.
fn names(tree: &Tree, places: &Places, library: &Library, dir: &str, version: &str) -> Result<()> {
    let (file, soname) = (library.file(version), library.soname(version));
    if soname != file {
        tree.link(&format!("{dir}/{soname}"), &file)?;
    }
    if places.bare || library.stem == "libcuda.so" {
        tree.link(&format!("{dir}/{}", library.stem), &soname)?;
    }
    let Some((searched, through)) = places.links else { return Ok(()) };
    match through {
        Through::Alternatives if soname == file => Ok(()),
        Through::Alternatives => {
            let between = format!("/etc/alternatives/glx--{soname}-x86_64-linux-gnu");
            tree.link(&format!("{searched}/{soname}"), &between)?;
            tree.link(&between, &format!("{dir}/{soname}"))
        }
        // the recorded guest has no links to this one: what needs it (OptiX) is told its directory
        Through::Straight if places.bare && library.stem == "libnvoptix.so" => Ok(()),
        Through::Straight => {
            if soname != file || !places.bare {
                tree.link(&format!("{searched}/{soname}"), &format!("{dir}/{soname}"))?;
            }
            if places.bare {
                tree.link(&format!("{searched}/{}", library.stem), &format!("{dir}/{}", library.stem))?;
            }
            Ok(())
        }
    }
}

/// A program's stand-in. Filled up to the size from which nobody takes it for a wrapper.
fn program(name: &str, version: &str) -> String {
    let words = format!("#!/bin/sh\necho \"{name} {version} (simulated): no NVIDIA program is here\" >&2\nexit 9\n");
    format!("{words}{}\n", "# simulated\n".repeat(1600))
}

fn programs(tree: &Tree, places: &Places, layout: Layout, version: &str) -> Result<()> {
    for name in files::PROGRAMS {
        let path = format!("{}/{name}", places.programs);
        tree.write(&path, program(name, version), 0o755)?;
        match layout {
            Layout::Debian => tree.link(&format!("/usr/bin/{name}"), &path)?,
            Layout::Nix => tree.link(&format!("/run/current-system/sw/bin/{name}"), &path)?,
            // a wrapper, as the recorded guest has it: the program runs with a C library of its own
            Layout::Guest => tree.write(
                &format!("/usr/bin/{name}"),
                format!("#!/bin/sh\n# simulated\nexec /usr/local/nvidia/bin/{name} \"$@\"\n"),
                0o755,
            )?,
            _ => {}
        }
    }
    Ok(())
}

/// What a host with a screen has beside: X's modules, the name by which Mesa opens the allocator.
fn desktop(tree: &Tree, places: &Places, layout: Layout, version: &str) -> Result<()> {
    let allocator = "../libnvidia-allocator.so.1";
    match layout {
        Layout::Gke | Layout::Nix => {
            return tree.link(&format!("{}/gbm/nvidia-drm_gbm.so", places.libraries), allocator);
        }
        // below the directory that Mesa searches, whatever Debian's own is
        Layout::Debian => {
            tree.link("/usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so", "../nvidia/current/libnvidia-allocator.so.1")?
        }
        _ => tree.link(&format!("{}/gbm/nvidia-drm_gbm.so", places.libraries), allocator)?,
    }
    let [driver, glx] = places.xorg;
    tree.write(&format!("{driver}/{}", files::XORG[0]), stub(files::XORG[0], Class::Wide), 0o755)?;
    let file = format!("{}.{version}", files::XORG[1]);
    tree.write(&format!("{glx}/{file}"), stub(files::XORG[1], Class::Wide), 0o755)?;
    tree.link(&format!("{glx}/{}", files::XORG[1]), &file)
}

/// What else the recorded guest has below /usr/local/nvidia and beside it.
fn guest(tree: &Tree, version: &str) -> Result<()> {
    let own = "/usr/local/nvidia";
    for name in ["dev", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(tree.at(&format!("{own}/{name}")))?;
    }
    tree.link(&format!("{own}/lib"), "lib64")?;
    tree.write(&format!("{own}/version"), format!("{version}\n"), 0o644)?;
    tree.write(&format!("{own}/kernel.release"), format!("{KERNEL}\n"), 0o644)?;
    tree.write(&format!("{own}/etc/passwd"), "root:x:0:0::/root:/bin/sh\n", 0o644)?;
    tree.write(&format!("{own}/etc/nsswitch.conf"), "passwd: files\n", 0o644)?;
    for name in [
        "ld-linux-x86-64.so.2",
        "libc.so.6",
        "libdl.so.2",
        "libgcc_s.so.1",
        "libm.so.6",
        "libnss_files.so.2",
        "libpthread.so.0",
        "librt.so.1",
    ] {
        tree.write(&format!("{own}/glibc/{name}"), stub(name, Class::Wide), 0o755)?;
    }
    for name in files::MODULES {
        tree.write(&format!("{own}/modules/{name}.ko"), "simulated module\n", 0o644)?;
    }
    for name in ["vulkan/icd.d/nvidia_icd.json", "glvnd/egl_vendor.d/10_nvidia.json"] {
        tree.link(&format!("/usr/share/{name}"), &format!("{own}/share/{name}"))?;
    }
    tree.write("/usr/lib/pkgconfig/nvidia-ml-13.0.pc", "Name: nvidia-ml (simulated)\n", 0o644)?;
    tree.write("/etc/ld.so.conf.d/nvidia.conf", format!("{own}/lib64\n"), 0o644)
}

/// A cache as ldconfig would write it: each SONAME of the driver, 64 bits before 32.
fn cache(tree: &Tree, places: &Places, view: &View) -> Result<()> {
    let version = view.driver.version.as_str();
    let searched = match places.links {
        Some((searched, Through::Alternatives)) => searched,
        _ => places.libraries.as_str(),
    };
    let mut entries = Vec::new();
    for library in files::of(view.branch(), places.server) {
        let soname = library.soname(version);
        // what has no name of its own lies in a directory that Debian's loader does not search
        let dir = if soname == library.file(version) { places.libraries.as_str() } else { searched };
        entries.push(Entry::new(&soname, format!("{dir}/{soname}"), Arch::X86_64));
        if let Some(narrow) = places.narrow.filter(|_| library.narrow) {
            entries.push(Entry::new(&soname, format!("{narrow}/{soname}"), Arch::I386));
        }
    }
    let cache = Cache { entries, generator: Some("ldconfig (simulated)".into()) };
    tree.write("/etc/ld.so.cache", cache.to_bytes(), 0o644)?;
    tree.write("/etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n", 0o644)
}

fn address(gpu: &Gpu) -> String {
    let (domain, bus, device) = gpu.at();
    format!("{domain:04x}:{bus:02x}:{device:02x}.0")
}

/// What the kernel and its module show.
fn kernel(tree: &Tree, view: &View) -> Result<()> {
    let version = &view.driver.version;
    let banner = format!("NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  (simulated)\n");
    tree.write("/proc/driver/nvidia/version", banner, 0o444)?;
    tree.write("/proc/driver/nvidia/params", "ModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 0\n", 0o444)?;
    let devices = "Character devices:\n195 nvidia\n226 drm\n238 nvidia-uvm\n241 nvidia-caps\n\nBlock devices:\n";
    tree.write("/proc/devices", devices, 0o444)?;
    mig(tree, view)?;
    tree.write("/proc/sys/kernel/osrelease", format!("{KERNEL}\n"), 0o444)?;
    tree.write("/sys/module/nvidia/version", format!("{version}\n"), 0o444)?;
    for (minor, gpu) in view.gpus.iter().enumerate() {
        let at = address(gpu);
        let card = &gpu.card;
        let information = format!(
            "Model: \t\t {}\nIRQ:   \t\t {}\nGPU UUID: \t {}\nVideo BIOS: \t {}\nBus Type: \t PCIe\nDMA Size: \t 47 bits\n\
             DMA Mask: \t 0x7fffffffffff\nBus Location: \t {at}\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n",
            card.name,
            30 + minor,
            gpu.uuid(),
            card.vbios
        );
        tree.write(&format!("/proc/driver/nvidia/gpus/{at}/information"), information, 0o444)?;
        let (subdevice, subvendor) = (card.subsystem >> 16, card.subsystem & 0xffff);
        let sys = format!("/sys/bus/pci/devices/{at}");
        let class = if card.display { "0x030000" } else { "0x030200" };
        for (name, text) in [
            ("vendor", "0x10de".to_owned()),
            ("device", format!("{:#06x}", card.device)),
            ("subsystem_vendor", format!("{subvendor:#06x}")),
            ("subsystem_device", format!("{subdevice:#06x}")),
            ("class", class.to_owned()),
            (
                "uevent",
                format!(
                    "DRIVER=nvidia\nPCI_CLASS={}\nPCI_ID=10DE:{:04X}\nPCI_SUBSYS_ID={subvendor:04X}:{subdevice:04X}\n\
                     PCI_SLOT_NAME={at}",
                    class.trim_start_matches("0x0").to_uppercase(),
                    card.device
                ),
            ),
        ] {
            tree.write(&format!("{sys}/{name}"), text + "\n", 0o444)?;
        }
        if card.display {
            for name in [format!("card{minor}"), format!("renderD{}", 128 + minor)] {
                std::fs::create_dir_all(tree.at(&format!("{sys}/drm/{name}")))?;
            }
            for (kind, name) in [("card", format!("card{minor}")), ("render", format!("renderD{}", 128 + minor))] {
                tree.link(&format!("/dev/dri/by-path/pci-{at}-{kind}"), &format!("../{name}"))?;
            }
        }
        std::fs::create_dir_all(tree.at("/sys/bus/pci/drivers/nvidia"))?;
        tree.link(&format!("{sys}/driver"), "../../drivers/nvidia")?;
    }
    Ok(())
}

/// The number of an instance's node below /dev/nvidia-caps, as the recorded mig-minors counts them: 15 GPU instances a card, each
/// with 8 compute instances behind it.
pub fn mig_minor(gpu: u32, instance: u32, compute: Option<u32>) -> u32 {
    3 + gpu * 135 + instance * 9 + compute.map_or(0, |compute| compute + 1)
}

/// The capabilities that the driver shows: all of them in mig-minors, a card's own where it is cut.
fn mig(tree: &Tree, view: &View) -> Result<()> {
    let mut minors = String::from("config 1\nmonitor 2\n");
    for gpu in 0..8 {
        for instance in 0..15 {
            minors.push_str(&format!("gpu{gpu}/gi{instance}/access {}\n", mig_minor(gpu, instance, None)));
            for compute in 0..8 {
                let number = mig_minor(gpu, instance, Some(compute));
                minors.push_str(&format!("gpu{gpu}/gi{instance}/ci{compute}/access {number}\n"));
            }
        }
    }
    tree.write("/proc/driver/nvidia-caps/mig-minors", minors, 0o444)?;
    let at = "/proc/driver/nvidia/capabilities";
    for (name, minor) in [("config", 1), ("monitor", 2)] {
        tree.write(&format!("{at}/mig/{name}"), format!("DeviceFileMinor: {minor}\n"), 0o444)?;
    }
    // a card that is not cut has the directory too, as an H100 showed
    for (gpu, cut) in view.gpus.iter().enumerate() {
        std::fs::create_dir_all(tree.at(&format!("{at}/gpu{gpu}/mig")))?;
        for instance in cut.instances() {
            let gi = instance.gi;
            for (name, compute) in [("access", None), ("ci0/access", Some(0))] {
                let number = mig_minor(gpu as u32, gi, compute);
                let text = format!("DeviceFileMinor: {number}\nDeviceFileMode: 292\nDeviceFileModify: 1\n");
                tree.write(&format!("{at}/gpu{gpu}/mig/gi{gi}/{name}"), text, 0o444)?;
            }
        }
    }
    Ok(())
}

/// The device nodes; those that could not be made.
fn nodes(tree: &Tree, view: &View) -> Result<Vec<String>> {
    // name, major, minor, mode, group (44 is video, 105 render, as Debian counts)
    let mut wanted = Vec::new();
    for (minor, gpu) in (0..).zip(&view.gpus) {
        wanted.push((format!("nvidia{minor}"), 195, minor, 0o666, 0));
        if gpu.card.display {
            wanted.push((format!("dri/card{minor}"), 226, minor, 0o660, 44));
            wanted.push((format!("dri/renderD{}", 128 + minor), 226, 128 + minor, 0o660, 105));
        }
        for instance in gpu.instances() {
            for compute in [None, Some(0)] {
                let number = mig_minor(minor, instance.gi, compute);
                wanted.push((format!("nvidia-caps/nvidia-cap{number}"), 241, number, 0o444, 0));
            }
        }
    }
    for (name, major, minor) in [("nvidiactl", 195, 255), ("nvidia-uvm", 238, 0), ("nvidia-uvm-tools", 238, 1)] {
        wanted.push((name.to_owned(), major, minor, 0o666, 0));
    }
    let mut missing = Vec::new();
    for (name, major, minor, mode, group) in wanted {
        if !node(tree, &format!("/dev/{name}"), (major, minor), mode, group)? {
            missing.push(format!("/dev/{name}"));
        }
    }
    Ok(missing)
}

/// A character device; false where it may not be made.
pub(crate) fn node(tree: &Tree, path: &str, numbers: (u32, u32), mode: u32, group: u32) -> Result<bool> {
    let place = tree.at(path);
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let device = makedev(numbers.0, numbers.1);
    if mknodat(CWD, &place, FileType::CharacterDevice, Mode::from_raw_mode(mode), device).is_err() {
        return Ok(false);
    }
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode))?;
    std::os::unix::fs::chown(&place, Some(0), Some(group))?;
    Ok(true)
}
