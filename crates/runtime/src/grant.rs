//! From a configuration to what its container gets: read, judged, resolved, held against the machine.

use std::borrow::Cow;
use std::collections::HashMap;

use formats::cdispec::{Edits, Mount};
use oci::apply::{Live, Way};
use oci::config::Look;
use oci::policy::{self, Verdict};
use oci::request::{self, Request};
use oci::require::{Card, Driver, Required};
use oci::resolve::{Chosen, SpecAt, Unresolved, resolve};
use oci::settings::Settings;

use crate::{extras, host, refresh, specs};

/// What a container gets.
#[derive(Debug, Default)]
pub struct Grant {
    pub edits: Vec<Cow<'static, Edits>>,
    pub way: Way,
    pub warnings: Vec<String>,
    /// The nodes of the edits, by their path on this machine, as they were just now.
    pub nodes: HashMap<String, Live>,
    /// For the log.
    pub what: String,
}

/// The answer to a container.
pub enum Answer {
    /// It asked for nothing.
    Nothing,
    /// It starts as if it had asked for nothing; why.
    Ignored(String),
    Given(Box<Grant>),
}

/// Answers a container.
///
/// # Errors
/// Why it must not start: a sentence.
pub fn answer(look: &Look<'_>, settings: &Settings) -> Result<Answer, String> {
    let Some(request) = request::read(look, settings).map_err(|refused| refused.0)? else { return Ok(Answer::Nothing) };
    let only = match policy::judge(&request, look, settings, || look.nodes().unwrap_or_default()) {
        Verdict::Allow => None,
        Verdict::Only(nodes) => Some(nodes),
        Verdict::Ignore(says) => return Ok(Answer::Ignored(says)),
        Verdict::Refuse(says) => return Err(says),
    };
    let mut grant = Grant::default();
    devices(&mut grant, &request, settings, only.as_deref())?;
    let required = Required::of(look, settings.disable_require);
    if !required.is_empty() {
        let driver = host::driver(settings);
        let cards = cards(&driver, &grant.edits);
        grant.warnings.extend(required.judge(&driver, &cards).map_err(|refused| refused.0)?);
    }
    if let Some(edits) = extras::edits(&request)? {
        grant.edits.push(Cow::Owned(edits));
    }
    Ok(Answer::Given(Box::new(grant)))
}

/// The cards whose nodes edits give.
fn cards<'d>(driver: &'d Driver, edits: &[Cow<'static, Edits>]) -> Vec<&'d Card> {
    let given = |card: &&Card| {
        let Some(minor) = card.minor else { return false };
        let path = format!("/dev/nvidia{minor}");
        edits.iter().flat_map(|edits| &edits.device_nodes).any(|node| node.path == path)
    };
    driver.gpus.iter().filter(given).collect()
}

fn devices(grant: &mut Grant, request: &Request, settings: &Settings, only: Option<&[String]>) -> Result<(), String> {
    let kind = settings.default_kind.as_str();

    // most containers: our own file has it, and it is as it was
    if let Some(ours) = specs::ours(request, settings) {
        // kept to the end of the process, which is near: it becomes another program
        let specs: &'static [SpecAt] = vec![ours].leak();
        if let Ok(chosen) = resolve(request, kind, specs, only) {
            take(grant, &chosen, request);
            if !look_over(grant, settings).is_stale() {
                return Ok(());
            }
        }
    }
    let found = |grant: &mut Grant| -> Result<specs::Stale, Unresolved> {
        let specs: &'static [SpecAt] = specs::all(settings, &mut grant.warnings).leak();
        let chosen = resolve(request, kind, specs, only)?;
        take(grant, &chosen, request);
        Ok(look_over(grant, settings))
    };
    let first = found(grant);
    match &first {
        Ok(stale) if !stale.is_stale() => return Ok(()),
        Err(unresolved) if !unresolved.refresh => return Err(unresolved.says.clone()),
        _ => {}
    }
    let refreshed = refresh::refresh();
    let second = if refreshed.is_ok() {
        grant.warnings.clear();
        found(grant)
    } else {
        first
    };
    let why = refreshed.err().map_or(String::new(), |says| format!(" (it could not be written anew: {says})"));
    let stale = second.map_err(|unresolved| format!("{}{why}", unresolved.says))?;
    if let Some((written, loaded)) = stale.driver {
        return Err(format!(
            "the CDI spec is for driver {written} and the loaded kernel module is {loaded}{why}: reboot or reload the module \
             where a driver was just upgraded, then run thruway cdi refresh"
        ));
    }
    // what comes and goes is left out; what a driver cannot do without is not
    let (optional, needed): (Vec<String>, Vec<String>) =
        stale.gone.into_iter().partition(|path| specs::is_optional(path));
    if let Some(path) = needed.first() {
        return Err(format!(
            "{path}, which the CDI spec gives to this container, is not on this machine{why}: run thruway cdi refresh \
             (thruway cdi check says what else is stale)"
        ));
    }
    leave_out(grant, &optional);
    Ok(())
}

fn take(grant: &mut Grant, chosen: &Chosen<'static>, request: &Request) {
    grant.edits = chosen.edits.iter().map(|edits| Cow::Borrowed(*edits)).collect();
    // whoever names CDI devices gets what every reader of the spec would give
    let only = (!chosen.qualified).then_some(request.capabilities);
    grant.way = Way { only, idmap: false, bind_nodes: !rustix::process::geteuid().is_root() };
    let specs: Vec<&str> = chosen.specs.iter().map(|at| at.path.as_str()).collect();
    grant.what = format!(
        "devices [{}] of {}, capabilities {}",
        chosen.devices.join(", "),
        specs.join(", "),
        request.capabilities
    );
}

/// Sockets of daemons that do not run are left out at once; the rest is told.
fn look_over(grant: &mut Grant, settings: &Settings) -> specs::Stale {
    let way = grant.way;
    let mut stale = specs::stale(&grant.edits, |path| wanted(way, path), settings, &mut grant.nodes);
    let is_socket = |path: &String| specs::is_optional(path) && !path.contains("/dri/");
    let sockets: Vec<String> = stale.gone.iter().filter(|path| is_socket(path)).cloned().collect();
    stale.gone.retain(|path| !is_socket(path));
    if !sockets.is_empty() {
        grant
            .edits
            .iter_mut()
            .for_each(|edits| edits.to_mut().mounts.retain(|mount| !sockets.contains(&mount.host_path)));
    }
    stale
}

fn wanted(way: Way, path: &str) -> bool {
    way.only.is_none_or(|capabilities| capabilities.want(path))
}

/// The mounts that the container's capabilities want.
pub fn mounts(grant: &Grant) -> impl Iterator<Item = &Mount> {
    let way = grant.way;
    grant.edits.iter().flat_map(|edits| &edits.mounts).filter(move |mount| wanted(way, &mount.container_path))
}

fn leave_out(grant: &mut Grant, gone: &[String]) {
    for path in gone {
        grant.warnings.push(format!("{path} of the CDI spec is not on this machine, and was left out"));
    }
    for edits in grant.edits.iter_mut().map(Cow::to_mut) {
        edits.mounts.retain(|mount| !gone.contains(&mount.host_path));
        edits.device_nodes.retain(|node| !gone.iter().any(|path| path == node.host()));
    }
}
