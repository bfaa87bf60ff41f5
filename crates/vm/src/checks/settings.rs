//! Settings beside the card that decide how well it works.

use model::{Check, Fix, Trouble};

use super::{Says, about, cards, each, mend, restart};
use crate::{Facts, VmKind};

/// CPU models without AVX, on which CUDA's libraries and most of what uses them end in "Illegal instruction".
const PLAIN: &[&str] =
    &["kvm64", "kvm32", "qemu64", "qemu32", "x86-64-v2", "x86-64-v2-AES", "486", "pentium", "core2duo"];

pub(super) const CPU_NOT_HOST: Check<Facts> = Check {
    about: about(
        "vm/cpu-not-host",
        "the guest's CPU is the host's",
        "Without `cpu:` Proxmox VE's API gives kvm64, its web interface x86-64-v2-AES: no AVX, and PyTorch, TensorFlow or \
         a codec ends in \"Illegal instruction\". OVMF also has less room for the card's memory.",
        "PVE::QemuServer::CPUConfig",
    ),
    run: |facts| {
        each(facts, |vm| {
            let model = vm.cpu.as_ref().map(|cpu| cpu.value.as_str());
            if model.is_some_and(|model| !PLAIN.contains(&model)) {
                return Says::Well;
            }
            let trouble = Trouble::new(format!(
                "{} has the CPU model {}, without AVX",
                vm.title(),
                model.unwrap_or("kvm64 (none is set)")
            ));
            let line = vm.cpu.as_ref().and_then(|cpu| cpu.line);
            let value = model.map_or("no cpu line".to_owned(), |model| format!("cpu: {model}"));
            let fix = mend(facts, vm, "show the guest the host's CPU", "<cpu mode='host-passthrough'/>")
                .costs("no live migration to other CPUs, which a VM with a card cannot do anyway");
            Says::Warn(trouble.seen(vm.source(line), value).fix(fix))
        })
    },
};

pub(super) const BALLOON_WITH_HOSTPCI: Check<Facts> = Check {
    about: about(
        "vm/balloon-with-hostpci",
        "a VM with a card has no memory balloon",
        "VFIO pins all of the guest's memory, so a balloon gives nothing back and the figures that it reports are wrong. \
         Proxmox VE adds one unless `balloon: 0` stands there.",
        "pve-docs qm.adoc, memory; QEMU ram_block_discard_disable",
    ),
    run: |facts| {
        each(facts, |vm| {
            if !vm.balloon.value {
                return Says::Well;
            }
            let value = if vm.balloon.line.is_some() { "balloon is on" } else { "no balloon line: on by default" };
            let trouble = Trouble::new(format!("{} has a memory balloon, which its card makes useless", vm.title()));
            let fix = mend(facts, vm, "take the balloon out", "<memballoon model='none'/>");
            Says::Warn(trouble.seen(vm.source(vm.balloon.line), value).fix(fix))
        })
    },
};

pub(super) const SCSIHW: Check<Facts> = Check {
    about: about(
        "vm/scsihw",
        "the VM's SCSI controller is VirtIO SCSI single",
        "With one controller for each disk, a disk's requests get a thread of their own (`iothread=1`). The default where \
         nothing is set is an emulated LSI 53C895A, slow, and unknown to some newer guests.",
        "pve-docs qm.adoc, hard disk",
    ),
    run: |facts| {
        each(facts, |vm| {
            if vm.kind == VmKind::Libvirt || !vm.scsi_disks {
                return Says::Skip;
            }
            let kind = vm.scsihw.as_ref().map(|kind| kind.value.as_str());
            if kind == Some("virtio-scsi-single") {
                return Says::Well;
            }
            let line = vm.scsihw.as_ref().and_then(|kind| kind.line);
            let trouble =
                Trouble::new(format!("{}'s SCSI controller is {}", vm.title(), kind.unwrap_or("an emulated LSI")));
            let fix = mend(facts, vm, "use VirtIO SCSI single", "");
            let fix = if kind.is_some_and(|kind| kind.starts_with("virtio")) {
                fix
            } else {
                fix.costs("a guest without virtio drivers (Windows) will not find its disk")
            };
            let value = kind.map_or("no scsihw line: lsi".to_owned(), |kind| format!("scsihw: {kind}"));
            Says::Warn(trouble.seen(vm.source(line), value).fix(fix))
        })
    },
};

pub(super) const X_VGA_CONSOLE: Check<Facts> = Check {
    about: about(
        "vm/x-vga-console",
        "the VM keeps a console besides its card",
        "`x-vga=1` (\"Primary GPU\") makes Proxmox VE take the emulated display away where no `vga:` line stands: noVNC is \
         dead, and a guest whose driver does not start cannot be reached. Computing and transcoding need no x-vga.",
        "PVE::QemuServer::PCI, print_hostpci_devices",
    ),
    run: |facts| {
        each(facts, |vm| {
            let Some(given) = vm.given.iter().find(|given| given.x_vga) else { return Says::Well };
            if vm.console {
                return Says::Well;
            }
            let trouble = Trouble::new(format!(
                "{} has {} as its only display: its console in Proxmox VE stays black",
                vm.title(),
                cards(facts, vm)
            ));
            let fix = Fix::by_hand(
                "add a serial console (needs console=ttyS0 in the guest)",
                &[&format!("qm set {} --serial0 socket", vm.id)],
                format!("qm set {} --delete serial0", vm.id),
            );
            Says::Warn(
                trouble
                    .seen(vm.source(given.line), format!("{}: {}; no vga and no serial0 line", given.key, given.text))
                    .fix(restart(vm, fix)),
            )
        })
    },
};

pub(super) const KVM_HIDDEN: Check<Facts> = Check {
    about: about(
        "vm/kvm-hidden",
        "KVM is not hidden from a guest that has no need of it",
        "Before driver 465 NVIDIA's driver for GeForce refused to run in a VM (\"Code 43\"), and hiding KVM was the way round. \
         It is not needed any more, never was for Linux guests' newer drivers, and takes the guest's clock and its \
         spinlocks from it. Code 43 today is mostly a matter of memory regions, of the ROM or of a reset.",
        "NVIDIA, GeForce GPU Passthrough for Windows Virtual Machine (Beta); QEMU, kvm=off",
    ),
    run: |facts| {
        each(facts, |vm| {
            // which Windows driver is inside cannot be seen from here, nor what a libvirt domain runs
            if vm.given.is_empty() || vm.ostype.is_none() || vm.is_windows() {
                return Says::Skip;
            }
            let Some(cpu) = vm.cpu.as_ref().filter(|_| vm.kvm_hidden) else { return Says::Well };
            let trouble = Trouble::new(format!("{} hides KVM from a Linux guest", vm.title()));
            let fix = Fix::by_hand(
                "let the guest see it",
                &[&format!("qm set {} --cpu {}", vm.id, cpu.value)],
                format!("qm set {} --cpu {},hidden=1", vm.id, cpu.value),
            );
            Says::Warn(trouble.seen(vm.source(cpu.line), "hidden=1").fix(restart(vm, fix)))
        })
    },
};
