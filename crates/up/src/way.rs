//! The way file: one TOML text that names host, card, VM, guest, engine, cluster and app. Text in, ways out; no I/O.
//!
//! A file with `[fleet]` is a pattern: each of its hosts walks a way of its own, in which `{host}` stands for its name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a way file may hold. Unknown keys are errors: a misspelt `reboot` must not be a silent `false`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct WayFile {
    /// Names the state kept of it: letters, digits, `-`, `_`, `.`.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Ssh>,
    pub host: Host,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Vm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<App>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Fleet>,
    /// What one host of a fleet has otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, Own>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Ssh {
    /// In place of the user's own ~/.ssh/config (`ssh -F`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// How a machine is come by, and what may be done to it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// A destination of ssh, or `here`.
    pub at: String,
    /// The login is no root: sudo.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sudo: bool,
    /// The machine lies below this directory there (`--root`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// The thruway that is installed there; without it this program is copied over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thruway: Option<String>,
    /// The program to copy, where the machine is of another architecture than this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// It may be rebooted where a change waits for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reboot: bool,
    /// Seconds that it may take to come back.
    #[serde(default = "wait", skip_serializing_if = "is_wait")]
    pub wait: u64,
    /// An address (26:00.0), or vendor:device (10de:1d01) where one card alone is such; none: the one card that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// Losses that are accepted, by check id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Proxmox VE's number, or libvirt's name.
    pub id: String,
    /// It may be started, and stopped and started where a change waits for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
    /// Words in place of `qm start ID` and `virsh start NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_command: Option<String>,
    /// Proxmox VE's API in place of a shell on the node, for the VM floor: `https://192.0.2.10:8006`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pve: Option<String>,
    /// The file with its API token, here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pve_token_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pve_fingerprint: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    pub at: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sudo: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thruway: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reboot: bool,
    #[serde(default = "wait", skip_serializing_if = "is_wait")]
    pub wait: u64,
    #[serde(default)]
    pub driver: Driver,
    /// NVIDIA's installer, on that machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_file: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// By a plan of the guest floor.
    #[default]
    Install,
    /// It is there; it is only looked at.
    Present,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// docker, containerd, crio, podman, k3s, rke2; none: the one that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// thruway, nvidia or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default_runtime: bool,
    /// Prove it by a container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test: bool,
    /// In this image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Words run there in place of `thruway container test`; they prove it by exit status 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_command: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Two nodes of one name are never worked on at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Spoken to from `node` (the guest, or the host without one), or from `here` with this user's kubeconfig.
    #[serde(default)]
    pub from: From,
    /// `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum From {
    #[default]
    Node,
    Here,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Prove that it uses the card, by what it does now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prove: bool,
}

/// How a fleet is walked.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    pub hosts: Vec<String>,
    /// Hosts worked on at once.
    #[serde(default = "one")]
    pub at_once: usize,
    /// Nodes of one cluster at once.
    #[serde(default = "one")]
    pub same_cluster: usize,
    /// So many first, and the others only when those are well.
    #[serde(default = "one")]
    pub canary: usize,
    /// No further host is begun after so many failed.
    #[serde(default = "one")]
    pub stop_after: usize,
}

/// One host's own values.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Own {
    #[serde(default)]
    pub at: Option<String>,
    #[serde(default)]
    pub root: Option<String>,
    #[serde(default)]
    pub card: Option<String>,
    #[serde(default)]
    pub vm: Option<String>,
    #[serde(default)]
    pub guest: Option<String>,
    #[serde(default)]
    pub cluster: Option<String>,
}

const fn wait() -> u64 {
    600
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_wait(seconds: &u64) -> bool {
    *seconds == wait()
}

const fn one() -> usize {
    1
}

/// One host's way: the file, with its names put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The file's name, or `file/host`.
    pub name: String,
    pub ssh: Ssh,
    pub host: Host,
    pub vm: Option<Vm>,
    pub guest: Option<Guest>,
    pub container: Option<Container>,
    pub cluster: Option<Cluster>,
    pub app: Option<App>,
}

/// A way file that cannot be meant, by line where there is one (1-based).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{says}")]
pub struct Bad {
    pub line: Option<usize>,
    pub says: String,
}

fn bad(says: impl Into<String>) -> Bad {
    Bad { line: None, says: says.into() }
}

impl WayFile {
    pub fn read(text: &str) -> Result<Self, Bad> {
        let file: WayFile = toml::from_str(text).map_err(|error| Bad {
            line: error
                .span()
                .map(|span| 1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n').count()),
            says: error.message().to_owned(),
        })?;
        file.ways()?;
        Ok(file)
    }

    /// Every host's way, in the file's order.
    pub fn ways(&self) -> Result<Vec<Way>, Bad> {
        named("name", &self.name)?;
        let Some(fleet) = &self.fleet else {
            if let Some(name) = self.hosts.keys().next() {
                return Err(bad(format!("[hosts.{name}] is of a fleet, and there is no [fleet]")));
            }
            return Ok(vec![self.way(&self.name, None)?]);
        };
        if fleet.hosts.is_empty() {
            return Err(bad("fleet.hosts names no host"));
        }
        if fleet.at_once == 0 || fleet.same_cluster == 0 || fleet.stop_after == 0 {
            return Err(bad("fleet.at_once, same_cluster and stop_after are at least 1"));
        }
        if let Some(name) = self.hosts.keys().find(|name| !fleet.hosts.contains(name)) {
            return Err(bad(format!("[hosts.{name}]: fleet.hosts does not name it")));
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut ways = Vec::new();
        for host in &fleet.hosts {
            named("fleet.hosts", host)?;
            if !seen.insert(host) {
                return Err(bad(format!("fleet.hosts names {host} twice")));
            }
            ways.push(self.way(&format!("{}/{host}", self.name), Some(host))?);
        }
        let place = |way: &Way| (way.host.at.clone(), way.host.root.clone());
        let mut places = BTreeMap::new();
        for way in &ways {
            if let Some(other) = places.insert(place(way), &way.name) {
                return Err(bad(format!(
                    "{other} and {} are one machine ({}): write {{host}} into host.at",
                    way.name, way.host.at
                )));
            }
        }
        Ok(ways)
    }

    fn way(&self, name: &str, host: Option<&str>) -> Result<Way, Bad> {
        let fill = |text: &str| match host {
            Some(host) => text.replace("{host}", host),
            None => text.to_owned(),
        };
        let own = host.and_then(|host| self.hosts.get(host)).cloned().unwrap_or_default();
        let mut way = Way {
            name: name.to_owned(),
            ssh: self.ssh.clone().unwrap_or_default(),
            host: self.host.clone(),
            vm: self.vm.clone(),
            guest: self.guest.clone(),
            container: self.container.clone(),
            cluster: self.cluster.clone(),
            app: self.app.clone(),
        };
        way.host.at = own.at.unwrap_or_else(|| fill(&way.host.at));
        way.host.root = own.root.or_else(|| way.host.root.as_deref().map(fill));
        way.host.card = own.card.or(way.host.card);
        if let Some(vm) = &mut way.vm {
            vm.id = own.vm.unwrap_or_else(|| fill(&vm.id));
        } else if own.vm.is_some() {
            return Err(bad(format!("[hosts.{}] names a VM, and there is no [vm]", host.unwrap_or_default())));
        }
        if let Some(guest) = &mut way.guest {
            guest.at = own.guest.unwrap_or_else(|| fill(&guest.at));
            guest.root = guest.root.as_deref().map(fill);
        } else if own.guest.is_some() {
            return Err(bad(format!("[hosts.{}] names a guest, and there is no [guest]", host.unwrap_or_default())));
        }
        if let Some(cluster) = &mut way.cluster {
            cluster.name = own.cluster.or_else(|| cluster.name.as_deref().map(fill));
            cluster.deployment = cluster.deployment.as_deref().map(fill);
        }
        way.check()?;
        Ok(way)
    }
}

impl Way {
    fn check(&self) -> Result<(), Bad> {
        destination("host.at", &self.host.at)?;
        absolute("host.root", self.host.root.as_deref())?;
        absolute("host.thruway", self.host.thruway.as_deref())?;
        if let Some(card) = &self.host.card
            && card.parse::<model::Bdf>().is_err()
            && card.parse::<model::PciId>().is_err()
        {
            return Err(bad(format!("host.card = \"{card}\": say an address (26:00.0) or vendor:device (10de:1d01)")));
        }
        if self.guest.is_some() && self.vm.is_none() {
            return Err(bad("[guest] is inside a VM: say which in [vm]; a machine of bare metal needs neither"));
        }
        if let Some(vm) = &self.vm {
            if vm.id.is_empty()
                || vm.id.starts_with('-')
                || vm.id.contains(|c: char| c.is_control() || c.is_whitespace())
            {
                return Err(bad(format!("vm.id = \"{}\" is no VM's number or name", vm.id)));
            }
            if vm.pve.is_none() && (vm.pve_token_file.is_some() || vm.pve_fingerprint.is_some()) {
                return Err(bad("vm.pve_token_file and vm.pve_fingerprint belong to vm.pve"));
            }
        }
        if let Some(guest) = &self.guest {
            destination("guest.at", &guest.at)?;
            absolute("guest.root", guest.root.as_deref())?;
            absolute("guest.thruway", guest.thruway.as_deref())?;
            if guest.driver == Driver::Present && guest.driver_file.is_some() {
                return Err(bad("guest.driver_file is to install, and guest.driver = \"present\" installs nothing"));
            }
            if guest.at == self.host.at && guest.root == self.host.root {
                return Err(bad(format!("host.at and guest.at are one machine ({})", guest.at)));
            }
        }
        if let Some(container) = &self.container
            && let Some(runtime) = &container.runtime
            && !["thruway", "nvidia", "none"].contains(&runtime.as_str())
        {
            return Err(bad(format!("container.runtime = \"{runtime}\": say thruway, nvidia or none")));
        }
        Ok(())
    }
}

/// A word that becomes a directory's name.
fn named(what: &str, name: &str) -> Result<(), Bad> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(bad(format!("{what}: \"{name}\": letters, digits, - _ and . (not first), at most 100")));
    }
    Ok(())
}

/// What ssh takes as a destination, and never as an option.
fn destination(what: &str, at: &str) -> Result<(), Bad> {
    if at.is_empty() || at.starts_with('-') || at.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(bad(format!(
            "{what} = \"{at}\" is no destination of ssh: say user@host, a name of your ssh config, or here"
        )));
    }
    Ok(())
}

fn absolute(what: &str, path: Option<&str>) -> Result<(), Bad> {
    match path {
        Some(path) if !path.starts_with('/') || path.contains(char::is_control) => {
            Err(bad(format!("{what} = \"{path}\" is no absolute path")))
        }
        _ => Ok(()),
    }
}
