//! `thruway-node run`: the agent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command, FromArgMatches};
use kube::plugin::Config;
use kube::plugin::config::OPTIONS;

use super::cluster::Way;
use super::{DONE, Ground, warn};
use crate::agent::{self, Settings, looker};
use crate::cluster::{Pace, Task};
use crate::labels::{MANAGER, Writer};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// NVIDIA's configuration file of the device plugin (YAML, version v1), read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<String>,
    /// The directory in which the kubelet and its plugins have their sockets
    #[arg(long, value_name = "DIR", default_value = kubelet::PLUGINS)]
    pub plugin_dir: String,
    /// The kubelet's socket for registrations; empty: offer, and do not register
    #[arg(long, value_name = "SOCKET")]
    pub kubelet_socket: Option<String>,
    /// Where /metrics, /healthz and /readyz are served; "none": nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9847")]
    pub listen: String,
    /// Write no CDI specs: `thruway cdi refresh --watch` does
    #[arg(long)]
    pub no_specs: bool,
    /// Do not speak to the cluster's API: no labels, no cordon by annotation, no Events
    #[arg(long)]
    pub no_api: bool,
    /// Take labels that another field manager holds with another value
    #[arg(long, conflicts_with = "no_api")]
    pub take_labels: bool,
    /// How often it is looked for pods that use a GPU without a grant, which are told as Events; 0: never. It takes the sight
    /// of the node's processes (hostPID)
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub audit: u64,
    #[command(flatten)]
    pub way: Way,
    #[command(flatten)]
    pub flags: Flags,
}

/// NVIDIA's own options, each as its table has it.
#[derive(Debug, Default)]
pub struct Flags(pub Vec<(String, String)>);

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        OPTIONS.iter().filter(|option| !option.flag.is_empty()).fold(command, |command, option| {
            let variable = option.env.first().map(|name| format!(" [{name}]")).unwrap_or_default();
            command.arg(
                Arg::new(option.flag)
                    .long(option.flag)
                    .value_name("VALUE")
                    .num_args(0..=1)
                    .require_equals(false)
                    .default_missing_value("true")
                    .help(format!("{}{variable}", capital(option.help)))
                    .help_heading("As NVIDIA's device plugin has them"),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Vec::new();
        for option in OPTIONS.iter().filter(|option| !option.flag.is_empty()) {
            if let Some(value) = matches.get_one::<String>(option.flag) {
                flags.push((option.flag.to_owned(), value.clone()));
            }
        }
        Ok(Flags(flags))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}

pub fn run(args: &Args, ground: &Ground) -> Result<u8, String> {
    let started = Instant::now();
    let plugins = ground.below(&args.plugin_dir);
    let socket = match args.kubelet_socket.as_deref().or_else(|| ground.env.get("KUBELET_SOCKET").map(String::as_str)) {
        None => Some(plugins.join(kubelet::KUBELET_SOCKET)),
        Some("") => None,
        Some(path) => Some(ground.below(path)),
    };
    let listen = match args.listen.as_str() {
        "none" | "" => None,
        text => Some(text.parse::<SocketAddr>().map_err(|_| {
            format!("--listen {text}: is to be an address and a port, such as 127.0.0.1:9847 or [::]:9847, or none")
        })?),
    };
    let task = match args.no_api {
        true => None,
        false => {
            let node = args.way.node(ground, &ground.machine()?)?;
            let writer = Writer { node, manager: MANAGER, take: args.take_labels };
            Some(Task { access: args.way.access(), writer, sweeps: None, pace: Pace::default() })
        }
    };
    let settings = Settings {
        task,
        audit: (args.audit > 0).then(|| Duration::from_secs(args.audit)),
        root: ground.below("/"),
        plugins,
        kubelet: socket,
        pod_resources: ground.below(kubelet::POD_RESOURCES),
        listen,
        specs: !args.no_specs,
        started,
    };
    let file = args.config_file.clone().or_else(|| ground.var("CONFIG_FILE").map(str::to_owned));
    let read = || config(file.as_deref(), &args.flags.0, ground);
    let _alone = alone(ground)?;
    agent::run(&settings, &|config| ground.machine_with(&config.driver_root).map_err(std::io::Error::other), &read)?;
    Ok(DONE)
}

/// The file, the environment over it, the flags over both. The file is of this container, not of `--root`.
fn config(file: Option<&str>, flags: &[(String, String)], ground: &Ground) -> Result<Config, String> {
    let base = match file {
        None => Config::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
            Config::parse(&text).map_err(|bad| format!("{path}: {bad}"))?
        }
    };
    base.with(flags, &|name| ground.var(name).map(str::to_owned)).map_err(|bad| bad.to_string())
}

/// The one agent of a node: a second one (an upgrade that starts before the old one has ended) waits for its turn.
fn alone(ground: &Ground) -> Result<std::os::fd::OwnedFd, String> {
    let home = ground.below(looker::HOME);
    let path = home.join("lock");
    let failed = |error: std::io::Error| {
        format!("{}: {error}; the agent needs a directory of its own to write, mounted from the node", path.display())
    };
    std::fs::create_dir_all(&home).map_err(failed)?;
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let file =
        rustix::fs::open(&path, flags, rustix::fs::Mode::from_raw_mode(0o600)).map_err(|errno| failed(errno.into()))?;
    let mut told = false;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                if !told {
                    warn("another thruway-node runs on this node; waiting for it to end");
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}
