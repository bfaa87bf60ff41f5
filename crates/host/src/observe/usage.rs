//! What of this machine hangs on which PCI function: network, disks, consoles, the firmware's framebuffer.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use formats::netroute;
use gpu::{Card, Inventory};
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
        nets: nets(machine, gpus),
        gateway: netroute::default_route(&machine.text("/proc/net/route").is().unwrap_or_default()),
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

fn nets(machine: &dyn Machine, gpus: &Inventory) -> Vec<NetUse> {
    let routes = netroute::routes(&machine.text("/proc/net/route").is().unwrap_or_default());
    let default: BTreeSet<&str> = routes.iter().filter(|r| r.is_default()).map(|r| r.interface.as_str()).collect();
    let mut found = Vec::new();
    for name in machine.names("/sys/class/net") {
        let place = format!("/sys/class/net/{name}");
        let Some(bdf) = function_of(machine, &place) else { continue };
        let up = machine.value(&format!("{place}/operstate")) == Seen::Is("up".to_owned());
        let route = carried(machine, &name, |name| default.contains(name));
        found.push(NetUse { name, bdf, up, route, ssh: Vec::new() });
    }
    // A busy server has many connections: they are read only where a card could take an interface along.
    if found.iter().any(|net| gpus.cards.iter().any(|card| shares(card, net.bdf))) {
        let sessions = sessions(machine, &routes);
        for net in &mut found {
            let by = |interface: &str| carried(machine, &net.name, |name| name == interface).is_some();
            net.ssh = sessions.iter().filter(|(by_which, _)| by(by_which)).map(|(_, peer)| *peer).collect();
        }
    }
    found
}

fn shares(card: &Card, bdf: Bdf) -> bool {
    card.group.get().is_some_and(|group| group.members.contains(&bdf))
}

/// The interface itself, its bridge or bond, or the VLAN that stands on it, whichever fits first.
fn carried(machine: &dyn Machine, name: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
    if fits(name) {
        return Some(name.to_owned());
    }
    let place = format!("/sys/class/net/{name}");
    if let Seen::Is(master) = machine.link_name(&format!("{place}/master"))
        && fits(&master)
    {
        return Some(master);
    }
    let mut uppers = machine.names(&place).into_iter().filter_map(|n| n.strip_prefix("upper_").map(str::to_owned));
    uppers.find(|upper| fits(upper))
}

/// SSH sessions over IPv4: the interface that leads to the peer, and the peer.
fn sessions(machine: &dyn Machine, routes: &[netroute::Route]) -> Vec<(String, Ipv4Addr)> {
    let config = machine.text("/etc/ssh/sshd_config").is().unwrap_or_default();
    let mut ports: Vec<u16> = config
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next().filter(|word| word.eq_ignore_ascii_case("port"))?;
            words.next()?.parse().ok()
        })
        .collect();
    ports.push(22);
    let peers = netroute::peers(&machine.text("/proc/net/tcp").is().unwrap_or_default(), &ports);
    let by = |peer: Ipv4Addr| Some((netroute::interface_to(routes, peer)?.to_owned(), peer));
    peers.into_iter().filter_map(by).collect()
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
