//! A running QEMU's command line, one argument a line, with a file of -readconfig that holds the same bytes.
#![no_main]

use formats::qemuargs::QemuArgs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let line = format!("/usr/bin/kvm\n{text}").replace('\n', "\0");
    let args = QemuArgs::from_cmdline_with(line.as_bytes(), &mut |_| Some(text.to_owned())).expect("its name is kvm");
    let again = QemuArgs::from_args(&args.to_args());
    assert_eq!(again.vfio.len(), args.vfio.len());
});
