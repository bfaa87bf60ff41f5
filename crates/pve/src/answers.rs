//! What the API tells of one node, asked once: each call is one round trip and none is repeated.
//!
//! The calls: /version, /access/permissions (not for root@pam, who may all), /cluster/resources, /cluster/mapping/pci,
//! /nodes/{node}/hardware/pci; then the config of each VM of the node, since the API has no list of who names a device;
//! and what waits for a stop and start, of the VM that is meant.

use std::collections::BTreeMap;

use model::{Reason, Seen};
use serde_json::Value;

use crate::client::{number, plain, word};
use crate::preflight::holds;
use crate::{Client, Error};

/// The most VMs of one node that are looked at.
const VMS: usize = 1000;

/// One node, as the API tells it to one user.
#[derive(Clone, Debug)]
pub struct Answers {
    pub url: String,
    pub user: String,
    pub node: String,
    /// GET /version: "8.2.4".
    pub version: String,
    /// GET /access/permissions; empty for root@pam.
    pub permissions: Value,
    /// By number: the VMs of this node that the user may see.
    pub vms: BTreeMap<u32, VmAnswer>,
    /// (id, plugin's type, content), of this node. Source: GET /cluster/resources.
    pub storages: Vec<(String, String, String)>,
    /// (id, entries as written). Source: GET /cluster/mapping/pci.
    pub mappings: Seen<Vec<(String, Vec<String>)>>,
    /// GET /nodes/{node}/hardware/pci, each an object.
    pub functions: Seen<Vec<Value>>,
}

/// One VM.
#[derive(Clone, Debug)]
pub struct VmAnswer {
    pub name: String,
    /// None: neither "running" nor "stopped" was said.
    pub runs: Option<bool>,
    /// GET …/config, as the next start will use it: an object.
    pub config: Seen<Value>,
    /// GET …/pending: an array; none where it was not asked.
    pub pending: Option<Value>,
}

impl VmAnswer {
    /// What a change of this VM must name.
    pub fn digest(&self) -> Option<&str> {
        self.config.get()?.get("digest")?.as_str()
    }
}

impl Answers {
    /// Asks. `node`: which, where it does not follow from `vm` and the cluster has several; `vm`: the number or name of
    /// the one that is meant. Errors: no way to the API, a refused login, no such node, or several and none is named.
    pub fn ask(client: &Client, node: Option<&str>, vm: Option<&str>) -> Result<Answers, Error> {
        let version = client.version()?;
        let version = version.get("version").map(plain).unwrap_or_default();
        let permissions = if client.user() == "root@pam" { Value::Null } else { client.permissions()? };
        let resources = client.resources()?;
        let resources = resources.as_array().ok_or_else(|| answer("/cluster/resources", "no list"))?;
        let node = the_node(resources, node, vm)?;
        word(&node)?;
        let vms = vms(resources, &node)?;
        let mappings = seen(client.mappings())?;
        let functions = seen(client.pci(&node).and_then(|all| match all {
            Value::Array(all) => Ok(all),
            _ => Err(answer("/hardware/pci", "no list")),
        }))?;
        let mut answers = Answers {
            url: client.url().to_owned(),
            user: client.user().to_owned(),
            version,
            permissions,
            storages: storages(resources, &node),
            vms,
            mappings,
            functions,
            node,
        };
        for (vmid, one) in &mut answers.vms {
            // the digest comes first: what is changed while the rest is asked makes the change be refused
            one.config = seen(client.config(&answers.node, *vmid))?;
        }
        let meant = answers.meant(vm);
        for vmid in meant {
            let pending = client.pending_of(&answers.node, vmid)?;
            if let Some(one) = answers.vms.get_mut(&vmid) {
                one.pending = Some(pending);
            }
        }
        Ok(answers)
    }

    /// The VM that is named; without a name the only one, or those that are given a device.
    fn meant(&self, vm: Option<&str>) -> Vec<u32> {
        if let Some(name) = vm {
            return find(self.vms.iter().map(|(vmid, one)| (*vmid, one.name.as_str())), name).into_iter().collect();
        }
        let given = |one: &VmAnswer| {
            let keys = one.config.get().and_then(Value::as_object).into_iter().flatten();
            keys.into_iter().any(|(key, _)| key.starts_with("hostpci"))
        };
        let only = self.vms.len() == 1;
        self.vms.iter().filter(|(_, one)| only || given(one)).map(|(vmid, _)| *vmid).collect()
    }

    /// True where this user may do it, as far as the API says.
    pub(crate) fn may(&self, path: &str, privilege: &str) -> bool {
        self.user == "root@pam" || holds(&self.permissions, path, privilege)
    }

    /// What is hidden from this user and may matter, for people.
    pub fn limits(&self) -> Vec<String> {
        let mut limits = Vec::new();
        if !self.may("/vms", "VM.Audit") {
            limits.push(format!(
                "{} sees only some of the VMs (VM.Audit on /vms is not its own): another may name the same card",
                self.user
            ));
        }
        limits.push(format!(
            "the API tells of {} no drivers, reset methods, processes, libvirt's VMs or promises made on it; thruway doctor on \
             the node does. The journal and the promises of what is done from here are kept here",
            self.node
        ));
        limits
    }
}

fn answer(what: &str, says: &str) -> Error {
    Error::Answer { what: what.to_owned(), says: says.to_owned() }
}

/// What is refused to this user is not to be seen; what cannot be spoken to at all is an error.
fn seen<T>(given: Result<T, Error>) -> Result<Seen<T>, Error> {
    match given {
        Ok(value) => Ok(Seen::Is(value)),
        Err(error @ (Error::Refused { status: 403 | 500 | 501, .. } | Error::Answer { .. })) => {
            Ok(Seen::Unreadable(Reason::Other(error.to_string())))
        }
        Err(error) => Err(error),
    }
}

fn text<'a>(one: &'a Value, key: &str) -> Option<&'a str> {
    one.get(key)?.as_str()
}

fn is(one: &Value, kind: &str) -> bool {
    text(one, "type") == Some(kind)
}

fn find<'a>(vms: impl Iterator<Item = (u32, &'a str)> + Clone, wanted: &str) -> Option<u32> {
    let wanted = wanted.strip_prefix("vm:").unwrap_or(wanted);
    let by_id = vms.clone().find(|(vmid, _)| vmid.to_string() == wanted);
    by_id.or_else(|| vms.clone().find(|(_, name)| *name == wanted)).map(|(vmid, _)| vmid)
}

/// The node that is named, else the one of the VM, else the only one.
fn the_node(resources: &[Value], node: Option<&str>, vm: Option<&str>) -> Result<String, Error> {
    let mut nodes: Vec<&str> =
        resources.iter().filter(|one| is(one, "node")).filter_map(|one| text(one, "node")).collect();
    nodes.sort_unstable();
    let list = || if nodes.is_empty() { "none that may be seen".to_owned() } else { nodes.join(", ") };
    if let Some(node) = node {
        let known = nodes.is_empty() || nodes.contains(&node);
        let says = || Error::Setting(format!("there is no node {node} in this cluster; its nodes: {}", list()));
        return known.then(|| node.to_owned()).ok_or_else(says);
    }
    let all = resources.iter().filter(|one| is(one, "qemu"));
    let all: Vec<(u32, &str, &str)> =
        all.filter_map(|one| Some((vmid(one)?, text(one, "name").unwrap_or_default(), text(one, "node")?))).collect();
    let vm = vm.and_then(|name| find(all.iter().map(|(vmid, name, _)| (*vmid, *name)), name));
    if let Some((_, _, node)) = all.iter().find(|(vmid, _, _)| Some(*vmid) == vm) {
        return Ok((*node).to_owned());
    }
    match nodes.as_slice() {
        [one] => Ok((*one).to_owned()),
        _ => Err(Error::Setting(format!("which node is meant is not said: add --pve-node; its nodes: {}", list()))),
    }
}

fn vmid(one: &Value) -> Option<u32> {
    number(one.get("vmid")).and_then(|number| u32::try_from(number).ok()).filter(|vmid| *vmid > 0)
}

fn vms(resources: &[Value], node: &str) -> Result<BTreeMap<u32, VmAnswer>, Error> {
    let here = resources.iter().filter(|one| is(one, "qemu") && text(one, "node") == Some(node));
    let vms: BTreeMap<u32, VmAnswer> = here
        .filter_map(|one| {
            let runs = match text(one, "status") {
                Some("running") => Some(true),
                Some("stopped") => Some(false),
                _ => None,
            };
            let name = text(one, "name").unwrap_or_default().to_owned();
            Some((vmid(one)?, VmAnswer { name, runs, config: Seen::Absent, pending: None }))
        })
        .collect();
    match vms.len() {
        0..=VMS => Ok(vms),
        many => {
            Err(answer("/cluster/resources", &format!("{many} VMs on one node, and no more than {VMS} are looked at")))
        }
    }
}

fn storages(resources: &[Value], node: &str) -> Vec<(String, String, String)> {
    let here = resources.iter().filter(|one| is(one, "storage") && text(one, "node") == Some(node));
    let all = here.filter_map(|one| {
        let kind = text(one, "plugintype").unwrap_or("dir");
        Some((text(one, "storage")?.to_owned(), kind.to_owned(), text(one, "content").unwrap_or_default().to_owned()))
    });
    all.collect()
}
