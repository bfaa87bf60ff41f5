//! A card changes hands now, without a reboot: its whole IOMMU group at once, its users named or stopped first.
//!
//! A bind lasts until the next boot, or until `thruway host unbind`. What it needs of the machine: an IOMMU (vfio-pci's
//! probe says EINVAL without), and nobody who uses the card: its driver would wait for him, perhaps for ever.

use std::collections::BTreeSet;

use gpu::{Function, Holder, KernelUse, User, Who};
use model::{
    Before, BindOp, Change, Effective, Hold, Intent, Layer, Op, Plan, Refusal, Risk, Seen, ServiceVerb, Taker, Undo,
};

use crate::checks::group;
use crate::facts::{Facts, Target, is_vfio};

const IN_USE: &str = "host/in-use";
const OWNER: &str = "host/driver-owns-card";

/// Adds the steps that give the targets' groups to `driver`.
pub(super) fn give(facts: &Facts, intent: &Intent, targets: &[Target<'_>], driver: &str, plan: &mut Plan) {
    // vfio-pci knows no card by itself; any other driver shall take only what it knows.
    let forced = is_vfio(driver).then(|| driver.to_owned());
    let want = Hold { driver: Taker::Driver(driver.to_owned()), forced };
    let moves: Vec<Move<'_>> =
        going(facts, targets).into_iter().map(|function| Move { function, to: want.clone() }).collect();
    if is_vfio(driver) {
        for target in targets.iter().filter(|target| target.card.group.is_absent()) {
            let on = "no IOMMU runs on this machine, so vfio-pci refuses every card";
            let says = match &facts.iommu.units {
                Seen::Is(units) if !units.is_empty() => "it is in no IOMMU group, so vfio-pci refuses it",
                _ => on,
            };
            plan.refusals.push(Refusal {
                because: "host/iommu-kernel-off".into(),
                says: format!("{} cannot be bound now: {says}", target.name()),
                instead: format!("thruway host plan --give {} --at-boot", target.card.identity.bdf.short()),
            });
        }
    }
    add(facts, intent, targets, &moves, plan);
}

/// Adds the steps that give the targets' groups back: each function to the driver that the journal remembers, else to
/// the kernel's own choice.
pub(super) fn give_back(facts: &Facts, intent: &Intent, targets: &[Target<'_>], plan: &mut Plan) {
    let mut moves = Vec::new();
    for function in going(facts, targets) {
        let mine = facts.remembered.get(&function.bdf);
        let mine = mine.filter(|op| op.id == function.id && op.to.driver == now(function).driver);
        let taken = function.driver.get().is_some_and(|driver| is_vfio(driver)) || function.driver_override.is_there();
        let to = match mine {
            Some(op) => op.from.clone(),
            None if taken => Hold { driver: Taker::Kernel, forced: None },
            // A neighbour that kept its driver, or a boot since: nothing of ours.
            None => continue,
        };
        moves.push(Move { function, to });
    }
    for held in targets.iter().flat_map(|target| &target.functions).filter_map(|f| facts.written_hold(f)) {
        let note = format!("{held} still gives it to vfio-pci at the next boot");
        if !plan.notes.contains(&note) {
            plan.notes.push(note);
        }
    }
    add(facts, intent, targets, &moves, plan);
}

/// Why the cards cannot change hands, whatever the wish: who uses them, by name. Empty where nobody does.
pub fn busy(facts: &Facts, cards: &[model::Bdf]) -> Vec<Refusal> {
    let targets: Vec<Target<'_>> = cards.iter().filter_map(|bdf| facts.target(*bdf)).collect();
    let mut plan = Plan::new(Layer::Host, &Intent::default(), Default::default());
    users(facts, &Intent::default(), &targets, &mut plan);
    plan.refusals
}

struct Move<'a> {
    function: &'a Function,
    to: Hold,
}

/// Every endpoint that goes with the cards: function 0 first, since it is the one that may not let go, and then
/// nothing else has been touched.
fn going<'a>(facts: &'a Facts, targets: &[Target<'a>]) -> Vec<&'a Function> {
    let mut all: Vec<&'a Function> = targets.iter().flat_map(|target| target.functions.iter().copied()).collect();
    for target in targets {
        all.extend(group::strangers(facts, target, targets));
    }
    let mut known = BTreeSet::new();
    all.retain(|function| known.insert(function.bdf));
    all
}

fn now(function: &Function) -> Hold {
    Hold {
        driver: function.driver.get().map_or(Taker::Nobody, |driver| Taker::Driver(driver.clone())),
        forced: function.driver_override.get().cloned(),
    }
}

fn add(facts: &Facts, intent: &Intent, targets: &[Target<'_>], moves: &[Move<'_>], plan: &mut Plan) {
    let moves: Vec<&Move<'_>> = moves.iter().filter(|one| !one.to.met_by(&now(one.function))).collect();
    let leaves = |one: &&Move<'_>| one.function.driver.is_there() && now(one.function).driver != one.to.driver;
    // Who only gets another driver_override, or had no driver, is not torn from anybody.
    if moves.iter().any(leaves) {
        users(facts, intent, targets, plan);
    }
    for one in moves {
        let (bdf, from) = (one.function.bdf, now(one.function));
        let title = match (&one.to.driver, &from.driver) {
            (to, Taker::Driver(name)) => format!("take {} from {name} and give it to {to}, now", bdf.short()),
            (to, _) => format!("give {} to {to}, now", bdf.short()),
        };
        let mut risk = Vec::new();
        if let (Taker::Driver(name), true) = (&from.driver, leaves(&one)) {
            risk.push(Risk::Outage(format!("{name} loses {} at once", bdf.short())));
        }
        plan.changes.push(Change {
            layer: Layer::Host,
            title,
            expects: Before::Value(from.driver.to_string()),
            op: Op::Bind(BindOp { bdf, id: one.function.id, from, to: one.to.clone() }),
            because: vec![OWNER.into()],
            risk,
            effective: Effective::Now,
            undo: Undo::Inverse,
        });
    }
}

/// Names those who use the cards, or stops those whom we were told to stop.
fn users(facts: &Facts, intent: &Intent, targets: &[Target<'_>], plan: &mut Plan) {
    let mut units: BTreeSet<String> = BTreeSet::new();
    for target in targets {
        let name = target.name();
        if let Holder::Vm(vms) = &target.card.holder {
            let vms = vms.join(", ");
            let says = format!("{name} is in use: VM {vms} runs with it");
            let paste = format!("stop it: qm stop {0}, or virsh shutdown {0}", vms.split(' ').next().unwrap_or(&vms));
            plan.refusals.push(Refusal { because: IN_USE.into(), says, instead: paste });
        }
        let Some(users) = facts.users.get(&target.card.identity.bdf) else { continue };
        for user in &users.processes {
            match &user.who {
                Who::Unit(unit) | Who::Desktop(unit) if intent.stop_holders => {
                    if units.insert(unit.clone()) {
                        plan.changes.push(stop(user, unit, &name));
                    }
                }
                Who::Process if intent.stop_holders && user.started.is_some() => plan.changes.push(end(user, &name)),
                // A VM is told above, by its own name.
                Who::Vm(_) if matches!(target.card.holder, Holder::Vm(_)) => {}
                _ => plan.refusals.push(in_use(user, target)),
            }
        }
        plan.refusals.extend(users.kernel.iter().map(|held| in_kernel(held, &name)));
        if let Some(reason) = &users.unseen {
            plan.refusals.push(Refusal {
                because: IN_USE.into(),
                says: format!("not everybody who may use {name} could be seen: {reason}"),
                instead: "run thruway as root".into(),
            });
        }
    }
}

fn in_use(user: &User, target: &Target<'_>) -> Refusal {
    let nodes = user.nodes.join(", ");
    let process = format!("process {} ({}), which has {nodes} open", user.pid, user.name);
    let bdf = target.card.identity.bdf.short();
    let stop = format!("thruway host bind {bdf} --stop-holders");
    let (who, instead) = match &user.who {
        Who::Unit(unit) => (format!("{unit}: {process}"), format!("systemctl stop {unit}, or {stop}")),
        Who::Desktop(unit) => {
            (format!("the desktop of {unit}: {process}"), format!("systemctl stop {unit}, or {stop}"))
        }
        Who::Pod(pod) => {
            let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
            let way = format!(
                "scale its workload down, or kubectl --namespace {namespace} delete pod {name} (its controller makes a new one)"
            );
            (format!("the pod {pod}: {process}"), way)
        }
        Who::Container(name) => (format!("the container {name}: {process}"), format!("docker stop {name}")),
        Who::SystemContainer(name) => {
            (format!("the container {name}: {process}"), format!("pct stop {name}, or lxc-stop {name}"))
        }
        Who::Vm(name) => (format!("the VM {name}: {process}"), "shut the VM down".into()),
        Who::Process if user.started.is_some() => (process, format!("end it, or {stop}")),
        Who::Process => (process, "end it".into()),
    };
    Refusal { because: IN_USE.into(), says: format!("{} is in use by {who}", target.name()), instead }
}

fn in_kernel(held: &KernelUse, name: &str) -> Refusal {
    let says = format!("{name}: {} ({}: {})", held.says, held.evidence.source, held.evidence.value);
    Refusal { because: IN_USE.into(), says, instead: held.paste.join("; ") }
}

fn stop(user: &User, unit: &str, name: &str) -> Change {
    let what = match &user.who {
        Who::Desktop(_) => format!("{unit} stops: every desktop session on this machine ends, unsaved work is lost"),
        _ => format!("{unit} stops"),
    };
    Change {
        layer: Layer::Host,
        title: format!("stop {unit}, whose process {} ({}) uses {name}", user.pid, user.name),
        op: Op::Service { unit: unit.to_owned(), verb: ServiceVerb::Stop },
        expects: Before::Nothing,
        because: vec![IN_USE.into()],
        risk: vec![Risk::Outage(what)],
        effective: Effective::Now,
        undo: Undo::Inverse,
    }
}

fn end(user: &User, name: &str) -> Change {
    let op = Op::EndProcess { pid: user.pid, name: user.name.clone(), started: user.started.unwrap_or_default() };
    Change {
        layer: Layer::Host,
        title: format!("end process {} ({}), which uses {name} ({})", user.pid, user.name, user.nodes.join(", ")),
        op,
        expects: Before::Nothing,
        because: vec![IN_USE.into()],
        risk: vec![Risk::Outage(format!("process {} ({}) ends", user.pid, user.name))],
        effective: Effective::Now,
        undo: Undo::Left,
    }
}
