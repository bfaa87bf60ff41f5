//! A spec as a set of items, one line each.

use std::collections::BTreeSet;

/// The spec's items in the script's words.
pub fn of(made: &cdi::Generated) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let common = &made.spec.container_edits;
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    for mount in &common.mounts {
        let (path, file) = (&mount.container_path, name(&mount.container_path));
        let item = match path.as_str() {
            _ if mount.options.iter().any(|option| option == "noexec") => format!("socket {path}"),
            _ if path.starts_with("/usr/lib/i386-linux-gnu/") => format!("twin {file}"),
            _ if path.starts_with("/usr/bin/") => format!("program {file}"),
            _ if path.contains("firmware") => format!("firmware {file}"),
            _ if path.starts_with("/usr/lib/") => format!("library {file}"),
            _ => format!("data {file}"),
        };
        found.insert(item);
    }
    for args in common.hooks.iter().flat_map(|hook| hook.args.windows(2)).filter(|pair| pair[0] == "--link") {
        let (target, link) = args[1].split_once("::").expect("TARGET::LINK");
        let kind = if link.starts_with("/usr/lib/i386") { "twin" } else { "link" };
        let below = ["gbm/", "by-path/"].iter().find(|below| link.contains(&format!("/{below}")));
        found.insert(format!("{kind} {target} {}{}", below.unwrap_or(&""), name(link)));
    }
    for device in made.spec.devices.iter().filter(|device| device.name != "all") {
        for node in &device.container_edits.device_nodes {
            found.insert(match device.name.starts_with("MIG-") || device.name.contains(':') {
                true => format!("part {}", node.path),
                false => format!("node {} {}", device.name, node.path),
            });
        }
    }
    found.extend(common.device_nodes.iter().map(|node| format!("node common {}", node.path)));
    found.extend(common.env.iter().map(|env| format!("env {env}")));
    found
}
