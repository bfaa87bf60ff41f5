//! The whole way over one machine: each floor's facts, findings, plan and outcomes, through the floors' same verbs.

use std::collections::BTreeMap;

use gpu::{Inventory, promises};
use journal::ledger::{Ledger, Owner};
use machine::Machine;
use model::{About, Bdf, BindOp, Finding, Handover, Intent, Layer, Op, Outcome, Plan, Presence, Refusal, run_all};

/// Everything that was observed of one machine.
pub struct Way {
    pub gpus: Inventory,
    /// To whom each card is promised.
    pub ledger: Ledger,
    host: host::Facts,
    vm: vm::Facts,
    guest: guest::Facts,
    container: container::Facts,
    kube: kube::Facts,
    app: app::Facts,
}

/// The host's checks that decide whether a VM with a card starts, and what the host loses by it.
const BEFORE_START: &[&str] = &[
    "host/iommu-firmware-off",
    "host/iommu-kernel-off",
    "host/intremap-missing",
    "host/rmrr-ineligible",
    "host/group-shared",
    "host/network-lost",
    "host/disk-lost",
    "host/console-lost",
    "host/iommu-address-width",
    "host/bar-unassigned",
    "host/noiommu",
    "host/card-asleep-dead",
    "host/reset-bug",
    "host/vgpu-mode",
    "host/driver-owns-card",
    "host/override-blocks",
    "host/in-use",
    "host/bootfb-holds-bar",
    "host/reset-none",
    "host/address-drift",
];

/// Calls `$verb!(floor_crate, floor_facts)` for the floor of a layer: the one place that pairs them.
macro_rules! on_floor {
    ($way:expr, $layer:expr, |$floor:ident, $facts:ident| $body:expr) => {
        match $layer {
            Layer::Host => on_floor!(@ host, &$way.host, $floor, $facts, $body),
            Layer::Vm => on_floor!(@ vm, &$way.vm, $floor, $facts, $body),
            Layer::Guest => on_floor!(@ guest, &$way.guest, $floor, $facts, $body),
            Layer::Container => on_floor!(@ container, &$way.container, $floor, $facts, $body),
            Layer::Cluster => on_floor!(@ kube, &$way.kube, $floor, $facts, $body),
            Layer::App => on_floor!(@ app, &$way.app, $floor, $facts, $body),
        }
    };
    (@ $crate_name:ident, $value:expr, $floor:ident, $facts:ident, $body:expr) => {{
        use $crate_name as $floor;
        let $facts = $value;
        $body
    }};
}

impl Way {
    pub fn observe(machine: &dyn Machine) -> Self {
        let gpus = gpu::observe(machine);
        Way {
            host: host::observe(machine, &gpus),
            vm: vm::observe(machine, &gpus),
            guest: guest::observe(machine, &gpus),
            container: container::observe(machine, &gpus),
            kube: kube::observe(machine, &gpus),
            app: app::observe(machine, &gpus),
            ledger: journal::ledger::read(machine),
            gpus,
        }
    }

    /// Asks the cards themselves, where the app floor is looked at and nobody is about to take a card from its driver: who
    /// has asked is a user of the card until it ends.
    pub fn ask_cards(&mut self, machine: &dyn Machine, layers: &[Layer], intent: &Intent) {
        if layers.contains(&Layer::App) && intent.handover == Handover::AtBoot {
            let named = intent.jellyfin.as_ref().is_some_and(|wish| wish.chip.is_none());
            app::ask(&mut self.app, machine, &self.gpus, named);
        }
    }

    /// What every card that a driver here may use can do, and their names; of the card or chip that is wished for, where one is.
    pub fn codecs(&self, wish: Option<&model::JellyfinWish>) -> (model::Seen<gpu::codecs::Codecs>, String) {
        (self.app.codecs_of(wish), self.app.names_of(wish))
    }

    /// Tells the host floor of the binds that stand.
    pub fn remember(&mut self, before: BTreeMap<Bdf, BindOp>) {
        self.host.remembered = before;
    }

    /// Lets the app floor read the files that a wish names.
    pub fn name(&mut self, machine: &dyn Machine, intent: &Intent) {
        if let Some(wish) = &intent.jellyfin {
            self.app.named = app::forms::read(machine, wish);
        }
    }

    /// Why these cards cannot change hands now: who uses them.
    pub fn busy(&self, cards: &[Bdf]) -> Vec<Refusal> {
        host::busy(&self.host, cards)
    }

    pub fn presence(&self, layer: Layer) -> Presence {
        on_floor!(self, layer, |floor, facts| floor::presence(facts))
    }

    pub fn findings(&self, layer: Layer) -> Vec<Finding> {
        on_floor!(self, layer, |floor, facts| run_all(floor::CHECKS, facts))
    }

    /// What the VM floor knows.
    pub fn vms(&self) -> &vm::Facts {
        &self.vm
    }

    /// What the host and the VM floor say of one VM and its cards, before its start.
    pub fn before_start(&self, vm: &vm::Vm) -> Vec<Finding> {
        let mut host = self.host.clone();
        let source = vm.source(vm.given.first().and_then(|given| given.line));
        let want =
            |bdf| host::Want { bdf, why: format!("{} names it", vm.title()), source: source.clone(), inferred: false };
        host.wanted = self.vm.cards_of(vm).iter().map(|card| want(card.identity.bdf)).collect();
        let asked = |finding: &Finding| BEFORE_START.contains(&finding.about.id.0);
        let mut findings: Vec<Finding> = run_all(host::CHECKS, &host).into_iter().filter(asked).collect();
        findings.extend(vm::findings_of(&self.vm, vm));
        findings
    }

    /// The plans of these floors, joined in the order of the way. A floor that changes nothing adds its notes only, so
    /// that the log says which floors a change was made on; where no floor changes anything, all say what they want.
    pub fn plan(&self, layers: &[Layer], intent: &Intent) -> Plan {
        let layers = Layer::ALL.into_iter().filter(|layer| layers.contains(layer));
        let plans: Vec<Plan> = layers
            .map(|layer| self.keep(layer, on_floor!(self, layer, |floor, facts| floor::plan(facts, intent))))
            .collect();
        let idle = plans.iter().all(Plan::is_empty);
        let (working, resting): (Vec<Plan>, Vec<Plan>) = plans.into_iter().partition(|plan| idle || !plan.is_empty());
        let notes = resting.into_iter().flat_map(|plan| plan.notes).collect::<Vec<_>>();
        let joined = working.into_iter().reduce(Plan::join);
        let mut joined = joined.unwrap_or_else(|| Plan::new(Layer::Host, intent, Default::default()));
        joined.notes.extend(notes);
        self.promise(&mut joined);
        joined
    }

    /// Who gives a named card to a named VM promises it by that: another floor's plan is then refused.
    fn promise(&self, plan: &mut Plan) {
        let intent = &plan.asked;
        let (Some(vm), Handover::AtBoot | Handover::Now) = (&intent.vm, &intent.handover) else { return };
        let gives = plan.layers.iter().any(|layer| matches!(layer, Layer::Host | Layer::Vm));
        if plan.changes.is_empty() || !plan.refusals.is_empty() || !gives {
            return;
        }
        let to = Owner::Vm(vm.clone());
        let cards = intent.give.iter().filter_map(|bdf| self.gpus.cards.iter().find(|c| c.identity.bdf.same_slot(bdf)));
        let promises: Vec<_> = cards.filter_map(|card| promises::promise(&self.ledger, card, &to)).collect();
        plan.changes.splice(0..0, promises);
    }

    /// A floor's plan, refused where it hands out a card that is promised to another.
    fn keep(&self, layer: Layer, mut plan: Plan) -> Plan {
        if plan.changes.is_empty() {
            return plan;
        }
        let intent = plan.asked.clone();
        let refusals = self.handed_out(layer, &plan).into_iter().filter_map(|(bdf, to)| {
            let card = self.gpus.cards.iter().find(|card| card.identity.bdf.same_slot(&bdf))?;
            promises::refuse(&self.ledger, &self.gpus, card, &to)
        });
        for refusal in refusals.collect::<Vec<_>>() {
            if intent.allow.iter().any(|id| id == promises::PROMISED) {
                plan.notes.push(format!("allowed ({}): {}", promises::PROMISED, refusal.says));
            } else {
                plan.refusals.push(refusal);
            }
        }
        plan
    }

    /// The cards that a floor's plan hands out, and to whom.
    fn handed_out(&self, layer: Layer, plan: &Plan) -> Vec<(Bdf, Owner)> {
        let intent = &plan.asked;
        let to_vm = |vm: Option<String>| {
            let wanted = self.host.wanted.iter().map(|want| want.bdf);
            // a wish about what one VM's guest is told is of that VM's cards alone
            let told = intent.vm.as_deref().filter(|_| intent.hint.is_some()).and_then(|name| self.vm.vm(name));
            let cards: Vec<Bdf> = match told {
                _ if !intent.give.is_empty() => intent.give.clone(),
                Some(vm) if layer == Layer::Vm => self.vm.cards_of(vm).iter().map(|card| card.identity.bdf).collect(),
                _ => wanted.collect(),
            };
            let vm = intent.vm.clone().or(vm).unwrap_or_default();
            cards.into_iter().map(|bdf| (bdf, Owner::Vm(vm.clone()))).collect()
        };
        // Whatever NVIDIA's driver holds here can be had by every container, and by every pod that asks.
        let driven = |to: Owner| {
            let driven = self.gpus.nvidia().filter(|card| card.driver.get().is_some_and(|driver| driver == "nvidia"));
            driven.map(|card| (card.identity.bdf, to.clone())).collect()
        };
        match (layer, &intent.handover) {
            (Layer::Host, Handover::Back) => Vec::new(),
            (Layer::Host, Handover::Bind(driver)) if !host::is_vfio(driver) => Vec::new(),
            (Layer::Host, _) => to_vm(None),
            (Layer::Vm, _) => to_vm(plan.changes.iter().find_map(|change| vmid(&change.op))),
            (Layer::Container, _) => driven(Owner::Containers),
            (Layer::Cluster, _) => driven(Owner::Pods),
            (Layer::Guest | Layer::App, _) => Vec::new(),
        }
    }

    pub fn verify(&self, layers: &[Layer], intent: &Intent) -> Vec<Outcome> {
        let layers = Layer::ALL.into_iter().filter(|layer| layers.contains(layer));
        layers.flat_map(|layer| on_floor!(self, layer, |floor, facts| floor::verify(facts, intent))).collect()
    }
}

/// The Proxmox VE machine that a step changes.
fn vmid(op: &Op) -> Option<String> {
    match op {
        Op::Proxmox { vmid, .. } => Some(vmid.to_string()),
        Op::WriteFile { path, .. } => {
            let name = path.rsplit('/').next()?.strip_suffix(".conf")?;
            name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.to_owned())
        }
        _ => None,
    }
}

/// Every check of every floor, in the order of the way.
pub fn all_checks() -> Vec<About> {
    let mut all: Vec<About> = Vec::new();
    all.extend(host::CHECKS.iter().map(|check| check.about));
    all.push(promises::ABOUT);
    all.extend(vm::CHECKS.iter().map(|check| check.about));
    all.extend(guest::CHECKS.iter().map(|check| check.about));
    all.extend(container::CHECKS.iter().map(|check| check.about));
    all.extend(kube::CHECKS.iter().map(|check| check.about));
    all.extend(app::CHECKS.iter().map(|check| check.about));
    all
}
