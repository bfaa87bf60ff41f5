//! Names that can be known only from where they stand: this machine's name, its users, its serial numbers.

use std::collections::{BTreeMap, BTreeSet};

use formats::hint::Hint;
use formats::smbios::oem_strings;
use model::Seen;
use serde_json::Value;

use super::ids;
use crate::{Answer, DMI_TABLE, Memory, NodeKind};

/// Names that say nothing of whose machine it is, and stand in paths and programs everywhere.
const COMMON: &[&str] = &[
    "localhost",
    "localdomain",
    "pve",
    "proxmox",
    "debian",
    "ubuntu",
    "fedora",
    "arch",
    "linux",
    "server",
    "host",
    "node",
    "guest",
    "machine",
    "root",
    "home",
    "user",
    "admin",
    "master",
    "worker",
    "control",
    "plane",
    "docker",
    "podman",
    "kube",
    "kubernetes",
    "k3s",
    "jellyfin",
    "nvidia",
    "amd",
    "intel",
    "gpu",
    "media",
    "video",
    "render",
    "input",
    "local",
    "default",
    "none",
    "null",
    "unknown",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-localnet",
    "ip6-mcastprefix",
    "broadcasthost",
    "cluster",
    "cluster.local",
    "kubernetes.default",
    "internal",
    "nobody",
    "daemon",
    "system",
    "test",
    "data",
];

/// What a literal is, and so what it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Host,
    Domain,
    User,
    Serial,
}

/// Lower-case literal → what it is.
pub(super) fn names(memory: &Memory) -> BTreeMap<String, Name> {
    let mut found: BTreeMap<String, Name> = BTreeMap::new();
    let mut fixed: BTreeSet<String> = BTreeSet::new();
    for (path, node) in memory.nodes() {
        if ["/sys/", "/proc/sys/", "/usr/", "/lib/"].iter().any(|start| path.starts_with(start)) {
            fixed.extend(words(path).map(str::to_owned));
        }
        if let Some(user) = path.strip_prefix("/home/").and_then(|rest| rest.split('/').next()) {
            found.entry(user.to_ascii_lowercase()).or_insert(Name::User);
        }
        if let (NodeKind::Dir(Seen::Is(names)), "/home") = (&node.kind, path) {
            found.extend(names.iter().map(|name| (name.to_ascii_lowercase(), Name::User)));
        }
        if let (NodeKind::Dir(Seen::Is(names)), "/etc/pve/nodes" | "/etc/pve/local") = (&node.kind, path) {
            names.iter().for_each(|name| host(&mut found, name));
        }
        let NodeKind::File(Seen::Is(bytes)) = &node.kind else { continue };
        if path == DMI_TABLE {
            let hosts = oem_strings(bytes).iter().filter_map(|text| Hint::parse(text).ok()?.host).collect::<Vec<_>>();
            hosts.iter().for_each(|name| host(&mut found, name));
        }
        let Ok(text) = std::str::from_utf8(bytes) else { continue };
        match path {
            "/etc/hostname" | "/proc/sys/kernel/hostname" | "/etc/mailname" => host(&mut found, text.trim()),
            "/proc/sys/kernel/osrelease" => fixed.extend(words(text.trim()).map(str::to_owned)),
            "/etc/hosts" => {
                for line in text.lines() {
                    let names = line.split('#').next().unwrap_or_default().split_whitespace().skip(1);
                    names.for_each(|name| host(&mut found, name));
                }
            }
            "/etc/resolv.conf" => {
                for line in text.lines() {
                    let mut parts = line.split_whitespace();
                    if matches!(parts.next(), Some("search" | "domain")) {
                        parts.for_each(|name| domain(&mut found, name));
                    }
                }
            }
            _ => {}
        }
        let file = path.rsplit('/').next().unwrap_or_default();
        if path.starts_with("/sys/") && ids::is_serial_key(file) && text.len() < 200 {
            serial(&mut found, text.trim());
        }
        for at in text.match_indices("/home/").map(|(at, _)| at + 6) {
            let user: String = text[at..].chars().take_while(|c| is_user(*c)).take(33).collect();
            if !user.is_empty() && user.len() < 33 {
                found.entry(user.to_ascii_lowercase()).or_insert(Name::User);
            }
        }
    }
    for (_, answer) in memory.answers() {
        match answer {
            Seen::Is(Answer::Nvml(report)) => {
                report.gpus.iter().filter_map(|gpu| gpu.serial.get()).for_each(|text| serial(&mut found, text));
                let boards = report.gpus.iter().filter_map(|gpu| gpu.board.get());
                boards
                    .flat_map(|board| [&board.pdi, &board.chassis_serial])
                    .filter_map(Seen::get)
                    .for_each(|text| serial(&mut found, text));
            }
            Seen::Is(Answer::Json(value)) => from_json(&mut found, value),
            _ => {}
        }
    }
    found.retain(|name, what| {
        let long = name.len() >= if *what == Name::User { 4 } else { 3 };
        let common =
            COMMON.contains(&name.as_str()) || name.bytes().all(|b| b.is_ascii_digit()) && *what != Name::Serial;
        long && !common && (*what == Name::Serial || !fixed.contains(name)) && !is_own(name)
    });
    found
}

/// Node names of a cluster, and the name that an engine says its machine has.
fn from_json(found: &mut BTreeMap<String, Name>, value: &Value) {
    if let Some(name) = value.get("Name").and_then(Value::as_str)
        && value.get("ServerVersion").is_some()
    {
        host(found, name);
    }
    for item in value.get("items").and_then(Value::as_array).into_iter().flatten() {
        let at = |pointer: &str| item.pointer(pointer).and_then(Value::as_str);
        if item.pointer("/status/nodeInfo").is_some() {
            at("/metadata/name").into_iter().for_each(|name| host(found, name));
        }
        at("/spec/nodeName").into_iter().for_each(|name| host(found, name));
        for address in item.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten() {
            if address.get("type").and_then(Value::as_str) == Some("Hostname") {
                address.get("address").and_then(Value::as_str).into_iter().for_each(|name| host(found, name));
            }
        }
    }
}

/// A host's name, alone and with its domain, and as LVM writes it in device names.
fn host(found: &mut BTreeMap<String, Name>, name: &str) {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty()
        || name.len() > 253
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
    {
        return;
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return;
    }
    if let Some((first, rest)) = name.split_once('.') {
        if COMMON.contains(&first) {
            return;
        }
        domain(found, rest);
        found.insert(first.to_owned(), Name::Host);
        if first.contains('-') {
            found.insert(first.replace('-', "--"), Name::Host);
        }
        return;
    }
    if name.contains('-') {
        found.insert(name.replace('-', "--"), Name::Host);
    }
    found.insert(name, Name::Host);
}

fn domain(found: &mut BTreeMap<String, Name>, name: &str) {
    let name = name.trim_matches('.').to_ascii_lowercase();
    let public = matches!(
        name.as_str(),
        "local" | "lan" | "home" | "internal" | "invalid" | "svc.cluster.local" | "cluster.local" | "home.arpa"
    );
    if name.len() >= 4 && !public && !name.ends_with("cluster.local") {
        found.insert(name, Name::Domain);
    }
}

fn serial(found: &mut BTreeMap<String, Name>, text: &str) {
    if text.len() >= 5 && !ids::serial_stays(text) && !text.contains('\n') {
        found.insert(text.to_ascii_lowercase(), Name::Serial);
    }
}

fn is_user(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

pub(super) fn is_common(name: &str) -> bool {
    COMMON.contains(&name.to_ascii_lowercase().as_str())
}

/// One of our own pseudonyms.
pub(super) fn is_own(name: &str) -> bool {
    let numbered = |start: &str| {
        name.strip_prefix(start).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    numbered("host-") || numbered("host--") || numbered("user-") || name.ends_with(".invalid")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}
