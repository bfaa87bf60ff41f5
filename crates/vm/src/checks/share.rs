//! What else has the card or its group, and what the card takes from the VM: migration, ROM files, identity.

use formats::propstr::PropStr;
use gpu::Holder;
use model::{Bdf, Check, Fix, Seen, Source, Trouble};

use super::memory::since;
use super::{Says, about, card_name, cards, each, join, mend, restart};
use crate::{Facts, Running, Vm, VmKind};

pub(super) const GROUP_TWO_VMS: Check<Facts> = Check {
    about: about(
        "vm/group-two-vms",
        "no IOMMU group is divided between two VMs",
        "A group is the smallest thing that can be given away. Two cards of one group can be named by two VMs, yet only one \
         of them can run: the other's start ends in \"Could not open '/dev/vfio/14': Device or resource busy\". Another slot, \
         or a firmware setting for ACS, may part the group.",
        "Linux Documentation/driver-api/vfio.rst",
    ),
    run: |facts| join(facts, facts.vms.iter().filter(|vm| !vm.template).map(|vm| divided(facts, vm))),
};

fn divided(facts: &Facts, vm: &Vm) -> Says {
    if facts.cards_of(vm).is_empty() {
        return Says::Skip;
    }
    for card in facts.cards_of(vm) {
        let Some(group) = card.group.get() else { continue };
        // the same card in two VMs is another check's
        let others = group.members.iter().filter(|bdf| !bdf.same_slot(&card.identity.bdf));
        for bdf in others {
            let mut rivals =
                facts.vms.iter().filter(|other| !other.template && other.path > vm.path && !vm.names(*bdf));
            let Some(rival) = rivals.find(|other| other.given.iter().any(|given| given.functions.contains(bdf))) else {
                continue;
            };
            let mut trouble = Trouble::new(format!(
                "{} has {} and {} has {}, both of IOMMU group {}: only one of them can run",
                vm.title(),
                card_name(card),
                rival.title(),
                bdf.short(),
                group.number
            ));
            for (one, bdf) in [(vm, &card.identity.bdf), (rival, bdf)] {
                for given in one.given.iter().filter(|given| given.functions.contains(bdf)) {
                    trouble = trouble.seen(one.source(given.line), format!("{}: {}", given.key, given.text));
                }
            }
            let fix = Fix::by_hand(
                "put one of the cards into another slot, or give both to one VM",
                &["thruway gpus"],
                "nothing is changed",
            );
            return Says::Fail(trouble.fix(fix));
        }
    }
    Says::Well
}

pub(super) const CARD_IN_USE: Check<Facts> = Check {
    about: about(
        "vm/card-in-use",
        "nothing else uses the card when its VM starts",
        "At its start a VM takes the card from whatever has it. Another VM that runs with it makes the start fail (\"PCI \
         device already in use\", \"Device or resource busy\"); a host driver with programs on it makes the unbind wait for \
         ever, and the start with it.",
        "PVE::QemuServer::PCI, reserve_pci_usage; Linux drivers/base/dd.c, unbind",
    ),
    run: |facts| each(facts, |vm| in_use(facts, vm)),
};

fn in_use(facts: &Facts, vm: &Vm) -> Says {
    match &vm.running {
        Running::Yes { .. } => return Says::Well,
        Running::Unknown(reason) => return Says::Unknown(reason.clone(), format!("the process of {}", vm.title())),
        Running::No => {}
    }
    for card in facts.cards_of(vm) {
        let functions = facts.functions(card);
        let has = |args: &formats::qemuargs::QemuArgs| functions.iter().any(|bdf: &Bdf| args.has(*bdf));
        let running = facts.vms.iter().find_map(|other| match &other.running {
            Running::Yes { pid, args } if has(args) => Some((*pid, other.title())),
            _ => None,
        });
        let loose = || {
            let found = facts.loose.iter().find(|(_, args)| has(args));
            found.map(|(pid, args)| (*pid, args.name.clone().unwrap_or_else(|| "a QEMU without a definition".into())))
        };
        if let Some((pid, name)) = running.or_else(loose) {
            let trouble =
                Trouble::new(format!("{} runs with {}, so {} cannot start", name, card_name(card), vm.title()))
                    .seen(Source::file(format!("/proc/{pid}/cmdline")), format!("vfio-pci with {}", card.identity.bdf));
            let fix = Fix::by_hand("stop the one before the other is started", &[], "start it again");
            return Says::Warn(trouble.fix(fix));
        }
        let driver = match &card.driver {
            Seen::Is(driver) => driver,
            Seen::Absent => continue,
            Seen::Unreadable(reason) => {
                return Says::Unknown(reason.clone(), format!("the driver of {}", card.identity.bdf.short()));
            }
        };
        let users = match &card.holder {
            Holder::Host(users) => users.clone(),
            Holder::Containers(names) => names.iter().map(|name| format!("container {name}")).collect(),
            Holder::Pods(names) => names.iter().map(|name| format!("pod {name}")).collect(),
            Holder::Nobody | Holder::Vm(_) | Holder::Unknown(_) => Vec::new(),
        };
        if driver != "vfio-pci" && !users.is_empty() {
            let trouble = Trouble::new(format!(
                "{} by {driver}: used by {} of this host, for which the start of {} would wait",
                card_name(card),
                users.join(", "),
                vm.title()
            ))
            .seen(Source::file(format!("/sys/bus/pci/devices/{}/driver", card.identity.bdf)), driver.clone());
            let command = format!("thruway host plan --give {}", card.identity.bdf.short());
            return Says::Warn(trouble.fix(Fix::planned("keep the card from the host's driver", command)));
        }
    }
    Says::Well
}

pub(super) const HIGH_AVAILABILITY: Check<Facts> = Check {
    about: about(
        "vm/high-availability",
        "a VM that is tied to its host by a card is not under high availability",
        "A VM with a hostpci line of an address cannot be moved: \"can't migrate VM which uses local devices: hostpci0\". \
         High availability tries it all the same, at a node's failure and at its maintenance, and the VM stays down. A \
         mapping with a card on each node lets it start there, though never move while it runs.",
        "PVE::QemuMigrate; pve-docs ha-manager.adoc",
    ),
    run: |facts| {
        each(facts, |vm| {
            let managed = facts.host.ha.iter().find(|(id, _)| vm.kind == VmKind::Proxmox && *id == vm.id);
            let Some((_, line)) = managed else { return Says::Skip };
            let Some(given) = vm.given.iter().find(|given| given.mapping.is_none()) else { return Says::Well };
            let trouble = Trouble::new(format!(
                "{} is under high availability and tied to this node by {}",
                vm.title(),
                cards(facts, vm)
            ))
            .seen(Source::line("/etc/pve/ha/resources.cfg", *line), format!("vm: {}", vm.id))
            .seen(vm.source(given.line), format!("{}: {}", given.key, given.text));
            let fix = Fix::by_hand(
                "take it out of high availability, or name the card by a mapping that has one on each node",
                &[&format!("ha-manager remove vm:{}", vm.id)],
                format!("ha-manager add vm:{}", vm.id),
            );
            Says::Warn(trouble.fix(fix))
        })
    },
};

pub(super) const ROMFILE_MISSING: Check<Facts> = Check {
    about: about(
        "vm/romfile-missing",
        "the ROM file that a VM gives its card is there",
        "`romfile` of Proxmox VE is a name below /usr/share/kvm of the node that the VM runs on, and is not copied with the \
         VM; without the file QEMU ends with \"failed to find romfile\".",
        "PVE::QemuServer::PCI; QEMU hw/pci/pci.c",
    ),
    run: |facts| {
        each(facts, |vm| {
            let named: Vec<_> = vm.given.iter().filter_map(|given| Some((given, given.romfile.as_ref()?))).collect();
            if named.is_empty() {
                return Says::Skip;
            }
            let gone = named.iter().find(|(_, path)| facts.host.roms.get(*path) == Some(&false));
            let Some((given, path)) = gone else { return Says::Well };
            let trouble = Trouble::new(format!("{} gives its card the ROM {path}, which is not there", vm.title()))
                .seen(vm.source(given.line), format!("{}: {}", given.key, given.text))
                .seen(Source::file(path.as_str()), "not there");
            let fix = match vm.kind {
                VmKind::Proxmox => {
                    let mut props = PropStr::parse(&given.text);
                    props.remove("romfile");
                    Fix::by_hand(
                        "copy the file there, or let the card use its own ROM (as root@pam)",
                        &[&format!("qm set {} --{} '{props}'", vm.id, given.key)],
                        format!("qm set {} --{} '{}'", vm.id, given.key, given.text),
                    )
                }
                VmKind::Libvirt => Fix::by_hand(
                    "copy the file there, or take <rom file=…> out",
                    &[&format!("virsh edit {}", vm.id)],
                    "virsh edit, and the old line",
                ),
            };
            Says::Fail(trouble.fix(restart(vm, fix)))
        })
    },
};

/// hostpci options that show the guest another device than the one that is there.
const FACE: [&str; 4] = ["vendor-id", "device-id", "sub-vendor-id", "sub-device-id"];

pub(super) const ID_OVERRIDE: Check<Facts> = Check {
    about: about(
        "vm/id-override",
        "the guest sees the card's own identity",
        "vendor-id, device-id and their sub- forms on a hostpci line show the guest another card. They are for vGPU tricks \
         and old workarounds; left behind, the guest's driver refuses the card or drives it as a wrong one.",
        "pve-docs qm.adoc, hostpci; PVE::QemuServer::PCI",
    ),
    run: |facts| {
        each(facts, |vm| {
            if vm.kind != VmKind::Proxmox {
                return Says::Skip;
            }
            let odd = vm.given.iter().filter(|given| given.key.starts_with("hostpci")).find_map(|given| {
                let props = PropStr::parse(&given.text);
                FACE.iter().find_map(|key| Some((given, *key, props.get(key)?.to_owned())))
            });
            let Some((given, key, value)) = odd else { return Says::Well };
            let mut props = PropStr::parse(&given.text);
            for key in FACE {
                props.remove(key);
            }
            let trouble = Trouble::new(format!("{} shows its card with another {key}, {value}", vm.title()))
                .seen(vm.source(given.line), format!("{}: {}", given.key, given.text));
            let fix = Fix::by_hand(
                "show the card as it is",
                &[&format!("qm set {} --{} '{props}'", vm.id, given.key)],
                format!("qm set {} --{} '{}'", vm.id, given.key, given.text),
            );
            Says::Warn(trouble.fix(restart(vm, fix)))
        })
    },
};

pub(super) const NO_KVM: Check<Facts> = Check {
    about: about(
        "vm/no-kvm",
        "the host's CPU runs VMs itself",
        "With VT-x or SVM off in the firmware Proxmox VE says \"KVM virtualisation configured, but not available. Either \
         disable in VM configuration or enable in BIOS\" and the VM does not start. The switch is not the IOMMU's (VT-d, AMD-Vi).",
        "PVE::QemuServer; Linux Documentation/virt/kvm",
    ),
    run: |facts| {
        each(facts, |vm| match &facts.host.virtualization {
            Seen::Is(true) => Says::Well,
            Seen::Is(false) => {
                let trouble = Trouble::new(format!(
                    "{} cannot start: this host's CPU offers no virtualization, or its firmware hides it",
                    vm.title()
                ));
                let fix = Fix::by_hand(
                    "switch it on in the host's firmware: Intel Virtualization Technology (VT-x), or SVM Mode",
                    &[],
                    "switch it off again",
                )
                .costs("the host must be rebooted");
                Says::Fail(trouble.seen(Source::file("/proc/cpuinfo"), "no vmx and no svm among its flags").fix(fix))
            }
            Seen::Absent => Says::Skip,
            Seen::Unreadable(reason) => Says::Unknown(reason.clone(), "/proc/cpuinfo".into()),
        })
    },
};

pub(super) const KEEP_DRIVER: Check<Facts> = Check {
    about: about(
        "vm/keep-driver",
        "a whole card goes to its VM by vfio-pci",
        "`driver=keep` tells Proxmox VE to leave the function with the driver that has it, for virtual functions of vendors \
         whose own driver is a VFIO driver. With a whole card on nouveau or nvidia nothing binds it, and QEMU ends with \"Could \
         not open '/dev/vfio/14': No such file or directory\".",
        "PVE::QemuServer::PCI, driver",
    ),
    run: |facts| {
        each(facts, |vm| {
            let kept = vm.given.iter().find(|given| PropStr::parse(&given.text).get("driver") == Some("keep"));
            let Some(given) = kept else { return Says::Skip };
            let mut on = given.functions.iter().filter_map(|bdf| facts.gpus.function(*bdf));
            let driver =
                |function: &&gpu::Function| function.driver.get().is_none_or(|driver| !driver.contains("vfio"));
            let Some(function) = on.find(driver) else { return Says::Well };
            let name = function.driver.get().map_or("no driver", String::as_str);
            let trouble = Trouble::new(format!(
                "{} keeps {} with {name}, which gives nothing to a VM",
                vm.title(),
                function.bdf.short()
            ))
            .seen(vm.source(given.line), format!("{}: {}", given.key, given.text));
            Says::Fail(trouble.fix(mend(facts, vm, "let Proxmox VE bind the card: take driver=keep out", "")))
        })
    },
};

pub(super) const IOMMUFD_P2P: Check<Facts> = Check {
    about: about(
        "vm/iommufd-p2p",
        "the cards of one VM reach each other's memory",
        "iommufd before Linux 6.19 maps no device's memory for another device: \"IOMMU_IOAS_MAP failed: Bad address, PCI BAR?\". \
         The VM runs, yet copies from card to card fail or go through the guest's memory. The older way, a VFIO container, \
         maps them.",
        "Cloud Hypervisor docs/vfio.md; Linux drivers/vfio/Kconfig",
    ),
    run: |facts| {
        each(facts, |vm| {
            let Running::Yes { pid, args } = &vm.running else { return Says::Skip };
            let by_iommufd = |card: &&gpu::Card| {
                let bdf = card.identity.bdf;
                args.vfio.iter().any(|one| one.iommufd.is_some() && one.host.is_some_and(|host| host.same_slot(&bdf)))
            };
            let several = facts.cards_of(vm).into_iter().filter(by_iommufd).count();
            if several < 2 {
                return Says::Skip;
            }
            let kernel = match &facts.host.kernel {
                Seen::Is(kernel) => kernel,
                Seen::Absent => return Says::Skip,
                Seen::Unreadable(reason) => return Says::Unknown(reason.clone(), "/proc/sys/kernel/osrelease".into()),
            };
            if since(kernel, &[6, 19]) {
                return Says::Well;
            }
            let trouble = Trouble::new(format!(
                "{} runs with {several} cards by iommufd on Linux {kernel}, so they do not reach each other's memory",
                vm.title()
            ))
            .seen(Source::file(format!("/proc/{pid}/cmdline")), "vfio-pci with iommufd=")
            .seen(Source::file("/proc/sys/kernel/osrelease"), kernel.clone());
            let fix = Fix::by_hand(
                "where the cards copy to each other: run the VM without iommufd, or the host with Linux 6.19 or newer",
                &[],
                "nothing is changed",
            );
            Says::Warn(trouble.fix(restart(vm, fix)))
        })
    },
};
