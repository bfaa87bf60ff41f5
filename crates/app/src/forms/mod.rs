//! What the way in which Jellyfin runs must give it of the card: environment, devices, groups. A compose file and a Proxmox VE
//! container's configuration are edited; for the rest there is the text to paste.

pub mod compose;
pub mod lxc;
mod paste;

use machine::{Machine, MachineExt};
use model::{
    Before, Change, Content, Digest, Effective, Evidence, Intent, JellyfinWish, Layer, Op, Outcome, OutcomeState, Plan,
    Seen, Source, Undo,
};
use serde::Serialize;

pub use paste::{Form, paste};

/// The driver's libraries that ffmpeg loads: CUDA, NVDEC and NVENC; and nvidia-smi's.
pub const CAPABILITIES: &str = "compute,video,utility";
pub(crate) const VARIABLE: &str = "NVIDIA_DRIVER_CAPABILITIES";

/// True where these driver capabilities hold what a transcode needs.
pub fn enough(capabilities: &str) -> bool {
    let words: Vec<&str> = capabilities.split(',').map(str::trim).collect();
    words.contains(&"all") || (words.contains(&"video") && words.contains(&"compute"))
}

/// Why a file is not edited, at a line from 1; 0 where the file as a whole is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: usize,
    pub says: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => f.write_str(&self.says),
            line => write!(f, "line {line}: {}", self.says),
        }
    }
}

/// A file's new text, and what was done; nothing where nothing was to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    pub text: String,
    pub words: Vec<String>,
}

/// A file that the user named: what runs Jellyfin.
#[derive(Clone, Debug, Serialize)]
pub struct Named {
    pub path: String,
    pub text: Seen<String>,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Compose,
    /// A Proxmox VE container, and the card's device nodes here.
    Ct(u32, Vec<lxc::Device>),
}

impl Named {
    fn edited(&self, text: &str) -> Result<Edited, Problem> {
        match &self.kind {
            Kind::Compose => compose::edit(text),
            Kind::Ct(_, devices) => Ok(lxc::edit(text, devices)),
        }
    }

    fn what(&self) -> String {
        match &self.kind {
            Kind::Compose => "the compose file".into(),
            Kind::Ct(id, _) => format!("container {id}"),
        }
    }
}

/// Reads what is named in a wish.
pub fn read(machine: &dyn Machine, wish: &JellyfinWish) -> Vec<Named> {
    let mut all = Vec::new();
    let mut add = |path: String, kind| {
        // the file that the name leads to is edited: a link stays a link
        let path = machine.resolve(&path).is().unwrap_or(path);
        all.push(Named { text: machine.text(&path), path, kind });
    };
    if let Some(path) = &wish.compose {
        add(path.clone(), Kind::Compose);
    }
    if let Some(id) = wish.ct {
        add(format!("/etc/pve/lxc/{id}.conf"), Kind::Ct(id, lxc::devices(machine, wish.card)));
    }
    all
}

pub(crate) fn plan(named: &[Named], plan: &mut Plan) {
    for file in named {
        let text = match &file.text {
            Seen::Is(text) => text,
            Seen::Absent => {
                plan.notes.push(format!("there is no {}: nothing is given to {}", file.path, file.what()));
                continue;
            }
            Seen::Unreadable(reason) => {
                plan.notes.push(format!("{} is left as it is: {reason}", file.path));
                continue;
            }
        };
        plan.based_on = {
            let mut facts = plan.based_on.facts.clone();
            facts.insert(format!("app {}", file.path), Digest::of(text.as_bytes()).0);
            model::Basis::new(facts)
        };
        if let Kind::Ct(id, devices) = &file.kind
            && devices.is_empty()
        {
            plan.notes
                .push(format!("container {id} is given nothing: this host has no device nodes of NVIDIA's driver"));
            continue;
        }
        match file.edited(text) {
            Err(problem) => plan.notes.push(format!("{} is left as it is: {problem}", file.path)),
            Ok(edited) if edited.words.is_empty() => {}
            Ok(edited) => {
                plan.changes.push(change(file, text, &edited));
                plan.notes.push(after(file));
            }
        }
    }
}

fn change(file: &Named, text: &str, edited: &Edited) -> Change {
    let video = edited.words.iter().any(|word| word.contains(VARIABLE));
    Change {
        layer: Layer::App,
        title: format!("give Jellyfin the card by {}: {}", file.what(), edited.words.join("; ")),
        op: Op::WriteFile {
            path: file.path.clone(),
            content: Content::from_bytes(edited.text.as_bytes()),
            mode: 0o644,
        },
        expects: Before::File(Digest::of(text.as_bytes())),
        because: if video { vec!["app/video-capability".into()] } else { Vec::new() },
        risk: Vec::new(),
        effective: Effective::NextContainer,
        undo: Undo::Exact,
    }
}

fn after(file: &Named) -> String {
    match &file.kind {
        Kind::Compose => format!(
            "make the container anew: docker compose -f {} up -d; films that play then stop for some seconds",
            file.path
        ),
        Kind::Ct(id, _) => format!(
            "start container {id} anew (pct reboot {id}). In it the driver's libraries must be of this host's very version: \
             NVIDIA-Linux-x86_64-VERSION.run --no-kernel-module"
        ),
    }
}

/// Whether the named files give what they should.
pub fn verify(machine: &dyn Machine, intent: &Intent) -> Vec<Outcome> {
    let Some(wish) = &intent.jellyfin else { return Vec::new() };
    let one = |file: &Named| {
        let (state, value) = match &file.text {
            Seen::Is(text) => match file.edited(text) {
                Ok(edited) if edited.words.is_empty() => (OutcomeState::Held, "all of it is there".to_owned()),
                Ok(edited) => (OutcomeState::Failed("something is missing".into()), edited.words.join("; ")),
                Err(problem) => (OutcomeState::Unknown(problem.to_string()), String::new()),
            },
            Seen::Absent => (OutcomeState::Failed("the file is gone".into()), String::new()),
            Seen::Unreadable(reason) => (OutcomeState::Unknown(reason.to_string()), String::new()),
        };
        let evidence = vec![Evidence { source: Source::file(&file.path), value }];
        Outcome { says: format!("Jellyfin is given the card by {}", file.what()), state, evidence }
    };
    read(machine, wish).iter().map(one).collect()
}
