//! What of this machine hangs on which PCI function: network, disks, consoles, the firmware's framebuffer.

use std::collections::BTreeSet;

use gpu::Inventory;
use machine::{Machine, MachineExt};
use model::{Bdf, Reason, Seen};

use crate::facts::{DiskUse, NetUse, Usage};

/// How deep block devices may be stacked (LVM on md on dm-crypt on a partition is four).
const DEPTH: usize = 8;

pub(super) fn observe(machine: &dyn Machine, gpus: &Inventory) -> Usage {
    let consoles = machine.text("/proc/consoles").is().unwrap_or_default();
    let serial = consoles.lines().filter_map(|line| line.split_whitespace().next());
    let serial = serial.filter(|name| !name.starts_with("tty0") && !is_screen(name)).map(str::to_owned).collect();
    Usage {
        nets: nets(machine),
        gateway: formats::netroute::default_route(&machine.text("/proc/net/route").is().unwrap_or_default()),
        disks: disks(machine),
        serial,
        bootfb: bootfb(machine, gpus),
        nodes: machine.list("/dev/vfio"),
    }
}

fn is_screen(name: &str) -> bool {
    name.strip_prefix("tty").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
}

/// The PCI function nearest to a sysfs object: the last part of its real path that is an address.
fn function_of(machine: &dyn Machine, path: &str) -> Option<Bdf> {
    let real = machine.resolve(path).is()?;
    // Only a whole address: "0000:22:00.0"; a SCSI address "0:0:0:0" is none.
    real.rsplit('/').filter(|part| part.len() >= 12).find_map(|part| part.parse().ok())
}

fn nets(machine: &dyn Machine) -> Vec<NetUse> {
    let routes = formats::netroute::routes(&machine.text("/proc/net/route").is().unwrap_or_default());
    let default: BTreeSet<String> = routes.into_iter().filter(|r| r.is_default()).map(|r| r.interface).collect();
    let mut found = Vec::new();
    for name in machine.names("/sys/class/net") {
        let place = format!("/sys/class/net/{name}");
        let Some(bdf) = function_of(machine, &place) else { continue };
        let up = machine.value(&format!("{place}/operstate")) == Seen::Is("up".to_owned());
        let mut route = default.contains(&name).then(|| name.clone());
        // A bridge's or bond's port carries its master's route; VLANs stand on it as upper_*.
        if route.is_none()
            && let Seen::Is(master) = machine.link_name(&format!("{place}/master"))
            && default.contains(&master)
        {
            route = Some(master);
        }
        if route.is_none() {
            let uppers = machine.names(&place).into_iter().filter_map(|n| n.strip_prefix("upper_").map(str::to_owned));
            route = uppers.into_iter().find(|upper| default.contains(upper));
        }
        found.push(NetUse { name, bdf, up, route });
    }
    found
}

fn disks(machine: &dyn Machine) -> Vec<DiskUse> {
    let mut found: Vec<DiskUse> = Vec::new();
    let mut add = |name: &str, on: &str| {
        let mut bases = BTreeSet::new();
        bases_of(machine, name, DEPTH, &mut bases);
        for (base, bdf) in bases {
            if !found.iter().any(|disk| disk.name == base && disk.on == on) {
                found.push(DiskUse { name: base, bdf, on: on.to_owned() });
            }
        }
    };
    let mounts = machine.text("/proc/mounts").is().unwrap_or_default();
    let mut pools: BTreeSet<String> = BTreeSet::new();
    for line in mounts.lines() {
        let mut words = line.split_whitespace();
        let (Some(device), Some(place), Some(kind)) = (words.next(), words.next(), words.next()) else { continue };
        if kind == "zfs" {
            pools.insert(device.split('/').next().unwrap_or_default().to_owned());
        } else if let Some(name) = block_name(machine, device) {
            add(&name, place);
        }
    }
    let swaps = machine.text("/proc/swaps").is().unwrap_or_default();
    for line in swaps.lines().skip(1) {
        if let Some(name) = line.split_whitespace().next().and_then(|device| block_name(machine, device)) {
            add(&name, "swap");
        }
    }
    // Which devices a pool lies on is not in sysfs: any disk may carry it.
    if !pools.is_empty() {
        for name in machine.names("/sys/class/block") {
            for pool in &pools {
                add(&name, &format!("ZFS pool {pool}, perhaps"));
            }
        }
    }
    found
}

/// `/dev/mapper/pve-root` → `dm-1`.
fn block_name(machine: &dyn Machine, device: &str) -> Option<String> {
    if !device.starts_with("/dev/") {
        return None;
    }
    let real = machine.resolve(device).is().unwrap_or_else(|| device.to_owned());
    let name = real.rsplit('/').next()?.to_owned();
    machine.exists(&format!("/sys/class/block/{name}")).then_some(name)
}

/// The devices at the bottom of a stack that belong to a PCI function.
fn bases_of(machine: &dyn Machine, name: &str, depth: usize, into: &mut BTreeSet<(String, Bdf)>) {
    let place = format!("/sys/class/block/{name}");
    if let Some(bdf) = function_of(machine, &place) {
        into.insert((name.to_owned(), bdf));
        return;
    }
    if depth > 0 {
        for below in machine.names(&format!("{place}/slaves")) {
            bases_of(machine, &below, depth - 1, into);
        }
    }
}

/// Firmware framebuffers inside a card's memory, by /proc/iomem. Without root all addresses there are zero.
fn bootfb(machine: &dyn Machine, gpus: &Inventory) -> Seen<Vec<(Bdf, String)>> {
    machine.text("/proc/iomem").and_then(|text| {
        let mut found = Vec::new();
        let mut hidden = true;
        for line in text.lines() {
            let Some((range, name)) = line.trim().split_once(" : ") else { continue };
            let Some((start, end)) = range.split_once('-') else { continue };
            let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else { continue };
            hidden &= end == 0;
            if !matches!(name, "BOOTFB" | "simplefb" | "simpledrm" | "efifb" | "vesafb" | "simple-framebuffer") {
                continue;
            }
            for card in &gpus.cards {
                if card.bars.iter().any(|bar| bar.start != 0 && start >= bar.start && start - bar.start < bar.size) {
                    found.push((card.identity.bdf, name.to_owned()));
                }
            }
        }
        if hidden { Seen::Unreadable(Reason::PermissionDenied) } else { Seen::Is(found) }
    })
}
