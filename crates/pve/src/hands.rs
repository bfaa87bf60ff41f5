//! The journal's hands where a Proxmox VE machine is changed by the API; all else goes to the hands below.

use std::cell::RefCell;
use std::collections::BTreeMap;

use journal::{HandError, Hands};
use model::Op;
use serde_json::Value;

use crate::{Client, Error, preflight};

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
    fn unset(&self, vmid: u32, set: &[(String, String)], before: &[(String, String)]) -> Result<(), HandError> {
        let fail = |error| failed(vmid, error);
        let node = self.node(vmid).map_err(fail)?;
        let now = self.client.config(&node, vmid).map_err(fail)?;
        let text =
            |key: &str| now.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        for (key, value) in set {
            // `STORE:1` asked for a new volume, and a name and size came of it.
            let made = key.starts_with("efidisk") || key.starts_with("scsi") && value.contains(':');
            match text(key) {
                Some(found) if !made && found != *value => {
                    return Err(HandError::Moved { what: format!("{key} of VM {vmid}"), wanted: value.clone(), found });
                }
                _ => {}
            }
        }
        let gone: Vec<String> =
            set.iter().map(|(key, _)| key).filter(|key| !before.iter().any(|(k, _)| k == *key)).cloned().collect();
        self.set(vmid, before, &gone, text("digest").as_deref()).map_err(fail)
    }
}

fn failed(vmid: u32, error: Error) -> HandError {
    match error {
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

impl Hands for PveHands {
    fn act(&self, op: &Op) -> Result<(), HandError> {
        match op {
            Op::Proxmox { vmid, set, delete, digest, .. } => {
                self.set(*vmid, set, delete, Some(digest)).map_err(|error| failed(*vmid, error))
            }
            other => self.below.act(other),
        }
    }

    fn take_back(&self, op: &Op) -> Result<(), HandError> {
        match op {
            Op::Proxmox { vmid, set, before, .. } => self.unset(*vmid, set, before),
            other => self.below.take_back(other),
        }
    }

    fn reboot(&self) -> Result<(), HandError> {
        self.below.reboot()
    }

    fn holds(&self, op: &Op) -> Option<bool> {
        self.below.holds(op)
    }
}
