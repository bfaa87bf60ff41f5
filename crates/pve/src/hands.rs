//! The journal's hands where a Proxmox VE machine is changed by the API; all else goes to the hands below.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use journal::{HandError, Hands, Stock};
use model::{Op, PackagesOp};
use serde_json::Value;

use crate::client::plain;
use crate::{Answers, Client, Error, preflight};

/// Carries [`Op::Proxmox`] out by REST. What was asked once is not asked again.
pub struct PveHands {
    client: Client,
    below: Box<dyn Hands>,
    /// Told what waits for a stop and start.
    tell: Box<dyn Fn(&str)>,
    nodes: RefCell<BTreeMap<u32, String>>,
    permissions: RefCell<Option<Value>>,
}

impl PveHands {
    pub fn new(client: Client, below: Box<dyn Hands>, tell: Box<dyn Fn(&str)>) -> Self {
        PveHands { client, below, tell, nodes: RefCell::default(), permissions: RefCell::default() }
    }

    /// As [`PveHands::new`], with what was asked already: it is not asked again.
    pub fn knowing(mut self, answers: &Answers) -> Self {
        self.nodes = RefCell::new(answers.vms.keys().map(|vmid| (*vmid, answers.node.clone())).collect());
        self.permissions = RefCell::new(Some(answers.permissions.clone()));
        self
    }

    /// What the API will refuse of a change, before it is tried: no VM of this number, a privilege that is missing, a
    /// raw address by a token. Where a mapping of the cluster describes the address, it is named.
    pub fn ahead(&self, vmid: u32, set: &[(String, String)], delete: &[String]) -> Result<(), Error> {
        let node = self.node(vmid)?;
        match self.allowed(vmid, set, delete) {
            Err(Error::NotAllowed { says, instead }) => {
                let instead = self.mapped(&node, set).map_or(instead, |mapping| {
                    format!("{mapping}; it needs Mapping.Use on the mapping and VM.Config.HWType on the VM")
                });
                Err(Error::NotAllowed { says, instead })
            }
            other => other,
        }
    }

    /// A mapping of this node that describes the address of a hostpci line, and the line with it.
    fn mapped(&self, node: &str, set: &[(String, String)]) -> Option<String> {
        let raw = |value: &str| !value.split(',').any(|part| part.starts_with("mapping="));
        let (key, value) = set.iter().find(|(key, value)| key.starts_with("hostpci") && raw(value))?;
        let (address, options) = value.split_once(',').map_or((value.as_str(), ""), |(address, rest)| (address, rest));
        let address = address.strip_prefix("host=").unwrap_or(address);
        let here = |map: &String| {
            let has =
                |name: &str, wanted: &str| map.split(',').any(|part| part.split_once('=') == Some((name, wanted)));
            has("node", node) && has("path", address)
        };
        let known = self.client.mappings().ok()?;
        let (id, _) = known.into_iter().find(|(_, maps)| maps.iter().any(here))?;
        let options = if options.is_empty() { String::new() } else { format!(",{options}") };
        Some(format!("the mapping {id} is this card: set {key} to mapping={id}{options}"))
    }

    fn node(&self, vmid: u32) -> Result<String, Error> {
        if let Some(node) = self.nodes.borrow().get(&vmid) {
            return Ok(node.clone());
        }
        let node = self.client.node_of(vmid)?;
        self.nodes.borrow_mut().insert(vmid, node.clone());
        Ok(node)
    }

    fn allowed(&self, vmid: u32, set: &[(String, String)], delete: &[String]) -> Result<(), Error> {
        let user = self.client.user().to_owned();
        if user == "root@pam" {
            return Ok(());
        }
        if self.permissions.borrow().is_none() {
            let permissions = self.client.permissions()?;
            *self.permissions.borrow_mut() = Some(permissions);
        }
        let permissions = self.permissions.borrow();
        preflight(&user, permissions.as_ref().unwrap_or(&Value::Null), vmid, set, delete)
    }

    fn set(&self, vmid: u32, set: &[(String, String)], delete: &[String], digest: Option<&str>) -> Result<(), Error> {
        self.allowed(vmid, set, delete)?;
        let node = self.node(vmid)?;
        if let Some(upid) = self.client.set(&node, vmid, set, delete, digest)? {
            self.client.wait(&upid)?;
        }
        let ours = |key: &str| set.iter().any(|(k, _)| k == key) || delete.iter().any(|k| k == key);
        let waits: Vec<String> =
            self.client.pending(&node, vmid)?.into_iter().map(|one| one.key).filter(|key| ours(key)).collect();
        if !waits.is_empty() {
            (self.tell)(&format!("VM {vmid} runs: {} wait for a stop and start of it", waits.join(", ")));
        }
        Ok(())
    }

    /// Old values back, unless somebody has set another one since.
    fn unset(
        &self,
        vmid: u32,
        set: &[(String, String)],
        delete: &[String],
        before: &[(String, String)],
    ) -> Result<(), HandError> {
        let fail = |error| failed(vmid, error);
        let node = self.node(vmid).map_err(fail)?;
        let now = self.client.config(&node, vmid).map_err(fail)?;
        let text = |key: &str| now.get(key).map(plain);
        let old = |key: &str| before.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        let asked = set.iter().map(|(key, value)| (key, Some(value))).chain(delete.iter().map(|key| (key, None)));
        let mut moved = Vec::new();
        for (key, wanted) in asked.clone() {
            let found = text(key);
            // a step that was cut off may not have happened: the old value is as good
            if !same(key, wanted, found.as_ref()) && found != old(key) {
                moved.push((key.clone(), wanted.cloned(), found));
            }
        }
        if !moved.is_empty() {
            let say =
                |(key, value): (&String, &Option<String>)| format!("{key}: {}", value.as_deref().unwrap_or("nothing"));
            let wanted = moved.iter().map(|(key, wanted, _)| say((key, wanted))).collect::<Vec<_>>().join(", ");
            let found = moved.iter().map(|(key, _, found)| say((key, found))).collect::<Vec<_>>().join(", ");
            return Err(HandError::Moved { what: format!("VM {vmid} was changed since"), wanted, found });
        }
        let back: Vec<(String, String)> =
            before.iter().filter(|(key, value)| text(key).as_ref() != Some(value)).cloned().collect();
        let gone: Vec<String> =
            set.iter().map(|(key, _)| key).filter(|key| old(key).is_none() && text(key).is_some()).cloned().collect();
        if back.is_empty() && gone.is_empty() {
            return Ok(());
        }
        self.set(vmid, &back, &gone, text("digest").as_deref()).map_err(fail)
    }

    /// Whether a change of a VM is there: all of it, nothing of it; none: a part, or it cannot be seen.
    fn is_set(
        &self,
        vmid: u32,
        set: &[(String, String)],
        delete: &[String],
        before: &[(String, String)],
    ) -> Option<bool> {
        let now = self.client.config(&self.node(vmid).ok()?, vmid).ok()?;
        let text = |key: &str| now.get(key).map(plain);
        let asked = || set.iter().map(|(key, value)| (key, Some(value))).chain(delete.iter().map(|key| (key, None)));
        if asked().all(|(key, wanted)| same(key, wanted, text(key).as_ref())) {
            return Some(true);
        }
        let old = |key: &String| before.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        asked().all(|(key, _)| text(key) == old(key)).then_some(false)
    }

    /// Removes a mapping that still is as it was made. One that another VM names meanwhile stays, and it is said.
    fn unmap(&self, id: &str, map: &[String]) -> Result<(), Error> {
        let Some(found) = self.client.mapping(id)? else { return Ok(()) };
        if !same_maps(&found, map) {
            let (wanted, found) = (map.join(" "), found.join(" "));
            return Err(Error::Moved { what: format!("the mapping {id} was changed since"), wanted, found });
        }
        let named = format!("mapping={id}");
        let names = |config: &Value| {
            let mut values = config.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("hostpci"));
            values.any(|(_, value)| plain(value).split(',').any(|part| part == named))
        };
        for (node, vmid) in self.client.all_vms()? {
            if names(&self.client.config(&node, vmid)?) {
                (self.tell)(&format!("The mapping {id} stays: VM {vmid} names it"));
                return Ok(());
            }
        }
        self.client.delete_mapping(id)
    }
}

/// `STORE:1` asked for a new volume, and a name and size came of it.
fn same(key: &str, wanted: Option<&String>, found: Option<&String>) -> bool {
    let store = |value: &String| value.split_once(':').map(|(store, _)| store.to_owned());
    let is_disk = key.starts_with("efidisk") || key.starts_with("scsi") && key != "scsihw";
    match (wanted, found) {
        (Some(wanted), Some(found)) if is_disk => wanted == found || store(wanted) == store(found),
        (wanted, found) => wanted == found,
    }
}

/// Entries are property strings: the order of what is in them says nothing.
fn same_maps(one: &[String], other: &[String]) -> bool {
    let sorted = |maps: &[String]| {
        let parts = |map: &String| map.split(',').map(str::to_owned).collect::<BTreeSet<_>>();
        maps.iter().map(parts).collect::<BTreeSet<_>>()
    };
    sorted(one) == sorted(other)
}

fn failed(vmid: u32, error: Error) -> HandError {
    match error {
        Error::Moved { what, wanted, found } => HandError::Moved { what, wanted, found },
        Error::NotAllowed { says, instead } => {
            HandError::NotHere { what: format!("changing VM {vmid}"), why: format!("{says}. Way out: {instead}") }
        }
        other => HandError::Failed {
            command: format!("changing VM {vmid} by Proxmox VE's API"),
            status: "not done".into(),
            message: other.to_string(),
        },
    }
}

fn of_mapping(id: &str, error: Error) -> HandError {
    match error {
        Error::Moved { what, wanted, found } => HandError::Moved { what, wanted, found },
        other => HandError::Failed {
            command: format!("the mapping {id}"),
            status: "not done".into(),
            message: other.to_string(),
        },
    }
}

impl Hands for PveHands {
    fn act(&self, op: &Op) -> Result<(), HandError> {
        match op {
            Op::Proxmox { vmid, set, delete, digest, .. } => {
                self.set(*vmid, set, delete, Some(digest)).map_err(|error| failed(*vmid, error))
            }
            Op::ProxmoxMapping { id, map } => {
                self.client.create_mapping(id, map).map_err(|error| of_mapping(id, error))
            }
            other => self.below.act(other),
        }
    }

    fn take_back(&self, op: &Op) -> Result<(), HandError> {
        match op {
            Op::Proxmox { vmid, set, delete, before, .. } => self.unset(*vmid, set, delete, before),
            Op::ProxmoxMapping { id, map } => self.unmap(id, map).map_err(|error| of_mapping(id, error)),
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
            Op::Proxmox { vmid, set, delete, before, .. } => self.is_set(*vmid, set, delete, before),
            Op::ProxmoxMapping { id, map } => {
                Some(self.client.mapping(id).ok()?.is_some_and(|found| same_maps(&found, map)))
            }
            other => self.below.holds(other),
        }
    }
}
