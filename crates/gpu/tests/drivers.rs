//! The driver that a card needs, against public lists that know nothing of our table: `fixtures/drivers.txt`.

use std::collections::BTreeMap;

use gpu::{Arch, ModuleKind, branch, chips};
use model::PciId;

const LIST: &str = include_str!("fixtures/drivers.txt");

fn nvidia(device: u16) -> PciId {
    PciId { vendor: PciId::NVIDIA, device }
}

#[test]
fn the_table_agrees_with_public_lists() {
    let mut generations = BTreeMap::new();
    for line in LIST.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [id, chip, generation, newest, modules, sources, ..] = words[..] else { panic!("{line}") };
        let id = nvidia(u16::from_str_radix(id, 16).expect(line));
        let known = chips::of(id).unwrap_or_else(|| panic!("{line}: unknown to us"));
        assert_eq!((known.name, Some(known.arch)), (chip, Arch::named(generation)), "{line}");
        let needs = branch::advice_for(id, known.arch);
        assert_eq!(needs.newest.map_or("current".into(), |branch| branch.to_string()), newest, "{line}");
        let ours = match (needs.open, needs.proprietary) {
            (true, true) => "both",
            (true, false) => "open",
            (false, _) => "proprietary",
        };
        assert_eq!(ours, modules, "{line}");
        assert!(!sources.is_empty() && !needs.source.is_empty(), "{line}");
        *generations.entry(generation).or_insert(0) += 1;
    }
    println!("{generations:?}");
    assert_eq!(generations.len(), 9, "Kepler to Blackwell");
    assert!(generations.values().sum::<i32>() >= 60);
}

#[test]
fn single_cards_want_more_than_their_generation() {
    // the first driver that lists the RTX PRO 4500 Server Edition is of branch 595; its desktop twin runs with 570
    let of = |device| branch::advice_for(nvidia(device), Arch::Blackwell);
    assert_eq!(of(0x2c3a).judge(580, Some(ModuleKind::Open)), branch::Fit::TooOld { oldest: 595 });
    assert_eq!(of(0x2c31).judge(580, Some(ModuleKind::Open)), branch::Fit::Fits);
    let grace = branch::advice_for(nvidia(0x2342), Arch::Hopper);
    assert_eq!(grace.judge(580, Some(ModuleKind::Proprietary)), branch::Fit::NeedsOpen);
    // an id that is in no list is not guessed from its neighbours
    assert_eq!(chips::of(nvidia(0x2b86)), None);
}
