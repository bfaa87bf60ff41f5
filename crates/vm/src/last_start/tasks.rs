//! Proxmox VE's tasks: /var/log/pve/tasks/index and active list them, one file each holds what they said.
//!
//! Source: PVE::RESTEnvironment (pve-common): `UPID:NODE:PID:PSTART:STARTTIME:TYPE:ID:USER:`, numbers in hex; the file
//! lies in a directory named by the last digit of STARTTIME. A line of `index` is `UPID ENDTIME STATUS`, of `active`
//! `UPID SAVED [ENDTIME STATUS]`.

use machine::{Machine, MachineExt as _};
use model::Seen;

use super::{Ended, LastStart};

const DIR: &str = "/var/log/pve/tasks";

/// A task's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upid {
    pub text: String,
    pub node: String,
    /// Seconds since the epoch.
    pub start: i64,
    /// "qmstart", "vzdump".
    pub kind: String,
    /// The VMID, where the task is about one.
    pub id: String,
}

impl Upid {
    /// None where the text is no task's name, or could lead out of the directory.
    pub fn parse(text: &str) -> Option<Upid> {
        if text.len() > 256 || text.contains('/') || text.chars().any(char::is_control) {
            return None;
        }
        let mut parts = text.strip_prefix("UPID:")?.split(':');
        let node = parts.next()?.to_owned();
        let (_pid, _pstart) = (parts.next()?, parts.next()?);
        let start = i64::from_str_radix(parts.next()?, 16).ok()?;
        let kind = parts.next()?.to_owned();
        let id = parts.next()?.to_owned();
        Some(Upid { text: text.to_owned(), node, start, kind, id })
    }

    /// Where the task's log lies.
    pub fn path(&self) -> String {
        format!("{DIR}/{:X}/{}", self.start & 0xf, self.text)
    }
}

/// The newest `qmstart` of this VM, and its log's text.
pub fn last_start(machine: &dyn Machine, vmid: &str) -> Seen<(LastStart, String)> {
    let mut newest: Option<(Upid, Option<String>)> = None;
    let mut blind = None;
    for name in ["index.1", "index", "active"] {
        let text = match machine.text(&format!("{DIR}/{name}")) {
            Seen::Is(text) => text,
            Seen::Absent => continue,
            Seen::Unreadable(reason) => {
                blind = blind.or(Some(reason));
                continue;
            }
        };
        for line in text.lines() {
            let mut words = line.splitn(2, ' ');
            let Some(upid) = words.next().and_then(Upid::parse) else { continue };
            if upid.kind != "qmstart" || upid.id != vmid {
                continue;
            }
            // `active` has one word more; a status has no digits alone at its start.
            let rest = words.next().unwrap_or_default();
            let rest = if name == "active" { rest.split_once(' ').map_or("", |(_, rest)| rest) } else { rest };
            let status = rest.split_once(' ').map(|(_, status)| status.trim().to_owned());
            let newer = newest.as_ref().is_none_or(|(known, _)| known.start <= upid.start);
            if newer {
                let known = newest.take().filter(|(known, _)| *known == upid).and_then(|(_, status)| status);
                newest = Some((upid, status.filter(|status| !status.is_empty()).or(known)));
            }
        }
    }
    let Some((upid, status)) = newest else {
        return blind.map_or(Seen::Absent, Seen::Unreadable);
    };
    let log = upid.path();
    let (text, unread) = match machine.text(&log) {
        Seen::Is(text) => (text, None),
        Seen::Absent => (String::new(), None),
        Seen::Unreadable(reason) => (String::new(), Some((log.clone(), reason))),
    };
    let said = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("TASK "))
        .map(|said| said.strip_prefix("ERROR: ").unwrap_or(said).to_owned());
    let ended = match status.or(said).as_deref() {
        Some("OK") => Ended::Well,
        // "WARNINGS: 1": the VM runs
        Some(status) if status.starts_with("WARNINGS") => Ended::Well,
        Some(status) => Ended::Failed(status.to_owned()),
        None => Ended::NoEnd,
    };
    let unread = unread.into_iter().collect();
    Seen::Is((LastStart { log, at: Some(upid.start), ended, explained: Vec::new(), unread }, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tasks_name_says_where_its_log_is() {
        let upid = Upid::parse("UPID:pve:00001F2A:0003D5B1:61FBC0A7:qmstart:100:root@pam:").expect("a task");
        assert_eq!((upid.node.as_str(), upid.kind.as_str(), upid.id.as_str()), ("pve", "qmstart", "100"));
        assert_eq!(upid.start, 0x61FB_C0A7);
        assert_eq!(upid.path(), "/var/log/pve/tasks/7/UPID:pve:00001F2A:0003D5B1:61FBC0A7:qmstart:100:root@pam:");
    }

    #[test]
    fn what_is_no_tasks_name_is_none() {
        for text in ["", "UPID:", "UPID:pve:1:2:zz:qmstart:100:x:", "UPID:pve:1:2:3:qmstart:../../etc:x:", "OK"] {
            assert_eq!(Upid::parse(text), None, "{text}");
        }
    }
}
