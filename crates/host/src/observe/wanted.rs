//! Which cards are meant for a VM, as far as the machine says: VM definitions, what vfio already holds or is told to
//! hold, and, on a Proxmox host with one NVIDIA card, that card.

use machine::{Machine, MachineExt};
use model::{Bdf, Seen, Source};

use crate::facts::{Facts, Want, is_vfio};

pub(super) fn observe(machine: &dyn Machine, facts: &Facts) -> Vec<Want> {
    let gpus = &facts.inventory;
    let mut wanted: Vec<Want> = Vec::new();
    let mut add = |slot: Bdf, why: String, source: Source, inferred: bool| {
        let Some(card) = gpus.cards.iter().find(|card| card.identity.bdf.same_slot(&slot)) else { return };
        let bdf = card.identity.bdf;
        if !wanted.iter().any(|want| want.bdf == bdf) {
            wanted.push(Want { bdf, why, source, inferred });
        }
    };
    for (bdf, why, source) in proxmox(machine).into_iter().chain(libvirt(machine)) {
        add(bdf, why, source, false);
    }
    for held in facts.conf.held.iter().filter(|held| held.matches) {
        add(held.bdf, "a rule holds it for vfio-pci".into(), held.source.clone(), false);
    }
    for card in gpus.nvidia() {
        if let Seen::Is(driver) = &card.driver
            && is_vfio(driver)
        {
            let path = format!("/sys/bus/pci/devices/{}/driver", card.identity.bdf);
            add(card.identity.bdf, format!("{driver} holds it now"), Source::file(path), false);
        }
    }
    // ids= names a kind of card; it names a card only where there is one of the kind.
    for (source, ids) in facts.ids() {
        let mut matching = gpus.cards.iter().filter(|card| ids.contains(&card.identity.id));
        if let (Some(card), None) = (matching.next(), matching.next()) {
            add(card.identity.bdf, format!("ids= names {}", card.identity.id), source.clone(), false);
        }
    }
    let mut nvidia = gpus.nvidia();
    if let (true, Some(card), None, true) =
        (facts.distro.proxmox.is_there(), nvidia.next(), nvidia.next(), wanted.is_empty())
    {
        wanted.push(Want {
            bdf: card.identity.bdf,
            why: "inferred: a Proxmox VE host with one NVIDIA card".into(),
            source: Source::Rule("Proxmox VE, and exactly one NVIDIA card".into()),
            inferred: true,
        });
    }
    wanted
}

/// `hostpciN` lines before the first section of each VM's file.
fn proxmox(machine: &dyn Machine) -> Vec<(Bdf, String, Source)> {
    const DIR: &str = "/etc/pve/qemu-server";
    let mut found = Vec::new();
    for name in machine.names(DIR) {
        let Some(vmid) = name.strip_suffix(".conf") else { continue };
        let path = format!("{DIR}/{name}");
        let Seen::Is(text) = machine.text(&path) else { continue };
        for (at, line) in text.lines().enumerate().take_while(|(_, line)| !line.starts_with('[')) {
            let Some((key, value)) = line.split_once(':') else { continue };
            if !key.starts_with("hostpci") {
                continue;
            }
            let value = value.trim();
            let words = || value.split(',');
            let host = words().find_map(|w| w.strip_prefix("host=")).or_else(|| words().find(|w| !w.contains('=')));
            let mapped = words().find_map(|w| w.strip_prefix("mapping="));
            let addresses = match (host, mapped) {
                (Some(host), _) => host.split(';').filter_map(slot).collect(),
                (None, Some(id)) => mapping(machine, id),
                (None, None) => Vec::new(),
            };
            let source = Source::line(&*path, u32::try_from(at + 1).unwrap_or(u32::MAX));
            for bdf in addresses {
                found.push((bdf, format!("{key} of VM {vmid} names it"), source.clone()));
            }
        }
    }
    found
}

/// `26:00`, `0000:26:00` or with a function; without one it is function 0.
fn slot(text: &str) -> Option<Bdf> {
    text.parse().ok().or_else(|| format!("{text}.0").parse().ok())
}

/// The paths of a resource mapping that are on this node.
fn mapping(machine: &dyn Machine, id: &str) -> Vec<Bdf> {
    let node = machine.value("/etc/hostname").is();
    let text = machine.text("/etc/pve/mapping/pci.cfg").is().unwrap_or_default();
    let mut here = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if !line.starts_with([' ', '\t']) {
            here = line.trim() == id;
            continue;
        }
        let Some(map) = line.trim().strip_prefix("map ").filter(|_| here) else { continue };
        let key = |name: &str| map.split(',').find_map(|w| w.trim().strip_prefix(name)?.strip_prefix('='));
        if node.is_none() || key("node") == node.as_deref() {
            found.extend(key("path").unwrap_or_default().split(';').filter_map(slot));
        }
    }
    found
}

/// PCI `<hostdev>` of libvirt's domain files, by a scan for the source address.
fn libvirt(machine: &dyn Machine) -> Vec<(Bdf, String, Source)> {
    const DIR: &str = "/etc/libvirt/qemu";
    let mut found = Vec::new();
    for name in machine.names(DIR) {
        let Some(vm) = name.strip_suffix(".xml") else { continue };
        let path = format!("{DIR}/{name}");
        let Seen::Is(text) = machine.text(&path) else { continue };
        let (mut hostdev, mut source) = (false, false);
        for (at, line) in text.lines().enumerate() {
            hostdev |= line.contains("<hostdev");
            source |= hostdev && line.contains("<source");
            if source && line.contains("<address") {
                let number = |key: &str| {
                    let rest =
                        line.split_once(&format!("{key}='")).or_else(|| line.split_once(&format!("{key}=\"")))?.1;
                    let text = rest.split(['\'', '"']).next()?;
                    u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
                };
                if let (Some(domain), Some(bus), Some(slot), Some(function)) =
                    (number("domain"), number("bus"), number("slot"), number("function"))
                    && let Ok(bdf) = format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}").parse()
                {
                    let line = Source::line(&*path, u32::try_from(at + 1).unwrap_or(u32::MAX));
                    found.push((bdf, format!("VM {vm} names it"), line));
                }
            }
            source &= !line.contains("</source");
            hostdev &= !line.contains("</hostdev");
        }
    }
    found
}
