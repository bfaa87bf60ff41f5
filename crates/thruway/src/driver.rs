//! `thruway guest driver`: which driver a card needs, here or by its PCI id alone.

use anyhow::bail;
use gpu::branch::{self, Advice, Fit};
use gpu::chips::{self, Chip};
use gpu::{Arch, Inventory, ModuleKind, promises};
use model::{Bdf, PciId, Seen};
use serde::Serialize;

use crate::cli::Global;
use crate::paint::{Page, Tone, paint};
use crate::target::Target;
use crate::{DONE, FOUND, say};

/// One card, or one id that somebody thinks of buying.
#[derive(Serialize)]
struct Need {
    id: PciId,
    bdf: Option<Bdf>,
    name: Option<String>,
    /// By PCI id, from a list; none: the list does not have it.
    chip: Option<Chip>,
    /// By the chip, else by the name in the PCI ID database or by NVML.
    arch: Option<Arch>,
    /// None: the generation is unknown, so nothing can be said.
    needs: Option<Advice>,
    /// The driver that runs here, and whether it fits.
    running: Option<Running>,
}

#[derive(Serialize)]
struct Running {
    version: String,
    modules: Option<ModuleKind>,
    fit: Fit,
}

pub fn driver(global: &Global, which: &[String]) -> anyhow::Result<u8> {
    let ids: Vec<Option<PciId>> = which.iter().map(|text| text.parse().ok()).collect();
    let mut needs = Vec::new();
    let mut name = "the table".to_owned();
    if ids.is_empty() || ids.iter().any(Option::is_none) {
        let target = Target::open(global)?;
        name = target.name(global);
        let inventory = gpu::observe(target.machine());
        if let Some(reason) = inventory.looked.unreadable() {
            bail!("could not look at the PCI bus: {reason}");
        }
        if which.is_empty() {
            needs.extend(inventory.nvidia().map(|card| of_card(&inventory, card)));
        }
        for (text, id) in which.iter().zip(&ids) {
            needs.push(match id {
                Some(id) => of_id(*id),
                None => of_card(&inventory, promises::find(&inventory, text).map_err(anyhow::Error::msg)?),
            });
        }
    } else {
        needs.extend(ids.iter().flatten().map(|id| of_id(*id)));
    }
    if global.json {
        let report = serde_json::json!({ "schema": 1, "machine": name, "cards": needs });
        say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        say(&page(&needs))?;
    }
    let good =
        |need: &Need| need.needs.is_some() && need.running.as_ref().is_none_or(|running| running.fit == Fit::Fits);
    Ok(if !needs.is_empty() && needs.iter().all(good) { DONE } else { FOUND })
}

fn of_id(id: PciId) -> Need {
    let chip = chips::of(id);
    let arch = chip.map(|chip| chip.arch);
    let needs = arch.map(|arch| branch::advice_for(id, arch));
    Need { id, bdf: None, name: gpu::name_of(id), chip, arch, needs, running: None }
}

fn of_card(inventory: &Inventory, card: &gpu::Card) -> Need {
    let id = card.identity.id;
    let needs = card.arch.map(|arch| branch::advice_for(id, arch));
    let running = match (&inventory.driver.kernel, needs) {
        (Seen::Is(version), Some(needs)) => branch::branch_of(version).map(|branch| {
            let modules = inventory.driver.kind;
            Running { version: version.clone(), modules, fit: needs.judge(branch, modules) }
        }),
        _ => None,
    };
    let chip = chips::of(id);
    let name = Some(card.short_name().to_owned());
    Need { id, bdf: Some(card.identity.bdf), name, chip, arch: card.arch, needs, running }
}

fn page(needs: &[Need]) -> String {
    let mut page = Page::new();
    if needs.is_empty() {
        page.line("There is no NVIDIA card here. By PCI id: thruway guest driver 10de:1d01");
    }
    for need in needs {
        page.gap();
        let place = need.bdf.map(|bdf| format!("{}  ", bdf.short())).unwrap_or_default();
        let name = need.name.as_deref().unwrap_or("a card that the list of names does not have");
        page.line(format!("{place}{} [{}]", paint(Tone::Strong, name), need.id));
        match (need.chip, need.arch) {
            (Some(chip), _) => page.hang(2, "chip", 9, Tone::Plain, &format!("{}, {}", chip.name, chip.arch.name())),
            (None, Some(arch)) => page.hang(2, "chip", 9, Tone::Plain, arch.name()),
            (None, None) => {
                let says = "unknown: the list of chips does not have this id. A newer thruway, or NVIDIA's list of \
                            supported products, may";
                page.hang(2, "chip", 9, Tone::Warn, says);
            }
        }
        let Some(advice) = need.needs else { continue };
        page.hang(2, "needs", 9, Tone::Plain, &advice.says());
        page.hang(2, "source", 9, Tone::Faint, advice.source);
        if let Some(running) = &need.running {
            let modules = match running.modules {
                Some(ModuleKind::Open) => ", open modules",
                Some(ModuleKind::Proprietary) => ", proprietary modules",
                None => "",
            };
            let (tone, fits) = match running.fit {
                Fit::Fits => (Tone::Good, "fits".to_owned()),
                Fit::TooNew { newest } => (Tone::Bad, format!("too new: {newest} is the last branch")),
                Fit::TooOld { oldest } => (Tone::Bad, format!("too old: {oldest} is the first branch")),
                Fit::NeedsOpen => (Tone::Bad, "the open modules are needed".to_owned()),
                Fit::NeedsProprietary => (Tone::Bad, "the proprietary modules are needed".to_owned()),
            };
            page.hang(2, "runs", 9, tone, &format!("{}{modules}: {fits}", running.version));
        }
    }
    page.text()
}
