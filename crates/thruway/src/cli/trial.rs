//! The container floor's own verbs.

use clap::{Args, Subcommand, ValueEnum};

use super::Verb;

/// The container floor's verbs: those of every floor, and its own.
#[derive(Subcommand, Debug)]
pub enum ContainerVerb {
    #[command(flatten)]
    Common(Verb),
    /// Start a container with the card by the engine's own client, and prove that it is inside
    #[command(
        long_about = "Start a container with the card by the engine's own client, as you would, and prove step by step that it is \
                      inside: the request is accepted, the device nodes open, the loader finds the driver's libraries, NVML \
                      answers, the card computes; and that a container which did not ask has nothing. Says which step failed, why \
                      and what to do. The image is made of this program itself: no registry is asked. Everything is taken away \
                      again.\n\nExit status: 0 the card is inside, 1 a step failed, 2 it could not be tried."
    )]
    Test(TrialArgs),
    /// What a container sees of the card, as JSON: what container test runs inside
    #[command(hide = true)]
    Probe {
        /// So many seconds of work
        #[arg(long = "for", value_name = "SECONDS", default_value_t = 2)]
        time: u64,
    },
}

#[derive(Args, Debug, Clone)]
pub struct TrialArgs {
    /// Start it by this engine: docker, podman, containerd; without it the first that answers
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,
    /// Try it in this image; it must be on this machine. thruway is mounted into it
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Ask in this way; without it CDI where the engine reads it, else docker's --gpus
    #[arg(long, value_enum, value_name = "WAY")]
    pub ask: Option<AskWish>,
    /// Let the card compute for so many seconds
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub time: u64,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskWish {
    /// --device nvidia.com/gpu=all
    Cdi,
    /// --gpus all
    Gpus,
    /// --runtime nvidia with NVIDIA_VISIBLE_DEVICES=all
    Runtime,
}
