//! The grammar of `thruway-node`: a verb is a file here and a line of the table below.

pub mod cluster;
pub mod cordon;
pub mod discover;
pub mod doctor;
pub mod labels;
pub mod manifests;
pub mod preflight;
pub mod run;
pub mod uncordon;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use machine::{Machine as _, Root};

/// All well, findings, could not look: the exit statuses of the whole house.
pub const DONE: u8 = 0;
pub const FOUND: u8 = 1;
pub const BLIND: u8 = 2;

/// A verb: the word is the module's name, the arguments its `Args`, and `run` carries it out.
macro_rules! verbs {
    ($($(#[$note:meta])* $word:ident => $module:ident,)*) => {
        #[derive(Subcommand, Debug)]
        pub enum Verb {
            $($(#[$note])* $word(Box<$module::Args>),)*
        }

        impl Verb {
            fn carry_out(self, ground: &Ground) -> Result<u8, String> {
                match self {
                    $(Verb::$word(args) => $module::run(&args, ground),)*
                }
            }
        }
    };
}

// Each line: the help text, the verb, its module. A module has `pub struct Args` (clap::Args, Debug) and
// `pub fn run(&Args, &Ground) -> Result<u8, String>`: an exit status, or one sentence that says what is wrong and the fix.
verbs! {
    /// The agent: offers this node's GPUs to the kubelet, watches their health, until it is stopped
    Run => run,
    /// Print what the cluster is given: namespace, accounts, rights, admission policy, DaemonSets, as plain YAML
    Manifests => manifests,
    /// Say of each node whether the agent's DaemonSet lands there, by what, and why not; changes nothing
    Preflight => preflight,
    /// Why no GPU arrives in this node's pods, the first broken link first; and who uses which card
    Doctor => doctor,
    /// Label this node where it has an NVIDIA card that pods could get: PCI ids alone, no driver, no privileges
    Discover => discover,
    /// Print the labels that this node should have; set them, or write node feature discovery's file, once
    Labels => labels,
    /// Give a GPU to no new pod; those that have it go on
    Cordon => cordon,
    /// Take a GPU's cordon back
    Uncordon => uncordon,
}

#[derive(Parser, Debug)]
#[command(
    name = "thruway-node",
    version,
    about = "The cluster's side of a GPU node: device plugin, labels, placement, why a GPU does not arrive",
    after_help = "Exit status: 0 all well, 1 findings, 2 could not look.",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Args, Debug, Clone, Default)]
pub struct Global {
    /// The machine whose root file system is this directory, e.g. /host in a pod that mounts the node's root there
    #[arg(long, value_name = "DIR", global = true)]
    pub root: Option<PathBuf>,
    /// Print JSON, versioned, in place of the report
    #[arg(long, global = true)]
    pub json: bool,
}

/// What every verb stands on. The environment is read once, by `main`.
pub struct Ground {
    pub global: Global,
    pub env: BTreeMap<String, String>,
}

impl Ground {
    /// The machine that is meant, as it runs.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn machine(&self) -> Result<Root, String> {
        self.machine_with("/")
    }

    /// As [`Ground::machine`], with a driver that has a root of its own ("/run/nvidia/driver").
    ///
    /// # Errors
    /// As there.
    pub fn machine_with(&self, driver: &str) -> Result<Root, String> {
        let failed =
            |error: std::io::Error| format!("cannot open {} as a machine's root: {error}", self.below("/").display());
        match &self.global.root {
            Some(path) if path.as_path() != Path::new("/") => {
                // a simulated machine is known by its mark; any other directory is where a running one is mounted
                let tree = Root::tree(path).map_err(failed)?;
                match tree.kind() {
                    machine::Kind::Simulated => Ok(tree),
                    _ => Root::mounted(path, driver).map_err(failed),
                }
            }
            _ if driver.trim_end_matches('/').is_empty() => Root::live().map_err(failed),
            _ => Root::mounted("/".as_ref(), driver).map_err(failed),
        }
    }

    /// A path of that machine as this process reaches it: "/var/lib/kubelet" below `--root`.
    pub fn below(&self, path: &str) -> PathBuf {
        match &self.global.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        }
    }

    /// A variable that says something; an empty one says nothing.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The whole program.
pub fn main(words: impl IntoIterator<Item = OsString>, env: BTreeMap<String, String>) -> ExitCode {
    let Cli { global, verb } = Cli::parse_from(words);
    let ground = Ground { global, env };
    match verb.carry_out(&ground) {
        Ok(status) => ExitCode::from(status),
        Err(why) => {
            warn(&why);
            ExitCode::from(BLIND)
        }
    }
}

/// A line for whoever reads the log.
pub fn warn(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "thruway-node: {line}");
}

/// A report. A reader who went away (`| head`) is no error.
pub fn say(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A file that the user named.
///
/// # Errors
/// In one sentence: it cannot be read, is no text, or is larger than a megabyte.
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program reads the files of its own command line"
)]
pub fn read(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let bad = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(bad)?;
    file.take((1 << 20) + 1).read_to_string(&mut text).map_err(bad)?;
    if text.len() > 1 << 20 {
        return Err(format!("{} has more than a megabyte", path.display()));
    }
    Ok(text)
}
