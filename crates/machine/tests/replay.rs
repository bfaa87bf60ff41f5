//! What was recorded answers as the machine did: random trees, looked at through the recorder, then from memory, then
//! from a written capture.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "the tests make hostile trees"
)]

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use machine::{Machine, MachineExt as _, Recorder, Root, capture};
use model::{Reason, Seen};
use proptest::prelude::*;

/// One thing to make at a path of the little world below.
#[derive(Clone, Debug)]
enum Make {
    Dir,
    File(Vec<u8>, u32),
    Link(String),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d"]), 1..4).prop_map(|parts| parts.join("/"))
}

fn asked() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "d", "..", ".", "nope", ""]);
    prop::collection::vec(part, 0..6).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn target() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "d", "..", "."]);
    (any::<bool>(), prop::collection::vec(part, 1..5))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn make() -> impl Strategy<Value = Make> {
    prop_oneof![
        2 => Just(Make::Dir),
        3 => (prop::collection::vec(any::<u8>(), 0..20), prop::sample::select(vec![0o644, 0o600, 0o000]))
            .prop_map(|(bytes, mode)| Make::File(bytes, mode)),
        3 => target().prop_map(Make::Link),
    ]
}

fn build(root: &Path, world: &[(String, Make)]) {
    for (path, make) in world {
        let full = root.join(path);
        // A link may already stand in the way, and lead out of the tree: never build through one.
        let mut here = root.to_owned();
        let through = Path::new(path).parent().into_iter().flat_map(Path::components).any(|part| {
            here.push(part);
            here.is_symlink() || here.is_file()
        });
        if through || full.symlink_metadata().is_ok() {
            continue;
        }
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        match make {
            Make::Dir => std::fs::create_dir_all(&full).unwrap(),
            Make::File(bytes, mode) => {
                std::fs::write(&full, bytes).unwrap();
                std::fs::set_permissions(&full, std::fs::Permissions::from_mode(*mode)).unwrap();
            }
            Make::Link(target) => std::os::unix::fs::symlink(target, &full).unwrap(),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Look {
    read: Seen<Vec<u8>>,
    list: Seen<Vec<String>>,
    stat: Seen<machine::Stat>,
    lstat: Seen<machine::Stat>,
    link: Seen<String>,
    resolve: Seen<String>,
}

fn look(machine: &dyn Machine, path: &str) -> Look {
    Look {
        read: machine.read(path),
        list: machine.list(path),
        stat: machine.stat(path),
        lstat: machine.lstat(path),
        link: machine.link(path),
        resolve: machine.resolve(path),
    }
}

/// One of the six looks alone, so that a replay does not lean on what another look recorded.
fn one(machine: &dyn Machine, path: &str, which: u8) -> String {
    match which % 6 {
        0 => format!("{:?}", machine.read(path)),
        1 => format!("{:?}", machine.list(path)),
        2 => format!("{:?}", machine.stat(path)),
        3 => format!("{:?}", machine.lstat(path)),
        4 => format!("{:?}", machine.link(path)),
        _ => format!("{:?}", machine.resolve(path)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_replay_answers_as_the_machine_did(
        world in prop::collection::vec((path(), make()), 0..12),
        questions in prop::collection::vec((asked(), any::<u8>()), 1..10),
    ) {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path(), &world);
        let root = Root::tree(dir.path()).unwrap();
        let recorder = Recorder::new(&root);
        let live: Vec<String> = questions.iter().map(|(path, which)| one(&recorder, path, *which)).collect();
        let memory = recorder.finish();
        for ((path, which), live) in questions.iter().zip(&live) {
            prop_assert_eq!(live, &one(&memory, path, *which), "{} look {}", path, which % 6);
            prop_assert_eq!(live, &one(&root, path, *which), "the recorder altered the answer for {}", path);
        }
        let (again, _) = capture::read_bytes(&capture::write(&memory), Path::new("x")).unwrap();
        prop_assert_eq!(&memory, &again);
        prop_assert_eq!(capture::write(&memory), capture::write(&again));
    }

    #[test]
    fn every_look_at_every_path_replays(
        world in prop::collection::vec((path(), make()), 0..12),
        questions in prop::collection::vec(asked(), 1..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path(), &world);
        let root = Root::tree(dir.path()).unwrap();
        let recorder = Recorder::new(&root);
        let live: Vec<Look> = questions.iter().map(|path| look(&recorder, path)).collect();
        let memory = recorder.finish();
        for (path, live) in questions.iter().zip(&live) {
            prop_assert_eq!(live, &look(&memory, path), "{}", path);
        }
    }
}

#[test]
fn never_asked_is_not_absent() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("etc/kept")).unwrap();
    std::fs::write(dir.path().join("etc/kept/file"), "x").unwrap();
    std::fs::write(dir.path().join("etc/other"), "x").unwrap();
    let root = Root::tree(dir.path()).unwrap();
    let recorder = Recorder::new(&root);
    recorder.list("/etc/kept");
    recorder.read("/etc/gone");
    let memory = recorder.finish();
    assert_eq!(memory.read("/etc/kept/missing"), Seen::Absent, "its directory was listed");
    assert_eq!(memory.read("/etc/gone"), Seen::Absent);
    assert_eq!(memory.read("/etc/gone/below"), Seen::Absent);
    assert_eq!(memory.read("/etc/other"), Seen::Unreadable(Reason::NotCaptured));
    assert_eq!(memory.list("/etc"), Seen::Unreadable(Reason::NotCaptured), "a part of a list is no list");
    assert_eq!(memory.read("/etc/kept/file"), Seen::Unreadable(Reason::NotCaptured), "listed, not read");
}

#[test]
fn hostile_trees_stay_inside_and_do_not_hang() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "outside").unwrap();
    let at = |name: &str| dir.path().join(name);
    std::os::unix::fs::symlink(outside.path().join("secret"), at("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../../etc/passwd", at("up")).unwrap();
    std::os::unix::fs::symlink("loop-b", at("loop-a")).unwrap();
    std::os::unix::fs::symlink("loop-a", at("loop-b")).unwrap();
    std::os::unix::fs::symlink("self/self", at("self")).unwrap();
    std::fs::write(at("new\nline"), "n").unwrap();
    std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"bad-\xff\xfe")), "b").unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    assert!(fifo.success());
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let huge = std::fs::File::create(at("huge")).unwrap();
    huge.set_len(1 << 30).unwrap();

    let root = Root::tree(dir.path()).unwrap();
    let recorder = Recorder::new(&root);
    let start = std::time::Instant::now();
    let names = recorder.list("/").is().unwrap();
    let live: Vec<Look> = names.iter().map(|name| look(&recorder, &format!("/{name}"))).collect();
    assert!(start.elapsed().as_secs() < 5, "a pipe or a huge file held us up: {:?}", start.elapsed());
    assert_eq!(recorder.read("/absolute"), Seen::Absent, "an absolute link is taken inside the root");
    assert_eq!(recorder.read("/up"), Seen::Absent, "the root has nothing above it");
    assert_eq!(recorder.read("/loop-a"), Seen::Unreadable(Reason::BadLink));
    assert_eq!(recorder.read("/self"), Seen::Unreadable(Reason::BadLink));
    assert_eq!(recorder.read("/huge"), Seen::Unreadable(Reason::TooLarge));
    assert_eq!(recorder.read("/new\nline"), Seen::Is(b"n".to_vec()));
    for special in ["/pipe", "/socket"] {
        assert_eq!(recorder.read(special), Seen::Unreadable(Reason::Other("is no regular file".into())), "{special}");
    }
    let memory = recorder.finish();
    let (again, _) = capture::read_bytes(&capture::write(&memory), Path::new("x")).unwrap();
    for (name, live) in names.iter().zip(&live) {
        assert_eq!(live, &look(&again, &format!("/{name}")), "{name:?}");
    }
}

/// Set in a child that runs as nobody: the tree to look at.
const AS_NOBODY: &str = "THRUWAY_TEST_TREE";

#[test]
fn permission_denied_is_recorded_as_such() {
    if let Some(tree) = std::env::var_os(AS_NOBODY) {
        let root = Root::tree(Path::new(&tree)).unwrap();
        let recorder = Recorder::new(&root);
        let paths = [
            "/closed",
            "/closed/file",
            "/closed/deep/file",
            "/secret",
            "/listable",
            "/listable/file",
            "/pass",
            "/pass/file",
        ];
        let live: Vec<Look> = paths.iter().map(|path| look(&recorder, path)).collect();
        assert_eq!(recorder.read("/secret"), Seen::Unreadable(Reason::PermissionDenied));
        assert_eq!(recorder.read("/closed/file"), Seen::Unreadable(Reason::PermissionDenied));
        assert_eq!(recorder.list("/closed"), Seen::Unreadable(Reason::PermissionDenied));
        assert_eq!(recorder.read("/pass/file"), Seen::Is(b"x".to_vec()));
        let memory = recorder.finish();
        for (path, live) in paths.iter().zip(&live) {
            assert_eq!(live, &look(&memory, path), "{path}");
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let set = |name: &str, mode| {
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["closed/deep", "listable", "pass"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    for name in ["closed/file", "listable/file", "pass/file", "secret"] {
        std::fs::write(dir.path().join(name), "x").unwrap();
    }
    for (name, mode) in [("closed", 0o700), ("secret", 0o600), ("listable", 0o744), ("pass", 0o711), (".", 0o755)] {
        set(name, mode);
    }
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir.path()).unwrap());
    if owner != 0 {
        eprintln!("SKIP: only root can become somebody else, and this test runs as {owner}");
        return;
    }
    // The test binary lies in a directory that nobody may not enter: a copy beside the tree does.
    let program = dir.path().join("test-program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    set("test-program", 0o755);
    let run = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["--exact", "permission_denied_is_recorded_as_such"])
        .env(AS_NOBODY, dir.path())
        .output();
    match run {
        Err(error) => eprintln!("SKIP: setpriv cannot be run: {error}"),
        Ok(run) => assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout)),
    }
}

#[test]
fn this_machine_is_recorded_quickly_and_read_back() {
    let root = Root::live().unwrap();
    let recorder = Recorder::new(&root);
    let start = std::time::Instant::now();
    capture::extra(&recorder);
    let taken = start.elapsed();
    assert!(taken.as_secs() < 60, "the closed questions have their own limits, the files 3 s: {taken:?}");
    let memory = recorder.finish();
    assert!(memory.read("/proc/cmdline").is_there());
    let touched = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or_default();
        let device = path.starts_with("/sys/bus/pci/") || path.starts_with("/sys/devices/pci");
        device && (matches!(file, "config" | "rom" | "vpd") || file.starts_with("resource") && file != "resource")
    };
    let reads = memory.nodes().filter(|(_, node)| matches!(&node.kind, machine::NodeKind::File(Seen::Is(_))));
    let woken: Vec<&str> = reads.map(|(path, _)| path).filter(|path| touched(path)).collect();
    assert_eq!(woken, Vec::<&str>::new(), "these reads reach the device");
    let done = machine::redact::redact(&memory);
    let (again, _) = capture::read_bytes(&capture::write(&done), Path::new("x")).unwrap();
    assert_eq!(again, done);
    assert_eq!(again.read("/proc/devices"), root.read("/proc/devices"), "nothing in it is a secret");
}

/// SMBIOS's table holds serial numbers and what others pass by it, systemd's credentials among that: of all that only the
/// hints are kept, redacted or not, and the host's name in one is a name.
#[test]
fn of_smbios_only_hints_are_kept() {
    let hint = "thruway.dev/gpu:1;id=10de:1d01;pci=0000:26:00.0;slot=4;host=attic";
    let mut table = b"\x01\x06\0\0\x01\x02Maker\0SERIAL-12345\0\0".to_vec();
    let strings = ["io.systemd.credential:key=hunter2".to_owned(), hint.to_owned()];
    table.extend(formats::smbios::table_of(&strings));
    let mut inner = machine::Memory::new("x");
    inner.insert_file(machine::DMI_TABLE, &table);
    let recorder = Recorder::new(&inner);
    assert_eq!(recorder.read(machine::DMI_TABLE), Seen::Is(table.clone()), "whoever looks sees all");
    let kept = recorder.finish();
    let strings = |memory: &machine::Memory| match memory.read(machine::DMI_TABLE) {
        Seen::Is(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(!text.contains("hunter2") && !text.contains("SERIAL"), "{text}");
            formats::smbios::oem_strings(&bytes)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(strings(&kept), [hint]);
    let done = strings(&machine::redact::redact(&kept));
    assert_eq!(done.len(), 1);
    assert!(!done[0].contains("attic"), "{done:?}");
    let read = formats::hint::Hint::parse(&done[0]).expect("still a hint");
    assert_eq!((read.slot.as_deref(), read.pci.to_string().as_str()), (Some("4"), "0000:26:00.0"));
}
