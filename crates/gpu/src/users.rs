//! What keeps a driver from letting go of a card: processes with its nodes open (NVIDIA, DRM, sound), and what in the
//! kernel holds it without any. Each with the one who would have to stop it.

use std::collections::{BTreeMap, BTreeSet};

use machine::{Machine, MachineExt as _};
use model::{Bdf, Evidence, Seen, Source};
use serde::Serialize;

use crate::attribution::{self, OwnedBy};
use crate::cgroup;
use crate::holder::{is_vfio, nvidia_nodes};
use crate::naming::Names;
use crate::processes::Processes;
use crate::{Card, Holder, Inventory};

const DEVICES: &str = "/sys/bus/pci/devices";

/// Who uses a card now, companions (sound) included.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Users {
    pub processes: Vec<User>,
    /// What holds it without an open descriptor.
    pub kernel: Vec<KernelUse>,
    /// Why there may be more than these.
    pub unseen: Option<String>,
}

/// A process with a node of the card open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    pub pid: u32,
    pub name: String,
    /// Field 22 of /proc/PID/stat; `None` where it could not be read, and then the process is not ours to end.
    pub started: Option<u64>,
    /// "/dev/nvidia0", "/dev/dri/card0".
    pub nodes: Vec<String>,
    pub who: Who,
}

/// Whose process it is: whom to tell to stop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Who {
    /// A unit of systemd: "nvidia-persistenced.service".
    Unit(String),
    /// The display manager's unit, on whose behalf the process draws.
    Desktop(String),
    /// "namespace/pod".
    Pod(String),
    Container(String),
    /// A system container of LXC or Proxmox VE.
    SystemContainer(String),
    Vm(String),
    /// Started by hand, or by a session of its own.
    Process,
}

/// Something in the kernel that holds the card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelUse {
    /// "persistence mode is on".
    pub says: String,
    pub evidence: Evidence,
    /// The lines that end it.
    pub paste: Vec<String>,
}

/// The users of every card that a driver holds, by the card's address.
pub fn users(machine: &dyn Machine, inventory: &Inventory) -> BTreeMap<Bdf, Users> {
    let mut found = BTreeMap::new();
    let driven = |card: &&Card| inventory.functions_of(card).iter().any(|function| function.driver.is_there());
    if !inventory.cards.iter().any(|card| driven(&card)) {
        return found;
    }
    let processes = Processes::new(machine);
    let single = inventory.cards.iter().filter(|card| card.driver.get().is_some_and(|d| d == "nvidia")).count() == 1;
    let desktop = Desktop::find(machine, &processes);
    for card in inventory.cards.iter().filter(driven) {
        let nodes = nodes(machine, inventory, card, single);
        let mut names = Names::default();
        let open = processes.with_open(&nodes);
        // A VM's process is told by the holder, with its name.
        let one = |pid: &u32| user(machine, &processes, &desktop, &mut names, *pid, &nodes);
        let mut users = Users { processes: open.iter().map(one).collect(), ..Users::default() };
        users.processes.sort_by_key(|user| user.pid);
        users.kernel = kernel(machine, card);
        users.unseen = processes.unseen();
        if card.driver.get().is_some_and(|driver| driver == "nvidia") && nvidia_nodes(machine, card, single).is_empty()
        {
            let says = "which /dev/nvidiaN is this card's is told neither by NVML nor by /proc/driver/nvidia";
            users.unseen.get_or_insert(says.into());
        }
        found.insert(card.identity.bdf, users);
    }
    found
}

/// The device nodes of a card and of its sound function.
fn nodes(machine: &dyn Machine, inventory: &Inventory, card: &Card, single: bool) -> BTreeSet<String> {
    let mut nodes = BTreeSet::new();
    for function in inventory.functions_of(card) {
        let at = format!("{DEVICES}/{}", function.bdf);
        nodes.extend(machine.names(&format!("{at}/drm")).iter().map(|name| format!("/dev/dri/{name}")));
        for sound in machine.names(&format!("{at}/sound")) {
            let Some(number) = sound.strip_prefix("card") else { continue };
            nodes.insert(format!("/dev/snd/controlC{number}"));
            let own = |name: &String| {
                let rest = name.strip_prefix("pcmC").or_else(|| name.strip_prefix("hwC"));
                rest.and_then(|rest| rest.split_once('D')).is_some_and(|(card, _)| card == number)
            };
            nodes.extend(machine.names("/dev/snd").into_iter().filter(own).map(|name| format!("/dev/snd/{name}")));
        }
    }
    match card.driver.get() {
        Some(driver) if driver == "nvidia" => nodes.extend(nvidia_nodes(machine, card, single)),
        Some(driver) if is_vfio(driver) => {
            if let (Seen::Is(group), Holder::Nobody | Holder::Host(_)) = (&card.group, &card.holder) {
                nodes.insert(format!("/dev/vfio/{}", group.number));
            }
        }
        _ => {}
    }
    nodes
}

fn user(
    machine: &dyn Machine,
    processes: &Processes<'_>,
    desktop: &Desktop,
    names: &mut Names,
    pid: u32,
    nodes: &BTreeSet<String>,
) -> User {
    let stat = machine.text(&format!("/proc/{pid}/stat")).is().unwrap_or_default();
    let started = attribution::stat_of(&stat).map(|(_, started)| started);
    let name = machine.value(&format!("/proc/{pid}/comm")).is().unwrap_or_default();
    let owner = attribution::whose(machine, names, pid).owner;
    let who = match owner {
        OwnedBy::Pod { .. } => Who::Pod(owner.label()),
        OwnedBy::Container { .. } => Who::Container(owner.label()),
        OwnedBy::System { name, .. } => Who::SystemContainer(name),
        OwnedBy::Vm { .. } => Who::Vm(owner.label()),
        OwnedBy::Unit { unit, user: None } if desktop.is(&unit) => Who::Desktop(unit),
        OwnedBy::Unit { unit, user: None } => Who::Unit(unit),
        // A user's units are his manager's and not ours to stop.
        OwnedBy::Unit { .. } | OwnedBy::Process | OwnedBy::Hidden => match &desktop.unit {
            Some(unit) if draws(&name) => Who::Desktop(unit.clone()),
            _ => Who::Process,
        },
    };
    let opened = processes.nodes_of(pid).into_iter().filter(|node| nodes.contains(node)).collect();
    User { pid, name, started, nodes: opened, who }
}

/// Display servers and compositors, which a display manager starts in a session of their own.
fn draws(name: &str) -> bool {
    // The kernel cuts names at 15 bytes.
    const NAMES: [&str; 12] = [
        "Xorg",
        "X",
        "Xwayland",
        "gnome-shell",
        "kwin_wayland",
        "kwin_x11",
        "sway",
        "weston",
        "cinnamon",
        "mutter",
        "sddm-greeter",
        "lightdm-gtk-gre",
    ];
    NAMES.contains(&name)
}

/// The display manager that runs.
struct Desktop {
    unit: Option<String>,
}

impl Desktop {
    /// `display-manager.service` is a link to the unit of the one that is installed (systemd's bootup(7)).
    fn find(machine: &dyn Machine, processes: &Processes<'_>) -> Self {
        let unit = machine.link_name("/etc/systemd/system/display-manager.service").is().filter(|unit| {
            let runs = |pid: &u32| {
                let cgroup = machine.text(&format!("/proc/{pid}/cgroup")).is().unwrap_or_default();
                cgroup::place(&cgroup).unit.as_deref() == Some(unit)
            };
            processes.pids().iter().any(runs)
        });
        Desktop { unit }
    }

    fn is(&self, unit: &str) -> bool {
        unit == "display-manager.service" || self.unit.as_deref() == Some(unit)
    }
}

fn kernel(machine: &dyn Machine, card: &Card) -> Vec<KernelUse> {
    let mut found = Vec::new();
    let bdf = card.identity.bdf;
    if card.driver.get().is_none_or(|driver| driver != "nvidia") {
        return found;
    }
    if let Some(Seen::Is(true)) = card.nvml.as_ref().map(|gpu| &gpu.persistence) {
        found.push(KernelUse {
            says: "persistence mode is on, so NVIDIA's driver keeps the card open by itself".into(),
            evidence: Evidence { source: Source::Answer("NVML".into()), value: "persistence mode enabled".into() },
            paste: vec![format!("nvidia-smi -i {bdf} -pm 0")],
        });
    }
    // With modeset on, nvidia-drm opens each card when it comes up and keeps it so until it is unloaded.
    const MODESET: &str = "/sys/module/nvidia_drm/parameters/modeset";
    let drm = !machine.names(&format!("{DEVICES}/{bdf}/drm")).is_empty();
    if let (true, Seen::Is(on)) = (drm, machine.value(MODESET))
        && matches!(on.as_str(), "Y" | "1")
    {
        found.push(KernelUse {
            says: "nvidia_drm drives its connectors, so NVIDIA's driver does not let go of it".into(),
            evidence: Evidence { source: Source::file(MODESET), value: on },
            paste: vec!["modprobe -r nvidia_drm nvidia_modeset".into()],
        });
    }
    found
}
