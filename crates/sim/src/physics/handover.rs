//! A function changes hands while the machine runs: what the kernel does with `driver_override`, `unbind` and `bind`,
//! and what goes wrong there. Processes end, services stop.

use std::collections::BTreeMap;
use std::path::Path;

use journal::{HandError, bind};
use machine::{Machine as _, MachineExt as _};
use model::{Bdf, BindOp, Hold, Seen, Taker};
use serde::{Deserialize, Serialize};

use super::PhysicsError;
use crate::tree::Tree;

const TROUBLE: &str = "trouble.json";
const HUNG: &str = "hung.json";

/// What goes wrong on this machine when a function changes hands. Kept with the simulated machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trouble {
    /// Their driver never lets go, though nobody is seen to use them.
    pub unbind_hangs: Vec<Bdf>,
    /// vfio-pci's probe of them fails.
    pub bind_fails: Vec<Bdf>,
    /// Processes that take no notice of SIGTERM.
    pub stubborn: Vec<u32>,
}

/// Makes these things go wrong from now on; the default takes all troubles away.
pub fn set_trouble(root: &Path, trouble: &Trouble) -> Result<(), PhysicsError> {
    Tree::open(root)?.store(TROUBLE, trouble)
}

fn trouble(tree: &Tree) -> Trouble {
    tree.stored(TROUBLE).unwrap_or_default()
}

/// NVIDIA's driver waits for its last user (`nv_pci_remove`).
fn in_use(tree: &Tree, bdf: Bdf) -> bool {
    let driver = bind::seen(&tree.root, bdf).driver;
    driver == Taker::Driver("nvidia".into())
        && tree.root.names("/proc").iter().filter(|name| name.parse::<u32>().is_ok()).any(|pid| {
            let dir = format!("/proc/{pid}/fd");
            let numbered = |node: &str| node.strip_prefix("/dev/nvidia").is_some_and(|n| n.parse::<u32>().is_ok());
            tree.root.names(&dir).iter().any(|fd| match tree.root.link(&format!("{dir}/{fd}")) {
                Seen::Is(node) => numbered(&node),
                _ => false,
            })
        })
}

/// Makes the function `to`'s, as the real hands do, by the same order of writes.
pub(crate) fn carry(tree: &Tree, op: &BindOp, to: &Hold) -> Result<(), HandError> {
    bind::same_card(&tree.root, op)?;
    let mut hung: Vec<Bdf> = tree.stored(HUNG).unwrap_or_default();
    let hangs = trouble(tree).unbind_hangs.contains(&op.bdf) || in_use(tree, op.bdf);
    if hung.contains(&op.bdf) {
        // Every write to the function waits for the lock that the hanging one holds.
        if hangs {
            return Err(stuck(op, "driver_override"));
        }
        hung.retain(|bdf| *bdf != op.bdf);
        store(tree, &hung)?;
        change(tree, op.bdf, |function| function.driver.clear())?;
    }
    let now = bind::seen(&tree.root, op.bdf);
    if to.met_by(&now) {
        return Ok(());
    }
    if now.forced != to.forced {
        let forced = to.forced.clone();
        change(tree, op.bdf, move |function| function.driver_override = forced)?;
    }
    if now.driver != to.driver {
        if now.driver != Taker::Nobody {
            if hangs {
                hung.push(op.bdf);
                store(tree, &hung)?;
                return Err(stuck(op, "driver/unbind"));
            }
            change(tree, op.bdf, |function| function.driver.clear())?;
        }
        take(tree, op.bdf, &to.driver)?;
    }
    if to.met_by(&bind::seen(&tree.root, op.bdf)) {
        return Ok(());
    }
    Err(refused(&format!("giving {} to {}", op.bdf, to.driver), "No such device"))
}

fn take(tree: &Tree, bdf: Bdf, taker: &Taker) -> Result<(), HandError> {
    let functions = tree.functions().map_err(|error| refused("reading the machine", &error.to_string()))?;
    let Some(function) = functions.iter().find(|function| function.bdf == bdf) else {
        return Err(refused(&format!("binding {bdf}"), "No such device"));
    };
    let driver = match taker {
        Taker::Nobody => return Ok(()),
        Taker::Driver(name) => name.clone(),
        Taker::Kernel => function.driver_override.clone().unwrap_or_else(|| function.native()),
    };
    let what = format!("writing \"{bdf}\" to /sys/bus/pci/drivers/{driver}/bind");
    // A driver takes what matches: its own kinds, or what driver_override gives it.
    let matches = match &function.driver_override {
        Some(forced) => *forced == driver,
        None => function.native() == driver || driver == "nvidia" && function.native() == "nouveau",
    };
    if !matches {
        return Err(refused(&what, "No such device"));
    }
    if driver == "vfio-pci" {
        // Without an IOMMU there is no group, and vfio-pci's probe says EINVAL.
        if function.group.is_none() {
            return Err(refused(&what, "Invalid argument"));
        }
        if trouble(tree).bind_fails.contains(&bdf) {
            return Err(refused(&what, "Device or resource busy"));
        }
    }
    change(tree, bdf, move |function| function.driver = driver)
}

fn change(tree: &Tree, bdf: Bdf, change: impl FnOnce(&mut crate::Pci)) -> Result<(), HandError> {
    let done = super::bind(tree, |functions| {
        if let Some(function) = functions.iter_mut().find(|function| function.bdf == bdf) {
            change(function);
        }
    });
    done.map_err(|error| refused(&format!("changing {bdf}"), &error.to_string()))
}

fn store(tree: &Tree, hung: &[Bdf]) -> Result<(), HandError> {
    tree.store(HUNG, hung).map_err(|error| refused("the simulator", &error.to_string()))
}

fn refused(what: &str, message: &str) -> HandError {
    HandError::Failed { command: what.into(), status: "exit status 1".into(), message: message.into() }
}

fn stuck(op: &BindOp, attribute: &str) -> HandError {
    HandError::Hung {
        what: format!("writing to {}/{attribute}", bind::device(op.bdf)),
        seconds: bind::LIMIT.as_secs(),
        evidence: "simulated: state D in nv_pci_remove, and cannot be killed".into(),
        instead: format!("Something still uses {}; if it never goes, only a reboot frees the card", op.bdf),
        stuck: true,
    }
}

/// A boot ends what hung.
pub(crate) fn forget(tree: &Tree) -> Result<(), PhysicsError> {
    tree.store(HUNG, &Vec::<Bdf>::new())?;
    tree.store(STOPPED, &BTreeMap::<String, Vec<Kept>>::new())
}

/// SIGTERM.
pub(crate) fn end(tree: &Tree, pid: u32, name: &str) -> Result<(), HandError> {
    if trouble(tree).stubborn.contains(&pid) {
        let message = "it is still there after 10 s; end it by hand";
        return Err(HandError::Failed {
            command: format!("SIGTERM to process {pid} ({name})"),
            status: "no effect".into(),
            message: message.into(),
        });
    }
    tree.remove(&format!("/proc/{pid}")).map_err(|error| refused("SIGTERM", &error.to_string()))
}

const STOPPED: &str = "stopped.json";

/// A process's file (text) or link (target), kept while its unit is stopped.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    path: String,
    text: String,
    link: bool,
}

/// systemd ends a unit's processes with it, and starts them with it.
pub(crate) fn unit(tree: &Tree, unit: &str, runs: bool) -> Result<(), PhysicsError> {
    let mut stopped: BTreeMap<String, Vec<Kept>> = tree.stored(STOPPED).unwrap_or_default();
    if runs {
        for kept in stopped.remove(unit).unwrap_or_default() {
            if kept.link { tree.link(&kept.path, &kept.text)? } else { tree.write(&kept.path, &kept.text)? }
        }
    } else {
        let mut gone = Vec::new();
        for pid in tree.root.names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok()) {
            let dir = format!("/proc/{pid}");
            if !tree.text(&format!("{dir}/cgroup")).split(['/', '\n']).any(|part| part == unit) {
                continue;
            }
            for name in tree.root.names(&dir).into_iter().filter(|name| name != "fd") {
                let path = format!("{dir}/{name}");
                gone.push(Kept { text: tree.text(&path), path, link: false });
            }
            for fd in tree.root.names(&format!("{dir}/fd")) {
                let path = format!("{dir}/fd/{fd}");
                let text = tree.root.link(&path).is().unwrap_or_default();
                gone.push(Kept { text, path, link: true });
            }
            tree.remove(&dir)?;
        }
        if !gone.is_empty() {
            stopped.insert(unit.into(), gone);
        }
    }
    tree.store(STOPPED, &stopped)
}
