//! What keeps a card in its container over `systemctl daemon-reload`.
//!
//! runc names devices to systemd as /dev/char/MAJOR:MINOR. The kernel makes such links for what it registers in sysfs;
//! NVIDIA's nodes are not registered there, so systemd finds no device, and takes it away when it next applies its units.

use std::borrow::Cow;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use formats::cdispec::{DeviceNode, Edits};
use oci::apply::Live;

use crate::host;
use crate::say::Say;

/// Makes the links of the nodes below /dev that have none. A link that is there is left, wherever it leads. What cannot
/// be made is not told: a container starts without it as well.
pub fn links(edits: &[Cow<'static, Edits>]) {
    for node in edits.iter().flat_map(|edits| &edits.device_nodes) {
        let path = node.host();
        let (Some(name), Some(live)) = (path.strip_prefix("/dev/"), host::node(path)) else { continue };
        let folder = if live.kind == 'c' { "/dev/char" } else { "/dev/block" };
        let link = Path::new(folder).join(format!("{}:{}", live.major, live.minor));
        if rustix::fs::lstat(&link).is_err() {
            let _ = std::fs::create_dir(folder);
            let _ = symlink(Path::new("..").join(name), &link);
        }
    }
}

/// Tells systemd of devices that a hook has added to a scope of its, until the next boot: what it does not know of, it takes
/// away when it next applies its units.
pub fn scope(cgroup: &Path, nodes: &[(&DeviceNode, Live)], say: &Say) {
    let Some(unit) = cgroup.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".scope")) else {
        return;
    };
    if rustix::fs::stat("/run/systemd/system").is_err() {
        return;
    }
    let mut command = Command::new("/usr/bin/systemctl");
    command.args(["set-property", "--runtime", "--no-ask-password", unit]).env_clear().current_dir("/");
    for (node, _) in nodes.iter().filter(|(node, _)| !node.access().is_empty()) {
        command.arg(format!("DeviceAllow={} {}", node.host(), node.access()));
    }
    let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
        say.warning(&format!(
            "systemd was not told of the devices of {unit}: a systemctl daemon-reload may take the GPU from this container \
             (--runtime nvidia has no such weakness)"
        ));
    }
}
