//! Facts and intent → what is to be written so that a card is vfio-pci's at the next boot.
//!
//! What a plan writes to hold a card, and where a boot (real or simulated) reads it:
//!
//! By address (the default), `ADDR` = `0000:26:00.0`, one line a function of the slot:
//! - [`files::RULES`] `/etc/udev/rules.d/61-thruway-vfio.rules`: `ACTION=="add", SUBSYSTEM=="pci", KERNEL=="ADDR",
//!   ATTR{vendor}=="0x10de", ATTR{device}=="0x1d01", ATTR{subsystem_vendor}=="0x1043",
//!   ATTR{subsystem_device}=="0x85f4", ATTR{driver_override}="vfio-pci"`. The one list of what is held; dracut and
//!   mkinitcpio carry it in the image.
//! - [`files::SCRIPT`] `/etc/initramfs-tools/scripts/init-top/thruway-vfio` (0755), in the image: lines
//!   `hold ADDR 10de:1d01 1043:85f4` at its end, `-` for an identity that is not known; runs before udev starts.
//! - [`files::HOOK`] `/etc/initramfs-tools/hooks/thruway-vfio` (0755): puts vfio-pci into the image.
//! - dracut, mkinitcpio, booster instead: [`files::SETTER`] `/etc/thruway/hold-vfio` (0755), a script with the same
//!   `hold` lines, and [`files::MODPROBE`]: `install vfio-pci /bin/sh /etc/thruway/hold-vfio; /sbin/modprobe
//!   --ignore-install vfio-pci`, `softdep DRIVER pre: vfio-pci`; [`files::DRACUT`] and [`files::MKINITCPIO`] load
//!   vfio-pci first and carry both along.
//! - [`files::MODULES`] `/etc/modules-load.d/thruway-vfio.conf`: `vfio-pci`, `vfio_iommu_type1`, where they are modules.
//!
//! With [`Intent::by_ids`]: [`files::MODPROBE`] `/etc/modprobe.d/thruway-vfio.conf`: `options vfio-pci
//! ids=10de:1d01,10de:0fb8` and `softdep DRIVER pre: vfio-pci`; the hook also says `force_load vfio-pci`. Where vfio-pci
//! is built in: `vfio-pci.ids=…` on the kernel command line instead.
//!
//! The kernel command line only where the IOMMU is off and a token mends it: [`files::GRUB`]
//! `/etc/default/grub.d/99-thruway.cfg` on Debian's family, [`files::CMDLINE`] where mkinitcpio joins such pieces, else
//! the loader's own source or its own program. Never `amd_iommu=on`.

mod bind;
mod clean;
mod cmdline;
pub mod files;
mod guard;
pub mod hold;
mod initramfs;
mod loader;
mod steps;
mod verify;

use std::collections::BTreeMap;

use model::{Bdf, Effective, Handover, Intent, Layer, Plan, Refusal, Seen, Verdict};

use crate::facts::{Facts, Place, Target, is_vfio};
pub use bind::busy;
pub(crate) use cmdline::place;
pub use verify::verify;

/// Plans the host floor's part of giving the intent's cards (or, where it names none, the wanted cards) to a VM.
pub fn plan(facts: &Facts, intent: &Intent) -> Plan {
    let targets = targets(facts, intent);
    let mut plan = Plan::new(Layer::Host, intent, basis(facts, intent, &targets));
    // A bind now asks for an IOMMU and no more: a guest that was given one has VMs of its own.
    let live_only = matches!(intent.handover, Handover::Bind(_) | Handover::Back);
    if !matches!(facts.place, Place::Metal) && !live_only {
        if !intent.give.is_empty() {
            plan.notes.push(match &facts.place {
                Place::Guest { .. } => "this machine is itself a guest: nothing is to be done on a host floor".into(),
                Place::Unknown(why) => format!("the host floor is left alone, since {why}"),
                Place::Metal => String::new(),
            });
        }
        return plan;
    }
    for bdf in &intent.give {
        if facts.target(*bdf).is_none() {
            plan.refusals.push(Refusal {
                because: "host/driver-owns-card".into(),
                says: format!("there is no display controller at {bdf}"),
                instead: "thruway gpus".into(),
            });
        }
    }
    if targets.is_empty() && !intent.clean {
        return plan;
    }
    if intent.clean {
        plan.intent.push("take away what old guides left".into());
    }
    for target in &targets {
        let inferred =
            facts.wanted.iter().find(|w| w.bdf == target.card.identity.bdf).filter(|_| intent.give.is_empty());
        let why = inferred.map_or(String::new(), |want| format!(" ({})", want.why));
        plan.intent.push(match &intent.handover {
            Handover::AtBoot => format!("hold {} for a VM{why}", target.name()),
            Handover::Now => format!("hold {} for a VM at every boot, and bind it now{why}", target.name()),
            Handover::Bind(driver) => format!("give {} to {driver} now, until the next boot", target.name()),
            Handover::Back => format!("give {} back to the driver that had it", target.name()),
        });
    }
    // Nothing is lost to a VM where none gets it.
    let away = match &intent.handover {
        Handover::AtBoot | Handover::Now => true,
        Handover::Bind(driver) => is_vfio(driver),
        Handover::Back => false,
    };
    if away {
        refuse(facts, intent, &targets, &mut plan);
    }
    if !live_only {
        steps::add(facts, intent, &targets, &mut plan);
    }
    match &intent.handover {
        Handover::AtBoot => {}
        Handover::Now => bind::give(facts, intent, &targets, "vfio-pci", &mut plan),
        Handover::Bind(driver) => bind::give(facts, intent, &targets, driver, &mut plan),
        Handover::Back => bind::give_back(facts, intent, &targets, &mut plan),
    }
    let boots = plan.changes.iter().any(|change| change.effective == Effective::NextBoot);
    if plan.changes.is_empty() {
        // Nothing would be done, so nothing is lost by doing it.
        plan.refusals.retain(|refusal| !LOSSES.contains(&refusal.because.as_str()));
    } else if boots && intent.handover == Handover::Now {
        plan.notes.push("what is written holds the card from the next boot on; until then the bind does".into());
        plan.notes.extend(fabric(facts, &targets));
    } else if boots {
        plan.notes.push("this machine must be rebooted once all is written".into());
        plan.notes.extend(fabric(facts, &targets));
    }
    plan
}

/// NVSwitches (NVIDIA's bridges of class 0680) that stay with the host while a card of theirs goes.
fn fabric(facts: &Facts, targets: &[Target<'_>]) -> Option<String> {
    let switches = facts.inventory.functions.iter().filter(|f| f.id.vendor == 0x10de && f.class >> 8 == 0x0680).count();
    let given = targets.iter().any(|target| target.card.identity.id.vendor == 0x10de);
    (switches > 0 && given).then(|| {
        format!(
            "this board has {switches} NVSwitches, which stay with the host: in the guest the card has no NVLink to the others unless the host's fabric manager shares it out (FABRIC_MODE=1)"
        )
    })
}

/// The cards that are to be given: by intent, else by what the machine says.
pub(crate) fn targets<'a>(facts: &'a Facts, intent: &Intent) -> Vec<Target<'a>> {
    let named: Vec<Bdf> =
        if intent.give.is_empty() { facts.wanted.iter().map(|want| want.bdf).collect() } else { intent.give.clone() };
    let mut targets: Vec<Target<'a>> = Vec::new();
    for target in named.into_iter().filter_map(|bdf| facts.target(bdf)) {
        if !targets.iter().any(|t| t.card.identity.bdf == target.card.identity.bdf) {
            targets.push(target);
        }
    }
    targets
}

fn basis(facts: &Facts, intent: &Intent, targets: &[Target<'_>]) -> BTreeMap<String, String> {
    let mut basis = BTreeMap::new();
    let mut put = |name: String, value: String| basis.insert(format!("host {name}"), value);
    put("kernel".into(), facts.kernel.release.get().cloned().unwrap_or_default());
    put("boot loader".into(), facts.boot.loader.words().into());
    for target in targets {
        for function in &target.functions {
            let subsystem = function.subsystem.map_or("none".to_owned(), |id| id.to_string());
            put(format!("function {}", function.bdf), format!("{} subsystem {subsystem}", function.id));
        }
    }
    if let (Some(_), Some((interface, gateway))) = (&intent.guard, &facts.usage.gateway) {
        put("gateway".into(), format!("{gateway} by {interface}"));
    }
    for (path, text) in &facts.texts {
        if let Seen::Is(text) = text {
            put(format!("file {path}"), model::Digest::of(text.as_bytes()).to_string());
        }
    }
    basis
}

/// The checks whose trouble comes true only by what a plan does, and which `--allow` names.
const LOSSES: [&str; 6] = [
    "host/network-lost",
    "host/disk-lost",
    "host/console-lost",
    "host/group-shared",
    "host/rmrr-ineligible",
    "host/override-blocks",
];

/// Losses that the user has not named are refused; so is what cannot work.
fn refuse(facts: &Facts, intent: &Intent, targets: &[Target<'_>], plan: &mut Plan) {
    use crate::checks::{console, group, holders, loss};
    let verdicts = [
        loss::network(facts, targets),
        loss::disk(facts, targets),
        console::lost(facts, targets),
        group::shared(facts, targets),
        group::rmrr(facts, targets),
        holders::blocked(targets),
    ];
    for (id, verdict) in LOSSES.into_iter().zip(verdicts) {
        let trouble = match verdict {
            Verdict::Warn(trouble) | Verdict::Fail(trouble) => trouble,
            _ => continue,
        };
        if intent.allow.iter().any(|allowed| allowed == id) {
            plan.notes.push(format!("allowed ({id}): {}", trouble.says));
            continue;
        }
        let give: Vec<String> = targets.iter().map(|t| format!("--give {}", t.card.identity.bdf.short())).collect();
        let instead = match &intent.handover {
            Handover::Bind(_) => {
                let cards: Vec<String> = targets.iter().map(|t| t.card.identity.bdf.short()).collect();
                format!("thruway host bind {} --allow {id}", cards.join(" "))
            }
            _ => format!("thruway host plan {} --allow {id}", give.join(" ")),
        };
        plan.refusals.push(Refusal { because: id.into(), says: trouble.says, instead });
    }
}
