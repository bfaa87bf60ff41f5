//! Takes what names a person, a place or a machine out of a recording, and keeps what a diagnosis needs.
//!
//! Every secret becomes a pseudonym of its own shape (a UUID stays a UUID, a MAC a locally administered MAC), the same
//! one wherever it stands, numbered by first appearance in the order of the paths: the same recording gives the same
//! bytes. PCI addresses and ids, versions and kernel releases stay. Redacting twice changes nothing more.

mod ids;
mod learn;
mod scan;
mod secret;

use formats::smbios::{oem_strings, table_of};
use model::Seen;
use serde_json::Value;

use crate::{Answer, DMI_TABLE, Memory, Node, NodeKind};

pub use scan::Redactor;

/// The recording without its secrets.
pub fn redact(memory: &Memory) -> Memory {
    let mut redactor = Redactor::learn(memory);
    let mut out = memory.emptied(redactor.text(memory.called()));
    for (path, node) in memory.nodes() {
        let new_path = redactor.path(path);
        let mut stat = node.stat.clone();
        let kind = match &node.kind {
            NodeKind::File(Seen::Is(bytes)) => {
                let new = if path == DMI_TABLE { redactor.oem(bytes) } else { redactor.file(path, bytes) };
                if stat.size == bytes.len() as u64 {
                    stat.size = new.len() as u64;
                }
                NodeKind::File(Seen::Is(new.into()))
            }
            NodeKind::Link(target) => {
                let new = redactor.path(target);
                if stat.size == target.len() as u64 {
                    stat.size = new.len() as u64;
                }
                NodeKind::Link(new)
            }
            NodeKind::Dir(Seen::Is(names)) => {
                let dir = if path == "/" { "" } else { path };
                let full = names.iter().map(|name| redactor.path(&format!("{dir}/{name}")));
                let mut new: Vec<String> =
                    full.map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).collect();
                new.sort_unstable();
                NodeKind::Dir(Seen::Is(new))
            }
            other => other.clone(),
        };
        out.insert(&new_path, Node { stat, kind });
    }
    for (path, why) in memory.gone() {
        let why = match why {
            Seen::Unreadable(reason) => Seen::Unreadable(redactor.reason(reason)),
            other => other.clone(),
        };
        let path = redactor.path(path);
        out.insert_gone(&path, why);
    }
    for (question, answer) in memory.answers() {
        let answer = match answer {
            Seen::Is(Answer::Json(value)) => {
                let mut value = value.clone();
                redactor.json(&mut value);
                Seen::Is(Answer::Json(value))
            }
            // Through its JSON form, so that no field of a later report is forgotten.
            Seen::Is(Answer::Nvml(report)) => match serde_json::to_value(report) {
                Ok(mut value) => {
                    redactor.json(&mut value);
                    match serde_json::from_value(value) {
                        Ok(report) => Seen::Is(Answer::Nvml(report)),
                        Err(_) => Seen::Unreadable(model::Reason::Other("left out by redaction".into())),
                    }
                }
                Err(_) => Seen::Unreadable(model::Reason::Other("left out by redaction".into())),
            },
            Seen::Unreadable(reason) => Seen::Unreadable(redactor.reason(reason)),
            Seen::Absent => Seen::Absent,
        };
        out.insert_answer(question, answer);
    }
    out
}

impl Redactor {
    /// SMBIOS's table as the recorder keeps it: OEM strings and nothing else. A name may change its length.
    fn oem(&mut self, table: &[u8]) -> Vec<u8> {
        let texts: Vec<String> = oem_strings(table).iter().map(|text| self.text(text)).collect();
        table_of(&texts)
    }

    fn reason(&mut self, reason: &model::Reason) -> model::Reason {
        match reason {
            model::Reason::Malformed(what) => model::Reason::Malformed(self.text(what)),
            model::Reason::Other(what) => model::Reason::Other(self.text(what)),
            other => other.clone(),
        }
    }

    /// A path, part by part, so that a name in a list and the same name in a path become the same.
    pub fn path(&mut self, path: &str) -> String {
        let mut out = String::with_capacity(path.len());
        let mut before = "";
        for (number, part) in path.split('/').enumerate() {
            if number > 0 {
                out.push('/');
            }
            match before {
                "home" if !part.is_empty() => out.push_str(&self.home(part)),
                "by-id" => out.push_str(&self.by_id(part)),
                "by-uuid" | "by-partuuid" => out.push_str(&self.short_uuid(part)),
                _ => out.push_str(&self.text(part)),
            }
            before = part;
        }
        out
    }

    /// All strings of a JSON value; what stands under a secret's name goes whatever it looks like.
    pub fn json(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.json_text(text),
            Value::Array(items) => {
                let mut flag = false;
                for item in items {
                    if let (true, Value::String(text)) = (flag, &mut *item) {
                        *text = self.secret(text);
                    } else {
                        self.json(item);
                    }
                    flag = item.as_str().is_some_and(secret::is_secret_flag);
                }
            }
            Value::Object(map) => {
                let named = map.get("name").or_else(|| map.get("Name")).and_then(Value::as_str);
                let secret_name = named.is_some_and(secret::is_secret_key);
                let old = std::mem::take(map);
                for (key, mut value) in old {
                    let hide = secret::is_secret_key(&key) || (secret_name && key.eq_ignore_ascii_case("value"));
                    let serial = ids::is_serial_key(&key);
                    match &mut value {
                        Value::String(text) if hide => *text = self.secret(text),
                        Value::String(text) if serial => *text = self.serial(text),
                        Value::Object(seen) if serial && seen.len() == 1 => {
                            // The form of Seen: {"is": "1654922003714"}.
                            match seen.get_mut("is") {
                                Some(Value::String(text)) => *text = self.serial(text),
                                _ => self.json(&mut value),
                            }
                        }
                        // A version may look like an address.
                        Value::String(_) if secret::is_version_key(&key) => {}
                        Value::Object(seen)
                            if seen.len() == 1 && seen.contains_key("is") && secret::is_version_key(&key) => {}
                        _ => self.json(&mut value),
                    }
                    let key = self.text(&key);
                    map.insert(key, value);
                }
            }
            _ => {}
        }
    }

    /// A string that is itself JSON (kubectl's last-applied annotation) is taken apart.
    fn json_text(&mut self, text: &str) -> String {
        if text.starts_with('{')
            && let Ok(mut inner) = serde_json::from_str::<Value>(text)
        {
            self.json(&mut inner);
            let end = if text.ends_with('\n') { "\n" } else { "" };
            return format!("{inner}{end}");
        }
        self.text(text)
    }
}
