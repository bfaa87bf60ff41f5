//! What Jellyfin needs around the card: a place to write to, its own ffmpeg, the right card, the right to open it.

use model::{About, Check, CheckId, Fix, Layer, Reason, Seen, Source, Trouble, Verdict};

use super::{each, shown, unknown, uses_nvenc};
use crate::Facts;
use crate::observe::RunKind;

pub const TRANSCODE_DIR: Check<Facts> = Check {
    about: About {
        id: CheckId("app/transcode-dir"),
        layer: Layer::App,
        title: "the directory for transcodes is there, and no memory disk",
        why: "A transcode writes the film piece by piece into TranscodingTempPath, gigabytes of it. A directory that is not \
              there, or a tmpfs that fills the memory, shows as endless buffering in the client with no error on the way; \
              the API refuses a path that is not there.",
        source: "Jellyfin: EncodingOptions.TranscodingTempPath; jellyfin issue 9620; proc_mounts(5)",
    },
    run: |facts| {
        if facts.configs.is_empty() {
            return Verdict::NotApplicable;
        }
        let mut could_not = None;
        for config in &facts.configs {
            if let Seen::Unreadable(reason) = &config.xml {
                could_not = Some(unknown(reason, config.path.clone()));
            }
            let (Seen::Is(xml), Some(place)) = (&config.xml, &config.transcodes) else { continue };
            let dir = &place.dir;
            let fix = |does: &str| {
                let lines = [format!("# in {}: <TranscodingTempPath></TranscodingTempPath>", config.path)];
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                Fix::by_hand(does, &lines, "set the old path again").costs("a restart of Jellyfin")
            };
            match (&place.there, &place.kind) {
                (Seen::Is(false) | Seen::Absent, _) => {
                    let says = format!("Jellyfin is to write transcodes into {dir}, which is not there");
                    let trouble = shown(Trouble::new(says), config, xml, "TranscodingTempPath");
                    return Verdict::Fail(
                        trouble.fix(fix("make the directory, or leave the path empty for Jellyfin's own")),
                    );
                }
                (Seen::Is(true), Some(kind)) if kind == "tmpfs" || kind == "ramfs" => {
                    let says = format!(
                        "Jellyfin writes transcodes into {dir}, which is memory ({kind}): a long film fills it"
                    );
                    let trouble = shown(Trouble::new(says), config, xml, "TranscodingTempPath");
                    let trouble = trouble.seen(Source::file("/proc/mounts"), format!("{dir} is on {kind}"));
                    return Verdict::Warn(
                        trouble.fix(fix("take a directory on a disk, or switch segment deletion on")),
                    );
                }
                (Seen::Is(true), _) => {}
                (Seen::Unreadable(reason), _) => could_not = Some(unknown(reason, dir.clone())),
            }
        }
        could_not.unwrap_or(Verdict::Pass)
    },
};

pub const FOREIGN_FFMPEG: Check<Facts> = Check {
    about: About {
        id: CheckId("app/foreign-ffmpeg"),
        layer: Layer::App,
        title: "Jellyfin runs its own ffmpeg",
        why: "Jellyfin's way through the card needs scale_cuda, tonemap_cuda, overlay_cuda and yadif_cuda as its own build \
              of ffmpeg has them. With a distribution's ffmpeg it goes through the CPU between the steps, without a word, or \
              fails where the command line by hand works. The API may not change the path: it is set at the start \
              (--ffmpeg, JELLYFIN_FFMPEG).",
        source: "Jellyfin: MediaEncoder, EncodingHelper; jellyfin-ffmpeg",
    },
    run: |facts| {
        each(facts, |_, config, xml, _| {
            let key = if xml.get("EncoderAppPath").is_some_and(|path| !path.is_empty()) {
                "EncoderAppPath"
            } else {
                "EncoderAppPathDisplay"
            };
            let path = xml.get(key).filter(|path| !path.is_empty() && uses_nvenc(xml))?;
            if path.contains("jellyfin-ffmpeg") {
                return None;
            }
            let says = format!("Jellyfin runs {path}, which is not its own build of ffmpeg");
            let lines = [
                "# install jellyfin-ffmpeg7, and start Jellyfin with",
                "JELLYFIN_FFMPEG=/usr/lib/jellyfin-ffmpeg/ffmpeg",
            ];
            let fix = Fix::by_hand("let it run jellyfin-ffmpeg", &lines, "name the old one again");
            Some(Verdict::Warn(shown(Trouble::new(says), config, xml, key).fix(fix)))
        })
    },
};

pub const FIRST_CARD: Check<Facts> = Check {
    about: About {
        id: CheckId("app/first-card"),
        layer: Layer::App,
        title: "a Jellyfin with different cards is given the one that is meant",
        why: "Jellyfin always takes CUDA's first device, and has no setting for another. With several cards of different \
              kinds that is the one that CUDA thinks the fastest, and its settings must be what that one can do. Only what \
              the container is given decides: NVIDIA_VISIBLE_DEVICES, or CUDA_VISIBLE_DEVICES for a system's Jellyfin.",
        source: "Jellyfin: EncodingHelper (-init_hw_device cuda=cu:0); CUDA programming guide, environment variables",
    },
    run: |facts| {
        let differ = facts.cards.windows(2).any(|two| match two {
            [one, other] => {
                one.codecs.as_ref().map(|it| (&it.encodes, &it.decodes))
                    != other.codecs.as_ref().map(|it| (&it.encodes, &it.decodes))
            }
            _ => false,
        });
        let with_gpu: Vec<_> = facts.runs.iter().filter(|run| run.gpu && run.kind != RunKind::Deployment).collect();
        if with_gpu.is_empty() {
            return Verdict::NotApplicable;
        }
        let all = |visible: &Seen<String>| match visible {
            Seen::Is(text) => text.trim() == "all",
            _ => true,
        };
        let Some(run) = with_gpu.into_iter().find(|run| differ && all(&run.visible)) else { return Verdict::Pass };
        let cards: Vec<String> = facts.cards.iter().map(|card| card.name.clone()).collect();
        let source =
            Source::Answer(if run.kind == RunKind::Docker { "docker inspect".into() } else { "podman inspect".into() });
        let value = run.visible.get().cloned().unwrap_or_else(|| "not set".into());
        let trouble = Trouble::new(format!(
            "Jellyfin in {} is given all of {}, and uses CUDA's first",
            run.name,
            cards.join(", ")
        ));
        let lines = ["# the card's UUID, from thruway gpus -v:", "-e NVIDIA_VISIBLE_DEVICES=GPU-…"];
        let fix = Fix::by_hand("give it the one card that is meant", &lines, "set the variable back")
            .costs("a restart of Jellyfin");
        Verdict::Warn(trouble.seen(source, format!("NVIDIA_VISIBLE_DEVICES: {value}")).fix(fix))
    },
};

/// The nodes that a transcode opens.
pub(crate) const NODES: [&str; 3] = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"];

pub const USER_DENIED: Check<Facts> = Check {
    about: About {
        id: CheckId("app/user-denied"),
        layer: Layer::App,
        title: "the user that Jellyfin runs as may open the card",
        why: "A container with a user of its own (user: 1000:1000) opens /dev/nvidia* as that user. The nodes are open to all \
              unless somebody closed them (NVreg_DeviceFileMode, a udev rule): then the container needs the nodes' group, \
              or ffmpeg says that there is no CUDA device.",
        source: "nvidia.ko: NVreg_DeviceFileUID, NVreg_DeviceFileGID, NVreg_DeviceFileMode; docker run: --user, --group-add",
    },
    run: |facts| {
        let users: Vec<_> = facts.runs.iter().filter(|run| run.gpu && run.user.is_some()).collect();
        if facts.nodes.is_empty() || users.is_empty() {
            return Verdict::NotApplicable;
        }
        for run in users {
            let Some(user) = &run.user else { continue };
            for node in &facts.nodes {
                let stat = match &node.stat {
                    Seen::Is(stat) => *stat,
                    Seen::Absent => continue,
                    Seen::Unreadable(reason) => return unknown(reason, node.path.clone()),
                };
                match user.may_open(stat) {
                    Some(true) => {}
                    None => {
                        let reason = Reason::Other(format!("the groups of user {} are in its image", user.text));
                        return unknown(&reason, node.path.clone());
                    }
                    Some(false) => {
                        let (mode, uid, gid) = stat;
                        let says =
                            format!("Jellyfin in {} runs as {} and may not open {}", run.name, user.text, node.path);
                        let trouble = Trouble::new(says)
                            .seen(Source::file(&node.path), format!("mode {mode:04o}, owner {uid}:{gid}"));
                        // root's group would open more than the card
                        let fix = if gid == 0 || mode & 0o060 != 0o060 {
                            let line = "# in /etc/modprobe.d/nvidia.conf: options nvidia NVreg_DeviceFileMode=0666";
                            Fix::by_hand(
                                "let the driver make its nodes for all, as its default is",
                                &[line],
                                "take it out again",
                            )
                        } else {
                            let line = format!("--group-add {gid}    # docker run; compose: group_add: [\"{gid}\"]");
                            Fix::by_hand("add the nodes' group to the container", &[&line], "take it out again")
                        };
                        return Verdict::Fail(trouble.fix(fix.costs("a restart of Jellyfin")));
                    }
                }
            }
        }
        Verdict::Pass
    },
};
