//! A UEFI guest's variable store, whose end is filled so that changes of its first bytes are read.
#![no_main]

use formats::efistore::{SecureBoot, parse, store_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut store = store_of(&SecureBoot::default());
    let at = 72 + 28;
    store.splice(at..store.len().min(at + bytes.len()), bytes.iter().copied());
    for store in [bytes, &store] {
        if let Ok(variables) = parse(store) {
            let _ = SecureBoot::of(&variables);
        }
    }
});
