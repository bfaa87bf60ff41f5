//! Running containers that have lost their card: what they were given against what their device cgroup lets them open.

use machine::{Machine, MachineExt};
use model::{Reason, Seen};
use serde_json::Value;

/// Where Docker's containerd keeps a running container's OCI configuration, old and new place of the state.
const BUNDLES: [&str; 2] = [
    "/run/containerd/io.containerd.runtime.v2.task/moby",
    "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby",
];

/// The nodes that a container was given and cannot open any more (see [`crate::GpuContainer::lost`]).
pub(super) fn lost(machine: &dyn Machine, id: &str, pid: Option<u64>) -> Seen<Vec<String>> {
    let sane = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let Some(pid) = pid.filter(|pid| sane && *pid > 0) else { return Seen::Absent };
    let Some(text) = BUNDLES.iter().find_map(|dir| machine.text(&format!("{dir}/{id}/config.json")).is()) else {
        return Seen::Absent;
    };
    let Ok(config) = serde_json::from_str::<Value>(&text) else {
        return Seen::Unreadable(Reason::Malformed(format!("config.json of {id}")));
    };
    let nodes = config.pointer("/linux/devices").and_then(Value::as_array).into_iter().flatten();
    let given: Vec<(String, u64, u64)> = nodes
        .filter_map(|node| {
            let number = |key: &str| node.get(key).and_then(Value::as_u64);
            let path = node.get("path")?.as_str()?.to_owned();
            path.starts_with("/dev/nvidia").then_some((path, number("major")?, number("minor").unwrap_or(0)))
        })
        .collect();
    if given.is_empty() {
        return Seen::Absent;
    }
    machine.text(&format!("/proc/{pid}/cgroup")).and_then(|cgroups| {
        // "4:devices:/docker/4f1e9c"
        let path = cgroups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let controllers = parts.nth(1)?;
            controllers.split(',').any(|one| one == "devices").then(|| parts.next().map(str::to_owned))?
        });
        let Some(path) = path else { return Seen::Absent };
        machine.text(&format!("/sys/fs/cgroup/devices{path}/devices.list")).map(|list| {
            let open = |major: u64, minor: u64| list.lines().any(|rule| allows(rule, major, minor));
            let shut = given.iter().filter(|(_, major, minor)| !open(*major, *minor));
            shut.map(|(path, major, minor)| format!("{path} ({major}:{minor})")).collect()
        })
    })
}

/// One rule of devices.list, "c 195:* rwm" or "a *:* rwm" (kernel documentation, cgroup-v1/devices).
fn allows(rule: &str, major: u64, minor: u64) -> bool {
    let mut words = rule.split_whitespace();
    let (Some(kind), Some(numbers), Some(access)) = (words.next(), words.next(), words.next()) else { return false };
    let Some((one, two)) = numbers.split_once(':') else { return false };
    let is = |word: &str, number: u64| word == "*" || word.parse() == Ok(number);
    matches!(kind, "a" | "c") && is(one, major) && is(two, minor) && access.contains('r') && access.contains('w')
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn rules_of_the_device_cgroup() {
        assert!(allows("a *:* rwm", 195, 0) && allows("c 195:* rw", 195, 255) && allows("c 195:0 rwm", 195, 0));
        assert!(!allows("c 195:0 m", 195, 0) && !allows("b 195:0 rwm", 195, 0) && !allows("c 1:3 rwm", 195, 0));
        assert!(!allows("", 195, 0) && !allows("c 195 rwm", 195, 0));
    }
}
