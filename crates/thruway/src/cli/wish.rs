//! What a plan is asked for, carried out and taken back with.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use model::Bdf;

/// What is wanted.
#[derive(Args, Debug, Clone, Default)]
pub struct WishArgs {
    /// The card to give away, by address; may be repeated
    #[arg(long, value_name = "BDF")]
    pub give: Vec<Bdf>,
    /// Who gets it: vm:100, or a libvirt name as vm:NAME
    #[arg(long, value_name = "WHOM")]
    pub to: Option<String>,
    /// Accept a loss by the id of the check that refuses, e.g. host/console-lost; may be repeated
    #[arg(long, value_name = "ID")]
    pub allow: Vec<String>,
    /// Bind it now as well, without waiting for the reboot
    #[arg(long, conflicts_with = "at_boot")]
    pub now: bool,
    /// From the next boot on (the default)
    #[arg(long)]
    pub at_boot: bool,
    /// With --now: stop what uses the card (units, and processes by SIGTERM)
    #[arg(long, requires = "now")]
    pub stop_holders: bool,
    /// Bind by vendor and device id (also catches twin cards)
    #[arg(long)]
    pub by_ids: bool,
    /// Also take away what old guides left: dead settings, and those that weaken the host
    #[arg(long)]
    pub clean: bool,
    /// Install the driver from this file of NVIDIA's (NVIDIA-Linux-x86_64-VERSION.run), not from the distribution's packages.
    /// It is checked against its own sums; nothing is ever downloaded by thruway
    #[arg(long, value_name = "FILE")]
    pub driver_file: Option<PathBuf>,
    /// The container engine to configure: docker, containerd, crio, podman, k3s, rke2
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,
    /// Whose runtime engines are to know by the name nvidia: thruway's own, NVIDIA's, or none (CDI alone). Without it,
    /// the one that is installed, where an engine needs one
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub runtime: Option<RuntimeWish>,
    /// Say in the engine's configuration that it reads CDI specs, also where that is its default
    #[arg(long)]
    pub cdi: bool,
    /// Put thruway in the place of NVIDIA's container toolkit: its units off, its specs and hooks away, its names in the
    /// engines' configuration changed; its config.toml stays and is read. Undo brings all of it back
    #[arg(long)]
    pub replace_toolkit: bool,
    /// Make the GPU runtime the engine's default
    #[arg(long)]
    pub default_runtime: bool,
    /// The Deployment to patch, as NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    pub deployment: Option<String>,
    /// Have systemd look, after the boot that the plan waits for, whether it came true; with `undo`, take it back and
    /// boot once more if the network's gateway does not answer
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "report")]
    pub guard: Option<GuardWish>,
    /// Tell the VM's guest where its cards sit on this host: address, slot, NUMA node, link, as OEM strings of its SMBIOS;
    /// whoever is root in the guest can read it. =host: this host's name too; =none: take it out again
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "card")]
    pub hint: Option<HintWish>,
    /// With --guard: where thruway lies on that machine; without it, where this program lies here
    #[arg(long, value_name = "PATH", requires = "guard")]
    pub guard_program: Option<PathBuf>,
    /// Whose change this is: what `thruway up` puts on what it does
    #[arg(long, value_name = "ID", hide = true)]
    pub by: Option<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardWish {
    /// Verify and write down what was found
    Report,
    /// The same; and if the network does not come back, undo and boot once more
    Undo,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeWish {
    /// /usr/bin/thruway-runtime
    Thruway,
    /// NVIDIA's nvidia-container-runtime
    Nvidia,
    /// None: CDI alone
    None,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintWish {
    /// Each card's address, slot, NUMA node and link
    Card,
    /// The same, and this host's name
    Host,
    /// Nothing; what was told before is taken out
    None,
}

#[derive(Args, Debug, Clone, Default)]
pub struct PlanArgs {
    #[command(flatten)]
    pub wish: WishArgs,
    /// Write the plan to this file, for `thruway apply FILE`
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct ApplyArgs {
    /// A plan written by `plan --out`; without it, one is made now
    #[arg(value_name = "PLAN")]
    pub plan: Option<PathBuf>,
    #[command(flatten)]
    pub wish: WishArgs,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Show the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug, Clone, Default)]
pub struct UndoArgs {
    /// The change's number in `thruway log`; without it, the newest
    #[arg(value_name = "N")]
    pub number: Option<u64>,
    /// All changes that bear this id, newest first: what `thruway down` takes back
    #[arg(long, value_name = "ID", hide = true, conflicts_with = "number")]
    pub by: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Show what would be taken back and change nothing
    #[arg(long)]
    pub dry_run: bool,
}
