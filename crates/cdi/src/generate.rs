//! A CDI spec from a driver root.

use std::fmt;

use formats::cdispec::{Device, Edits, Spec};
use gpu::Inventory;
use gpu::promises::{Promised, promised};
use journal::ledger::Owner;
use machine::{Machine, MachineExt};
use model::{Reason, Seen};
use serde::Serialize;

use crate::below::Below;
use crate::edits::{HookWork, Place, in_order};
use crate::files::{self, Cached};
use crate::nodes::{control_nodes, quick};
use crate::options::{Naming, Options, Withheld};
use crate::{DriverFiles, GpuNodes, HOOK, KIND, gpu_nodes};

/// A spec, what it was made from, and what a reader should know of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generated {
    pub spec: Spec,
    pub gpus: Vec<GpuNodes>,
    pub files: DriverFiles,
    pub notes: Vec<String>,
}

/// Why no spec can be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoSpec {
    /// No NVIDIA card on this machine.
    NoCard,
    /// NVIDIA's kernel driver does not run, or holds no card.
    NoDriver,
    /// The loaded module and the libraries are of different versions.
    Mismatch { kernel: String, library: String },
    /// The driver runs, yet none of its libraries was found.
    NoLibraries { version: String },
    /// MIG is on for every card, and none is cut.
    OnlyMig,
    /// Every card is promised to a VM.
    Withheld(Vec<String>),
    /// The devices that were asked for are not here: "no device is called \"7\"; there are 0, 1".
    NotHere(String),
    /// We could not look.
    Unknown(Reason),
}

impl fmt::Display for NoSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoSpec::NoCard => f.write_str("this machine has no NVIDIA card"),
            NoSpec::NoDriver => f.write_str("NVIDIA's kernel driver does not run here"),
            NoSpec::Mismatch { kernel, library } => {
                write!(f, "the loaded kernel module is {kernel} and the driver's libraries are {library}")
            }
            NoSpec::NoLibraries { version } => write!(f, "no library of driver {version} was found"),
            NoSpec::OnlyMig => {
                f.write_str("MIG is on for every card and no part is known, and whole cards cannot be given away then")
            }
            NoSpec::Withheld(whys) => write!(f, "every card is kept from containers: {}", whys.join("; ")),
            NoSpec::NotHere(what) => f.write_str(what),
            NoSpec::Unknown(reason) => write!(f, "could not look: {reason}"),
        }
    }
}

impl std::error::Error for NoSpec {}

/// Makes a spec for every card that NVIDIA's driver holds and that is not promised to a VM: each by index and by UUID, the parts
/// of those with MIG on, and `all`.
///
/// Device nodes are given by path alone. The engine then looks their numbers up when a container starts, and the
/// dynamic majors of nvidia-uvm and nvidia-caps cannot go stale in a file that outlives a reboot.
///
/// # Errors
/// Why there is none.
pub fn generate(machine: &dyn Machine, inventory: &Inventory, options: &Options) -> Result<Generated, NoSpec> {
    gather(machine, inventory)?.spec(machine, options)
}

/// As [`generate`], from a look that asks no more of the machine than a spec needs.
///
/// # Errors
/// As there.
pub fn generate_here(machine: &dyn Machine, options: &Options) -> Result<Generated, NoSpec> {
    gather_here(machine, options)?.spec(machine, options)
}

/// What specs are made from: looked at once, for as many as are wanted.
pub struct Gathered {
    pub version: String,
    pub gpus: Vec<GpuNodes>,
    known: Option<String>,
    cached: Cached,
    notes: Vec<String>,
}

/// See [`Gathered`].
///
/// # Errors
/// Why nothing can be given to a container here.
pub fn gather_here(machine: &dyn Machine, options: &Options) -> Result<Gathered, NoSpec> {
    let mut notes = Vec::new();
    let unpromised = machine.names(journal::ledger::DIR).is_empty();
    let gpus = if unpromised { quick(machine, &mut notes) } else { None };
    let Some(gpus) = gpus else {
        // NVML is asked by who needs it
        return gather(machine, &gpu::observe_with(machine, Seen::Absent));
    };
    let Some(version) = gpu::driver_version(machine).is() else {
        return gather(machine, &gpu::observe_with(machine, Seen::Absent));
    };
    let driver: Option<Below<'_>> = options.driver_root.as_deref().map(|root| Below::new(machine, root));
    let driver = driver.as_ref().map_or(machine, |below| below);
    let cached = Cached::read(driver);
    Ok(Gathered { version, gpus, known: None, cached, notes })
}

fn gather(machine: &dyn Machine, inventory: &Inventory) -> Result<Gathered, NoSpec> {
    if inventory.nvidia().next().is_none() {
        return Err(match inventory.looked.unreadable() {
            Some(reason) => NoSpec::Unknown(reason.clone()),
            None => NoSpec::NoCard,
        });
    }
    let version = match &inventory.driver.kernel {
        Seen::Is(version) => version.clone(),
        Seen::Absent => return Err(NoSpec::NoDriver),
        Seen::Unreadable(reason) => return Err(NoSpec::Unknown(reason.clone())),
    };
    let mut notes = Vec::new();
    let mut gpus = gpu_nodes(machine, inventory, &mut notes);
    if gpus.is_empty() {
        return Err(NoSpec::NoDriver);
    }
    let withheld = withheld(machine, inventory);
    gpus.retain(|gpu| !withheld.iter().any(|one| one.bdf == gpu.bdf));
    if gpus.is_empty() {
        return Err(NoSpec::Withheld(withheld.into_iter().map(|one| one.why).collect()));
    }
    notes.extend(withheld.into_iter().map(|one| format!("{}; it is not in this spec", one.why)));
    if let Some(library) = inventory.driver.library.get().filter(|library| **library != version) {
        return Err(NoSpec::Mismatch { kernel: version, library: library.clone() });
    }
    let known = inventory.driver.library_path.get().and_then(|path| path.rsplit_once('/'));
    let known = known.map(|(dir, _)| dir.to_owned());
    Ok(Gathered { version, gpus, known, cached: Cached::read(machine), notes })
}

/// Cards that the ledger promises to a VM, or of which it cannot be read to whom.
fn withheld(machine: &dyn Machine, inventory: &Inventory) -> Vec<Withheld> {
    let ledger = journal::ledger::read(machine);
    let mut found = Vec::new();
    for card in inventory.nvidia() {
        let bdf = card.identity.bdf;
        let name = format!("{} ({})", bdf.short(), card.short_name());
        let why = match promised(&ledger, inventory, card) {
            Promised::To { to: to @ Owner::Vm(_) } => format!("{name} is promised to {to}"),
            Promised::Moved { to: to @ Owner::Vm(_), from } => {
                format!("{name} was promised to {to} when it sat at {}", from.short())
            }
            Promised::Unreadable { why } => format!("to whom {name} is promised cannot be read: {why}"),
            _ => continue,
        };
        found.push(Withheld { bdf, why });
    }
    found
}

impl Gathered {
    /// The driver's files, looked for once for as many specs as are made of them.
    ///
    /// # Errors
    /// None of this version is there.
    pub fn files(&self, machine: &dyn Machine, driver_root: Option<&str>) -> Result<DriverFiles, NoSpec> {
        let below = driver_root.map(|root| Below::new(machine, root));
        let driver = below.as_ref().map_or(machine, |below| below as &dyn Machine);
        let known = self.known.as_deref().filter(|_| driver_root.is_none());
        let files = files::find(driver, machine, &self.cached, known, &self.version);
        if !files.libraries.is_empty() {
            return Ok(files);
        }
        let other =
            self.cached.library.as_deref().and_then(|path| path.rsplit_once(".so.")).map(|(_, version)| version);
        Err(match other.filter(|other| other.contains('.') && *other != self.version) {
            Some(library) => NoSpec::Mismatch { kernel: self.version.clone(), library: library.to_owned() },
            None => NoSpec::NoLibraries { version: self.version.clone() },
        })
    }

    /// The spec by these options.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn spec(&self, machine: &dyn Machine, options: &Options) -> Result<Generated, NoSpec> {
        self.of(machine, &self.files(machine, options.driver_root.as_deref())?, options)
    }

    /// The same of files that were found already.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn of(&self, machine: &dyn Machine, files: &DriverFiles, options: &Options) -> Result<Generated, NoSpec> {
        let mut notes = self.notes.clone();
        notes.extend(files.notes.iter().cloned());
        let place = Place::new(machine, options);
        let mut devices = Vec::new();
        let mut all = Vec::new();
        for gpu in &self.gpus {
            self.devices(machine, gpu, options, &place, &mut devices, &mut all);
        }
        if devices.is_empty() {
            return Err(self.none(options));
        }
        if !options.no_all {
            devices.push(device(machine, &place, "all".to_owned(), &all));
        }
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices.dedup_by(|a, b| a.name == b.name);
        let links = self.gpus.iter().flat_map(|gpu| &gpu.links);
        let links = links.filter(|_| place.draws()).map(|(link, target)| (target.clone(), link.clone())).collect();
        let mut work = HookWork {
            links,
            driver: Some(self.version.clone()),
            guard: true,
            profile: place.draws(),
            ..HookWork::default()
        };
        let mounts = in_order(place.driver(files, &mut work));
        let control = match &options.dev_root {
            Some(root) => control_nodes(&Below::new(machine, root), &mut notes),
            None => control_nodes(machine, &mut notes),
        };
        let container_edits = Edits {
            // An image whose default runtime is NVIDIA's would be edited a second time without this.
            env: vec!["NVIDIA_VISIBLE_DEVICES=void".to_owned()],
            mounts,
            hooks: place.hook(&work),
            ..place.nodes(machine, &control)
        };
        if !place.has_hook() {
            notes.push(format!(
                "no {HOOK} is here, so the spec goes without a hook: libraries are mounted in {} and found there without \
                 ldconfig; an image that keeps its own copy of one of them in its ld.so.cache uses its own",
                place.dirs().join(" and ")
            ));
        }
        let spec = sealed(options.kind.as_deref().unwrap_or(KIND), devices, container_edits);
        Ok(Generated { spec, gpus: self.gpus.clone(), files: files.clone(), notes })
    }

    fn devices(
        &self,
        machine: &dyn Machine,
        gpu: &GpuNodes,
        options: &Options,
        place: &Place<'_>,
        devices: &mut Vec<Device>,
        all: &mut Vec<String>,
    ) {
        let default = [Naming::Index, Naming::Uuid];
        let namings = if options.names.is_empty() { default.as_slice() } else { options.names.as_slice() };
        let wanted = |names: &[Option<String>]| {
            options.only.is_empty()
                || options.only.iter().any(|only| only == "all" || names.iter().flatten().any(|name| name == only))
        };
        let own = |path: &&String| place.draws() || !path.starts_with("/dev/dri/");
        let mut give = |index: String, uuid: &Option<String>, kind: &str, nodes: &[String]| {
            if nodes.is_empty() || !wanted(&[Some(index.clone()), uuid.clone(), Some(gpu.index.to_string())]) {
                return;
            }
            all.extend(nodes.iter().cloned());
            for naming in namings {
                let name = match naming {
                    Naming::Index => Some(index.clone()),
                    Naming::TypeIndex => Some(format!("{kind}{index}")),
                    Naming::Uuid => uuid.clone(),
                };
                devices.extend(name.map(|name| device(machine, place, name, nodes)));
            }
        };
        if !gpu.mig {
            let nodes: Vec<String> = gpu.nodes.iter().filter(own).cloned().collect();
            give(gpu.index.to_string(), &gpu.uuid, "gpu", &nodes);
            return;
        }
        for part in &gpu.parts {
            let parent =
                gpu.nodes.iter().filter(|path| !path.starts_with("/dev/dri/") || (part.graphics && place.draws()));
            let nodes: Vec<String> = parent.chain(&part.nodes).cloned().collect();
            give(format!("{}:{}", gpu.index, part.index), &part.uuid, "mig", &nodes);
        }
    }

    /// Why there is no device.
    fn none(&self, options: &Options) -> NoSpec {
        if self.gpus.iter().all(|gpu| gpu.mig && gpu.parts.is_empty()) {
            return NoSpec::OnlyMig;
        }
        if options.only.is_empty() {
            return NoSpec::NoDriver;
        }
        let there: Vec<String> = self
            .gpus
            .iter()
            .flat_map(|gpu| {
                let parts = gpu.parts.iter().map(|part| format!("{}:{}", gpu.index, part.index));
                let whole = (!gpu.mig).then(|| gpu.index.to_string());
                whole.into_iter().chain(parts)
            })
            .collect();
        let asked: Vec<String> = options.only.iter().map(|name| format!("{name:?}")).collect();
        NoSpec::NotHere(format!("no device is called {}; there are {}", asked.join(" or "), there.join(", ")))
    }
}

/// A spec with the lowest version that has its fields.
pub(crate) fn sealed(kind: &str, devices: Vec<Device>, container_edits: Edits) -> Spec {
    let mut spec = Spec { kind: kind.to_owned(), devices, container_edits, ..Spec::default() };
    spec.cdi_version = spec.needed_version().to_owned();
    spec
}

pub(crate) fn device(machine: &dyn Machine, place: &Place<'_>, name: String, paths: &[String]) -> Device {
    Device { name, container_edits: place.nodes(machine, paths), ..Device::default() }
}
