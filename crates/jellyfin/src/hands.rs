//! The journal's hands where a Jellyfin server is changed by its API; all else goes to the hands below.

use journal::{HandError, Hands, Stock};
use model::{JellyfinOp, Op, PackagesOp};
use serde_json::{Map, Value};

use crate::{Client, Error, digest};

/// Carries [`Op::Jellyfin`] out by REST.
pub struct JellyfinHands {
    client: Client,
    below: Box<dyn Hands>,
}

impl JellyfinHands {
    pub fn new(client: Client, below: Box<dyn Hands>) -> Self {
        JellyfinHands { client, below }
    }

    fn ours(&self, op: &JellyfinOp) -> Result<(), Error> {
        if op.url == self.client.url() {
            return Ok(());
        }
        Err(Error::Setting(format!("the change is of {}, and {} is spoken to", op.url, self.client.url())))
    }

    fn set(&self, op: &JellyfinOp) -> Result<(), Error> {
        self.ours(op)?;
        let now = self.client.options()?;
        if digest(&now) != op.digest {
            return Err(moved(op, &op.before, &now));
        }
        self.put(now, &op.set)
    }

    /// Old values back, unless somebody has set another one since.
    fn unset(&self, op: &JellyfinOp) -> Result<(), Error> {
        self.ours(op)?;
        let now = self.client.options()?;
        // a step that was cut off may not have happened: the old value is as good
        let known =
            |key: &String, found: &Value| [&op.set, &op.before].into_iter().any(|of| same(of.get(key), Some(found)));
        let strange = op.set.keys().any(|key| !now.get(key).is_some_and(|found| known(key, found)));
        if strange {
            return Err(moved(op, &op.set, &now));
        }
        if op.before.iter().all(|(key, was)| same(now.get(key), Some(was))) {
            return Ok(());
        }
        self.put(now, &op.before)
    }

    /// Sends the object back with these values, and reads it again.
    fn put(&self, mut options: Map<String, Value>, values: &Map<String, Value>) -> Result<(), Error> {
        for (key, value) in values {
            match options.get_mut(key) {
                Some(place) => *place = value.clone(),
                None => return Err(Error::Setting(format!("this Jellyfin does not know {key}; plan again"))),
            }
        }
        self.client.replace(&options)?;
        let now = self.client.options()?;
        let lost: Vec<&str> = values
            .iter()
            .filter(|(key, value)| !same(now.get(*key), Some(value)))
            .map(|(key, _)| key.as_str())
            .collect();
        match lost.as_slice() {
            [] => Ok(()),
            lost => {
                let says = format!("it took the settings and did not keep {}", lost.join(", "));
                Err(Error::Answer { what: format!("Jellyfin at {}", self.client.url()), says })
            }
        }
    }

    fn is_set(&self, op: &JellyfinOp) -> Option<bool> {
        self.ours(op).ok()?;
        let now = self.client.options().ok()?;
        let all = |of: &Map<String, Value>| of.iter().all(|(key, value)| same(now.get(key), Some(value)));
        if all(&op.set) {
            return Some(true);
        }
        all(&op.before).then_some(false)
    }
}

/// Lists of names are sets.
fn same(one: Option<&Value>, other: Option<&Value>) -> bool {
    let sorted = |value: &Value| {
        let mut names: Vec<String> = value.as_array()?.iter().map(Value::to_string).collect();
        names.sort_unstable();
        Some(names)
    };
    one == other || one.and_then(sorted).zip(other.and_then(sorted)).is_some_and(|(one, other)| one == other)
}

fn moved(op: &JellyfinOp, wanted: &Map<String, Value>, now: &Map<String, Value>) -> Error {
    let differ = wanted.iter().filter(|(key, value)| !same(now.get(*key), Some(value)));
    let (mut were, mut are) = (Vec::new(), Vec::new());
    for (key, value) in differ {
        were.push(format!("{key}: {value}"));
        are.push(format!("{key}: {}", now.get(key).unwrap_or(&Value::Null)));
    }
    if were.is_empty() {
        // settings that are none of this change's
        (were, are) = (vec!["the settings as they were read".into()], vec!["another setting".into()]);
    }
    let what = format!("Jellyfin's settings at {} were changed since", op.url);
    Error::Moved { what, wanted: were.join(", "), found: are.join(", ") }
}

fn failed(op: &JellyfinOp, error: Error) -> HandError {
    match error {
        Error::Moved { what, wanted, found } => HandError::Moved { what, wanted, found },
        other => HandError::Failed {
            command: format!("changing Jellyfin at {} by its API", op.url),
            status: "not done".into(),
            message: other.to_string(),
        },
    }
}

impl Hands for JellyfinHands {
    fn act(&self, op: &Op) -> Result<(), HandError> {
        match op {
            Op::Jellyfin(op) => self.set(op).map_err(|error| failed(op, error)),
            other => self.below.act(other),
        }
    }

    fn take_back(&self, op: &Op) -> Result<(), HandError> {
        match op {
            Op::Jellyfin(op) => self.unset(op).map_err(|error| failed(op, error)),
            other => self.below.take_back(other),
        }
    }

    fn stock(&self, op: &PackagesOp) -> Result<Stock, HandError> {
        self.below.stock(op)
    }

    fn unstock(&self, op: &PackagesOp, before: &Stock) -> Result<Vec<String>, HandError> {
        self.below.unstock(op, before)
    }

    fn reboot(&self) -> Result<(), HandError> {
        self.below.reboot()
    }

    fn holds(&self, op: &Op) -> Option<bool> {
        match op {
            Op::Jellyfin(op) => self.is_set(op),
            other => self.below.holds(other),
        }
    }
}
