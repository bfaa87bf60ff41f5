//! The words of the whole way.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::PlanArgs;

pub const UP: &str = "Take a GPU the whole way, from slot to app, by one file: over your own ssh, floor by floor.\n\n\
    On each machine: thruway is copied there (checked by SHA-256; nothing stays running), the floor's plan is made there, shown \
    here and asked for, carried out behind that machine's journal, waited for through reboots, and looked at again until its \
    effect is there. It stops at the first thing that is wrong, with the doctor's words. Run it again, after whatever \
    interruption: what is so already is left alone. `thruway down` takes all of it back.\n\nWith [fleet] the file is a pattern \
    for many hosts: a canary first, then so many at once, never two nodes of one cluster unless the file says so.\n\nExit \
    status: 0 the way is open, 1 something is wrong or waits for you, 2 it could not be begun.";

pub const DOWN: &str = "Take all that `thruway up` did with this file back: on each machine what bears the way's id, newest \
    first, then the reboot that this needs, then what was copied there. At any point of an up, also one that was cut off.";

/// The file, and how it is walked, up or down.
#[derive(Args, Debug, Clone)]
pub struct UpArgs {
    /// The way file (thruway way init makes one)
    #[arg(value_name = "FILE", default_value = "way.toml")]
    pub file: PathBuf,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Look at every machine and show what would be done there, as far as that can be told now; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take a machine over that another up holds, which is dead
    #[arg(long)]
    pub take_over: bool,
    #[command(flatten)]
    pub fleet: FleetArgs,
}

#[derive(Args, Debug, Clone)]
pub struct DownArgs {
    #[command(flatten)]
    pub walk: UpArgs,
    /// Leave this machine as it is (host or guest): one that is gone for good
    #[arg(long, value_name = "MACHINE")]
    pub leave: Vec<String>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct FleetArgs {
    /// Of a fleet: these hosts alone; may be repeated
    #[arg(long = "host", value_name = "HOST", help_heading = "Fleet")]
    pub hosts: Vec<String>,
    /// Hosts worked on at once, in place of the file's number
    #[arg(long, value_name = "N", help_heading = "Fleet")]
    pub at_once: Option<usize>,
    /// Begin no further host after so many failed, in place of the file's number
    #[arg(long, value_name = "N", help_heading = "Fleet")]
    pub stop_after: Option<usize>,
    /// Keep states and logs here; without it, thruway/up in the user's state directory
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum WayVerb {
    /// Write a way file: asks, and looks at the machines for the answers
    Init(InitArgs),
    /// Show a way's steps before anything is looked at
    Plan {
        /// The way file
        #[arg(value_name = "FILE", default_value = "way.toml")]
        file: PathBuf,
        /// Draw it: boxes here, or text for Graphviz or Mermaid
        #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
        graph: Option<GraphWish>,
    },
    /// What up looks at first on a machine, as JSON
    #[command(hide = true)]
    Here,
    /// Say on this machine that an up is at work
    #[command(hide = true)]
    Hold(HoldArgs),
    /// Say that it is not any more
    #[command(hide = true)]
    Release { id: String },
}

#[derive(Args, Debug, Clone)]
pub struct HoldArgs {
    pub id: String,
    #[arg(long)]
    pub session: String,
    #[arg(long)]
    pub who: String,
    #[arg(long)]
    pub controller: String,
    #[arg(long)]
    pub take_over: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphWish {
    /// Boxes
    Text,
    /// For Graphviz
    Dot,
    /// For Mermaid
    Mermaid,
}

/// A plan of all floors of this machine, or a drawing of a whole way.
#[derive(Args, Debug, Clone, Default)]
pub struct WholePlanArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Draw the way of a way file in place of a plan of this machine: boxes here, or text for Graphviz or Mermaid
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    pub graph: Option<GraphWish>,
    /// With --graph: the way file
    #[arg(long, value_name = "FILE", requires = "graph", default_value = "way.toml")]
    pub way: PathBuf,
}

/// Answers given beforehand; what is left out is asked, or left out where there is no terminal.
#[derive(Args, Debug, Clone, Default)]
pub struct InitArgs {
    /// Write it here
    #[arg(value_name = "FILE", default_value = "way.toml")]
    pub file: PathBuf,
    /// The way's name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The host: a destination of ssh, or here
    #[arg(long, value_name = "AT")]
    pub host: Option<String>,
    /// The card: its address, or vendor:device
    #[arg(long, value_name = "CARD")]
    pub card: Option<String>,
    /// The VM that gets it
    #[arg(long, value_name = "VM")]
    pub vm: Option<String>,
    /// The VM's guest: a destination of ssh
    #[arg(long, value_name = "AT")]
    pub guest: Option<String>,
    /// The container engine
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,
    /// The Deployment that is to have it, NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    pub deployment: Option<String>,
    /// Logins that are not root: use sudo
    #[arg(long)]
    pub sudo: bool,
    /// Machines may be rebooted and the VM started
    #[arg(long)]
    pub reboot: bool,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
}
