//! NVIDIA's toolkit beside thruway: its settings, its hook files, and a Docker that cannot see the driver at all.

use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use super::{first, unknown};
use crate::Facts;

const REPLACE: &str = "thruway container plan --replace-toolkit";

pub(super) const CONFIG_BROKEN: Check<Facts> = Check {
    about: About {
        id: CheckId("container/toolkit-config-broken"),
        layer: Layer::Container,
        title: "NVIDIA's config.toml can be read",
        why: "Its runtime reads config.toml at the start of every container and gives up where it is no TOML or a key has a value \
              of the wrong kind, as an update's merge can leave it: then no container starts that goes through it.",
        source: "NVIDIA Container Toolkit 1.20 sources; nvidia-container-toolkit issue 108",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let config = &facts.toolkit.config;
        match (&config.says, config.bad_line) {
            (Seen::Is(_), _) => Verdict::Pass,
            (Seen::Absent, _) => Verdict::NotApplicable,
            (Seen::Unreadable(reason), None) => unknown(reason, config.path.as_str()),
            (Seen::Unreadable(reason), Some(line)) => Verdict::Fail(
                Trouble::new(format!(
                    "no container that goes through NVIDIA's runtime starts: {} is broken",
                    config.path
                ))
                .seen(Source::line(&config.path, line), reason.to_string())
                .fix(Fix::by_hand(
                    "mend the line",
                    &[&format!("sensible-editor +{line} {}", config.path)],
                    "keep a copy of the file before",
                )),
            ),
        }
    },
};

pub(super) const MANAGEMENT_KIND: Check<Facts> = Check {
    about: About {
        id: CheckId("container/management-kind"),
        layer: Layer::Container,
        title: "plain GPU ids are not looked up among the management devices",
        why: "NVIDIA's CDI mode takes NVIDIA_VISIBLE_DEVICES=0 for a device of its default kind. Where that is \
              management.nvidia.com/gpu, whose spec has `all` alone, containers fail with `unresolvable CDI devices \
              management.nvidia.com/gpu=0`.",
        source: "nvidia-container-toolkit issue 1239",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let config = &facts.toolkit.config;
        let said = match &config.says {
            Seen::Is(said) => said,
            Seen::Absent | Seen::Unreadable(_) => return Verdict::NotApplicable,
        };
        match &said.default_kind {
            Some((kind, line)) if kind.starts_with("management.") => Verdict::Fail(
                Trouble::new(format!("containers that name a GPU by its number get none: they are looked up as {kind}"))
                    .seen(Source::line(&config.path, *line), format!("default-kind = {kind}"))
                    .fix(Fix::by_hand(
                        "make the usual kind the default",
                        &["nvidia-ctk config --in-place --set nvidia-container-runtime.modes.cdi.default-kind=nvidia.com/gpu"],
                        format!("the same with ={kind}"),
                    )),
            ),
            _ => Verdict::Pass,
        }
    },
};

pub(super) const LDCONFIG: Check<Facts> = Check {
    about: About {
        id: CheckId("container/toolkit-ldconfig"),
        layer: Layer::Container,
        title: "NVIDIA's toolkit runs the host's own ldconfig",
        why: "NVIDIA's hook runs ldconfig on the image's root. On Ubuntu /sbin/ldconfig is a script, which fails there with status \
              127 (`ldcache error`), and a path without `@` before it is the image's own program, run as root.",
        source: "nvidia-container-toolkit issues 147 and 1357; CVE-2024-0136",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let config = &facts.toolkit.config;
        let Some((path, line)) = config.says.get().and_then(|said| said.ldconfig.clone()) else {
            return Verdict::NotApplicable;
        };
        let (says, to) = match path.strip_prefix('@') {
            None => (format!("NVIDIA's hook runs {path} of the image, as root"), "@/sbin/ldconfig"),
            Some("/sbin/ldconfig" | "/usr/sbin/ldconfig") if facts.toolkit.ldconfig_wrapped => (
                "NVIDIA's hook runs /sbin/ldconfig, which is a script here and fails in an image's root".to_owned(),
                "@/sbin/ldconfig.real",
            ),
            Some(_) => return Verdict::Pass,
        };
        Verdict::Fail(
            Trouble::new(says)
                .seen(Source::line(&config.path, line), format!("ldconfig = {path}"))
                .fix(Fix::by_hand(
                    "name the host's program",
                    &[&format!("nvidia-ctk config --in-place --set nvidia-container-cli.ldconfig={to}")],
                    format!("the same with ={path}"),
                ))
                .fix(Fix::planned("or let thruway do it, which runs no ldconfig at all", REPLACE)),
        )
    },
};

pub(super) const HOOK_FILES: Check<Facts> = Check {
    about: About {
        id: CheckId("container/legacy-hook-files"),
        layer: Layer::Container,
        title: "no OCI hook file starts NVIDIA's old hook in every container",
        why: "A file in hooks.d lets Podman and CRI-O run NVIDIA's hook before each container. In a user namespace it cannot write \
              device rules nor run ldconfig: rootless `podman run --userns keep-id` fails, and with a CDI spec beside it the card \
              is put in twice.",
        source: "nvidia-container-toolkit issues 35 and 46",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        if facts.podman.is_none() && facts.crio.is_none() {
            return Verdict::NotApplicable;
        }
        let Some((path, _)) = facts.toolkit.hook_files.first() else { return Verdict::Pass };
        Verdict::Warn(
            Trouble::new(format!(
                "{path} starts NVIDIA's old hook in every container, which rootless ones do not survive"
            ))
            .seen(Source::file(path), "names NVIDIA's hook")
            .fix(Fix::planned("take it away: CDI does the same without it", REPLACE)),
        )
    },
};

pub(super) const SNAP: Check<Facts> = Check {
    about: About {
        id: CheckId("container/docker-snap"),
        layer: Layer::Container,
        title: "Docker is not a snap",
        why: "Docker's snap is confined: it sees neither the host's driver libraries nor NVIDIA's programs, so `docker run --gpus all` \
              ends in `libnvidia-ml.so.1: cannot open shared object file` whatever is installed on the host.",
        source: "nvidia-container-toolkit issue 154; nvidia-docker issue 1711",
    },
    run: |facts| {
        if facts.cards.is_empty() {
            return first(facts).unwrap_or(Verdict::NotApplicable);
        }
        if !facts.snap {
            return if facts.docker.is_some() { Verdict::Pass } else { Verdict::NotApplicable };
        }
        Verdict::Fail(
            Trouble::new("Docker is installed as a snap and cannot see NVIDIA's driver")
                .seen(Source::file("/snap/bin/docker"), "the snap's program")
                .fix(
                    Fix::by_hand(
                        "install Docker as a package in the snap's place",
                        &["snap remove docker", "apt-get install docker.io", "thruway container plan"],
                        "apt-get remove docker.io; snap install docker",
                    )
                    .costs("the snap's containers and images go with it"),
                ),
        )
    },
};
