//! What a vGPU's guest is told of its host: a record in the PCI function's vendor-specific capability.
//!
//! Source: PCI Local Bus Specification, capability 09h (its third byte is its length); NVIDIA's gpu-feature-discovery for the
//! records: the letters "VF" after the length, then records of number and length, of which number 0 holds the host's driver
//! version and its branch, ten bytes each. Whoever is not root sees 64 bytes of the space, and no capability.

use machine::Machine;
use model::Bdf;

use super::Vgpu;

const STATUS: usize = 0x06;
const HAS_CAPABILITIES: u8 = 0x10;
const FIRST: usize = 0x34;
const VENDOR_SPECIFIC: u8 = 0x09;
/// Of the version and of the branch.
const TEXT: usize = 10;

pub(super) fn observe(machine: &dyn Machine, bdf: Bdf) -> Option<Vgpu> {
    let space = machine.read(&format!("/sys/bus/pci/devices/{bdf}/config")).is()?;
    record(capability(&space)?)
}

/// The bytes of the vendor-specific capability that has NVIDIA's letters.
fn capability(space: &[u8]) -> Option<&[u8]> {
    if space.get(STATUS)? & HAS_CAPABILITIES == 0 {
        return None;
    }
    let mut at = usize::from(space.get(FIRST)? & !3);
    // each capability has four bytes at least, so that a longer chain goes in a circle
    for _ in 0..64 {
        let (id, next) = (*space.get(at)?, *space.get(at + 1)?);
        if at == 0 || id == 0xff {
            return None;
        }
        if id == VENDOR_SPECIFIC {
            let length = usize::from(*space.get(at + 2)?);
            let found = space.get(at..at + length)?;
            if found.get(3..5) == Some(b"VF") {
                return Some(found);
            }
        }
        at = usize::from(next & !3);
    }
    None
}

fn record(capability: &[u8]) -> Option<Vgpu> {
    let mut at = 5;
    loop {
        let (number, length) = (*capability.get(at)?, usize::from(*capability.get(at + 1)?));
        if number == 0 {
            break;
        }
        // a record's length counts its two first bytes
        at += length.max(2);
    }
    let text = |from: usize| {
        let bytes = capability.get(from..from + TEXT)?;
        let text = std::str::from_utf8(bytes).ok()?.trim_matches('\0').trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    Some(Vgpu { driver: text(at + 2)?, branch: text(at + 2 + TEXT)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(records: &[u8]) -> Vec<u8> {
        let mut space = vec![0; 256];
        space[STATUS] = HAS_CAPABILITIES;
        space[FIRST] = 0x60;
        // power management, then MSI, then ours
        space[0x60..0x62].copy_from_slice(&[0x01, 0x68]);
        space[0x68..0x6a].copy_from_slice(&[0x05, 0x80]);
        let length = 5 + records.len() as u8;
        space[0x80..0x85].copy_from_slice(&[VENDOR_SPECIFIC, 0, length, b'V', b'F']);
        space[0x85..0x85 + records.len()].copy_from_slice(records);
        space
    }

    #[test]
    fn the_hosts_driver_is_found_behind_other_records() {
        let mut records = vec![3, 4, 0xaa, 0xbb, 0, 22];
        records.extend(b"550.54.15\0r550_40\0\0\0");
        let found = capability(&space(&records)).and_then(record);
        assert_eq!(found, Some(Vgpu { driver: "550.54.15".into(), branch: "r550_40".into() }));
        for end in 0..space(&records).len() {
            let _ = capability(&space(&records)[..end]).and_then(record);
        }
    }

    #[test]
    fn what_is_no_vgpu_is_none() {
        let mut other = space(&[0, 22]);
        other[0x83] = b'X';
        assert_eq!(capability(&other), None);
        assert_eq!(capability(&space(&[0, 22])).and_then(record), None, "cut short");
        let mut circle = space(&[]);
        circle[0x81] = 0x60;
        circle[0x80] = 0x05;
        assert_eq!(capability(&circle), None);
        assert_eq!(capability(&[0; 64]), None);
        assert_eq!(capability(&[]), None);
        let mut endless = vec![3, 0];
        endless.extend([3; 40]);
        assert_eq!(capability(&space(&endless)).and_then(record), None);
    }
}
