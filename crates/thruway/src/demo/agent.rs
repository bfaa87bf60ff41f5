//! What a node's agent would tell a kubelet of a simulated machine. The kubelet itself speaks gRPC and is another program's
//! business (`thruway node run`); the answers are made here by the same code that the agent asks, without the sockets.

use anyhow::{Context as _, bail};
use kube::plugin::{Config, Device, found};
use kube::plugin::{OnMachine, allocate, offer};
use machine::Machine;
use model::Seen;

use crate::paint::{Page, Tone};

/// The page: registration, list, one grant, labels.
pub fn page(machine: &dyn Machine) -> anyhow::Result<String> {
    let inventory = gpu::observe_all(machine);
    let config = Config::default();
    let found = found::look(machine, &inventory);
    let offer = offer(&config, &found).map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    let mut page = Page::new();
    let mut say = |label: &str, text: &str| page.hang(2, label, 11, Tone::Plain, text);
    for resource in &offer.resources {
        say("registers", &format!("{} by {}, device plugin API v1beta1", resource.name, resource.socket()));
        for device in &resource.devices {
            say("lists", &format!("{} Healthy  ({}, {})", device.id, device.bdf, device.nodes.join(" ")));
        }
        let first = resource.devices.first().context("a resource without a device")?;
        let dirs = formats::cdispec::SPEC_DIRS.map(str::to_owned);
        let specs = cdi::list(&cdi::read_dirs(machine, &dirs).0);
        let present = OnMachine {
            machine,
            resolves: |name: &str| Seen::Is(specs.iter().any(|known| known.name == name)),
            certain: |_: &Device| None,
        };
        match allocate(&config, &found, resource, std::slice::from_ref(&first.id), "demo", &present) {
            Ok(answer) => say("grants", &format!("{} → CDI {}", first.id, answer.cdi.join(" "))),
            Err(refusal) => bail!("{refusal}"),
        }
    }
    for left in &offer.left_out {
        say("withholds", &format!("{}: {}", left.bdf, left.why));
    }
    let facts = kube::gfd::Facts::observe(machine, &inventory, &found, &config);
    let labels = kube::gfd::labels(&facts, &config);
    let shown: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    say("labels", &shown.join("\n"));
    Ok(page.text())
}
