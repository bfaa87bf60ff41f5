//! What weakens the boundary, or takes a card without being granted it.

use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use super::{first, unknown};
use crate::Facts;

pub(super) const TOOLKIT_VULNERABLE: Check<Facts> = Check {
    about: About {
        id: CheckId("container/toolkit-vulnerable"),
        layer: Layer::Container,
        title: "NVIDIA's container toolkit is not one that lets an image out",
        why: "Before 1.17.8 a container image could run its own code as root on the host: its LD_PRELOAD reached a hook \
              that runs outside the container (CVE-2025-23266), and links in the image led writes outside \
              (CVE-2025-23267). 1.16.2 and 1.17.4 closed older ways out (CVE-2024-0132, CVE-2025-23359).",
        source: "NVIDIA security bulletins of 2024 and July 2025",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let toolkit = &facts.toolkit;
        let version = match &toolkit.version.value {
            Seen::Is(version) => version,
            // Programs without a package: their version is not written anywhere that can be read.
            Seen::Absent if toolkit.hook.is_some() || toolkit.runtime.is_some() => {
                let reason = model::Reason::Other("it was not installed as a package".into());
                return unknown(&reason, "the container toolkit's version");
            }
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) if toolkit.hook.is_some() || toolkit.runtime.is_some() => {
                return unknown(reason, "the container toolkit's version");
            }
            Seen::Unreadable(_) => return Verdict::NotApplicable,
        };
        if version.at_least(&[1, 17, 8]) {
            return Verdict::Pass;
        }
        let says =
            format!("nvidia-container-toolkit {version} lets a container image run code as root on this machine");
        Verdict::Fail(
            Trouble::new(says)
                .seen(toolkit.version.source.clone(), format!("nvidia-container-toolkit {version}; mended in 1.17.8"))
                .fix(Fix::by_hand(
                    "update the toolkit",
                    &["apt-get update && apt-get install --only-upgrade nvidia-container-toolkit"],
                    format!("apt-get install nvidia-container-toolkit={version}-1"),
                )),
        )
    },
};

pub(super) const NVIDIA_DOCKER2: Check<Facts> = Check {
    about: About {
        id: CheckId("container/nvidia-docker2"),
        layer: Layer::Container,
        title: "the abandoned nvidia-docker2 package is not installed",
        why: "nvidia-docker2 was given up in 2023. It holds the toolkit at old versions, writes daemon.json when it is \
              installed, and its wrapper of `docker` is not needed since Docker 19.03.",
        source: "NVIDIA/nvidia-docker, archived",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let package = &facts.toolkit.docker2;
        match &package.value {
            Seen::Absent if facts.docker.is_some() => Verdict::Pass,
            Seen::Absent => Verdict::NotApplicable,
            Seen::Unreadable(reason) => unknown(reason, "the list of packages"),
            Seen::Is(version) => Verdict::Warn(
                Trouble::new(format!("nvidia-docker2 {version} is installed, which nobody maintains since 2023"))
                    .seen(package.source.clone(), format!("nvidia-docker2 {version}"))
                    .fix(
                        Fix::by_hand(
                            "keep the toolkit and let the old package go",
                            &[
                                "apt-get install nvidia-container-toolkit",
                                "apt-get remove nvidia-docker2",
                                "thruway container plan",
                            ],
                            "apt-get install nvidia-docker2",
                        )
                        .costs("its removal can take daemon.json's entries along; thruway's plan sets them again"),
                    ),
            ),
        }
    },
};

pub(super) const DEFAULT_RUNTIME: Check<Facts> = Check {
    about: About {
        id: CheckId("container/default-runtime"),
        layer: Layer::Container,
        title: "an image cannot take the GPUs by itself",
        why: "With NVIDIA's runtime as the default, every image that sets NVIDIA_VISIBLE_DEVICES=all (all CUDA images \
              do) gets every GPU, asked for or not, past `--gpus` and past the Kubernetes scheduler, since the toolkit \
              trusts the environment of unprivileged containers by default.",
        source: "NVIDIA Container Toolkit 1.20 sources, accept-nvidia-visible-devices-envvar-when-unprivileged",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let Some(docker) = &facts.docker else { return Verdict::NotApplicable };
        if let Seen::Unreadable(reason) = &docker.config.says {
            return unknown(reason, docker.config.path.as_str());
        }
        let live = docker.info.get().and_then(|info| info.default_runtime.as_deref()) == Some("nvidia");
        let written = docker.default_runtime().is_some_and(|name| name == "nvidia");
        if !live && !written {
            return Verdict::Pass;
        }
        match &facts.toolkit.env_accepted.value {
            Seen::Is(false) => return Verdict::Pass,
            Seen::Is(true) => {}
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "the toolkit's configuration"),
        }
        let line = docker.config.says.get().and_then(|file| file.line(&["default-runtime"]));
        Verdict::Warn(
            Trouble::new("any image that sets NVIDIA_VISIBLE_DEVICES gets every GPU of this machine, asked for or not")
                .seen(Source::File { path: docker.config.path.clone(), line }, "default-runtime is nvidia")
                .seen(facts.toolkit.env_accepted.source.clone(), "unprivileged containers may name GPUs")
                .fix(
                    Fix::by_hand(
                        "trust the environment of privileged containers only",
                        &["nvidia-ctk config --in-place --set accept-nvidia-visible-devices-envvar-when-unprivileged=false"],
                        "the same with =true",
                    )
                    .costs("containers that relied on the variable must ask with --gpus or --device"),
                ),
        )
    },
};

pub(super) const VISIBLE_DEVICES_ALL: Check<Facts> = Check {
    about: About {
        id: CheckId("container/visible-devices-all"),
        layer: Layer::Container,
        title: "no running container took all GPUs by its environment",
        why: "A container under NVIDIA's runtime with NVIDIA_VISIBLE_DEVICES=all and no request to the engine has every \
              GPU of the machine, and no engine and no scheduler counts it. Two such containers share a card without \
              knowing of each other, and one of them runs out of memory.",
        source: "NVIDIA Container Toolkit 1.20 sources",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let containers = match &facts.containers {
            Seen::Is(containers) if containers.is_empty() => return Verdict::NotApplicable,
            Seen::Is(containers) => containers,
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "Docker's running containers"),
        };
        let took: Vec<_> = containers
            .iter()
            .filter(|one| one.visible.as_deref() == Some("all") && one.runtime == "nvidia" && !one.requested)
            .collect();
        let Some(one) = took.first() else { return Verdict::Pass };
        let names: Vec<&str> = took.iter().map(|one| one.name.as_str()).collect();
        let says = match names.len() {
            1 => format!("container {} took every GPU by its environment", one.name),
            _ => format!("containers {} took every GPU by their environment", names.join(", ")),
        };
        let mut trouble = Trouble::new(says);
        for one in &took {
            let value = format!("{} ({}): NVIDIA_VISIBLE_DEVICES=all, runtime nvidia, no --gpus", one.name, one.image);
            trouble = trouble.seen(Source::Answer("docker inspect".to_owned()), value);
        }
        Verdict::Warn(
            trouble.fix(
                Fix::by_hand(
                    "start it with a request for the card it needs",
                    &["docker run --device nvidia.com/gpu=0 …"],
                    "start it as before",
                )
                .costs("the container is made anew"),
            ),
        )
    },
};
