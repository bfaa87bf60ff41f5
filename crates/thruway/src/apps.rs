//! `thruway app jellyfin`.

use anyhow::bail;
use gpu::promises;
use jellyfin::Client;
use journal::bind::LIMIT;
use model::{Intent, JellyfinWish, Layer};

use crate::change::{self, Go};
use crate::cli::{Global, JellyfinVerb, ServerArgs, UndoArgs};
use crate::jellyfin_api::{self, Remote};
use crate::target::Target;

const FLOOR: [Layer; 1] = [Layer::App];

pub fn jellyfin(global: &Global, verb: JellyfinVerb) -> anyhow::Result<u8> {
    match verb {
        JellyfinVerb::Plan { server, out } => {
            let (target, intent) = open(global, &server, None)?;
            change::planned(global, &target, &FLOOR, &intent, out.as_deref())
        }
        JellyfinVerb::Apply { plan, server, yes, dry_run } => {
            let read = plan.as_deref().map(change::read_plan).transpose()?;
            let asked = read.as_ref().and_then(|plan| plan.asked.jellyfin.clone());
            let (target, intent) = open(global, &server, asked)?;
            let name = plan.as_ref().map_or_else(change::this_plan, |path| path.display().to_string());
            let go = Go { name, yes, dry_run, limit: LIMIT };
            change::applied(global, &target, &FLOOR, &intent, read, &go)
        }
        JellyfinVerb::Verify { server } => {
            let (target, _) = open(global, &server, None)?;
            change::verified(global, &target, &FLOOR)
        }
        JellyfinVerb::Undo { number, server, yes, dry_run } => {
            let (target, _) = open(global, &server, None)?;
            change::undone(global, &target, &UndoArgs { number, yes, dry_run }, &FLOOR)
        }
        JellyfinVerb::Log { url } => change::log_page(global, &jellyfin_api::log(&url)?),
    }
}

/// The machine or the server that is meant, and the wish. `asked`: what the plan that is carried out was made of; where a
/// server or card is named beside it, that counts, and a plan of another one no longer fits.
fn open(global: &Global, args: &ServerArgs, asked: Option<JellyfinWish>) -> anyhow::Result<(Target, Intent)> {
    let mut wish = asked.unwrap_or_default();
    if let Some(url) = &args.url {
        wish.url = Some(Client::address(url)?);
    }
    let mut global = global.clone();
    if let Some(name) = &args.codecs_from {
        match gpu::codecs::by_name(name) {
            Some(codecs) => wish.chip = Some(codecs.chip),
            None if std::path::Path::new(name).exists() && wish.url.is_some() => {
                global.from = Some(name.into());
                (global.root, global.sim) = (None, None);
            }
            None => bail!(
                "--codecs-from {name}: no chip of that name is in the table, and with --url it may be a capture's file; the \
                 table has {}",
                gpu::codecs::chips().join(", ")
            ),
        }
    }
    let target = Target::open(&global)?;
    if let Some(card) = &args.card {
        let inventory = gpu::observe(target.machine());
        wish.card = Some(promises::find(&inventory, card).map_err(anyhow::Error::msg)?.identity.bdf);
    }
    let intent = Intent { jellyfin: (wish != JellyfinWish::default()).then(|| wish.clone()), ..Intent::default() };
    if wish.url.is_none() {
        return Ok((target, intent));
    }
    Ok((Target::Jellyfin(Box::new(Remote::ask(&global, args, &wish)?)), intent))
}
