//! What the application floor reads: Jellyfin's settings wherever they lie, what runs it, its transcode logs, and
//! what the cards here can do.

mod log;
mod runs;

use formats::encodingxml::EncodingXml;
use gpu::Inventory;
use gpu::codecs::Codecs;
use machine::{Machine, MachineExt};
use model::{Bdf, Digest, JellyfinWish, Reason, Seen};
use serde::Serialize;

use crate::Server;
use crate::forms::Named;

pub use log::{Says, Trace, sign};
pub use runs::{Run, RunKind, User};
pub(crate) use runs::{is_jellyfin, official};

/// All that the checks and the planner need.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Unreadable where a place of Jellyfin's settings could not be looked at, or PCI not listed.
    pub looked: Seen<()>,
    pub configs: Vec<Config>,
    pub runs: Vec<Run>,
    /// NVIDIA's cards that a driver of this machine may use, with what each says of itself, or a static table.
    pub cards: Vec<AppCard>,
    /// The driver's nodes, where a container opens them as a user of its own.
    pub nodes: Vec<DeviceNode>,
    /// Signs of trouble in the newest transcode logs.
    pub traces: Vec<Trace>,
    /// A server by its API; then there is nothing of this machine here but its cards.
    pub server: Option<Server>,
    /// What runs it, where the user named a file of that.
    pub named: Vec<Named>,
}

/// One encoding.xml.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    pub path: String,
    pub owner: Owner,
    pub digest: Option<Digest>,
    /// Where transcodes are written, where the file names a place that can be looked at from here.
    pub transcodes: Option<Place>,
    /// The whole text, for the planner's edit.
    #[serde(skip)]
    pub xml: Seen<EncodingXml>,
}

/// A directory for transcodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    pub dir: String,
    pub there: Seen<bool>,
    /// "ext4", "tmpfs": of /proc/mounts.
    pub kind: Option<String>,
}

/// A device node of the driver: its mode, user and group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceNode {
    pub path: String,
    pub stat: Seen<(u32, u32, u32)>,
}

/// Who reads an encoding.xml.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "owner", content = "name")]
pub enum Owner {
    /// A Jellyfin on this machine; the systemd unit, where there is one.
    Unit(Option<String>),
    /// A docker or podman container, by engine and name.
    Container(String, String),
    /// A Deployment, "namespace/name".
    Deployment(String),
}

#[derive(Clone, Debug, Serialize)]
pub struct AppCard {
    pub bdf: Bdf,
    pub name: String,
    /// The card's own answer where it was asked and gave one, the table's else: [`Codecs::source`] says which. `None`: it
    /// gave none, and its chip is not in the table.
    pub codecs: Option<Codecs>,
}

impl Facts {
    /// What every card here can do; Jellyfin takes CUDA's first device, whichever that is. Absent: no card.
    pub fn codecs(&self) -> Seen<Codecs> {
        self.codecs_of(None)
    }

    /// The same of the card or chip that is wished for.
    pub fn codecs_of(&self, wish: Option<&JellyfinWish>) -> Seen<Codecs> {
        if let Some(chip) = wish.and_then(|wish| wish.chip.as_deref()) {
            return gpu::codecs::by_name(chip).into();
        }
        let mut all: Option<Codecs> = None;
        for card in self.meant(wish) {
            let Some(codecs) = &card.codecs else {
                let (bdf, name) = (card.bdf.short(), &card.name);
                let reason = format!("{bdf} ({name}) did not say what it decodes, and its chip is not in the table");
                return Seen::Unreadable(Reason::Other(reason));
            };
            all = Some(all.map_or_else(|| codecs.clone(), |so_far| so_far.both(codecs)));
        }
        all.into()
    }

    fn meant(&self, wish: Option<&JellyfinWish>) -> impl Iterator<Item = &AppCard> {
        let wanted = wish.and_then(|wish| wish.card);
        self.cards.iter().filter(move |card| wanted.is_none_or(|bdf| card.bdf.same_slot(&bdf)))
    }

    /// The cards in words: "GeForce GT 1030".
    pub fn card_names(&self) -> String {
        self.names_of(None)
    }

    /// The same of the card or chip that is wished for.
    pub fn names_of(&self, wish: Option<&JellyfinWish>) -> String {
        if let Some(chip) = wish.and_then(|wish| wish.chip.as_deref()) {
            return chip.to_owned();
        }
        let mut names: Vec<&str> = self.meant(wish).map(|card| card.name.as_str()).collect();
        names.dedup();
        names.join(" and ")
    }

    pub fn here(&self) -> bool {
        !self.configs.is_empty() || !self.runs.is_empty()
    }
}

/// Where packages and images put the settings of a Jellyfin on the machine itself.
const OWN: [&str; 3] = ["/etc/jellyfin", "/var/lib/jellyfin/config", "/config/config"];
const UNITS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
const UNIT: &str = "jellyfin.service";
const FILE: &str = "encoding.xml";

/// NVIDIA's cards that are not given to a VM. `ask`: what they decode and encode is asked of themselves, which takes a CUDA
/// context of each; else the table by chip answers.
pub fn cards(machine: &dyn Machine, gpus: &Inventory, ask: bool) -> Vec<AppCard> {
    let vfio = |card: &&gpu::Card| card.driver.get().is_none_or(|driver| driver != "vfio-pci");
    let meant: Vec<&gpu::Card> = gpus.nvidia().filter(vfio).collect();
    let driven = |card: &&gpu::Card| card.driver.get().is_some_and(|driver| driver == "nvidia");
    let engines = if ask && meant.iter().any(driven) { gpu::engines::observe(machine, gpus).0 } else { Vec::new() };
    let of = |card: &&gpu::Card| {
        let bdf = card.identity.bdf;
        let asked = engines.iter().find(|engines| engines.bdf == bdf).and_then(|engines| engines.asked.get());
        let codecs = asked.map_or_else(|| gpu::codecs::of(card), |asked| gpu::codecs::live(card, asked));
        AppCard { bdf, name: card.short_name().to_owned(), codecs }
    };
    meant.iter().map(of).collect()
}

/// Reads it all.
pub fn observe(machine: &dyn Machine, gpus: &Inventory) -> Facts {
    let runs = runs::observe(machine);
    let mut looked = gpus.looked.clone();
    let mut configs: Vec<Config> = Vec::new();
    let mut logs: Vec<String> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    let unit = UNITS.iter().any(|dir| machine.exists(&format!("{dir}/{UNIT}"))).then(|| UNIT.to_owned());
    // Containers and Deployments first: a directory that is mounted into one is read by that one.
    let mut places: Vec<(String, Owner)> = Vec::new();
    for run in &runs {
        for dir in &run.config_dirs {
            // The images' /config holds config/ and log/; a mount may also be the inner directory itself.
            places.push((format!("{dir}/config"), run.owner()));
            places.push((dir.clone(), run.owner()));
            logs.push(format!("{dir}/log"));
        }
    }
    let own = Owner::Unit(unit);
    places.extend(OWN.iter().map(|dir| ((*dir).to_owned(), own.clone())));
    for volume in machine.names("/var/lib/docker/volumes") {
        let dir = format!("/var/lib/docker/volumes/{volume}/_data");
        places.push((format!("{dir}/config"), Owner::Container("docker".into(), volume)));
        logs.push(format!("{dir}/log"));
    }
    for (dir, owner) in places {
        let path = format!("{dir}/{FILE}");
        // The file that the name leads to is edited, so that a link stays a link.
        let Seen::Is(real) = machine.resolve(&path) else { continue };
        if seen.contains(&real) {
            continue;
        }
        match machine.read(&real) {
            Seen::Absent => {}
            Seen::Unreadable(Reason::NotCaptured) => {}
            Seen::Unreadable(reason) => {
                looked = Seen::Unreadable(reason.clone());
                // A directory that may hold it is no Jellyfin; a file that is there and cannot be read is.
                if machine.exists(&real) {
                    seen.push(real.clone());
                    configs.push(Config {
                        path: real,
                        owner,
                        digest: None,
                        transcodes: None,
                        xml: Seen::Unreadable(reason),
                    });
                }
            }
            Seen::Is(bytes) => {
                let xml = match EncodingXml::parse(&bytes) {
                    Ok(xml) => Seen::Is(xml),
                    Err(bad) => Seen::Unreadable(Reason::Malformed(format!("{real}: {bad}"))),
                };
                let transcodes = xml.get().and_then(|xml| place(machine, xml, &owner));
                seen.push(real.clone());
                configs.push(Config { path: real, owner, digest: Some(Digest::of(&bytes)), transcodes, xml });
            }
        }
    }
    logs.extend(["/var/log/jellyfin", "/var/lib/jellyfin/log", "/config/log"].map(str::to_owned));
    logs.sort_unstable();
    logs.dedup();
    let here = !configs.is_empty() || !runs.is_empty();
    let cards = cards(machine, gpus, false);
    let traces = if here { log::traces(machine, &logs) } else { Vec::new() };
    let users = runs.iter().any(|run| run.gpu && run.user.is_some());
    let nodes = crate::checks::NODES.iter().filter(|_| users).map(|path| {
        let stat = machine.stat(path).map(|stat| (stat.mode & 0o7777, stat.uid, stat.gid));
        DeviceNode { path: (*path).to_owned(), stat }
    });
    let nodes = nodes.collect();
    Facts { looked, configs, runs, cards, nodes, traces, server: None, named: Vec::new() }
}

/// Where a system's Jellyfin writes transcodes: a container's path is another's.
fn place(machine: &dyn Machine, xml: &EncodingXml, owner: &Owner) -> Option<Place> {
    let dir = xml.get("TranscodingTempPath").filter(|dir| dir.starts_with('/'))?.trim_end_matches('/').to_owned();
    if !matches!(owner, Owner::Unit(_)) {
        return None;
    }
    let there = machine.stat(&dir).map(|stat| stat.kind == machine::FileKind::Dir);
    let mounts = machine.text("/proc/mounts").is().unwrap_or_default();
    let holds = |at: &str| at == "/" || dir == at || dir.strip_prefix(at).is_some_and(|rest| rest.starts_with('/'));
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    // of two at one place the later lies above
    let found = mounts.filter(|(at, _)| holds(at)).max_by_key(|(at, _)| at.len());
    Some(Place { kind: found.map(|(_, kind)| kind.to_owned()), dir, there })
}

/// Asks the cards themselves what they decode and encode, where Jellyfin is here or `named`: it takes a CUDA context of each card
/// for a moment, and this process keeps the driver open until it ends, so that nobody may ask who wants to take a card away
/// from its driver.
pub fn ask(facts: &mut Facts, machine: &dyn Machine, gpus: &Inventory, named: bool) {
    if !facts.cards.is_empty() && (named || facts.here()) {
        facts.cards = cards(machine, gpus, true);
    }
}
