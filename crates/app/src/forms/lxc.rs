//! A Proxmox VE container's configuration: the card's device nodes, allowed in its cgroup and mounted into it.
//!
//! Source: pct.conf(5), lxc.container.conf(5) (lxc.cgroup2.devices.allow, lxc.mount.entry).

use machine::{Machine, MachineExt};
use model::Bdf;
use serde::Serialize;

use super::Edited;

/// A device node of this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Device {
    /// "/dev/nvidia0".
    pub path: String,
    pub major: u32,
}

/// The nodes of the driver that are here: of this card, or of all.
pub fn devices(machine: &dyn Machine, card: Option<Bdf>) -> Vec<Device> {
    let table = machine.text("/proc/devices").is().unwrap_or_default();
    let major = |names: &[&str]| {
        let lines = table.lines().filter_map(|line| line.trim().split_once(' '));
        lines.filter(|(_, name)| names.contains(&name.trim())).find_map(|(number, _)| number.parse::<u32>().ok())
    };
    // NVIDIA's own number for its cards stands in linux/major.h's list; uvm's is given at load time
    let frontend = major(&["nvidia", "nvidia-frontend"]).unwrap_or(195);
    let minor = card.and_then(|bdf| {
        let text = machine.text(&format!("/proc/driver/nvidia/gpus/{bdf}/information")).is()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Device Minor:"))?;
        line.trim().parse::<u32>().ok()
    });
    let of = |name: &str| {
        let rest = name.strip_prefix("nvidia")?;
        let major = match rest {
            "ctl" | "-modeset" => frontend,
            "-uvm" | "-uvm-tools" => major(&["nvidia-uvm"])?,
            _ => {
                let number: u32 = rest.parse().ok()?;
                (minor.is_none() || minor == Some(number)).then_some(frontend)?
            }
        };
        Some(Device { path: format!("/dev/{name}"), major })
    };
    let mut all: Vec<Device> = machine.names("/dev").iter().filter_map(|name| of(name)).collect();
    all.sort();
    all
}

/// The lines that are to be there.
pub fn lines(devices: &[Device]) -> Vec<String> {
    let mut majors: Vec<u32> = devices.iter().map(|device| device.major).collect();
    majors.sort_unstable();
    majors.dedup();
    let allow = majors.iter().map(|major| format!("lxc.cgroup2.devices.allow: c {major}:* rwm"));
    let entry = |device: &Device| {
        let path = &device.path;
        format!("lxc.mount.entry: {path} {} none bind,optional,create=file", path.trim_start_matches('/'))
    };
    allow.chain(devices.iter().map(entry)).collect()
}

/// Puts the lines that are missing at the end of the container's own section: snapshots follow in sections of their own.
pub fn edit(text: &str, devices: &[Device]) -> Edited {
    let feed = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut own = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with('[') {
            break;
        }
        own += line.len();
    }
    let (head, tail) = text.split_at(own);
    let plain = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let there: Vec<String> = head.lines().filter(|line| !line.trim_start().starts_with('#')).map(plain).collect();
    // what allows a device or mounts it in other words counts, too: dev0: of Proxmox VE 8.2, a wider rule
    let met = |line: &String| {
        let allow = line.strip_prefix("lxc.cgroup2.devices.allow: c ").and_then(|rest| rest.split(':').next());
        let path = line.strip_prefix("lxc.mount.entry: ").and_then(|rest| rest.split(' ').next());
        there.iter().any(|have| {
            let passed = |path: &str| {
                let value = have.split_once(": ").filter(|(key, _)| {
                    key.strip_prefix("dev")
                        .is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
                });
                value.is_some_and(|(_, value)| value.trim_start_matches("path=").split(',').next() == Some(path))
            };
            have == line
                || allow.is_some_and(|major| {
                    have == "lxc.cgroup2.devices.allow: a"
                        || have.starts_with(&format!("lxc.cgroup2.devices.allow: c {major}:* rw"))
                })
                || path.is_some_and(|path| have.starts_with(&format!("lxc.mount.entry: {path} ")) || passed(path))
        })
    };
    let missing: Vec<String> = lines(devices).into_iter().filter(|line| !met(line)).collect();
    if missing.is_empty() {
        return Edited { text: text.to_owned(), words: Vec::new() };
    }
    let body = head.trim_end_matches(['\r', '\n']);
    let blank = head.get(body.len()..).unwrap_or_default();
    let mut new = body.to_owned();
    for line in &missing {
        if !new.is_empty() {
            new.push_str(feed);
        }
        new.push_str(line);
    }
    new.push_str(if blank.is_empty() { feed } else { blank });
    new.push_str(tail);
    Edited { text: new, words: missing }
}
