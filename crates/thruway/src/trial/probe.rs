//! Inside the container: what is there of a card, asked of the container's own nodes, loader and libraries.

#![allow(clippy::disallowed_types, reason = "opens the nodes of the container that it runs in")]

use std::os::unix::fs::FileTypeExt as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use app::stress::{Peak, Tally, Wanted, run};
use cuda::Cuda;
use machine::{Answer, Machine as _, Question, Root};
use model::Seen;
use serde::{Deserialize, Serialize};

use crate::{DONE, say};

/// What the probe found, as it goes from the container to the host.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Probe {
    pub nodes: Vec<Node>,
    /// Paths of the driver's libraries that the loader has found, as the process has them mapped.
    pub libraries: Vec<String>,
    pub driver: Option<String>,
    /// Names as NVML tells them.
    pub gpus: Vec<String>,
    pub nvml_error: Option<String>,
    /// Seconds, bytes and errors of the stress, in words.
    pub stress: Option<String>,
    pub stress_error: Option<String>,
}

/// A device node of NVIDIA's.
#[derive(Debug, Serialize, Deserialize)]
pub struct Node {
    pub path: String,
    /// Why it cannot be opened for reading and writing.
    pub error: Option<String>,
}

/// Looks, works for `time` and prints JSON. Whoever reads it judges.
pub fn print(time: u64) -> anyhow::Result<u8> {
    say(&(serde_json::to_string(&probe(time))? + "\n")).map(|()| DONE)
}

fn probe(time: u64) -> Probe {
    let mut found = Probe { nodes: nodes(), ..Probe::default() };
    match Root::live().map(|machine| machine.ask(&Question::Nvml)) {
        Ok(Seen::Is(Answer::Nvml(report))) => {
            found.driver = report.driver_version.get().cloned();
            let name =
                |gpu: &machine::nvml::NvmlGpu| gpu.name.get().cloned().unwrap_or_else(|| "a GPU without a name".into());
            found.gpus = report.gpus.iter().map(name).collect();
        }
        Ok(Seen::Is(Answer::Json(_)) | Seen::Absent) => {
            found.nvml_error = Some("libnvidia-ml.so.1 is not found, or /dev/nvidiactl is not there".into());
        }
        Ok(Seen::Unreadable(reason)) => found.nvml_error = Some(reason.to_string()),
        Err(error) => found.nvml_error = Some(error.to_string()),
    }
    match stress(time) {
        Ok(words) => found.stress = Some(words),
        Err(error) => found.stress_error = Some(error),
    }
    found.libraries = mapped();
    found
}

fn nodes() -> Vec<Node> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/dev").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("/dev/{name}");
        // Not the directory entry's own word: a node that was bound over a file is a file there.
        let is_node = std::fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_char_device());
        if !name.starts_with("nvidia") || !is_node {
            continue;
        }
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(&path);
        found.push(Node { path, error: opened.err().map(|error| error.to_string()) });
    }
    found.sort_by(|one, two| one.path.cmp(&two.path));
    found
}

fn stress(time: u64) -> Result<String, String> {
    let cuda = Cuda::open().map_err(|error| error.to_string())?;
    let devices = cuda.devices().map_err(|error| error.to_string())?;
    let device = devices.first().ok_or("CUDA shows no device")?;
    let name = device.name().map_err(|error| error.to_string())?;
    let wanted = Wanted { time: Duration::from_secs(time), memory: 2, broken: false };
    let stop = AtomicBool::new(false);
    let (tally, _) = run(device, wanted, &stop, &mut |_: &Tally, _: &Peak| {}).map_err(|error| error.to_string())?;
    if let Some(lost) = &tally.lost {
        return Err(format!("{name} stopped working: {lost}"));
    }
    match tally.errors() {
        0 => Ok(format!("{name} computed for {:.0} s, every result right", tally.seconds)),
        errors => Err(format!("{name} gave {errors} wrong results")),
    }
}

/// The driver's libraries in this process's memory: what the loader chose, and where.
fn mapped() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    for path in maps.lines().filter_map(|line| line.split_once('/').map(|(_, path)| format!("/{path}"))) {
        let name = path.rsplit('/').next().unwrap_or_default();
        if (name.starts_with("libnvidia-") || name.starts_with("libcuda.")) && !found.contains(&path) {
            found.push(path);
        }
    }
    found
}
