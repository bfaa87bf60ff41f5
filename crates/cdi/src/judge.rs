//! Whether a spec that lies on a machine still tells the truth about it.

use std::collections::BTreeSet;
use std::fmt;

use formats::cdispec::Spec;
use machine::{FileKind, Machine};
use model::{Reason, Seen};
use serde::Serialize;

use crate::GpuNodes;

/// One thing that a spec says and that is not so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum Fault {
    /// A library of another driver than the one that runs.
    OtherDriver { path: String, version: String, running: String },
    /// A file to be mounted, a hook or a node that is not there: the container does not start.
    Missing { path: String },
    /// Device numbers frozen in the spec that are no longer the node's. nvidia-smi works and CUDA fails.
    Number { path: String, written: (i64, i64), live: (u32, u32) },
    /// A device that names a card which is not on this machine.
    CardGone { device: String },
    /// A card of this machine that the spec does not know.
    CardUnknown { device: String },
}

impl Fault {
    /// A text by which the fault's line is found in the spec's file; empty where the fault is an absence.
    pub fn needle(&self) -> &str {
        match self {
            Fault::OtherDriver { path, .. } | Fault::Missing { path } | Fault::Number { path, .. } => path,
            Fault::CardGone { device } => device,
            Fault::CardUnknown { .. } => "",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::OtherDriver { path, version, running } => {
                write!(f, "{path} is of driver {version}; {running} runs")
            }
            Fault::Missing { path } => write!(f, "{path} is not there"),
            Fault::Number { path, written, live } => {
                write!(f, "{path} is written as {}:{} and is {}:{} now", written.0, written.1, live.0, live.1)
            }
            Fault::CardGone { device } => write!(f, "{device} is no card of this machine"),
            Fault::CardUnknown { device } => write!(f, "{device} is not in it"),
        }
    }
}

/// What was found out about a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judged {
    pub faults: Vec<Fault>,
    /// Paths that could not be looked at.
    pub unseen: Vec<(String, Reason)>,
}

/// Compares a spec with the machine: the running driver, the files and nodes it names, the cards it should know.
pub fn judge(machine: &dyn Machine, spec: &Spec, running: Option<&str>, gpus: &[GpuNodes]) -> Judged {
    let mut judged = Judged::default();
    let mut looked = BTreeSet::new();
    for edits in spec.edits() {
        let mounts = edits.mounts.iter().map(|mount| mount.host_path.as_str());
        for path in mounts.chain(edits.hooks.iter().map(|hook| hook.path.as_str())) {
            if !looked.insert(path) {
                continue;
            }
            if let (Some(version), Some(running)) = (driver_version(path), running)
                && version != running
            {
                judged.faults.push(Fault::OtherDriver {
                    path: path.to_owned(),
                    version: version.to_owned(),
                    running: running.to_owned(),
                });
                continue;
            }
            match machine.stat(path) {
                Seen::Is(_) => {}
                Seen::Absent => judged.faults.push(Fault::Missing { path: path.to_owned() }),
                Seen::Unreadable(reason) => judged.unseen.push((path.to_owned(), reason)),
            }
        }
        for node in &edits.device_nodes {
            let path = node.host();
            if !looked.insert(path) {
                continue;
            }
            match machine.stat(path) {
                Seen::Absent => judged.faults.push(Fault::Missing { path: path.to_owned() }),
                Seen::Unreadable(reason) => judged.unseen.push((path.to_owned(), reason)),
                Seen::Is(stat) => {
                    let written = node.major.map(|major| (major, node.minor.unwrap_or(0)));
                    let live = stat.rdev.filter(|_| stat.kind == FileKind::CharDevice);
                    if let (Some(written), Some(live)) = (written, live)
                        && written != (i64::from(live.0), i64::from(live.1))
                    {
                        judged.faults.push(Fault::Number { path: path.to_owned(), written, live });
                    }
                }
            }
        }
    }
    cards(spec, gpus, &mut judged);
    judged
}

fn cards(spec: &Spec, gpus: &[GpuNodes], judged: &mut Judged) {
    if spec.kind != crate::KIND || gpus.is_empty() {
        return;
    }
    let names: BTreeSet<&str> = spec.devices.iter().map(|device| device.name.as_str()).collect();
    let uuids: BTreeSet<&str> = gpus.iter().filter_map(|gpu| gpu.uuid.as_deref()).collect();
    if uuids.len() == gpus.len() {
        for name in names.iter().filter(|name| name.starts_with("GPU-") && !uuids.contains(*name)) {
            judged.faults.push(Fault::CardGone { device: (*name).to_owned() });
        }
    }
    for gpu in gpus.iter().filter(|gpu| !gpu.mig) {
        let index = gpu.index.to_string();
        let known = names.contains(index.as_str())
            || names.contains(format!("gpu{index}").as_str())
            || gpu.uuid.as_deref().is_some_and(|uuid| names.contains(uuid));
        if !known {
            judged.faults.push(Fault::CardUnknown { device: format!("{} ({})", gpu.bdf.short(), gpu.name) });
        }
    }
}

/// The driver version in a library's file name: 580.159.04 of `libcuda.so.580.159.04`. SONAMEs and libraries with a
/// version of their own have a small first number; drivers have had three digits since 2011.
fn driver_version(path: &str) -> Option<&str> {
    let (_, version) = path.rsplit_once('/')?.1.split_once(".so.")?;
    let first = version.split('.').next()?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (version.contains('.') && first.len() == 3 && version.split('.').all(digits)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::driver_version;

    #[test]
    fn versions_are_told_from_sonames() {
        assert_eq!(driver_version("/usr/lib/libcuda.so.580.159.04"), Some("580.159.04"));
        assert_eq!(driver_version("/usr/lib/libcuda.so.510.54"), Some("510.54"));
        assert_eq!(driver_version("/usr/lib/libcuda.so.1"), None);
        assert_eq!(driver_version("/usr/lib/libnvidia-egl-gbm.so.1.1.2"), None);
        assert_eq!(driver_version("/usr/lib/libx.so.abc.1"), None);
        assert_eq!(driver_version("libcuda.so.580.1"), None);
    }
}
