//! The arguments of `thruway host bind` and `host unbind`.

use clap::Args;
use model::Bdf;

#[derive(Args, Debug, Clone)]
pub struct BindArgs {
    /// The card, by the address of any of its functions
    #[arg(value_name = "BDF")]
    pub card: Bdf,
    /// The driver that gets it
    #[arg(long, value_name = "DRIVER", default_value = "vfio-pci", value_parser = driver)]
    pub to: String,
    /// Accept a loss by the id of the check that refuses, e.g. host/console-lost; may be repeated
    #[arg(long, value_name = "ID")]
    pub allow: Vec<String>,
    #[command(flatten)]
    pub how: HandoverArgs,
}

#[derive(Args, Debug, Clone)]
pub struct UnbindArgs {
    /// The card, by the address of any of its functions
    #[arg(value_name = "BDF")]
    pub card: Bdf,
    #[command(flatten)]
    pub how: HandoverArgs,
}

/// How a card changes hands now.
#[derive(Args, Debug, Clone)]
pub struct HandoverArgs {
    /// Stop what uses the card: systemd units (display manager, nvidia-persistenced) and, by SIGTERM, processes;
    /// containers, pods and VMs are only named
    #[arg(long)]
    pub stop_holders: bool,
    /// How long a driver may take to let go or to come
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub limit: u64,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Show what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A driver's name goes into a path below /sys and to modprobe.
fn driver(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let ok = text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain);
    if ok { Ok(text.to_owned()) } else { Err("is no driver's name, such as vfio-pci or nouveau".into()) }
}
