//! Property strings: what is set is read back, and the rest stays.
#![no_main]

use formats::propstr::PropStr;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let props = PropStr::parse(text);
    assert_eq!(props.to_string(), text);
    let mut edited = props.clone();
    edited.set("pcie", "1");
    assert_eq!(PropStr::parse(&edited.to_string()).get("pcie"), Some("1"));
});
