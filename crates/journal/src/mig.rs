//! Hands for MIG: a card is cut into instances, or made whole.

use std::sync::mpsc;
use std::time::Duration;

use cuda::nvml::{Device, GpuInstance, NvmlCode, PROFILES, Said, Session};
use model::{MigInstance, MigLayout, MigOp};

use crate::HandError;

/// Making or taking an instance takes the driver a second or two; a change of mode resets the card.
const LIMIT: Duration = Duration::from_secs(120);

/// Cuts the card as `to` says, from whatever of `from` and `to` is there: an interrupted one goes on.
pub(crate) fn carry(op: &MigOp, to: &MigLayout, from: &MigLayout) -> Result<(), HandError> {
    let (op, to, from) = (op.clone(), to.clone(), from.clone());
    bounded("cutting", move || {
        let session = Session::open().map_err(refused("nvmlInit_v2"))?;
        let card = this(&session, &op)?;
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
        let session = Session::open().ok()?;
        let card = this(&session, &op).ok()?;
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
fn this<'a>(session: &'a Session, op: &MigOp) -> Result<Device<'a>, HandError> {
    let card = session.device(&op.bdf.to_string()).map_err(refused("nvmlDeviceGetHandleByPciBusId_v2"))?;
    let found = card.uuid().map_err(refused("nvmlDeviceGetUUID"))?;
    if found == op.uuid {
        return Ok(card);
    }
    Err(HandError::Moved { what: op.bdf.to_string(), wanted: op.uuid.clone(), found })
}

/// A GPU instance and the compute slices of each compute instance in it.
struct Part {
    instance: GpuInstance,
    compute: Vec<u32>,
}

/// What the card is cut into, by start.
fn parts(card: &Device<'_>) -> Said<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for profile in (0..PROFILES).filter_map(|number| card.profile(number).ok()) {
        for instance in card.gpu_instances(profile.id)? {
            // two numbers of NVML's may be one profile of the driver's
            if parts.iter().all(|part| part.instance.id != instance.id) {
                let compute = card.compute_instances(&instance)?.iter().map(|it| it.size).collect();
                parts.push(Part { instance, compute });
            }
        }
    }
    parts.sort_by_key(|part| part.instance.start);
    Ok(parts)
}

fn layout(card: &Device<'_>, op: &MigOp) -> Said<MigLayout> {
    let enabled = card.mig_mode()?.0 == 1;
    if !enabled {
        return Ok(MigLayout::default());
    }
    let known = || op.from.instances.iter().chain(&op.to.instances);
    let name =
        |id: u32| known().find(|it| it.id == id).map_or_else(|| format!("profile {id}"), |it| it.profile.clone());
    let part = |part: Part| MigInstance {
        profile: name(part.instance.profile),
        id: part.instance.profile,
        start: Some(part.instance.start),
        size: part.instance.size,
        compute: part.compute,
    };
    Ok(MigLayout { enabled, instances: parts(card)?.into_iter().map(part).collect() })
}

fn cut(card: &Device<'_>, to: &MigLayout, from: &MigLayout) -> Result<(), HandError> {
    let enabled = card.mig_mode().map_err(refused("nvmlDeviceGetMigMode"))?.0 == 1;
    let parts = if enabled { parts(card).map_err(refused("nvmlDeviceGetGpuInstances"))? } else { Vec::new() };
    let known = |part: &&Part| [to, from].iter().any(|layout| layout.instances.iter().any(|it| same(it, part)));
    // one that this step made and did not finish: at its place, and with fewer compute instances
    let begun = |part: &&Part| {
        let own = |it: &&MigInstance| it.id == part.instance.profile && it.compute.starts_with(&part.compute);
        let at = |it: &MigInstance| it.start.is_none_or(|start| start == part.instance.start);
        to.instances.iter().chain(&from.instances).filter(own).any(at)
    };
    if let Some(part) = parts.iter().find(|part| !known(part) && !begun(part)) {
        return Err(HandError::Moved {
            what: "the card's MIG instances".into(),
            wanted: "the ones that the plan saw".into(),
            found: format!("an instance of profile {} at slice {}", part.instance.profile, part.instance.start),
        });
    }
    // What stays is left alone: somebody may compute in it.
    let mut missing: Vec<&MigInstance> = to.instances.iter().collect();
    for part in &parts {
        match missing.iter().position(|wanted| to.enabled && same(wanted, part)) {
            Some(at) => drop(missing.remove(at)),
            None => destroy(card, part)?,
        }
    }
    if enabled != to.enabled {
        mode(card, to.enabled)?;
    }
    for wanted in missing {
        let place = wanted.start.map(|start| (start, wanted.size));
        let instance = card.create_gpu_instance(wanted.id, place).map_err(refused("nvmlDeviceCreateGpuInstance"))?;
        for slices in &wanted.compute {
            let made = card.create_compute_instance(&instance, *slices);
            made.map_err(refused("nvmlGpuInstanceCreateComputeInstance"))?;
        }
    }
    Ok(())
}

fn destroy(card: &Device<'_>, part: &Part) -> Result<(), HandError> {
    let compute = card.compute_instances(&part.instance).map_err(refused("nvmlGpuInstanceGetComputeInstances"))?;
    for it in &compute {
        card.destroy_compute_instance(it).map_err(refused("nvmlComputeInstanceDestroy"))?;
    }
    card.destroy_gpu_instance(&part.instance).map_err(refused("nvmlGpuInstanceDestroy"))
}

fn mode(card: &Device<'_>, on: bool) -> Result<(), HandError> {
    let effective = card.set_mig_mode(on).map_err(refused("nvmlDeviceSetMigMode"))?;
    let now = card.mig_mode().map_err(refused("nvmlDeviceGetMigMode"))?.0 == 1;
    if now == on {
        return Ok(());
    }
    // Back to where it was: a mode that waits would come at some later reset, unasked.
    let _ = card.set_mig_mode(now);
    let why = effective.err().map_or("it waits for a reset", says);
    Err(HandError::NotHere {
        what: format!("MIG {}", if on { "on" } else { "off" }),
        why: format!("{why}. Stop what has the card open, or plan with --at-boot and reboot"),
    })
}

fn same(wanted: &MigInstance, part: &Part) -> bool {
    let place = wanted.start.is_none_or(|start| start == part.instance.start);
    place && wanted.id == part.instance.profile && wanted.compute == part.compute
}

fn refused(call: &'static str) -> impl Fn(NvmlCode) -> HandError {
    move |code| HandError::Failed {
        command: call.into(),
        status: format!("code {}", code.0),
        message: says(code).into(),
    }
}

fn says(code: NvmlCode) -> &'static str {
    match code {
        NvmlCode::NO_PERMISSION => "no permission; this needs root",
        NvmlCode::NOT_SUPPORTED => "not supported on this card",
        NvmlCode::LIBRARY_NOT_FOUND => "libnvidia-ml.so.1 is not here",
        NvmlCode::FUNCTION_NOT_FOUND => "the driver is too old for it",
        NvmlCode::GPU_IS_LOST => "the GPU is lost",
        NvmlCode::RESET_REQUIRED => "the GPU must be reset first",
        NvmlCode::IN_USE => "something uses the card",
        NvmlCode::INSUFFICIENT_RESOURCES => "there is no room for it",
        _ => "an error of the driver",
    }
}
