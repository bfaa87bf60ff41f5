//! A spec for another place: the same devices where the driver's root is mounted elsewhere.

use formats::cdispec::{Edits, Spec};

/// Which paths are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Host paths: of mounts and of device nodes, and the hooks' programs.
    Host,
    /// Paths in the container.
    Container,
}

/// Rewrites every path below `from` to the same below `to`. "/run/nvidia" is above /run/nvidia/driver, and not above
/// /run/nvidia-persistenced.
pub fn root(spec: &mut Spec, from: &str, to: &str, side: Side) {
    let all = spec.devices.iter_mut().map(|device| &mut device.container_edits).chain([&mut spec.container_edits]);
    for edits in all {
        of(edits, from, to, side);
    }
    spec.cdi_version = higher(&spec.cdi_version, spec.needed_version());
}

fn of(edits: &mut Edits, from: &str, to: &str, side: Side) {
    for mount in &mut edits.mounts {
        moved(if side == Side::Host { &mut mount.host_path } else { &mut mount.container_path }, from, to);
    }
    for node in &mut edits.device_nodes {
        match side {
            Side::Host => {
                // a node without a host path is at its own path on the host
                let mut host = node.host_path.clone().unwrap_or_else(|| node.path.clone());
                moved(&mut host, from, to);
                node.host_path = (host != node.path).then_some(host);
            }
            Side::Container => {
                let before = node.path.clone();
                moved(&mut node.path, from, to);
                if node.path != before && node.host_path.is_none() {
                    node.host_path = Some(before);
                }
            }
        }
    }
    if side == Side::Host {
        for hook in &mut edits.hooks {
            moved(&mut hook.path, from, to);
        }
    }
}

/// Ends at a part's end, never inside a name.
fn moved(path: &mut String, from: &str, to: &str) {
    let (from, to) = (from.trim_end_matches('/'), to.trim_end_matches('/'));
    if let Some(rest) = path.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        let new = format!("{to}{rest}");
        *path = if new.is_empty() { "/".to_owned() } else { new };
    }
}

/// What the spec said stays, unless a new field needs more.
fn higher(said: &str, needed: &str) -> String {
    let key = |version: &str| version.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    if key(needed) > key(said) { needed.to_owned() } else { said.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_moved_at_a_parts_end_only() {
        for (path, wanted) in [
            ("/run/nvidia/driver/usr/bin/nvidia-smi", "/host/usr/bin/nvidia-smi"),
            ("/run/nvidia/driver", "/host"),
            ("/run/nvidia/drivers/a", "/run/nvidia/drivers/a"),
            ("/usr/bin/x", "/usr/bin/x"),
        ] {
            let mut path = path.to_owned();
            moved(&mut path, "/run/nvidia/driver/", "/host");
            assert_eq!(path, wanted);
        }
        let mut path = "/usr/bin/x".to_owned();
        moved(&mut path, "/", "/host");
        assert_eq!(path, "/host/usr/bin/x");
    }

    #[test]
    fn a_node_that_moves_needs_a_host_path() {
        let text = br#"{"cdiVersion":"0.3.0","kind":"a.b/c","devices":[{"name":"x","containerEdits":
            {"deviceNodes":[{"path":"/dev/nvidia0"}]}}]}"#;
        let mut spec = formats::cdispec::parse(text, formats::cdispec::Form::Json).unwrap();
        root(&mut spec, "/dev", "/run/nvidia/driver/dev", Side::Host);
        let node = &spec.devices[0].container_edits.device_nodes[0];
        assert_eq!(
            (node.path.as_str(), node.host_path.as_deref()),
            ("/dev/nvidia0", Some("/run/nvidia/driver/dev/nvidia0"))
        );
        assert_eq!(spec.cdi_version, "0.5.0");
        root(&mut spec, "/run/nvidia/driver/dev", "/dev", Side::Host);
        assert_eq!(spec.devices[0].container_edits.device_nodes[0].host_path, None);
    }
}
