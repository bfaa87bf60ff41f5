//! What the simulated API holds beside the tree: who may speak, the tasks, and what was asked.

use std::path::{Path, PathBuf};

use machine::MachineExt as _;
use sha1::Digest as _;

use super::Account;
use crate::physics::PhysicsError;
use crate::tree::Tree;

/// One node, "pve".
pub(super) struct State {
    pub root: PathBuf,
    pub accounts: Vec<Account>,
    pub calls: Vec<String>,
    pub slow: bool,
    pub tasks: Vec<Task>,
}

pub(super) struct Task {
    pub upid: String,
    /// "OK" or the error.
    pub status: String,
    pub log: Vec<String>,
    /// How often it still answers "running".
    pub runs: u32,
}

/// A VM's file: the current part, and what waits.
pub(super) struct Conf {
    pub text: String,
    pub main: Vec<(String, String)>,
    /// None: the key goes.
    pub pending: Vec<(String, Option<String>)>,
    pub digest: String,
}

const DIR: &str = "/etc/pve/qemu-server";

impl State {
    pub fn new(root: &Path, accounts: Vec<Account>) -> Self {
        State { root: root.to_owned(), accounts, calls: Vec::new(), slow: false, tasks: Vec::new() }
    }

    pub fn tree(&self) -> Result<Tree, PhysicsError> {
        Tree::open(&self.root)
    }

    pub fn vmids(&self, tree: &Tree) -> Vec<u32> {
        tree.root.names(DIR).iter().filter_map(|name| name.strip_suffix(".conf")?.parse().ok()).collect()
    }

    /// Adds a task that has ended, or that answers "running" a few times first; writes what the real one writes below
    /// /var/log/pve/tasks. Its id.
    pub fn task(
        &mut self,
        tree: &Tree,
        kind: &str,
        vmid: u32,
        user: &str,
        end: Result<(), String>,
    ) -> Result<String, PhysicsError> {
        let number = self.tasks.len() as u64;
        let start = 0x61FB_C000 + number * 16;
        let upid =
            format!("UPID:pve:{:08X}:{:08X}:{start:08X}:{kind}:{vmid}:{user}:", 0x1000 + number, 0x2000 + number);
        let (status, mut log) = match end {
            Ok(()) => ("OK".to_owned(), vec!["TASK OK".to_owned()]),
            Err(says) => {
                let mut lines: Vec<String> = says.lines().map(str::to_owned).collect();
                let last = lines.pop().unwrap_or_default();
                lines.push(format!("TASK ERROR: {last}"));
                (last, lines)
            }
        };
        log.insert(0, "simulated task".into());
        tree.write(&format!("/var/log/pve/tasks/{:X}/{upid}", start & 0xf), log.join("\n") + "\n")?;
        let index = "/var/log/pve/tasks/index";
        tree.write(index, format!("{}{upid} {:08X} {status}\n", tree.text(index), start + 1))?;
        self.tasks.push(Task { upid: upid.clone(), status, log, runs: 2 });
        Ok(upid)
    }
}

pub(super) fn path(vmid: u32) -> String {
    format!("{DIR}/{vmid}.conf")
}

pub(super) fn conf(tree: &Tree, vmid: u32) -> Option<Conf> {
    let text = tree.root.text(&path(vmid)).is()?;
    let digest = sha1::Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let (mut main, mut pending) = (Vec::new(), Vec::new());
    let mut section = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
            continue;
        }
        let Some((key, value)) = line.split_once(':').filter(|(key, _)| !key.starts_with('#')) else { continue };
        let value = value.trim().to_owned();
        match (section.as_str(), key) {
            ("", _) => main.push((key.to_owned(), value)),
            ("PENDING", "delete") => pending.extend(value.split(',').map(|key| (key.trim().to_owned(), None))),
            ("PENDING", _) => pending.push((key.to_owned(), Some(value))),
            _ => {}
        }
    }
    Some(Conf { text, main, pending, digest })
}

/// Writes what waits for a stop and start; the rest of the file stays.
pub(super) fn set_pending(
    tree: &Tree,
    vmid: u32,
    conf: &Conf,
    pending: &[(String, Option<String>)],
) -> Result<(), PhysicsError> {
    let end = conf.text.find("\n[").map_or(conf.text.len(), |at| at + 1);
    let (main, rest) = conf.text.split_at(end);
    let snapshots = match rest.strip_prefix("[PENDING]") {
        Some(after) => after.find("\n[").map_or("", |at| after.get(at + 1..).unwrap_or_default()),
        None => rest,
    };
    let mut text = main.trim_end().to_owned() + "\n";
    if !pending.is_empty() {
        text.push_str("\n[PENDING]\n");
        let gone: Vec<&str> =
            pending.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key.as_str()).collect();
        if !gone.is_empty() {
            text.push_str(&format!("delete: {}\n", gone.join(",")));
        }
        for (key, value) in pending {
            if let Some(value) = value {
                text.push_str(&format!("{key}: {value}\n"));
            }
        }
    }
    if !snapshots.is_empty() {
        text.push('\n');
        text.push_str(snapshots);
    }
    tree.write(&path(vmid), text)
}
