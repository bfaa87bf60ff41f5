//! `thruway FLOOR status`: what the floor is here, its cards, and what of thruway's stands on it.

use gpu::promises;
use machine::Kind;
use model::{Layer, Presence};

use crate::cli::Global;
use crate::paint::{Page, Tone, paint};
use crate::stands::Stands;
use crate::target::Target;
use crate::way::Way;
use crate::{gpus, say};

const SCHEMA: u32 = 1;

/// As verify: 0 all held or pending, 1 something failed, 2 could not look.
pub fn status(global: &Global, layer: Layer) -> anyhow::Result<u8> {
    let target = Target::of(global, &[layer], None)?;
    let machine = target.machine();
    let way = Way::observe(machine);
    let mut page = Page::new();
    let mark = if machine.kind() == Kind::Simulated { "  (simulated)" } else { "" };
    let title = format!("The {} floor of {}", layer.name(), target.name(global));
    page.line(format!("{}{}", paint(Tone::Strong, &title), paint(Tone::Warn, mark)));
    let presence = way.presence(layer);
    let (says, tone) = match &presence {
        Presence::Here(says) => (says.clone(), Tone::Plain),
        Presence::NotHere(why) => (format!("not on this machine: {why}"), Tone::Faint),
        Presence::Unknown(why) => (format!("unknown: {why}"), Tone::Warn),
    };
    page.hang(2, "", 0, tone, &says);
    let mut cards = Vec::new();
    for card in &way.gpus.cards {
        let promised = promises::promised(&way.ledger, &way.gpus, card);
        page.gap();
        let name = format!("{} {}", gpus::vendor(&card.vendor_name), card.device_name);
        page.line(format!("  {}  {name}", paint(Tone::Strong, &card.identity.bdf.short())));
        let driver = match &card.driver {
            model::Seen::Is(driver) => driver.clone(),
            model::Seen::Absent => "none".into(),
            model::Seen::Unreadable(why) => format!("unknown: {why}"),
        };
        page.hang(4, "driver", 10, Tone::Plain, &driver);
        page.hang(4, "held by", 10, Tone::Plain, &gpus::holder(&card.holder));
        if let Some(text) = gpus::promise(&promised) {
            page.hang(4, "promised", 10, Tone::Plain, &text);
        }
        cards.push(serde_json::json!({
            "identity": card.identity, "driver": card.driver, "holder": card.holder, "promised": promised,
        }));
    }
    page.gap();
    let stands = Stands::look(&target, &way, &[layer], &mut page, global.verbose)?;
    if global.json {
        let report = serde_json::json!({
            "schema": SCHEMA, "floor": layer.name(), "presence": presence, "cards": cards,
            "changes": stands.changes, "drift": stands.drift,
        });
        say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        say(&page.text())?;
    }
    Ok(stands.status())
}
