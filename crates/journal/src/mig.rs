//! Hands for MIG: a card is cut into instances, or made whole.

use std::sync::mpsc;
use std::time::Duration;

use cuda::{Mig, MigCard, MigError, Part};
use model::{MigInstance, MigLayout, MigOp};

use crate::HandError;

/// Making or taking an instance takes the driver a second or two; a change of mode resets the card.
const LIMIT: Duration = Duration::from_secs(120);

/// Cuts the card as `to` says, from whatever of `from` and `to` is there: an interrupted one goes on.
pub(crate) fn carry(op: &MigOp, to: &MigLayout, from: &MigLayout) -> Result<(), HandError> {
    let (op, to, from) = (op.clone(), to.clone(), from.clone());
    bounded("cutting", move || {
        let mig = Mig::open().map_err(failed)?;
        let card = this(&mig, &op)?;
        cut(&card, &to, &from)
    })?
}

/// Cuts the card as `op.to` says, whatever it is cut into: for the boot, at which nothing is.
pub fn restore(op: &MigOp) -> Result<(), HandError> {
    let mut op = op.clone();
    op.from = now(&op).unwrap_or_default();
    carry(&op, &op.to, &op.from)
}

/// How the card is cut now; `None` where that cannot be told.
pub(crate) fn now(op: &MigOp) -> Option<MigLayout> {
    let op = op.clone();
    bounded("looking", move || {
        let mig = Mig::open().ok()?;
        let card = this(&mig, &op).ok()?;
        layout(&card, &op).ok()
    })
    .ok()?
}

/// A driver that hangs must not take us with it. Its thread stays behind, and ends with this process.
fn bounded<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, HandError> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        // nobody hears it where we gave up
        let _ = send.send(work());
    });
    receive.recv_timeout(LIMIT).map_err(|_| HandError::Hung {
        what: format!("{what} the card by NVML"),
        seconds: LIMIT.as_secs(),
        evidence: "no answer of libnvidia-ml.so.1".into(),
        instead: "Look at the kernel's log for Xid lines; a reboot may be needed".into(),
        stuck: true,
    })
}

/// The card that was meant, and no other at its address.
fn this<'a>(mig: &'a Mig, op: &MigOp) -> Result<MigCard<'a>, HandError> {
    let card = mig.card(&op.bdf.to_string()).map_err(failed)?;
    let found = card.uuid().map_err(failed)?;
    if found == op.uuid {
        return Ok(card);
    }
    Err(HandError::Moved { what: op.bdf.to_string(), wanted: op.uuid.clone(), found })
}

fn layout(card: &MigCard<'_>, op: &MigOp) -> Result<MigLayout, MigError> {
    let (enabled, _) = card.mode()?;
    if !enabled {
        return Ok(MigLayout::default());
    }
    let known = || op.from.instances.iter().chain(&op.to.instances);
    let name =
        |id: u32| known().find(|it| it.id == id).map_or_else(|| format!("profile {id}"), |it| it.profile.clone());
    let part = |part: Part| MigInstance {
        profile: name(part.profile),
        id: part.profile,
        start: Some(part.start),
        size: part.size,
        compute: part.compute,
    };
    Ok(MigLayout { enabled, instances: card.parts()?.into_iter().map(part).collect() })
}

fn cut(card: &MigCard<'_>, to: &MigLayout, from: &MigLayout) -> Result<(), HandError> {
    let (enabled, _) = card.mode().map_err(failed)?;
    let parts = if enabled { card.parts().map_err(failed)? } else { Vec::new() };
    let strange =
        parts.iter().find(|part| ![to, from].iter().any(|layout| layout.instances.iter().any(|it| same(it, part))));
    if let Some(part) = strange {
        return Err(HandError::Moved {
            what: "the card's MIG instances".into(),
            wanted: "the ones that the plan saw".into(),
            found: format!("an instance of profile {} at slice {}", part.profile, part.start),
        });
    }
    // What stays is left alone: somebody may compute in it.
    let mut missing: Vec<&MigInstance> = to.instances.iter().collect();
    for part in &parts {
        match missing.iter().position(|wanted| to.enabled && same(wanted, part)) {
            Some(at) => drop(missing.remove(at)),
            None => card.destroy(part.instance).map_err(failed)?,
        }
    }
    if enabled != to.enabled {
        let effective = card.set_mode(to.enabled).map_err(failed)?;
        let (now, _) = card.mode().map_err(failed)?;
        if now != to.enabled {
            let why = effective.err().map_or("it waits for a reset".to_owned(), |error| error.to_string());
            // back to where it was: a mode that waits would take effect at some later reset, unasked
            let _ = card.set_mode(now);
            return Err(HandError::NotHere {
                what: format!("MIG {}", if to.enabled { "on" } else { "off" }),
                why: format!("{why}. Stop what has the card open, or plan with --at-boot and reboot"),
            });
        }
    }
    for wanted in missing {
        card.create(wanted.id, wanted.start.map(|start| (start, wanted.size)), &wanted.compute).map_err(failed)?;
    }
    Ok(())
}

fn same(wanted: &MigInstance, part: &Part) -> bool {
    let place = wanted.start.is_none_or(|start| start == part.start);
    place && wanted.id == part.profile && wanted.compute == part.compute
}

fn failed(error: MigError) -> HandError {
    HandError::Failed { command: "NVML".into(), status: "refused".into(), message: error.to_string() }
}
