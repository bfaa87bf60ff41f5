//! `thruway app jellyfin`'s grammar.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Subcommand, Debug)]
pub enum JellyfinVerb {
    /// Show what would be changed
    Plan {
        #[command(flatten)]
        server: ServerArgs,
        /// Write the plan to this file, for `thruway app jellyfin apply FILE`
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Carry it out: shows it first and asks
    Apply {
        /// A plan written by `plan --out`; without it, one is made now
        #[arg(value_name = "PLAN")]
        plan: Option<PathBuf>,
        #[command(flatten)]
        server: ServerArgs,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Show the plan and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Look again at what was applied
    Verify {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Take the newest change (or change N) back; what another has set since is left alone
    Undo {
        /// The change's number; without it, the newest
        #[arg(value_name = "N")]
        number: Option<u64>,
        #[command(flatten)]
        server: ServerArgs,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Show what would be taken back and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print what the way in which it runs must give it of the card: environment, devices, groups; to be pasted
    Give {
        #[arg(value_enum)]
        to: GiveTo,
        /// The card: its address, number (as nvidia-smi counts), UUID, or a part of its name; without it, all
        #[arg(long, value_name = "GPU")]
        card: Option<String>,
    },
    /// List the changes that were made from here to a server by its API
    Log {
        /// The server
        #[arg(long, value_name = "URL")]
        url: String,
    },
}

/// Which Jellyfin, and which card.
#[derive(Args, Debug, Clone, Default)]
pub struct ServerArgs {
    /// The server's address, e.g. http://192.0.2.7:8096, with its base path where it has one
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// A file that holds an API key of an administrator
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The SHA-256 fingerprint of the server's certificate
    #[arg(long, value_name = "SHA256", conflicts_with = "ca")]
    pub fingerprint: Option<String>,
    /// A PEM file with the CA that signed it
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The card that it uses: its address, number (as nvidia-smi counts), UUID, or a part of its name
    #[arg(long, value_name = "GPU")]
    pub card: Option<String>,
    /// What the card can do is not asked here: a chip's name (GP108), or with --url a capture of the machine with the card
    #[arg(long, value_name = "CHIP|FILE", conflicts_with = "card")]
    pub codecs_from: Option<String>,
    /// Give it the card in this compose file, too: its one service of Jellyfin gets the GPUs and the video libraries
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub compose: Option<PathBuf>,
    /// Give the card to this Proxmox VE container, too, by its number: device nodes allowed and mounted
    #[arg(long, value_name = "CTID", conflicts_with = "url")]
    pub ct: Option<u32>,
}

/// What Jellyfin runs in.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveTo {
    /// docker run, as a command line
    Docker,
    /// A compose file's service
    Compose,
    /// A Deployment's pod template
    Kubernetes,
    /// Values of the chart jellyfin/jellyfin
    Helm,
    /// A service of systemd's: groups and devices
    Bare,
    /// A Proxmox VE container's configuration
    Lxc,
}
