//! The cluster floor's table of checks, in the order of the way: labels, plugin, what the node offers, workloads.

mod drift;
mod labels;
mod offer;
mod operator;
mod plugin;
mod pods;
mod sharing;
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
    row!(
        "cluster/runtime-handler-missing",
        pods::runtime_handler,
        "the engine knows the runtime that pods ask for",
        "A RuntimeClass is only a name. Where containerd has no handler of that name the pod stays in ContainerCreating with \"no runtime \
         for nvidia is configured\". k3s and RKE2 write their own containerd configuration at each start, so that a runtime put into \
         /etc/containerd/config.toml is read by nobody, or is gone after a reboot.",
        "gpu-operator issues 406, 432, 992; rke2 issue 8752; kubernetes.io, Runtime Class"
    ),
    row!(
        "cluster/plugin-without-driver",
        drift::without_driver,
        "the device plugin runs by a runtime that brings the driver into it",
        "NVIDIA's plugin finds the driver only where the container runtime puts it into the plugin's own container. With runc as default \
         and no runtimeClassName it says \"could not load NVML library: libnvidia-ml.so.1\", waits, and is Running and Ready all the while.",
        "NVIDIA k8s-device-plugin issues 19, 478, 1371"
    ),
    row!(
        "cluster/capacity-differs",
        drift::capacity_differs,
        "the node offers as many GPUs as work on it",
        "NVIDIA's plugin counts the cards at its start. A card that is added later is offered by nobody, one that left is still counted: \
         a pod is sent to the node, and its container does not start. Resources of a former MIG layout stay in the node's status too.",
        "NVIDIA k8s-device-plugin issues 34, 240, 992; gpu-operator issue 1263"
    ),
    row!(
        "cluster/promised-card-offered",
        drift::promised_offered,
        "no card that is promised to a VM or the host is offered to pods",
        "The desktop's card, or one that a VM is to have at its next start, must not be granted to a pod as well. NVIDIA's plugin has no \
         list of cards to leave out.",
        "NVIDIA k8s-device-plugin issues 197, 935, 1503; thruway assign"
    ),
    row!(
        "cluster/mixed-models",
        drift::mixed_models,
        "a node with different cards offers them by different names",
        "Cards of several models under one name nvidia.com/gpu are a lottery: who needs 80 GB is granted the small one. GPU feature \
         discovery's labels speak of one model only.",
        "NVIDIA k8s-device-plugin issues 133, 1024, 1169; gpu-operator issue 563"
    ),
    row!(
        "cluster/workload-config",
        drift::workload_config,
        "a node that is set to VMs as a whole offers no GPU to pods",
        "The GPU operator gives a node as a whole to containers, to passthrough or to vGPU (nvidia.com/gpu.workload.config). A node with \
         cards for both ends with one side's drivers holding the other's cards.",
        "gpu-operator issues 186, 550, 944, 1995"
    ),
    row!(
        "cluster/health-one-way",
        drift::one_way,
        "no card stays unhealthy because nothing looks again",
        "NVIDIA's plugin marks a card unhealthy after an Xid and never takes it back: the card has long been reset, or a program alone \
         was at fault, and allocatable stays below capacity until somebody restarts the plugin.",
        "NVIDIA k8s-device-plugin issues 111, 415, 1014"
    ),
    row!(
        "cluster/xid-lists",
        drift::xid_lists,
        "the device plugin does not look away from Xids that need a reset",
        "DP_DISABLE_HEALTHCHECKS=all, or a list with Xids of broken hardware, was a remedy against cards that stay unhealthy. It leaves a \
         card that has fallen off the bus on offer, and every pod that gets it fails. The plugin's own list passes over 109, which needs a \
         reset, and takes a card for bad at 94, where the program alone must start again.",
        "NVIDIA k8s-device-plugin issue 1974; NVIDIA, XID Errors"
    ),
    row!(
        "cluster/admission-failed",
        pods::admission_failed,
        "no pod was refused by a kubelet whose device plugin was not there yet",
        "After a reboot the kubelet admits pods before the plugin has registered: UnexpectedAdmissionError, and that is final. Controllers \
         make new pods, and the failed ones pile up.",
        "kubernetes issues 118559, 125579, 133382"
    ),
    row!(
        "cluster/pod-not-admitted",
        pods::not_admitted,
        "no pod waits for a device plugin that does not answer",
        "The kubelet calls the plugin (preferred allocation, allocation) while it admits a pod, and waits. A driver call that hangs inside \
         of the plugin then holds every pod with a GPU of that node in Pending, without an event.",
        "gpu-operator issue 1361; kubernetes issue 130855"
    ),
    row!(
        "cluster/env-list-refused",
        pods::env_refused,
        "no container fails because its image asks for GPUs that it may not have",
        "Where unprivileged containers may not take GPUs by environment, old toolkits refuse every image that carries \
         NVIDIA_VISIBLE_DEVICES=all, CUDA's and NGC's among them, also for pods that want no GPU: \"insufficient privileges to read device \
         list from NVIDIA_VISIBLE_DEVICES envvar\".",
        "NVIDIA k8s-device-plugin issue 203; nvidia-container-toolkit, accept-nvidia-visible-devices-envvar-when-unprivileged"
    ),
    row!(
        "cluster/cdi-unresolvable",
        pods::cdi_unresolvable,
        "every CDI device that a pod was given is in a spec of its node",
        "\"unresolvable CDI devices\": the name is of another vendor or of a spec that is not there: runtime.nvidia.com and \
         management.nvidia.com beside nvidia.com, a spec with all and no single card, or a spec from before the card was changed.",
        "nvidia-container-toolkit issues 1239, 1895"
    ),
    row!(
        "cluster/cdi-empty-edits",
        pods::cdi_empty,
        "no CDI spec names a device with nothing to give",
        "A plugin or DRA driver that keeps the driver's files from its start writes specs with empty edits once the driver or the toolkit \
         was replaced below it.",
        "kubernetes-sigs/dra-driver-nvidia-gpu issue 1144"
    ),
    row!(
        "cluster/init-chain",
        pods::init_chain,
        "no pod of the GPU operator waits for another that has failed",
        "The operator's pods wait for each other by files: driver, toolkit, validator, plugin. When the first fails all others stay at \
         Init:0/1 for hours, and the one real message is three pods away.",
        "gpu-operator issues 280, 448, 487, 1518"
    ),
    row!(
        "cluster/driver-upgrade-stuck",
        operator::upgrade_stuck,
        "no upgrade of the driver has failed on a node",
        "The driver's module can only be replaced when nobody has the card open: a pod that was not evicted, a program on the host, an \
         exporter. The operator then says upgrade-failed and leaves the node cordoned.",
        "gpu-operator issues 83, 367, 416, 2166"
    ),
    row!(
        "cluster/users-unseen-by-upgrade",
        operator::unseen_users,
        "whoever uses a card of a node with driver upgrades asks for it",
        "The operator evicts pods that ask for nvidia.com/gpu. One that takes the card by environment or by hostPath, or that a DaemonSet \
         runs, stays and holds the module.",
        "gpu-operator issue 2570"
    ),
    row!(
        "cluster/replicas-as-gpus",
        sharing::replicas_as_gpus,
        "nobody takes slices of one card for several cards",
        "With time slicing nvidia.com/gpu counts slices. Two of them may be, and often are, the same card twice: a program that expects two \
         GPUs finds one.",
        "NVIDIA k8s-device-plugin issue 491; gpu-operator issue 386"
    ),
    row!(
        "cluster/time-slicing-memory",
        sharing::memory,
        "pods that share a card cannot take each other's memory",
        "Time slicing shares the processor and not the memory: one pod can allocate all of it, and the others fail with out of memory.",
        "NVIDIA k8s-device-plugin issues 461, 990"
    ),
    row!(
        "cluster/mps-daemon",
        sharing::mps,
        "the MPS control daemon is ready where cards are shared by MPS",
        "Pods with an MPS share wait for the daemon's pipe, or connect before its limits are set and then run without any.",
        "NVIDIA k8s-device-plugin issues 634, 712, 982, 1595"
    ),
    row!(
        "cluster/dra-driver-down",
        operator::dra_down,
        "NVIDIA's DRA driver runs where it is installed",
        "An error of one optional query (a card without MIG, MIG made by hand) ended the enumeration of all cards in old releases: the \
         driver restarts in a loop, and the node publishes no ResourceSlice.",
        "kubernetes-sigs/dra-driver-nvidia-gpu issues 46, 222, 438, 1008"
    ),
    row!(
        "cluster/dra-checkpoint",
        operator::dra_checkpoint,
        "the DRA driver's record of prepared claims is whole",
        "An upgrade changes the record's form, and its checksum is then wrong: the driver does not start. A preparation that was cut off \
         leaves a card half cut or half bound, which nothing rolls back.",
        "kubernetes-sigs/dra-driver-nvidia-gpu issues 1080, 1255, 1452"
    ),
    row!(
        "cluster/two-roads",
        operator::two_roads,
        "a node's cards are offered by one road",
        "The device plugin and the DRA driver know nothing of each other: where both run, one card is given to two pods.",
        "gpu-operator pull request 1541; kubernetes-sigs/dra-driver-nvidia-gpu, README"
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
