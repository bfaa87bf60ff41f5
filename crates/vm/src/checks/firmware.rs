//! The machine type, the firmware and its variables.

use formats::efistore::SecureBoot;
use model::{Check, Fix, Seen, Source, Trouble};

use super::given::asks_pcie;
use super::{Says, about, cards, each, mend, restart};
use crate::{Facts, Vars, Vm, VmKind};

pub(super) const MACHINE_NOT_Q35: Check<Facts> = Check {
    about: about(
        "vm/machine-not-q35",
        "a VM with a card has the machine type q35",
        "i440fx has no PCI Express: the card hangs on the legacy bus, and `pcie=1` makes the start fail with \"q35 machine \
         model is not enabled\". The change renames the guest's network interfaces (ens18 to enp6s18): let its network \
         configuration match by MAC address first. Windows may ask to be activated again.",
        "PVE::QemuServer::PCI; pve-docs qm.adoc",
    ),
    run: |facts| each(facts, |vm| not_q35(facts, vm)),
};

fn not_q35(facts: &Facts, vm: &Vm) -> Says {
    if vm.q35 {
        return Says::Well;
    }
    let wants = vm.given.iter().find(|given| asks_pcie(&given.text));
    let machine = vm.machine.as_ref().map_or("not set: i440fx", |machine| machine.value.as_str());
    let line = vm.machine.as_ref().and_then(|machine| machine.line);
    let fix = mend(facts, vm, "make the machine a q35", "<type machine='q35'>, and let libvirt set all <address> anew")
        .costs("the guest's network interfaces change their names");
    match wants {
        Some(given) => Says::Fail(
            Trouble::new(format!("{} asks for PCI Express on an i440fx machine and will not start", vm.title()))
                .seen(vm.source(line), format!("machine: {machine}"))
                .seen(vm.source(given.line), format!("{}: {}", given.key, given.text))
                .fix(fix),
        ),
        None => Says::Warn(
            Trouble::new(format!("{} has {} on an i440fx machine, without PCI Express", vm.title(), cards(facts, vm)))
                .seen(vm.source(line), format!("machine: {machine}"))
                .fix(fix),
        ),
    }
}

pub(super) const PCIE_MISSING: Check<Facts> = Check {
    about: about(
        "vm/pcie-missing",
        "on a q35 machine the card stands on a PCI Express port",
        "Without `pcie=1` Proxmox VE puts the card on a legacy PCI bus even on q35. The guest then sees no link and no \
         extended configuration space; some drivers refuse such a card.",
        "pve-docs qm.adoc; PVE::QemuServer::PCI",
    ),
    run: |facts| {
        each(facts, |vm| {
            if !vm.q35 {
                return Says::Skip;
            }
            let gpus: Vec<_> = facts.cards_of(vm).iter().map(|card| card.identity.bdf).collect();
            let on_pci = vm.given.iter().find(|given| {
                !given.pcie && given.key != "args" && given.functions.iter().any(|bdf| gpus.contains(bdf))
            });
            let Some(given) = on_pci else { return Says::Well };
            let trouble = Trouble::new(format!("{} has {} on a legacy PCI bus", vm.title(), cards(facts, vm)));
            let fix =
                mend(facts, vm, "put the card on a PCI Express port", "a guest <address> behind a pcie-root-port");
            Says::Warn(trouble.seen(vm.source(given.line), format!("{}: {}", given.key, given.text)).fix(fix))
        })
    },
};

pub(super) const NOT_OVMF: Check<Facts> = Check {
    about: about(
        "vm/not-ovmf",
        "a VM with a card boots by UEFI",
        "SeaBIOS knows no 64-bit PCI window: a card with large BARs gets no addresses (\"BAR0 is 0M\"), and there is VGA \
         arbitration. A guest that was installed under SeaBIOS mostly does not boot under OVMF: it needs an EFI system \
         partition. Small cards such as a GT 1030 do work under SeaBIOS; `--allow vm/not-ovmf` keeps it.",
        "pve-docs qm.adoc, PCI(e) passthrough",
    ),
    run: |facts| {
        each(facts, |vm| {
            if vm.uefi {
                return Says::Well;
            }
            let line = vm.firmware.as_ref().and_then(|bios| bios.line);
            let value = vm.firmware.as_ref().map_or("not set: seabios".to_owned(), |bios| bios.value.clone());
            let trouble = Trouble::new(format!("{} has {} and boots by SeaBIOS", vm.title(), cards(facts, vm)))
                .seen(vm.source(line), format!("bios: {value}"));
            let fix = mend(facts, vm, "boot by OVMF, with a disk for its variables", "<os firmware='efi'>")
                .costs("a guest installed under SeaBIOS may not boot any more");
            Says::Warn(trouble.fix(fix))
        })
    },
};

pub(super) const NO_EFIDISK: Check<Facts> = Check {
    about: about(
        "vm/no-efidisk",
        "a UEFI machine keeps its variables on a disk",
        "Without efidisk0 Proxmox VE warns \"no efidisk configured! Using temporary efivars disk.\" and boot order, boot \
         entries and Secure Boot's state are lost at each start.",
        "PVE::QemuServer::OVMF",
    ),
    run: |facts| {
        each(facts, |vm| match (&vm.efidisk, vm.kind, vm.uefi) {
            (_, _, false) | (_, VmKind::Libvirt, _) => Says::Skip,
            (Some(_), ..) => Says::Well,
            (None, ..) => {
                let line = vm.firmware.as_ref().and_then(|bios| bios.line);
                let trouble = Trouble::new(format!("{} boots by OVMF and has no disk for its variables", vm.title()));
                let fix = mend(facts, vm, "add an EFI disk without enrolled keys", "");
                Says::Warn(trouble.seen(vm.source(line), "bios: ovmf, and no efidisk0").fix(fix))
            }
        })
    },
};

pub(super) const EFITYPE_2M: Check<Facts> = Check {
    about: about(
        "vm/efitype-2m",
        "the EFI disk is of the 4 MiB kind",
        "`efitype` left out means 2m: the older OVMF build with no Secure Boot and a smaller window for 64-bit BARs. The \
         API and Terraform make such disks where they do not say otherwise. The kind cannot be changed; the disk is made anew, \
         and the boot entries on it are lost.",
        "PVE::QemuServer::Drive, efitype",
    ),
    run: |facts| {
        each(facts, |vm| {
            let Some(disk) = vm.efidisk.as_ref().filter(|_| vm.uefi) else { return Says::Skip };
            if disk.efitype == "4m" {
                return Says::Well;
            }
            let trouble = Trouble::new(format!("{}'s EFI disk is of the old 2 MiB kind", vm.title()));
            let fix = recreate(vm, "make the EFI disk anew, of the 4 MiB kind and without keys", &disk.volume);
            Says::Warn(
                trouble
                    .seen(vm.source(Some(disk.line)), format!("efidisk0: {}, efitype={}", disk.volume, disk.efitype))
                    .fix(fix),
            )
        })
    },
};

pub(super) const EFIDISK_ENROLLED_KEYS: Check<Facts> = Check {
    about: about(
        "vm/efidisk-enrolled-keys",
        "Secure Boot in the VM does not stand in the driver's way",
        "An EFI disk made with `pre-enrolled-keys=1` (the web interface's default) starts with Secure Boot on. A loader \
         without a known signature ends in `BdsDxe: failed to load Boot0001 … Access Denied`, and NVIDIA's module, built by \
         its .run installer or DKMS, in `Key was rejected by service`. Either switch Secure Boot off in the firmware's \
         menu (Device Manager, Secure Boot Configuration, Attempt Secure Boot), make the EFI disk anew without keys, or \
         sign the module and enrol its key. The definition says how the disk began; what holds now stands in the variable \
         store on that disk, which is read while the VM is off. Whether a loader is signed does not stand there, and which signatures were taken back (dbx) is not judged.",
        "pve-docs qm.adoc, BIOS and UEFI; PVE::QemuServer::OVMF; EDK II, VariableFormat.h",
    ),
    run: |facts| {
        each(facts, |vm| {
            let told = vm.enrolled_keys.as_ref();
            let store = vm.secure_boot();
            // What the firmware keeps is what it will do; the definition says how that began.
            let on = match (store, told) {
                (Some((_, store)), _) => store.is_on(),
                (None, Some(told)) => told.value,
                (None, None) => return Says::Skip,
            };
            let blind = match &vm.vars {
                Some(Vars { path, says: Seen::Unreadable(reason) }) => Some((path, reason)),
                _ => None,
            };
            match blind {
                _ if on => {}
                Some((path, reason)) => return Says::Unknown(reason.clone(), format!("the variables of {path}")),
                None => return Says::Well,
            }
            let driver = match store {
                Some((_, store)) if store.shim_off => "its shim, told to check nothing, lets an unsigned driver pass",
                _ => "an unsigned driver is rejected",
            };
            let mut trouble = Trouble::new(format!(
                "{} starts with Secure Boot on: an unsigned loader gets \"Access Denied\", {driver}",
                vm.title()
            ));
            if let Some((path, store)) = store {
                trouble = seen_in(trouble, path, store);
            }
            if let Some(told) = told {
                let value = match &vm.efidisk {
                    Some(disk) => format!("efidisk0: {},pre-enrolled-keys={}", disk.volume, u8::from(told.value)),
                    None => format!("enrolled-keys or a secure loader: {}", if told.value { "yes" } else { "no" }),
                };
                let value = if told.value { value } else { format!("{value}; keys came since") };
                trouble = trouble.seen(vm.source(told.line), value);
            }
            if let Some((path, reason)) = blind {
                trouble = trouble.seen(Source::file(path.clone()), format!("not looked into: {reason}"));
            }
            let menu = restart(
                vm,
                Fix::by_hand(
                    "in the VM's firmware menu (Esc at its start): Device Manager, Secure Boot Configuration, clear Attempt Secure Boot",
                    &[],
                    "tick Attempt Secure Boot again",
                ),
            );
            let trouble = trouble.fix(menu);
            Says::Warn(match &vm.efidisk {
                Some(disk) => trouble.fix(recreate(vm, "or make the EFI disk anew without keys", &disk.volume)),
                None => trouble,
            })
        })
    },
};

/// What the variable store says of Secure Boot, as evidence.
fn seen_in(mut trouble: Trouble, path: &str, store: &SecureBoot) -> Trouble {
    let source = || Source::file(path);
    let switch = if store.switch.is_some() { "SecureBootEnable 1" } else { "SecureBootEnable not written yet: on" };
    trouble = trouble.seen(source(), format!("a platform key (PK) is enrolled, {switch}"));
    if !store.db.is_empty() {
        trouble = trouble.seen(source(), format!("signatures that count (db): {}", store.db.join(", ")));
    }
    if store.moks > 0 {
        trouble = trouble.seen(source(), format!("keys of the guest's own (MokList): {}", store.moks));
    }
    if let Some((name, file)) = store.boots.first() {
        let file = if file.is_empty() { String::new() } else { format!(" ({file})") };
        trouble = trouble.seen(source(), format!("boots first: {name}{file}"));
    }
    trouble
}

/// A new EFI disk on the old one's storage.
fn recreate(vm: &Vm, does: &str, volume: &str) -> Fix {
    let store = volume.split(':').next().filter(|store| !store.is_empty()).unwrap_or("STORAGE");
    let fix = Fix::by_hand(
        does,
        &[
            &format!("qm stop {}", vm.id),
            &format!("qm set {} --delete efidisk0", vm.id),
            &format!("qm set {} --efidisk0 {store}:1,efitype=4m,pre-enrolled-keys=0", vm.id),
        ],
        format!("qm set {} --efidisk0 {volume} (the old disk stays as unused0)", vm.id),
    );
    restart(vm, fix).costs("its boot entries are lost; a guest with BitLocker asks for its recovery key")
}

pub(super) const EFIDISK_OLD_CERTS: Check<Facts> = Check {
    about: about(
        "vm/efidisk-old-certs",
        "a Secure Boot VM knows Microsoft's certificates of 2023",
        "Microsoft's certificates of 2011 ran out in June 2026; loaders signed since then need those of 2023. An EFI disk \
         with keys that was made before has the old ones only: Proxmox VE says \"EFI disk without 'ms-cert=2023k' option\" \
         and the guest's next shim ends in Access Denied. Enrolling adds the new keys and removes none.",
        "PVE::QemuServer::OVMF; Microsoft, Secure Boot certificate expiration",
    ),
    run: |facts| {
        each(facts, |vm| {
            let Some(disk) = vm.efidisk.as_ref().filter(|disk| vm.uefi && disk.enrolled) else { return Says::Skip };
            let known = |(_, store): (&str, &SecureBoot)| store.db.iter().any(|name| name == "Microsoft UEFI CA 2023");
            if disk.certs.as_deref() == Some("2023k") || vm.secure_boot().is_some_and(known) {
                return Says::Well;
            }
            let certs = disk.certs.as_deref().unwrap_or("not set: 2011");
            let trouble = Trouble::new(format!(
                "{}'s EFI disk has Secure Boot keys without the certificates of 2023",
                vm.title()
            ));
            let fix = Fix::by_hand(
                "add the new keys, with the VM off (an older Proxmox VE has no such command: update it first)",
                &[&format!("qm enroll-efi-keys {}", vm.id)],
                "nothing to take back: the old keys stay",
            )
            .costs("a guest with BitLocker may ask for its recovery key");
            let value = format!("efidisk0: {}, ms-cert {certs}", disk.volume);
            Says::Warn(trouble.seen(vm.source(Some(disk.line)), value).fix(restart(vm, fix)))
        })
    },
};
