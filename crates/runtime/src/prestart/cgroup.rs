//! A container's device cgroup: the list of version 1 (Documentation/admin-guide/cgroup-v1/devices.rst), the program of
//! version 2 (linux/bpf.h, BPF_CGROUP_DEVICE).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use formats::cdispec::DeviceNode;
use oci::apply::Live;

use super::bpf::{self, Rule};
use crate::files;
use crate::say::Say;

/// Where a container's devices are ruled.
pub enum Cgroup {
    V1 { path: PathBuf, allow: File },
    V2 { path: PathBuf, folder: File },
}

/// Finds the cgroup of a process; `None` where none rules its devices, or where it is not ours to change (rootless).
pub fn of(pid: i32) -> Result<Option<Cgroup>, String> {
    if !rustix::process::geteuid().is_root() || !owns_machine() {
        // without rights over devices there is no device cgroup either: a rootless runtime makes none
        return Ok(None);
    }
    let lines = files::read(Path::new(&format!("/proc/{pid}/cgroup")))
        .map_err(|error| format!("the container's cgroup cannot be read: {error}"))?;
    let mounts = files::read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    let failed = |path: &Path, error: std::io::Error| {
        format!("the device cgroup {} cannot be opened: {error} (no-cgroups = true leaves it alone)", path.display())
    };
    if let Some(path) = place(&lines, &mounts, true) {
        let file = path.join("devices.allow");
        let allow = OpenOptions::new().write(true).open(&file).map_err(|error| failed(&file, error))?;
        return Ok(Some(Cgroup::V1 { path, allow }));
    }
    let Some(path) = place(&lines, &mounts, false) else { return Ok(None) };
    let folder = File::open(&path).map_err(|error| failed(&path, error))?;
    Ok(Some(Cgroup::V2 { path, folder }))
}

/// Whether this is the first user namespace, in which root is root.
fn owns_machine() -> bool {
    let map = files::read(Path::new("/proc/self/uid_map")).unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"]
}

/// The directory of a process's cgroup, from /proc/PID/cgroup and /proc/self/mountinfo: of version 1's devices, or of
/// version 2.
fn place(cgroup: &str, mounts: &str, v1: bool) -> Option<PathBuf> {
    let its = cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let fits = if v1 { controllers.split(',').any(|one| one == "devices") } else { controllers.is_empty() };
        fits.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1)?);
        let fits = match v1 {
            true => kind == "cgroup" && options.split(',').any(|one| one == "devices"),
            false => kind == "cgroup2",
        };
        if !fits {
            return None;
        }
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        // a mount may show a part of the hierarchy only
        let below = if root == "/" { its } else { its.strip_prefix(root)? };
        Some(Path::new(point).join(below.trim_start_matches('/')))
    })
}

impl Cgroup {
    pub fn path(&self) -> &Path {
        match self {
            Cgroup::V1 { path, .. } | Cgroup::V2 { path, .. } => path,
        }
    }

    /// Allows nodes, beside what is allowed already.
    pub fn allow(&self, nodes: &[(&DeviceNode, Live)], say: &Say) -> Result<(), String> {
        let rules: Vec<Rule> = nodes
            .iter()
            .filter(|(node, _)| !node.access().is_empty())
            .map(|(node, live)| {
                let access = node.access().to_owned();
                Rule { kind: live.kind, major: live.major, minor: live.minor, access }
            })
            .collect();
        match self {
            Cgroup::V1 { path, allow } => {
                for rule in &rules {
                    let line = format!("{} {}:{} {}", rule.kind, rule.major, rule.minor, rule.access);
                    let mut allow = allow;
                    allow.write_all(line.as_bytes()).map_err(|error| {
                        format!("{} refuses \"{line}\": {error} (no-cgroups = true leaves it alone)", path.display())
                    })?;
                }
                Ok(())
            }
            Cgroup::V2 { path, folder } => bpf::allow(folder, &rules)
                .map(|changed| say.info(&format!("{}: {changed} device programs replaced", path.display())))
                .map_err(|error| format!("the device program of {} cannot be replaced: {error}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_found_in_both_versions() {
        let hybrid = "31 23 0:27 / /sys/fs/cgroup/devices rw,nosuid shared:9 - cgroup cgroup rw,devices\n\
                      32 23 0:28 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
        let its = "5:devices:/docker/abc\n1:name=systemd:/x\n0::/x.scope\n";
        assert_eq!(place(its, hybrid, true), Some("/sys/fs/cgroup/devices/docker/abc".into()));
        assert_eq!(place(its, hybrid, false), Some("/sys/fs/cgroup/unified/x.scope".into()));
        let v2 = "32 23 0:28 /lxc /sys/fs/cgroup rw shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(place("0::/lxc/a/b\n", v2, true), None);
        assert_eq!(place("0::/lxc/a/b\n", v2, false), Some("/sys/fs/cgroup/a/b".into()));
        assert_eq!(place("", "", true), None);
    }
}
