//! The cluster floor's table of checks, in the order of the way: labels, plugin, what the node offers, workloads.

mod labels;
mod offer;
mod plugin;
mod workloads;

use model::{Check, Fact, Fix, Reason, Seen, Source, Verdict};

pub(crate) use workloads::deadlocks;

use crate::Facts;

/// `Err` is an early verdict: not applicable, or unknown.
type Outcome = Result<Verdict, Verdict>;

macro_rules! row {
    ($id:literal, $run:path, $title:literal, $why:literal, $source:literal) => {
        Check {
            about: model::About {
                id: model::CheckId($id),
                layer: model::Layer::Cluster,
                title: $title,
                why: $why,
                source: $source,
            },
            run: |facts| $run(facts).unwrap_or_else(|verdict| verdict),
        }
    };
}

pub static CHECKS: &[Check<Facts>] = &[
    row!(
        "cluster/gpu-node-unlabelled",
        labels::unlabelled,
        "every node with a working GPU carries the label nvidia.com/gpu.present=true",
        "Affinity can only keep a DaemonSet to GPU nodes when GPU nodes are marked. The device plugin labels nothing itself; \
         NVIDIA's chart waits for node-feature-discovery or a label by hand, and without either it runs nowhere and says \
         nothing. thruway sets nvidia.com/gpu.present=true once a driver answers on the node.",
        "NVIDIA k8s-device-plugin, Helm chart values (affinity); its issues 315, 607, 708"
    ),
    row!(
        "cluster/label-without-gpu",
        labels::without_gpu,
        "no node says by label that it has a GPU which it has not",
        "Labels draw pods. A label put on by hand, or left behind when the card went to another machine or back to the host, \
         sends workloads to a node where they find no device: CUDA_ERROR_NO_DEVICE, or a silent fall back to the processor. \
         A PCI label is no proof either: a card that nouveau or vfio-pci holds carries it too.",
        "node-feature-discovery, source/pci; kubernetes.io, Assigning Pods to Nodes"
    ),
    row!(
        "cluster/host-topology",
        labels::topology,
        "a node whose host tells where its cards sit says so by its labels",
        "In a VM numa_node is -1 and the PCI tree is flat: the cluster cannot know which cards share a NUMA node or sit in which slot. Where the host tells it (thruway vm plan --hint on the host), the node's labels thruway.dev/gpu-N.host-address,          -slot, -numa and -link carry it. Labels that say otherwise are of former cards, and whoever selects by them is misled.",
        "kubernetes.io, Labels and Selectors; thruway vm plan --hint"
    ),
    row!(
        "cluster/nfd-label-trap",
        plugin::lands_nowhere,
        "the labels that the device plugin's DaemonSet waits for exist on some node",
        "A stand-alone node-feature-discovery writes feature.node.kubernetes.io/pci-0300_10de.present (class and vendor); \
         NVIDIA's device plugin chart waits for pci-10de.present (vendor only). The DaemonSet then has DESIRED 0, no pod, no \
         event and no message. The same happens with any selector that no node answers.",
        "NVIDIA k8s-device-plugin issue 1213; node-feature-discovery, deviceLabelFields"
    ),
    row!(
        "cluster/daemonset-everywhere",
        plugin::everywhere,
        "the device plugin runs on GPU nodes alone",
        "NVIDIA's static manifest has no affinity: the plugin runs on every node (DESIRED 4, CURRENT 4 with one GPU), where it \
         waits for ever for devices or restarts in a loop, holding memory and a system priority on each. It also hides the \
         real question, whether the one GPU node works.",
        "NVIDIA k8s-device-plugin, deployments/static/nvidia-device-plugin.yml"
    ),
    row!(
        "cluster/two-plugins",
        plugin::two,
        "one device plugin serves a node",
        "Two plugins that register nvidia.com/gpu on one kubelet replace each other: the capacity jumps with every restart, and \
         what was allocated through one is unknown to the other. Usual causes: the static manifest beside a Helm release, or \
         the GPU operator beside either.",
        "kubernetes/kubelet, pkg/apis/deviceplugin/v1beta1; gpu-operator troubleshooting"
    ),
    row!(
        "cluster/taint-untolerated",
        plugin::taints,
        "the device plugin and the GPU's users tolerate the taints of the GPU nodes",
        "A taint keeps everything off that does not tolerate it, the device plugin too: the node then offers no GPU, and pods \
         that ask for one stay Pending with \"node(s) had untolerated taint\". NVIDIA's manifests tolerate the key \
         nvidia.com/gpu only.",
        "kubernetes.io, Taints and Tolerations; NVIDIA k8s-device-plugin manifests"
    ),
    row!(
        "cluster/capacity-zero",
        offer::capacity,
        "a node with a working GPU offers it to the scheduler",
        "The card works on the node, yet kubectl describe node shows nvidia.com/gpu 0 or no such line. Either no device plugin \
         runs there, or it runs without the driver's libraries (containers get them only through the nvidia runtime or CDI) \
         and says \"No devices found. Waiting indefinitely.\" while it stays Running and Ready. Allocatable below capacity \
         means that the plugin called a device unhealthy, which lasts until it restarts.",
        "NVIDIA k8s-device-plugin, cmd/nvidia-device-plugin; its issue 1014"
    ),
    row!(
        "cluster/pod-pending-gpu",
        offer::pending,
        "no pod waits in vain for a GPU",
        "A pod that asks for nvidia.com/gpu is Pending with \"Insufficient nvidia.com/gpu\" when no node offers a free one: all \
         are granted, the plugin does not run, or the resource is spelled otherwise (nvidia.com/gpu.shared, nvidia.com/mig-…).",
        "kubernetes.io, Schedule GPUs"
    ),
    row!(
        "cluster/visible-devices-all",
        workloads::visible,
        "no workload takes GPUs by NVIDIA_VISIBLE_DEVICES, past the scheduler",
        "With the nvidia runtime as default, the variable alone gives a container every GPU of the node. The scheduler knows \
         nothing of it: it grants the same card to another pod, counts nothing, and both fight for memory. Ask for \
         nvidia.com/gpu: 1 in the limits and leave the variable to the device plugin.",
        "nvidia-container-toolkit, accept-nvidia-visible-devices-envvar-when-unprivileged"
    ),
    row!(
        "cluster/no-gpu-request",
        workloads::no_request,
        "workloads that are sent to GPU nodes ask for a GPU",
        "Affinity to a GPU label says where a pod runs, not that it gets the GPU. Without nvidia.com/gpu in the limits the \
         scheduler sends two such pods to one card, and the device plugin hands out nothing.",
        "kubernetes.io, Schedule GPUs"
    ),
    row!(
        "cluster/host-path-gpu",
        workloads::host_path,
        "no workload mounts /dev/nvidia* or takes all devices as privileged",
        "A hostPath of /dev/nvidia0, or a privileged container with a driver's libraries, uses the card with no grant at all. \
         The device numbers are not in the container's device cgroup either, so a daemon-reload on the node can take the card \
         away: \"Failed to initialize NVML: Unknown Error\".",
        "nvidia-container-toolkit issue 48; kubernetes.io, Pod Security Standards"
    ),
    row!(
        "cluster/capabilities-missing-video",
        workloads::video,
        "media servers with a GPU get the driver's video libraries",
        "NVIDIA_DRIVER_CAPABILITIES says which libraries come into the container; left out it is utility,compute. NVDEC and \
         NVENC then are not there: \"Cannot load libnvcuvid.so.1\" or \"Cannot load libnvidia-encode.so.1\" in ffmpeg's log.",
        "nvidia-container-toolkit, driver capabilities; Jellyfin documentation, NVIDIA GPU"
    ),
    row!(
        "cluster/rollout-deadlock",
        workloads::rollout,
        "a Deployment that holds all GPUs can be updated",
        "A rolling update starts the new pod before the old one stops. Where the old pods hold every GPU the new one stays \
         Pending for ever and the update never ends. With strategy Recreate the old pod goes first.",
        "kubernetes.io, Deployments (maxSurge, maxUnavailable)"
    ),
];

/// The list, or the verdict that we have none.
fn need<'a, T>(facts: &Facts, fact: &'a Fact<T>) -> Result<&'a T, Verdict> {
    match &fact.value {
        _ if !facts.here() => Err(Verdict::NotApplicable),
        Seen::Is(value) => Ok(value),
        Seen::Absent => Err(Verdict::Unknown {
            reason: Reason::Other("no kubectl or no kubeconfig on this machine".into()),
            what: fact.source.to_string(),
        }),
        Seen::Unreadable(reason) => Err(Verdict::Unknown { reason: reason.clone(), what: fact.source.to_string() }),
    }
}

/// Where an object stands, as the command that shows it.
fn shown(kind: &str, namespace: &str, name: &str) -> Source {
    let namespace = if namespace.is_empty() { String::new() } else { format!("--namespace={namespace} ") };
    Source::Answer(format!("kubectl get {kind} {namespace}{name} --output=yaml"))
}

fn node_source(name: &str) -> Source {
    shown("node", "", name)
}

fn planned(does: &str) -> Fix {
    Fix::planned(does, "thruway kube plan")
}
