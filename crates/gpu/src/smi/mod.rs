//! The forms in which `nvidia-smi` prints what NVML says, from a report: for those who parse them, and for eyes that know
//! them. Which form it is goes by the driver's version, as that of the tool does.
//!
//! Sources: the tool's own output of drivers 470, 535, 550 (with a simulated library) and 580 (a real H100); of 510, 530, 590
//! and 610 what public logs show.

mod fields;
mod query;
mod sections;
mod table;
mod tree;

use machine::nvml::{NvmlGpu, NvmlReport, Topic};
use model::{Reason, Seen};

pub use fields::help as help_query_gpu;
pub use query::{Apps, Format, Query, QueryError, help_query_apps};
pub use table::{devices, table};

/// What one printing rests on.
#[derive(Clone, Copy)]
pub struct Smi<'a> {
    pub report: &'a NvmlReport,
    /// Which GPUs are meant; all where it is none.
    pub only: Option<&'a [u32]>,
    /// Local time as `ctime` writes it: "Wed Nov 25 16:59:28 2026".
    pub time: &'a str,
    /// "2026/11/25 16:59:28.123".
    pub stamp: &'a str,
}

impl<'a> Smi<'a> {
    /// The GPUs that are meant, in NVML's order.
    pub fn gpus(&self) -> impl Iterator<Item = &'a NvmlGpu> + use<'a> {
        let only = self.only;
        self.report.gpus.iter().filter(move |gpu| only.is_none_or(|only| only.contains(&gpu.index)))
    }

    /// 580 of "580.159.04". A driver whose version nobody told prints as the newest known.
    pub fn branch(&self) -> u32 {
        let version = self.report.driver_version.get();
        version.and_then(|text| text.split('.').next()?.parse().ok()).unwrap_or(580)
    }

    /// `-q` in words.
    pub fn log(&self) -> String {
        tree::text(self)
    }

    /// `-q -x`.
    pub fn xml(&self) -> String {
        tree::xml(self)
    }

    /// The index of a GPU by what `-i` takes: its index, UUID, serial number or PCI address.
    pub fn find(&self, id: &str) -> Option<u32> {
        let gpus = &self.report.gpus;
        let is = |seen: &Seen<String>| seen.get().is_some_and(|text| text.eq_ignore_ascii_case(id));
        let address = id.parse::<model::Bdf>().ok();
        let at = |gpu: &NvmlGpu| gpu.bus_id.get().and_then(|text| text.parse::<model::Bdf>().ok());
        gpus.iter()
            .find(|gpu| {
                id == gpu.index.to_string()
                    || is(&gpu.uuid)
                    || is(&gpu.serial)
                    || (address.is_some() && at(gpu) == address)
            })
            .map(|gpu| gpu.index)
    }

    /// The first of the GPUs that are meant of which NVML told nothing, in the tool's words; it ends with status 15.
    pub fn lost(&self) -> Option<String> {
        self.gpus().find_map(|gpu| {
            let reason = gpu.name.unreadable()?;
            Some(format!("Unable to determine the device handle for GPU{}: {}\n\n", gpu.index, lost(reason)))
        })
    }
}

/// Why nothing is known of a GPU.
fn lost(reason: &Reason) -> String {
    match error(reason) {
        "GPU is lost" => "GPU is lost.  Reboot the system to recover this GPU".into(),
        "Unknown Error" => format!("Unknown Error ({reason})"),
        other => other.into(),
    }
}

/// How the tool names what kept it from a value.
fn error(reason: &Reason) -> &'static str {
    match reason {
        Reason::PermissionDenied => "Insufficient Permissions",
        // Of a report that is older than the value: it was not told.
        Reason::NotCaptured => "N/A",
        Reason::Other(text) if text.contains("off the bus") => "GPU is lost",
        Reason::Other(text) if text.contains("must be reset") => "GPU requires reset",
        Reason::Other(text) if text == "not asked" => "N/A",
        _ => "Unknown Error",
    }
}

/// A value, or what stands in its place.
fn na<T: std::fmt::Display>(seen: &Seen<T>) -> String {
    match seen {
        Seen::Is(value) => clean(&value.to_string()),
        Seen::Absent => "N/A".into(),
        Seen::Unreadable(reason) => error(reason).into(),
    }
}

/// A report's text is untrusted: one line, no control characters.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A process of another PID namespace has a number and no name.
fn program(name: &Seen<String>) -> String {
    name.get().map_or_else(|| "[Not Found]".into(), |name| clean(name))
}

fn unit<T: std::fmt::Display>(seen: &Seen<T>, unit: &str) -> String {
    na(&seen.as_ref().map(|value| format!("{value} {unit}")))
}

fn mib(seen: &Seen<u64>) -> Seen<u64> {
    seen.as_ref().map(|bytes| bytes >> 20)
}

/// Milliwatts as "123.60".
fn watts(seen: &Seen<u32>) -> Seen<String> {
    seen.as_ref().map(|mw| format!("{}.{:02}", mw / 1000, mw % 1000 / 10))
}

fn enabled(seen: &Seen<bool>) -> Seen<&'static str> {
    seen.as_ref().map(|on| if *on { "Enabled" } else { "Disabled" })
}

fn yes(seen: &Seen<bool>) -> Seen<&'static str> {
    seen.as_ref().map(|on| if *on { "Yes" } else { "No" })
}

fn active(seen: &Seen<u64>, bit: u64) -> Seen<&'static str> {
    seen.as_ref().map(|bits| if bits & bit != 0 { "Active" } else { "Not Active" })
}

/// A field of a topic.
fn of<T, U: Clone>(topic: &Topic<T>, field: impl FnOnce(&T) -> &Seen<U>) -> Seen<U> {
    match topic {
        Seen::Is(topic) => field(topic).clone(),
        Seen::Absent => Seen::Absent,
        Seen::Unreadable(reason) => Seen::Unreadable(reason.clone()),
    }
}

/// The first that is not absent.
fn either<T>(first: Seen<T>, second: impl FnOnce() -> Seen<T>) -> Seen<T> {
    if first.is_absent() { second() } else { first }
}
