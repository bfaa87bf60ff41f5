//! The one list of a driver's user-side files.
//!
//! Sources: the libraries, programs and firmware of driver 580.159.04 as an H100's host had them (a recording), and the file
//! lists of the distributions' packages for what such a host leaves out.

/// A library of the driver.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    /// "libcuda.so".
    pub stem: &'static str,
    /// The SONAME's number; empty: the SONAME is the file's whole name.
    pub number: &'static str,
    /// The first branch that has it.
    pub since: u32,
    /// Also there on a host for computing alone, as the recorded one.
    pub server: bool,
    /// Has a 32-bit twin.
    pub narrow: bool,
    /// A version of its own, not the driver's.
    pub version: Option<&'static str>,
}

const fn library(stem: &'static str, number: &'static str) -> Library {
    Library { stem, number, since: 0, server: true, narrow: false, version: None }
}

const fn twin(stem: &'static str, number: &'static str) -> Library {
    Library { narrow: true, ..library(stem, number) }
}

const fn desktop(stem: &'static str, number: &'static str, since: u32) -> Library {
    Library { server: false, since, ..library(stem, number) }
}

pub const LIBRARIES: &[Library] = &[
    twin("libEGL_nvidia.so", "0"),
    twin("libGLESv1_CM_nvidia.so", "1"),
    twin("libGLESv2_nvidia.so", "2"),
    twin("libGLX_nvidia.so", "0"),
    twin("libcuda.so", "1"),
    Library { since: 515, ..library("libcudadebugger.so", "1") },
    twin("libnvcuvid.so", "1"),
    twin("libnvidia-allocator.so", "1"),
    library("libnvidia-cfg.so", "1"),
    twin("libnvidia-eglcore.so", ""),
    twin("libnvidia-encode.so", "1"),
    twin("libnvidia-fbc.so", "1"),
    twin("libnvidia-glcore.so", ""),
    twin("libnvidia-glsi.so", ""),
    twin("libnvidia-glvkspirv.so", ""),
    Library { since: 545, ..twin("libnvidia-gpucomp.so", "") },
    twin("libnvidia-ml.so", "1"),
    twin("libnvidia-nvvm.so", "4"),
    twin("libnvidia-opencl.so", "1"),
    twin("libnvidia-opticalflow.so", "1"),
    Library { since: 545, ..library("libnvidia-pkcs11-openssl3.so", "") },
    twin("libnvidia-ptxjitcompiler.so", "1"),
    library("libnvidia-rtcore.so", ""),
    twin("libnvidia-tls.so", ""),
    library("libnvoptix.so", "1"),
    twin("libvdpau_nvidia.so", "1"),
    desktop("libnvidia-api.so", "1", 520),
    desktop("libnvidia-ngx.so", "1", 0),
    desktop("libnvidia-sandboxutils.so", "1", 560),
    Library { version: Some("1.1.2"), ..desktop("libnvidia-egl-gbm.so", "1", 495) },
    Library { version: Some("1.1.20"), ..desktop("libnvidia-egl-wayland.so", "1", 0) },
    desktop("libnvidia-vulkan-producer.so", "", 525),
];

/// X's driver and its GLX module (with the driver's version behind it), which have no SONAME that a loader would ask for.
pub const XORG: [&str; 2] = ["nvidia_drv.so", "libglxserver_nvidia.so"];

/// Programs of a host whose cards are joined by NVLink over nodes.
pub const IMEX: [&str; 2] = ["nvidia-imex", "nvidia-imex-ctl"];

impl Library {
    /// "libcuda.so.580.159.04".
    pub fn file(&self, driver: &str) -> String {
        format!("{}.{}", self.stem, self.version.unwrap_or(driver))
    }

    /// "libcuda.so.1"; the file's name where it is its own SONAME.
    pub fn soname(&self, driver: &str) -> String {
        if self.number.is_empty() { self.file(driver) } else { format!("{}.{}", self.stem, self.number) }
    }
}

/// Those of a branch.
pub fn of(branch: u32, server: bool) -> impl Iterator<Item = &'static Library> {
    LIBRARIES.iter().filter(move |library| library.since <= branch && (library.server || !server))
}

pub const PROGRAMS: [&str; 5] =
    ["nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nvidia-debugdump", "nvidia-persistenced", "nvidia-smi"];

/// GSP firmware; since branch 515 it is in two files by generation.
pub fn firmware(branch: u32) -> &'static [&'static str] {
    match branch {
        ..465 => &[],
        465..515 => &["gsp.bin"],
        _ => &["gsp_ga10x.bin", "gsp_tu10x.bin"],
    }
}

/// Files for the loaders of Vulkan, EGL and OpenCL: below a data directory, text, and whether a server has it.
pub const DATA: [(&str, &str, bool); 8] = [
    (
        "glvnd/egl_vendor.d/10_nvidia.json",
        "{\n    \"file_format_version\" : \"1.0.0\",\n    \"ICD\" : {\n        \"library_path\" : \"libEGL_nvidia.so.0\"\n    }\n}\n",
        true,
    ),
    (
        "vulkan/icd.d/nvidia_icd.json",
        "{\n    \"file_format_version\" : \"1.0.1\",\n    \"ICD\": {\n        \"library_path\": \"libGLX_nvidia.so.0\",\n        \"api_version\" : \"1.4.312\"\n    }\n}\n",
        true,
    ),
    (
        "vulkan/implicit_layer.d/nvidia_layers.json",
        "{\n    \"file_format_version\" : \"1.0.0\",\n    \"layers\": []\n}\n",
        true,
    ),
    (
        "egl/egl_external_platform.d/15_nvidia_gbm.json",
        "{\n    \"file_format_version\" : \"1.0.0\",\n    \"ICD\" : {\n        \"library_path\" : \"libnvidia-egl-gbm.so.1\"\n    }\n}\n",
        false,
    ),
    (
        "egl/egl_external_platform.d/10_nvidia_wayland.json",
        "{\n    \"file_format_version\" : \"1.0.0\",\n    \"ICD\" : {\n        \"library_path\" : \"libnvidia-egl-wayland.so.1\"\n    }\n}\n",
        false,
    ),
    ("nvidia/nvoptix.bin", "simulated\n", false),
    ("OpenCL/vendors/nvidia.icd", "libnvidia-opencl.so.1\n", false),
    ("X11/xorg.conf.d/10-nvidia.conf", "# simulated\n", false),
];

pub const MODULES: [&str; 5] = ["nvidia", "nvidia-drm", "nvidia-modeset", "nvidia-peermem", "nvidia-uvm"];
