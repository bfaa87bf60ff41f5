//! What `thruway codecs --json` said on a real H100, held against what a C program got from the same library.
#![allow(clippy::disallowed_methods, reason = "reads its own fixtures")]

use std::path::Path;

use machine::codecs::DecodeCap;
use model::Seen;

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/h100-live").join(name);
    std::fs::read_to_string(path).expect("a fixture")
}

#[test]
fn the_cards_answers_are_the_librarys() {
    let report: serde_json::Value = serde_json::from_str(&fixture("codecs.json")).expect("JSON");
    let card = &report["cards"][0]["asked"]["is"];
    let caps: Seen<Vec<DecodeCap>> = serde_json::from_value(card["decodes"].clone()).expect("decoders");
    let Seen::Is(caps) = caps else { panic!("{caps:?}") };
    let chroma = |name: &str| ["400", "420", "422", "444"].iter().position(|known| *known == name).expect("a chroma");
    // The probe asked for depths of 8, 10 and 12, and printed only what is supported.
    let ours: Vec<String> = caps
        .iter()
        .map(|cap| {
            format!(
                "dec {} chroma {} bits {} r 0 n {} max {} {}",
                cap.codec.to_uppercase(),
                chroma(&cap.chroma),
                cap.depth,
                cap.engines,
                cap.max_width,
                cap.max_height
            )
        })
        .collect();
    let probe = fixture("probe.txt");
    let theirs: Vec<&str> = probe.lines().filter(|line| line.starts_with("dec ")).collect();
    assert_eq!(ours, theirs);
    assert_eq!(theirs.len(), 19);
    assert_eq!(card["encodes"], "absent", "no NVENC, though NVML says: {}", probe.lines().nth(1).unwrap_or_default());
    assert!(probe.contains("encmaxver 0 13 0"));
    assert_eq!(report["nvenc_api"]["is"], serde_json::json!([13, 0]));
}
