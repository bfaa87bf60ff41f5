//! `thruway app advice`: what other apps would need to use the card.

use anyhow::{Context as _, bail};
use app::advice::{advise, apps};
use model::{Intent, JellyfinWish, Layer, Seen};

use crate::cli::Global;
use crate::paint::{Page, Tone, paint};
use crate::target::Target;
use crate::{BLIND, DONE, FOUND, say};

pub fn advice(global: &Global, app: Option<&str>, codecs_of: Option<&str>) -> anyhow::Result<u8> {
    if let Some(app) = app.filter(|app| !apps().any(|known| known.eq_ignore_ascii_case(app))) {
        bail!("there is no advice for {app}: {} are known", apps().collect::<Vec<_>>().join(", "));
    }
    let chip = codecs_of.map(|name| {
        gpu::codecs::by_name(name).map(|codecs| codecs.chip).with_context(|| {
            format!(
                "--codecs-of {name}: no chip of that name is in the table, which has {}",
                gpu::codecs::chips().join(", ")
            )
        })
    });
    let wish = JellyfinWish { chip: chip.transpose()?, ..JellyfinWish::default() };
    let target = Target::open(global)?;
    let mut way = target.way();
    // whoever asks names the card
    let intent = Intent { jellyfin: Some(wish.clone()), ..Intent::default() };
    way.ask_cards(target.machine(), &[Layer::App], &intent);
    let (codecs, cards) = way.codecs(Some(&wish));
    let codecs = match codecs {
        Seen::Is(codecs) => codecs,
        Seen::Absent => {
            say("There is no NVIDIA card here that a driver may use; --codecs-of names one elsewhere.\n")?;
            return Ok(FOUND);
        }
        Seen::Unreadable(reason) => {
            say(&format!("What the card can do is not known: {reason}\n"))?;
            return Ok(BLIND);
        }
    };
    let all = advise(&codecs, app);
    if global.json {
        let report = serde_json::json!({ "schema": 1, "cards": cards, "source": codecs.source, "advice": all });
        return say(&(serde_json::to_string_pretty(&report)? + "\n")).map(|()| DONE);
    }
    let mut page = Page::new();
    page.line(paint(Tone::Strong, &cards));
    page.hang(2, "by", 4, Tone::Faint, &codecs.source);
    for advice in &all {
        page.gap();
        page.line(paint(Tone::Strong, advice.title));
        for line in &advice.lines {
            let (mark, tone) = match line.can {
                Some(true) => ("●", Tone::Good),
                Some(false) => ("✗", Tone::Warn),
                None => ("-", Tone::Plain),
            };
            page.hang(2, mark, 2, tone, line.says);
        }
        page.hang(2, "", 0, Tone::Faint, advice.source);
    }
    say(&page.text())?;
    Ok(DONE)
}
