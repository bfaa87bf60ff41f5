//! What of the driver a container wants: the words of NVIDIA_DRIVER_CAPABILITIES, and which file serves which.

use std::fmt;

/// One word of NVIDIA_DRIVER_CAPABILITIES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    Compute,
    Compat32,
    Graphics,
    Utility,
    Video,
    Display,
    Ngx,
}

impl Capability {
    pub const ALL: [Capability; 7] = [
        Capability::Compute,
        Capability::Compat32,
        Capability::Graphics,
        Capability::Utility,
        Capability::Video,
        Capability::Display,
        Capability::Ngx,
    ];

    /// "compute".
    pub fn word(self) -> &'static str {
        match self {
            Capability::Compute => "compute",
            Capability::Compat32 => "compat32",
            Capability::Graphics => "graphics",
            Capability::Utility => "utility",
            Capability::Video => "video",
            Capability::Display => "display",
            Capability::Ngx => "ngx",
        }
    }
}

/// A set of capabilities. Prints as the environment variable has it: "compute,utility".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u8);

impl Capabilities {
    pub const NONE: Capabilities = Capabilities(0);
    pub const ALL: Capabilities = Capabilities(0x7f);
    /// What a container gets that names none.
    pub const DEFAULT: Capabilities = Capabilities(1 << Capability::Compute as u8 | 1 << Capability::Utility as u8);

    /// Reads a comma list; blanks are trimmed, "all" is every capability, an empty list the default.
    ///
    /// # Errors
    /// The first word that is none.
    pub fn parse(list: &str) -> Result<Capabilities, String> {
        let mut set = Capabilities::NONE;
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            set = match Capability::ALL.into_iter().find(|capability| capability.word() == word) {
                Some(capability) => set.with(capability),
                None if word == "all" => Capabilities::ALL,
                None => return Err(word.to_owned()),
            };
        }
        Ok(if set == Capabilities::NONE { Capabilities::DEFAULT } else { set })
    }

    #[must_use]
    pub fn with(self, capability: Capability) -> Capabilities {
        Capabilities(self.0 | 1 << capability as u8)
    }

    pub fn has(self, capability: Capability) -> bool {
        self.0 & 1 << capability as u8 != 0
    }

    pub fn meets(self, other: Capabilities) -> bool {
        self.0 & other.0 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |capability| self.has(*capability))
    }

    /// Whether a container that wants this set is to have the driver's file that it would see at `path`. A file that
    /// the table does not know belongs to every set: one file too many costs a mount, one too few a container.
    pub fn want(self, path: &str) -> bool {
        if path.contains("/i386-linux-gnu/") && !self.has(Capability::Compat32) {
            return false;
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        match FILES.iter().find(|(stems, _)| stems.iter().any(|stem| is(name, stem))) {
            Some((_, set)) => set.iter().any(|capability| self.has(*capability)),
            None => true,
        }
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Capability::word).collect();
        f.write_str(&words.join(","))
    }
}

/// "libcuda.so.1" is "libcuda"; "libcudadebugger.so.1" is not. What is no library is named whole.
fn is(name: &str, stem: &str) -> bool {
    name.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with(".so"))
}

const GRAPHICS: &[Capability] = &[Capability::Graphics, Capability::Display];
const COMPUTE: &[Capability] = &[Capability::Compute];
const UTILITY: &[Capability] = &[Capability::Utility];
const VIDEO: &[Capability] = &[Capability::Video];

/// The groups of libnvidia-container (src/nvc_info.c), with what later drivers brought; loader files beside the
/// libraries that they name. Absent on purpose: GSP firmware, which every set needs.
const FILES: &[(&[&str], &[Capability])] = &[
    (
        &[
            "libnvidia-ml",
            "libnvidia-cfg",
            "libnvidia-nscq",
            "libnvidia-sandboxutils",
            "nvidia-smi",
            "nvidia-debugdump",
            "nvidia-persistenced",
        ],
        UTILITY,
    ),
    (
        &[
            "libcuda",
            "libcudadebugger",
            "libnvidia-opencl",
            "libOpenCL",
            "libnvidia-fatbinaryloader",
            "libnvidia-compiler",
            "libnvidia-pkcs11",
            "libnvidia-pkcs11-openssl3",
            "libnvidia-tileiras",
            "nvidia-cuda-mps-control",
            "nvidia-cuda-mps-server",
            "nvidia.icd",
        ],
        COMPUTE,
    ),
    // rendering and video compile and allocate through them too
    (
        &["libnvidia-ptxjitcompiler", "libnvidia-nvvm", "libnvidia-nvvm70", "libnvidia-gpucomp", "libnvidia-allocator"],
        &[Capability::Compute, Capability::Graphics, Capability::Display, Capability::Video],
    ),
    (&["libnvcuvid", "libnvidia-encode", "libnvidia-opticalflow", "libvdpau_nvidia"], VIDEO),
    (
        &[
            "libnvidia-eglcore",
            "libnvidia-glcore",
            "libnvidia-tls",
            "libnvidia-glsi",
            "libnvidia-fbc",
            "libnvidia-ifr",
            "libnvidia-rtcore",
            "libnvoptix",
            "libGLX_nvidia",
            "libEGL_nvidia",
            "libGLESv2_nvidia",
            "libGLESv1_CM_nvidia",
            "libnvidia-glvkspirv",
            "libnvidia-cbl",
            "libGL",
            "libEGL",
            "libGLESv1_CM",
            "libGLESv2",
            "libGLX",
            "libGLdispatch",
            "libOpenGL",
            "libnvidia-egl-gbm",
            "libnvidia-egl-wayland",
            "libnvidia-egl-wayland2",
            "libnvidia-egl-xcb",
            "libnvidia-egl-xlib",
            "libnvidia-vulkan-producer",
            "libnvidia-wayland-client",
            "libnvidia-api",
            "nvoptix.bin",
            "nvidia_icd.json",
            "nvidia_layers.json",
            "10_nvidia.json",
            "15_nvidia_gbm.json",
            "10_nvidia_wayland.json",
            "09_nvidia_wayland2.json",
            "20_nvidia_xcb.json",
            "20_nvidia_xlib.json",
            "nvidia-drm_gbm",
        ],
        GRAPHICS,
    ),
    (&["nvidia_drv", "libglxserver_nvidia", "10-nvidia.conf", "nvidia-drm-outputclass.conf"], &[Capability::Display]),
    (&["libnvidia-ngx"], &[Capability::Ngx]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_the_variable_has_it() {
        assert_eq!(Capabilities::parse("video, utility").unwrap().to_string(), "utility,video");
        assert_eq!(Capabilities::parse("").unwrap(), Capabilities::DEFAULT);
        assert_eq!(Capabilities::parse("utility,all").unwrap(), Capabilities::ALL);
        assert_eq!(Capabilities::parse("compute,teapot"), Err("teapot".to_owned()));
    }

    #[test]
    fn files_go_to_those_who_want_them() {
        let utility = Capabilities::parse("utility").unwrap();
        assert!(utility.want("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.163.01"));
        assert!(!utility.want("/usr/lib/x86_64-linux-gnu/libcuda.so.1"));
        assert!(!Capabilities::DEFAULT.want("/usr/lib64/libnvcuvid.so.1"));
        assert!(Capabilities::DEFAULT.want("/lib/firmware/nvidia/550.163.01/gsp_ga10x.bin"));
        assert!(!Capabilities::DEFAULT.want("/usr/lib/i386-linux-gnu/libcuda.so.1"));
        assert!(Capabilities::ALL.want("/usr/lib/i386-linux-gnu/libcuda.so.1"));
        assert!(Capabilities::DEFAULT.want("/usr/lib/x86_64-linux-gnu/libnvidia-of-tomorrow.so.1"), "unknown: to all");
    }
}
