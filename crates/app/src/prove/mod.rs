//! Does an app really use the card? What was seen of one process over some seconds, and what follows from it: pure.
//!
//! Evidence, the strongest first: what the card measured of this very process (NVML's encoder sessions and per-process engine
//! shares), what its ffmpeg wrote, what it has loaded and open, what it was asked to do. Being asked is never a proof.

mod ffmpeg;
mod judge;
mod look;

use machine::nvml::NvmlSession;
use model::{Evidence, Seen};
use serde::Serialize;

pub use ffmpeg::{Asked, Line, Place, Told, asked, told};
pub use judge::judge;
pub use look::{Libraries, cpu_ticks, libraries, nodes, words};

/// All that was seen of a process and its card.
#[derive(Clone, Debug, Serialize)]
pub struct Watched {
    pub pid: u32,
    /// Its command line. Unreadable, and the log must do.
    pub words: Seen<Vec<String>>,
    pub libraries: Seen<Libraries>,
    /// Nodes of GPUs that it has open.
    pub nodes: Seen<Vec<String>>,
    /// One a look, in order. Empty: NVML could not be asked, and `unasked` says why.
    pub looks: Vec<Look>,
    pub unasked: Option<String>,
    /// Cores' worth of CPU time that it took meanwhile. Absent: it was looked at once.
    pub cores: Seen<f64>,
    /// Its log and what it tells.
    pub log: Option<(String, Told)>,
    pub card: Option<CardCan>,
}

/// The process in one report of NVML.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Look {
    /// It was on the card.
    pub there: bool,
    /// Bytes.
    pub memory: Seen<u64>,
    /// Per cent of time, of this process. Absent: the card measured none, or does not tell.
    pub sm: Seen<u32>,
    pub encoder: Seen<u32>,
    pub decoder: Seen<u32>,
    /// Per cent of time, of the whole card.
    pub card_encoder: Seen<u32>,
    pub card_decoder: Seen<u32>,
    /// nvmlDeviceGetEncoderSessions: there is nothing like it for decoding.
    pub session: Option<NvmlSession>,
}

/// What matters of the card that the process is on, or would be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CardCan {
    pub name: String,
    /// It has an encoder at all. Unreadable: not known.
    pub encodes: Seen<bool>,
    /// By whom that is said: "asked of the card", "NVIDIA's support matrix".
    pub source: String,
}

/// One half of the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "where", content = "why")]
pub enum Half {
    /// Measured, or all signs say so.
    Card(String),
    Cpu(String),
    /// Nothing to do: copied, or no video.
    None(String),
    Unknown(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Decodes and encodes with the card.
    Full,
    DecodeOnly,
    EncodeOnly,
    /// No video: it computes with the card.
    Computes,
    None,
    /// It could not be told.
    Unknown,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Full => "full",
            Verdict::DecodeOnly => "decode-only",
            Verdict::EncodeOnly => "encode-only",
            Verdict::Computes => "computes",
            Verdict::None => "none",
            Verdict::Unknown => "unknown",
        }
    }
}

/// The verdict on one process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proof {
    pub pid: u32,
    pub verdict: Verdict,
    /// It is what this card can do for it.
    pub pass: bool,
    /// One sentence.
    pub says: String,
    pub decode: Half,
    pub encode: Half,
    pub evidence: Vec<Evidence>,
    /// What to do, one line each; empty where all is well.
    pub fixes: Vec<String>,
}
