//! `thruway assign`: to whom a GPU is promised.

use anyhow::bail;
use gpu::promises;
use journal::ledger::{self, Owner};

use crate::change::{self, Go};
use crate::cli::{AssignArgs, Global};
use crate::target::Target;

pub fn assign(global: &Global, args: &AssignArgs) -> anyhow::Result<u8> {
    let to = match args.to.as_str() {
        "nobody" => None,
        text => Some(text.parse::<Owner>().map_err(anyhow::Error::msg)?),
    };
    let target = Target::open(global)?;
    let inventory = gpu::observe(target.machine());
    if let Some(reason) = inventory.looked.unreadable() {
        bail!("could not look at the PCI bus: {reason}");
    }
    let card = promises::find(&inventory, &args.gpu).map_err(anyhow::Error::msg)?;
    let plan = promises::assign(&ledger::read(target.machine()), &inventory, card, to.as_ref());
    let go = Go { name: change::this_plan(), yes: args.yes, dry_run: args.dry_run, limit: journal::bind::LIMIT };
    change::carry_out(global, &target, &plan, &[], &go)
}
