//! Packages in a plan: what a package manager is to install, and what must come of it.

use serde::{Deserialize, Serialize};

/// Packages to install. What comes with them is known only when the manager is asked, right before the step; the
/// journal writes that down, and undo removes exactly those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackagesOp {
    pub manager: Manager,
    /// By name, no versions: the manager takes what its archives offer.
    pub install: Vec<String>,
    /// Ask the archives for their lists first: a source has just been added, or there are no lists.
    pub refresh: bool,
    /// Kernel modules that must be there afterwards: DKMS may fail to build one and the manager still say well.
    pub builds: Option<Builds>,
}

/// Modules of one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builds {
    /// As `uname -r` says it.
    pub release: String,
    /// Any one of these names is enough: Debian's nvidia.ko is called nvidia-current.ko.
    pub any_of: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// apt-get and dpkg: Debian, Ubuntu.
    Apt,
    /// Fedora and its kin.
    Dnf,
    /// Arch.
    Pacman,
}

impl Manager {
    pub fn name(self) -> &'static str {
        match self {
            Manager::Apt => "apt",
            Manager::Dnf => "dnf",
            Manager::Pacman => "pacman",
        }
    }

    /// The command that asks the archives for their lists. pacman is never asked alone: new lists with old packages
    /// are a partial upgrade, which Arch does not support.
    pub fn refresh(self) -> Option<&'static [&'static str]> {
        match self {
            Manager::Apt => Some(&["apt-get", "update"]),
            Manager::Dnf => Some(&["dnf", "makecache"]),
            Manager::Pacman => None,
        }
    }

    /// The command that installs, asking nothing. Nothing that is there is removed, and only what is needed comes.
    pub fn install(self, packages: &[String]) -> Vec<String> {
        let front: &[&str] = match self {
            Manager::Apt => &["apt-get", "install", "--yes", "--no-install-recommends", "--no-remove"],
            Manager::Dnf => &["dnf", "install", "--assumeyes", "--setopt=install_weak_deps=False"],
            Manager::Pacman => &["pacman", "-S", "--noconfirm", "--needed"],
        };
        front.iter().map(|word| (*word).to_owned()).chain(packages.iter().cloned()).collect()
    }

    /// The command that removes these with their configuration.
    pub fn purge(self, packages: &[String]) -> Vec<String> {
        let front: &[&str] = match self {
            Manager::Apt => &["apt-get", "purge", "--yes", "--no-auto-remove"],
            Manager::Dnf => &["dnf", "remove", "--assumeyes", "--noautoremove"],
            Manager::Pacman => &["pacman", "-Rn", "--noconfirm"],
        };
        front.iter().map(|word| (*word).to_owned()).chain(packages.iter().cloned()).collect()
    }
}

impl PackagesOp {
    /// The commands as a reader would paste them.
    pub fn paste(&self) -> Vec<String> {
        let refresh = self.refresh.then(|| self.manager.refresh()).flatten().map(|argv| argv.join(" "));
        refresh.into_iter().chain([self.manager.install(&self.install).join(" ")]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_shown_as_commands() {
        let op = |manager| PackagesOp { manager, install: vec!["dkms".into()], refresh: true, builds: None };
        assert_eq!(
            op(Manager::Apt).paste(),
            ["apt-get update", "apt-get install --yes --no-install-recommends --no-remove dkms"]
        );
        assert_eq!(op(Manager::Pacman).paste(), ["pacman -S --noconfirm --needed dkms"]);
        assert_eq!(Manager::Dnf.purge(&["dkms".into()]).join(" "), "dnf remove --assumeyes --noautoremove dkms");
    }
}
