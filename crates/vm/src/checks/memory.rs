//! Memory arithmetic: the start's time-out, what may be locked, huge pages, NUMA, the IOMMU's mappings.

use formats::propstr::PropStr;
use model::{Check, Fix, Seen, Source, Trouble};

use super::{Says, about, card_name, each, restart};
use crate::{Facts, HugePages, Vm, VmKind, numbers};

/// Seconds that a GiB of pinned memory may take where pages are small: what Proxmox VE itself reckons with.
const SECONDS_PER_GIB: u64 = 4;

pub(super) const START_TIMEOUT: Check<Facts> = Check {
    about: about(
        "vm/start-timeout",
        "the VM's start is waited for long enough",
        "A VM with a card touches and pins all of its memory before it runs. Proxmox VE waits 30 seconds, or one for each GiB \
         over 30; four times that with a hostpci line, but only since qemu-server 8.0.8 (Proxmox VE 8.1); 150 at least with huge pages, and 5 more \
         for each network card. Then the start ends in \"got timeout\" although nothing is wrong.",
        "PVE::QemuServer::Helpers, config_aware_timeout; qemu-server's changelog, 8.0.8",
    ),
    run: |facts| {
        each(facts, |vm| {
            let (Some(pve), Some(conf)) = (facts.pve.get(), &vm.conf) else { return Says::Skip };
            let (name, version, patient) = match (&facts.host.qemu_server, &pve.version) {
                (Seen::Is(version), _) => ("qemu-server", version, since(version, &[8, 0, 8])),
                // Proxmox VE 8.1 came with qemu-server 8.0.10
                (_, Seen::Is(version)) => ("Proxmox VE", version, since(version, &[8, 1])),
                (Seen::Unreadable(reason), _) | (_, Seen::Unreadable(reason)) => {
                    return Says::Unknown(reason.clone(), "/var/lib/dpkg/status".into());
                }
                (Seen::Absent, Seen::Absent) => return Says::Skip,
            };
            let mib = vm.memory.value;
            let mut wait = if mib > 30720 { mib / 1024 } else { 30 };
            let mut terms = vec![format!("{wait} s")];
            if patient {
                wait = wait.saturating_mul(4);
                terms.push("times 4 for hostpci".into());
            }
            let huge = conf.get("hugepages").is_some();
            if huge && wait < 150 {
                wait = 150;
                terms.push("150 at least for huge pages".into());
            }
            let cards = conf.current().filter(|entry| is_indexed(entry.key, "net")).count() as u64;
            wait = wait.saturating_add(cards * 5);
            terms.push(format!("5 for each of {cards} network cards"));
            // huge pages are few: no time to speak of
            let need = if huge { 0 } else { mib.saturating_mul(SECONDS_PER_GIB).div_ceil(1024) };
            if need <= wait {
                return Says::Well;
            }
            let trouble =
                Trouble::new(format!("{} may take {need} s to start, and {name} {version} waits {wait} s", vm.title()))
                    .seen(vm.source(vm.memory.line), format!("memory: {mib}, at {SECONDS_PER_GIB} s a GiB: {need} s"))
                    .seen(Source::Rule("config_aware_timeout".into()), format!("{} = {wait} s", terms.join(", ")));
            let longer = Fix::by_hand(
                "start it with more patience (a start with the host or by high availability does not)",
                &[&format!("qm start {} --timeout {}", vm.id, need.saturating_mul(2))],
                "nothing to take back",
            );
            let pages = Fix::by_hand(
                "or give it huge pages, reserved at the host's boot (hugepagesz=1G hugepages=N)",
                &[&format!("qm set {} --hugepages 1024", vm.id)],
                format!("qm set {} --delete hugepages", vm.id),
            );
            Says::Warn(trouble.fix(longer).fix(pages))
        })
    },
};

/// True where a version such as "8.0.8" or "7.1-8" is not older.
pub(super) fn since(version: &str, least: &[u32]) -> bool {
    let parts = version.split(['.', '-', '~', '+']).map_while(|part| part.parse::<u32>().ok());
    parts.collect::<Vec<u32>>().as_slice() >= least
}

fn is_indexed(key: &str, name: &str) -> bool {
    let digits = key.strip_prefix(name).unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

pub(super) const MEMLOCK: Check<Facts> = Check {
    about: about(
        "vm/memlock",
        "the VM's memory may be locked",
        "VFIO locks all of a guest's memory, and with it about 1 GiB for the card's own. With a vIOMMU each card counts the \
         memory once more. libvirt works the limit out itself unless <hard_limit> stands there; with too little the start ends \
         in \"VFIO_MAP_DMA failed: Cannot allocate memory\" and \"RLIMIT_MEMLOCK exceeded\". Proxmox VE runs QEMU as root, for \
         whom there is no limit.",
        "libvirt, qemuDomainGetMemLockLimitBytes; drivers/vfio/vfio_iommu_type1.c",
    ),
    run: |facts| {
        each(facts, |vm| {
            let Some(domain) = &vm.domain else { return Says::Skip };
            let Some(limit) = domain.hard_limit_mib else { return Says::Well };
            let times = if domain.viommu.is_some() { domain.hostdevs.len().max(1) as u64 } else { 1 };
            let need = vm.memory.value.saturating_mul(times).saturating_add(1024);
            if limit >= need {
                return Says::Well;
            }
            let trouble = Trouble::new(format!(
                "{} may lock {limit} MiB of memory, and its card needs {need} MiB locked",
                vm.title()
            ))
            .seen(vm.source(domain.line_of("hard_limit")), format!("hard_limit: {limit} MiB"))
            .seen(vm.source(vm.memory.line), format!("{} MiB x {times} + 1024 MiB = {need} MiB", vm.memory.value));
            let fix = Fix::by_hand(
                "take <hard_limit> out: libvirt works the limit out itself",
                &[&format!("virsh edit {}", vm.id)],
                "virsh edit, and the old line",
            );
            Says::Fail(trouble.fix(restart(vm, fix)))
        })
    },
};

pub(super) const HUGEPAGES_MISSING: Check<Facts> = Check {
    about: about(
        "vm/hugepages-missing",
        "the huge pages that a VM asks for are free",
        "Huge pages must lie in one piece. Those of 1 GiB can hardly be found once the host has run for a while: \"start \
         failed: hugepage allocation failed\". Reserve them at boot: hugepagesz=1G hugepages=N. Proxmox VE makes pages of \
         2 MiB at the start where enough memory is free; libvirt makes none.",
        "pve-docs qm.adoc; PVE::QemuServer::Memory; Linux hugetlbpage.rst",
    ),
    run: |facts| each(facts, |vm| hugepages(facts, vm)),
};

fn hugepages(facts: &Facts, vm: &Vm) -> Says {
    let asked = match (&vm.conf, &vm.domain) {
        (Some(conf), _) => match conf.get("hugepages") {
            Some(entry) => (if entry.value == "1024" { 1 << 20 } else { 2048 }, Some(entry.line)),
            None => return Says::Skip,
        },
        (None, Some(domain)) => match domain.hugepages_kib {
            Some(kib) => (if kib == 0 { 2048 } else { kib }, domain.line_of("hugepages")),
            None => return Says::Skip,
        },
        (None, None) => return Says::Skip,
    };
    if vm.is_running() {
        return Says::Well;
    }
    let (kib, line) = asked;
    let wanted_node =
        pinned(facts, vm).filter(|(nodes, _)| nodes.len() == 1).and_then(|(nodes, _)| nodes.first().copied());
    let pools: Vec<&HugePages> = facts
        .host
        .hugepages
        .iter()
        .filter(|pool| pool.kib == kib && wanted_node.is_none_or(|node| node == pool.node))
        .collect();
    let free: u64 = pools.iter().map(|pool| pool.free).sum();
    let need = vm.memory.value.saturating_mul(1024).div_ceil(kib);
    let size = if kib >= 1 << 20 { format!("{} GiB", kib >> 20) } else { format!("{} MiB", kib >> 10) };
    // made at the start, out of what is free
    let made = if vm.kind == VmKind::Proxmox && kib < 1 << 20 {
        facts.memory.available.get().map_or(0, |mib| mib.saturating_mul(1024) / kib)
    } else {
        0
    };
    if need <= free.saturating_add(made) {
        return Says::Well;
    }
    let place = wanted_node.map_or(String::new(), |node| format!(" on NUMA node {node}"));
    let mut trouble = Trouble::new(format!(
        "{} needs {need} huge pages of {size}, and {free} are free{place}: its start will fail",
        vm.title()
    ))
    .seen(vm.source(line), format!("{} MiB / {size} = {need} pages", vm.memory.value));
    for pool in &pools {
        let path = format!("/sys/devices/system/node/node{}/hugepages/hugepages-{kib}kB/free_hugepages", pool.node);
        trouble = trouble.seen(Source::file(path), format!("{} of {} free", pool.free, pool.total));
    }
    let word = if kib >= 1 << 20 {
        format!("hugepagesz={}G hugepages={need}", kib >> 20)
    } else {
        format!("hugepages={need}")
    };
    let (without, back) = match vm.kind {
        VmKind::Proxmox => (format!("qm set {} --delete hugepages", vm.id), "qm set with the old value"),
        VmKind::Libvirt => (format!("virsh edit {}", vm.id), "virsh edit, and the old lines"),
    };
    let fix = Fix::by_hand(
        format!("reserve them at the host's boot, in its kernel command line: {word}"),
        &[],
        "take the words out again",
    )
    .costs("the host must be rebooted, and has that memory no more");
    Says::Fail(trouble.fix(fix).fix(Fix::by_hand("or let the VM run without huge pages", &[&without], back)))
}

/// The host's NUMA nodes that the definition keeps the VM to, and where it says so.
fn pinned(facts: &Facts, vm: &Vm) -> Option<(Vec<u32>, Source)> {
    if let Some(domain) = &vm.domain {
        return domain.nodeset.as_deref().map(|set| (numbers(set), vm.source(domain.line_of("numatune"))));
    }
    let conf = vm.conf.as_ref()?;
    let nodes = conf.current().filter(|entry| is_indexed(entry.key, "numa"));
    let mut all: Vec<u32> = Vec::new();
    let mut line = None;
    for entry in nodes {
        if let Some(set) = PropStr::parse(entry.value).get("hostnodes") {
            all.extend(numbers(set));
            line = line.or(Some(entry.line));
        }
    }
    if line.is_none() {
        let entry = conf.get("affinity")?;
        let cpus = numbers(entry.value);
        let on = facts.host.nodes.iter().filter(|(_, own)| cpus.iter().any(|cpu| own.contains(cpu)));
        all.extend(on.map(|(node, _)| *node));
        line = Some(entry.line);
    }
    all.sort_unstable();
    all.dedup();
    Some((all, vm.source(line)))
}

pub(super) const NUMA_FAR: Check<Facts> = Check {
    about: about(
        "vm/numa-far",
        "the VM runs on the NUMA node of its card",
        "On a host with several nodes each card hangs on one. Where the VM's CPUs or memory are on another, every transfer \
         crosses the link between the sockets: less bandwidth and more latency for each copy to the card.",
        "Linux Documentation/ABI/testing/sysfs-bus-pci, numa_node; pve-docs qm.adoc, NUMA",
    ),
    run: |facts| each(facts, |vm| far(facts, vm)),
};

fn far(facts: &Facts, vm: &Vm) -> Says {
    if facts.host.nodes.len() < 2 {
        return Says::Skip;
    }
    let Some((card, home)) = facts
        .cards_of(vm)
        .into_iter()
        .find_map(|card| Some((card, card.numa.and_then(|node| u32::try_from(node).ok())?)))
    else {
        return Says::Skip;
    };
    let path = Source::file(format!("/sys/bus/pci/devices/{}/numa_node", card.identity.bdf));
    let (says, source, value) = match pinned(facts, vm) {
        Some((nodes, _)) if nodes == [home] => return Says::Well,
        Some((nodes, source)) => {
            let words: Vec<String> = nodes.iter().map(u32::to_string).collect();
            let value = format!("node {}", words.join(", "));
            (format!("is kept to NUMA node {}", words.join(" and ")), source, value)
        }
        None => ("may run on any NUMA node".to_owned(), vm.source(None), "no hostnodes and no affinity".to_owned()),
    };
    let trouble = Trouble::new(format!("{} {says}, and {} is on node {home}", vm.title(), card_name(card)))
        .seen(path, home.to_string())
        .seen(source, value);
    let cpus = facts.host.nodes.iter().find(|(node, _)| *node == home).map(|(_, cpus)| cpus.as_slice());
    let cpus: Vec<String> = cpus.unwrap_or_default().iter().map(u32::to_string).collect();
    let fix = match vm.kind {
        VmKind::Proxmox => Fix::by_hand(
            "keep the VM to the card's node",
            &[&format!("qm set {} --affinity {}", vm.id, cpus.join(","))],
            format!("qm set {} --delete affinity", vm.id),
        ),
        VmKind::Libvirt => Fix::by_hand(
            format!("keep the VM to the card's node: <numatune><memory mode='strict' nodeset='{home}'/></numatune>"),
            &[&format!("virsh edit {}", vm.id)],
            "virsh edit, and take the lines out",
        ),
    };
    Says::Warn(trouble.fix(restart(vm, fix)))
}

pub(super) const DMA_ENTRIES: Check<Facts> = Check {
    about: about(
        "vm/dma-entries",
        "a VM may hold as many mappings as the kernel's default",
        "vfio_iommu_type1 bounds how many pieces of memory one VM may map, 65535 by default. A lower dma_entry_limit ends in \
         \"VFIO_MAP_DMA failed: No space left on device\" (-28) for VMs with many devices.",
        "drivers/vfio/vfio_iommu_type1.c, dma_entry_limit",
    ),
    run: |facts| {
        each(facts, |vm| match &facts.host.dma_entries {
            Seen::Is(limit) if *limit < 65535 => {
                let trouble = Trouble::new(format!("{} may hold only {limit} mappings of its memory", vm.title()));
                let path = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
                let fix = Fix::by_hand(
                    "take dma_entry_limit out of /etc/modprobe.d, and until the next boot:",
                    &[&format!("echo 65535 > {path}")],
                    format!("echo {limit} > {path}"),
                );
                Says::Warn(trouble.seen(Source::file(path), limit.to_string()).fix(fix))
            }
            Seen::Is(_) => Says::Well,
            // the module is not loaded yet, and begins with its default
            Seen::Absent => Says::Skip,
            Seen::Unreadable(reason) => Says::Unknown(reason.clone(), "vfio_iommu_type1's dma_entry_limit".into()),
        })
    },
};

#[cfg(test)]
mod tests {
    use super::since;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(since("8.0.8", &[8, 0, 8]) && since("8.0.10", &[8, 0, 8]) && since("9.1", &[8, 1]));
        assert!(!since("8.0.7", &[8, 0, 8]) && !since("7.1-8", &[8, 1]) && !since("", &[8]) && !since("x", &[8]));
    }
}
