//! Which of NVIDIA's driver branches and kernel modules can run a generation of cards. Static: from NVIDIA's own
//! lists of legacy GPUs and from what the drivers print when they ignore a card.

use model::PciId;
use serde::Serialize;

use crate::{Arch, ModuleKind};

/// What a generation needs of the driver. Branches are the first number of a version: 580 of 580.159.04.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    pub arch: Arch,
    /// The first branch that knows the generation.
    pub oldest: u32,
    /// The last branch that does; `None`: every current one.
    pub newest: Option<u32>,
    /// The open kernel modules run it.
    pub open: bool,
    /// The proprietary kernel modules run it.
    pub proprietary: bool,
    pub source: &'static str,
}

/// How an installed driver fits a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    Fits,
    /// The branch dropped this generation; the last that has it.
    TooNew {
        newest: u32,
    },
    /// The branch does not know this generation yet; the first that does.
    TooOld {
        oldest: u32,
    },
    /// Open modules on a card without a GSP: they pass it by.
    NeedsProprietary,
    /// Proprietary modules on a card that only the open ones run.
    NeedsOpen,
}

const LEGACY: &str = "NVIDIA's list of legacy GPUs";
const LAST_580: &str = "NVIDIA's deprecation notice: branch 580 is the last for Maxwell, Pascal and Volta";
const OPEN: &str = "open-gpu-kernel-modules: Turing and later; proprietary modules beside them";
const OPEN_ONLY: &str = "open-gpu-kernel-modules: Blackwell runs with the open modules alone";

const fn row(
    arch: Arch,
    oldest: u32,
    newest: Option<u32>,
    open: bool,
    proprietary: bool,
    source: &'static str,
) -> Advice {
    Advice { arch, oldest, newest, open, proprietary, source }
}

static TABLE: [Advice; 11] = [
    row(Arch::Tesla, 100, Some(340), false, true, LEGACY),
    row(Arch::Fermi, 256, Some(390), false, true, LEGACY),
    row(Arch::Kepler, 304, Some(470), false, true, LEGACY),
    row(Arch::Maxwell, 334, Some(580), false, true, LAST_580),
    row(Arch::Pascal, 367, Some(580), false, true, LAST_580),
    row(Arch::Volta, 384, Some(580), false, true, LAST_580),
    row(Arch::Turing, 410, None, true, true, OPEN),
    row(Arch::Ampere, 450, None, true, true, OPEN),
    row(Arch::Ada, 520, None, true, true, OPEN),
    row(Arch::Hopper, 515, None, true, true, OPEN),
    row(Arch::Blackwell, 570, None, true, false, OPEN_ONLY),
];

/// The row of a generation.
pub fn advice(arch: Arch) -> Advice {
    // The table has a row for each generation (tested); the fallback keeps this total.
    TABLE.iter().copied().find(|row| row.arch == arch).unwrap_or(row(arch, 0, None, true, true, LEGACY))
}

/// The branch of a version: 580 of "580.159.04". None where the text does not begin with a number and a dot.
pub fn branch_of(version: &str) -> Option<u32> {
    let (first, _) = version.trim().split_once('.')?;
    first.parse().ok()
}

/// Cards that want more than their generation does.
struct Exception {
    devices: &'static [u16],
    oldest: Option<u32>,
    open_only: bool,
    source: &'static str,
}

static EXCEPTIONS: [Exception; 2] = [
    Exception {
        // GH200: the Grace CPU's coherent link to the GPU's memory is in the open modules alone
        devices: &[0x2342, 0x2345, 0x2348],
        oldest: Some(535),
        open_only: true,
        source: "NVIDIA's blog of 17 July 2024 on the open modules: Grace Hopper and Blackwell need them",
    },
    Exception {
        // RTX PRO 4500 Blackwell Server Edition
        devices: &[0x2c3a],
        oldest: Some(595),
        open_only: true,
        source: "supported-gpus.json of 595.58.03, the first that lists it",
    },
];

/// What this card needs: its generation's row, narrowed where the card itself is known to want more.
pub fn advice_for(id: PciId, arch: Arch) -> Advice {
    let mut advice = advice(arch);
    let own = |exception: &&Exception| id.vendor == PciId::NVIDIA && exception.devices.contains(&id.device);
    if let Some(exception) = EXCEPTIONS.iter().find(own) {
        advice.oldest = exception.oldest.unwrap_or(advice.oldest);
        advice.proprietary &= !exception.open_only;
        advice.source = exception.source;
    }
    advice
}

/// Whether this branch with these modules runs this generation.
pub fn judge(arch: Arch, branch: u32, kind: Option<ModuleKind>) -> Fit {
    advice(arch).judge(branch, kind)
}

impl Advice {
    /// Whether this branch with these modules fits.
    pub fn judge(&self, branch: u32, kind: Option<ModuleKind>) -> Fit {
        match (self.newest, kind) {
            (Some(newest), _) if branch > newest => Fit::TooNew { newest },
            _ if branch < self.oldest => Fit::TooOld { oldest: self.oldest },
            (_, Some(ModuleKind::Open)) if !self.open => Fit::NeedsProprietary,
            (_, Some(ModuleKind::Proprietary)) if !self.proprietary => Fit::NeedsOpen,
            _ => Fit::Fits,
        }
    }

    /// "branch 580 or older, with the proprietary kernel modules".
    pub fn says(&self) -> String {
        let branch = match self.newest {
            Some(newest) => format!("branch {newest} or older"),
            None => format!("branch {} or newer", self.oldest),
        };
        let modules = match (self.open, self.proprietary) {
            (true, true) => "the open kernel modules (the proprietary ones work too)",
            (true, false) => "the open kernel modules, the only ones that run it",
            _ => "the proprietary kernel modules, since the open ones need Turing or newer",
        };
        format!("{branch}, with {modules}")
    }

    /// The modules to prefer.
    pub fn kind(&self) -> ModuleKind {
        if self.open { ModuleKind::Open } else { ModuleKind::Proprietary }
    }
}

impl Arch {
    /// "Pascal".
    pub fn name(self) -> &'static str {
        match self {
            Arch::Tesla => "Tesla",
            Arch::Fermi => "Fermi",
            Arch::Kepler => "Kepler",
            Arch::Maxwell => "Maxwell",
            Arch::Pascal => "Pascal",
            Arch::Volta => "Volta",
            Arch::Turing => "Turing",
            Arch::Ampere => "Ampere",
            Arch::Ada => "Ada",
            Arch::Hopper => "Hopper",
            Arch::Blackwell => "Blackwell",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Arch; 11] = [
        Arch::Tesla,
        Arch::Fermi,
        Arch::Kepler,
        Arch::Maxwell,
        Arch::Pascal,
        Arch::Volta,
        Arch::Turing,
        Arch::Ampere,
        Arch::Ada,
        Arch::Hopper,
        Arch::Blackwell,
    ];

    #[test]
    fn every_generation_has_one_row() {
        for arch in ALL {
            assert_eq!(TABLE.iter().filter(|row| row.arch == arch).count(), 1, "{arch:?}");
        }
    }

    #[test]
    fn the_gt_1030_runs_on_510_and_580_and_not_on_590() {
        let kind = Some(ModuleKind::Proprietary);
        assert_eq!(judge(Arch::Pascal, 510, kind), Fit::Fits);
        assert_eq!(judge(Arch::Pascal, 580, kind), Fit::Fits);
        assert_eq!(judge(Arch::Pascal, 590, kind), Fit::TooNew { newest: 580 });
        assert_eq!(judge(Arch::Pascal, 580, Some(ModuleKind::Open)), Fit::NeedsProprietary);
        assert_eq!(advice(Arch::Pascal).kind(), ModuleKind::Proprietary);
    }

    #[test]
    fn the_edges_of_the_other_generations() {
        assert_eq!(judge(Arch::Kepler, 495, None), Fit::TooNew { newest: 470 });
        assert_eq!(judge(Arch::Blackwell, 580, Some(ModuleKind::Proprietary)), Fit::NeedsOpen);
        assert_eq!(judge(Arch::Blackwell, 550, Some(ModuleKind::Open)), Fit::TooOld { oldest: 570 });
        assert_eq!(judge(Arch::Hopper, 580, Some(ModuleKind::Open)), Fit::Fits);
        assert_eq!(judge(Arch::Turing, 595, Some(ModuleKind::Proprietary)), Fit::Fits);
    }

    #[test]
    fn branches_are_read_from_versions() {
        assert_eq!(branch_of("580.159.04"), Some(580));
        assert_eq!(branch_of("510.54\n"), Some(510));
        assert_eq!(branch_of("nouveau"), None);
        assert_eq!(branch_of(""), None);
    }
}
