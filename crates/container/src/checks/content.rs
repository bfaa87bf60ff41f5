//! What is in a spec: everything that a container needs, under names and in places where it is found, in a directory that is
//! read.

use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use super::first;
use crate::Facts;
use crate::facts::SpecFile;

const PLAN: &str = "thruway container plan";

/// The sound specs of NVIDIA GPUs.
fn specs(facts: &Facts) -> impl Iterator<Item = &SpecFile> {
    facts.specs.iter().filter(|file| file.ours() && file.healthy())
}

pub(super) const INCOMPLETE: Check<Facts> = Check {
    about: About {
        id: CheckId("container/cdi-spec-incomplete"),
        layer: Layer::Container,
        title: "CDI specs name every control node that is there",
        why: "A spec made at boot, before nvidia-uvm or nvidia-modeset had their nodes, lacks them for ever: nvidia-smi works \
              in the container while CUDA's start fails (error 999, no device), or Vulkan finds no card.",
        source: "nvidia-container-toolkit issue 1982 and pull request 1979",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let mut any = false;
        let mut trouble: Option<Trouble> = None;
        for file in specs(facts) {
            let Some(spec) = file.spec() else { continue };
            any = true;
            let edits = spec.devices.iter().map(|device| &device.container_edits);
            let edits = || edits.clone().chain([&spec.container_edits]);
            let has = |path: &str| edits().any(|edits| edits.device_nodes.iter().any(|node| node.path == path));
            for node in facts.control_nodes.iter().filter(|node| !has(node)) {
                let so_far = trouble.take().unwrap_or_else(|| {
                    Trouble::new(format!("the CDI spec {} lacks {node}, which is there", file.path))
                });
                trouble = Some(so_far.seen(Source::file(&file.path), format!("no {node} among its nodes")));
            }
        }
        match trouble {
            Some(trouble) => Verdict::Warn(
                trouble.fix(
                    Fix::planned("make the spec anew, now that the nodes are there", PLAN)
                        .costs("only new containers see it"),
                ),
            ),
            None if any => Verdict::Pass,
            None => Verdict::NotApplicable,
        }
    },
};

/// Where the loaders of Debian's and of Red Hat's families look without a cache.
const SEARCHED: [&str; 8] = [
    "/lib",
    "/usr/lib",
    "/lib64",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];

pub(super) const LIBRARIES: Check<Facts> = Check {
    about: About {
        id: CheckId("container/cdi-libraries-unfound"),
        layer: Layer::Container,
        title: "the libraries that CDI specs mount are found by a container's loader",
        why: "A library is found by its SONAME in a directory that the loader searches. A spec that mounts libcuda.so.580.95.05 \
              in /usr/lib/x86_64-linux-gnu/nvidia/current, or under the file's own name alone, depends on a hook that writes \
              links and ld.so.cache; without it programs say `libcuda.so.1: cannot open shared object file`, and those with a \
              loader path of their own (musl builds, Plex) say so even with it.",
        source: "nvidia-container-toolkit issues 1456, 1743 and 1099",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let mut any = false;
        for file in specs(facts) {
            let Some(spec) = file.spec() else { continue };
            let edits = spec.devices.iter().map(|device| &device.container_edits).chain([&spec.container_edits]);
            let edits: Vec<_> = edits.collect();
            let hooked = edits.iter().flat_map(|edits| &edits.hooks).any(|hook| {
                let does = |word: &str| hook.args.iter().any(|arg| arg == word);
                does("update-ldcache") || (does("create-container") && does("--folder"))
            });
            let mounts: Vec<&str> =
                edits.iter().flat_map(|edits| &edits.mounts).map(|mount| mount.container_path.as_str()).collect();
            let dir = |path: &str| path.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned();
            for (stem, soname) in [("libnvidia-ml.so", "libnvidia-ml.so.1"), ("libcuda.so", "libcuda.so.1")] {
                let is = |path: &&str| path.rsplit('/').next().is_some_and(|name| name.starts_with(stem));
                let all: Vec<&str> = mounts.iter().copied().filter(is).collect();
                let Some(one) = all.first() else { continue };
                any = true;
                let placed = |path: &&&str| SEARCHED.contains(&dir(path).as_str());
                let named = all.iter().filter(placed).any(|path| path.ends_with(&format!("/{soname}")));
                if named || hooked {
                    continue;
                }
                let why = match all.iter().any(|path| SEARCHED.contains(&dir(path).as_str())) {
                    true => format!("{soname} is not among its names"),
                    false => format!("{} is no directory that loaders search", dir(one)),
                };
                let says = format!("no program in a container finds {soname} by the CDI spec {}: {why}", file.path);
                return Verdict::Fail(
                    Trouble::new(says)
                        .seen(Source::file(&file.path), format!("mounts {one}, and no hook writes ld.so.cache"))
                        .fix(Fix::by_hand(
                            "set the spec aside and let thruway write one whose libraries are found",
                            &[&format!("mv {0} {0}.off", file.path), PLAN],
                            format!("mv {0}.off {0}", file.path),
                        )),
                );
            }
        }
        if any { Verdict::Pass } else { Verdict::NotApplicable }
    },
};

pub(super) const DIR_UNREAD: Check<Facts> = Check {
    about: About {
        id: CheckId("container/cdi-dir-unread"),
        layer: Layer::Container,
        title: "the CDI specs lie where the engine looks",
        why: "dockerd reads the directories of cdi-spec-dirs alone, and a rootless daemon does not see the host's /var/run: a spec \
              in plain sight is then `unresolvable CDI devices nvidia.com/gpu=all`.",
        source: "nvidia-container-toolkit issue 434; dra-driver issue 736; Docker's documentation of dockerd",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let Some(docker) = &facts.docker else { return Verdict::NotApplicable };
        let Some(info) = docker.info.get().filter(|info| !info.cdi_dirs.is_empty()) else {
            return Verdict::NotApplicable;
        };
        let mut ours = specs(facts).peekable();
        if ours.peek().is_none() {
            return Verdict::NotApplicable;
        }
        // /var/run is /run on all systems that have CDI.
        let same = |dir: &str| dir.replacen("/var/run/", "/run/", 1).trim_end_matches('/').to_owned();
        let read: Vec<String> = info.cdi_dirs.iter().map(|dir| same(dir)).collect();
        let lost: Vec<&SpecFile> = specs(facts).filter(|file| !read.contains(&same(file.dir()))).collect();
        let Some(one) = lost.first().filter(|_| lost.len() == specs(facts).count()) else { return Verdict::Pass };
        let dirs = info.cdi_dirs.join(", ");
        Verdict::Fail(
            Trouble::new(format!("Docker does not see the CDI spec {}: it reads {dirs} alone", one.path))
                .seen(Source::Answer("docker info".to_owned()), format!("CDI directories: {dirs}"))
                .fix(
                    Fix::by_hand(
                        "let Docker read the usual directories",
                        &["sensible-editor /etc/docker/daemon.json   # cdi-spec-dirs", "systemctl restart docker"],
                        "put the line back",
                    )
                    .costs("Docker restarts, and with it its containers"),
                ),
        )
    },
};

pub(super) const REFRESH_RACED: Check<Facts> = Check {
    about: About {
        id: CheckId("container/cdi-refresh-raced"),
        layer: Layer::Container,
        title: "NVIDIA's refresh service has written its spec at this boot",
        why: "nvidia-cdi-refresh.service runs at the boot target, and fails where the module comes later (`Driver Not Loaded`); \
              nothing starts it again when the driver is there. Containers then say `unresolvable CDI devices` until somebody \
              starts it by hand.",
        source: "nvidia-container-toolkit issue 1611",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let Some(unit) = facts.toolkit.units.first() else { return Verdict::NotApplicable };
        if !matches!(facts.driver, Seen::Is(_)) {
            return Verdict::NotApplicable;
        }
        let there = facts
            .specs
            .iter()
            .any(|file| matches!(file.path.as_str(), "/run/cdi/nvidia.yaml" | "/var/run/cdi/nvidia.yaml"));
        if there {
            return Verdict::Pass;
        }
        Verdict::Warn(
            Trouble::new("NVIDIA's refresh service is on, the driver runs, and the service's spec is not there: it came too early")
                .seen(Source::file(format!("/etc/systemd/system/multi-user.target.wants/{unit}")), "wanted at boot")
                .seen(Source::file("/run/cdi/nvidia.yaml"), "not there")
                .fix(Fix::by_hand(
                    "run it now",
                    &["systemctl restart nvidia-cdi-refresh.service"],
                    "rm /run/cdi/nvidia.yaml",
                ))
                .fix(Fix::planned(
                    "or let thruway's service do it, which the driver's own coming starts",
                    "thruway container plan --replace-toolkit",
                )),
        )
    },
};
