//! The API's answers as a machine's tree, so that the floors' observers and planners work on them unchanged.
//!
//! Laid out: the VMs' files below /etc/pve, printed again from their configs; pci.cfg and storage.cfg; the PCI functions
//! in sysfs with identity and IOMMU group; pid files of the VMs that run. Everything else is not told by the API, and
//! says so: it is unreadable, never absent.

use std::collections::{BTreeMap, BTreeSet};

use machine::{FileKind, Kind, Memory, Node, NodeKind, Question, Stat};
use model::{Bdf, Reason, Seen};
use serde_json::Value;

use crate::Answers;
use crate::answers::VmAnswer;
use crate::client::plain;

const DEVICES: &str = "/sys/bus/pci/devices";
const MAPPING: &str = "/etc/pve/mapping/pci.cfg";

/// Why it is not known how a VM runs that does.
pub const RUNS: &str = "it runs; with what, the API does not tell";

fn untold() -> Reason {
    Reason::Other("Proxmox VE's API does not tell it".into())
}

impl Answers {
    /// The node as a machine. It is a snapshot: ask again to look again.
    pub fn machine(&self) -> Memory {
        let name = format!("the node {} (Proxmox VE {}, by {} as {})", self.node, self.version, self.url, self.user);
        let mut tree = Memory::new(name).of_kind(Kind::Remote);
        tree.insert_gone("/", Seen::Unreadable(untold()));
        for question in Question::ALL {
            tree.insert_answer(question, Seen::Unreadable(untold()));
        }
        tree.insert_link("/etc/pve/local", &format!("nodes/{}", self.node));
        tree.insert_link("/etc/pve/qemu-server", &format!("nodes/{}/qemu-server", self.node));
        self.vms_into(&mut tree);
        let storage = |(id, kind, content): &(String, String, String)| {
            let fits = [id, kind, content].iter().all(|text| !text.contains(char::is_control)) && !id.is_empty();
            fits.then(|| format!("{kind}: {id}\n\tcontent {content}\n"))
        };
        let storages: Vec<String> = self.storages.iter().filter_map(storage).collect();
        tree.insert_file("/etc/pve/storage.cfg", storages.join("\n").as_bytes());
        match &self.mappings {
            Seen::Is(all) => tree.insert_file(MAPPING, mappings(all).as_bytes()),
            other => tree.insert_gone(MAPPING, other.as_ref().map(|_| ())),
        }
        match &self.functions {
            Seen::Is(all) => functions(&mut tree, all),
            other => tree.insert_gone(DEVICES, other.as_ref().map(|_| ())),
        }
        tree
    }

    fn vms_into(&self, tree: &mut Memory) {
        let dir = format!("/etc/pve/nodes/{}/qemu-server", self.node);
        let mut pids = Vec::new();
        for (vmid, one) in &self.vms {
            let path = format!("{dir}/{vmid}.conf");
            let text = match &one.config {
                Seen::Is(config) => conf(config, one),
                Seen::Absent => Err(untold()),
                Seen::Unreadable(reason) => Err(reason.clone()),
            };
            match text {
                Ok(text) => tree.insert_file(&path, text.as_bytes()),
                Err(reason) => insert(tree, &path, FileKind::File, NodeKind::File(Seen::Unreadable(reason))),
            }
            if one.runs != Some(false) {
                let says = if one.runs.is_some() { RUNS } else { "the API does not tell" };
                let pid = NodeKind::File(Seen::Unreadable(Reason::Other(says.into())));
                insert(tree, &format!("/run/qemu-server/{vmid}.pid"), FileKind::File, pid);
                pids.push(format!("{vmid}.pid"));
            }
        }
        let mut names: Vec<String> = self.vms.keys().map(|vmid| format!("{vmid}.conf")).collect();
        names.sort_unstable();
        pids.sort_unstable();
        insert(tree, &dir, FileKind::Dir, NodeKind::Dir(Seen::Is(names)));
        insert(tree, "/run/qemu-server", FileKind::Dir, NodeKind::Dir(Seen::Is(pids)));
    }
}

fn insert(tree: &mut Memory, path: &str, kind: FileKind, node: NodeKind) {
    let stat = Stat { kind, mode: 0o644, uid: 0, gid: 0, size: 0, mtime: 0, rdev: None };
    tree.insert(path, Node { stat, kind: node });
}

fn malformed(what: String) -> Reason {
    Reason::Malformed(format!("the API's answer: {what}"))
}

/// What is no setting of the file: the description stands in it as comments, the digest nowhere.
const NOT_SETTINGS: &[&str] = &["digest", "description", "parent"];

/// A VM's file, printed again. Without `pending` its main part is as the next start will have it.
fn conf(config: &Value, one: &VmAnswer) -> Result<String, Reason> {
    let settings = config.as_object().ok_or_else(|| malformed("the config is no object".into()))?;
    let (mut main, mut pending, mut gone) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    let put = |into: &mut BTreeMap<String, String>, key: &str, value: &Value| {
        if NOT_SETTINGS.contains(&key) {
            return Ok(());
        }
        into.insert(setting(key)?, line(key, value)?);
        Ok::<(), Reason>(())
    };
    match &one.pending {
        None => settings.iter().try_for_each(|(key, value)| put(&mut main, key, value))?,
        Some(items) => {
            for item in items.as_array().ok_or_else(|| malformed("what is pending is no list".into()))? {
                let key = item.get("key").and_then(Value::as_str).unwrap_or_default();
                item.get("value").map_or(Ok(()), |value| put(&mut main, key, value))?;
                item.get("pending").map_or(Ok(()), |value| put(&mut pending, key, value))?;
                let deleted = item.get("delete").map(plain).is_some_and(|level| level != "0" && !level.is_empty());
                if deleted && !NOT_SETTINGS.contains(&key) {
                    gone.insert(setting(key)?);
                }
            }
        }
    }
    let mut text: String = main.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
    if !pending.is_empty() || !gone.is_empty() {
        text.push_str("\n[PENDING]\n");
        if !gone.is_empty() {
            text.push_str(&format!("delete: {}\n", gone.into_iter().collect::<Vec<_>>().join(",")));
        }
        text.extend(pending.iter().map(|(key, value)| format!("{key}: {value}\n")));
    }
    // the snapshot that this state comes from; the API lists the others elsewhere
    let parent = settings.get("parent").and_then(Value::as_str);
    if let Some(name) = parent.filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))) {
        text.push_str(&format!("\n[{name}]\n"));
    }
    Ok(text)
}

fn setting(key: &str) -> Result<String, Reason> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if key.starts_with(|c: char| c.is_ascii_lowercase()) && key.chars().all(plain) {
        return Ok(key.to_owned());
    }
    Err(malformed(format!("{key:?} is no key of a VM")))
}

/// A value as one line of a file. Anything but text, number or boolean is none.
fn line(key: &str, value: &Value) -> Result<String, Reason> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => u8::from(*yes).to_string(),
        _ => return Err(malformed(format!("{key} is no text"))),
    };
    if text.contains(char::is_control) { Err(malformed(format!("{key} is not one line"))) } else { Ok(text) }
}

fn mappings(all: &[(String, Vec<String>)]) -> String {
    let one = |text: &str| !text.is_empty() && !text.contains(char::is_control);
    let section = |(id, maps): &(String, Vec<String>)| {
        let maps: String = maps.iter().filter(|map| one(map)).map(|map| format!("\tmap {map}\n")).collect();
        format!("{id}\n{maps}")
    };
    all.iter()
        .filter(|(id, _)| one(id) && !id.contains(char::is_whitespace))
        .map(section)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The functions in sysfs, and their names as a PCI ID database. What is no function makes the list one that cannot be
/// trusted: "no card" must then not be said.
fn functions(tree: &mut Memory, all: &[Value]) {
    let (mut names, mut words) = (Vec::new(), BTreeMap::new());
    for one in all {
        let text = |key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default();
        let bdf = text("id").parse::<Bdf>();
        let hex = |key: &str, digits: usize| {
            let number = text(key).strip_prefix("0x").unwrap_or(text(key));
            (!number.is_empty() && number.len() <= digits && number.bytes().all(|b| b.is_ascii_hexdigit()))
                .then(|| format!("0x{number:0>digits$}"))
        };
        let (Ok(bdf), Some(vendor), Some(device), Some(class)) =
            (bdf, hex("vendor", 4), hex("device", 4), hex("class", 6))
        else {
            let reason = malformed(format!("{:?} is no PCI function", text("id")));
            tree.insert_gone(DEVICES, Seen::Unreadable(reason.clone()));
            insert(tree, DEVICES, FileKind::Dir, NodeKind::Dir(Seen::Unreadable(reason)));
            return;
        };
        let at = format!("{DEVICES}/{bdf}");
        let mut put =
            |file: &str, value: &str| tree.insert_file(&format!("{at}/{file}"), format!("{value}\n").as_bytes());
        put("vendor", &vendor);
        put("device", &device);
        put("class", &class);
        if let (Some(board), Some(number)) = (hex("subsystem_vendor", 4), hex("subsystem_device", 4)) {
            put("subsystem_vendor", &board);
            put("subsystem_device", &number);
        }
        let group = one.get("iommugroup").map(plain).and_then(|group| group.parse::<i64>().ok());
        match group {
            Some(group @ 0..) => {
                tree.insert_link(&format!("{at}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"))
            }
            // -1: in none
            Some(_) => tree.insert_gone(&format!("{at}/iommu_group"), Seen::Absent),
            None => {}
        }
        names.push(bdf.to_string());
        let word = |key: &str| text(key).replace(char::is_control, " ");
        let key = |hex: &str| hex.trim_start_matches("0x").to_ascii_lowercase();
        words
            .entry(key(&vendor))
            .or_insert_with(|| (word("vendor_name"), BTreeMap::new()))
            .1
            .insert(key(&device), word("device_name"));
    }
    names.sort_unstable();
    insert(tree, DEVICES, FileKind::Dir, NodeKind::Dir(Seen::Is(names)));
    let mut database = String::new();
    for (vendor, (name, devices)) in words.iter().filter(|(_, (name, _))| !name.trim().is_empty()) {
        database.push_str(&format!("{vendor}  {name}\n"));
        let known = devices.iter().filter(|(_, name)| !name.trim().is_empty());
        database.extend(known.map(|(device, name)| format!("\t{device}  {name}\n")));
    }
    tree.insert_file("/usr/share/misc/pci.ids", database.as_bytes());
}

#[cfg(test)]
mod tests;
