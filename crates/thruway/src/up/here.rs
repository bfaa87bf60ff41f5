//! The machine's side of an up: what it looks at first, and who is at work.

use machine::{Kind, MachineExt as _};
use model::Effective;

use crate::change::rootly;
use crate::cli::{Global, HoldArgs};
use crate::pve_api;
use crate::target::Target;
use crate::{DONE, say};

const SCHEMA: u32 = 1;

/// Boot, what stands, and who is changing it.
pub fn here(global: &Global) -> anyhow::Result<u8> {
    let (log, boot, busy, name, simulated) = match pve_api::log(global)? {
        // what was done to a node by its API is written down here: it need not be asked
        Some(log) => (log, None, None, global.pve.url.clone().unwrap_or_default(), false),
        None => {
            let target = Target::open(global)?;
            let busy = match &target {
                Target::Root(root) | Target::Simulated { root, .. } => journal::busy(root),
                _ => None,
            };
            let boot = target.machine().value("/proc/sys/kernel/random/boot_id").is();
            (target.log()?, boot, busy, target.name(global), target.machine().kind() == Kind::Simulated)
        }
    };
    let stands = |t: &&journal::Transaction| t.state != journal::State::Undone;
    let standing: Vec<_> = log
        .iter()
        .filter(stands)
        .map(|t| {
            let at_boot = t.plan.changes.iter().any(|change| change.effective == Effective::NextBoot);
            let booted = at_boot && (t.boot.is_none() || t.boot != boot);
            let floors: Vec<&str> = t.plan.layers.iter().map(|layer| layer.name()).collect();
            serde_json::json!({ "number": t.number, "floors": floors, "by": t.plan.asked.by, "state": t.state, "booted": booted })
        })
        .collect();
    let report = serde_json::json!({
        "schema": SCHEMA, "thruway": env!("CARGO_PKG_VERSION"), "machine": name,
        "simulated": simulated, "boot": boot, "busy": busy, "standing": standing,
    });
    say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    Ok(DONE)
}

pub fn hold(global: &Global, args: &HoldArgs) -> anyhow::Result<u8> {
    let path = Target::open(global)?.path()?;
    let wish = journal::hold::Hold {
        id: args.id.clone(),
        session: args.session.clone(),
        who: args.who.clone(),
        controller: args.controller.clone(),
        since: 0,
        seen: 0,
    };
    journal::hold::take(&path, &wish, args.take_over, now()).map_err(told)?;
    Ok(DONE)
}

pub fn release(global: &Global, id: &str) -> anyhow::Result<u8> {
    journal::hold::release(&Target::open(global)?.path()?, id).map_err(told)?;
    Ok(DONE)
}

fn told(error: journal::hold::HoldError) -> anyhow::Error {
    match error {
        journal::hold::HoldError::Journal(error) => rootly(error),
        held => held.into(),
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
