//! /cluster/mapping/pci: named devices of the cluster. Source: the API's description, and PVE::API2::Cluster::Mapping::PCI.

use machine::MachineExt as _;
use serde_json::{Value, json};
use sha1::Digest as _;

use super::Account;
use super::api::{Given, No, may, no};
use crate::tree::Tree;

const FILE: &str = "/etc/pve/mapping/pci.cfg";

/// /etc/pve/mapping/pci.cfg: id and map lines.
pub(super) fn all(tree: &Tree) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for line in text(tree).lines().filter(|line| !line.trim().is_empty()) {
        match (line.strip_prefix(['\t', ' ']), all.last_mut()) {
            (None, _) => all.push((line.trim().to_owned(), Vec::new())),
            (Some(rest), Some((_, maps))) => maps.extend(rest.trim().strip_prefix("map ").map(str::to_owned)),
            (Some(_), None) => {}
        }
    }
    all
}

fn text(tree: &Tree) -> String {
    tree.root.text(FILE).is().unwrap_or_default()
}

/// The whole file's, as the real one has it.
fn digest(tree: &Tree) -> String {
    sha1::Sha1::digest(text(tree).as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seen(who: &Account, id: &str) -> bool {
    ["Mapping.Audit", "Mapping.Use", "Mapping.Modify"].iter().any(|one| may(who, &format!("/mapping/pci/{id}"), one))
}

fn modify(who: &Account, path: &str) -> Result<(), No> {
    if may(who, path, "Mapping.Modify") {
        return Ok(());
    }
    no(403, format!("Permission check failed ({path}, Mapping.Modify)"))
}

/// GET: those that this user may see.
pub(super) fn list(tree: &Tree, who: &Account) -> Value {
    let digest = digest(tree);
    let seen = all(tree).into_iter().filter(|(id, _)| seen(who, id));
    seen.map(|(id, map)| json!({ "id": id, "map": map, "digest": digest })).collect()
}

pub(super) fn one(tree: &Tree, who: &Account, method: &str, id: &str) -> Given {
    let known = all(tree).into_iter().find(|(name, _)| name == id);
    match method {
        "GET" if !seen(who, id) => no(403, format!("Permission check failed (/mapping/pci/{id}, Mapping.Audit)")),
        "GET" => match known {
            Some((_, map)) => Ok(json!({ "map": map, "digest": digest(tree) })),
            None => no(500, format!("mapping '{id}' not found on 'pve'")),
        },
        "DELETE" => {
            modify(who, "/mapping/pci")?;
            let rest: Vec<_> = all(tree).into_iter().filter(|(name, _)| name != id).collect();
            write(tree, &rest)?;
            Ok(Value::Null)
        }
        _ => no(501, format!("Method '{method} /cluster/mapping/pci/{id}' not implemented")),
    }
}

/// POST: a new one.
pub(super) fn create(tree: &Tree, who: &Account, params: &[(String, String)]) -> Given {
    modify(who, "/mapping/pci")?;
    let (mut id, mut maps, mut errors) = (None, Vec::new(), Vec::new());
    for (key, value) in params {
        match key.as_str() {
            "id" if is_id(value) => id = Some(value.clone()),
            "id" => errors.push((key.clone(), "invalid configuration ID".to_owned())),
            "map" => match wrong(value) {
                Some(says) => errors.push((key.clone(), format!("invalid format - format error\n{says}"))),
                None => maps.push(value.clone()),
            },
            "description" | "mdev" | "live-migration-capable" => {}
            _ => errors.push((
                key.clone(),
                "property is not defined in schema and the schema does not allow additional properties".into(),
            )),
        }
    }
    let missing = |name: &str| (name.to_owned(), "property is missing and it is not optional".to_owned());
    errors.extend(id.is_none().then(|| missing("id")).filter(|_| !params.iter().any(|(key, _)| key == "id")));
    errors.extend(maps.is_empty().then(|| missing("map")).filter(|_| !params.iter().any(|(key, _)| key == "map")));
    let (Some(id), true) = (id, errors.is_empty()) else {
        return Err(No(400, "Parameter verification failed.".into(), errors));
    };
    let mut all = all(tree);
    if all.iter().any(|(known, _)| *known == id) {
        return no(500, format!("pci ID '{id}' already defined"));
    }
    all.push((id, maps));
    write(tree, &all)?;
    Ok(Value::Null)
}

fn write(tree: &Tree, all: &[(String, Vec<String>)]) -> Result<(), No> {
    let section = |(id, maps): &(String, Vec<String>)| {
        format!("{id}\n{}", maps.iter().map(|map| format!("\tmap {map}\n")).collect::<String>())
    };
    tree.write(FILE, all.iter().map(section).collect::<Vec<_>>().join("\n"))?;
    Ok(())
}

/// pve-configid.
fn is_id(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.len() >= 2 && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain)
}

/// What is wrong with a map entry.
fn wrong(value: &str) -> Option<String> {
    let hex =
        |text: &str, digits: usize| text.len() == digits && text.bytes().all(|b| b"0123456789abcdef".contains(&b));
    let pair = |text: &str| text.split_once(':').is_some_and(|(one, two)| hex(one, 4) && hex(two, 4));
    let address = |text: &str| {
        let slot = text.split_once('.').map_or(text, |(slot, _)| slot);
        let parts: Vec<&str> = slot.split(':').collect();
        matches!(parts.as_slice(), [domain, bus, slot] if domain.len() >= 4 && hex(bus, 2) && hex(slot, 2))
    };
    let mut had = Vec::new();
    for part in value.split(',') {
        let Some((key, value)) = part.split_once('=') else { return Some(format!("{part}: no key")) };
        let fits = match key {
            "node" => !value.is_empty(),
            "path" => value.split(';').all(address),
            "id" | "subsystem-id" => pair(value),
            "iommugroup" => value.parse::<i64>().is_ok(),
            "description" => true,
            _ => return Some(format!("{key}: property is not defined in schema")),
        };
        if !fits {
            return Some(format!("{key}: value does not match the regex pattern"));
        }
        had.push(key);
    }
    let missing = ["node", "path", "id"].into_iter().find(|key| !had.contains(key));
    missing.map(|key| format!("{key}: property is missing and it is not optional"))
}
