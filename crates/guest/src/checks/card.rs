//! Is the card in this machine, and is it free for NVIDIA's driver?

use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use super::{not_here, unknown};
use crate::Facts;

pub const VISIBLE: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/card-visible"),
        layer: Layer::Guest,
        title: "an NVIDIA card is on this machine's PCI bus",
        why: "A driver is installed here, and no card is. In a VM this is the hypervisor's doing: the VM was not \
              stopped and started since the card was added to it, the card is at another address, or it is on a port \
              without hotplug. lspci shows no NVIDIA line, nvidia-smi says \"No devices were found\". Look at the VM's \
              definition on its host; inside the guest there is nothing to mend.",
        source: "Proxmox VE: pending changes of a VM apply at its next start; QEMU hotplug of PCIe root ports",
    },
    run: |facts| {
        if let Some(reason) = facts.looked.unreadable() {
            return unknown(reason, "the list of PCI devices");
        }
        if !facts.cards.is_empty() {
            return if facts.here() { Verdict::Pass } else { Verdict::NotApplicable };
        }
        let Some(trace) = facts.traces() else { return Verdict::NotApplicable };
        let place = if facts.vm.get() == Some(&true) { "this VM" } else { "this machine" };
        let mut trouble = Trouble::new(format!("no NVIDIA card is in {place}, though {trace}"))
            .seen(Source::file("/sys/bus/pci/devices"), "no display or 3D controller of vendor 10de");
        if facts.vm.get() == Some(&true) {
            let fix = Fix::by_hand(
                "on the host: see which VM has the card, then stop and start this VM (a reboot inside it is not enough)",
                &["thruway doctor --layer vm"],
                "nothing is changed by looking",
            );
            trouble = trouble.fix(fix.costs("an outage of this VM while it restarts"));
        }
        Verdict::Fail(trouble)
    },
};

pub const NOUVEAU: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/nouveau-holds-card"),
        layer: Layer::Guest,
        title: "nouveau does not hold a card that NVIDIA's driver is to have",
        why: "The kernel's own driver nouveau takes NVIDIA cards at boot. Then NVIDIA's module cannot: its installer \
              ends with \"The Nouveau kernel driver is currently in use\", and the kernel log says \"NVRM: GPU \
              0000:01:00.0 is already bound to nouveau\". A blacklist line in modprobe.d keeps it away; nouveau may \
              also sit in the initramfs, so that must be made again, and the machine rebooted.",
        source: "modprobe.d(5); NVIDIA driver README, chapter on nouveau",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        for card in facts.usable() {
            let bdf = card.identity.bdf;
            if let Some(reason) = card.driver.unreadable().filter(|_| facts.loaded("nouveau") != Seen::Is(false)) {
                return unknown(reason, format!("which driver holds {}", bdf.short()));
            }
            if card.driver.get().is_some_and(|driver| driver == "nouveau") {
                let mut trouble = Trouble::new(format!(
                    "nouveau holds {} ({}), so NVIDIA's driver cannot",
                    bdf.short(),
                    card.short_name()
                ))
                .seen(Source::file(format!("/sys/bus/pci/devices/{bdf}/driver")), "nouveau");
                for line in &facts.nouveau_off {
                    trouble = trouble.seen(line.source.clone(), line.text.clone());
                }
                let fix = if facts.nouveau_off.is_empty() {
                    Fix::planned("keep nouveau away and make the initramfs again", "sudo thruway guest apply")
                } else {
                    let tool =
                        facts.initramfs.get().map_or(String::new(), |tool| format!("sudo {}", tool.argv().join(" ")));
                    let paste: Vec<&str> =
                        [tool.as_str(), "sudo reboot"].into_iter().filter(|l| !l.is_empty()).collect();
                    Fix::by_hand(
                        "the lines are written: bring them into the initramfs and reboot",
                        &paste,
                        "nothing to take back",
                    )
                };
                return Verdict::Fail(trouble.fix(fix.costs("a reboot of this machine")));
            }
        }
        Verdict::Pass
    },
};
