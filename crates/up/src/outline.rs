//! A way as a graph of steps, before anything is looked at.

use serde::Serialize;

use crate::way::{Driver, From, Way};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// `host/apply`: stable, what events and reports call it.
    pub id: String,
    /// The machine that it is done on: `host`, `guest`, `here`.
    pub machine: &'static str,
    /// `ssh` destination of that machine.
    pub at: String,
    pub says: String,
    /// It changes something.
    pub changes: bool,
    /// The steps before it.
    pub needs: Vec<String>,
}

/// The steps of `up`, in order.
pub fn outline(way: &Way) -> Vec<Node> {
    let mut steps = Steps { nodes: Vec::new() };
    let worker = if way.guest.is_some() { "guest" } else { "host" };
    let at = |machine: &str| match (machine, &way.guest) {
        ("here", _) => "here".to_owned(),
        ("guest", Some(guest)) => guest.at.clone(),
        _ => way.host.at.clone(),
    };
    let reach = |steps: &mut Steps, machine: &'static str, says: String| {
        steps.add(format!("{machine}/reach"), machine, at(machine), says, false);
        steps.add(
            format!("{machine}/program"),
            machine,
            at(machine),
            "thruway is there, of this very build".into(),
            true,
        );
        steps.add(format!("{machine}/hold"), machine, at(machine), "nobody else's up is at work there".into(), true);
    };
    let card = way.host.card.clone().unwrap_or_else(|| "the card that is there".into());
    reach(&mut steps, "host", format!("{} answers", way.host.at));
    if let Some(vm) = &way.vm {
        let host = || at("host");
        steps.add("host/apply".into(), "host", host(), format!("the host floor: {card} held for VM {}", vm.id), true);
        let reboot = if way.host.reboot {
            "a reboot, where that waits for one"
        } else {
            "a reboot is yours to make, where that waits for one"
        };
        steps.add("host/boot".into(), "host", host(), reboot.into(), true);
        steps.add("host/verify".into(), "host", host(), "the effect is there: driver, IOMMU group, node".into(), false);
        let place = if vm.pve.is_some() { "here" } else { "host" };
        steps.add("vm/apply".into(), place, at(place), format!("the VM floor: VM {} has {card}", vm.id), true);
        let start = if vm.start { "is started, or stopped and started" } else { "runs; its start is yours to make" };
        steps.add("vm/start".into(), "host", host(), format!("VM {} {start}", vm.id), true);
        steps.add("vm/verify".into(), place, at(place), "the running VM has the card".into(), false);
    }
    if let Some(guest) = &way.guest {
        reach(&mut steps, "guest", format!("{} answers", guest.at));
    }
    if way.vm.is_none() || way.guest.is_some() {
        let driver = way.guest.as_ref().map_or(Driver::Install, |guest| guest.driver);
        if driver == Driver::Install {
            steps.add(
                "guest/apply".into(),
                worker,
                at(worker),
                "the guest floor: the driver that fits the card".into(),
                true,
            );
            steps.add("guest/boot".into(), worker, at(worker), "a reboot, where that waits for one".into(), true);
        }
        steps.add("guest/verify".into(), worker, at(worker), "the driver runs and answers for the card".into(), false);
        if let Some(container) = &way.container {
            let programs = if container.runtime.as_deref() == Some("thruway") {
                "thruway-hook, thruway-runtime"
            } else {
                "thruway-hook"
            };
            steps.add(format!("{worker}/programs"), worker, at(worker), format!("{programs} in /usr/bin"), true);
            let engine = container.engine.clone().unwrap_or_else(|| "the engine that is there".into());
            steps.add(
                "container/apply".into(),
                worker,
                at(worker),
                format!("the container floor: {engine}, CDI"),
                true,
            );
            steps.add("container/verify".into(), worker, at(worker), "the engine knows the card".into(), false);
            if container.test || container.test_command.is_some() {
                steps.add(
                    "container/test".into(),
                    worker,
                    at(worker),
                    "a container has the card, and computes".into(),
                    false,
                );
            }
        }
        if let Some(cluster) = &way.cluster {
            let from = if cluster.from == From::Here { "here" } else { worker };
            let what = cluster.deployment.as_ref().map_or(String::new(), |name| format!(", {name} asks for it"));
            steps.add(
                "cluster/apply".into(),
                from,
                at(from),
                format!("the cluster floor: the node's labels{what}"),
                true,
            );
            steps.add("cluster/verify".into(), from, at(from), "the API has it so".into(), false);
        }
        if let Some(app) = &way.app {
            steps.add(
                "app/apply".into(),
                worker,
                at(worker),
                "the app floor: settings by what the card can do".into(),
                true,
            );
            steps.add("app/verify".into(), worker, at(worker), "the settings are in effect".into(), false);
            if app.prove {
                steps.add("app/prove".into(), worker, at(worker), "the app uses the card".into(), false);
            }
        }
    }
    steps.nodes
}

struct Steps {
    nodes: Vec<Node>,
}

impl Steps {
    fn add(&mut self, id: String, machine: &'static str, at: String, says: String, changes: bool) {
        let needs = self.nodes.last().map(|node| node.id.clone()).into_iter().collect();
        self.nodes.push(Node { id, machine, at, says, changes, needs });
    }
}
