use model::PciId;
use proptest::prelude::*;

use super::*;

fn profile(name: &str, id: u32, slices: u32, count: u32, starts: &[u32], size: u32) -> Profile {
    let memory = u64::from(size) * 4864;
    Profile { name: name.into(), id, slices, count, memory, starts: starts.into(), size }
}

/// As NVIDIA's MIG user guide has them for the A100 with 40 GB.
fn a100() -> Vec<Profile> {
    let anywhere = [0, 1, 2, 3, 4, 5, 6];
    vec![
        profile("1g.5gb", 19, 1, 7, &anywhere, 1),
        profile("1g.5gb+me", 20, 1, 1, &anywhere, 1),
        profile("1g.10gb", 15, 1, 4, &[0, 2, 4, 6], 2),
        profile("2g.10gb", 14, 2, 3, &[0, 2, 4], 2),
        profile("3g.20gb", 9, 3, 2, &[0, 4], 4),
        profile("4g.20gb", 5, 4, 1, &[0], 4),
        profile("7g.40gb", 0, 7, 1, &[0], 8),
    ]
}

fn a30() -> Vec<Profile> {
    vec![
        profile("1g.6gb", 14, 1, 4, &[0, 1, 2, 3], 1),
        profile("2g.12gb", 5, 2, 2, &[0, 2], 2),
        profile("4g.24gb", 0, 4, 1, &[0], 4),
    ]
}

fn cut(text: &str, profiles: &[Profile]) -> Vec<(String, Option<u32>)> {
    let wish = Wish::read(text, profiles).unwrap_or_else(|error| panic!("{text}: {error}"));
    let layout = wish.layout(profiles).unwrap_or_else(|error| panic!("{text}: {error}"));
    layout.instances.into_iter().map(|instance| (instance.profile, instance.start)).collect()
}

#[test]
fn the_names_that_people_know_are_there() {
    let names: Vec<String> = named(&a100()).into_iter().map(|(name, _)| name).collect();
    for name in
        ["all-disabled", "all-enabled", "all-1g.5gb", "all-1g.5gb.me", "all-3g.20gb", "all-7g.40gb", "all-balanced"]
    {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
    assert_eq!(cut("all-1g.5gb", &a100()).len(), 7);
    assert_eq!(Wish::read("all-disabled", &a100()).map(|wish| wish.layout(&a100())), Ok(Ok(MigLayout::default())));
    let balanced = |profiles: &[Profile]| Wish::read("all-balanced", profiles).expect("has it").to_string();
    assert_eq!(balanced(&a100()), "1g.5gb × 2, 2g.10gb, 3g.20gb");
    assert_eq!(balanced(&a30()), "1g.6gb × 2, 2g.12gb");
}

#[test]
fn small_instances_do_not_bar_large_ones() {
    // nothing begins at slice 7: with 3g at 0, the four above it would not hold 2g and twice 1g
    let made = cut("1g.5gb,1g.5gb,2g.10gb,3g.20gb", &a100());
    assert_eq!(made.iter().find(|(name, _)| name == "3g.20gb").map(|(_, start)| *start), Some(Some(4)));
    assert_eq!(made.len(), 4);
    // 4g must begin at 0, so that 3g, though as large, must not take it
    assert_eq!(cut("3g.20gb,4g.20gb", &a100()), [("4g.20gb".into(), Some(0)), ("3g.20gb".into(), Some(4))]);
}

#[test]
fn compute_instances_divide_a_gpu_instance() {
    let wish = Wish::read("1c.3g.20gb", &a100()).expect("is one");
    let layout = wish.layout(&a100()).expect("fits");
    assert_eq!((layout.instances[0].profile.as_str(), &layout.instances[0].compute), ("3g.20gb", &vec![1, 1, 1]));
    assert!(Wish::read("4c.3g.20gb", &a100()).expect("is one").layout(&a100()).is_err());
}

#[test]
fn what_does_not_fit_says_why() {
    let why = |text: &str| {
        let wish = Wish::read(text, &a100());
        wish.and_then(|wish| wish.layout(&a100())).expect_err("does not fit").to_string()
    };
    assert!(why("1g.5gb*8").contains("7 of 1g.5gb at most"));
    assert!(why("3g.20gb*2,2g.10gb").contains("8 compute slices are asked for, and it has 7"));
    assert!(why("3g.20gb*2,1g.5gb").contains("memory slices"));
    assert!(why("5g.20gb").contains("the card has no profile 5g.20gb; it has 1g.5gb"));
    assert!(why("all-9g").contains("say one of all-disabled"));
    assert!(why("1g.5gb*x").contains("is no layout"));
    assert_eq!(Wish::read("all-1g.5gb", &[]), Err(MigError::NotMig));
}

#[test]
fn an_old_driver_that_tells_no_places_chooses_them() {
    let mut old = a100();
    old.iter_mut().for_each(|profile| profile.starts.clear());
    assert!(cut("all-balanced", &old).iter().all(|(_, start)| start.is_none()));
}

#[test]
fn a_mig_parted_file_says_it_for_each_card() {
    let text = "version: v1\nmig-configs:\n  mixed:\n    - devices: [0]\n      mig-enabled: false\n    - devices: all\n\
        \x20     device-filter: [\"0x20B010DE\"]\n      mig-enabled: true\n      mig-devices:\n        \"3g.20gb\": 2\n";
    let id = |device| PciId { vendor: 0x10de, device };
    let wishes = read_file(text, "mixed", &[id(0x2330), id(0x20b0), id(0x1d01)]).expect("is one");
    assert_eq!(wishes, [Some(Wish::off()), Some(Wish::of([("3g.20gb".into(), 2)])), None]);
    assert!(read_file(text, "other", &[]).expect_err("none").to_string().contains("it has mixed"));
    assert!(read_file(text, "mixed", &[]).expect_err("no card").to_string().contains("there is no GPU 0 here"));
}

proptest! {
    /// Whatever is placed lies within the card and nowhere twice.
    #[test]
    fn nothing_overlaps(counts in prop::collection::vec(0u32..4, 7)) {
        let profiles = a100();
        let parts = profiles.iter().zip(&counts).filter(|(_, count)| **count > 0);
        let wish = Wish::of(parts.map(|(profile, count)| (profile.name.clone(), *count)));
        let Ok(layout) = wish.layout(&profiles) else { return Ok(()) };
        let mut taken = [false; 8];
        for instance in &layout.instances {
            let start = instance.start.expect("the places are known");
            for slot in start..start + instance.size {
                prop_assert!(!std::mem::replace(&mut taken[slot as usize], true));
            }
        }
        prop_assert_eq!(layout.instances.len() as u32, counts.iter().sum::<u32>());
    }

    #[test]
    fn any_text_is_a_layout_or_refused(text in "[ -~]{0,40}") {
        let _ = Wish::read(&text, &a100()).and_then(|wish| wish.layout(&a100()));
    }
}
