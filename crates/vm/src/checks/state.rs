//! What the VM meets when it starts, and what runs now.

use model::{Bdf, Check, Fix, Seen, Source, Trouble};

use super::{Says, about, card_name, each, join};
use crate::{Backup, Facts, Running, Vm};

pub(super) const RAM_EXCEEDS_HOST: Check<Facts> = Check {
    about: about(
        "vm/ram-exceeds-host",
        "the host has the memory that a VM with a card pins",
        "VFIO pins all of a guest's memory at its start. Where that much is not free the start takes long, times out or ends \
         in \"kvm: cannot set up guest memory\" and the host may kill processes. ZFS's cache counts as used; it shrinks, \
         but slowly (zfs_arc_max limits it).",
        "Linux vfio documentation; PVE::QemuServer::Helpers, config_aware_timeout",
    ),
    run: |facts| each(facts, |vm| memory(facts, vm)),
};

fn memory(facts: &Facts, vm: &Vm) -> Says {
    let need = vm.memory.value;
    let total = match &facts.memory.total {
        Seen::Is(total) => *total,
        Seen::Absent => return Says::Skip,
        Seen::Unreadable(reason) => return Says::Unknown(reason.clone(), "/proc/meminfo".into()),
    };
    let lines = |trouble: Trouble| {
        trouble.seen(vm.source(vm.memory.line), format!("memory: {need}")).seen(
            Source::file("/proc/meminfo"),
            match &facts.memory.available {
                Seen::Is(free) => format!("{total} MiB in all, {free} MiB available"),
                _ => format!("{total} MiB in all"),
            },
        )
    };
    let less = Fix::by_hand(
        "give the VM less memory",
        &[&format!("qm set {} --memory MIB", vm.id)],
        format!("qm set {} --memory {need}", vm.id),
    );
    if need >= total {
        let says = format!("{} pins {need} MiB of memory, and this host has {total} MiB in all", vm.title());
        return Says::Fail(lines(Trouble::new(says)).fix(less));
    }
    if vm.is_running() {
        return Says::Well;
    }
    match &facts.memory.available {
        Seen::Is(free) if need > *free => {
            let cache = facts.memory.arc.get().filter(|arc| **arc > 0);
            let more =
                cache.map(|arc| format!("; ZFS's cache can give back up to {arc} MiB, slowly")).unwrap_or_default();
            let says =
                format!("{} pins {need} MiB of memory at its start, and {free} MiB are free now{more}", vm.title());
            Says::Warn(lines(Trouble::new(says)).fix(less))
        }
        Seen::Unreadable(reason) => Says::Unknown(reason.clone(), "/proc/meminfo".into()),
        _ => Says::Well,
    }
}

pub(super) const BACKUP_GRABS_CARD: Check<Facts> = Check {
    about: about(
        "vm/backup-grabs-card",
        "a backup of a stopped VM takes no card from another",
        "vzdump starts a stopped VM, paused, to read its disks (\"starting kvm to execute backup task\"). With a hostpci line \
         that binds the card and its whole IOMMU group to vfio-pci, pins the memory and resets the card: another VM or the \
         host loses it, or the backup fails.",
        "PVE::VZDump::QemuServer",
    ),
    run: |facts| {
        each(facts, |vm| {
            let Some(pve) = facts.pve.get() else { return Says::Skip };
            let number = vm.id.parse::<u32>().ok();
            let Some(Backup { id: job, line, .. }) = pve.backups.iter().find(|job| job.covers(number)) else {
                return Says::Skip;
            };
            if vm.is_running() {
                return Says::Well;
            }
            let rival = facts.cards_of(vm).into_iter().find_map(|card| {
                let other = facts.owners(card.identity.bdf).into_iter().find(|other| other.id != vm.id);
                let host = card.driver.get().filter(|driver| *driver != "vfio-pci");
                match (other, host) {
                    (Some(other), _) => Some((card, other.title())),
                    (None, Some(driver)) => Some((card, format!("the host ({driver})"))),
                    (None, None) => None,
                }
            });
            let Some((card, rival)) = rival else { return Says::Well };
            let trouble = Trouble::new(format!(
                "The backup job {job} will start {} to read its disks and so take {} from {rival}",
                vm.title(),
                card_name(card)
            ));
            let fix = Fix::by_hand(
                "leave the VM out of the job, or run it while the backup is made",
                &[&format!("pvesh set /cluster/backup/{job} --exclude {}", vm.id)],
                format!("pvesh set /cluster/backup/{job} --delete exclude"),
            );
            Says::Warn(trouble.seen(Source::line("/etc/pve/jobs.cfg", *line), format!("vzdump: {job}")).fix(fix))
        })
    },
};

/// Settings that only a stop and start puts in force, and that decide whether the card works.
const COLD: &[&str] = &["machine", "bios", "efidisk0", "cpu", "scsihw", "args", "balloon", "memory", "vga"];

pub(super) const PENDING_NOT_APPLIED: Check<Facts> = Check {
    about: about(
        "vm/pending-not-applied",
        "a running VM runs as its definition says",
        "A hostpci line, the machine type and the firmware cannot change while the VM runs: Proxmox VE keeps them under \
         [PENDING]. A reboot inside the guest does not apply them; only `qm stop` and `qm start` (or `qm reboot`) does.",
        "PVE::QemuServer, vmconfig_hotplug_pending",
    ),
    run: |facts| join(facts, facts.vms.iter().map(|vm| pending(facts, vm))),
};

fn pending(facts: &Facts, vm: &Vm) -> Says {
    let waits: Vec<_> =
        vm.pending.iter().filter(|(key, _, _)| key.starts_with("hostpci") || COLD.contains(&key.as_str())).collect();
    let again = Fix::by_hand(
        "stop and start the VM; a reboot inside it is not enough",
        &[&format!("qm shutdown {0} && qm start {0}", vm.id)],
        "nothing to take back",
    )
    .costs(format!("{} is down for a minute", vm.title()));
    if !waits.is_empty() {
        let keys: Vec<&str> = waits.iter().map(|(key, _, _)| key.as_str()).collect();
        let says = format!(
            "{} still runs without the changes to {} that wait for its next start",
            vm.title(),
            keys.join(", ")
        );
        let mut trouble = Trouble::new(says);
        for (key, value, line) in &waits {
            let value = value.as_ref().map_or(format!("delete: {key}"), |value| format!("{key}: {value}"));
            trouble = trouble.seen(vm.source(*line), value);
        }
        return Says::Warn(trouble.fix(again));
    }
    let wanted: Vec<&crate::Given> = vm.given.iter().filter(|given| !given.functions.is_empty()).collect();
    if wanted.is_empty() || facts.cards_of(vm).is_empty() {
        return Says::Skip;
    }
    match &vm.running {
        Running::No => Says::Well,
        Running::Unknown(reason) => Says::Unknown(reason.clone(), format!("the process of {}", vm.title())),
        Running::Yes { pid, args } => {
            // with iommufd the addresses are not on the command line
            if args.vfio.iter().any(|device| device.host.is_none()) {
                return Says::Well;
            }
            let lost = wanted.iter().find(|given| !given.functions.iter().any(|bdf| args.has(*bdf)));
            let Some(given) = lost else { return Says::Well };
            let names: Vec<String> = given.functions.iter().map(Bdf::short).collect();
            let trouble = Trouble::new(format!(
                "{} runs without {}, which its definition gives it",
                vm.title(),
                names.join(", ")
            ))
            .seen(vm.source(given.line), format!("{}: {}", given.key, given.text))
            .seen(Source::file(format!("/proc/{pid}/cmdline")), "no vfio-pci device with that address");
            Says::Warn(trouble.fix(again))
        }
    }
}

pub(super) const BACKUP_SUSPEND: Check<Facts> = Check {
    about: about(
        "vm/backup-suspend",
        "no backup suspends a VM that has a card",
        "A backup in the mode `suspend` saves the VM's state first, and a passed device's state cannot be saved: \"cannot \
         suspend VM to disk due to passed-through PCI device(s)\". The modes `snapshot` and `stop` need no such thing.",
        "PVE::VZDump::QemuServer; PVE::QemuServer, config_to_command",
    ),
    run: |facts| {
        each(facts, |vm| {
            let Some(pve) = facts.pve.get() else { return Says::Skip };
            let number = vm.id.parse::<u32>().ok();
            let mut jobs = pve.backups.iter().filter(|job| job.covers(number)).peekable();
            if jobs.peek().is_none() || vm.given.is_empty() {
                return Says::Skip;
            }
            let Some(job) = jobs.find(|job| job.mode == "suspend") else { return Says::Well };
            let trouble = Trouble::new(format!("The backup job {} suspends {}, which cannot be", job.id, vm.title()));
            let fix = Fix::by_hand(
                "let the job make a snapshot",
                &[&format!("pvesh set /cluster/backup/{} --mode snapshot", job.id)],
                format!("pvesh set /cluster/backup/{} --mode suspend", job.id),
            );
            Says::Warn(trouble.seen(Source::line("/etc/pve/jobs.cfg", job.line), "mode suspend").fix(fix))
        })
    },
};
