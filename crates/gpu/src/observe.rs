//! The inventory from sysfs: one pass over the PCI functions, a few small files each, and no device woken.

use std::collections::HashMap;

use machine::nvml::{Depth, NvmlReport};
use machine::{Machine, MachineExt as _};
use model::{Bdf, Identity, PciId, Reason, Seen};

use crate::names::{self, class_name};
use crate::{Bar, Card, Function, Group, Holder, Inventory, Link, Speed, arch, driver, hint, holder};

const DEVICES: &str = "/sys/bus/pci/devices";
const SLOTS: &str = "/sys/bus/pci/slots";

/// Looks at every PCI function, every card, NVML and the driver's files. Changes nothing and wakes nothing: of a card
/// that sleeps, `config`, the link and the like are not read, and NVML is not asked.
pub fn observe(machine: &dyn Machine) -> Inventory {
    inventory(machine, |functions| nvml(machine, functions, Depth::Plain))
}

/// As [`observe`], with all of NVML's topics: for who shows them, since some take time.
pub fn observe_all(machine: &dyn Machine) -> Inventory {
    inventory(machine, |functions| nvml(machine, functions, Depth::All))
}

/// As [`observe`], with a report of NVML that is there already (a conversation that stays open).
pub fn observe_with(machine: &dyn Machine, report: Seen<NvmlReport>) -> Inventory {
    inventory(machine, |_| report)
}

fn inventory(machine: &dyn Machine, nvml: impl FnOnce(&[Function]) -> Seen<NvmlReport>) -> Inventory {
    let (functions, looked) = functions(machine);
    let nvml = nvml(&functions);
    let mut cards = cards(machine, &functions, nvml.get());
    if let Seen::Is(report) = &nvml {
        lost(&mut cards, report);
    }
    names::give(machine, &mut cards);
    for card in &mut cards {
        card.arch = arch::of(card);
    }
    holder::find(machine, &mut cards);
    let driver = driver::observe(machine);
    Inventory { cards, functions, looked, nvml, driver, hints: hint::observe(machine) }
}

fn nvml(machine: &dyn Machine, functions: &[Function], depth: Depth) -> Seen<NvmlReport> {
    match sleeper(machine, functions) {
        Some(reason) => Seen::Unreadable(reason),
        None => machine::nvml::ask(machine, depth),
    }
}

/// NVIDIA's cards but those that are `told` of already, in little: names, driver and holder. For who looks again and again: what
/// was found `before` is taken over where the functions are the same, and only the holders are looked for.
pub fn observe_rest(machine: &dyn Machine, told: &[Bdf], before: Vec<Card>) -> Vec<Card> {
    let (functions, _) = functions(machine);
    let rest: Vec<Function> = functions
        .into_iter()
        .filter(|function| function.id.vendor == PciId::NVIDIA && !told.iter().any(|bdf| bdf.same_slot(&function.bdf)))
        .collect();
    let now = rest.iter().filter(|function| display(function));
    let mut cards = if now
        .map(|it| (it.bdf, &it.id, &it.driver))
        .eq(before.iter().map(|it| (it.identity.bdf, &it.identity.id, &it.driver)))
    {
        before
    } else {
        let mut cards = cards(machine, &rest, None);
        names::give(machine, &mut cards);
        cards
    };
    holder::find(machine, &mut cards);
    cards
}

/// Whether NVML can be asked and wakes no card; else why not.
pub fn awake(machine: &dyn Machine) -> Seen<()> {
    sleeper(machine, &functions(machine).0).map_or(Seen::Is(()), Seen::Unreadable)
}

/// Why NVML is not asked, where asking it would wake a card of NVIDIA's driver.
fn sleeper(machine: &dyn Machine, functions: &[Function]) -> Option<Reason> {
    let of_nvidia = functions.iter().filter(|f| display(f) && f.driver.get().is_some_and(|driver| driver == "nvidia"));
    for function in of_nvidia {
        let power = machine.value(&format!("{DEVICES}/{}/power_state", function.bdf));
        if let Some(state) = power.get().filter(|state| asleep(state)) {
            let why = format!("not asked: {} sleeps ({state}), and NVML would wake it", function.bdf.short());
            return Some(Reason::Other(why));
        }
    }
    None
}

/// Every PCI function, by address, and whether all could be looked at: sysfs alone, which everyone may read. Asks no driver and
/// wakes no card.
pub fn functions(machine: &dyn Machine) -> (Vec<Function>, Seen<()>) {
    let names = match machine.list(DEVICES) {
        Seen::Is(names) => names,
        Seen::Absent => return (Vec::new(), Seen::Absent),
        Seen::Unreadable(reason) => return (Vec::new(), Seen::Unreadable(reason)),
    };
    let mut looked = Seen::Is(());
    let mut functions = Vec::with_capacity(names.len());
    for name in names {
        // What is not spelled as the kernel spells an address is no function.
        let Some(bdf) = name.parse::<Bdf>().ok().filter(|bdf| bdf.to_string() == name) else { continue };
        match function(machine, bdf) {
            Ok(function) => functions.push(function),
            // One function that cannot be read may be the GPU: "no GPU" must not be said any more.
            Err(reason) => looked = Seen::Unreadable(reason),
        }
    }
    functions.sort_by_key(|function| function.bdf);
    functions.dedup_by_key(|function| function.bdf);
    (functions, looked)
}

/// `uevent` names identity, class and driver in one file; the single files stand in where it is not there.
#[derive(Default)]
struct Uevent {
    driver: Option<String>,
    class: Option<u32>,
    id: Option<PciId>,
    subsystem: Option<PciId>,
}

fn uevent(text: &str) -> Uevent {
    let mut found = Uevent::default();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "DRIVER" => found.driver = Some(value.trim().to_owned()).filter(|name| !name.is_empty()),
            "PCI_CLASS" => found.class = u32::from_str_radix(value.trim(), 16).ok().filter(|class| *class < 1 << 24),
            "PCI_ID" => found.id = value.trim().parse().ok(),
            "PCI_SUBSYS_ID" => found.subsystem = value.trim().parse().ok(),
            _ => {}
        }
    }
    found
}

fn function(machine: &dyn Machine, bdf: Bdf) -> Result<Function, Reason> {
    let at = |name: &str| format!("{DEVICES}/{bdf}/{name}");
    let event = machine.text(&at("uevent"));
    let told = event.get().map(|text| uevent(text)).unwrap_or_default();
    let hex = |name: &str, most: i64| {
        let number = machine.number(&at(name));
        number.get().copied().filter(|number| (0..=most).contains(number)).ok_or(match number {
            Seen::Unreadable(reason) => reason,
            _ => Reason::Malformed(format!("{} holds no {name} number", at(name))),
        })
    };
    let pair = |vendor: &str, device: &str| {
        Ok::<_, Reason>(PciId::new(hex(vendor, 0xffff)? as u16, hex(device, 0xffff)? as u16))
    };
    let id = told.id.map_or_else(|| pair("vendor", "device"), Ok)?;
    let class = told.class.map_or_else(|| hex("class", 0xff_ffff).map(|class| class as u32), Ok)?;
    let subsystem = match told.subsystem {
        Some(id) => Some(id),
        None if event.is_there() => None,
        None => pair("subsystem_vendor", "subsystem_device").ok(),
    };
    let driver = match machine.link_name(&at("driver")) {
        // A partial tree may lack the link; uevent says the same in words.
        Seen::Unreadable(_) if event.is_there() => told.driver.into(),
        Seen::Is(name) if name.is_empty() => Seen::Absent,
        seen => seen,
    };
    let driver_override = match machine.value(&at("driver_override")) {
        Seen::Is(text) if text.is_empty() || text == "(null)" => Seen::Absent,
        seen => seen,
    };
    let group = machine.link_name(&at("iommu_group")).and_then(|name| match name.parse() {
        Ok(number) => Seen::Is(number),
        Err(_) => Seen::Unreadable(Reason::Malformed(format!("{} does not lead to a group", at("iommu_group")))),
    });
    let numa = machine.number(&at("numa_node")).get().and_then(|node| i32::try_from(*node).ok());
    Ok(Function {
        bdf,
        id,
        // Bridges and some chipset functions have none; the kernel then says 0000:0000.
        subsystem: subsystem.filter(|id| *id != PciId::new(0, 0)),
        class,
        revision: hex("revision", 0xff).unwrap_or(0) as u8,
        driver,
        driver_override,
        group,
        // By class and not by the header type in `config`: reading that wakes a sleeping device, and the PCI code
        // and ID assignment specification gives header type 1 to 0604 and 0609, type 2 to 0607.
        bridge: matches!(class >> 8, 0x0604 | 0x0607 | 0x0609),
        numa,
    })
}

/// "D3hot", "D3cold".
fn asleep(state: &str) -> bool {
    state.starts_with("D3")
}

/// NVML counts a card that fell off the bus and says nothing of it, its address neither. Where as many cards of the
/// driver's are without an answer as there are answers without an address, they are each other's, in NVML's order, which
/// is the bus's.
fn lost(cards: &mut [Card], report: &NvmlReport) {
    let nameless = || report.gpus.iter().filter(|gpu| gpu.bus_id.unreadable().is_some());
    let silent = |card: &&mut Card| {
        card.nvml.is_none()
            && card.identity.id.vendor == PciId::NVIDIA
            && card.driver.get().is_some_and(|driver| driver == "nvidia")
    };
    if cards.iter_mut().filter(silent).count() == nameless().count() {
        for (card, gpu) in cards.iter_mut().filter(silent).zip(nameless()) {
            card.nvml = Some(Box::new(gpu.clone()));
        }
    }
}

fn display(function: &Function) -> bool {
    function.class >> 16 == 0x03
}

fn cards(machine: &dyn Machine, functions: &[Function], nvml: Option<&NvmlReport>) -> Vec<Card> {
    let mut groups: HashMap<u32, Vec<Bdf>> = HashMap::new();
    for function in functions {
        if let Seen::Is(number) = function.group {
            groups.entry(number).or_default().push(function.bdf);
        }
    }
    let slots = if functions.iter().any(display) { slots(machine) } else { Seen::Absent };
    let mut cards = Vec::new();
    for slot in functions.chunk_by(|a, b| a.bdf.same_slot(&b.bdf)) {
        let Some(first) = slot.iter().position(display) else { continue };
        // A virtual function of a card is a card of its own and no companion: it can go alone.
        let is_virtual = |function: &Function| {
            let at = format!("{DEVICES}/{}/physfn", function.bdf);
            display(function) && machine.link(&at).is_there()
        };
        let (mut companions, mut virtuals) = (Vec::new(), Vec::new());
        for (at, function) in slot.iter().enumerate().filter(|(at, _)| *at != first) {
            if at > first && is_virtual(function) {
                virtuals.push(function);
            } else {
                companions.push(function.bdf);
            }
        }
        cards.push(card(machine, &slot[first], companions, &groups, nvml, &slots));
        cards.extend(virtuals.into_iter().map(|function| card(machine, function, Vec::new(), &groups, nvml, &slots)));
    }
    cards
}

fn card(
    machine: &dyn Machine,
    function: &Function,
    companions: Vec<Bdf>,
    groups: &HashMap<u32, Vec<Bdf>>,
    nvml: Option<&NvmlReport>,
    slots: &Seen<Vec<(String, String)>>,
) -> Card {
    let bdf = function.bdf;
    let at = |name: &str| format!("{DEVICES}/{bdf}/{name}");
    let nvml = nvml.filter(|_| function.id.vendor == PciId::NVIDIA).and_then(|report| {
        report.gpus.iter().find(|gpu| gpu.bus_id.get().and_then(|id| id.parse::<Bdf>().ok()) == Some(bdf))
    });
    let uuid = nvml.and_then(|gpu| gpu.uuid.get().cloned()).or_else(|| driver::information(machine, bdf, "GPU UUID"));
    let power = machine.value(&at("power_state"));
    let bars = machine.text(&at("resource")).get().map(|text| bars(text)).unwrap_or_default();
    Card {
        identity: Identity { bdf, id: function.id, subsystem: function.subsystem, uuid },
        class: function.class,
        class_name: class_name(function.class),
        vendor_name: String::new(),
        device_name: String::new(),
        subsystem_name: None,
        revision: function.revision,
        driver: function.driver.clone(),
        driver_override: function.driver_override.clone(),
        group: function.group.clone().map(|number| Group {
            number,
            members: groups.get(&number).cloned().unwrap_or_default(),
            kind: machine.value(&format!("/sys/kernel/iommu_groups/{number}/type")),
        }),
        companions,
        reset: reset(machine, &at),
        boot_vga: machine.value(&at("boot_vga")).get().is_some_and(|text| text == "1"),
        bar_sum: bars.iter().fold(0_u64, |sum, bar| sum.saturating_add(bar.size)),
        bars,
        link: link(machine, &at, &power),
        numa: function.numa,
        slot: slots
            .clone()
            .and_then(|slots| Seen::from(slots.into_iter().find(|(at, _)| *at == bdf.slot()).map(|(_, name)| name))),
        port: machine.link(&format!("{DEVICES}/{bdf}")).get().and_then(|target| hint::port_of(target)),
        power,
        arch: None,
        nvml: nvml.cloned().map(Box::new),
        holder: Holder::Nobody,
    }
}

/// Every physical slot: the address in it without a function ("0000:26:00"), and its name. Source: the kernel's
/// Documentation/ABI/testing/sysfs-bus-pci, /sys/bus/pci/slots.
fn slots(machine: &dyn Machine) -> Seen<Vec<(String, String)>> {
    machine.list(SLOTS).map(|names| {
        let at = |name: String| Some((machine.value(&format!("{SLOTS}/{name}/address")).is()?, name));
        names.into_iter().filter_map(at).collect()
    })
}

/// Kernels before 5.15 do not name the methods; that there is one shows in the file `reset`.
fn reset(machine: &dyn Machine, at: &dyn Fn(&str) -> String) -> Seen<Vec<String>> {
    match machine.value(&at("reset_method")) {
        Seen::Is(text) if text.is_empty() => Seen::Absent,
        Seen::Is(text) => Seen::Is(text.split_whitespace().map(str::to_owned).collect()),
        Seen::Absent => machine.stat(&at("reset")).map(|_| vec!["unnamed".to_owned()]),
        Seen::Unreadable(reason) => Seen::Unreadable(reason),
    }
}

/// Memory BARs out of `resource`: lines of start, end and flags; the first six are the BARs.
/// Flags (the kernel's include/linux/ioport.h): 0x200 memory, 0x2000 prefetchable, 0x100000 64-bit.
fn bars(text: &str) -> Vec<Bar> {
    let mut bars = Vec::new();
    for (index, line) in text.lines().take(6).enumerate() {
        let mut numbers = line.split_whitespace().map(|word| {
            let digits = word.strip_prefix("0x").unwrap_or(word);
            u64::from_str_radix(digits, 16).ok()
        });
        let (Some(Some(start)), Some(Some(end)), Some(Some(flags))) = (numbers.next(), numbers.next(), numbers.next())
        else {
            continue;
        };
        if flags & 0x200 == 0 || end < start {
            continue;
        }
        // All zero: the kernel gave up on this BAR. Its size is then not known, and 0 says so.
        let size = if end == 0 { 0 } else { (end - start).saturating_add(1) };
        let (prefetchable, wide) = (flags & 0x2000 != 0, flags & 0x10_0000 != 0);
        bars.push(Bar { index: index as u8, size, start, prefetchable, wide });
    }
    bars
}

/// Newer kernels wake a sleeping device to read its link, so a sleeper is not asked.
fn link(machine: &dyn Machine, at: &dyn Fn(&str) -> String, power: &Seen<String>) -> Seen<Link> {
    if let Some(state) = power.get().filter(|state| asleep(state)) {
        return Seen::Unreadable(Reason::Other(format!(
            "not read: the card sleeps ({state}), and reading would wake it"
        )));
    }
    let speed = |which: &str| {
        let gts = machine.value(&at(&format!("{which}_link_speed")));
        let lanes = machine.value(&at(&format!("{which}_link_width")));
        gts.and_then(|gts| lanes.map(|lanes| Speed { gts_x10: tenths(&gts), lanes: lanes.parse().unwrap_or(0) }))
    };
    speed("current").and_then(|now| speed("max").map(|max| Link { now, max }))
}

/// "8.0 GT/s PCIe" → 80; what says no number ("Unknown") → 0.
fn tenths(text: &str) -> u32 {
    let number = text.split_whitespace().next().unwrap_or_default();
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let tenth = part.chars().next().and_then(|digit| digit.to_digit(10)).unwrap_or(0);
    whole.parse::<u32>().ok().and_then(|whole| whole.checked_mul(10)).map_or(0, |whole| whole.saturating_add(tenth))
}

#[cfg(test)]
mod tests;
