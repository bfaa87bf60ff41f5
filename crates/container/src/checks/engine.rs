//! Engines: have they a way to the card, and does their configuration hold.

use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use super::{first, unknown};
use crate::Facts;
use crate::facts::Reads;

const PLAN: &str = "thruway container plan";

pub(super) const GPU_WAY: Check<Facts> = Check {
    about: About {
        id: CheckId("container/gpu-way"),
        layer: Layer::Container,
        title: "every container engine has a way to give a container the GPU",
        why: "An engine gives a container a GPU either by a CDI spec that it reads (Docker 25 and later, Podman 4.1, \
              containerd 1.7, CRI-O) or through NVIDIA's older runtime and hook. With neither, `docker run --gpus all` \
              ends in `could not select device driver \"\" with capabilities: [[gpu]]`, and a pod's container simply \
              sees no card.",
        source: "NVIDIA Container Toolkit 1.20 sources; moby pull requests 49963 and 50228",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let mut lost = Vec::new();
        for (name, reads, runtime) in facts.ways() {
            match reads {
                _ if runtime => {}
                Reads::Yes | Reads::Off => {}
                Reads::TooOld => lost.push(name),
                Reads::Unknown(reason) => return unknown(&reason, format!("whether {name} reads CDI specs")),
            }
        }
        if lost.is_empty() {
            return Verdict::Pass;
        }
        let names = lost.join(" and ");
        let says = format!(
            "{names} cannot give a container the GPU: no CDI in that version, and NVIDIA's runtime is not set up"
        );
        let mut trouble = Trouble::new(says);
        if let Some(docker) = &facts.docker {
            let version = docker.version.get().map_or_else(|| "unknown".to_owned(), |version| version.text.clone());
            trouble = trouble.seen(docker.version.source.clone(), format!("Docker {version}; CDI came with 25"));
            let value = docker.nvidia_path().unwrap_or_else(|| "no runtime named nvidia".to_owned());
            trouble = trouble.seen(Source::file(&docker.config.path), value);
        }
        trouble = match facts.toolkit.runtime.as_ref().or(facts.own.runtime.as_ref()) {
            Some(path) => trouble.fix(
                Fix::planned(
                    format!("name {path} as Docker's runtime nvidia"),
                    "thruway container plan --engine docker",
                )
                .costs("Docker restarts, and with it its containers"),
            ),
            None => trouble
                .fix(
                    Fix::by_hand(
                        "update Docker, which then reads the CDI spec that thruway writes",
                        &["apt-get update && apt-get install docker-ce docker-ce-cli containerd.io", PLAN],
                        "apt-get install docker-ce=VERSION with the version before",
                    )
                    .costs("Docker restarts, and with it its containers"),
                )
                .fix(
                    Fix::by_hand(
                        "or install NVIDIA's container toolkit, whose runtime thruway then names in daemon.json",
                        &["apt-get install nvidia-container-toolkit", PLAN],
                        "apt-get remove nvidia-container-toolkit",
                    )
                    .costs("a program of NVIDIA's runs as root at the start of each GPU container"),
                ),
        };
        Verdict::Fail(trouble)
    },
};

pub(super) const DAEMON_JSON_BROKEN: Check<Facts> = Check {
    about: About {
        id: CheckId("container/daemon-json-broken"),
        layer: Layer::Container,
        title: "Docker's daemon.json is JSON that dockerd can read",
        why: "daemon.json is strict JSON: one comma too many or a comment, and dockerd does not start: `unable to \
              configure the Docker daemon with file /etc/docker/daemon.json`. A broken edit shows only at the next \
              restart, which can be months later.",
        source: "Docker's documentation of dockerd, daemon configuration file",
    },
    run: |facts| {
        let Some(docker) = &facts.docker else { return first(facts).unwrap_or(Verdict::NotApplicable) };
        match (&docker.config.says, docker.config.bad_line) {
            (Seen::Is(_), _) => Verdict::Pass,
            (Seen::Absent, _) => Verdict::NotApplicable,
            (Seen::Unreadable(reason), Some(line)) => {
                let path = docker.config.path.as_str();
                // --validate came with Docker 23.
                let checks = docker.version.get().is_none_or(|version| version.at_least(&[23]));
                let command = match checks {
                    true => format!("dockerd --validate --config-file={path}"),
                    false => format!("python3 -m json.tool {path}"),
                };
                Verdict::Fail(
                    Trouble::new(format!("dockerd cannot read {path} and will not start again: line {line} is wrong"))
                        .seen(Source::line(path, line), reason.to_string())
                        .fix(
                            Fix::by_hand(
                                format!("mend line {line}, then have the file checked"),
                                &[&format!("sensible-editor +{line} {path}"), &command],
                                "keep a copy of the file before",
                            )
                            .costs("nothing until Docker is restarted"),
                        ),
                )
            }
            (Seen::Unreadable(reason), None) => unknown(reason, docker.config.path.as_str()),
        }
    },
};

pub(super) const RUNTIME_PATH_MISSING: Check<Facts> = Check {
    about: About {
        id: CheckId("container/runtime-path-missing"),
        layer: Layer::Container,
        title: "the runtime that daemon.json names nvidia is there",
        why: "daemon.json keeps naming NVIDIA's runtime after its package is gone. Containers that ask for it fail with \
              `exec: \"nvidia-container-runtime\": executable file not found in $PATH`; if it is the default runtime, \
              no container starts at all.",
        source: "Docker's documentation of alternative runtimes; NVIDIA Container Toolkit 1.20 sources",
    },
    run: |facts| {
        let Some(docker) = &facts.docker else { return first(facts).unwrap_or(Verdict::NotApplicable) };
        if let Seen::Unreadable(reason) = &docker.config.says {
            return unknown(reason, docker.config.path.as_str());
        }
        let Some(path) = docker.nvidia_path() else { return Verdict::NotApplicable };
        match &docker.runtime_there {
            Seen::Is(false) => {}
            Seen::Is(true) => return Verdict::Pass,
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, path),
        }
        let Some(file) = docker.config.says.get() else { return Verdict::NotApplicable };
        let default = docker.default_runtime().is_some_and(|name| name == "nvidia");
        let line = file.line(&["runtimes", "nvidia", "path"]).unwrap_or(1);
        let what = if default { "no container starts" } else { "containers that ask for it do not start" };
        let trouble =
            Trouble::new(format!("daemon.json names {path} as the runtime nvidia, which is not there: {what}"))
                .seen(Source::line(&docker.config.path, line), path);
        Verdict::Fail(match facts.toolkit.runtime.as_ref().or(facts.own.runtime.as_ref()) {
            Some(real) => trouble.fix(
                Fix::planned(format!("name {real} instead"), "thruway container plan --engine docker")
                    .costs("Docker restarts, and with it its containers"),
            ),
            None => trouble.fix(Fix::by_hand(
                "install the runtime",
                &["apt-get install nvidia-container-toolkit"],
                "apt-get remove nvidia-container-toolkit",
            )),
        })
    },
};

pub(super) const CDI_NOT_ENABLED: Check<Facts> = Check {
    about: About {
        id: CheckId("container/cdi-not-enabled"),
        layer: Layer::Container,
        title: "an engine that can read CDI specs is told to",
        why: "Docker 25 to 28.1 reads CDI specs only with `\"features\": {\"cdi\": true}` in daemon.json, containerd 1.7 \
              only with `enable_cdi = true` in the CRI plugin. Without it `--device nvidia.com/gpu=all` fails with \
              `could not select device driver \"cdi\" with capabilities: []`, and Kubernetes gets no device from a spec.",
        source: "moby pull request 49963; containerd's documentation of the CRI plugin",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let mut on = false;
        let mut off = Vec::new();
        for (name, reads, _) in facts.ways() {
            match reads {
                Reads::Yes => on = true,
                Reads::Off => off.push(name),
                Reads::TooOld => {}
                Reads::Unknown(reason) => return unknown(&reason, format!("whether {name} reads CDI specs")),
            }
        }
        if off.is_empty() {
            return if on { Verdict::Pass } else { Verdict::NotApplicable };
        }
        let names = off.join(" and ");
        let mut trouble = Trouble::new(format!("{names} can read CDI specs and is not told to"));
        if let Some(docker) = facts.docker.as_ref().filter(|docker| docker.reads() == Reads::Off) {
            let file = docker.config.says.get();
            let line = file.and_then(|file| file.line(&["features", "cdi"]));
            let value = if line.is_some() { "features.cdi is false" } else { "features.cdi is not set" };
            trouble = trouble.seen(Source::File { path: docker.config.path.clone(), line }, value);
        }
        if let Some(containerd) = facts.containerd_counts().filter(|containerd| containerd.reads() == Reads::Off) {
            let said = containerd.config.says.get().and_then(|file| file.enable_cdi);
            let value = if said.is_some() { "enable_cdi is false" } else { "enable_cdi is not set" };
            let line = said.map(|(_, line)| line);
            trouble = trouble.seen(Source::File { path: containerd.config.path.clone(), line }, value);
        }
        let fix = Fix::planned("switch CDI on in the engine's own configuration and restart it", PLAN);
        Verdict::Fail(
            trouble.fix(fix.costs("the engine restarts; Docker's containers restart unless live-restore is on")),
        )
    },
};

pub(super) const DEV_CHAR_LINKS: Check<Facts> = Check {
    about: About {
        id: CheckId("container/dev-char-links"),
        layer: Layer::Container,
        title: "systemd knows NVIDIA's device nodes by their /dev/char links",
        why: "Where systemd keeps the containers' cgroups, it names devices by /dev/char/MAJOR:MINOR. NVIDIA's driver \
              does not tell sysfs of its nodes, so udev makes no such links, and the next `systemctl daemon-reload` \
              (any package's update does one) takes the GPU from running containers: `Failed to initialize NVML: \
              Unknown Error`, hours or days after the start.",
        source: "NVIDIA's notice, nvidia-container-toolkit issue 48",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let Some(docker) = &facts.docker else { return Verdict::NotApplicable };
        let driver = match &docker.info {
            Seen::Is(info) => info.cgroup_driver.as_deref(),
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "Docker's cgroup driver"),
        };
        if driver != Some("systemd") || facts.char_links.is_empty() {
            return Verdict::NotApplicable;
        }
        if let Some(reason) = facts.char_links.iter().find_map(|link| link.there.unreadable()) {
            return unknown(reason, "/dev/char");
        }
        let lost: Vec<_> = facts.char_links.iter().filter(|link| link.there == Seen::Is(false)).collect();
        if lost.is_empty() {
            return Verdict::Pass;
        }
        let mut trouble = Trouble::new(format!(
            "the next reload of systemd takes the GPU from running containers: {} of {} links in /dev/char are missing",
            lost.len(),
            facts.char_links.len()
        ));
        for link in &lost {
            trouble = trouble.seen(Source::file(&link.link), format!("not there; should lead to {}", link.node));
        }
        let lines: Vec<String> = match &facts.toolkit.ctk {
            Some(ctk) => vec![format!("{ctk} system create-dev-char-symlinks --create-all")],
            None => lost
                .iter()
                .map(|link| format!("ln -s ../{} {}", link.node.trim_start_matches("/dev/"), link.link))
                .collect(),
        };
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let fix = Fix::by_hand("make the links", &lines, "remove the links; nothing else uses them");
        Verdict::Warn(trouble.fix(fix.costs("until the next boot only: /dev is made anew then")))
    },
};
