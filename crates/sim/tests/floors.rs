//! The table of boxes: on every simulated machine every floor's checks say what the box promises, and every check of
//! every floor fails on one machine and passes on another.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::lay_out;
use machine::Machine;
use model::{Check, Verdict, run_all};
use sim::Box;

type Findings = BTreeMap<&'static str, Verdict>;

/// Each floor: its crate's table over its own observation of the machine.
macro_rules! floors {
    ($($floor:ident),*) => {
        /// Every floor's verdicts on one machine.
        fn findings(machine: &dyn Machine) -> Findings {
            let gpus = gpu::observe(machine);
            let mut all = Findings::new();
            $(run(&mut all, $floor::CHECKS, &$floor::observe(machine, &gpus));)*
            all
        }

        fn ids() -> BTreeSet<&'static str> {
            let mut ids = BTreeSet::new();
            $(ids.extend($floor::CHECKS.iter().map(|check| check.about.id.0));)*
            ids
        }
    };
}

fn run<F>(findings: &mut Findings, checks: &'static [Check<F>], facts: &F) {
    findings.extend(run_all(checks, facts).into_iter().map(|finding| (finding.about.id.0, finding.verdict)));
}

floors!(host, vm, guest, container, kube, app);

#[test]
fn every_box_keeps_its_promises() {
    let known = ids();
    let mut broken = Vec::new();
    for name in Box::names() {
        let this = Box::load(name).expect("the box");
        let laid = lay_out(name);
        let found = findings(&laid.root);
        if findings(&laid.again()) != found {
            broken.push(format!("{name}: looking twice sees two things"));
        }
        for id in this.fails.iter().chain(&this.passes).filter(|id| !known.contains(id.as_str())) {
            broken.push(format!("{name}: there is no check {id}"));
        }
        for id in &this.fails {
            match found.get(id.as_str()) {
                Some(Verdict::Warn(_) | Verdict::Fail(_)) | None => {}
                Some(other) => broken.push(format!("{name}: {id} should complain, and says {other:?}")),
            }
        }
        for id in &this.passes {
            match found.get(id.as_str()) {
                Some(Verdict::Pass) | None => {}
                Some(other) => broken.push(format!("{name}: {id} should pass, and says {other:?}")),
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_check_fails_somewhere_and_passes_somewhere() {
    let (mut fails, mut passes) = (BTreeSet::new(), BTreeSet::new());
    for name in Box::names() {
        let this = Box::own(name).expect("the box");
        fails.extend(this.fails);
        passes.extend(this.passes);
    }
    let mut missing = Vec::new();
    for id in ids() {
        if !fails.contains(id) {
            missing.push(format!("{id} fails on no box"));
        }
        if !passes.contains(id) {
            missing.push(format!("{id} passes on no box"));
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

/// What each box's checks say, for whoever writes a box: `cargo nextest run -p thruway-sim --run-ignored only -E
/// 'test(what_the_boxes_say)' --no-capture`.
#[test]
#[ignore = "prints, and holds nothing"]
fn what_the_boxes_say() {
    for name in Box::names() {
        for (id, verdict) in findings(&lay_out(name).root) {
            match verdict {
                Verdict::Pass => println!("{name} {id} pass"),
                Verdict::Warn(trouble) => println!("{name} {id} WARN {}", trouble.says),
                Verdict::Fail(trouble) => println!("{name} {id} FAIL {}", trouble.says),
                Verdict::Unknown { reason, what } => println!("{name} {id} unknown: {what}: {reason}"),
                Verdict::NotApplicable => {}
            }
        }
    }
}

/// What people met with NVIDIA's toolkit, by the number of the list that this floor was built from, and which check sees it.
/// Three are no state of a machine: 23 and 24 are links in an image, 25 is a field of a newer OCI configuration; thruway's hook
/// resolves in the image's root, and its runtime keeps what it does not know (their tests hold that).
const PAINS: &[(u8, &str, &[&str])] = &[
    (1, "GPUs lost after a reload of systemd", &["container/dev-char-links", "container/card-lost-in-container"]),
    (2, "the same, traced to devices.list", &["container/card-lost-in-container"]),
    (3, "the same on Ubuntu 22.04 in 2025", &["container/dev-char-links"]),
    (4, "GPUs lost after days", &["container/card-lost-in-container"]),
    (5, "rootless docker: unresolvable CDI device", &["container/cdi-dir-unread", "container/cdi-not-enabled"]),
    (
        6,
        "unresolvable nvidia.com/gpu=all",
        &["container/cdi-spec-missing", "container/cdi-dir-unread", "guest/driver-missing"],
    ),
    (7, "unresolvable management.nvidia.com/gpu=0", &["container/management-kind"]),
    (8, "the spec lies where nobody reads", &["container/cdi-dir-unread"]),
    (9, "the refresh service is red at boot", &["container/cdi-refresh-raced"]),
    (10, "the boot's spec lacks a control node", &["container/cdi-spec-incomplete"]),
    (11, "nvidia-smi works, cuInit fails", &["container/cdi-spec-stale"]),
    (12, "nodes come too late at boot", &["guest/device-nodes"]),
    (13, "cannot stat /dev/dri/renderD129", &["container/cdi-spec-stale"]),
    (14, "rootless podman with keep-id fails", &["container/legacy-hook-files"]),
    (15, "programs cannot find libcuda", &["container/cdi-libraries-unfound"]),
    (16, "CUDA's start fails in Docker", &["container/cdi-spec-incomplete", "guest/uvm-not-loaded"]),
    (17, "libraries of a distribution in /usr/lib alone", &["container/cdi-libraries-unfound"]),
    (
        18,
        "links of libraries missing after an update",
        &["container/cdi-libraries-unfound", "container/cdi-spec-stale"],
    ),
    (19, "ldcache error", &["container/toolkit-ldconfig"]),
    (20, "libnvidia-ml.so.1 cannot be opened", &["container/docker-snap", "guest/driver-missing"]),
    (21, "driver rpc timed out, slow first start", &["guest/persistenced-off"]),
    (22, "unknown device after an update of the toolkit", &["container/toolkit-config-broken"]),
    (23, "compat libraries behind absolute links", &[]),
    (24, "file exists at the firmware's mount", &[]),
    (25, "cannot decode the OCI spec", &[]),
    (26, "could not select device driver \"cdi\"", &["container/cdi-not-enabled"]),
];

#[test]
fn every_pain_has_its_check() {
    let known = ids();
    let numbers: Vec<u8> = PAINS.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=26).collect::<Vec<u8>>());
    for (number, what, checks) in PAINS {
        let open = matches!(number, 23..=25);
        assert_eq!(checks.is_empty(), open, "{number}: {what}");
        for id in *checks {
            assert!(known.contains(id), "{number}: {what}: there is no check {id}");
        }
    }
}

/// The 25 pains of people with GPUs on Kubernetes, by the number of the list that this floor was built from, and which
/// check sees each.
const CLUSTER_PAINS: &[(u8, &str, &[&str])] = &[
    (
        1,
        "a pod that asks for no GPU sees all of them",
        &["cluster/visible-devices-all", "container/visible-devices-all"],
    ),
    (2, "images fail once pods may not ask by environment", &["cluster/env-list-refused"]),
    (3, "the plugin runs on every node", &["cluster/daemonset-everywhere"]),
    (
        4,
        "the plugin runs nowhere",
        &["cluster/nfd-label-trap", "cluster/taint-untolerated", "cluster/gpu-node-unlabelled"],
    ),
    (5, "the plugin runs and finds no library", &["cluster/plugin-without-driver", "cluster/capacity-zero"]),
    (6, "containers lose the GPU after a reload", &["container/dev-char-links", "container/card-lost-in-container"]),
    (7, "unhealthy for ever", &["cluster/health-one-way"]),
    (8, "Xids taken wrongly", &["cluster/xid-lists"]),
    (9, "UnexpectedAdmissionError after a reboot", &["cluster/admission-failed"]),
    (10, "cards that came or went are not counted", &["cluster/capacity-differs"]),
    (11, "one card cannot be left out", &["cluster/promised-card-offered"]),
    (12, "different models under one name", &["cluster/mixed-models"]),
    (13, "VMs and pods on one node", &["cluster/workload-config"]),
    (14, "no runtime nvidia", &["cluster/runtime-handler-missing"]),
    (15, "all operands at Init:0/1", &["cluster/init-chain"]),
    (16, "the driver's upgrade is stuck", &["cluster/driver-upgrade-stuck"]),
    (17, "an upgrade does not see who uses the card", &["cluster/users-unseen-by-upgrade"]),
    (18, "pods hang while the plugin hangs", &["cluster/pod-not-admitted"]),
    (19, "unresolvable CDI device", &["cluster/cdi-unresolvable", "container/management-kind"]),
    (20, "empty device edits", &["cluster/cdi-empty-edits", "container/cdi-spec-stale"]),
    (21, "two slices are the same card", &["cluster/replicas-as-gpus"]),
    (22, "time slicing does not divide memory", &["cluster/time-slicing-memory"]),
    (23, "the MPS daemon is not ready", &["cluster/mps-daemon"]),
    (24, "the DRA driver publishes nothing", &["cluster/dra-driver-down"]),
    (25, "the DRA driver's record is broken or half done", &["cluster/dra-checkpoint"]),
];

#[test]
fn every_pain_of_clusters_has_its_check() {
    let known = ids();
    let numbers: Vec<u8> = CLUSTER_PAINS.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=25).collect::<Vec<u8>>());
    for (number, what, checks) in CLUSTER_PAINS {
        assert!(!checks.is_empty(), "{number}: {what}");
        for id in *checks {
            assert!(known.contains(id), "{number}: {what}: there is no check {id}");
        }
    }
}

/// The failures of Jellyfin with NVIDIA's cards, by the number of the list that this floor was built from: the check that
/// sees each, or the row of known errors ("ffmpeg/…") that explains what is no state of a machine.
const APP_PAINS: &[(u8, &str, &[&str])] = &[
    (1, "Cannot load libnvcuvid.so.1", &["app/video-capability", "app/transcode-failed", "ffmpeg/library-missing"]),
    (2, "CUDA_ERROR_NO_DEVICE", &["guest/device-nodes", "app/transcode-failed", "ffmpeg/cuda-no-device"]),
    (3, "CUDA_ERROR_UNKNOWN", &["guest/uvm-not-loaded", "ffmpeg/cuda-unknown"]),
    (4, "works, and fails after hours", &["container/dev-char-links", "container/card-lost-in-container"]),
    (5, "OpenEncodeSessionEx failed: out of memory", &["app/transcode-failed", "ffmpeg/nvenc-sessions"]),
    (6, "a card without NVENC is to encode", &["app/encodes-without-nvenc", "ffmpeg/no-nvenc"]),
    (7, "the driver is older than ffmpeg's headers", &["app/transcode-failed", "ffmpeg/nvenc-api"]),
    (8, "Codec hevc_cuvid is not supported", &["app/decoder-unsupported", "ffmpeg/decoder-unsupported"]),
    (9, "HEVC with 10 bits alone fails", &["app/decoder-unsupported"]),
    (10, "green or black frames", &["app/old-decoder-path"]),
    (
        11,
        "the CPU is full though the card is enabled",
        &["app/decoder-missing", "app/software-fallback", "app/hardware-off"],
    ),
    (12, "AV1 encoding fails", &["app/encodes-without-nvenc"]),
    (13, "no row of the process in the container's nvidia-smi", &["nvidia/no-processes-shown"]),
    (14, "endless buffering in a pod", &["app/transcode-dir", "cluster/runtime-handler-missing"]),
    (15, "Driver/library version mismatch", &["guest/library-mismatch", "nvidia/library-mismatch"]),
    (16, "HDR looks washed out", &["app/tone-mapping-off"]),
    (17, "the wrong card is used", &["app/first-card"]),
    (18, "the container's user cannot open the nodes", &["app/user-denied"]),
    (19, "worse quality after the upgrade to 10.10", &["app/preset-lost"]),
    (20, "ffmpeg by hand works, in Jellyfin not", &["app/foreign-ffmpeg"]),
];

#[test]
fn every_pain_of_jellyfin_has_its_check_or_its_words() {
    let known = ids();
    let errors = include_str!("../../decode/errors.toml");
    let numbers: Vec<u8> = APP_PAINS.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<u8>>());
    for (number, what, all) in APP_PAINS {
        assert!(!all.is_empty(), "{number}: {what}");
        for id in *all {
            let explained = errors.contains(&format!("\nid = \"{id}\"\n"));
            assert!(known.contains(id) || explained, "{number}: {what}: there is no check and no known error {id}");
        }
    }
}
