//! The specs on a machine: what they define, which of them hides which, and what is wrong with them.

use std::collections::BTreeMap;

use formats::cdispec::{self, Form, Spec};
use machine::{Machine, MachineExt as _};
use model::{Reason, Seen};
use serde::Serialize;

use crate::{Fault, GpuNodes, judge};

/// A file in a directory of specs.
#[derive(Clone, Debug)]
pub struct SpecFile {
    pub path: String,
    /// The directory's place in the order of priority: a later one wins.
    pub priority: usize,
    pub state: State,
    /// None where it could not be read.
    pub bytes: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub enum State {
    Spec(Box<Spec>),
    /// 1-based line, 0 unknown.
    Broken {
        line: u32,
        says: String,
    },
    /// Listed, yet not there: a link that leads nowhere. Or never there, where it was asked for by its name.
    Gone,
    Unreadable(Reason),
}

/// What is said of [`State::Gone`].
pub const GONE: &str = "it is not there, or a link that leads nowhere";

/// A device that engines would know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// "nvidia.com/gpu=0".
    pub name: String,
    /// The file that defines it.
    pub file: String,
    /// Files that define it too and lose: those of a lower directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<String>,
    /// Another file of the same directory that defines it: then engines refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: String,
    /// 1-based; 0: the whole file.
    pub line: u32,
    /// `fault` stops containers or gives them the wrong thing; `hint` is worth knowing.
    pub weight: Weight,
    /// One sentence.
    pub says: String,
    /// What to do.
    pub fix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    Fault,
    Hint,
}

/// The spec files of these directories, in rising priority; a directory by two names is one. What could not be listed is said
/// beside them.
pub fn read_dirs(machine: &dyn Machine, dirs: &[String]) -> (Vec<SpecFile>, Vec<(String, Reason)>) {
    let (mut found, mut unseen, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for dir in dirs {
        let dir = dir.trim_end_matches('/');
        let real = machine.resolve(dir).is().unwrap_or_else(|| dir.to_owned());
        if known.contains(&real) {
            continue;
        }
        match machine.list(&real) {
            Seen::Is(names) => {
                let paths = names.iter().map(|name| format!("{dir}/{name}"));
                found.extend(paths.filter_map(|path| read_file(machine, &path, known.len())));
            }
            Seen::Absent => {}
            Seen::Unreadable(reason) => unseen.push((dir.to_owned(), reason)),
        }
        known.push(real);
    }
    (found, unseen)
}

/// One spec file; `None` where engines pass its name over.
pub fn read_file(machine: &dyn Machine, path: &str, priority: usize) -> Option<SpecFile> {
    let form = Form::of_path(path)?;
    let (state, bytes) = match machine.read(path) {
        Seen::Is(bytes) => {
            let state = match cdispec::parse(&bytes, form) {
                Ok(spec) => State::Spec(Box::new(spec)),
                Err(bad) => State::Broken { line: bad.line, says: bad.says },
            };
            (state, Some(bytes))
        }
        Seen::Absent => (State::Gone, None),
        Seen::Unreadable(reason) => (State::Unreadable(reason), None),
    };
    Some(SpecFile { path: path.to_owned(), priority, state, bytes })
}

impl SpecFile {
    pub fn spec(&self) -> Option<&Spec> {
        match &self.state {
            State::Spec(spec) => Some(spec),
            _ => None,
        }
    }

    /// The first line that has this, 1-based; 0 where none has.
    pub fn line(&self, needle: &str) -> u32 {
        let text = String::from_utf8_lossy(self.bytes.as_deref().unwrap_or_default());
        let at = text.lines().position(|line| !needle.is_empty() && line.contains(needle));
        at.map_or(0, |at| at as u32 + 1)
    }

    /// Written by us.
    pub fn ours(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name == crate::SPEC_NAME || name.starts_with("thruway.dev-") || name == "thruway-nvidia.json"
    }

    /// An unsound spec defines nothing for engines.
    fn counts(&self) -> Option<&Spec> {
        self.spec().filter(|spec| spec.problems().is_empty())
    }
}

/// Every device that the files define, by name.
pub fn list(files: &[SpecFile]) -> Vec<Listed> {
    let mut by_name: BTreeMap<String, Vec<&SpecFile>> = BTreeMap::new();
    for file in files {
        let Some(spec) = file.counts() else { continue };
        for device in &spec.devices {
            by_name.entry(format!("{}={}", spec.kind, device.name)).or_default().push(file);
        }
    }
    let mut found = Vec::new();
    for (name, definers) in by_name {
        let Some(top) = definers.iter().map(|file| file.priority).max() else { continue };
        let winners: Vec<&&SpecFile> = definers.iter().filter(|file| file.priority == top).collect();
        let Some(winner) = winners.first() else { continue };
        found.push(Listed {
            name,
            file: winner.path.clone(),
            shadows: definers.iter().filter(|file| file.priority < top).map(|file| file.path.clone()).collect(),
            conflict: winners.get(1).map(|file| file.path.clone()),
        });
    }
    found
}

/// Everything that is wrong with the files, each by itself and among each other. `running`: the driver's version; `gpus`: the
/// cards that a spec of ours should know.
pub fn check(machine: &dyn Machine, files: &[SpecFile], running: Option<&str>, gpus: &[GpuNodes]) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in files {
        alone(machine, file, running, gpus, &mut found);
    }
    for device in list(files) {
        let other = |path: &str| files.iter().find(|file| file.path == path);
        let ours = |path: &str| other(path).is_some_and(SpecFile::ours);
        if let Some(second) = &device.conflict {
            let (keep, remove) = if ours(second) { (second, &device.file) } else { (&device.file, second) };
            add(
                &mut found,
                &device.file,
                0,
                Weight::Fault,
                Finds {
                    says: format!("{} stands in {second} too, so engines give it to no container", device.name),
                    fix: format!("keep {keep}: rm {remove} (and stop what writes it: {})", writer(remove)),
                },
            );
        }
        for shadow in &device.shadows {
            add(
                &mut found,
                shadow,
                0,
                Weight::Hint,
                Finds {
                    says: format!("{} is hidden by {}, whose directory goes before", device.name, device.file),
                    fix: format!("rm {shadow}, if {} is the one that is meant", device.file),
                },
            );
        }
    }
    // one sentence for all devices of a file that are hidden or refused for the same reason
    let mut seen: Vec<(String, String)> = Vec::new();
    found.retain(|finding| {
        let rest = finding.says.split_once(' ').map_or("", |(_, rest)| rest).to_owned();
        let among = rest.starts_with("stands in") || rest.starts_with("is hidden by");
        let key = (finding.file.clone(), rest);
        let known = among && seen.contains(&key);
        if among && !known {
            seen.push(key);
        }
        !known
    });
    found
}

struct Finds {
    says: String,
    fix: String,
}

fn add(found: &mut Vec<Finding>, file: &str, line: u32, weight: Weight, what: Finds) {
    found.push(Finding { file: file.to_owned(), line, weight, says: what.says, fix: what.fix });
}

/// Who writes a file of this name, by habit.
fn writer(path: &str) -> &'static str {
    match path.rsplit('/').next().unwrap_or_default() {
        "nvidia.yaml" => "systemctl disable --now nvidia-cdi-refresh.path nvidia-cdi-refresh.service",
        "nvidia-container-toolkit.json" => "NixOS's hardware.nvidia-container-toolkit.enable",
        name if name.starts_with("management.nvidia.com") || name.starts_with("k8s.") => "NVIDIA's GPU operator",
        _ => "grep -rl cdi /etc/systemd/system /etc/cron* names it",
    }
}

fn alone(machine: &dyn Machine, file: &SpecFile, running: Option<&str>, gpus: &[GpuNodes], found: &mut Vec<Finding>) {
    let path = &file.path;
    let again = if file.ours() {
        "sudo thruway cdi refresh".to_owned()
    } else {
        format!("make it again with what wrote it, or rm {path} and sudo thruway cdi refresh")
    };
    let spec = match &file.state {
        State::Spec(spec) => spec,
        State::Broken { line, says } => {
            let says = format!("it is no CDI spec, and engines pass it over: {says}");
            add(found, path, *line, Weight::Fault, Finds { says, fix: again });
            return;
        }
        State::Gone | State::Unreadable(_) => {
            let why = if let State::Unreadable(reason) = &file.state { reason.to_string() } else { GONE.to_owned() };
            let says = format!("it could not be read: {why}");
            add(found, path, 0, Weight::Fault, Finds { says, fix: "look again as root".to_owned() });
            return;
        }
    };
    for problem in spec.problems() {
        let line = file.line(if problem.starts_with("cdiVersion") { "cdiVersion" } else { "kind" });
        let says = format!("engines refuse it: {problem}");
        add(found, path, line, Weight::Fault, Finds { says, fix: again.clone() });
    }
    let needed = spec.needed_version();
    if spec.problems().is_empty() && number(&spec.cdi_version) > number(needed) && number(&spec.cdi_version) > [0, 7, 0]
    {
        add(
            found,
            path,
            file.line("cdiVersion"),
            Weight::Hint,
            Finds {
                says: format!(
                    "it says cdiVersion {} and needs {needed} only: older engines refuse it",
                    spec.cdi_version
                ),
                fix: format!("write cdiVersion {needed}"),
            },
        );
    }
    if spec.problems().is_empty() {
        let judged = judge(machine, spec, running, gpus);
        let dynamic = spec.edits().flat_map(|edits| &edits.device_nodes).any(|node| {
            node.major.is_some() && (node.path.contains("nvidia-uvm") || node.path.contains("nvidia-caps"))
        });
        let wrong_number = judged.faults.iter().any(|fault| matches!(fault, Fault::Number { .. }));
        let other = judged.faults.iter().filter(|fault| matches!(fault, Fault::OtherDriver { .. })).count();
        let mut told_other = false;
        for fault in &judged.faults {
            let mut says = fault.to_string();
            if matches!(fault, Fault::OtherDriver { .. }) {
                if told_other {
                    continue;
                }
                told_other = true;
                if other > 1 {
                    says = format!("{says}, and so are {} more of its files", other - 1);
                }
            }
            add(found, path, file.line(fault.needle()), Weight::Fault, Finds { says, fix: again.clone() });
        }
        for (unseen, reason) in &judged.unseen {
            let says = format!("{unseen} could not be looked at: {reason}");
            add(found, path, file.line(unseen), Weight::Hint, Finds { says, fix: "look again as root".to_owned() });
        }
        if dynamic && !wrong_number {
            let says =
                "it freezes the numbers of nvidia-uvm or nvidia-caps, which the next boot may change: then nvidia-smi \
                        works and CUDA fails"
                    .to_owned();
            add(
                found,
                path,
                file.line("major"),
                Weight::Hint,
                Finds { says, fix: "rm it and sudo thruway cdi refresh: paths, no numbers".into() },
            );
        }
    }
}

fn number(version: &str) -> [u32; 3] {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}
