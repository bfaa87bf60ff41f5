//! NVIDIA_REQUIRE_*: what an image needs of driver and card. A comma is AND, a blank OR, several variables are AND
//! (libnvidia-container's rules; CUDA's images carry such lists).
//!
//! What is not known decides nothing: a constraint on it is neither met nor broken, and where the outcome rests on one the
//! container starts with a warning. So brand and architecture need not be known where driver and CUDA settle it.

use std::cmp::Ordering;

use serde::Deserialize;

use crate::config::Look;
use crate::request::{Refused, old_image};

/// The running driver and its cards: `/run/thruway/driver.json`, or what of it is known otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Driver {
    #[serde(default)]
    pub driver: Option<String>,
    /// The CUDA version that the driver supports, "13.0".
    #[serde(default)]
    pub cuda: Option<String>,
    #[serde(default)]
    pub gpus: Vec<Card>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Card {
    #[serde(default)]
    pub index: Option<u32>,
    #[serde(default)]
    pub uuid: Option<String>,
    /// Of its node, /dev/nvidiaMINOR.
    #[serde(default)]
    pub minor: Option<u32>,
    /// "tesla", "geforce", … in NVIDIA's words.
    #[serde(default)]
    pub brand: Option<String>,
    /// Compute capability, "9.0".
    #[serde(default)]
    pub arch: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
}

/// The last CUDA version of each driver branch, from the CUDA toolkit's release notes ("CUDA Driver"), newest first.
const BRANCHES: &[(u32, &str)] = &[
    (590, "13.1"),
    (580, "13.0"),
    (575, "12.9"),
    (570, "12.8"),
    (565, "12.7"),
    (560, "12.6"),
    (555, "12.5"),
    (550, "12.4"),
    (545, "12.3"),
    (535, "12.2"),
    (530, "12.1"),
    (525, "12.0"),
    (520, "11.8"),
    (515, "11.7"),
    (510, "11.6"),
    (495, "11.5"),
    (470, "11.4"),
    (465, "11.3"),
    (460, "11.2"),
    (455, "11.1"),
    (450, "11.0"),
    (440, "10.2"),
    (418, "10.1"),
    (410, "10.0"),
    (396, "9.2"),
    (390, "9.1"),
    (384, "9.0"),
];

/// The CUDA version that a driver brings, at least: that of the newest branch in the table that is not newer.
pub fn cuda_of(driver: &str) -> Option<&'static str> {
    let branch: u32 = driver.split('.').next()?.parse().ok()?;
    BRANCHES.iter().find(|(known, _)| *known <= branch).map(|(_, cuda)| *cuda)
}

impl Driver {
    /// What is known of a driver by its version alone.
    pub fn of_version(version: &str) -> Driver {
        let cuda = cuda_of(version).map(str::to_owned);
        Driver { driver: Some(version.to_owned()), cuda, gpus: Vec::new() }
    }
}

/// The three ways in which a constraint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Met,
    Broken,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Atom<'a> {
    text: &'a str,
    name: &'a str,
    op: &'a str,
    value: &'a str,
}

/// The requirements of a container, read but not yet judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Required {
    /// Variable and text.
    vars: Vec<(String, String)>,
}

impl Required {
    /// Those of a container; none where it (NVIDIA_DISABLE_REQUIRE) or the administrator (`disabled`) turned them off.
    pub fn of(look: &Look<'_>, disabled: bool) -> Required {
        let off = look.var("NVIDIA_DISABLE_REQUIRE");
        if disabled || off.is_some_and(|value| matches!(value, "1" | "t" | "T" | "TRUE" | "true" | "True")) {
            return Required::default();
        }
        let mut vars: Vec<(String, String)> = Vec::new();
        for entry in &look.env {
            if let Some((name, value)) = entry.split_once('=')
                && name.starts_with("NVIDIA_REQUIRE_")
                && name != "NVIDIA_REQUIRE_JETPACK"
            {
                vars.retain(|(there, _)| there != name);
                vars.push((name.to_owned(), value.to_owned()));
            }
        }
        if old_image(look)
            && let Some(version) = look.var("CUDA_VERSION")
        {
            let parts: Vec<&str> = version.split('.').take(2).collect();
            if parts.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())) {
                vars.push(("CUDA_VERSION".to_owned(), format!("cuda>={}", parts.join("."))));
            }
        }
        Required { vars }
    }

    pub fn is_empty(&self) -> bool {
        self.vars.iter().all(|(_, text)| text.trim().is_empty())
    }

    /// Judges the requirements for the cards that the container gets. The answer is a warning, if any.
    ///
    /// # Errors
    /// The sentence that says which constraint is broken, what is here and what to do.
    pub fn judge(&self, driver: &Driver, cards: &[&Card]) -> Result<Option<String>, Refused> {
        let mut warning = None;
        for (variable, text) in &self.vars {
            let alternatives = parse(variable, text)?;
            if alternatives.is_empty() {
                continue;
            }
            let nobody = Card::default();
            let each: Vec<&Card> = if cards.is_empty() { vec![&nobody] } else { cards.to_vec() };
            for card in each {
                let stands: Vec<Stands> =
                    alternatives.iter().map(|atoms| all(atoms.iter().map(|atom| stand(atom, driver, card)))).collect();
                if stands.contains(&Stands::Met) {
                    continue;
                }
                if stands.contains(&Stands::Unknown) {
                    warning = Some(format!(
                        "{variable}={text} could not be judged, since brand or architecture of the card is not known here: \
                         the container is started (thruway cdi refresh writes them to /run/thruway/driver.json)"
                    ));
                    continue;
                }
                return Err(Refused(broken(variable, &alternatives, driver, card)));
            }
        }
        Ok(warning)
    }
}

fn all(stands: impl Iterator<Item = Stands>) -> Stands {
    let mut result = Stands::Met;
    for one in stands {
        match one {
            Stands::Broken => return Stands::Broken,
            Stands::Unknown => result = Stands::Unknown,
            Stands::Met => {}
        }
    }
    result
}

fn parse<'a>(variable: &str, text: &'a str) -> Result<Vec<Vec<Atom<'a>>>, Refused> {
    let mut alternatives = Vec::new();
    for alternative in text.split_whitespace() {
        let atoms = alternative.split(',').filter(|atom| !atom.is_empty());
        let atoms: Result<Vec<Atom<'_>>, Refused> = atoms
            .map(|atom| {
                read(atom).ok_or_else(|| {
                    Refused(format!(
                        "{variable} of this image has \"{atom}\", which is no requirement: one is cuda, driver, arch or brand, \
                         then =, !=, <, <=, > or >=, then a value (cuda>=12.4); NVIDIA_DISABLE_REQUIRE=1 passes all over"
                    ))
                })
            })
            .collect();
        alternatives.push(atoms?);
    }
    Ok(alternatives)
}

fn read(text: &str) -> Option<Atom<'_>> {
    let at = text.find(['=', '!', '<', '>'])?;
    let (name, rest) = text.split_at_checked(at)?;
    let op = ["!=", "<=", ">=", "=", "<", ">"].into_iter().find(|op| rest.starts_with(op))?;
    let value = rest.get(op.len()..).filter(|value| !value.is_empty())?;
    match name {
        "brand" if matches!(op, "=" | "!=") => {}
        "cuda" | "driver" | "arch" if version(value).is_some() => {}
        _ => return None,
    }
    Some(Atom { text, name, op, value })
}

fn version(text: &str) -> Option<Vec<u64>> {
    text.split('.').map(|part| part.parse().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()))).collect()
}

/// Component by component; what is missing is zero.
fn compare(a: &[u64], b: &[u64]) -> Ordering {
    let at = |version: &[u64], index: usize| version.get(index).copied().unwrap_or(0);
    (0..a.len().max(b.len()))
        .map(|index| at(a, index).cmp(&at(b, index)))
        .find(|o| o.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn here<'d>(atom: &Atom<'_>, driver: &'d Driver, card: &'d Card) -> Option<&'d str> {
    match atom.name {
        "cuda" => driver.cuda.as_deref(),
        "driver" => driver.driver.as_deref(),
        "arch" => card.arch.as_deref(),
        _ => card.brand.as_deref(),
    }
}

fn stand(atom: &Atom<'_>, driver: &Driver, card: &Card) -> Stands {
    let Some(here) = here(atom, driver, card) else { return Stands::Unknown };
    let met = if atom.name == "brand" {
        here.eq_ignore_ascii_case(atom.value) == (atom.op == "=")
    } else {
        let (Some(here), Some(wanted)) = (version(here), version(atom.value)) else { return Stands::Unknown };
        let order = compare(&here, &wanted);
        match atom.op {
            "=" => order.is_eq(),
            "!=" => order.is_ne(),
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            _ => order.is_ge(),
        }
    };
    if met { Stands::Met } else { Stands::Broken }
}

fn broken(variable: &str, alternatives: &[Vec<Atom<'_>>], driver: &Driver, card: &Card) -> String {
    // the nearest alternative is what the reader can do something about; of two, the image's own first
    let nearest = alternatives
        .iter()
        .filter_map(|atoms| {
            let mut failing = atoms.iter().filter(|atom| stand(atom, driver, card) == Stands::Broken);
            let first = failing.next()?;
            Some((failing.count(), first))
        })
        .min_by_key(|(more, _)| *more);
    let Some((_, atom)) = nearest else { return format!("{variable} of this image is not met here") };
    let others = alternatives.len() - 1;
    let others = match others {
        0 => String::new(),
        n => format!(" (nor is one of its {n} other alternatives met)"),
    };
    let driver_is = driver.driver.as_deref().map_or("the driver".to_owned(), |version| format!("driver {version}"));
    let value = here(atom, driver, card).unwrap_or("unknown");
    let is = match atom.name {
        "cuda" => format!("{driver_is} on this machine supports CUDA {value}"),
        "driver" => format!("this machine runs driver {value}"),
        "arch" => format!("the card's compute capability is {value}"),
        _ => format!("the card's brand is {value}"),
    };
    let fix = match atom.name {
        "cuda" | "driver" if atom.op.starts_with('>') => "update the driver, take an image of an older CUDA",
        "cuda" | "driver" => "take an image made for this driver",
        _ => "take an image made for this card, or another card",
    };
    format!(
        "this image requires {} ({variable}), and {is}{others}: {fix}, or start it with NVIDIA_DISABLE_REQUIRE=1 to try all \
         the same",
        atom.text
    )
}
