//! The log's forms: the old one stays readable, a damaged one is named, a hostile one does nothing.

use std::path::Path;

use journal::{Error, Journal, Recovered, State};
use model::Digest;

use crate::world::*;

fn sum(json: &str) -> String {
    let mut sum = Digest::of(json.as_bytes()).0;
    sum.truncate(16);
    format!("{sum} {json}\n")
}

/// A journal of one whole change, as bytes.
fn whole() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tree();
    let hands = Boot::new(dir.path());
    Journal::open(dir.path(), &hands).unwrap().apply(&plan(), &mut |_| {}).unwrap();
    let bytes = std::fs::read(log_path(dir.path())).unwrap();
    (dir, bytes)
}

#[test]
fn a_torn_tail_is_dropped_whatever_the_tear_left() {
    let (dir, bytes) = whole();
    let hands = Boot::new(dir.path());
    let header = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
    let begin = header + bytes[header..].iter().position(|b| *b == b'\n').unwrap() + 1;
    // The power went while Begin was being written: its pages reached the disk in any order, its length too.
    for (from, to) in [(header, header + 100), (header + 100, header + 300), (begin - 50, begin), (header, begin)] {
        let mut torn = bytes[..begin].to_vec();
        torn[from..to].fill(0);
        std::fs::write(log_path(dir.path()), &torn).unwrap();
        let journal = Journal::open(dir.path(), &hands).unwrap_or_else(|e| panic!("{from}..{to} zeroed: {e}"));
        assert!(journal.log().is_empty());
    }
    // Pages from the file's former life may hold whole lines' ends.
    let mut torn = bytes[..begin - 40].to_vec();
    torn.extend_from_slice(b"\n\0\0\0\nrest\n");
    std::fs::write(log_path(dir.path()), &torn).unwrap();
    assert!(Journal::open(dir.path(), &hands).unwrap().log().is_empty());
    // A hole before a valid line is no tear.
    let mut bent = bytes.clone();
    bent[header + 100..header + 200].fill(0);
    std::fs::write(log_path(dir.path()), &bent).unwrap();
    match Journal::open(dir.path(), &hands).err() {
        Some(Error::Damaged { line: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read(log_path(dir.path())).unwrap(), bent, "a damaged log is left as it is");
}

#[test]
fn a_log_that_contradicts_itself_is_damaged() {
    let (dir, bytes) = whole();
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let json = |line: &str| line.trim_end().split_once(' ').unwrap().1.to_owned();
    let begin = json(lines[1]);
    let bad_digest = json(lines[2]).replace(&Digest::of(GRUB.as_bytes()).0, "../../../etc/default/grub");
    assert_ne!(bad_digest, json(lines[2]));
    let cases = [
        ("a second change of the same number", vec![sum(&begin), sum(&begin)]),
        ("the last number there is", vec![sum(&begin.replace("\"tx\":1,", &format!("\"tx\":{},", u64::MAX)))]),
        ("a number of no change", vec![sum(&begin), sum("{\"end\":{\"tx\":2}}")]),
        ("a step that the plan lacks", vec![sum(&begin), sum("{\"done\":{\"tx\":1,\"step\":99,\"after\":null}}")]),
        ("a blob's name that is a path", vec![sum(&begin), sum(&bad_digest)]),
    ];
    let hands = Boot::new(dir.path());
    for (what, lines) in cases {
        std::fs::write(log_path(dir.path()), format!("{}{}", "thruway-journal 1\n", lines.concat())).unwrap();
        match Journal::open(dir.path(), &hands) {
            Err(Error::Damaged { line, .. }) => assert_eq!(line, lines.len() + 1, "{what}"),
            Err(other) => panic!("{what}: {other}"),
            Ok(_) => panic!("{what}: taken as valid"),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(format!("{}/.", from.display())).arg(to).status();
    assert!(done.unwrap().success());
}

#[test]
fn a_journal_of_form_1_is_read_recovered_and_undone() {
    let dir = directory();
    copy(Path::new("tests/fixtures/form1"), dir.path());
    let root = machine::Root::tree(dir.path()).unwrap();
    let log = journal::read_log(&root).unwrap();
    let states: Vec<State> = log.iter().map(|t| t.state).collect();
    assert_eq!(states, [State::Undone, State::Applied, State::Unfinished]);
    if !rustix::process::geteuid().is_root() {
        println!("SKIP undo: the recorded owner is root");
        return;
    }
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    // Its write had happened, only the word of it was missing.
    assert_eq!(journal.recover().unwrap(), [Recovered::Completed(3)]);
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/default/grub")).unwrap(), "third\n");
    journal.undo(3).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/default/grub")).unwrap(), WANTED);
    journal.undo(2).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/default/grub")).unwrap(), GRUB);
    assert!(!dir.path().join("etc/udev").exists());
    drop(journal);
    // And it goes on, in today's form, with the old changes still in it.
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    assert_eq!(journal.apply(&plan(), &mut |_| {}).unwrap().number, 4);
    assert_eq!(journal::read_log(&root).unwrap().len(), 4);
}

proptest::proptest! {
    /// Lines with right checksums and wild values: opening, recovering and undoing may refuse, never panic, and never
    /// write outside the tree.
    #[test]
    fn a_hostile_log_never_panics(
        picks in proptest::collection::vec((0usize..9, 0u64..4, 0usize..9, proptest::prelude::any::<bool>()), 0..14),
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        cut in 0usize..200,
    ) {
        let dir = tree();
        let hands = Boot::new(dir.path());
        std::fs::create_dir_all(dir.path().join("var/lib/thruway/blobs")).unwrap();
        let plan = serde_json::to_string(&plan()).unwrap();
        let digest = Digest::of(GRUB.as_bytes());
        let mut log = b"thruway-journal 1\n".to_vec();
        for (kind, tx, step, odd) in picks {
            let tx = if odd && kind == 7 { u64::MAX } else { tx };
            let digest = if odd { "../../etc/passwd" } else { digest.0.as_str() };
            let image = format!("{{\"file\":{{\"digest\":\"{digest}\",\"mode\":4294967295,\"uid\":0,\"gid\":0,\
                \"mtime\":[9223372036854775807,-1],\"xattrs\":{{\"user.\":\"%%%\",\"\":\"\"}}}}}}");
            let dirs = if odd { "[\"/..\",\"\",\"/\",\"x\"]" } else { "[\"/etc/udev\"]" };
            let json = match kind {
                0 | 1 | 7 => format!("{{\"begin\":{{\"tx\":{tx},\"at\":{},\"boot\":null,\"plan\":{plan}}}}}", i64::MIN),
                2 => format!("{{\"intent\":{{\"tx\":{tx},\"step\":{step},\"before\":{image},\"dirs\":{dirs}}}}}"),
                3 => format!("{{\"done\":{{\"tx\":{tx},\"step\":{step},\"after\":{image}}}}}"),
                4 => format!("{{\"end\":{{\"tx\":{tx}}}}}"),
                5 => format!("{{\"undo_begin\":{{\"tx\":{tx},\"at\":{}}}}}", i64::MAX),
                6 => format!("{{\"undo_step\":{{\"tx\":{tx},\"step\":{step}}}}}"),
                _ => format!("{{\"undo_end\":{{\"tx\":{tx}}}}}"),
            };
            log.extend_from_slice(sum(&json).as_bytes());
        }
        log.extend_from_slice(&noise);
        log.truncate(log.len().saturating_sub(if cut < 100 { 0 } else { cut }));
        std::fs::write(log_path(dir.path()), &log).unwrap();
        if let Ok(mut journal) = Journal::open(dir.path(), &hands) {
            let _ = journal.recover();
            let numbers: Vec<u64> = journal.log().iter().map(|t| t.number).collect();
            for number in numbers {
                let _ = journal.undo(number);
            }
            let _ = journal.apply(&crate::world::plan(), &mut |_| {});
            for transaction in journal.log() {
                let _ = journal::utc(transaction.at);
            }
        }
    }
}
