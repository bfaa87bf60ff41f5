//! Where systems keep a driver's files.

use std::str::FromStr;

/// A system's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Debian: nvidia/current below the multiarch directory, reached by two links through /etc/alternatives.
    Debian,
    /// Ubuntu: the multiarch directory itself.
    Ubuntu,
    /// Fedora, RHEL, SUSE: lib64, and lib for 32 bits.
    Fedora,
    /// Arch: lib alone, and lib32.
    Arch,
    /// Container-optimised hosts (GKE): /home/kubernetes/bin/nvidia, which pods see as /usr/local/nvidia.
    Gke,
    /// A computing guest as recorded: /usr/local/nvidia with a C library of its own, links in /usr/lib, scripts in /usr/bin.
    Guest,
    /// NixOS: the store, and /run/opengl-driver.
    Nix,
    /// A driver container, whose root is /run/nvidia/driver.
    Container,
}

pub const ALL: [(&str, Layout); 8] = [
    ("debian", Layout::Debian),
    ("ubuntu", Layout::Ubuntu),
    ("fedora", Layout::Fedora),
    ("arch", Layout::Arch),
    ("gke", Layout::Gke),
    ("guest", Layout::Guest),
    ("nixos", Layout::Nix),
    ("container", Layout::Container),
];

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Layout, String> {
        let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        let found = ALL.iter().find(|(name, _)| *name == text).map(|(_, layout)| *layout);
        found.ok_or_else(|| format!("no layout is called {text:?}; there are {}", names.join(", ")))
    }
}

/// A layout's directories, absolute in the root.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Under which all else lies: empty, or a driver container's root.
    pub(crate) under: &'static str,
    pub(crate) libraries: String,
    /// For 32-bit twins.
    pub(crate) narrow: Option<&'static str>,
    /// Where links to each library's names are, and through what they go.
    pub(crate) links: Option<(&'static str, Through)>,
    /// Bare ".so" links beside the libraries, for all of them.
    pub(crate) bare: bool,
    pub(crate) programs: String,
    pub(crate) firmware: String,
    pub(crate) data: String,
    /// Where X's driver is, and where its GLX module.
    pub(crate) xorg: [&'static str; 2],
    pub(crate) os_release: &'static str,
    /// The loader's cache has them.
    pub(crate) cache: bool,
    pub(crate) server: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// /etc/alternatives.
    Alternatives,
    /// Straight.
    Straight,
}

const MULTIARCH: &str = "/usr/lib/x86_64-linux-gnu";

impl Layout {
    pub(crate) fn places(self, version: &str) -> Places {
        let usual = Places {
            under: "",
            libraries: MULTIARCH.into(),
            narrow: None,
            links: None,
            bare: false,
            programs: "/usr/bin".into(),
            firmware: "/lib/firmware".into(),
            data: "/usr/share".into(),
            xorg: ["/usr/lib/x86_64-linux-gnu/nvidia/xorg"; 2],
            os_release: "",
            cache: true,
            server: false,
        };
        match self {
            Layout::Debian => Places {
                libraries: format!("{MULTIARCH}/nvidia/current"),
                narrow: Some("/usr/lib/i386-linux-gnu/nvidia/current"),
                links: Some((MULTIARCH, Through::Alternatives)),
                programs: "/usr/lib/nvidia/current".into(),
                xorg: ["/usr/lib/xorg/modules/drivers", "/usr/lib/xorg/modules/extensions"],
                os_release: "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n",
                ..usual
            },
            Layout::Ubuntu => Places {
                narrow: Some("/usr/lib/i386-linux-gnu"),
                os_release: "PRETTY_NAME=\"Ubuntu 24.04.3 LTS\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n",
                ..usual
            },
            Layout::Fedora => Places {
                libraries: "/usr/lib64".into(),
                narrow: Some("/usr/lib"),
                xorg: ["/usr/lib64/xorg/modules/drivers", "/usr/lib64/xorg/modules/extensions"],
                firmware: "/usr/lib/firmware".into(),
                os_release: "PRETTY_NAME=\"Fedora Linux 42\"\nID=fedora\nVERSION_ID=42\n",
                ..usual
            },
            Layout::Arch => Places {
                libraries: "/usr/lib".into(),
                narrow: Some("/usr/lib32"),
                xorg: ["/usr/lib/xorg/modules/drivers", "/usr/lib/nvidia/xorg"],
                firmware: "/usr/lib/firmware".into(),
                os_release: "PRETTY_NAME=\"Arch Linux\"\nID=arch\n",
                ..usual
            },
            Layout::Gke => Places {
                libraries: "/home/kubernetes/bin/nvidia/lib64".into(),
                programs: "/home/kubernetes/bin/nvidia/bin".into(),
                firmware: "/home/kubernetes/bin/nvidia/firmware".into(),
                data: "/home/kubernetes/bin/nvidia/share".into(),
                os_release: "NAME=\"Container-Optimized OS\"\nID=cos\nVERSION_ID=117\n",
                // nothing of it is on the loader's way
                cache: false,
                ..usual
            },
            Layout::Guest => Places {
                libraries: "/usr/local/nvidia/lib64".into(),
                links: Some(("/usr/lib", Through::Straight)),
                bare: true,
                programs: "/usr/local/nvidia/bin".into(),
                firmware: "/usr/local/nvidia/firmware".into(),
                data: "/usr/local/nvidia/share".into(),
                os_release: "PRETTY_NAME=\"Linux\"\nID=linux\n",
                server: true,
                ..usual
            },
            Layout::Nix => {
                let store = format!("/nix/store/{}-nvidia-x11-{version}", "0".repeat(32));
                Places {
                    libraries: format!("{store}/lib"),
                    links: Some(("/run/opengl-driver/lib", Through::Straight)),
                    programs: format!("{store}/bin"),
                    firmware: "/run/current-system/firmware".into(),
                    data: "/run/opengl-driver/share".into(),
                    os_release: "PRETTY_NAME=\"NixOS 25.05 (Warbler)\"\nID=nixos\nVERSION_ID=\"25.05\"\n",
                    // NixOS has no loader cache
                    cache: false,
                    ..usual
                }
            }
            Layout::Container => Places {
                under: "/run/nvidia/driver",
                os_release: "PRETTY_NAME=\"Ubuntu 22.04.5 LTS\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"22.04\"\n",
                ..usual
            },
        }
    }
}
