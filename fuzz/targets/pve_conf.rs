//! A Proxmox VE machine's file: printed as it was read, and what is set is read back, or refused without a change.
#![no_main]

use formats::pveconf::Conf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(conf) = Conf::parse(bytes) else { return };
    assert_eq!(conf.print(), bytes);
    let text = String::from_utf8_lossy(bytes);
    let value = text.lines().next().unwrap_or_default().trim();
    for key in ["hostpci0", "args", "zz"] {
        let mut edited = conf.clone();
        if !edited.set(key, value) {
            assert_eq!(edited.print(), bytes);
            continue;
        }
        let again = Conf::parse(&edited.print()).expect("what we print is read");
        assert_eq!(again.get(key).map(|entry| entry.value.to_owned()).as_deref(), Some(value));
        assert_eq!(again.snapshots(), conf.snapshots());
    }
    let (_, _, _) = (conf.pending(), conf.pending_deletes(), conf.odd());
});
