//! `thruway gpus`: every card, what it is, what it shares, who has it now.

use gpu::promises::{self, Promised};
use gpu::{Card, Holder, Inventory, Speed};
use journal::ledger::{Ledger, Promise};
use machine::Kind;
use machine::nvml::NvmlGpu;
use model::{Bdf, Seen};

use crate::gpus_detail;
use crate::paint::{Page, Tone, bytes, paint};

const SCHEMA: u32 = 1;
const COLUMN: usize = 10;

pub fn json(
    inventory: &Inventory,
    ledger: &Ledger,
    machine: &str,
    kind: Kind,
    only: Option<Bdf>,
) -> serde_json::Result<serde_json::Value> {
    let mut cards = Vec::new();
    for card in chosen(inventory, only) {
        let mut value = serde_json::to_value(card)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("promised".into(), serde_json::to_value(promises::promised(ledger, inventory, card))?);
            object.insert("on_host".into(), serde_json::to_value(inventory.place(card))?);
        }
        cards.push(value);
    }
    Ok(serde_json::json!({
        "schema": SCHEMA,
        "thruway": env!("CARGO_PKG_VERSION"),
        "machine": machine,
        "kind": kind,
        "simulated": kind == Kind::Simulated,
        "looked": inventory.looked,
        "driver": inventory.driver,
        "cards": cards,
        "hints": inventory.hints,
        "ledger": ledger,
    }))
}

/// 0 a card was found, 1 none, 2 could not look.
pub fn status(inventory: &Inventory, only: Option<Bdf>) -> u8 {
    match (&inventory.looked, chosen(inventory, only).next()) {
        (_, Some(_)) => 0,
        (Seen::Unreadable(_), None) => 2,
        (_, None) => 1,
    }
}

fn chosen(inventory: &Inventory, only: Option<Bdf>) -> impl Iterator<Item = &Card> {
    inventory.cards.iter().filter(move |card| only.is_none_or(|bdf| card.identity.bdf.same_slot(&bdf)))
}

/// `deep`: with all that NVML tells, where it was asked for all.
pub fn page(
    inventory: &Inventory,
    ledger: &Ledger,
    machine: &str,
    kind: Kind,
    only: Option<Bdf>,
    deep: bool,
) -> String {
    let mut page = Page::new();
    if kind == Kind::Simulated {
        page.line(format!("{} {}", paint(Tone::Strong, machine), paint(Tone::Warn, "(simulated)")));
        page.gap();
    }
    let mut found = false;
    for card in chosen(inventory, only) {
        page.gap();
        card_lines(&mut page, inventory, ledger, card);
        if let Some(nvml) = card.nvml.as_ref().filter(|_| deep) {
            gpus_detail::lines(&mut page, nvml);
        }
        found = true;
    }
    if !found {
        match (&inventory.looked, only) {
            (Seen::Unreadable(reason), _) => page.line(format!("Could not look at the PCI bus: {reason}.")),
            (_, Some(bdf)) => page.line(format!("No GPU at {bdf} on {machine}.")),
            _ => page.line(format!("No GPU: {machine} has no display or 3D controller on its PCI bus.")),
        }
    }
    for astray in inventory.astray() {
        page.gap();
        page.line(format!("Told by the hypervisor: {}.", astray.why));
    }
    lost_lines(&mut page, inventory, ledger);
    driver_lines(&mut page, inventory);
    page.text()
}

fn card_lines(page: &mut Page, inventory: &Inventory, ledger: &Ledger, card: &Card) {
    let bdf = card.identity.bdf;
    let title = format!("{} {}", vendor(&card.vendor_name), card.device_name);
    let arch = card.arch.map(|arch| format!("  {arch:?}")).unwrap_or_default();
    page.line(format!(
        "{}  {}  {}",
        paint(Tone::Strong, &bdf.to_string()),
        paint(Tone::Strong, &title),
        paint(Tone::Faint, &format!("[{}]  rev {:02x}{arch}", card.identity.id, card.revision)),
    ));
    let mut say = |label: &str, text: String| page.hang(4, label, COLUMN, Tone::Plain, &text);
    let holder_text = holder(&card.holder);
    say("held by", holder_text);
    if let Some(text) = promise(&promises::promised(ledger, inventory, card)) {
        say("promised", text);
    }
    let boot = if card.boot_vga { ", the machine's boot VGA" } else { "" };
    say("class", format!("{}{boot}", card.class_name));
    if let Some(subsystem) = card.identity.subsystem {
        let name = card.subsystem_name.as_deref().unwrap_or("");
        say("board", format!("{name} [{subsystem}]").trim_start().to_owned());
    }
    let forced = card.driver_override.get().map(|d| format!(", driver_override {d}")).unwrap_or_default();
    say("driver", format!("{}{forced}", seen(&card.driver, "none")));
    say("group", group(inventory, card));
    for companion in &card.companions {
        if let Some(function) = inventory.function(*companion) {
            let what = companion_class(function.class);
            say("with", format!("{companion}  {what} [{}], driver {}", function.id, seen(&function.driver, "none")));
        }
    }
    say("reset", seen(&card.reset.as_ref().map(|methods| methods.join(", ")), "none: the card cannot be reset alone"));
    if !card.bars.is_empty() {
        let sizes: Vec<String> = card.bars.iter().map(|bar| bytes(bar.size)).collect();
        let sum = if sizes.len() > 1 { format!(" = {}", bytes(card.bar_sum)) } else { String::new() };
        say("BARs", format!("{}{sum}", sizes.join(" + ")));
    }
    match &card.link {
        Seen::Is(link) => say("link", format!("{} now, {} at most", speed(link.now), speed(link.max))),
        Seen::Absent => {}
        Seen::Unreadable(reason) => say("link", reason.to_string()),
    }
    match card.numa {
        Some(node) if node >= 0 => say("NUMA", format!("node {node}")),
        _ => {}
    }
    if let Seen::Is(slot) = &card.slot {
        say("slot", slot.clone());
    }
    if let Some(hint) = inventory.place(card) {
        say("on host", format!("{} (told by the hypervisor)", hint.place()));
    }
    if let Some(power) = card.power.get().filter(|power| *power != "D0" && *power != "unknown") {
        say("power", power.clone());
    }
    if let Some(nvml) = &card.nvml {
        nvml_lines(page, nvml);
    }
}

fn nvml_lines(page: &mut Page, gpu: &NvmlGpu) {
    let mut say = |label: &str, text: String| page.hang(4, label, COLUMN, Tone::Plain, &text);
    say("NVML", format!("{}, {}", seen(&gpu.name, "N/A"), seen(&gpu.uuid, "no UUID")));
    let mib = |value: &Seen<u64>| seen(&value.as_ref().map(|b| (b >> 20).to_string()), "N/A");
    say("memory", format!("{} of {} MiB used", mib(&gpu.memory_used), mib(&gpu.memory_total)));
    let unit = |value: &Seen<u32>, unit: &str| seen(&value.as_ref().map(|v| format!("{v}{unit}")), "N/A");
    let watts = |value: &Seen<u32>| seen(&value.as_ref().map(|mw| format!("{:.0} W", f64::from(*mw) / 1000.0)), "N/A");
    let pstate = seen(&gpu.pstate.as_ref().map(|p| format!("P{p}")), "N/A");
    say(
        "state",
        format!(
            "{}, fan {}, {pstate}, power {} of {}, ECC {}, MIG {}",
            unit(&gpu.temperature, " °C"),
            unit(&gpu.fan, " %"),
            watts(&gpu.power_draw),
            watts(&gpu.power_limit),
            on_off(&gpu.ecc_enabled),
            on_off(&gpu.mig_enabled),
        ),
    );
    say(
        "use",
        format!(
            "GPU {}, memory {}, encoder {}, decoder {}",
            unit(&gpu.utilization_gpu, " %"),
            unit(&gpu.utilization_memory, " %"),
            unit(&gpu.utilization_encoder, " %"),
            unit(&gpu.utilization_decoder, " %"),
        ),
    );
    for process in gpu.processes.get().into_iter().flatten() {
        let memory = seen(&process.memory.as_ref().map(|b| format!("{} MiB", b >> 20)), "N/A");
        say("process", format!("{} {} {} {memory}", process.pid, process.kind, seen(&process.name, "?")));
    }
}

/// To whom it is promised, in words; nothing where the ledger does not speak of it.
pub fn promise(promised: &Promised) -> Option<String> {
    Some(match promised {
        Promised::Nobody => return None,
        Promised::To { to } => format!("to {to}"),
        Promised::OtherCard { to, was } => format!("not this card: {} was promised to {to} in this slot", was.id),
        Promised::Moved { to, from } => format!("to {to}, when it sat at {}; assign it anew", from.short()),
        Promised::Unreadable { why } => format!("unknown: {why}"),
    })
}

/// Promises of cards that are not there.
fn lost_lines(page: &mut Page, inventory: &Inventory, ledger: &Ledger) {
    for written in &ledger.promises {
        let Promise { gpu, name, to, .. } = &written.promise;
        if inventory.card(gpu.bdf).is_none() {
            page.gap();
            page.line(format!("{} {name} [{}] is promised to {to} and not there.", gpu.bdf, gpu.id));
        }
    }
}

fn driver_lines(page: &mut Page, inventory: &Inventory) {
    let driver = &inventory.driver;
    if driver.kernel.is_absent() && driver.library.is_absent() {
        return;
    }
    page.gap();
    let kind = driver.kind.map(|kind| format!(" ({kind:?} modules)").to_lowercase()).unwrap_or_default();
    page.hang(0, "NVIDIA driver", 15, Tone::Plain, &format!("{}{kind}", seen(&driver.kernel, "not loaded")));
    let via = driver.library_via.as_ref().map(|via| format!(", found by {via}")).unwrap_or_default();
    let path = driver.library_path.get().map(|path| format!("  {path}{via}")).unwrap_or_default();
    page.hang(0, "NVML library", 15, Tone::Plain, &format!("{}{path}", seen(&driver.library, "not found")));
    if let Seen::Unreadable(reason) = &inventory.nvml {
        page.hang(0, "NVML", 15, Tone::Warn, &format!("could not be asked: {reason}"));
    }
    if let Seen::Is(report) = &inventory.nvml
        && let Seen::Is((major, minor)) = report.cuda_version
    {
        page.hang(0, "CUDA", 15, Tone::Plain, &format!("{major}.{minor}"));
    }
}

fn group(inventory: &Inventory, card: &Card) -> String {
    match &card.group {
        Seen::Is(group) => {
            let own = |bdf: &&Bdf| !bdf.same_slot(&card.identity.bdf);
            let bridge = |bdf: &Bdf| inventory.function(*bdf).is_some_and(|f| f.bridge);
            let others: Vec<String> = group
                .members
                .iter()
                .filter(own)
                .map(|bdf| {
                    let what = inventory.function(*bdf).map(|f| seen(&f.driver, "no driver")).unwrap_or_default();
                    if bridge(bdf) { format!("{bdf} (bridge)") } else { format!("{bdf} ({what})") }
                })
                .collect();
            let kind = group.kind.get().map(|kind| format!(" ({kind})")).unwrap_or_default();
            match others.as_slice() {
                [] => format!("IOMMU group {}{kind}, this card alone", group.number),
                others => format!("IOMMU group {}{kind}, shared with {}", group.number, others.join(", ")),
            }
        }
        Seen::Absent => "none: no IOMMU is active on this machine".into(),
        Seen::Unreadable(reason) => reason.to_string(),
    }
}

/// Who has it, in words.
pub fn holder(holder: &Holder) -> String {
    let list = |names: &[String]| names.join(", ");
    match holder {
        Holder::Nobody => "nobody".into(),
        Holder::Host(users) if users.is_empty() => "this machine's driver, no process uses it".into(),
        Holder::Host(users) => format!("this machine: {}", list(users)),
        Holder::Vm(vms) => format!("VM {}", list(vms)),
        Holder::Containers(names) => format!("container {}", list(names)),
        Holder::Pods(pods) => format!("pod {}", list(pods)),
        Holder::Unknown(why) => format!("unknown: {why}"),
    }
}

/// Vendors by the name that people use.
pub fn vendor(name: &str) -> &str {
    match name {
        "NVIDIA Corporation" => "NVIDIA",
        "Intel Corporation" => "Intel",
        name if name.starts_with("Advanced Micro Devices") => "AMD",
        name => name,
    }
}

fn companion_class(class: u32) -> &'static str {
    match class >> 8 {
        0x0403 => "Audio device",
        0x0c03 => "USB controller",
        0x0c80 => "USB-C UCSI controller",
        _ => "function",
    }
}

fn speed(speed: Speed) -> String {
    if speed.gts_x10 == 0 && speed.lanes == 0 {
        return "unknown".into();
    }
    format!("{}.{} GT/s x{}", speed.gts_x10 / 10, speed.gts_x10 % 10, speed.lanes)
}

fn on_off(value: &Seen<bool>) -> String {
    seen(&value.as_ref().map(|on| if *on { "on" } else { "off" }), "N/A")
}

fn seen<T: std::fmt::Display>(value: &Seen<T>, absent: &str) -> String {
    match value {
        Seen::Is(value) => value.to_string(),
        Seen::Absent => absent.to_owned(),
        Seen::Unreadable(reason) => format!("unknown ({reason})"),
    }
}
