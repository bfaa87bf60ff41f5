//! Jellyfin's transcode logs (FFmpeg.Transcode-*.log): lines of ffmpeg that show where the card was lost.

use machine::{Machine, MachineExt};
use serde::Serialize;

/// How many of the newest logs are read.
const NEWEST: usize = 3;

/// A line of a log that says something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    pub path: String,
    pub line: u32,
    pub text: String,
    pub says: Says,
}

/// What the line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    /// Decoding went on in software, with no other sign of it.
    SoftwareFallback,
    /// The container has no libnvcuvid or libnvidia-encode.
    LibraryMissing,
    /// No CUDA in the container.
    NoDevice,
    /// The card has no encoder.
    NoEncoder,
    /// The driver's limit of sessions, or the card's memory.
    OutOfSessions,
    /// The driver is older than ffmpeg's headers.
    DriverTooOld,
}

/// What ffmpeg writes, longest part that does not change from version to version.
const SIGNS: [(&str, Says); 10] = [
    ("Failed setup for format cuda: hwaccel initialisation returned error", Says::SoftwareFallback),
    ("Cannot load libnvcuvid.so.1", Says::LibraryMissing),
    ("Cannot load libnvidia-encode.so.1", Says::LibraryMissing),
    ("CUDA_ERROR_NO_DEVICE", Says::NoDevice),
    ("Cannot load libcuda.so.1", Says::NoDevice),
    ("Could not dynamically load CUDA", Says::NoDevice),
    ("No capable devices found", Says::NoEncoder),
    ("OpenEncodeSessionEx failed: unsupported device", Says::NoEncoder),
    ("OpenEncodeSessionEx failed: out of memory", Says::OutOfSessions),
    ("Driver does not support the required nvenc API version", Says::DriverTooOld),
];

/// What a line of ffmpeg says, where it is known to say that something is wrong.
pub fn sign(line: &str) -> Option<Says> {
    SIGNS.iter().find(|(sign, _)| line.contains(sign)).map(|(_, says)| *says)
}

/// The first sign in each of the newest logs.
pub(super) fn traces(machine: &dyn Machine, dirs: &[String]) -> Vec<Trace> {
    let mut logs: Vec<(String, String)> = Vec::new();
    for dir in dirs {
        let names = machine.names(dir).into_iter();
        let names = names.filter(|name| name.starts_with("FFmpeg.Transcode-") && name.ends_with(".log"));
        logs.extend(names.map(|name| (name, dir.clone())));
    }
    // The names begin with the time.
    logs.sort_unstable_by(|a, b| b.cmp(a));
    let mut all = Vec::new();
    for (name, dir) in logs.into_iter().take(NEWEST) {
        let path = format!("{dir}/{name}");
        let text = machine.text(&path).is().unwrap_or_default();
        let found = (1u32..).zip(text.lines()).find_map(|(number, line)| {
            let says = sign(line)?;
            Some(Trace { path: path.clone(), line: number, text: line.trim().chars().take(200).collect(), says })
        });
        all.extend(found);
    }
    all
}

#[cfg(test)]
mod tests {
    use machine::Memory;

    use super::*;

    #[test]
    fn the_newest_logs_are_read_and_give_their_first_sign() {
        let mut machine = Memory::new("test");
        for (day, text) in [
            ("01", "No capable devices found\n"),
            ("02", "fine\n"),
            ("03", "fine\n[h264 @ 0x55] Failed setup for format cuda: hwaccel initialisation returned error.\n"),
            ("04", "fine\n"),
        ] {
            let path = format!("/config/log/FFmpeg.Transcode-2022-02-{day}_20-00-00_a.log");
            machine.insert_file(&path, text.as_bytes());
        }
        let found = traces(&machine, &["/config/log".into()]);
        assert_eq!(
            found.iter().map(|trace| (trace.line, trace.says)).collect::<Vec<_>>(),
            [(2, Says::SoftwareFallback)]
        );
    }
}
