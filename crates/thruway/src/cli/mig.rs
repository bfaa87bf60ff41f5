//! `thruway mig`'s arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub enum MigVerb {
    /// What each card is cut into, its profiles, and the layouts that it can have by name
    List {
        #[command(flatten)]
        which: MigCards,
    },
    /// Show what a layout would change
    Plan {
        #[command(flatten)]
        wish: MigWish,
        /// Write the plan to this file, for `thruway apply FILE`
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Cut the cards: shows the plan first and asks
    Apply {
        #[command(flatten)]
        wish: MigWish,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Show what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Whether the cards are cut as they are kept for each boot
    Verify,
    /// Take the newest cut back: the cards are cut as they were
    Undo {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Show what would be taken back and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Cut the cards as they are kept: what the unit runs at boot
    #[command(hide = true)]
    Restore,
}

#[derive(Args, Debug, Clone, Default)]
pub struct MigCards {
    /// Only this card: its number in nvidia-smi, address, UUID or a part of its name; may be repeated
    #[arg(long = "gpu", short = 'i', value_name = "GPU")]
    pub gpus: Vec<String>,
}

#[derive(Args, Debug, Clone)]
pub struct MigWish {
    /// all-disabled, all-enabled, all-balanced, all-1g.10gb and the like (`thruway mig list` names them), or profiles:
    /// 3g.40gb,1g.10gb*4; 1c.3g.40gb cuts the instance into compute instances of one slice
    #[arg(value_name = "LAYOUT")]
    pub layout: String,
    #[command(flatten)]
    pub which: MigCards,
    /// Take LAYOUT from this file, in the form of nvidia-mig-parted's config.yaml
    #[arg(long, short = 'f', value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Cut nothing now: at the next boot, before anything uses the cards
    #[arg(long, conflicts_with = "once")]
    pub at_boot: bool,
    /// Until the next boot only
    #[arg(long)]
    pub once: bool,
    /// Where thruway lies for the unit that cuts again at boot; this program's own file unless told otherwise
    #[arg(long, value_name = "PATH")]
    pub program: Option<PathBuf>,
}
