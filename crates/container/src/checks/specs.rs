//! CDI specs: there, sound, true, and one of each.

use cdi::NoSpec;
use model::{About, Check, CheckId, Fix, Layer, Source, Trouble, Verdict};

use super::{first, unknown};
use crate::Facts;
use crate::facts::{Reads, SpecState};

const PLAN: &str = "thruway container plan";

pub(super) const MISSING: Check<Facts> = Check {
    about: About {
        id: CheckId("container/cdi-spec-missing"),
        layer: Layer::Container,
        title: "a CDI spec names this machine's NVIDIA GPUs",
        why: "A CDI spec tells engines which device nodes and driver files make up `nvidia.com/gpu=0` or `=all`. Without \
              one, `--device nvidia.com/gpu=all` fails with `unresolvable CDI devices nvidia.com/gpu=all`, and a pod that \
              is granted a GPU by CDI does not start.",
        source: "Container Device Interface specification 1.1.0",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        match &facts.wanted {
            Err(NoSpec::Unknown(reason)) => return unknown(reason, "the driver"),
            // The guest floor speaks of a driver that does not run.
            Err(NoSpec::NoCard | NoSpec::NoDriver) => return Verdict::NotApplicable,
            _ => {}
        }
        if facts.specs.iter().any(|file| file.ours()) {
            return Verdict::Pass;
        }
        if let Some((dir, reason)) = facts.specs_unseen.first() {
            return unknown(reason, dir.as_str());
        }
        if let Some((path, reason)) = facts.specs.iter().find_map(|file| match &file.state {
            SpecState::Unreadable(reason) => Some((&file.path, reason)),
            _ => None,
        }) {
            return unknown(reason, path.as_str());
        }
        let mut trouble = Trouble::new(format!("no CDI spec tells engines of {}", facts.cards_named()));
        for dir in cdi::SPEC_DIRS {
            trouble = trouble.seen(Source::file(dir), format!("no spec of kind {}", cdi::KIND));
        }
        match &facts.wanted {
            Ok(_) => trouble = trouble.fix(Fix::planned("write a spec from the driver's own files", PLAN)),
            Err(why) => {
                trouble = trouble.seen(Source::Rule("a spec needs one whole driver".to_owned()), why.to_string());
            }
        }
        // Where no engine reads specs yet, nothing is broken by the lack of one.
        if facts.ways().iter().all(|(_, reads, _)| *reads == Reads::TooOld) {
            Verdict::Warn(trouble)
        } else {
            Verdict::Fail(trouble)
        }
    },
};

pub(super) const BROKEN: Check<Facts> = Check {
    about: About {
        id: CheckId("container/cdi-spec-broken"),
        layer: Layer::Container,
        title: "every CDI spec file is one that engines accept",
        why: "Engines pass over a spec with a syntax error, an unknown field, a version that they do not know or that is \
              lower than its fields need; all that the user sees is `unresolvable CDI devices`.",
        source: "Container Device Interface specification 1.1.0 and its Go implementation",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        if facts.specs.is_empty() {
            return match facts.specs_unseen.first() {
                Some((dir, reason)) => unknown(reason, dir.as_str()),
                None => Verdict::NotApplicable,
            };
        }
        let mut evidence = Vec::new();
        let mut unread = None;
        for file in &facts.specs {
            match &file.state {
                SpecState::Unreadable(reason) => unread = Some((file, reason)),
                SpecState::Broken { line, says } => {
                    evidence.push((Source::line(&file.path, *line), says.clone(), &file.path));
                }
                SpecState::Parsed { problems, .. } => {
                    evidence.extend(problems.iter().map(|says| (Source::file(&file.path), says.clone(), &file.path)))
                }
            }
        }
        let Some((_, says, path)) = evidence.first() else {
            return unread.map_or(Verdict::Pass, |(file, reason)| unknown(reason, file.path.as_str()));
        };
        let mut trouble = Trouble::new(format!("engines refuse the CDI spec {path}: {says}"));
        let path = (*path).clone();
        for (source, says, _) in evidence {
            trouble = trouble.seen(source, says);
        }
        Verdict::Fail(trouble.fix(Fix::by_hand(
            "set the file aside and let thruway write a sound one",
            &[&format!("mv {path} {path}.bad"), PLAN],
            format!("mv {path}.bad {path}"),
        )))
    },
};

pub(super) const STALE: Check<Facts> = Check {
    about: About {
        id: CheckId("container/cdi-spec-stale"),
        layer: Layer::Container,
        title: "CDI specs name the driver that runs, files that are there, and live device numbers",
        why: "A spec is a snapshot. After a driver update it names libraries that are gone, and containers do not start; \
              after a reboot the major number of nvidia-uvm can differ from the one that was written down, and then \
              nvidia-smi works while CUDA fails with error 999 or 304.",
        source: "Container Device Interface specification 1.1.0; NVIDIA NemoClaw pull request 4733",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let mut trouble: Option<Trouble> = None;
        let mut unseen = None;
        let mut looked = false;
        for file in &facts.specs {
            let SpecState::Parsed { judged, lines, .. } = &file.state else { continue };
            looked = true;
            for (fault, line) in judged.faults.iter().zip(lines) {
                let so_far = trouble.take().unwrap_or_else(|| {
                    Trouble::new(format!("the CDI spec {} is not true of this machine: {fault}", file.path))
                });
                // A driver update makes every line wrong; ten show it.
                trouble = Some(if so_far.evidence.len() < 10 {
                    so_far.seen(Source::File { path: file.path.clone(), line: *line }, fault.to_string())
                } else {
                    so_far
                });
            }
            unseen = unseen.or(judged.unseen.first());
        }
        match (trouble, unseen) {
            (Some(trouble), _) => Verdict::Fail(
                trouble.fix(
                    Fix::planned("replace it by a spec made from the driver as it is now", PLAN)
                        .costs("running containers keep what they have; only new ones see the change"),
                ),
            ),
            (None, Some((path, reason))) => unknown(reason, path.as_str()),
            (None, None) if looked => Verdict::Pass,
            (None, None) => match facts.specs_unseen.first() {
                Some((dir, reason)) => unknown(reason, dir.as_str()),
                None => Verdict::NotApplicable,
            },
        }
    },
};

pub(super) const CONFLICT: Check<Facts> = Check {
    about: About {
        id: CheckId("container/cdi-spec-conflict"),
        layer: Layer::Container,
        title: "no device is defined twice in one spec directory",
        why: "Two specs in one directory that define the same device cancel each other: engines then resolve neither, \
              and say `unresolvable CDI devices` although the device is in plain sight. Across directories the one in \
              /var/run/cdi wins.",
        source: "Container Device Interface specification 1.1.0 and its Go implementation",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let twice = facts.conflicts();
        let Some((name, one, two)) = twice.first() else {
            return match facts.specs_unseen.first() {
                Some((dir, reason)) => unknown(reason, dir.as_str()),
                None if !facts.specs.iter().any(|file| file.spec().is_some()) => Verdict::NotApplicable,
                None => Verdict::Pass,
            };
        };
        let mut trouble = Trouble::new(format!("{name} is defined in {one} and in {two}, so engines resolve neither"));
        for (name, one, two) in twice.iter().take(10) {
            trouble = trouble.seen(Source::file(*two), format!("{name}, as in {one}"));
        }
        // A tool's own service writes its file anew; ours stands only where we put it.
        let drop = if *one == crate::SPEC_PATH { one } else { two };
        Verdict::Fail(trouble.fix(Fix::by_hand(
            "set one of the two aside",
            &[&format!("mv {drop} {drop}.off")],
            format!("mv {drop}.off {drop}"),
        )))
    },
};
