//! What to install: the branch and the modules that fit the cards. `ways` finds the packages; what no package manager
//! has is lines to paste.

use gpu::branch::{Advice, Fit, advice, judge};
use gpu::{Arch, Card, ModuleKind};
use model::Fix;

use crate::observe::Pkg;
use crate::{Facts, ways};

/// The branch that the distributions carry longest, for cards that any current branch runs.
const CURRENT: u32 = 580;

/// What fits all usable cards: the tightest limits of their generations. None where no generation is known.
pub(crate) fn needs(facts: &Facts) -> Option<Needs> {
    let mut arches: Vec<Arch> = facts.usable().filter_map(|card| card.arch).collect();
    arches.sort_unstable();
    let rows: Vec<Advice> = arches.iter().map(|arch| advice(*arch)).collect();
    let first = rows.first()?;
    Some(Needs {
        open: rows.iter().all(|row| row.open),
        proprietary: rows.iter().all(|row| row.proprietary),
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
    /// The kind to prefer where nothing speaks against it.
    pub kind: ModuleKind,
    /// The open modules run all of them; the proprietary ones do.
    pub open: bool,
    pub proprietary: bool,
    pub says: String,
}

impl Needs {
    /// This branch with these modules runs every card here.
    pub fn runs(&self, branch: u32, kind: ModuleKind) -> bool {
        let kinds = match kind {
            ModuleKind::Open => self.open,
            ModuleKind::Proprietary => self.proprietary,
        };
        branch >= self.oldest && self.newest.is_none_or(|newest| branch <= newest) && kinds
    }

    /// Ubuntu's branch to install: the newest fitting one that apt offers, else a long-lived one.
    pub fn branch(&self, facts: &Facts) -> u32 {
        let offered = facts.offered.iter().filter(|package| package.name.starts_with("nvidia-headless-"));
        let fitting = offered.filter_map(|package| {
            let kind = if package.open() { ModuleKind::Open } else { ModuleKind::Proprietary };
            package.branch().filter(|branch| self.runs(*branch, kind))
        });
        // Ubuntu 20.04's own archive ends before 580.
        let old = facts.os.id == "ubuntu" && facts.os.version.starts_with("20.");
        let usual = if old { 535.max(self.oldest) } else { CURRENT.max(self.oldest) };
        fitting.max().unwrap_or(self.newest.map_or(usual, |newest| newest.min(usual)))
    }
}

/// The commands that install a fitting driver on this distribution; empty where we do not know its packages.
pub(crate) fn lines(facts: &Facts, needs: &Needs) -> Vec<String> {
    match ways::way(facts, needs) {
        Ok(way) => {
            let mut lines = Vec::new();
            if !facts.sources.lacks(&way.components).is_empty() {
                lines.push(format!(
                    "add {} to the components of Debian's sources, then apt-get update",
                    way.components.join(", ")
                ));
            }
            lines.push(format!("sudo {}", way.manager.install(&way.packages).join(" ")));
            lines
        }
        Err(no) => no.instead,
    }
}

/// The way out for a missing or unfit driver.
pub(crate) fn fix(facts: &Facts) -> Fix {
    let costs = "a download of some hundred megabytes, a build of some minutes, and a reboot";
    let Some(needs) = needs(facts) else {
        let does = "install the NVIDIA driver branch that your card's generation needs";
        return Fix::by_hand(does, &[], "remove the packages again");
    };
    if crate::plan::installs(facts).is_some_and(|way| way.is_ok()) {
        return Fix::planned(format!("install {}", needs.says), "sudo thruway guest apply").costs(costs);
    }
    let lines = lines(facts, &needs);
    let paste: Vec<&str> = lines.iter().map(String::as_str).collect();
    Fix::by_hand(format!("install {}", needs.says), &paste, "remove the same packages").costs(costs)
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
