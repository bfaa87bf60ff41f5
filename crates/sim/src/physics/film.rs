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
const LOGS: &str = "/var/log/containers";

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
    let Jellyfin { namespace, pod: name, uid: pod, id: container } = jellyfin(&tree);
    // As the kubelet links a container's log.
    tree.write(&format!("/var/log/pods/{namespace}_{name}_{pod}/jellyfin/0.log"), "")?;
    let log = format!("/var/log/pods/{namespace}_{name}_{pod}/jellyfin/0.log");
    tree.link(&format!("{LOGS}/{name}_{namespace}_jellyfin-{container}.log"), &log)?;
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
        format!("Name:\tffmpeg\nState:\tR (running)\nPid:\t{PID}\nPPid:\t1502\nUid:\t0\t0\t0\t0\nNSpid:\t{PID}\t212\n"),
    )?;
    let library =
        |name: &str| format!("7f0000000000-7f0000100000 r-xp 00000000 08:01 99 /usr/lib/x86_64-linux-gnu/{name}\n");
    let maps: String = ["libcuda.so.510.54", "libnvcuvid.so.510.54"].map(library).concat();
    tree.write(&format!("{dir}/maps"), maps)?;
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
    tree.remove(LOGS)?;
    super::settle(&tree, &tree.functions()?)
}

struct Jellyfin {
    namespace: String,
    pod: String,
    uid: String,
    /// The container's.
    id: String,
}

/// Jellyfin's pod from the API's answer, and what the API does not tell of it made up.
fn jellyfin(tree: &Tree) -> Jellyfin {
    let told = || -> Option<Jellyfin> {
        let answer = tree.answer(Question::Kube(KubeList::Pods))?;
        let pods = answer.json()?.get("items")?.as_array()?;
        let text = |pod: &Value, pointer: &str| pod.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let named = |pod: &&Value| text(pod, "/metadata/name").is_some_and(|name| name.contains("jellyfin"));
        let pod = pods.iter().find(named)?;
        let id = text(pod, "/status/containerStatuses/0/containerID");
        Some(Jellyfin {
            namespace: text(pod, "/metadata/namespace")?,
            pod: text(pod, "/metadata/name")?,
            uid: text(pod, "/metadata/uid")?,
            id: id.and_then(|id| Some(id.rsplit('/').next()?.to_owned())).unwrap_or_else(|| "3f".repeat(32)),
        })
    };
    told().unwrap_or_else(|| Jellyfin {
        namespace: "media".into(),
        pod: "jellyfin".into(),
        uid: "4f1c3a52-0b7d-4c7e-9d68-2f4f5e6a7b8c".into(),
        id: "3f".repeat(32),
    })
}
