//! A libvirt domain: as it was read, and with a device put in and taken out again.
#![no_main]

use formats::domxml::{Domain, NewHostDev};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(domain) = Domain::parse(bytes) else { return };
    assert_eq!(domain.text().as_bytes(), bytes);
    let Ok(source) = "0000:7e:1d.0".parse() else { return };
    if domain.hostdevs.iter().any(|one| one.source == source) {
        return;
    }
    let new = NewHostDev { source, guest: None, multifunction: false };
    let Some(text) = domain.with(None, &[new]) else { return };
    let with = Domain::parse(text.as_bytes()).expect("what we write is read");
    assert!(with.hostdevs.iter().any(|one| one.source == source));
    assert_eq!(with.without(&[source]), domain.text());
});
