//! The variable store of a simulated machine's UEFI guest.

use formats::efistore::{SecureBoot, store_of};
use formats::qcow2;
use serde::{Deserialize, Serialize};

/// What a store holds, and in which form it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EfiVars {
    #[serde(flatten)]
    pub says: SecureBoot,
    /// In QEMU's format, and not raw.
    pub qcow2: bool,
}

impl EfiVars {
    pub fn bytes(&self) -> Vec<u8> {
        let store = store_of(&self.says);
        if self.qcow2 { in_qcow2(&store) } else { store }
    }
}

/// Header, first and second table, and the disk's clusters one after the other. Without reference counts, which a reader
/// needs not.
fn in_qcow2(disk: &[u8]) -> Vec<u8> {
    const BITS: u32 = 12;
    const CLUSTER: u64 = 1 << BITS;
    let mut image = qcow2::MAGIC.to_vec();
    image.extend(3u32.to_be_bytes());
    image.extend([0; 12]);
    image.extend(BITS.to_be_bytes());
    image.extend((disk.len() as u64).to_be_bytes());
    image.extend(0u32.to_be_bytes());
    image.extend(1u32.to_be_bytes());
    image.extend(CLUSTER.to_be_bytes());
    image.resize(CLUSTER as usize, 0);
    image.extend((2 * CLUSTER).to_be_bytes());
    image.resize(2 * CLUSTER as usize, 0);
    for number in 0..(disk.len() as u64).div_ceil(CLUSTER) {
        image.extend(((3 + number) * CLUSTER).to_be_bytes());
    }
    image.resize(3 * CLUSTER as usize, 0);
    image.extend(disk);
    image.resize(image.len().next_multiple_of(CLUSTER as usize), 0);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_holds_the_store() {
        let raw = EfiVars { says: SecureBoot { platform_key: true, ..SecureBoot::default() }, qcow2: false };
        let image = EfiVars { qcow2: true, ..raw.clone() }.bytes();
        assert_eq!(qcow2::head(&image, 1 << 20), Ok(raw.bytes()));
    }
}
