//! MIG layouts over the profiles that a real H100 told: `fixtures/h100-live/mig.json`.

use gpu::mig::{Profile, Wish, named, says};
use serde_json::Value;

fn profiles() -> Vec<Profile> {
    let text = include_str!("fixtures/h100-live/mig.json");
    let report: Value = serde_json::from_str(text).expect("is JSON");
    let number = |it: &Value, field: &str| u32::try_from(it[field].as_u64().expect(field)).expect(field);
    let all = report["cards"][0]["profiles"].as_array().expect("profiles");
    all.iter()
        .map(|it| Profile {
            name: it["name"].as_str().expect("a name").to_owned(),
            id: number(it, "id"),
            slices: number(it, "slices"),
            count: number(it, "count"),
            memory: u64::from(number(it, "memory")),
            starts: it["starts"].as_array().expect("starts").iter().map(|n| n.as_u64().expect("one") as u32).collect(),
            size: number(it, "size"),
        })
        .collect()
}

#[test]
fn every_named_layout_of_a_real_h100_fits_on_it() {
    let profiles = profiles();
    let all = named(&profiles);
    // as nvidia-mig-parted's own file names them for this card
    for name in
        ["all-disabled", "all-enabled", "all-1g.10gb", "all-1g.10gb.me", "all-1g.20gb", "all-2g.20gb", "all-3g.40gb"]
    {
        assert!(all.iter().any(|(known, _)| known == name), "{name}");
    }
    for (name, wish) in &all {
        let layout = wish.layout(&profiles).unwrap_or_else(|error| panic!("{name}: {error}"));
        let wanted: u32 = wish.parts.values().sum();
        assert_eq!(layout.instances.len(), wanted as usize, "{name}");
    }
    let balanced = Wish::read("all-balanced", &profiles).and_then(|wish| wish.layout(&profiles)).expect("fits");
    assert_eq!(says(&balanced), "1g.10gb × 2, 2g.20gb, 3g.40gb");
    assert!(Wish::read("7g.80gb,1g.10gb", &profiles).expect("is one").layout(&profiles).is_err());
}
