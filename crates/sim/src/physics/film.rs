//! A film plays: the process that the author saw on his node, with the container and pod it belongs to.

use std::path::Path;

use machine::nvml::NvmlProcess;
use machine::{Answer, KubeList, Question};
use model::Seen;
use serde_json::Value;

use super::PhysicsError;
use crate::tree::Tree;

const PID: u32 = 1719;
const FFMPEG: &str = "/usr/lib/jellyfin-ffmpeg/ffmpeg";
const MIB: u64 = 1 << 20;

fn refused<T>(message: &str) -> Result<T, PhysicsError> {
    Err(PhysicsError::Refused(message.into()))
}

/// Jellyfin's ffmpeg decodes on the card: 951 of 2048 MiB, 36 %, PID 1719 with 949 MiB.
pub fn play_film(guest: &Path) -> Result<(), PhysicsError> {
    let tree = Tree::open(guest)?;
    let Some(Answer::Nvml(mut report)) = tree.answer(Question::Nvml) else {
        return refused("Cannot load libcuda.so.1: no NVIDIA driver answers on this machine");
    };
    let Some(gpu) = report.gpus.first_mut() else { return refused("No CUDA-capable device is detected") };
    gpu.memory_used = Seen::Is(951 * MIB);
    gpu.memory_free = Seen::Is(1097 * MIB);
    gpu.utilization_gpu = Seen::Is(36);
    gpu.utilization_decoder = Seen::Is(21);
    let mut process = NvmlProcess::blank(PID, "C");
    process.name = Seen::Is(FFMPEG.into());
    process.memory = Seen::Is(949 * MIB);
    (process.sm, process.memory_use) = (Seen::Is(36), Seen::Is(12));
    // The chip has no encoder: the driver says 0 of it all the same.
    (process.encoder, process.decoder) = (Seen::Is(0), Seen::Is(21));
    gpu.processes = Seen::Is(vec![process]);
    let node = format!("/dev/nvidia{}", gpu.minor.get().copied().unwrap_or(0));
    let (pod, container) = jellyfin(&tree);
    tree.set_answer(Question::Nvml, Some(&Answer::Nvml(report)))?;
    let dir = format!("/proc/{PID}");
    let words = [
        FFMPEG,
        "-init_hw_device",
        "cuda=cu:0",
        "-hwaccel",
        "cuda",
        "-i",
        "file:/media/film.mkv",
        "-codec:v:0",
        "libx264",
    ];
    tree.write(&format!("{dir}/cmdline"), words.join("\0") + "\0")?;
    tree.write(&format!("{dir}/comm"), "ffmpeg\n")?;
    tree.write(
        &format!("{dir}/status"),
        format!(
            "Name:\tffmpeg\nState:\tR (running)\nPid:\t{PID}\nPPid:\t1502\nUid:\t0\t0\t0\t0\nNSpid:\t{PID}\t212\n"
        ),
    )?;
    let zeros = "0 ".repeat(17);
    tree.write(&format!("{dir}/stat"), format!("{PID} (ffmpeg) R 1502 {zeros}96400 0\n"))?;
    let slice = format!("kubepods-besteffort-pod{}", pod.replace('-', "_"));
    let path = format!("/kubepods.slice/kubepods-besteffort.slice/{slice}.slice/docker-{container}.scope");
    let controllers = ["12:devices", "11:memory", "4:cpu,cpuacct", "1:name=systemd"];
    let lines: String = controllers.iter().map(|controller| format!("{controller}:{path}\n")).collect();
    tree.write(&format!("{dir}/cgroup"), format!("{lines}0::{path}\n"))?;
    for (fd, node) in [(5, "/dev/nvidiactl"), (6, node.as_str()), (7, "/dev/nvidia-uvm")] {
        tree.link(&format!("{dir}/fd/{fd}"), node)?;
    }
    Ok(())
}

/// The film is over: the card is idle, the process is gone.
pub fn stop_film(guest: &Path) -> Result<(), PhysicsError> {
    let tree = Tree::open(guest)?;
    tree.remove(&format!("/proc/{PID}"))?;
    super::settle(&tree, &tree.functions()?)
}

/// Jellyfin's pod and container ids from the API's answer; made-up ones where no cluster answers.
fn jellyfin(tree: &Tree) -> (String, String) {
    let ids = || -> Option<(String, String)> {
        let answer = tree.answer(Question::Kube(KubeList::Pods))?;
        let pods = answer.json()?.get("items")?.as_array()?;
        let named = |pod: &&Value| {
            pod.pointer("/metadata/name").and_then(Value::as_str).is_some_and(|n| n.contains("jellyfin"))
        };
        let pod = pods.iter().find(named)?;
        let uid = pod.pointer("/metadata/uid")?.as_str()?.to_owned();
        let container = pod.pointer("/status/containerStatuses/0/containerID")?.as_str()?;
        Some((uid, container.rsplit('/').next()?.to_owned()))
    };
    ids().unwrap_or_else(|| ("4f1c3a52-0b7d-4c7e-9d68-2f4f5e6a7b8c".into(), "3f".repeat(32)))
}
