//! `thruway app jellyfin`.

use anyhow::{Context as _, bail};
use app::forms::{self, Form, lxc};
use gpu::promises;
use jellyfin::Client;
use journal::bind::LIMIT;
use model::{Intent, JellyfinWish, Layer};

use crate::change::{self, Go};
use crate::cli::{GiveTo, Global, JellyfinVerb, ServerArgs, UndoArgs};
use crate::jellyfin_api::{self, Remote};
use crate::stands;
use crate::target::Target;
use crate::{DONE, say};

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
            stands::verified(global, &target, &FLOOR)
        }
        JellyfinVerb::Undo { number, server, yes, dry_run } => {
            let (target, _) = open(global, &server, None)?;
            stands::undone(global, &target, &UndoArgs { number, by: None, yes, dry_run }, &FLOOR)
        }
        JellyfinVerb::Give { to, card } => give(global, to, card.as_deref()),
        JellyfinVerb::Log { url } => stands::log_page(global, &jellyfin_api::log(&url)?, false),
    }
}

fn give(global: &Global, to: GiveTo, card: Option<&str>) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let machine = target.machine();
    let (mut bdf, mut uuid) = (None, None);
    if let Some(card) = card {
        let inventory = gpu::observe(machine);
        let card = promises::find(&inventory, card).map_err(anyhow::Error::msg)?;
        bdf = Some(card.identity.bdf);
        uuid = card.nvml.as_ref().and_then(|nvml| nvml.uuid.get().cloned());
        if uuid.is_none() && matches!(to, GiveTo::Docker | GiveTo::Compose) {
            bail!("the UUID of {} is not known: NVML does not answer here", card.identity.bdf);
        }
    }
    let form = match to {
        GiveTo::Docker => Form::Docker,
        GiveTo::Compose => Form::Compose,
        GiveTo::Kubernetes => Form::Kubernetes,
        GiveTo::Helm => Form::Helm,
        GiveTo::Bare => Form::Bare,
        GiveTo::Lxc => Form::Lxc,
    };
    let devices = lxc::devices(machine, bdf);
    if devices.is_empty() && form == Form::Lxc {
        bail!("this host has no device nodes of NVIDIA's driver (/dev/nvidia0, /dev/nvidia-uvm): load it first");
    }
    let text = forms::paste(form, uuid.as_deref(), &devices);
    if global.json {
        let report = serde_json::json!({ "schema": 1, "text": text });
        return say(&(serde_json::to_string_pretty(&report)? + "\n")).map(|()| DONE);
    }
    say(&text).map(|()| DONE)
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
    if let Some(path) = &args.compose {
        // a path of another machine is whole as it is
        let path = if global.root.is_some() || global.sim.is_some() || global.from.is_some() {
            path.clone()
        } else {
            std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?
        };
        let Some(text) = path.to_str() else { bail!("{}: a path that is no UTF-8", path.display()) };
        wish.compose = Some(text.to_owned());
    }
    wish.ct = args.ct.or(wish.ct);
    let target = Target::open(&global)?;
    if let Some(card) = &args.card {
        let inventory = gpu::observe(target.machine());
        wish.card = Some(promises::find(&inventory, card).map_err(anyhow::Error::msg)?.identity.bdf);
    }
    let intent = Intent { jellyfin: (wish != JellyfinWish::default()).then(|| wish.clone()), ..Intent::default() };
    if wish.url.is_none() {
        if args.token_file.is_some() || args.fingerprint.is_some() || args.ca.is_some() {
            bail!("--token-file, --fingerprint and --ca are for a server by its API: say which, by --url");
        }
        return Ok((target, intent));
    }
    Ok((Target::Jellyfin(Box::new(Remote::ask(&global, args, &wish)?)), intent))
}
