//! Where a VM's UEFI variables are kept, and what they say.

use formats::efistore::{self, SecureBoot};
use formats::pvesections::Section;
use formats::qcow2;
use machine::Machine;
use model::{Reason, Seen};

use crate::{Storage, Vars};

/// A variable store is smaller (OVMF's: 528 KiB).
const MOST: usize = 4 << 20;

/// Where a storage's disks are. Source: pve-storage, each plugin's `path` and `filesystem_path`.
pub(super) fn dir(storage: &Section) -> Option<String> {
    let word = |key: &str| storage.get(key).map(str::trim).filter(|word| word.starts_with('/') || !word.contains(".."));
    match storage.kind.as_str() {
        "dir" | "btrfs" => Some(format!("{}/images", word("path")?.trim_end_matches('/'))),
        "nfs" | "cifs" | "cephfs" | "glusterfs" => {
            let path = word("path").map_or_else(|| format!("/mnt/pve/{}", storage.id), str::to_owned);
            Some(format!("{}/images", path.trim_end_matches('/')))
        }
        "lvm" | "lvmthin" => Some(format!("/dev/{}", word("vgname")?)),
        "zfspool" => Some(format!("/dev/zvol/{}", word("pool")?)),
        _ => None,
    }
}

/// The file or device of "local-lvm:vm-100-disk-1", "local:100/vm-100-disk-0.qcow2"; of a linked clone's
/// "local:99/base-99-disk-0.qcow2/100/vm-100-disk-0.qcow2" what belongs to the clone. Source: pve-storage, parse_volname.
fn path(storages: &[Storage], volume: &str) -> Result<String, String> {
    let bad = || format!("\"{volume}\" names no volume of a storage");
    let (id, name) = volume.split_once(':').ok_or_else(bad)?;
    let parts: Vec<&str> = name.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return Err(bad());
    }
    let storage = storages.iter().find(|one| one.id == id);
    let storage = storage.ok_or_else(|| format!("its storage {id} is not in /etc/pve/storage.cfg"))?;
    let dir = storage.dir.as_ref().ok_or_else(|| format!("its storage {id} ({}) keeps no files here", storage.kind))?;
    let own = if storage.is_files() { 2 } else { 1 };
    let own = parts.get(parts.len().saturating_sub(own)..).unwrap_or_default().join("/");
    Ok(match own.strip_suffix(".raw") {
        // a raw disk of btrfs is a file in a subvolume of its own
        Some(stem) if storage.kind == "btrfs" => format!("{dir}/{stem}/disk.raw"),
        _ => format!("{dir}/{own}"),
    })
}

/// The store on an EFI disk of Proxmox VE's.
pub(super) fn of_disk(machine: &dyn Machine, storages: &[Storage], volume: &str) -> Vars {
    let path = match path(storages, volume) {
        Ok(path) => path,
        Err(why) => return Vars { path: volume.to_owned(), says: Seen::Unreadable(Reason::Other(why)) },
    };
    let mut vars = read(machine, path);
    if vars.says == Seen::Absent {
        // LVM's plugin takes the device of a stopped VM's volume away; the volume itself stays.
        let lv = vars.path.strip_prefix("/dev/").filter(|lv| !lv.starts_with("zvol/"));
        let how = lv.map(|lv| format!("; an inactive volume is there after `lvchange -ay {lv}`")).unwrap_or_default();
        vars.says = Seen::Unreadable(Reason::Other(format!("is not there{how}")));
    }
    vars
}

/// Reads a store, raw or in a qcow2 image.
pub(super) fn read(machine: &dyn Machine, path: String) -> Vars {
    let malformed = |bad: &dyn std::fmt::Display| Seen::Unreadable(Reason::Malformed(format!("{path}: {bad}")));
    let says = machine.image(&path).and_then(|bytes| {
        let disk = if bytes.starts_with(&qcow2::MAGIC) { qcow2::head(&bytes, MOST) } else { Ok(bytes) };
        match disk.map(|disk| efistore::parse(&disk)) {
            Ok(Ok(variables)) => Seen::Is(SecureBoot::of(&variables)),
            Ok(Err(bad)) => malformed(&bad),
            Err(bad) => malformed(&bad),
        }
    });
    Vars { path, says }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_file_or_a_device() {
        let storage = |id: &str, kind: &str, dir: Option<&str>| Storage {
            id: id.into(),
            kind: kind.into(),
            images: true,
            dir: dir.map(str::to_owned),
        };
        let storages = [
            storage("local", "dir", Some("/var/lib/vz/images")),
            storage("fast", "btrfs", Some("/fast/images")),
            storage("lvm", "lvmthin", Some("/dev/pve")),
            storage("tank", "zfspool", Some("/dev/zvol/tank/vms")),
            storage("ceph", "rbd", None),
        ];
        for (volume, wanted) in [
            ("local:100/vm-100-disk-0.qcow2", Ok("/var/lib/vz/images/100/vm-100-disk-0.qcow2")),
            ("local:99/base-99-disk-0.qcow2/100/vm-100-disk-0.qcow2", Ok("/var/lib/vz/images/100/vm-100-disk-0.qcow2")),
            ("fast:100/vm-100-disk-0.raw", Ok("/fast/images/100/vm-100-disk-0/disk.raw")),
            ("lvm:vm-100-disk-1", Ok("/dev/pve/vm-100-disk-1")),
            ("lvm:base-99-disk-0/vm-100-disk-1", Ok("/dev/pve/vm-100-disk-1")),
            ("tank:vm-100-disk-1", Ok("/dev/zvol/tank/vms/vm-100-disk-1")),
            ("ceph:vm-100-disk-1", Err("rbd")),
            ("gone:vm-100-disk-1", Err("storage.cfg")),
            ("local:../../etc/passwd", Err("no volume")),
            ("none", Err("no volume")),
        ] {
            match (path(&storages, volume), wanted) {
                (Ok(path), Ok(wanted)) => assert_eq!(path, wanted, "{volume}"),
                (Err(why), Err(word)) => assert!(why.contains(word), "{volume}: {why}"),
                (path, wanted) => panic!("{volume}: {path:?}, {wanted:?}"),
            }
        }
    }
}
