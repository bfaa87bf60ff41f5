//! What we change for the driver: nouveau is kept away by a drop-in of our own, the distribution's driver is installed
//! by its package manager, and nvidia-uvm is loaded at every boot. What no package manager has is lines to paste.

use std::collections::BTreeMap;

use formats::aptsources;
use gpu::ModuleKind;
use model::{
    Before, Builds, Change, Content, Digest, Effective, Intent, Layer, Manager, Op, PackagesOp, Plan, Risk, Seen, Undo,
};

use crate::ways::{self, NoWay, Way};
use crate::{Facts, advice, by_file};

/// Our drop-in. Written only where no other line keeps nouveau away.
pub const NOUVEAU_FILE: &str = "/etc/modprobe.d/thruway-nouveau.conf";

/// Components of the distribution's archive that hold the driver, where the user's own sources lack them.
pub const SOURCES_FILE: &str = "/etc/apt/sources.list.d/thruway-nvidia.sources";

/// nvidia-uvm at every boot.
pub const UVM_FILE: &str = "/etc/modules-load.d/thruway-nvidia-uvm.conf";

const UVM_TEXT: &str = "# CUDA and NVDEC need it, and in a container nobody may load it.\nnvidia-uvm\n";

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
    let nouveau = nouveau_in_the_way(facts) && facts.nouveau_off.is_empty();
    match &facts.modprobe_unread {
        Some(reason) if nouveau => {
            plan.notes.push(format!("modprobe.d could not be read ({reason}), so nothing is planned against nouveau"))
        }
        None if nouveau => keep_away(facts, &mut plan),
        _ => {}
    }
    match installs(facts) {
        _ if intent.driver_file.is_some() => {
            intent.driver_file.iter().for_each(|file| by_file::install(facts, file, &mut plan));
        }
        Some(Ok(way)) => install(facts, &way, &mut plan),
        Some(Err(no)) => by_hand(facts, no, &mut plan),
        None => {}
    }
    uvm(facts, &mut plan);
    upkeep(facts, &mut plan);
    if nouveau && facts.modprobe_unread.is_none() {
        initramfs(facts, &mut plan);
    }
    plan
}

/// The driver to install: none where one runs, is installed, or lies built for this kernel; an error where no package
/// fits.
pub(crate) fn installs(facts: &Facts) -> Option<Result<Way, NoWay>> {
    let installed = facts.packages.get().is_some_and(|all| all.iter().any(|package| package.driver()));
    if facts.driver.kernel.is_there() || installed || facts.has_driver_module() {
        return None;
    }
    // Whether one runs or is installed could not be seen: nothing is built on that.
    let unseen = facts.driver.kernel.unreadable().or(facts.packages.value.unreadable());
    if let Some(reason) = unseen {
        let says = format!("whether a driver is here already could not be seen ({reason})");
        return Some(Err(NoWay { says, instead: Vec::new() }));
    }
    let needs = advice::needs(facts)?;
    Some(match &facts.release.value {
        Seen::Is(_) => ways::way(facts, &needs),
        _ => Err(NoWay { says: "which kernel runs could not be seen".into(), instead: Vec::new() }),
    })
}

pub(crate) fn step(title: impl Into<String>, op: Op, expects: Before, because: &str) -> Change {
    Change {
        layer: Layer::Guest,
        title: title.into(),
        op,
        expects,
        because: vec![because.to_owned()],
        risk: Vec::new(),
        effective: Effective::NextBoot,
        undo: Undo::Exact,
    }
}

fn new_file(path: &str, text: &str) -> Op {
    Op::WriteFile { path: path.into(), content: Content::Text(text.into()), mode: 0o644 }
}

fn install(facts: &Facts, way: &Way, plan: &mut Plan) {
    let because = "guest/driver-missing";
    let lacks = facts.sources.lacks(&way.components);
    let mut refresh = facts.offered.is_empty() && way.manager == Manager::Apt;
    if !lacks.is_empty() {
        if let Some(unread) = &facts.sources.unread {
            plan.notes.push(format!("the driver is not planned: apt's sources could not be read ({unread})"));
            return;
        }
        if facts.sources.archives.is_empty() {
            plan.notes.push(format!(
                "the driver is not planned: no archive of {} {} is in apt's sources; add one with {} first",
                facts.os.id,
                facts.os.codename,
                way.components.join(", ")
            ));
            return;
        }
        let stanzas: Vec<String> =
            facts.sources.archives.iter().map(|archive| aptsources::stanza(&archive.entry(), &lacks)).collect();
        let text = format!(
            "# The archives of this system's own sources, with what NVIDIA's driver is in.\n{}",
            stanzas.join("\n")
        );
        let title = format!("let apt see the archive's components {}", lacks.join(", "));
        let mut change = step(title, new_file(SOURCES_FILE, &text), Before::NoFile, because);
        change.effective = Effective::Now;
        change.risk.push(Risk::Security(
            "software that is not free, which Debian cannot mend, may be installed from now on".into(),
        ));
        plan.changes.push(change);
        refresh = true;
    }
    let branch = way.branch.map_or(String::new(), |branch| format!(", branch {branch}"));
    let kind = if way.kind == ModuleKind::Open { "open" } else { "proprietary" };
    let builds = facts.release.get().map(|release| Builds { release: release.clone(), any_of: way.modules.clone() });
    let what = if way.signed { "modules signed by the distribution" } else { "modules built here" };
    let op = PackagesOp { manager: way.manager, install: way.packages.clone(), refresh, builds };
    let title = format!("install NVIDIA's driver{branch}, with the {kind} kernel modules ({what})");
    let mut change = step(title, Op::Packages(op), Before::Nothing, because);
    change.undo = Undo::Inverse;
    change.risk.push(Risk::Reboot);
    change.risk.push(Risk::Security("NVIDIA's modules run in this kernel; the kernel is tainted by them".into()));
    plan.changes.push(change);
    let build = if way.signed { "" } else { ", and some minutes of building kernel modules" };
    plan.notes.push(format!(
        "the driver is a download of some hundred megabytes from the archives that {} knows{build}; it takes about a \
         gigabyte on disk, and undo removes exactly what came",
        way.manager.name()
    ));
    plan.notes.extend(ways::known_break(facts).filter(|_| !way.signed));
    plan.notes.push("after the reboot NVIDIA's driver has the card; thruway never reboots by itself here".into());
    if facts.secure_boot.get() == Some(&true) && !way.signed {
        plan.notes.extend(crate::checks::enrolment(facts));
    }
}

/// The driver, in words and lines.
fn by_hand(facts: &Facts, no: NoWay, plan: &mut Plan) {
    let Some(needs) = advice::needs(facts) else { return };
    let card = facts.usable().find(|card| card.arch == Some(needs.arch));
    let name = card.map_or("the card", |card| card.short_name());
    plan.notes.push(format!("no driver is planned for {name} ({}): {}. By hand:", needs.arch.name(), no.says));
    plan.notes.extend(no.instead);
}

/// Headers for the kernels to come, and the daemon that holds the card open.
fn upkeep(facts: &Facts, plan: &mut Plan) {
    let headers = ways::meta(facts, "linux-headers");
    let follows = !facts.present.contains(&ways::meta(facts, "linux-image")) || facts.present.contains(&headers);
    if crate::checks::builds_here(facts) && !follows {
        let op = PackagesOp { manager: Manager::Apt, install: vec![headers], refresh: false, builds: None };
        let title = "let kernel updates bring their headers, so that NVIDIA's module is built for each";
        let mut change = step(title, Op::Packages(op), Before::Nothing, "guest/headers-follow");
        (change.effective, change.undo) = (Effective::Now, Undo::Inverse);
        plan.changes.push(change);
    }
    if facts.driver.kernel.is_there() && facts.persistenced.get() == Some(&false) {
        let unit = "nvidia-persistenced.service";
        for (verb, title) in [
            (model::ServiceVerb::Enable, "start nvidia-persistenced at every boot, so that the card stays set up"),
            (model::ServiceVerb::Start, "start it now"),
        ] {
            let op = Op::Service { unit: unit.into(), verb };
            let mut change = step(title, op, Before::Nothing, "guest/persistenced-off");
            (change.effective, change.undo) = (Effective::Now, Undo::Inverse);
            plan.changes.push(change);
        }
    }
}

/// nvidia-uvm at every boot, once a driver is here or comes.
fn uvm(facts: &Facts, plan: &mut Plan) {
    let comes = plan.changes.iter().any(|change| matches!(change.op, Op::Packages(_) | Op::RunFile(_)));
    let runs = facts.driver.kernel.is_there() && facts.major("nvidia-uvm").is_none();
    let listed = facts.loaded_at_boot.iter().any(|name| name == "nvidia_uvm");
    if !(comes || runs && facts.majors.value.is_there()) || listed {
        return;
    }
    let mut change =
        step("load nvidia-uvm at every boot", new_file(UVM_FILE, UVM_TEXT), Before::NoFile, "guest/uvm-not-loaded");
    if runs {
        change.effective = Effective::Now;
    }
    plan.changes.push(change);
    if runs {
        let op = Op::Service { unit: "systemd-modules-load.service".into(), verb: model::ServiceVerb::Restart };
        let mut change = step("load it now", op, Before::Nothing, "guest/uvm-not-loaded");
        (change.effective, change.undo) = (Effective::Now, Undo::Inverse);
        plan.changes.push(change);
    }
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

fn keep_away(facts: &Facts, plan: &mut Plan) {
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
        because,
        risk,
        effective: Effective::NextBoot,
        undo: Undo::Exact,
    });
}

fn initramfs(facts: &Facts, plan: &mut Plan) {
    let title = "make the initramfs again: nouveau may be loaded from it before the root file system is there";
    match &facts.initramfs {
        Seen::Is(tool) => {
            let mut change = step(title, Op::Regenerate(tool.clone()), Before::Nothing, "guest/nouveau-holds-card");
            change.risk.push(Risk::Reboot);
            change.undo = Undo::Inverse;
            plan.changes.push(change);
        }
        _ => plan
            .notes
            .push("no initramfs tool was found; if this system boots with an initramfs, make it again by hand".into()),
    }
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
    put("driver", facts.driver.kernel.get().cloned().unwrap_or_default());
    let drivers = facts.packages.get().map(|all| all.iter().filter(|package| package.driver())).into_iter().flatten();
    put(
        "driver packages",
        drivers.map(|package| format!("{} {}", package.name, package.version)).collect::<Vec<_>>().join(", "),
    );
    let components: Vec<&str> =
        facts.sources.archives.iter().flat_map(|archive| archive.components.iter().map(String::as_str)).collect();
    put("apt's components", components.join(" "));
    put("secure boot", facts.secure_boot.get().map_or(String::new(), ToString::to_string));
    put(NOUVEAU_FILE, facts.drop_in.get().map(|bytes| Digest::of(bytes).0).unwrap_or_default());
    named
}
