//! The table of this floor's checks, and how a check over several VMs becomes one verdict.

mod address;
mod firmware;
mod given;
mod group;
mod hint;
mod memory;
mod settings;
mod share;
mod state;

use gpu::Card;
use model::{About, Check, CheckId, Fix, Layer, Reason, Trouble, Verdict};

use crate::{Facts, Vm, VmKind};

/// In the order of the way: the card, the machine and its firmware, settings, what runs.
pub static CHECKS: &[Check<Facts>] = &[
    given::CARD_NOT_GIVEN,
    given::CARD_GONE,
    given::MAPPING_DRIFT,
    given::CARD_PARTIAL,
    given::TWICE_IN_ONE_VM,
    given::TWO_VMS_ONE_CARD,
    given::ONBOOT_BOTH,
    share::GROUP_TWO_VMS,
    group::GROUP_OTHERS,
    share::CARD_IN_USE,
    share::KEEP_DRIVER,
    share::ROMFILE_MISSING,
    share::ID_OVERRIDE,
    firmware::MACHINE_NOT_Q35,
    firmware::PCIE_MISSING,
    firmware::NOT_OVMF,
    firmware::NO_EFIDISK,
    firmware::EFITYPE_2M,
    firmware::EFIDISK_ENROLLED_KEYS,
    firmware::EFIDISK_OLD_CERTS,
    address::WINDOW_TOO_SMALL,
    address::BEYOND_IOMMU,
    address::PHYS_BITS_TOO_MANY,
    settings::CPU_NOT_HOST,
    settings::BALLOON_WITH_HOSTPCI,
    settings::SCSIHW,
    settings::X_VGA_CONSOLE,
    settings::KVM_HIDDEN,
    share::NO_KVM,
    share::HIGH_AVAILABILITY,
    state::RAM_EXCEEDS_HOST,
    memory::HUGEPAGES_MISSING,
    memory::MEMLOCK,
    memory::DMA_ENTRIES,
    memory::START_TIMEOUT,
    memory::NUMA_FAR,
    state::BACKUP_GRABS_CARD,
    state::BACKUP_SUSPEND,
    state::PENDING_NOT_APPLIED,
    share::IOMMUFD_P2P,
    hint::HINT_STALE,
];

const fn about(id: &'static str, title: &'static str, why: &'static str, source: &'static str) -> About {
    About { id: CheckId(id), layer: Layer::Vm, title, why, source }
}

/// What a check says of one VM or card.
enum Says {
    /// It does not speak of this one.
    Skip,
    Well,
    Warn(Trouble),
    Fail(Trouble),
    Unknown(Reason, String),
}

/// One verdict of many: a trouble, worst first, with all evidence and fixes; else what could not be looked at; else
/// well. Definitions that could not be read make an otherwise good verdict unknown.
fn join(facts: &Facts, all: impl IntoIterator<Item = Says>) -> Verdict {
    let (mut fails, mut warns, mut unknown, mut well) = (Vec::new(), Vec::new(), None, false);
    for one in all {
        match one {
            Says::Skip => {}
            Says::Well => well = true,
            Says::Fail(trouble) => fails.push(trouble),
            Says::Warn(trouble) => warns.push(trouble),
            Says::Unknown(reason, what) => unknown = unknown.or(Some((reason, what))),
        }
    }
    let failed = !fails.is_empty();
    fails.append(&mut warns);
    let mut troubles = fails.into_iter();
    if let Some(mut trouble) = troubles.next() {
        for other in troubles {
            trouble.says = format!("{}; {}", trouble.says, other.says);
            trouble.evidence.extend(other.evidence);
            for fix in other.fixes {
                if !trouble.fixes.contains(&fix) {
                    trouble.fixes.push(fix);
                }
            }
        }
        return if failed { Verdict::Fail(trouble) } else { Verdict::Warn(trouble) };
    }
    for (place, seen) in [("/etc/pve", facts.pve.unreadable()), ("/etc/libvirt/qemu", facts.libvirt.unreadable())] {
        if let Some(reason) = seen {
            return Verdict::Unknown { reason: reason.clone(), what: place.into() };
        }
    }
    if !facts.here() {
        return Verdict::NotApplicable;
    }
    if let Some((reason, what)) = unknown {
        return Verdict::Unknown { reason, what };
    }
    if let Some((source, reason)) = facts.unread.first() {
        return Verdict::Unknown { reason: reason.clone(), what: source.to_string() };
    }
    if let Some(reason) = facts.gpus.looked.unreadable() {
        return Verdict::Unknown { reason: reason.clone(), what: "this machine's PCI devices".into() };
    }
    if well { Verdict::Pass } else { Verdict::NotApplicable }
}

/// Judges each VM that has a card.
fn each(facts: &Facts, judge: impl Fn(&Vm) -> Says) -> Verdict {
    join(facts, facts.with_card().map(judge))
}

/// "26:00.0 (GeForce GT 1030)".
fn card_name(card: &Card) -> String {
    format!("{} ({})", card.identity.bdf.short(), card.short_name())
}

/// The cards of a VM in words.
fn cards(facts: &Facts, vm: &Vm) -> String {
    let names: Vec<String> = facts.cards_of(vm).into_iter().map(card_name).collect();
    names.join(" and ")
}

/// What mends a VM: a plan on Proxmox VE; on libvirt, `by_hand` in its editor.
fn mend(facts: &Facts, vm: &Vm, does: &str, by_hand: &str) -> Fix {
    let cards = facts.cards_of(vm);
    let fix = match (vm.kind, cards.first()) {
        (VmKind::Proxmox, Some(card)) => {
            let card = card.identity.bdf.short();
            Fix::planned(does, format!("thruway vm plan --give {card} --to vm:{}", vm.id))
        }
        (VmKind::Proxmox, None) => Fix::by_hand(does, &[], "qm set with the old value"),
        (VmKind::Libvirt, _) => Fix::by_hand(
            format!("{does}: {by_hand}"),
            &[&format!("virsh edit {}", vm.id)],
            "virsh edit, and the old lines",
        ),
    };
    restart(vm, fix)
}

/// Adds what a change to the definition of a running VM costs.
fn restart(vm: &Vm, fix: Fix) -> Fix {
    if vm.is_running() { fix.costs(format!("{} must be stopped and started", vm.title())) } else { fix }
}
