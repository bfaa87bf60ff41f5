//! The app floor's own verbs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{JellyfinVerb, Verb};

/// The app floor's verbs: those of every floor, and its own.
#[derive(Subcommand, Debug)]
pub enum AppVerb {
    #[command(flatten)]
    Common(Verb),
    /// Prove that an app uses the card: watch its transcode, or start one in it
    #[command(
        long_about = "Prove that an app uses the card. A transcode that runs is found (or started with --start) and watched: \
                      whose process it is (container, pod, app), what the card itself measured of it (encoding sessions, shares \
                      of encoder and decoder), what its ffmpeg wrote, which of the driver's libraries it has loaded. A silent \
                      fall-back to software is named.\n\nVerdicts: full (decodes and encodes with the card), decode-only (all \
                      that a card without an encoder can do: then it passes), encode-only, computes (a program without video), \
                      none.\n\nExit status: 0 every process does what the card can do for it, 1 one does not, 2 nothing to \
                      watch, or it could not be told."
    )]
    Prove(ProveArgs),
    /// Fit Jellyfin's transcoding settings to the card, in its files or by its API
    #[command(
        long_about = "Fit Jellyfin's transcoding settings to what the card says that it decodes and encodes: in the encoding.xml of \
                      this machine, or with --url on a server by its API. An API key of an administrator is needed for that \
                      (--token-file, or the environment variable THRUWAY_JELLYFIN_TOKEN); it is never shown and never written \
                      down.\n\nWhat a card cannot be asked, a table by its chip answers, and the plan says so."
    )]
    Jellyfin {
        #[command(subcommand)]
        verb: JellyfinVerb,
    },
    /// What Plex, Emby, Frigate, Immich or Ollama would need to use the card; nothing of theirs is read or changed
    Advice {
        /// plex, emby, frigate, immich or ollama; none: all of them
        #[arg(value_name = "APP")]
        app: Option<String>,
        /// For this card on another machine, by the table
        #[arg(long, value_name = "CARD")]
        codecs_of: Option<String>,
    },
}

#[derive(Args, Debug, Clone)]
pub struct ProveArgs {
    /// Processes of this pod: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "POD", group = "whom")]
    pub pod: Option<String>,
    /// Processes of this container: its name, or the beginning of its id
    #[arg(long, value_name = "CONTAINER", group = "whom")]
    pub container: Option<String>,
    /// This process
    #[arg(long, value_name = "PID", group = "whom")]
    pub pid: Option<u32>,
    /// Watch for so long: 5s, 1m
    #[arg(long = "for", value_name = "SPAN", default_value = "3s", value_parser = super::nvml::duration)]
    pub span: Duration,
    /// The log of its ffmpeg; without it Jellyfin's own is looked for
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Start a transcode of a made-up film with the app's own ffmpeg, in the container or pod or on this machine, and watch that
    #[arg(long, conflicts_with = "pid")]
    pub start: bool,
    /// With --start: this ffmpeg in place of Jellyfin's, or the first on the path
    #[arg(long, value_name = "PROGRAM", requires = "start")]
    pub ffmpeg: Option<String>,
}
