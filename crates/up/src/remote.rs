//! thruway on a machine: its answers as data.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::reach::{Ask, Lost, News, Ran, Reach};

/// A look, or a small write.
pub const SHORT: Duration = Duration::from_secs(120);
/// A driver's modules are built, an initramfs is made on a slow machine.
pub const LONG: Duration = Duration::from_secs(2 * 3600);

/// thruway there, and how it is called.
pub struct Remote<'r> {
    pub reach: &'r Reach,
    pub program: String,
    /// `--root DIR` where the machine lies below a directory, `--pve …` where it is spoken to by an API.
    pub machine: Vec<String>,
    /// Runs as root.
    pub root: bool,
}

/// `thruway way here --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Here {
    pub boot: Option<String>,
    /// Who holds the journal's lock right now.
    pub busy: Option<String>,
    pub standing: Vec<Standing>,
    pub machine: String,
}

/// A change that stands there.
#[derive(Clone, Debug, Deserialize)]
pub struct Standing {
    pub number: u64,
    pub floors: Vec<String>,
    pub by: Option<String>,
    /// It has effects that the boot which runs now began with: taken back, they last until the next.
    pub booted: bool,
}

/// What of a plan the controller judges; the plan itself stays there.
#[derive(Clone, Debug, Deserialize)]
pub struct PlanSays {
    pub changes: Vec<ChangeSays>,
    #[serde(default)]
    pub refusals: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ChangeSays {
    pub title: String,
    pub effective: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Verified {
    changes: Vec<VerifiedChange>,
}

#[derive(Clone, Debug, Deserialize)]
struct VerifiedChange {
    change: u64,
    outcomes: Vec<Outcome>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Outcome {
    pub says: String,
    pub state: State,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum State {
    Held,
    Pending(String),
    Failed(String),
    Unknown(String),
}

/// `thruway undo --by ID --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Undone {
    pub undone: Vec<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Cards {
    cards: Vec<CardSays>,
}

#[derive(Clone, Debug, Deserialize)]
struct CardSays {
    identity: IdentitySays,
    device_name: String,
    #[serde(default)]
    vendor_name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct IdentitySays {
    bdf: String,
    id: String,
}

/// A card there: address, vendor:device, name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    pub bdf: String,
    pub id: String,
    pub name: String,
    pub nvidia: bool,
}

impl std::fmt::Display for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} [{}]", self.bdf, self.name, self.id)
    }
}

/// A VM there.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct VmSays {
    pub id: String,
    pub name: String,
    /// `proxmox`, `libvirt`, `qemu`.
    pub kind: String,
    pub running: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
struct Vms {
    vms: Vec<VmSays>,
}

/// An answer that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Answer {
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The program's own words: `thruway: …`.
    #[error("{says}")]
    Said { says: String },
}

impl Remote<'_> {
    pub fn words(&self, words: &[&str]) -> Vec<String> {
        let program = [self.program.clone()];
        let words = words.iter().map(|word| (*word).to_owned());
        program.into_iter().chain(self.machine.iter().cloned()).chain(words).collect()
    }

    pub fn command(&self, words: &[String]) -> String {
        self.reach.command(&Ask { words, root: self.root, file: None, limit: SHORT })
    }

    pub fn run(&self, words: &[String], limit: Duration, line: &mut dyn FnMut(&str)) -> Result<Ran, Lost> {
        let ask = Ask { words, root: self.root, file: None, limit };
        self.reach.run(&ask, &mut |news| {
            if let News::Line(text) = news {
                line(text);
            }
        })
    }

    /// Runs it and reads its answer, whatever of these exit statuses it ends with.
    fn ask<T: for<'de> Deserialize<'de>>(&self, words: &[&str], well: &[i32]) -> Result<T, Answer> {
        let words = self.words(words);
        let ran = self.run(&words, SHORT, &mut |_| {})?;
        if !well.contains(&ran.code) {
            return Err(said(&ran));
        }
        serde_json::from_slice(&ran.out).map_err(|error| Answer::Said {
            says: format!("{}: its answer is not what was expected: {error}", words.join(" ")),
        })
    }

    pub fn here(&self) -> Result<Here, Answer> {
        self.ask(&["way", "here", "--json"], &[0])
    }

    pub fn plan(&self, words: &[&str]) -> Result<PlanSays, Answer> {
        self.ask(words, &[0, 1])
    }

    /// The outcomes of these changes on a floor.
    pub fn verify(&self, floor: &str, ours: &[u64]) -> Result<Vec<Outcome>, Answer> {
        let verified: Verified = self.ask(&[floor, "verify", "--json"], &[0, 1, 2])?;
        let ours = verified.changes.into_iter().filter(|change| ours.contains(&change.change));
        Ok(ours.flat_map(|change| change.outcomes).collect())
    }

    pub fn undo(&self, words: &[&str]) -> Result<Undone, Answer> {
        let words = self.words(words);
        let ran = self.run(&words, LONG, &mut |_| {})?;
        if ran.code != 0 {
            return Err(said(&ran));
        }
        serde_json::from_slice(&ran.out).map_err(|error| Answer::Said { says: format!("undo: {error}") })
    }

    pub fn cards(&self) -> Result<Vec<Card>, Answer> {
        let cards: Cards = self.ask(&["gpus", "--json"], &[0, 1])?;
        let card = |card: CardSays| Card {
            bdf: card.identity.bdf,
            nvidia: card.identity.id.starts_with("10de:"),
            id: card.identity.id,
            name: crate::tame(&format!("{} {}", card.vendor_name, card.device_name)),
        };
        Ok(cards.cards.into_iter().map(card).collect())
    }

    pub fn vms(&self) -> Result<Vec<VmSays>, Answer> {
        Ok(self.ask::<Vms>(&["vm", "list", "--json"], &[0, 1])?.vms)
    }

    /// SHA-256 of files there, by path; absent ones are left out.
    pub fn sums(reach: &Reach, paths: &[&str]) -> Result<BTreeMap<String, String>, Lost> {
        let words: Vec<String> = ["sha256sum", "--"].iter().chain(paths).map(|word| (*word).to_owned()).collect();
        let ran = reach.run(&Ask { words: &words, root: false, file: None, limit: SHORT }, &mut |_| {})?;
        let text = String::from_utf8_lossy(&ran.out).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(sum, path)| (path.to_owned(), sum.to_owned()))
            .collect())
    }
}

/// What a program that ended badly said: its last block of lines.
pub fn said(ran: &Ran) -> Answer {
    let err = ran.err.trim();
    let from = err.rfind("thruway: ").unwrap_or(0);
    let says = err[from..].trim_start_matches("thruway: ").to_owned();
    Answer::Said {
        says: if says.is_empty() { format!("it ended with status {} and said nothing", ran.code) } else { says },
    }
}

/// SHA-256 of a file of this machine, in hex.
pub fn sum(path: &Path) -> std::io::Result<String> {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
