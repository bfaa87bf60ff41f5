//! How a spec is made.

use model::{Bdf, Capabilities};

/// How a spec is made. The default is what engines are given: every card by index and UUID, the whole driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Without a hook: where libraries are put in the container; empty: the places in which the loaders of Debian's and of
    /// Red Hat's families look without a cache.
    pub library_dirs: Vec<String>,
    pub hook: HookWish,
    /// Under which names each card stands; empty: index and UUID.
    pub names: Vec<Naming>,
    /// No device `all`.
    pub no_all: bool,
    /// Only these, by index, UUID or G:M; empty: every one.
    pub only: Vec<String>,
    /// "vendor/class"; `None`: [`crate::KIND`], or what the mode goes by.
    pub kind: Option<String>,
    /// Files of these sets alone; `None`: all.
    pub capabilities: Option<Wanted>,
    /// Where the driver's files are, if it has a root of its own: "/run/nvidia/driver".
    pub driver_root: Option<String>,
    /// Where the device nodes are, if not in this root's /dev: nodes get its path as their host path.
    pub dev_root: Option<String>,
    /// No `additionalGids`, for engines that know CDI below 0.7.0 alone.
    pub no_gids: bool,
    /// Of the hook's works, those that are not wanted: "update-ldcache" and the other names that NVIDIA's tool has.
    pub without: Vec<String>,
    /// Tegra's lists of files; empty: those of NVIDIA's directory.
    pub csv_files: Vec<String>,
    /// Patterns of paths in them that are passed over; `*` stands for anything but a slash.
    pub csv_ignore: Vec<String>,
}

/// Which hook stands in the spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HookWish {
    /// [`crate::HOOK`] where it is installed.
    #[default]
    Installed,
    Path(String),
    /// Every name of a library is a mount.
    None,
}

/// A card's name in the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// "0", "0:1".
    Index,
    /// "GPU-…", "MIG-…".
    Uuid,
    /// "gpu0", "mig0:1".
    TypeIndex,
}

/// Which of the driver's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Sets(Capabilities),
    /// The 32-bit twins of every set.
    Twins,
}

impl Wanted {
    pub(crate) fn want(self, path: &str) -> bool {
        match self {
            Wanted::Sets(sets) => sets.want(path),
            Wanted::Twins => path.starts_with("/usr/lib/i386-linux-gnu/"),
        }
    }
}

/// A card that is not to be given to containers, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Withheld {
    pub(crate) bdf: Bdf,
    pub(crate) why: String,
}
