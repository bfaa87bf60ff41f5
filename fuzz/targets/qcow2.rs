//! QEMU's disk images: never more than asked for.
#![no_main]

use formats::qcow2;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut image = qcow2::MAGIC.to_vec();
    image.extend(bytes);
    for image in [bytes, &image] {
        if let Ok(head) = qcow2::head(image, 1 << 16) {
            assert!(head.len() <= 1 << 16);
        }
    }
});
