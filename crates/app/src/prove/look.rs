//! What /proc tells of one process.

use std::fmt;

use machine::{Machine, MachineExt as _};
use model::{Reason, Seen};
use serde::Serialize;

/// The driver's libraries that a process has mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Libraries {
    pub cuda: bool,
    /// libnvcuvid: NVDEC.
    pub cuvid: bool,
    /// libnvidia-encode: NVENC.
    pub encode: bool,
}

impl Libraries {
    /// What either has: libraries come with the first frame, and a process that ended shows none.
    pub fn with(self, other: Libraries) -> Libraries {
        Libraries {
            cuda: self.cuda || other.cuda,
            cuvid: self.cuvid || other.cuvid,
            encode: self.encode || other.encode,
        }
    }
}

impl fmt::Display for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [("libcuda", self.cuda), ("libnvcuvid", self.cuvid), ("libnvidia-encode", self.encode)];
        let loaded: Vec<&str> = all.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
        match loaded.as_slice() {
            [] => f.write_str("none of the driver's libraries is loaded"),
            loaded => write!(f, "loaded: {}", loaded.join(", ")),
        }
    }
}

/// Of /proc/PID/maps (proc_pid_maps(5)): the last column names the file.
pub fn libraries(machine: &dyn Machine, pid: u32) -> Seen<Libraries> {
    machine.text(&format!("/proc/{pid}/maps")).map(|text| {
        let mut found = Libraries::default();
        for name in text.lines().filter_map(|line| line.rsplit_once('/')).map(|(_, name)| name) {
            found.cuda |= name.starts_with("libcuda.so");
            found.cuvid |= name.starts_with("libnvcuvid.so");
            found.encode |= name.starts_with("libnvidia-encode.so");
        }
        found
    })
}

/// Nodes of GPUs that it has open, each once.
pub fn nodes(machine: &dyn Machine, pid: u32) -> Seen<Vec<String>> {
    let dir = format!("/proc/{pid}/fd");
    machine.list(&dir).map(|names| {
        let targets = names.iter().filter_map(|name| machine.link(&format!("{dir}/{name}")).is());
        let mut nodes: Vec<String> =
            targets.filter(|path| path.starts_with("/dev/nvidia") || path.starts_with("/dev/dri/")).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    })
}

/// Its command line. Unreadable where it has none to read: a process that ended, or a kernel thread.
pub fn words(machine: &dyn Machine, pid: u32) -> Seen<Vec<String>> {
    machine.text(&format!("/proc/{pid}/cmdline")).and_then(|text| {
        let words: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
        if words.is_empty() {
            return Seen::Unreadable(Reason::Other("it has no command line: it ended, or is the kernel's".into()));
        }
        Seen::Is(words)
    })
}

/// User and system time so far, in ticks: fields 14 and 15 of /proc/PID/stat.
pub fn cpu_ticks(machine: &dyn Machine, pid: u32) -> Seen<u64> {
    machine.text(&format!("/proc/{pid}/stat")).and_then(|text| {
        // The name stands in brackets and may hold any character.
        let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(11).take(2));
        let ticks: Option<Vec<u64>> = fields.and_then(|fields| fields.map(|field| field.parse().ok()).collect());
        match ticks.as_deref() {
            Some([user, system]) => Seen::Is(user.saturating_add(*system)),
            _ => Seen::Unreadable(Reason::Malformed(format!("/proc/{pid}/stat"))),
        }
    })
}
