//! The whole way over one machine: each floor's facts, findings, plan and outcomes, through the floors' same verbs.

use std::collections::BTreeMap;

use gpu::Inventory;
use machine::Machine;
use model::{About, Bdf, BindOp, Finding, Intent, Layer, Outcome, Plan, Presence, Refusal, run_all};

/// Everything that was observed of one machine.
pub struct Way {
    pub gpus: Inventory,
    host: host::Facts,
    vm: vm::Facts,
    guest: guest::Facts,
    container: container::Facts,
    kube: kube::Facts,
    app: app::Facts,
}

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
            gpus,
        }
    }

    /// Tells the host floor of the binds that stand.
    pub fn remember(&mut self, before: BTreeMap<Bdf, BindOp>) {
        self.host.remembered = before;
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

    /// The plans of these floors, joined in the order of the way. A floor that changes nothing adds its notes only, so
    /// that the log says which floors a change was made on; where no floor changes anything, all say what they want.
    pub fn plan(&self, layers: &[Layer], intent: &Intent) -> Plan {
        let layers = Layer::ALL.into_iter().filter(|layer| layers.contains(layer));
        let plans: Vec<Plan> =
            layers.map(|layer| on_floor!(self, layer, |floor, facts| floor::plan(facts, intent))).collect();
        let idle = plans.iter().all(Plan::is_empty);
        let (working, resting): (Vec<Plan>, Vec<Plan>) = plans.into_iter().partition(|plan| idle || !plan.is_empty());
        let notes = resting.into_iter().flat_map(|plan| plan.notes).collect::<Vec<_>>();
        let joined = working.into_iter().reduce(Plan::join);
        let mut joined = joined.unwrap_or_else(|| Plan::new(Layer::Host, intent, Default::default()));
        joined.notes.extend(notes);
        joined
    }

    pub fn verify(&self, layers: &[Layer], intent: &Intent) -> Vec<Outcome> {
        let layers = Layer::ALL.into_iter().filter(|layer| layers.contains(layer));
        layers.flat_map(|layer| on_floor!(self, layer, |floor, facts| floor::verify(facts, intent))).collect()
    }
}

/// Every check of every floor, in the order of the way.
pub fn all_checks() -> Vec<About> {
    let mut all: Vec<About> = Vec::new();
    all.extend(host::CHECKS.iter().map(|check| check.about));
    all.extend(vm::CHECKS.iter().map(|check| check.about));
    all.extend(guest::CHECKS.iter().map(|check| check.about));
    all.extend(container::CHECKS.iter().map(|check| check.about));
    all.extend(kube::CHECKS.iter().map(|check| check.about));
    all.extend(app::CHECKS.iter().map(|check| check.about));
    all
}
