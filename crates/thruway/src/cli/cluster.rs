//! The words of the cluster floor, and those that are thruway-node's.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ApplyArgs, PlanArgs, UndoArgs};

/// Words that another program takes as they are; its own help explains them.
#[derive(Args, Debug, Clone, Default)]
#[command(disable_help_flag = true)]
pub struct Words {
    /// Handed to thruway-node; --help shows them
    #[arg(value_name = "WORDS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

/// The cluster floor's verbs: those of every floor, and its own.
#[derive(Subcommand, Debug)]
pub enum KubeVerb {
    /// Why a GPU does not arrive in this node's pods, the first broken link first; who uses which card
    #[command(disable_help_flag = true)]
    Doctor(Words),
    /// Show what would be changed on this floor; --preflight: which nodes would get the agent, and why not the others
    Plan(KubePlanArgs),
    /// Carry a plan for this floor out: shows it first and asks
    Apply(ApplyArgs),
    /// Look again at what was applied on this floor
    Verify,
    /// What this floor is here, who has each card, to whom it is promised, and what was changed
    Status,
    /// Take the newest change of this floor back
    Undo(UndoArgs),
    /// Make a workload ask the scheduler for its GPUs: in the cluster, or in a file whose comments stay
    #[command(
        long_about = "Make a workload ask the scheduler for its GPUs: nvidia.com/gpu in its limits, no NVIDIA_VISIBLE_DEVICES \
                      past the grant; NVIDIA_DRIVER_CAPABILITIES stays. A Deployment of the cluster (deployment/NAME), or with \
                      -f one in a YAML file, whose comments and order stay. The diff is shown first; thruway undo takes it \
                      back.\n\nAn object of the cluster is replaced as it was read, and not applied: a field that another \
                      manager set (the variable) cannot be taken out by server-side apply."
    )]
    Patch(PatchArgs),
    /// Print what the cluster is given: namespace, accounts, rights, admission policy, DaemonSets, as plain YAML
    #[command(disable_help_flag = true)]
    Manifests(Words),
    /// Keep one GPU of a node from new pods
    #[command(disable_help_flag = true)]
    Cordon(Words),
    /// Give it to pods again
    #[command(disable_help_flag = true)]
    Uncordon(Words),
}

#[derive(Args, Debug, Clone, Default)]
pub struct KubePlanArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Say of each node whether the agent's DaemonSet would land there, by what, and why not; changes nothing
    #[arg(long)]
    pub preflight: bool,
}

#[derive(Args, Debug, Clone, Default)]
pub struct PatchArgs {
    /// The workload: deployment/NAME, with its namespace as deployment/NAMESPACE/NAME; of a file any kind, or none
    #[arg(value_name = "WORKLOAD", required_unless_present = "file")]
    pub workload: Option<String>,
    /// Edit this YAML (or JSON) file in place of the cluster
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How many GPUs a pod asks for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub gpus: u32,
    /// The container that gets them; without it the one that takes them now, else the first
    #[arg(long, value_name = "NAME")]
    pub container: Option<String>,
    /// Take node selection by GPU labels out too: the limit alone finds a node that has one
    #[arg(long)]
    pub drop_affinity: bool,
    /// With -f: print the new text and write nothing
    #[arg(long, requires = "file")]
    pub print: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Show the change and make none
    #[arg(long)]
    pub dry_run: bool,
}
