//! `thruway-node uncordon`: the way back.

use super::Ground;
pub use super::cordon::Args;

pub fn run(args: &Args, ground: &Ground) -> Result<u8, String> {
    super::cordon::change(args, ground, false)
}
