//! The ledger: to whom each GPU of this node is promised. One file a card below [`DIR`], so that taking one promise
//! back does not touch another; written by plans like any file, and so logged and undone like any change.
//!
//! A promise names the card and not the address alone: what sits in the slot later is another card.

use std::fmt;
use std::str::FromStr;

use machine::{Machine, MachineExt as _};
use model::{BadId, Bdf, Digest, Identity, Seen};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where the promises are kept, `0000:26:00.0.json` each.
pub const DIR: &str = "/var/lib/thruway/ledger";

/// The version of a promise's JSON form. A reader refuses a newer one.
pub const FORM: u32 = 1;

/// Who may have a card.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Host,
    /// A Proxmox VMID or a libvirt name.
    Vm(String),
    Containers,
    Pods,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Host => f.write_str("host"),
            Owner::Vm(name) => write!(f, "vm:{name}"),
            Owner::Containers => f.write_str("containers"),
            Owner::Pods => f.write_str("pods"),
        }
    }
}

impl FromStr for Owner {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let plain = |name: &str| !name.is_empty() && name.len() <= 128 && !name.contains(char::is_control);
        match text {
            "host" => Ok(Owner::Host),
            "containers" => Ok(Owner::Containers),
            "pods" => Ok(Owner::Pods),
            _ => match text.strip_prefix("vm:").filter(|name| plain(name)) {
                Some(name) => Ok(Owner::Vm(name.to_owned())),
                None => Err(BadId { text: text.to_owned(), wanted: "host, vm:ID, containers, pods or nobody" }),
            },
        }
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One card's promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub form: u32,
    pub gpu: Identity,
    /// "GeForce GT 1030", for people.
    pub name: String,
    pub to: Owner,
}

impl Promise {
    /// The file's text.
    pub fn text(&self) -> String {
        // Plain data: serde_json cannot fail on it.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// All promises of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// By address.
    pub promises: Vec<Written>,
    /// Files that could not be taken in, with the reason. Such a card counts as promised to somebody.
    pub broken: Vec<Broken>,
}

/// A promise as its file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    #[serde(flatten)]
    pub promise: Promise,
    /// Of the file's bytes: what a change of it expects.
    pub digest: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    pub path: String,
    /// `None` where not even the file's name is an address: then it may speak of any card.
    pub bdf: Option<Bdf>,
    pub why: String,
}

/// The file of the card at an address.
pub fn path(bdf: Bdf) -> String {
    format!("{DIR}/{bdf}.json")
}

/// Reads the ledger; a node without one has promised nothing.
pub fn read(machine: &dyn Machine) -> Ledger {
    let mut ledger = Ledger::default();
    let names = match machine.list(DIR) {
        Seen::Is(names) => names,
        Seen::Absent => return ledger,
        // A partial capture simply has no ledger; a live one that may not be read must not be taken for empty.
        Seen::Unreadable(model::Reason::NotCaptured) => return ledger,
        Seen::Unreadable(reason) => {
            ledger.broken.push(Broken { path: DIR.into(), bdf: None, why: reason.to_string() });
            return ledger;
        }
    };
    for name in names {
        let Some(stem) = name.strip_suffix(".json") else { continue };
        let path = format!("{DIR}/{name}");
        let bdf = stem.parse::<Bdf>().ok();
        match machine.text(&path) {
            Seen::Is(text) => match parse(&path, &text, bdf) {
                Ok(promise) => ledger.promises.push(Written { promise, digest: Digest::of(text.as_bytes()) }),
                Err(why) => ledger.broken.push(Broken { path, bdf, why }),
            },
            Seen::Absent => {}
            Seen::Unreadable(reason) => ledger.broken.push(Broken { path, bdf, why: reason.to_string() }),
        }
    }
    ledger.promises.sort_by_key(|written| written.promise.gpu.bdf);
    ledger
}

fn parse(path: &str, text: &str, bdf: Option<Bdf>) -> Result<Promise, String> {
    #[derive(Deserialize)]
    struct Form {
        form: u32,
    }
    let bad = |error: serde_json::Error| format!("{path}:{}: {error}", error.line());
    let Form { form } = serde_json::from_str(text).map_err(bad)?;
    if form > FORM {
        return Err(format!("{path} was written by a newer thruway (form {form}); update thruway"));
    }
    let promise: Promise = serde_json::from_str(text).map_err(bad)?;
    if bdf != Some(promise.gpu.bdf) {
        return Err(format!("{path}:1: it speaks of {}, which is not its name", promise.gpu.bdf));
    }
    Ok(promise)
}

#[cfg(test)]
mod tests {
    use machine::Memory;
    use model::PciId;
    use proptest::prelude::*;

    use super::*;

    fn promise() -> Promise {
        let gpu = Identity {
            bdf: Bdf::new(0, 0x26, 0, 0),
            id: PciId::new(0x10de, 0x1d01),
            subsystem: Some(PciId::new(0x1043, 0x85f4)),
            uuid: None,
        };
        Promise { form: FORM, gpu, name: "GeForce GT 1030".into(), to: Owner::Vm("100".into()) }
    }

    fn read_text(name: &str, text: &str) -> Ledger {
        let mut memory = Memory::new("a node");
        memory.insert_file(&format!("{DIR}/{name}"), text.as_bytes());
        read(&memory)
    }

    #[test]
    fn what_was_written_is_read() {
        let ledger = read_text("0000:26:00.0.json", &promise().text());
        assert_eq!(ledger.broken, []);
        assert_eq!(ledger.promises.len(), 1);
        assert_eq!(ledger.promises[0].promise, promise());
        assert_eq!(ledger.promises[0].digest, Digest::of(promise().text().as_bytes()));
        assert!(promise().text().contains("\"to\": \"vm:100\""), "{}", promise().text());
    }

    #[test]
    fn a_broken_a_newer_and_a_misnamed_promise_are_told_and_never_taken_for_none() {
        let newer = promise().text().replace("\"form\": 1", "\"form\": 2");
        let other = promise().text().replace("0000:26:00.0", "0000:27:00.0");
        for (text, says) in [
            ("{\n\"form\": 1,\n,", ".json:3: "),
            (newer.as_str(), "newer thruway"),
            (other.as_str(), "is not its name"),
            ("{\"form\": 1, \"to\": \"everybody\"}", ".json:1: "),
        ] {
            let ledger = read_text("0000:26:00.0.json", text);
            let [broken] = ledger.broken.as_slice() else { panic!("{text}: {ledger:?}") };
            assert!(broken.why.contains(says), "{}", broken.why);
            assert_eq!(broken.bdf, Some(Bdf::new(0, 0x26, 0, 0)));
        }
    }

    #[test]
    fn owners_are_spelled_one_way() {
        for text in ["host", "vm:100", "vm:win 11", "containers", "pods"] {
            assert_eq!(text.parse::<Owner>().unwrap().to_string(), text);
        }
        for text in ["", "vm:", "vm", "Host", "nobody", "vm:a\nb"] {
            assert!(text.parse::<Owner>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(text in "[\\[\\]{}\":,a-z0-9\n ]{0,120}") {
            let ledger = read_text("0000:26:00.0.json", &text);
            prop_assert_eq!(ledger.promises.len() + ledger.broken.len(), 1);
        }
    }
}
