//! The arguments of `top`.

use std::time::Duration;

use clap::Args;
use model::Bdf;

use super::nvml::duration;

#[derive(Args, Debug, Clone, Default)]
pub struct TopArgs {
    /// Only this card
    #[arg(value_name = "BDF")]
    pub card: Option<Bdf>,
    /// Print one plain table and end
    #[arg(long)]
    pub once: bool,
    /// Time between two looks: 500ms, 1s, 2m
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration, conflicts_with = "once")]
    pub every: Duration,
}
