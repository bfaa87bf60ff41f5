//! `thruway top`: who uses the cards, on a terminal, as one table, as JSON.

use std::io::IsTerminal as _;

use ::watch::top::{self, Options};
use ::watch::{Sample, Sampler};
use anyhow::bail;
use model::Seen;

use crate::cli::{Color, Global, TopArgs};
use crate::target::Target;
use crate::{BLIND, DONE, FOUND, paint, say};

pub fn top(global: &Global, args: &TopArgs) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let machine = target.machine();
    let name = target.name(global);
    if args.once || global.json {
        let mut sample = Sampler::open(machine).sample(machine);
        if let Some(bdf) = args.card {
            sample.cards.retain(|card| card.bdf.is_some_and(|at| at.same_slot(&bdf)));
            sample.away.retain(|card| card.bdf.same_slot(&bdf));
        }
        match global.json {
            true => say(&(serde_json::to_string_pretty(&top::json(&sample))? + "\n"))?,
            false => say(&top::once(&sample, &name, &top::users(machine), paint::width()))?,
        }
        return Ok(status(&sample));
    }
    let once = "thruway top --once prints one table, --json one object";
    if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        bail!("this is no terminal to draw on: {once}");
    }
    let term = std::env::var("TERM").unwrap_or_default();
    if matches!(term.as_str(), "" | "dumb") {
        bail!("this terminal (TERM={term}) cannot place text: {once}; watch -n 1 thruway top --once repeats it");
    }
    let colour = match global.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    };
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
    let unicode = locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    });
    top::run(machine, &Options { name, every: args.every, colour, unicode, card: args.card })?;
    Ok(DONE)
}

fn status(sample: &Sample) -> u8 {
    match &sample.driver {
        Seen::Unreadable(_) => BLIND,
        _ if sample.cards.is_empty() && sample.away.is_empty() => FOUND,
        _ => DONE,
    }
}
