//! On every box: apply then undo is the identity, a second plan after apply is empty, plans are deterministic.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks at the tree from outside")]

mod common;

use common::{differ, on, snapshot, stderr, stdout};

/// What a generator makes again: equal in content after undo, not in time. And the simulator's own notes.
fn generated(name: &str) -> bool {
    name.starts_with("/.thruway-sim")
}

fn untimed(root: &std::path::Path) -> std::collections::BTreeMap<String, (u32, u32, u32, String)> {
    snapshot(root, &generated).into_iter().map(|(name, (m, u, g, _, what))| (name, (m, u, g, what))).collect()
}

/// Losses are accepted, so that as many boxes as possible are really changed.
const WISH: [&str; 6] = ["--allow", "host/console-lost", "--allow", "host/network-lost", "--allow", "host/disk-lost"];

#[test]
fn apply_then_undo_is_the_identity_on_every_box() {
    let (boxes, changed, refused) = identity(&sim::names().collect::<Vec<_>>(), &WISH);
    println!("{boxes} boxes: {changed} changed and taken back, {refused} refused");
    assert!(changed >= 6, "only {changed} of {boxes} boxes were changed at all");
}

#[test]
fn and_so_it_is_where_guests_are_told_their_cards_places() {
    let names: Vec<_> = sim::names().filter(|name| name.starts_with("vm-")).collect();
    let (boxes, changed, refused) = identity(&names, &[WISH.as_slice(), &["--hint=host"]].concat());
    println!("{boxes} boxes: {changed} changed and taken back, {refused} refused");
    assert!(changed >= 10, "only {changed} of {boxes} boxes were changed at all");
    let nothing = identity(&["vm-hint"], &[WISH.as_slice(), &["--hint=none"]].concat());
    assert_eq!(nothing, (1, 1, 0), "and so is taking it out");
}

/// How many boxes there are, how many were changed and taken back, how many refused.
fn identity(names: &[&str], wish: &[&str]) -> (usize, usize, usize) {
    let (mut boxes, mut changed, mut refused) = (0, 0, 0);
    for name in names.iter().copied() {
        boxes += 1;
        let scratch = machine::scratch::Scratch::temporary().expect("a temporary directory");
        sim::build_named(name, &scratch).expect(name);
        let root = scratch.path();
        // Where the journal itself lives is there on any real machine, and not on every small box.
        std::fs::create_dir_all(root.join("var/lib")).expect("/var/lib");
        let before = untimed(root);

        let plan = |extra: &[&str]| on(root, &[["plan"].as_slice(), wish, extra].concat());
        let first = plan(&["--json"]);
        assert_eq!(stdout(&first), stdout(&plan(&["--json"])), "{name}: the plan is not deterministic");
        let json: serde_json::Value =
            serde_json::from_str(&stdout(&first)).unwrap_or_else(|e| panic!("{name}: {e}: {}", stderr(&first)));
        let changes = json["changes"].as_array().expect("changes").len();
        let refusals = json["refusals"].as_array().expect("refusals").len();

        let applied = on(root, &[["apply", "--yes"].as_slice(), wish].concat());
        if refusals > 0 {
            refused += 1;
            assert_eq!(applied.status.code(), Some(1), "{name}: a refused plan was applied\n{}", stdout(&applied));
            assert_eq!(
                differ(&before, &untimed(root)),
                Vec::<String>::new(),
                "{name}: a refused plan changed something"
            );
            continue;
        }
        assert_eq!(applied.status.code(), Some(0), "{name}: {}\n{}", stdout(&applied), stderr(&applied));
        if changes == 0 {
            continue;
        }
        changed += 1;
        let during = differ(&before, &untimed(root));
        assert!(!during.is_empty(), "{name}: {changes} changes changed nothing");
        let again = plan(&["--json"]);
        let json: serde_json::Value = serde_json::from_str(&stdout(&again)).expect("a plan");
        assert_eq!(
            json["changes"].as_array().expect("changes").len(),
            0,
            "{name}: a second plan is not empty\n{}",
            stdout(&plan(&[]))
        );

        let undone = on(root, &["undo", "--yes"]);
        assert_eq!(undone.status.code(), Some(0), "{name}: {}\n{}", stdout(&undone), stderr(&undone));
        let mut left = differ(&before, &untimed(root));
        // a module that was loaded stays so until the next boot: the kernel's, and no file of ours
        left.retain(|path| !["/proc/devices", "/proc/modules"].contains(&path.as_str()));
        assert_eq!(left, Vec::<String>::new(), "{name}: undo left differences");
    }
    (boxes, changed, refused)
}
