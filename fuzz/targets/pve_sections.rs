//! Mappings, storages, jobs: printed as read; an added property is read back, and taken out again leaves the bytes.
#![no_main]

use formats::pvesections::SectionFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut file) = SectionFile::parse(bytes) else { return };
    assert_eq!(file.print().as_bytes(), bytes);
    let Some(first) = file.sections().into_iter().next() else { return };
    if let Some(line) = file.add(&first.id, "map", "node=pve,path=0000:01:00") {
        let added = file.sections().into_iter().any(|section| section.props.iter().any(|(key, _, at)| key == "map" && *at == line));
        assert!(added);
        assert!(file.remove_line(line));
    }
});
