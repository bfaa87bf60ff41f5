//! The EFI disks that Proxmox VE's definitions name, as devices of the simulated host: a definition that was written as a
//! file has no `qm` behind it that allocates.

use formats::efistore::{SecureBoot, store_of};

use super::PhysicsError;
use crate::tree::Tree;

/// Makes those that are missing, with keys where the definition asks for them. Storages of LVM alone.
pub(super) fn appear(tree: &Tree) -> Result<(), PhysicsError> {
    let storages = formats::pvesections::sections(&tree.text("/etc/pve/storage.cfg"));
    let node = tree.value("/etc/hostname").unwrap_or_default();
    for (_, conf) in tree.texts(&format!("/etc/pve/nodes/{node}/qemu-server"), ".conf") {
        let Some(disk) = conf.lines().find_map(|line| line.strip_prefix("efidisk0: ")) else { continue };
        let Some((id, name)) = disk.split(',').next().and_then(|volume| volume.split_once(':')) else { continue };
        let group = storages.iter().filter(|one| one.id == id && one.kind.starts_with("lvm"));
        let Some(group) = group.filter_map(|one| one.get("vgname")).next() else { continue };
        let path = format!("/dev/{group}/{name}");
        if !tree.has(&path) {
            let keys = disk.contains("pre-enrolled-keys=1");
            let db = if keys { vec!["Microsoft Corporation UEFI CA 2011".to_owned()] } else { Vec::new() };
            tree.write(&path, store_of(&SecureBoot { platform_key: keys, db, ..SecureBoot::default() }))?;
        }
    }
    Ok(())
}
