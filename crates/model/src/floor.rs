//! What every floor has in common: whether it is here, what is wanted of it, and whether a plan's effect is there.

use serde::{Deserialize, Serialize};

use crate::{Bdf, DriverFile, Evidence};

/// Whether this machine has a floor at all. Not having one is no fault: a guest has no host floor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "presence", content = "says")]
pub enum Presence {
    /// In one line, what is here: "Proxmox VE 7.1, 2 VMs".
    Here(String),
    /// Why not: "this machine is itself a guest".
    NotHere(String),
    /// We could not look, and why.
    Unknown(String),
}

/// What the user wants, as one form for all floors. A plan carries it, so that verify and a stale plan's check can
/// plan again from the same wish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Intent {
    /// The cards (function 0) to be given away. Empty: each floor infers, and says so in the plan's `intent` lines.
    pub give: Vec<Bdf>,
    /// How the host hands them over.
    pub handover: Handover,
    /// Stop what uses them, by unit or SIGTERM; without it those are named and the handover is refused.
    pub stop_holders: bool,
    /// The VM that gets them: a Proxmox VMID or a libvirt name.
    pub vm: Option<String>,
    /// Losses that the user named and accepts, by check id ("host/console-lost").
    pub allow: Vec<String>,
    /// Bind by vendor:device (`ids=`) and not by address. Only when told: it catches twins.
    pub by_ids: bool,
    /// Take away what old guides left: dead settings, and those that weaken the host.
    pub clean: bool,
    /// Container engine to configure (docker, podman, containerd, crio); none: the one that is here.
    pub engine: Option<String>,
    /// Make the GPU runtime the engine's default, as old guides do.
    pub default_runtime: bool,
    /// What engines know under the runtime name nvidia. None: what is installed, where an engine needs one at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<GpuRuntime>,
    /// Let engines read CDI specs, said in their configuration also where it is their default.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cdi: bool,
    /// Take NVIDIA's container toolkit out of the way: its units, its specs, its names in engines' configuration.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replace_toolkit: bool,
    /// The Deployment to patch, `namespace/name`; none: those that go round the scheduler's grant.
    pub deployment: Option<String>,
    /// How many GPUs its pods are to ask for. None: what they take now, at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    /// The container of it that gets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_container: Option<String>,
    /// Take its node selection by GPU labels out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drop_affinity: bool,
    /// Watch the boot that the plan waits for.
    pub guard: Option<Guard>,
    /// NVIDIA's installer, in place of the distribution's packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_file: Option<DriverFile>,
    /// What the VM's guest is told of where its cards sit on the host. None: what it is told now is left alone.
    pub hint: Option<Tell>,
    /// Which Jellyfin and which card, where that is not to be inferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jellyfin: Option<JellyfinWish>,
    /// Whose change it is: the id of a way that `thruway up` walks. No planner heeds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Which Jellyfin is to be fitted to which card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JellyfinWish {
    /// A server by its REST API, "http://192.0.2.7:8096". None: the settings files of this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The card that it uses. None: whichever is here; of several what all of them can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card: Option<Bdf>,
    /// The chip that it uses by its name in the table ("GP108"), where no card of it is here to be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chip: Option<String>,
    /// What runs it is changed, too: this compose file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compose: Option<String>,
    /// The Proxmox VE container that it lies in: its configuration is changed, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ct: Option<u32>,
}

/// Whose program stands under the runtime name nvidia, which `--runtime nvidia` and Kubernetes' RuntimeClass ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuRuntime {
    /// /usr/bin/thruway-runtime.
    Thruway,
    /// NVIDIA's nvidia-container-runtime.
    Nvidia,
    /// Nobody's: CDI alone.
    Nobody,
}

/// How much of the host a guest is told. It is host information, so nothing is told unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tell {
    /// Each card's address, slot, NUMA node and link.
    Places,
    /// The same, and the host's name.
    Named,
    /// Nothing: what it was told before goes.
    Nothing,
}

/// A one-shot unit that looks, after the boot, whether the plan came true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// thruway's own absolute path on the machine, which the unit starts.
    pub program: String,
    /// Take the plan back and boot once more if the default gateway does not answer after the boot.
    pub undo: bool,
}

/// How the host hands a card over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// Files are written, and vfio-pci has the card from the next boot on.
    #[default]
    AtBoot,
    /// At every boot, and now as well.
    Now,
    /// Now, to this driver, until the next boot: nothing is written.
    Bind(String),
    /// Now, back to the driver that had it.
    Back,
}

/// What an outcome waits for that only a boot brings.
pub const A_REBOOT: &str = "a reboot of this machine";

/// How that begins which only a VM's next start brings: its title follows.
pub const A_VM_START: &str = "a stop and start of ";

/// One thing a plan promised, looked at again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// "26:00.0 is held by vfio-pci".
    pub says: String,
    pub state: OutcomeState,
    pub evidence: Vec<Evidence>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum OutcomeState {
    /// Effective: seen in /proc, sysfs, the API.
    Held,
    /// Written and generated, waiting for this: "a reboot of this machine", "a stop and start of VM 100".
    Pending(String),
    /// Not so, and nothing pending would make it so.
    Failed(String),
    /// Could not look.
    Unknown(String),
}
