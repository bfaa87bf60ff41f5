//! What goes with a function that is no GPU: the rest of its IOMMU group.

use model::{Bdf, Check, Fix, Seen, Source, Trouble};

use super::{Says, about, each};
use crate::{Facts, Vm, VmKind};

/// Their owners keep no device from a VM.
const HARMLESS: [&str; 3] = ["vfio-pci", "pci-stub", "pcieport"];

pub(super) const GROUP_OTHERS: Check<Facts> = Check {
    about: about(
        "vm/group-others",
        "what shares a group with a passed device that is no GPU is free to go",
        "Network cards, disk controllers and USB controllers are given away by groups, too. Proxmox VE takes the whole group \
         from the host when the VM starts, and gives nothing back; QEMU alone refuses: \"group 3 is not viable\". A GPU's own \
         group is judged by host/group-shared.",
        "Linux Documentation/driver-api/vfio.rst; pve-common SysFSTools.pm, pci_dev_group_bind_to_vfio",
    ),
    run: |facts| each_given(facts),
};

fn each_given(facts: &Facts) -> model::Verdict {
    each(facts, |vm| {
        let card = |bdf: &Bdf| facts.gpus.cards.iter().any(|card| card.identity.bdf.same_slot(bdf));
        let given: Vec<Bdf> = vm.given.iter().flat_map(|given| &given.functions).copied().collect();
        let others: Vec<Bdf> = given.iter().copied().filter(|bdf| !card(bdf)).collect();
        if others.is_empty() {
            return Says::Skip;
        }
        for bdf in others {
            let Some(function) = facts.gpus.function(bdf) else { continue };
            let group = match &function.group {
                Seen::Is(group) => *group,
                Seen::Absent => continue,
                Seen::Unreadable(reason) => {
                    return Says::Unknown(reason.clone(), format!("the IOMMU group of {}", bdf.short()));
                }
            };
            if let Some(trouble) = shared(facts, vm, &given, bdf, group) {
                return trouble;
            }
        }
        Says::Well
    })
}

fn shared(facts: &Facts, vm: &Vm, given: &[Bdf], bdf: Bdf, group: u32) -> Option<Says> {
    let members = facts.gpus.functions.iter().filter(|one| one.group == Seen::Is(group) && !one.bridge);
    let left = members.filter(|one| !given.contains(&one.bdf));
    let held = left.filter_map(|one| Some((one.bdf, one.driver.get()?)));
    let held: Vec<(Bdf, &String)> = held.filter(|(_, driver)| !HARMLESS.contains(&driver.as_str())).collect();
    if held.is_empty() {
        return None;
    }
    let names: Vec<String> = held.iter().map(|(bdf, driver)| format!("{} ({driver})", bdf.short())).collect();
    let (title, bdf, names) = (vm.title(), bdf.short(), names.join(", "));
    let says = if vm.kind == VmKind::Proxmox {
        format!("{title} is given {bdf}, and its start takes the rest of IOMMU group {group} from the host: {names}")
    } else {
        format!("{title} is given {bdf}, and the rest of IOMMU group {group} is the host's: {names}; it will not start")
    };
    let mut trouble = Trouble::new(says);
    for one in vm.given.iter().filter(|one| one.functions.iter().any(|function| function.short() == bdf)) {
        trouble = trouble.seen(vm.source(one.line), format!("{}: {}", one.key, one.text));
    }
    for (member, driver) in &held {
        trouble = trouble.seen(Source::file(format!("/sys/bus/pci/devices/{member}/driver")), (*driver).clone());
    }
    let fix = Fix::by_hand(
        "put the device into another slot, or give it back to the host",
        &[],
        "put it back, or give it to the VM again",
    );
    Some(Says::Fail(trouble.fix(fix)))
}
