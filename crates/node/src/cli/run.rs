//! `thruway-node run`: the agent.

use super::Ground;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The directory in which the kubelet and its plugins have their sockets
    #[arg(long, value_name = "DIR", default_value = kubelet::PLUGINS)]
    pub plugin_dir: String,
}

pub fn run(args: &Args, ground: &Ground) -> Result<u8, String> {
    let dir = ground.below(&args.plugin_dir);
    Err(format!("{}: the agent is not built yet", dir.display()))
}
