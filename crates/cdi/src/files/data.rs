//! Firmware, and the small files by which loaders find the driver's libraries.

use machine::{Machine, MachineExt as _};

use super::{DriverFiles, MountFile};

/// (below a configuration or data directory, in the container).
const LOADER_FILES: [(&str, &str); 16] = [
    ("vulkan/icd.d/nvidia_icd.json", "/etc/vulkan/icd.d/nvidia_icd.json"),
    ("vulkan/icd.d/nvidia_icd.x86_64.json", "/etc/vulkan/icd.d/nvidia_icd.x86_64.json"),
    ("vulkan/icd.d/nvidia_icd.i686.json", "/etc/vulkan/icd.d/nvidia_icd.i686.json"),
    ("vulkan/icd.d/nvidia_icd.aarch64.json", "/etc/vulkan/icd.d/nvidia_icd.aarch64.json"),
    ("vulkan/icd.d/nvidia_layers.json", "/etc/vulkan/icd.d/nvidia_layers.json"),
    ("vulkan/implicit_layer.d/nvidia_layers.json", "/etc/vulkan/implicit_layer.d/nvidia_layers.json"),
    ("glvnd/egl_vendor.d/10_nvidia.json", "/usr/share/glvnd/egl_vendor.d/10_nvidia.json"),
    ("egl/egl_external_platform.d/15_nvidia_gbm.json", "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json"),
    (
        "egl/egl_external_platform.d/10_nvidia_wayland.json",
        "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
    ),
    (
        "egl/egl_external_platform.d/09_nvidia_wayland2.json",
        "/usr/share/egl/egl_external_platform.d/09_nvidia_wayland2.json",
    ),
    ("egl/egl_external_platform.d/20_nvidia_xcb.json", "/usr/share/egl/egl_external_platform.d/20_nvidia_xcb.json"),
    ("egl/egl_external_platform.d/20_nvidia_xlib.json", "/usr/share/egl/egl_external_platform.d/20_nvidia_xlib.json"),
    ("OpenCL/vendors/nvidia.icd", "/etc/OpenCL/vendors/nvidia.icd"),
    ("nvidia/nvoptix.bin", "/usr/share/nvidia/nvoptix.bin"),
    ("X11/xorg.conf.d/10-nvidia.conf", "/usr/share/X11/xorg.conf.d/10-nvidia.conf"),
    ("X11/xorg.conf.d/nvidia-drm-outputclass.conf", "/usr/share/X11/xorg.conf.d/nvidia-drm-outputclass.conf"),
];

/// GSP firmware, in the kernel's own order of places (Documentation/driver-api/firmware/fw_search_path.rst). It stays at its
/// place in the container.
pub(super) fn firmware(
    driver: &dyn Machine,
    machine: &dyn Machine,
    own_root: Option<&str>,
    version: &str,
    found: &mut DriverFiles,
) {
    let own = own_root.map(|root| format!("{root}/firmware"));
    let custom = machine.value("/sys/module/firmware_class/parameters/path").is().filter(|path| path.starts_with('/'));
    let release = machine.value("/proc/sys/kernel/osrelease").is().unwrap_or_default();
    let of_kernel = [format!("/lib/firmware/updates/{release}"), format!("/lib/firmware/{release}")];
    let places = [
        custom.as_deref(),
        Some(of_kernel[0].as_str()),
        Some("/lib/firmware/updates"),
        Some(of_kernel[1].as_str()),
        Some("/lib/firmware"),
        Some("/usr/lib/firmware"),
        Some("/run/current-system/firmware"),
        own.as_deref(),
    ];
    for place in places.into_iter().flatten() {
        let dir = format!("{}/nvidia/{version}", place.trim_end_matches('/'));
        let Some(names) = driver.list(&dir).is() else { continue };
        for name in names.iter().filter(|name| name.starts_with("gsp") && name.ends_with(".bin")) {
            let path = format!("{dir}/{name}");
            let host = driver.resolve(&path).is().unwrap_or_else(|| path.clone());
            found.firmware.push(MountFile { host, container: path });
        }
        if !found.firmware.is_empty() {
            return;
        }
    }
}

pub(super) fn loader_files(machine: &dyn Machine, own_root: Option<&str>, found: &mut DriverFiles) {
    let own = own_root.map(|root| format!("{root}/share"));
    let dirs = ["/etc", "/usr/local/share", "/usr/share", "/run/opengl-driver/share"];
    // one look at each directory, and not one for each file
    let mut known: Vec<(String, Vec<String>)> = Vec::new();
    for (name, container) in LOADER_FILES {
        let (below, file) = name.rsplit_once('/').unwrap_or(("", name));
        // Google's machines keep Vulkan's files at the driver's root
        let bare = own_root.filter(|_| name.starts_with("vulkan/"));
        for dir in dirs.into_iter().chain(own.as_deref()).chain(bare) {
            let dir = format!("{dir}/{below}");
            let at = known.iter().position(|(path, _)| *path == dir).unwrap_or_else(|| {
                known.push((dir.clone(), machine.names(&dir)));
                known.len() - 1
            });
            let listed = known.get(at).is_some_and(|(_, names)| names.iter().any(|name| name == file));
            let path = format!("{dir}/{file}");
            if listed && machine.exists(&path) {
                let host = machine.resolve(&path).is().unwrap_or(path);
                found.loader_files.push(MountFile { host, container: container.to_owned() });
                break;
            }
        }
    }
}
