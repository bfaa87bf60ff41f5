//! What we change for the driver: nouveau is kept away by a drop-in of our own, at the next boot. The driver itself
//! is advice, with lines to paste.

use std::collections::BTreeMap;

use model::{Before, Change, Content, Digest, Effective, Intent, Layer, Op, Plan, Risk, Seen, Undo};

use crate::{Facts, advice};

/// Our drop-in. Written only where no other line keeps nouveau away.
pub const NOUVEAU_FILE: &str = "/etc/modprobe.d/thruway-nouveau.conf";

const TEXT: &str = "# NVIDIA's driver cannot take a card that nouveau holds.\n\
    blacklist nouveau\noptions nouveau modeset=0\n";

pub fn plan(facts: &Facts, intent: &Intent) -> Plan {
    let mut plan = Plan::new(Layer::Guest, intent, based_on(facts));
    if !facts.here() || facts.cards.is_empty() || given_away(facts, intent) {
        return plan;
    }
    let cards: Vec<String> =
        facts.usable().map(|card| format!("{} ({})", card.identity.bdf, card.short_name())).collect();
    plan.intent.push(format!("inferred: NVIDIA's driver is to run {} on this machine", cards.join(", ")));
    if nouveau_in_the_way(facts) && facts.nouveau_off.is_empty() {
        match &facts.modprobe_unread {
            Some(reason) => plan
                .notes
                .push(format!("modprobe.d could not be read ({reason}), so nothing is planned against nouveau")),
            None => changes(facts, &mut plan),
        }
    }
    notes(facts, &mut plan);
    plan
}

/// Every card here goes to a VM by this very intent: then no driver is to run here. In a VM the addresses are others.
pub(crate) fn given_away(facts: &Facts, intent: &Intent) -> bool {
    facts.vm.get() != Some(&true) && facts.usable().all(|card| intent.give.contains(&card.identity.bdf))
}

/// nouveau holds a card, or would at the next boot.
pub(crate) fn nouveau_in_the_way(facts: &Facts) -> bool {
    let holds = facts.usable().any(|card| card.driver.get().is_some_and(|driver| driver == "nouveau"));
    let loaded = facts.loaded("nouveau") == Seen::Is(true);
    // A loaded NVIDIA driver has won the card already, and its packages bring their own lines.
    holds || loaded || (facts.has_module("nouveau") && !facts.driver.kernel.is_there())
}

fn changes(facts: &Facts, plan: &mut Plan) {
    let expects = match &facts.drop_in {
        Seen::Is(bytes) => Before::File(Digest::of(bytes)),
        _ => Before::NoFile,
    };
    let mut risk = vec![Risk::Reboot];
    if let Some(card) = facts.usable().find(|card| card.boot_vga) {
        risk.push(Risk::Outage(format!(
            "the screen on {} stays at the firmware's resolution until NVIDIA's driver runs",
            card.identity.bdf.short()
        )));
    }
    let because = vec!["guest/nouveau-holds-card".to_owned()];
    plan.changes.push(Change {
        layer: Layer::Guest,
        title: "keep nouveau off the card, so that NVIDIA's driver can have it".into(),
        op: Op::WriteFile { path: NOUVEAU_FILE.into(), content: Content::Text(TEXT.into()), mode: 0o644 },
        expects,
        because: because.clone(),
        risk: risk.clone(),
        effective: Effective::NextBoot,
        undo: Undo::Exact,
    });
    match &facts.initramfs {
        Seen::Is(tool) => plan.changes.push(Change {
            layer: Layer::Guest,
            title: "make the initramfs again: nouveau may be loaded from it before the root file system is there"
                .into(),
            op: Op::Regenerate(tool.clone()),
            expects: Before::Nothing,
            because,
            risk: vec![Risk::Reboot],
            effective: Effective::NextBoot,
            undo: Undo::Inverse,
        }),
        _ => plan
            .notes
            .push("no initramfs tool was found; if this system boots with an initramfs, make it again by hand".into()),
    }
    plan.notes.push("this machine must be rebooted before NVIDIA's driver can be installed".into());
}

/// The driver, in words and lines: only where none runs.
fn notes(facts: &Facts, plan: &mut Plan) {
    if facts.driver.kernel.is_there() {
        return;
    }
    let Some(needs) = advice::needs(facts) else { return };
    let card = facts.usable().find(|card| card.arch == Some(needs.arch));
    let name = card.map_or("the card", |card| card.short_name());
    plan.notes.push(format!(
        "{name} is of the {} generation and needs {}; thruway installs no driver, do it by these lines:",
        needs.arch.name(),
        needs.says
    ));
    plan.notes.extend(advice::lines(facts, &needs));
}

fn based_on(facts: &Facts) -> BTreeMap<String, String> {
    let mut named = BTreeMap::new();
    let mut put = |name: &str, value: String| named.insert(format!("guest {name}"), value);
    for card in &facts.cards {
        let subsystem = card.identity.subsystem.map(|id| id.to_string()).unwrap_or_default();
        put(&format!("card {}", card.identity.bdf), format!("{} {subsystem}", card.identity.id));
    }
    put("kernel", facts.release.get().cloned().unwrap_or_default());
    put("nouveau in the way", nouveau_in_the_way(facts).to_string());
    let off: Vec<String> = facts.nouveau_off.iter().map(|line| format!("{}: {}", line.source, line.text)).collect();
    put("nouveau kept away by", off.join("; "));
    put(NOUVEAU_FILE, facts.drop_in.get().map(|bytes| Digest::of(bytes).0).unwrap_or_default());
    named
}
