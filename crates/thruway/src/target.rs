//! Which machine is meant, and how it is changed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use journal::{Hands, RealHands};
use machine::scratch::Scratch;
use machine::{Kind, Machine, Memory, Root};
use model::{Intent, Layer, Outcome, Plan};

use crate::cli::Global;
use crate::jellyfin_api;
use crate::pve_api::{self, Remote};
use crate::way::Way;

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
    /// A Proxmox VE node by its API: `--pve`.
    Api(Box<Remote>),
    /// A Jellyfin server by its API: `app jellyfin --url`.
    Jellyfin(Box<jellyfin_api::Remote>),
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

    /// As [`Target::open`]; with --pve alone, the VM floor of a node by its API. `vm`: the VM that is meant, where said.
    pub fn of_vms(global: &Global, vm: Option<&str>) -> anyhow::Result<Self> {
        match &global.pve.url {
            Some(url) if Self::by_api(global) => Ok(Target::Api(Box::new(Remote::ask(&global.pve, url, vm)?))),
            _ => Self::open(global),
        }
    }

    /// --pve, and no other machine beside it.
    pub fn by_api(global: &Global) -> bool {
        global.pve.url.is_some() && global.root.is_none() && global.from.is_none() && global.sim.is_none()
    }

    /// The machine of these floors: [`Target::of_vms`] where it is the VM floor alone.
    pub fn of(global: &Global, layers: &[Layer], vm: Option<&str>) -> anyhow::Result<Self> {
        if layers == [Layer::Vm] { Self::of_vms(global, vm) } else { Self::open(global) }
    }

    /// The machine as it is now, where what is held of it is a snapshot.
    pub fn again(&self, global: &Global) -> anyhow::Result<Option<Self>> {
        match (self, &global.pve.url) {
            (Target::Api(remote), Some(url)) => {
                Ok(Some(Target::Api(Box::new(Remote::ask(&global.pve, url, remote.vm.as_deref())?))))
            }
            (Target::Jellyfin(remote), _) => Ok(Some(Target::Jellyfin(Box::new(remote.again(global)?)))),
            _ => Ok(None),
        }
    }

    /// All floors' facts of this machine; of a Jellyfin server by its API none is asked for.
    pub fn way(&self) -> Way {
        match self {
            Target::Jellyfin(_) => Way::observe(&Memory::new("a Jellyfin server by its API")),
            _ => Way::observe(self.machine()),
        }
    }

    pub fn verify(&self, way: &Way, layers: &[Layer], intent: &Intent) -> Vec<Outcome> {
        match self {
            Target::Jellyfin(remote) => app::verify(&remote.facts, intent),
            _ => {
                let mut all = way.verify(layers, intent);
                all.extend(app::forms::verify(self.machine(), intent));
                all
            }
        }
    }

    /// How a change made here is taken back.
    pub fn undo_command(&self, number: u64) -> String {
        match self {
            Target::Jellyfin(remote) => format!("thruway app jellyfin undo {number} --url {}", remote.url()),
            _ => format!("thruway undo {number}"),
        }
    }

    /// The plan of these floors, fitted to whoever carries it out.
    pub fn plan(&self, layers: &[Layer], intent: &Intent) -> Plan {
        if let Target::Jellyfin(remote) = self {
            return app::plan(&remote.facts, intent);
        }
        let mut way = Way::observe(self.machine());
        way.ask_cards(self.machine(), layers, intent);
        way.name(self.machine(), intent);
        let mut plan = way.plan(layers, intent);
        if let Target::Api(remote) = self {
            remote.answers.fit(&mut plan);
        }
        plan
    }

    pub fn machine(&self) -> &dyn Machine {
        match self {
            Target::Api(remote) => &remote.tree,
            Target::Jellyfin(remote) => remote.below.machine(),
            Target::Root(root) | Target::Simulated { root, .. } => root,
            Target::Captured(memory) => memory,
        }
    }

    /// What the reports call it; a simulated machine by its box.
    pub fn name(&self, global: &Global) -> String {
        if let Some(label) = &global.label {
            return label.clone();
        }
        if let Target::Jellyfin(remote) = self {
            return remote.title();
        }
        match (&global.sim, &global.from) {
            (Some(name), _) => format!("simulated machine {name}"),
            (_, Some(path)) => format!("capture {}", path.display()),
            _ => self.machine().name(),
        }
    }

    /// Where its journal is, if it can be changed at all: below its root; of a node by its API, here.
    pub fn path(&self) -> anyhow::Result<PathBuf> {
        match self {
            Target::Api(remote) => {
                std::fs::create_dir_all(&remote.home)
                    .with_context(|| format!("cannot make {}", remote.home.display()))?;
                Ok(remote.home.clone())
            }
            Target::Jellyfin(remote) => {
                std::fs::create_dir_all(&remote.home)
                    .with_context(|| format!("cannot make {}", remote.home.display()))?;
                Ok(remote.home.clone())
            }
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
            Target::Api(_) => Box::new(pve_api::Nothing),
            Target::Jellyfin(remote) => remote.hands()?,
            Target::Simulated { .. } => Box::new(sim::SimHands::new(&path)),
            _ => Box::new(RealHands::new(&path).limit(limit).telling(crate::change::work_line)),
        })
    }

    /// The changes made to this machine; none where it is a recording.
    pub fn log(&self) -> Result<Vec<journal::Transaction>, journal::Error> {
        match self {
            Target::Api(remote) => remote.journal.as_ref().map_or(Ok(Vec::new()), journal::read_log),
            Target::Jellyfin(remote) => remote.journal.as_ref().map_or(Ok(Vec::new()), journal::read_log),
            Target::Root(root) | Target::Simulated { root, .. } => journal::read_log(root),
            Target::Captured(_) => Ok(Vec::new()),
        }
    }
}
