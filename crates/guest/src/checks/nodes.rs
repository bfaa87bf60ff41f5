//! The device nodes that the driver's users open, and NVML's own word.

use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use super::{not_here, unknown};
use crate::Facts;
use crate::observe::Node;

/// The verdict where no driver runs; `None`: go on.
fn no_driver(facts: &Facts) -> Option<Verdict> {
    if let Some(verdict) = not_here(facts) {
        return Some(verdict);
    }
    match &facts.driver.kernel {
        Seen::Is(_) => None,
        Seen::Absent => Some(Verdict::NotApplicable),
        Seen::Unreadable(reason) => Some(unknown(reason, "whether NVIDIA's module is loaded")),
    }
}

/// What is wrong with a node, in words; Unreadable stays so.
fn fault(facts: &Facts, node: &Node) -> Seen<Option<String>> {
    let wanted = (facts.major(node.driver), node.minor);
    node.rdev.as_ref().map(|rdev| match (rdev, wanted) {
        (None, _) => Some("is no character device".to_owned()),
        (Some((major, minor)), (Some(want), want_minor)) if (*major, *minor) != (want, want_minor) => {
            Some(format!("has numbers {major}:{minor} instead of {want}:{want_minor}"))
        }
        _ => None,
    })
}

pub const DEVICE_NODES: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/device-nodes"),
        layer: Layer::Guest,
        title: "/dev/nvidiactl and /dev/nvidiaN are there, with the driver's numbers",
        why: "NVIDIA's module makes no device nodes itself: nvidia-modprobe (setuid root, called by the libraries) or udev \
              does. On a machine where nothing has used the card since the boot they may be missing, and a container \
              that is given them then starts without a GPU. nvidia-persistenced or one run of nvidia-smi as root makes \
              them.",
        source: "NVIDIA driver README, chapter on device nodes; /proc/devices",
    },
    run: |facts| {
        if let Some(verdict) = no_driver(facts) {
            return verdict;
        }
        let mut bad = Vec::new();
        let mut trouble = Trouble::new(String::new());
        for node in facts.nodes.iter().filter(|node| node.driver == "nvidia") {
            let says = match fault(facts, node) {
                Seen::Is(None) => continue,
                Seen::Is(Some(says)) => says,
                Seen::Absent => "is missing".to_owned(),
                Seen::Unreadable(reason) => return unknown(&reason, node.path.clone()),
            };
            bad.push(format!("{} {says}", node.path));
            trouble = trouble.seen(Source::file(&node.path), says);
        }
        if bad.is_empty() {
            return Verdict::Pass;
        }
        trouble.says = format!("the driver is loaded, but {}", bad.join(", "));
        let lines = ["sudo nvidia-modprobe -c 0", "sudo systemctl enable --now nvidia-persistenced"];
        Verdict::Fail(trouble.fix(Fix::by_hand(
            "make the nodes, now and at each boot",
            &lines,
            "sudo systemctl disable --now nvidia-persistenced",
        )))
    },
};

pub const UVM: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/uvm-not-loaded"),
        layer: Layer::Guest,
        title: "nvidia-uvm is loaded and /dev/nvidia-uvm is there",
        why: "CUDA, and with it every transcode by NVDEC, needs the module nvidia-uvm and its node. nvidia-smi works \
              without it, so the machine looks well; then \"cuInit(0) failed -> CUDA_ERROR_UNKNOWN\" or \
              \"CUDA_ERROR_NO_DEVICE\" in the container, where nobody may load modules.",
        source: "CUDA: cuInit; nvidia-modprobe(1)",
    },
    run: |facts| {
        if let Some(verdict) = no_driver(facts) {
            return verdict;
        }
        let major = match &facts.majors.value {
            Seen::Is(_) => facts.major("nvidia-uvm"),
            Seen::Absent => None,
            Seen::Unreadable(reason) => return unknown(reason, "the registered device drivers"),
        };
        let lines = [
            "sudo modprobe nvidia-uvm",
            "sudo nvidia-modprobe -c 0 -u",
            "echo nvidia-uvm | sudo tee /etc/modules-load.d/nvidia-uvm.conf",
        ];
        let by_hand = Fix::by_hand(
            "load it and make its node, now and at each boot",
            &lines,
            "sudo rm /etc/modules-load.d/nvidia-uvm.conf",
        );
        let listed = facts.loaded_at_boot.iter().any(|name| name == "nvidia_uvm");
        let fix = match major {
            None if !listed => Fix::planned("load it, now and at each boot", "sudo thruway guest apply"),
            _ => by_hand,
        };
        if major.is_none() {
            let trouble =
                Trouble::new("the module nvidia-uvm is not loaded: nvidia-smi works, CUDA and video decoding do not");
            return Verdict::Fail(trouble.seen(facts.majors.source.clone(), "no nvidia-uvm").fix(fix));
        }
        let Some(node) = facts.nodes.iter().find(|node| node.driver == "nvidia-uvm") else {
            return Verdict::NotApplicable;
        };
        let says = match fault(facts, node) {
            Seen::Is(None) => return Verdict::Pass,
            Seen::Is(Some(says)) => says,
            Seen::Absent => "is missing".to_owned(),
            Seen::Unreadable(reason) => return unknown(&reason, node.path.clone()),
        };
        let trouble = Trouble::new(format!("nvidia-uvm is loaded, but {} {says}", node.path));
        Verdict::Fail(trouble.seen(Source::file(&node.path), says).fix(fix))
    },
};

pub const NVML: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/nvml-answers"),
        layer: Layer::Guest,
        title: "NVML answers and sees the cards that the driver holds",
        why: "NVML is the library behind nvidia-smi; device plugins, exporters and engines ask it. Where the module is \
              loaded and NVML does not answer, the libraries are missing or of another version, the nodes are missing, \
              or the card has fallen off the bus (\"Unable to determine the device handle … GPU is lost\", Xid 79).",
        source: "NVML API reference: nvmlInit_v2, nvmlDeviceGetCount_v2",
    },
    run: |facts| {
        if let Some(verdict) = no_driver(facts) {
            return verdict;
        }
        let held = facts.usable().filter(|card| card.driver.get().is_some_and(|driver| driver == "nvidia")).count();
        let source = Source::Answer("NVML".into());
        let lines = ["nvidia-smi", "sudo dmesg | grep -iE 'nvrm|xid'"];
        let fix = Fix::by_hand("see what it says, and what the kernel says of the card", &lines, "nothing is changed");
        match &facts.nvml {
            Seen::Unreadable(reason) => unknown(reason, "NVML"),
            Seen::Absent => Verdict::Fail(
                Trouble::new("NVIDIA's module is loaded, but NVML does not answer").seen(source, "no answer").fix(fix),
            ),
            Seen::Is(nvml) if nvml.gpus < held => Verdict::Fail(
                Trouble::new(format!("the driver holds {held} cards and NVML sees {} of them", nvml.gpus))
                    .seen(source, format!("{} GPUs", nvml.gpus))
                    .fix(fix),
            ),
            Seen::Is(_) => Verdict::Pass,
        }
    },
};
