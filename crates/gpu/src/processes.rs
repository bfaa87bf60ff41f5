//! The process table, as far as this user may see it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use machine::{Machine, MachineExt as _};
use model::{Reason, Seen};

pub(crate) struct Processes<'a> {
    machine: &'a dyn Machine,
    pids: Vec<u32>,
    /// Why the table itself could not be seen.
    hidden: Option<Reason>,
    /// Device node → processes that hold it open, for the nodes of GPUs; read when first asked.
    open: OnceCell<Open>,
}

#[derive(Default)]
struct Open {
    by_node: BTreeMap<String, BTreeSet<u32>>,
    /// Some process did not let us look at its descriptors.
    hidden: Option<Reason>,
}

impl<'a> Processes<'a> {
    pub(crate) fn new(machine: &'a dyn Machine) -> Self {
        let (pids, hidden) = match machine.list("/proc") {
            Seen::Is(names) => {
                let pids: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
                // A running system always has process 1. A capture without any was made without looking.
                let hidden = if pids.is_empty() { machine.stat("/proc/1").unreadable().cloned() } else { None };
                (pids, hidden)
            }
            Seen::Absent => (Vec::new(), None),
            Seen::Unreadable(reason) => (Vec::new(), Some(reason)),
        };
        Processes { machine, pids, hidden, open: OnceCell::new() }
    }

    pub(crate) fn pids(&self) -> &[u32] {
        &self.pids
    }

    pub(crate) fn has(&self, pid: u32) -> bool {
        self.pids.contains(&pid)
    }

    /// The command line, empty where there is none (a kernel thread) or it is not ours to see.
    pub(crate) fn command(&self, pid: u32) -> Vec<String> {
        let text = self.machine.text(&format!("/proc/{pid}/cmdline")).is().unwrap_or_default();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    /// "1719 ffmpeg".
    pub(crate) fn label(&self, pid: u32) -> String {
        match self.machine.value(&format!("/proc/{pid}/comm")) {
            Seen::Is(name) if !name.is_empty() => format!("{pid} {name}"),
            _ => pid.to_string(),
        }
    }

    /// The processes that hold one of these device nodes open.
    pub(crate) fn with_open(&self, nodes: &BTreeSet<String>) -> BTreeSet<u32> {
        if nodes.is_empty() {
            return BTreeSet::new();
        }
        let open = self.open();
        nodes.iter().filter_map(|node| open.by_node.get(node)).flatten().copied().collect()
    }

    /// The device nodes of GPUs that a process holds open.
    pub(crate) fn nodes_of(&self, pid: u32) -> Vec<String> {
        let open = self.open().by_node.iter();
        open.filter(|(_, pids)| pids.contains(&pid)).map(|(node, _)| node.clone()).collect()
    }

    /// Why "nobody" cannot be said, if so.
    pub(crate) fn unseen(&self) -> Option<String> {
        let reason = self.hidden.as_ref().or_else(|| self.open().hidden.as_ref());
        reason.map(ToString::to_string)
    }

    fn open(&self) -> &Open {
        self.open.get_or_init(|| {
            let mut open = Open::default();
            // Whoever looks has the card open too, for as long as its own talk with NVML lasts.
            let own = self.machine.link("/proc/self").get().and_then(|pid| pid.parse().ok());
            for pid in self.pids.iter().filter(|pid| Some(**pid) != own) {
                let dir = format!("/proc/{pid}/fd");
                match self.machine.list(&dir) {
                    Seen::Is(descriptors) => {
                        for descriptor in descriptors {
                            let Seen::Is(target) = self.machine.link(&format!("{dir}/{descriptor}")) else { continue };
                            if is_gpu_node(&target) {
                                open.by_node.entry(target).or_default().insert(*pid);
                            }
                        }
                    }
                    // It ended while we looked.
                    Seen::Absent => {}
                    Seen::Unreadable(reason) => {
                        open.hidden.get_or_insert(reason);
                    }
                }
            }
            open
        })
    }
}

fn is_gpu_node(target: &str) -> bool {
    ["/dev/nvidia", "/dev/dri/", "/dev/vfio/", "/dev/snd/"].iter().any(|front| target.starts_with(front))
}
