//! Captures that somebody made to harm us, or that were cut off: always an error that names the file, never a panic.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "the tests make hostile files"
)]

use std::path::Path;
use std::time::Instant;

use machine::capture::{self, CaptureError, Problem, open, read, read_bytes, write};
use machine::{Answer, Machine as _, Memory, Question};
use model::{Reason, Seen};
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;

fn sample() -> Memory {
    let mut memory = Memory::new("this machine");
    for number in 0..20 {
        memory.insert_file(
            &format!("/etc/file-{number}"),
            format!("the text of file {}\n", number % 7).repeat(9).as_bytes(),
        );
    }
    memory.insert_link("/etc/link", "../etc/file-1");
    memory.insert_gone("/etc/none", Seen::Absent);
    memory.insert_gone("/root", Seen::Unreadable(Reason::PermissionDenied));
    memory
        .insert_answer(Question::Kube(machine::KubeList::Nodes), Seen::Is(Answer::Json(json!({"items": [1, "two"]}))));
    memory.insert_answer(Question::Nvml, Seen::Absent);
    memory
}

/// A tar of these entries, packed.
fn packed(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    compress_to_vec(tar.into_inner().unwrap().as_slice(), CompressionLevel::Fastest)
}

fn manifest(entries: serde_json::Value) -> Vec<u8> {
    json!({"schema": 1, "thruway": "0", "name": "m", "kind": "live", "missing": "not_captured", "entries": entries})
        .to_string()
        .into_bytes()
}

fn refused(bytes: &[u8]) -> CaptureError {
    let error = read_bytes(bytes, Path::new("bad.tar.zst")).map(|(memory, _)| memory).unwrap_err();
    assert!(error.to_string().starts_with("bad.tar.zst: "), "{error}");
    error
}

#[test]
fn comes_back_as_it_went() {
    let memory = sample();
    let (again, meta) = read_bytes(&write(&memory), Path::new("x")).unwrap();
    assert_eq!(again, memory);
    assert_eq!(meta.when, None);
    let stamped = capture::write_with(&memory, &capture::Meta { when: Some(5), thruway: "9.9".into() });
    let (again, meta) = read_bytes(&stamped, Path::new("x")).unwrap();
    assert_eq!((again, meta.when, meta.thruway.as_str()), (memory, Some(5), "9.9"));
}

#[test]
fn an_unpacked_one_is_read_and_its_links_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let packed = write(&sample());
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed.as_slice()).unwrap();
    tar::Archive::new(decoder).unpack(dir.path()).unwrap();
    assert_eq!(open(dir.path()).unwrap(), sample());
    std::fs::remove_file(dir.path().join("blob/0")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("blob/0")).unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("blob/0") && error.contains(&dir.path().display().to_string()), "{error}");
}

#[test]
fn says_what_is_wrong_with_each() {
    let file = |extra: serde_json::Value| {
        let mut entry = json!({"path": "/a", "kind": "file", "mode": "0644", "blob": "blob/0"});
        entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        manifest(json!([entry]))
    };
    let good = file(json!({}));
    assert!(read_bytes(&packed(&[("manifest.json", &good), ("blob/0", b"x")]), Path::new("x")).is_ok());
    let deep = format!("{{\"schema\": 1, \"x\": {}", "[".repeat(100_000));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "the file is empty"),
        (b"PK\x03\x04".to_vec(), "is no capture"),
        (packed(&[("other", b"x")]), "first entry is not manifest.json"),
        (packed(&[]), "holds no manifest.json"),
        (packed(&[("manifest.json", b"{")]), "manifest.json: damaged"),
        (packed(&[("manifest.json", deep.as_bytes())]), "manifest.json: damaged"),
        (packed(&[("manifest.json", b"{\"schema\": 77}")]), "form 77"),
        (packed(&[("manifest.json", &good)]), "/a: damaged: its bytes (blob/0) are not in the capture"),
        (
            packed(&[("manifest.json", &good), ("blob/0", b"x"), ("blob/0", b"y")]),
            "blob/0: damaged: the entry stands twice",
        ),
        (packed(&[("manifest.json", &good), ("blob/0", b"x"), ("blob/1", b"y")]), "does not name this entry"),
        (packed(&[("manifest.json", &file(json!({"path": "/a/../b"}))), ("blob/0", b"x")]), ".. parts"),
        (packed(&[("manifest.json", &file(json!({"path": "a"}))), ("blob/0", b"x")]), "begin at the root"),
        (packed(&[("manifest.json", &file(json!({"path": "/a\u{0}"}))), ("blob/0", b"x")]), "NUL"),
        (
            packed(&[("manifest.json", &file(json!({"path": format!("/{}", "a/".repeat(9000))}))), ("blob/0", b"x")]),
            "too long",
        ),
        (packed(&[("manifest.json", &file(json!({"mode": "99999"}))), ("blob/0", b"x")]), "no file mode"),
        (
            packed(&[("manifest.json", &file(json!({"blob": "../../etc/passwd"}))), ("blob/0", b"x")]),
            "not in the capture",
        ),
        (
            packed(&[(
                "manifest.json",
                &manifest(json!([{"path": "/d", "kind": "dir", "mode": "0755", "names": ["../x"]}])),
            )]),
            "no file name",
        ),
        (
            packed(&[("manifest.json", &manifest(json!([{"path": "/d", "kind": "link", "mode": "0777"}])))]),
            "needs a target",
        ),
        (
            packed(&[(
                "manifest.json",
                &manifest(json!([
            {"path": "/d", "kind": "fifo", "mode": "0755"}, {"path": "/d", "kind": "fifo", "mode": "0755"}])),
            )]),
            "stands twice",
        ),
    ];
    for (bytes, wanted) in cases {
        let error = refused(&bytes).to_string();
        assert!(error.contains(wanted), "{wanted:?} is not in {error:?}");
    }
}

#[test]
fn a_link_in_the_archive_is_refused() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "manifest.json", "/etc/passwd").unwrap();
    let bytes = compress_to_vec(tar.into_inner().unwrap().as_slice(), CompressionLevel::Fastest);
    assert!(refused(&bytes).to_string().contains("no plain file"));
}

/// A header that says a size, with nothing of it following.
fn header(name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn bombs_are_refused_quickly() {
    let start = Instant::now();
    let zeros = |start: Vec<u8>, length: usize| {
        let mut bytes = start;
        bytes.resize(bytes.len() + length, 0);
        compress_to_vec(bytes.as_slice(), CompressionLevel::Fastest)
    };
    let over = |bytes: &[u8]| matches!(refused(bytes).problem, Problem::OverLimit { .. });
    assert!(over(&zeros(header("manifest.json", 1 << 40), 1 << 20)), "a manifest of a tebibyte");
    let good = manifest(json!([]));
    let mut blob = header("manifest.json", good.len() as u64);
    blob.extend_from_slice(&good);
    blob.resize(1024, 0);
    blob.extend(header("blob/0", 1 << 33));
    assert!(over(&zeros(blob, 1 << 20)), "a blob of eight gibibytes");
    // Nothing but zeros after the manifest: 64 MiB in some kilobytes, refused after the first.
    let mut tail = header("manifest.json", good.len() as u64);
    tail.extend_from_slice(&good);
    tail.resize(1024, 0);
    let bytes = zeros(tail, 64 << 20);
    assert!(bytes.len() < 1 << 20);
    assert!(refused(&bytes).to_string().contains("follows the archive's end"));
    // A window of two gibibytes, announced in the frame's header.
    let error = refused(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00]);
    assert!(error.to_string().to_lowercase().contains("window"), "{error}");
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

#[test]
fn what_is_no_file_is_named() {
    let error = read(Path::new("/dev/null")).unwrap_err().to_string();
    assert!(error.starts_with("/dev/null: is no capture"), "{error}");
    let error = open(Path::new("/nowhere/at/all")).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/at/all: "), "{error}");
}

#[test]
fn loops_of_links_are_data() {
    let mut memory = Memory::new("m");
    memory.insert_link("/a", "b");
    memory.insert_link("/b", "/a");
    memory.insert_link("/c", "c/c");
    let (again, _) = read_bytes(&write(&memory), Path::new("x")).unwrap();
    for path in ["/a", "/b", "/c", "/a/x/../y"] {
        assert_eq!(again.read(path), Seen::Unreadable(Reason::BadLink), "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cut_off_anywhere_is_an_error(at in any::<prop::sample::Index>()) {
        let whole = write(&sample());
        let cut = &whole[..at.index(whole.len())];
        let error = read_bytes(cut, Path::new("bad.tar.zst")).map(|_| ()).unwrap_err();
        prop_assert!(error.to_string().starts_with("bad.tar.zst: "));
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_changes_nothing(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = write(&sample());
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        match read_bytes(&bytes, Path::new("bad.tar.zst")) {
            Ok((memory, _)) => prop_assert_eq!(memory, sample()),
            Err(error) => prop_assert!(error.to_string().starts_with("bad.tar.zst: ")),
        }
    }

    #[test]
    fn random_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000), like in any::<bool>()) {
        let mut all = if like { vec![0x28, 0xb5, 0x2f, 0xfd] } else { Vec::new() };
        all.extend(bytes);
        let error = read_bytes(&all, Path::new("bad.tar.zst")).map(|_| ()).unwrap_err();
        prop_assert!(error.to_string().starts_with("bad.tar.zst: "));
    }

    #[test]
    fn a_random_manifest_never_panics(
        path in "(/[a-c./]{0,6}){0,3}", kind in prop::sample::select(vec!["file", "dir", "link", "fifo", "char_device", "what"]),
        mode in "[0-9]{0,5}", name in "[a-c./]{0,4}", target in "[a-c./]{0,6}", look in "/[a-c./]{0,8}",
    ) {
        let entry = json!({"path": path, "kind": kind, "mode": mode, "target": target, "names": [name]});
        let bytes = packed(&[("manifest.json", &manifest(json!([entry])))]);
        match read_bytes(&bytes, Path::new("bad.tar.zst")) {
            Err(error) => prop_assert!(error.to_string().starts_with("bad.tar.zst: ")),
            Ok((memory, _)) => {
                prop_assert!(!matches!(memory.read(&look), Seen::Is(_)), "there are no bytes in it");
                memory.list(&look);
                memory.link(&look);
                memory.stat(&look);
            }
        }
    }
}
