//! Which card goes to which VM.

use formats::propstr::PropStr;
use gpu::Card;
use model::{Bdf, Check, Fix, PciId, Seen, Source, Trouble, Verdict};

use super::{Says, about, card_name, join, mend, restart};
use crate::{Facts, Vm};

pub(super) const CARD_NOT_GIVEN: Check<Facts> = Check {
    about: about(
        "vm/card-not-given",
        "a card that is free for VMs is given to one",
        "On a hypervisor a card that vfio-pci holds does nothing until a VM's definition names it (a hostpci line on \
         Proxmox VE, a hostdev in libvirt); a guest then shows no card in lspci. A card that nouveau or no driver has on \
         a Proxmox VE host is of no use to the host either. A card that NVIDIA's driver holds is taken to be the host's own.",
        "pve-docs qm.adoc, PCI(e) passthrough",
    ),
    run: |facts| join(facts, facts.gpus.cards.iter().map(|card| not_given(facts, card))),
};

fn not_given(facts: &Facts, card: &Card) -> Says {
    let nvidia = card.identity.id.vendor == PciId::NVIDIA;
    let bdf = card.identity.bdf;
    if !facts.owners(bdf).is_empty() {
        return Says::Well;
    }
    let driver = match &card.driver {
        Seen::Is(driver) => driver.as_str(),
        Seen::Absent => "",
        Seen::Unreadable(reason) => return Says::Unknown(reason.clone(), format!("the driver of {}", bdf.short())),
    };
    let held = driver == "vfio-pci" || card.driver_override.get().is_some_and(|name| name == "vfio-pci");
    if !nvidia && !held {
        return Says::Skip;
    }
    if !held && driver.starts_with("nvidia") {
        return Says::Well;
    }
    let names: Vec<String> = facts.vms.iter().filter(|vm| !vm.template).map(Vm::title).collect();
    let of = match names.as_slice() {
        [] => "there is no VM".to_owned(),
        [one] => format!("{one} does not name it"),
        many => format!("none of {} VMs names it", many.len()),
    };
    let place = format!("/sys/bus/pci/devices/{bdf}/driver");
    let value = if driver.is_empty() { "no driver" } else { driver };
    let vm = facts.vms.iter().find(|vm| !vm.template).map(|vm| vm.id.clone());
    let command = match (names.len(), vm) {
        (1, Some(vm)) => format!("thruway vm plan --give {} --to vm:{vm}", bdf.short()),
        _ => format!("thruway vm plan --give {} --to vm:VMID", bdf.short()),
    };
    let fix =
        Fix::planned("give the card, all its functions, to a VM", command).costs("the VM must be stopped and started");
    if held {
        let trouble = Trouble::new(format!("{} is held for a VM and none has it: {of}", card_name(card)));
        Says::Fail(trouble.seen(Source::file(place), value).fix(fix))
    } else if facts.pve.is_there() {
        let trouble = Trouble::new(format!("No VM has {}: {of}", card_name(card)));
        Says::Warn(trouble.seen(Source::file(place), value).fix(fix))
    } else {
        // a workstation with libvirt: the card is the desktop's
        Says::Skip
    }
}

pub(super) const CARD_GONE: Check<Facts> = Check {
    about: about(
        "vm/card-gone",
        "every PCI device that a VM is given is in this machine",
        "Adding or removing a card renumbers PCI buses. A definition that names an address keeps the old one: the VM \
         gets another device, or does not start (\"no PCI device found for '0000:01:00'\").",
        "pve-docs qm.adoc; PVE::QemuServer::PCI",
    ),
    run: |facts| join(facts, facts.vms.iter().filter(|vm| !vm.given.is_empty()).map(|vm| gone(facts, vm))),
};

fn gone(facts: &Facts, vm: &Vm) -> Says {
    if let Some(reason) = facts.gpus.looked.unreadable() {
        return Says::Unknown(reason.clone(), "this machine's PCI devices".into());
    }
    let mut missing = Vec::new();
    for given in vm.given.iter().filter(|given| given.mapping.is_none()) {
        if given.functions.is_empty() {
            missing.push((given, "what is no PCI address".to_owned()));
        }
        let lost = given.functions.iter().filter(|bdf| facts.gpus.function(**bdf).is_none());
        missing.extend(lost.map(|bdf| (given, bdf.short())));
    }
    let Some((_, first)) = missing.first() else { return Says::Well };
    let mut trouble =
        Trouble::new(format!("{} is given {first}, and there is no such device in this machine", vm.title()));
    for (given, _) in &missing {
        trouble = trouble.seen(vm.source(given.line), format!("{}: {}", given.key, given.text));
    }
    let fix = Fix::by_hand(
        "see where the card is now, and name that address",
        &["thruway gpus", &format!("thruway vm plan --give BDF --to vm:{}", vm.id)],
        "thruway undo",
    );
    Says::Fail(trouble.fix(fix))
}

pub(super) const MAPPING_DRIFT: Check<Facts> = Check {
    about: about(
        "vm/mapping-drift",
        "Proxmox VE's PCI mappings describe the devices that are there",
        "A mapping keeps a device's identity and IOMMU group and the VM's start compares them. Groups are numbered in the \
         order of enumeration: a new kernel, firmware or card changes them; one left out counts as changed. The start fails with \"PCI device mapping \
         invalid (hardware probably changed): 'iommugroup' does not match\".",
        "PVE::Mapping::PCI, assert_valid",
    ),
    run: |facts| {
        if let Some(reason) = facts.mappings.unreadable().filter(|_| facts.pve.is_there()) {
            return Verdict::Unknown { reason: reason.clone(), what: "/etc/pve/mapping/pci.cfg".into() };
        }
        let known = facts.mappings.get().map(Vec::as_slice).unwrap_or_default();
        let node = facts.pve.get().and_then(|pve| pve.node.get());
        let here = known.iter().flat_map(|mapping| mapping.entries.iter().map(move |entry| (mapping, entry)));
        let here = here.filter(|(_, entry)| node.is_none_or(|node| *node == entry.node));
        let drifts = here.map(|(mapping, entry)| drift(facts, &mapping.id, entry));
        join(facts, drifts.chain(facts.vms.iter().map(unmapped)))
    },
};

fn drift(facts: &Facts, id: &str, entry: &crate::MappingEntry) -> Says {
    const FILE: &str = "/etc/pve/mapping/pci.cfg";
    if let Some(reason) = facts.gpus.looked.unreadable() {
        return Says::Unknown(reason.clone(), "this machine's PCI devices".into());
    }
    let first = entry.path.split(';').next().unwrap_or_default().trim();
    let spelled = if first.contains('.') { first.to_owned() } else { format!("{first}.0") };
    let fix = Fix::by_hand(
        "write the mapping again, after making sure that it is the same card",
        &[
            "thruway gpus",
            &format!("pvesh set /cluster/mapping/pci/{id} --map node=…,path=…,id=…,subsystem-id=…,iommugroup=…"),
        ],
        "pvesh set with the old values",
    );
    let trouble = |says: String| {
        Says::Fail(
            Trouble::new(says).seen(Source::line(FILE, entry.line), format!("path={}", entry.path)).fix(fix.clone()),
        )
    };
    let Some(function) = spelled.parse::<Bdf>().ok().and_then(|bdf| facts.gpus.function(bdf)) else {
        return trouble(format!("Mapping {id} names {first}, and there is no such device in this machine"));
    };
    let short = function.bdf.short();
    if let Some(wanted) = entry.id.as_deref().filter(|wanted| *wanted != function.id.to_string()) {
        return trouble(format!("Mapping {id} means a {wanted} at {short}, where a {} is", function.id));
    }
    let subsystem = function.subsystem.map(|id| id.to_string());
    match (&subsystem, &entry.subsystem) {
        (Some(is), Some(wanted)) if wanted != is => {
            return trouble(format!("Mapping {id} means the card {wanted} at {short}, where a {is} is"));
        }
        // Proxmox VE compares what is there with what is written, and one of them missing is a difference
        (Some(is), None) => {
            return trouble(format!("Mapping {id} has no subsystem-id, and {short} has {is}: its VM will not start"));
        }
        _ => {}
    }
    match (&function.group, entry.group) {
        (Seen::Is(is), Some(wanted)) if i64::from(*is) != wanted => trouble(format!(
            "Mapping {id} has {short} in IOMMU group {wanted}, and it is in group {is}: its VM will not start"
        )),
        (Seen::Is(is), None) => {
            trouble(format!("Mapping {id} has no iommugroup, and {short} is in group {is}: its VM will not start"))
        }
        (Seen::Unreadable(reason), Some(_)) => Says::Unknown(reason.clone(), format!("the IOMMU group of {short}")),
        _ => Says::Well,
    }
}

fn unmapped(vm: &Vm) -> Says {
    let lost = vm.given.iter().find(|given| given.mapping.is_some() && given.functions.is_empty());
    let Some(given) = lost else { return Says::Skip };
    let id = given.mapping.as_deref().unwrap_or_default();
    let trouble = Trouble::new(format!("{} asks for the mapping {id}, which has no device on this node", vm.title()));
    let fix =
        Fix::by_hand("add this node's card to the mapping: Datacenter, Resource Mappings", &[], "remove it there");
    Says::Fail(trouble.seen(vm.source(given.line), format!("{}: {}", given.key, given.text)).fix(fix))
}

pub(super) const CARD_PARTIAL: Check<Facts> = Check {
    about: about(
        "vm/card-partial",
        "a card goes to its VM with all its functions",
        "NVIDIA cards have companions in the same slot and IOMMU group: audio at .1, on some USB-C at .2 and .3. Passing .0 \
         alone leaves them on host drivers: the group is not viable (\"Please ensure all devices within the iommu_group are \
         bound to their vfio bus driver\"), the card cannot be reset, and the guest has no sound over HDMI.",
        "Linux vfio documentation; k8s-dra-driver-gpu issue 1191",
    ),
    run: |facts| super::each(facts, |vm| partial(facts, vm)),
};

fn partial(facts: &Facts, vm: &Vm) -> Says {
    for card in facts.cards_of(vm) {
        let all = facts.functions(card);
        let given: Vec<Bdf> = vm.given.iter().flat_map(|given| given.functions.iter().copied()).collect();
        let left: Vec<String> = all.iter().filter(|bdf| !given.contains(bdf)).map(Bdf::short).collect();
        if left.is_empty() {
            continue;
        }
        let mut trouble = Trouble::new(format!(
            "{} gets only a part of {}: {} stays behind",
            vm.title(),
            card_name(card),
            left.join(" and ")
        ));
        for one in vm.given.iter().filter(|one| one.functions.iter().any(|bdf| bdf.same_slot(&card.identity.bdf))) {
            trouble = trouble.seen(vm.source(one.line), format!("{}: {}", one.key, one.text));
        }
        let fix =
            mend(facts, vm, "give the whole slot as one device", "one hostdev for each function, on one guest slot");
        return Says::Fail(trouble.fix(fix));
    }
    Says::Well
}

pub(super) const TWICE_IN_ONE_VM: Check<Facts> = Check {
    about: about(
        "vm/twice-in-one-vm",
        "no function is given to one VM twice",
        "An address without a function means all functions of the slot. Where another line names one of them again, the \
         start fails: \"device '0000:01:00.1' assigned more than once\".",
        "PVE::QemuServer::PCI",
    ),
    run: |facts| join(facts, facts.vms.iter().filter(|vm| !vm.given.is_empty()).map(|vm| twice(facts, vm))),
};

fn twice(facts: &Facts, vm: &Vm) -> Says {
    for (index, given) in vm.given.iter().enumerate() {
        // any device of a mapping with several may be chosen at the start
        let rest = vm.given.iter().skip(index + 1).filter(|other| other.mapping.is_none() && given.mapping.is_none());
        for other in rest {
            let Some(same) = given.functions.iter().find(|bdf| other.functions.contains(bdf)) else { continue };
            let trouble = Trouble::new(format!("{} is given {} twice and will not start", vm.title(), same.short()))
                .seen(vm.source(given.line), format!("{}: {}", given.key, given.text))
                .seen(vm.source(other.line), format!("{}: {}", other.key, other.text));
            return Says::Fail(trouble.fix(mend(facts, vm, "keep one line for the slot", "remove one of the two")));
        }
    }
    Says::Well
}

pub(super) const TWO_VMS_ONE_CARD: Check<Facts> = Check {
    about: about(
        "vm/two-vms-one-card",
        "no two VMs name the same card",
        "Two definitions may name one card, yet only one of the VMs can run: the other's start fails with \"PCI device \
         '0000:01:00.0' already in use by VMID '101'\". A clone copies the hostpci lines of its template.",
        "PVE::QemuServer::PCI, reserve_pci_usage",
    ),
    run: |facts| join(facts, facts.gpus.cards.iter().map(|card| shared(facts, card))),
};

fn shared(facts: &Facts, card: &Card) -> Says {
    let owners = facts.owners(card.identity.bdf);
    let [first, second, ..] = owners.as_slice() else {
        return if owners.is_empty() { Says::Skip } else { Says::Well };
    };
    let mut trouble = Trouble::new(format!(
        "{} and {} both name {}, and only one of them can run at a time",
        first.title(),
        second.title(),
        card_name(card)
    ));
    for vm in &owners {
        trouble = name_lines(vm, card, trouble);
    }
    let keys: Vec<&str> = second.given.iter().map(|given| given.key.as_str()).collect();
    let fix = Fix::by_hand(
        format!("take the card from {}", second.title()),
        &[&format!("qm set {} --delete {}", second.id, keys.join(","))],
        format!("qm set {} with the old line", second.id),
    );
    Says::Warn(trouble.fix(restart(second, fix)))
}

fn name_lines(vm: &Vm, card: &Card, mut trouble: Trouble) -> Trouble {
    for given in vm.given.iter().filter(|given| given.functions.iter().any(|bdf| bdf.same_slot(&card.identity.bdf))) {
        trouble = trouble.seen(vm.source(given.line), format!("{}: {}", given.key, given.text));
    }
    trouble
}

pub(super) const ONBOOT_BOTH: Check<Facts> = Check {
    about: about(
        "vm/onboot-both",
        "of VMs that share a card, at most one starts with the host",
        "With `onboot: 1` on two VMs that name one card, every boot of the host ends with one of them not started; which \
         one depends on the order.",
        "pve-docs qm.adoc, automatic start",
    ),
    run: |facts| join(facts, facts.gpus.cards.iter().map(|card| both_start(facts, card))),
};

fn both_start(facts: &Facts, card: &Card) -> Says {
    let owners = facts.owners(card.identity.bdf);
    if owners.is_empty() {
        return Says::Skip;
    }
    let starts: Vec<&&Vm> = owners.iter().filter(|vm| vm.onboot.as_ref().is_some_and(|onboot| onboot.value)).collect();
    let [first, second, ..] = starts.as_slice() else { return Says::Well };
    let mut trouble = Trouble::new(format!(
        "{} and {} both start with the host and both name {}: one of them will not start",
        first.title(),
        second.title(),
        card_name(card)
    ));
    for vm in &starts {
        let line = vm.onboot.as_ref().and_then(|onboot| onboot.line);
        trouble = trouble.seen(vm.source(line), "onboot: 1");
    }
    let (set, back) = (format!("qm set {} --onboot 0", second.id), format!("qm set {} --onboot 1", second.id));
    Says::Fail(trouble.fix(Fix::by_hand(format!("start {} by hand only", second.title()), &[&set], back)))
}

/// True where a hostpci line asks for PCI Express, whatever the machine type is.
pub(super) fn asks_pcie(text: &str) -> bool {
    PropStr::parse(text).bool("pcie") == Some(true)
}
