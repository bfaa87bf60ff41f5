//! What is installed, and what a step is to bring: the record that undo of packages goes by.

use serde::{Deserialize, Serialize};

/// The packages of a machine right before a step that installs some.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    pub before: Vec<Installed>,
    /// What the manager says will come, dependencies too: name and version.
    pub comes: Vec<(String, String)>,
    /// The download in bytes and the room on disk, in the manager's own words; empty where it does not say.
    #[serde(default)]
    pub size: String,
    /// Of what these packages make and their purge leaves behind, what was there already: accounts and directories
    /// by name, of the closed lists in `packages/leftovers`.
    #[serde(default)]
    pub known: Vec<String>,
}

/// One installed package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Installed {
    /// With the architecture behind a colon, where it is not the machine's own.
    pub name: String,
    pub version: String,
    /// It came as somebody's dependency, and may go with it.
    pub auto: bool,
    /// It is removed, and its configuration stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remains: bool,
}

impl Stock {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Plain data: serde_json cannot fail on it.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    pub fn find(&self, name: &str) -> Option<&Installed> {
        self.before.iter().find(|package| package.name == name)
    }

    /// Was it installed before the step?
    pub fn had(&self, name: &str) -> bool {
        self.find(name).is_some_and(|package| !package.remains)
    }

    /// Of what is there now, what this step brought: named by the manager then, and not there before.
    pub fn brought(&self, now: &[Installed]) -> Vec<String> {
        let here = |name: &str| now.iter().any(|package| package.name == name);
        let ours = self.comes.iter().map(|(name, _)| name).filter(|name| here(name) && !self.had(name));
        ours.cloned().collect()
    }

    /// Packages from before whose version is another now, or that are gone: (name, then, now).
    pub fn moved(&self, now: &[Installed]) -> Vec<(String, String, Option<String>)> {
        let moved = self.before.iter().filter(|package| !package.remains).filter_map(|then| {
            let today = now.iter().find(|package| package.name == then.name && !package.remains);
            let version = today.map(|package| package.version.clone());
            let same = version.as_ref() == Some(&then.version);
            (!same).then(|| (then.name.clone(), then.version.clone(), version))
        });
        moved.collect()
    }

    /// Packages from before whose mark is another now: (name, it was automatic).
    pub fn marks(&self, now: &[Installed]) -> Vec<(String, bool)> {
        let changed = self.before.iter().filter(|then| {
            let today = now.iter().find(|package| package.name == then.name);
            !then.remains && today.is_some_and(|package| !package.remains && package.auto != then.auto)
        });
        changed.map(|then| (then.name.clone(), then.auto)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, auto: bool, remains: bool) -> Installed {
        Installed { name: name.into(), version: "1".into(), auto, remains }
    }

    #[test]
    fn only_what_came_goes_and_marks_go_back() {
        let before = vec![package("libc6", true, false), package("gcc", true, false), package("old", false, true)];
        let comes = ["dkms", "make", "old"].map(|name| (name.to_owned(), "1".to_owned())).to_vec();
        let stock = Stock { before, comes, ..Stock::default() };
        let mut now = vec![package("libc6", true, false), package("gcc", false, false), package("dkms", false, false)];
        // Somebody's own, installed since.
        now.push(package("htop", false, false));
        now.push(package("old", false, false));
        assert_eq!(stock.brought(&now), ["dkms", "old"]);
        assert_eq!(stock.marks(&now), [("gcc".to_owned(), true)]);
        assert_eq!(stock.moved(&now), []);
        assert_eq!(stock.moved(&now[1..]), [("libc6".to_owned(), "1".to_owned(), None)]);
        assert_eq!(Stock::from_bytes(&stock.to_bytes()), Ok(stock));
    }
}
