use proptest::prelude::*;

use super::*;

const TEXT: &str = "thruway.dev/gpu:1;id=10de:1d01;board=1043:85f4;port=0000:00:1c.1;pci=0000:26:00.0;slot=4;numa=0;\
    max=8.0x4;now=2.5x4;host=pve";

#[test]
fn a_hint_is_read_and_written_alike() {
    let hint = Hint::parse(TEXT).expect("a hint");
    assert_eq!(hint.to_string(), TEXT);
    assert_eq!(hint.max, Some(Lanes { gts_x10: 80, lanes: 4 }));
    assert_eq!(hint.place(), "pve 0000:26:00.0, slot 4, NUMA 0, x4 8.0 GT/s");
    let least = Hint::parse("thruway.dev/gpu:1;id=10de:1d01;pci=26:00.0;later=this=that").expect("a hint");
    assert_eq!((least.place().as_str(), least.slot), ("0000:26:00.0", None));
}

#[test]
fn what_is_no_hint_says_why() {
    for (text, why) in [
        ("io.systemd.credential:a=b", "does not begin"),
        ("thruway.dev/gpu:2;id=10de:1d01;pci=26:00.0", "version \"2\""),
        ("thruway.dev/gpu:1;id=10de:1d01", "where the card sits"),
        ("thruway.dev/gpu:1;pci=26:00.0", "which card"),
        ("thruway.dev/gpu:1;id=10de:1d01;pci=26:00.0;pci=27:00.0", "stands twice"),
        ("thruway.dev/gpu:1;id=10de:1d01;pci=26:00.0;slot=../x", "slot="),
        ("thruway.dev/gpu:1;id=10de:1d01;pci=26:00.0;numa=-1", "numa="),
        ("thruway.dev/gpu:1;id=10de:1d01;pci=26:00.0;max=8x4", "max="),
        ("thruway.dev/gpu:1;id=10de:1d01;pci=26:00.0;host=a b", "host="),
        ("thruway.dev/gpu:1;id=10de:1d01;pci=26:00.0;slot", "has no value"),
    ] {
        let error = Hint::parse(text).expect_err(text).to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    let long = format!("{TEXT};x={}", "y".repeat(LONGEST));
    assert!(Hint::parse(&long).expect_err("long").to_string().contains("512"));
}

#[test]
fn a_link_that_slept_makes_no_hint_old() {
    let hint = Hint::parse(TEXT).expect("a hint");
    let asleep = Hint { max: None, now: None, ..hint.clone() };
    let busy = Hint { now: Lanes::parse("8.0x4"), ..hint.clone() };
    assert!(hint.agrees(&asleep) && asleep.agrees(&hint) && hint.agrees(&busy));
    for other in [
        Hint { numa: Some(1), ..hint.clone() },
        Hint { slot: None, ..hint.clone() },
        Hint { max: Lanes::parse("16.0x4"), ..hint.clone() },
        Hint { pci: Bdf::new(0, 0x27, 0, 0), ..hint.clone() },
    ] {
        assert!(!hint.agrees(&other), "{other}");
    }
}

#[test]
fn a_line_of_arguments_keeps_its_other_words() {
    let (one, two) = ("thruway.dev/gpu:1;id=a".to_owned(), "thruway.dev/gpu:1;id=b".to_owned());
    for line in ["", "-cpu 'host, x'  -snapshot ", "-smbios type=11,value=mine", "-fw_cfg \"name=a b\""] {
        let with = with_args(line, &[one.clone(), two.clone()]);
        assert!(with.starts_with(line) && in_args(&with) == [one.clone(), two.clone()], "{with}");
        assert_eq!(with_args(&with, &[one.clone(), two.clone()]), with, "twice is once");
        let other = with_args(&with, std::slice::from_ref(&two));
        assert_eq!(in_args(&other), std::slice::from_ref(&two));
        assert_eq!(with_args(&with, &[]), line.trim_end(), "and taken out");
    }
    let first = format!("-smbios type=11,value={one} -snapshot");
    assert_eq!(with_args(&first, &[]), "-snapshot");
    let quoted = format!("-S -smbios 'type=11,value={one}' -snapshot");
    assert_eq!((in_args(&quoted), with_args(&quoted, &[])), (vec![one], "-S -snapshot".to_owned()));
}

fn hint() -> impl Strategy<Value = Hint> {
    let id = (any::<u16>(), any::<u16>()).prop_map(|(vendor, device)| PciId::new(vendor, device));
    let bdf = (0u32..0x20000, any::<u8>(), 0u8..32, 0u8..8).prop_map(|(a, b, c, d)| Bdf::new(a, b, c, d));
    let name = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?";
    let lanes = (0u32..10000, 1u32..=32).prop_map(|(gts_x10, lanes)| Lanes { gts_x10, lanes });
    let maybe = proptest::option::of::<BoxedStrategy<Bdf>>;
    (
        (id.clone(), proptest::option::of(id), maybe(bdf.clone().boxed()), bdf),
        proptest::option::of(name),
        proptest::option::of(0u32..1024),
        proptest::option::of(lanes.clone()),
        proptest::option::of(lanes),
        proptest::option::of(name),
    )
        .prop_map(|((id, board, port, pci), slot, numa, max, now, host)| Hint {
            id,
            board,
            port,
            pci,
            slot,
            numa,
            max,
            now,
            host,
        })
}

proptest! {
    #[test]
    fn every_hint_is_read_back(hint in hint()) {
        let text = hint.to_string();
        prop_assert!(text.len() < 300, "{}", text);
        prop_assert!(!text.contains([',', ' ', '\'', '"', '\\', '<', '>', '&', '$', '\n']), "{}", text);
        prop_assert_eq!(Hint::parse(&text).expect("read back"), hint);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,120}", cut in 0usize..160) {
        let _ = Hint::parse(&text);
        let _ = Hint::parse(&format!("{PREFIX}1;{text}"));
        let torn: String = TEXT.chars().take(cut).chain(text.chars()).collect();
        let _ = Hint::parse(&torn);
    }

    #[test]
    fn no_line_loses_a_word(line in "[-a-z =,'\"\\\\]{0,60}", hints in proptest::collection::vec(hint(), 0..4)) {
        let texts: Vec<String> = hints.iter().map(Hint::to_string).collect();
        let with = with_args(&line, &texts);
        prop_assert!(with.starts_with(&line));
        // an open quote takes everything behind it into one word, for Proxmox VE too
        if line.matches(['\'', '"', '\\']).count() == 0 && !line.trim_end().ends_with("-smbios") {
            prop_assert_eq!(in_args(&with), texts);
            let without = with_args(&with, &[]);
            prop_assert_eq!(without.trim_end(), line.trim_end());
        }
    }
}
