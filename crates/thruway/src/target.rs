//! Which machine is meant, and how it is changed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use journal::{Hands, RealHands};
use machine::scratch::Scratch;
use machine::{Kind, Machine, Memory, Root};

use crate::cli::Global;

/// The machine behind this run.
pub enum Target {
    /// The live machine, or a tree.
    Root(Root),
    Captured(Memory),
    /// A simulated machine; where it was named by its box, its directory goes with this value.
    Simulated {
        root: Root,
        _made: Option<Scratch>,
    },
}

impl Target {
    pub fn open(global: &Global) -> anyhow::Result<Self> {
        if let Some(path) = &global.from {
            let memory = machine::capture::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            return Ok(Target::Captured(memory));
        }
        if let Some(name) = &global.sim {
            let scratch = Scratch::temporary().context("cannot make a temporary directory")?;
            sim::build_named(name, &scratch).with_context(|| format!("cannot make the simulated machine {name}"))?;
            let root = Root::tree(scratch.path()).context("cannot open the simulated machine")?;
            return Ok(Target::Simulated { root, _made: Some(scratch) });
        }
        let root = match &global.root {
            Some(path) if path.as_path() != Path::new("/") => {
                Root::tree(path).with_context(|| format!("cannot open {} as a machine's root", path.display()))?
            }
            _ => Root::live().context("cannot open /")?,
        };
        Ok(match root.kind() {
            Kind::Simulated => Target::Simulated { root, _made: None },
            _ => Target::Root(root),
        })
    }

    pub fn machine(&self) -> &dyn Machine {
        match self {
            Target::Root(root) | Target::Simulated { root, .. } => root,
            Target::Captured(memory) => memory,
        }
    }

    /// What the reports call it; a simulated machine by its box.
    pub fn name(&self, global: &Global) -> String {
        if let Some(label) = &global.label {
            return label.clone();
        }
        match (&global.sim, &global.from) {
            (Some(name), _) => format!("simulated machine {name}"),
            (_, Some(path)) => format!("capture {}", path.display()),
            _ => self.machine().name(),
        }
    }

    /// Where its files are, if it can be changed at all.
    pub fn path(&self) -> anyhow::Result<PathBuf> {
        match self {
            Target::Root(root) | Target::Simulated { root, .. } => Ok(root.path().to_owned()),
            Target::Captured(_) => {
                bail!("a capture is a recording and cannot be changed; plans can be made from it, not applied")
            }
        }
    }

    pub fn hands(&self) -> anyhow::Result<Box<dyn Hands>> {
        self.hands_within(journal::bind::LIMIT)
    }

    /// As [`Target::hands`]; a driver may take so long to let go of a card or to come to it.
    pub fn hands_within(&self, limit: std::time::Duration) -> anyhow::Result<Box<dyn Hands>> {
        let path = self.path()?;
        Ok(match self {
            Target::Simulated { .. } => Box::new(sim::SimHands::new(&path)),
            _ => Box::new(RealHands::new(&path).limit(limit)),
        })
    }

    /// The changes made to this machine; none where it is a recording.
    pub fn log(&self) -> Result<Vec<journal::Transaction>, journal::Error> {
        match self {
            Target::Root(root) | Target::Simulated { root, .. } => journal::read_log(root),
            Target::Captured(_) => Ok(Vec::new()),
        }
    }
}
