//! Packages of NVIDIA's driver: what dpkg has installed, and what apt's lists offer.

use std::collections::BTreeSet;

use machine::{Machine, MachineExt};
use model::{Fact, Seen, Source};
use serde::Serialize;

const STATUS: &str = "/var/lib/dpkg/status";
const LISTS: &str = "/var/lib/apt/lists";

/// One package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pkg {
    pub name: String,
    pub version: String,
    pub source: Source,
}

impl Pkg {
    /// A package that brings the driver itself, and not a container toolkit.
    pub fn driver(&self) -> bool {
        let name = self.name.as_str();
        let brings =
            ["nvidia-driver", "nvidia-headless", "nvidia-kernel", "nvidia-dkms", "nvidia-open", "nvidia-tesla"];
        brings.iter().any(|front| name.starts_with(front)) || name.starts_with("linux-modules-nvidia-")
    }

    /// The branch: from the name (nvidia-driver-580-server), else from the version (580.159.04-1).
    pub fn branch(&self) -> Option<u32> {
        let named = self.name.split('-').find_map(|part| part.parse().ok().filter(|n| (300..1000).contains(n)));
        let version = self.version.rsplit(':').next().unwrap_or_default();
        named.or_else(|| gpu::branch::branch_of(version))
    }

    pub fn open(&self) -> bool {
        self.name.ends_with("-open") || self.name.contains("-open-")
    }
}

fn ours(name: &str) -> bool {
    (name.starts_with("nvidia-") && !name.starts_with("nvidia-container"))
        || name.starts_with("linux-modules-nvidia-")
        || name == "dkms"
}

/// Installed ones. Absent where the system has no dpkg.
pub(super) fn installed(machine: &dyn Machine) -> Fact<Vec<Pkg>> {
    let read = |text: String| {
        let all = formats::dpkg::packages(&text, ours).into_iter().filter(formats::dpkg::Package::installed);
        all.map(|p| Pkg { name: p.name, version: p.version, source: Source::line(STATUS, p.line) }).collect()
    };
    Fact::new(machine.text(STATUS).map(read), Source::file(STATUS))
}

/// The installed packages that a plan might ask for.
pub(super) fn present(machine: &dyn Machine) -> BTreeSet<String> {
    let fronts = [
        "linux-image",
        "linux-headers",
        "linux-modules",
        "nvidia",
        "libnvidia",
        "libcuda",
        "libnvcuvid",
        "firmware-nvidia",
    ];
    let wanted = |name: &str| {
        fronts.iter().any(|front| name.starts_with(front))
            || matches!(name, "build-essential" | "dkms" | "gcc" | "make")
    };
    let text = machine.text(STATUS).is().unwrap_or_default();
    let all = formats::dpkg::packages(&text, wanted).into_iter().filter(formats::dpkg::Package::installed);
    all.map(|package| package.name).collect()
}

/// What the lists of restricted, non-free and NVIDIA's own archives offer; the large lists hold no driver.
pub(super) fn offered(machine: &dyn Machine) -> Vec<Pkg> {
    let holds = |name: &&String| {
        let name = name.to_ascii_lowercase();
        name.ends_with("_packages") && ["restricted", "non-free", "nvidia"].iter().any(|word| name.contains(word))
    };
    let mut all: Vec<Pkg> = Vec::new();
    for name in machine.names(LISTS).iter().filter(holds) {
        let path = format!("{LISTS}/{name}");
        let Seen::Is(text) = machine.text(&path) else { continue };
        let packages = formats::dpkg::packages(&text, ours).into_iter();
        all.extend(packages.map(|p| Pkg { name: p.name, version: p.version, source: Source::line(&path, p.line) }));
    }
    all.retain(Pkg::driver);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pkg(name: &str, version: &str) -> Pkg {
        Pkg { name: name.into(), version: version.into(), source: Source::file(STATUS) }
    }

    #[test]
    fn branches_come_from_names_and_versions() {
        assert_eq!(pkg("nvidia-driver-580-server-open", "").branch(), Some(580));
        assert_eq!(pkg("nvidia-driver", "535.183.01-1~deb12u1").branch(), Some(535));
        assert_eq!(pkg("nvidia-kernel-dkms", "1:590.48.01-1").branch(), Some(590));
        assert_eq!(pkg("linux-modules-nvidia-535-server-generic", "5.15.0-130.140").branch(), Some(535));
        assert!(pkg("nvidia-driver-580-server-open", "").open());
        assert!(!pkg("nvidia-driver-580-server", "").open());
        assert!(!pkg("nvidia-container-toolkit", "1.17").driver());
    }
}
