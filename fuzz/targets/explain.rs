//! A log of anybody's.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lines = text.lines().count().max(1);
    for found in decode::explain(text).expect("our own table") {
        assert!((1..=lines).contains(&found.line));
    }
});
