//! What Jellyfin's container is given, and what its transcode logs say.

use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use crate::Facts;
use crate::forms::enough;
use crate::observe::{Run, RunKind, Says, Trace};

pub const VIDEO_CAPABILITY: Check<Facts> = Check {
    about: About {
        id: CheckId("app/video-capability"),
        layer: Layer::App,
        title: "Jellyfin's container is given the video libraries",
        why: "The driver's libraries come into a container by NVIDIA_DRIVER_CAPABILITIES. The default is \"compute,utility\": \
              nvidia-smi works in the container, and ffmpeg ends with \"Cannot load libnvcuvid.so.1\" or \"Cannot load \
              libnvidia-encode.so.1\". It must hold compute, video and utility, or all. Jellyfin's own image sets it; others do not.",
        source: "nvidia-container-toolkit: driver capabilities; Jellyfin's documentation on hardware acceleration",
    },
    run: |facts| {
        let with_gpu: Vec<&Run> = facts.runs.iter().filter(|run| run.gpu).collect();
        if with_gpu.is_empty() {
            return Verdict::NotApplicable;
        }
        for run in with_gpu {
            let source = Source::Answer(match run.kind {
                RunKind::Docker => "docker inspect".into(),
                RunKind::Podman => "podman inspect".into(),
                RunKind::Deployment => "kubectl get deployments.apps".into(),
            });
            let value = match &run.capabilities {
                Seen::Is(text) if enough(text) => continue,
                Seen::Is(text) => text.clone(),
                // A Deployment shows only what it adds to the image's environment.
                Seen::Absent if run.kind == RunKind::Deployment && run.official() => continue,
                Seen::Absent => "not set".into(),
                Seen::Unreadable(reason) => {
                    return Verdict::Unknown {
                        reason: reason.clone(),
                        what: format!("the environment of {}", run.name),
                    };
                }
            };
            let lines = match run.kind {
                RunKind::Deployment => {
                    let (namespace, name) = run.name.split_once('/').unwrap_or(("default", run.name.as_str()));
                    vec![format!(
                        "kubectl -n {namespace} set env deployment/{name} NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"
                    )]
                }
                _ => vec![
                    "# add to the container's definition, then make it anew:".into(),
                    "-e NVIDIA_DRIVER_CAPABILITIES=compute,video,utility".into(),
                ],
            };
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let trouble = Trouble::new(format!("Jellyfin in {} is given a GPU without its video libraries", run.name))
                .seen(source, format!("NVIDIA_DRIVER_CAPABILITIES: {value}"))
                .fix(
                    Fix::by_hand("ask for the video libraries", &lines, "set the variable back")
                        .costs("a restart of Jellyfin"),
                );
            // Not set at all in a Deployment: the image may set it, which cannot be seen from here.
            return match (&run.capabilities, run.kind) {
                (Seen::Absent, RunKind::Deployment) => Verdict::Warn(trouble),
                _ => Verdict::Fail(trouble),
            };
        }
        Verdict::Pass
    },
};

fn of_logs(facts: &Facts, judge: impl Fn(&Trace) -> Option<Verdict>) -> Verdict {
    if !facts.here() || facts.cards.is_empty() {
        return Verdict::NotApplicable;
    }
    facts.traces.iter().find_map(judge).unwrap_or(Verdict::Pass)
}

fn shown(trace: &Trace, says: impl Into<String>) -> Trouble {
    Trouble::new(says).seen(Source::line(&trace.path, trace.line), trace.text.clone())
}

pub const SOFTWARE_FALLBACK: Check<Facts> = Check {
    about: About {
        id: CheckId("app/software-fallback"),
        layer: Layer::App,
        title: "the newest transcodes did not fall back to software decoding",
        why: "When ffmpeg cannot set the card's decoder up it says \"Failed setup for format cuda: hwaccel initialisation \
              returned error\" once and goes on with the CPU. The film plays, Jellyfin reports nvenc, since it reports what \
              was configured, and only the CPU's load and this line of the log show it.",
        source: "ffmpeg: libavcodec hardware acceleration; Jellyfin's FFmpeg.Transcode logs",
    },
    run: |facts| {
        of_logs(facts, |trace| {
            (trace.says == Says::SoftwareFallback).then(|| {
                let fix = Fix::by_hand(
                    "see whether the card decodes this codec, and whether its memory is full",
                    &["thruway doctor --layer app", "nvidia-smi"],
                    "nothing is changed",
                );
                Verdict::Warn(
                    shown(trace, "a film was decoded by the CPU though Jellyfin reports hardware decoding").fix(fix),
                )
            })
        })
    },
};

pub const TRANSCODE_FAILED: Check<Facts> = Check {
    about: About {
        id: CheckId("app/transcode-failed"),
        layer: Layer::App,
        title: "the newest transcodes found the card and its libraries",
        why: "ffmpeg says in its log what it missed: \"Cannot load libnvcuvid.so.1\" (the container has no video libraries), \
              \"CUDA_ERROR_NO_DEVICE\" (no /dev/nvidia-uvm, or the engine lost the devices after a systemd reload), \"No \
              capable devices found\" (the card has no encoder), \"out of memory\" at the session's opening (the driver's \
              limit of sessions, or the card's memory), \"required nvenc API version\" (the driver is older than ffmpeg).",
        source: "ffmpeg: nvenc.c, nvdec.c; Jellyfin's FFmpeg.Transcode logs",
    },
    run: |facts| {
        of_logs(facts, |trace| {
            let (says, does, paste) = match trace.says {
                Says::SoftwareFallback => return None,
                Says::LibraryMissing => (
                    "a transcode failed: Jellyfin's container has no video libraries of the driver",
                    "give the container the video libraries: NVIDIA_DRIVER_CAPABILITIES=compute,video,utility",
                    "thruway doctor --layer container",
                ),
                Says::NoDevice => (
                    "a transcode failed: there was no CUDA device in Jellyfin's container",
                    "see whether /dev/nvidia-uvm is there and in the container; a systemd reload takes devices away",
                    "thruway doctor --layer container",
                ),
                Says::NoEncoder => (
                    "a transcode failed: the card has no encoder for what Jellyfin asked",
                    "switch hardware encoding off",
                    "sudo thruway app apply",
                ),
                Says::OutOfSessions => (
                    "a transcode failed: the driver's limit of encoding sessions or the card's memory was reached",
                    "see how many sessions run and how much memory is free",
                    "nvidia-smi",
                ),
                Says::DriverTooOld => (
                    "a transcode failed: the driver is older than Jellyfin's ffmpeg needs",
                    "install a newer branch of the driver that still knows the card",
                    "thruway doctor --layer guest",
                ),
            };
            Some(Verdict::Fail(shown(trace, says).fix(Fix::by_hand(
                does,
                &[paste],
                "thruway undo, where something was applied",
            ))))
        })
    },
};
