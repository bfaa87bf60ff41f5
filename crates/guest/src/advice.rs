//! What to install: the branch and the modules that fit the cards, as lines to paste. Never run by us: a driver is
//! large, comes from somebody else, and is the user's choice.

use gpu::branch::{Advice, Fit, advice, judge};
use gpu::{Arch, Card, ModuleKind};
use model::Fix;

use crate::Facts;
use crate::observe::Pkg;

/// The branch that the distributions carry longest, for cards that any current branch runs.
const CURRENT: u32 = 580;

/// What fits all usable cards: the tightest limits of their generations. None where no generation is known.
pub(crate) fn needs(facts: &Facts) -> Option<Needs> {
    let mut arches: Vec<Arch> = facts.usable().filter_map(|card| card.arch).collect();
    arches.sort_unstable();
    let rows: Vec<Advice> = arches.iter().map(|arch| advice(*arch)).collect();
    let first = rows.first()?;
    Some(Needs {
        arch: first.arch,
        newest: rows.iter().filter_map(|row| row.newest).min(),
        oldest: rows.iter().map(|row| row.oldest).max().unwrap_or(first.oldest),
        kind: if rows.iter().all(|row| row.open) { ModuleKind::Open } else { ModuleKind::Proprietary },
        says: first.says(),
    })
}

pub(crate) struct Needs {
    /// The oldest generation: it sets the limit.
    pub arch: Arch,
    pub newest: Option<u32>,
    pub oldest: u32,
    pub kind: ModuleKind,
    pub says: String,
}

impl Needs {
    fn fits(&self, branch: u32, kind: ModuleKind) -> bool {
        branch >= self.oldest && self.newest.is_none_or(|newest| branch <= newest) && kind == self.kind
    }

    /// The branch to install: the newest fitting one that apt offers, else a long-lived one.
    fn branch(&self, facts: &Facts) -> u32 {
        let offered = facts.offered.iter().filter(|package| package.name.starts_with("nvidia-headless-"));
        let fitting = offered.filter_map(|package| {
            let kind = if package.open() { ModuleKind::Open } else { ModuleKind::Proprietary };
            package.branch().filter(|branch| self.fits(*branch, kind))
        });
        // Ubuntu 20.04's own archive ends before 580.
        let old = facts.os.id == "ubuntu" && facts.os.version.starts_with("20.");
        let usual = if old { 535.max(self.oldest) } else { CURRENT.max(self.oldest) };
        fitting.max().unwrap_or(self.newest.map_or(usual, |newest| newest.min(usual)))
    }
}

/// The commands that install a fitting driver on this distribution; empty where we do not know its packages.
pub(crate) fn lines(facts: &Facts, needs: &Needs) -> Vec<String> {
    let branch = needs.branch(facts);
    let open = needs.kind == ModuleKind::Open;
    let release = facts.release.get().map_or("$(uname -r)", String::as_str);
    match facts.os.id.as_str() {
        "ubuntu" => {
            let suffix = if open { "-open" } else { "" };
            vec![
                format!("sudo apt-get install build-essential linux-headers-{release}"),
                format!(
                    "sudo apt-get install --no-install-recommends nvidia-headless-{branch}-server{suffix} \
                     nvidia-utils-{branch}-server libnvidia-decode-{branch}-server libnvidia-encode-{branch}-server"
                ),
            ]
        }
        "debian" if needs.newest.is_some_and(|newest| newest <= 470) => vec![
            format!("sudo apt-get install build-essential linux-headers-{release}"),
            "sudo apt-get install nvidia-tesla-470-driver   # needs contrib and non-free in sources.list".into(),
        ],
        "debian" => {
            let modules = if open { "nvidia-open-kernel-dkms " } else { "nvidia-kernel-dkms " };
            vec![
                format!("sudo apt-get install build-essential linux-headers-{release}"),
                format!(
                    "sudo apt-get install {modules}nvidia-smi libnvcuvid1 libnvidia-encode1   # needs contrib and \
                     non-free in sources.list; apt-cache policy must show branch {} or {}",
                    needs.newest.unwrap_or(needs.oldest),
                    if needs.newest.is_some() { "older" } else { "newer" }
                ),
            ]
        }
        _ => Vec::new(),
    }
}

/// The way out for a missing or unfit driver.
pub(crate) fn fix(facts: &Facts) -> Fix {
    let Some(needs) = needs(facts) else {
        let does = "install the NVIDIA driver branch that your card's generation needs";
        return Fix::by_hand(does, &[], "remove the packages again");
    };
    let lines = lines(facts, &needs);
    let paste: Vec<&str> = lines.iter().map(String::as_str).collect();
    Fix::by_hand(format!("install {}", needs.says), &paste, "sudo apt-get purge the same packages")
        .costs("a download of some hundred megabytes, and a reboot")
}

/// Why this package's driver does not run this card; `None` where it does or the branch cannot be told.
pub(crate) fn unfit(card: &Card, branch: u32, kind: Option<ModuleKind>) -> Option<(Arch, Fit)> {
    let arch = card.arch?;
    let fit = judge(arch, branch, kind);
    (fit != Fit::Fits).then_some((arch, fit))
}

/// What `apt-get install nvidia-driver` would bring where the name carries no branch.
pub(crate) fn unversioned(facts: &Facts) -> Option<&Pkg> {
    let plain =
        |package: &&Pkg| matches!(package.name.as_str(), "nvidia-driver" | "nvidia-open" | "nvidia-kernel-dkms");
    facts.offered.iter().filter(plain).max_by_key(|package| package.branch())
}
