//! What keeps a card in its container over `systemctl daemon-reload`.
//!
//! runc names devices to systemd as /dev/char/MAJOR:MINOR. The kernel makes such links for what it registers in sysfs;
//! NVIDIA's nodes are not registered there, so systemd finds no device, and takes it away when it next applies its units.

use std::os::unix::fs::symlink;
use std::path::Path;

use formats::cdispec::Edits;

use crate::host;

/// Makes the links of the nodes below /dev that have none. A link that is there is left, wherever it leads. What cannot
/// be made is not told: a container starts without it as well.
pub fn links(edits: &[Edits]) {
    for node in edits.iter().flat_map(|edits| &edits.device_nodes) {
        let path = oci::apply::host_path(node);
        let (Some(name), Some(live)) = (path.strip_prefix("/dev/"), host::node(path)) else { continue };
        let folder = if live.kind == 'c' { "/dev/char" } else { "/dev/block" };
        let link = Path::new(folder).join(format!("{}:{}", live.major, live.minor));
        if rustix::fs::lstat(&link).is_err() {
            let _ = std::fs::create_dir(folder);
            let _ = symlink(Path::new("..").join(name), &link);
        }
    }
}
