//! The application floor's plan over a small machine: Jellyfin's file is fitted once, and a file that could not be
//! read is never called well.

use machine::{Memory, Node, NodeKind};
use model::{Intent, Op, OutcomeState, Presence, Reason, Seen, ServiceVerb, Verdict, run_all};

const FILE: &str = "/etc/jellyfin/encoding.xml";
const TEXT: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<EncodingOptions>\r\n  <!-- mine -->\r\n  \
    <HardwareAccelerationType>nvenc</HardwareAccelerationType>\r\n  <H264Crf>21</H264Crf>\r\n</EncodingOptions>\r\n";

fn machine() -> Memory {
    let mut machine = Memory::new("test");
    for (name, text) in [
        (
            "uevent",
            "DRIVER=nvidia\nPCI_CLASS=30000\nPCI_ID=10DE:1D01\nPCI_SUBSYS_ID=1043:85F4\nPCI_SLOT_NAME=0000:01:00.0\n",
        ),
        ("vendor", "0x10de\n"),
        ("device", "0x1d01\n"),
        ("class", "0x030000\n"),
    ] {
        machine.insert_file(&format!("/sys/bus/pci/devices/0000:01:00.0/{name}"), text.as_bytes());
    }
    machine.insert_file("/lib/systemd/system/jellyfin.service", b"[Service]\n");
    machine.insert_file(FILE, TEXT.as_bytes());
    machine
}

fn facts(machine: &Memory) -> app::Facts {
    app::observe(machine, &gpu::observe(machine))
}

#[test]
fn the_file_is_fitted_once_and_the_unit_restarted() {
    let mut machine = machine();
    let plan = app::plan(&facts(&machine), &Intent::default());
    let [write, restart] = plan.changes.as_slice() else { panic!("{:#?}", plan.changes) };
    assert_eq!(restart.op, Op::Service { unit: "jellyfin.service".into(), verb: ServiceVerb::Restart });
    let Op::WriteFile { path, content, .. } = &write.op else { panic!("{:?}", write.op) };
    assert_eq!(path, FILE);
    let bytes = content.to_bytes().expect("bytes");
    let text = String::from_utf8(bytes.clone()).expect("UTF-8");
    assert!(text.starts_with("\u{feff}<?xml"));
    assert!(text.contains("<!-- mine -->\r\n"));
    assert!(text.contains("<H264Crf>21</H264Crf>\r\n"));
    assert!(text.contains("<EnableHardwareEncoding>false</EnableHardwareEncoding>\r\n"));
    assert!(text.contains("<string>hevc</string>\r\n") && !text.contains("<string>av1</string>"));
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());

    let failed = app::verify(&facts(&machine), &Intent::default());
    assert!(failed.iter().all(|outcome| matches!(outcome.state, OutcomeState::Failed(_))) && !failed.is_empty());
    machine.insert_file(FILE, &bytes);
    let after = facts(&machine);
    assert!(app::plan(&after, &Intent::default()).is_empty());
    assert!(app::verify(&after, &Intent::default()).iter().all(|outcome| outcome.state == OutcomeState::Held));
    for finding in run_all(app::CHECKS, &after) {
        assert!(matches!(finding.verdict, Verdict::Pass | Verdict::NotApplicable), "{:?}", finding);
    }
}

#[test]
fn a_locked_file_is_unknown() {
    let mut machine = machine();
    let stat = machine.nodes().find(|(path, _)| *path == FILE).map(|(_, node)| node.stat.clone()).expect("the file");
    machine.insert(FILE, Node { stat, kind: NodeKind::File(Seen::Unreadable(Reason::PermissionDenied)) });
    let seen = facts(&machine);
    assert!(matches!(app::presence(&seen), Presence::Here(_)));
    assert!(app::plan(&seen, &Intent::default()).is_empty());
    let findings = run_all(app::CHECKS, &seen);
    let unknown = findings.iter().filter(|finding| matches!(finding.verdict, Verdict::Unknown { .. })).count();
    assert_eq!(unknown, 11, "{findings:#?}");
}

/// What the cards say is asked where there is something to fit, and at no other time: it takes a CUDA context.
#[test]
fn the_card_is_asked_only_where_jellyfin_is_and_its_word_counts() {
    let caps = |codec: &str, depth: u8| {
        serde_json::json!({ "codec": codec, "chroma": "420", "depth": depth, "engines": 1,
        "max_width": 4096, "max_height": 4096, "min_width": 48, "min_height": 16, "max_macroblocks": 65536 })
    };
    let report = serde_json::json!({ "nvenc_api": { "is": [12, 1] }, "gpus": [{ "bus_id": "0000:01:00.0",
        "name": { "is": "NVIDIA GeForce GT 1030" }, "decodes": { "is": [caps("h264", 8), caps("vp8", 8)] }, "encodes": "absent" }] });
    let report: machine::codecs::CodecsReport = serde_json::from_value(report).expect("a report");
    let answer = machine::Answer::Json(serde_json::to_value(&report).expect("JSON"));
    let mut here = machine();
    here.insert_answer(machine::Question::Codecs, Seen::Is(answer));
    let asked = |machine: &Memory| {
        let recorder = machine::Recorder::new(machine);
        let gpus = gpu::observe(&recorder);
        let mut facts = app::observe(&recorder, &gpus);
        app::ask(&mut facts, &recorder, &gpus, false);
        let seen = recorder.finish();
        let asked = seen.answers().any(|(question, _)| question == machine::Question::Codecs);
        (facts, asked)
    };
    let (facts, was_asked) = asked(&here);
    assert!(was_asked);
    let plan = app::plan(&facts, &Intent::default());
    let Op::WriteFile { content, .. } = &plan.changes[0].op else { panic!("{plan:?}") };
    let text = String::from_utf8(content.to_bytes().expect("bytes")).expect("UTF-8");
    assert!(
        text.contains("<string>vp8</string>") && !text.contains("<string>hevc</string>"),
        "not the table's word: {text}"
    );
    assert!(plan.notes.iter().any(|note| note.contains("the card's own answer")), "{:?}", plan.notes);
    let mut without = Memory::new("test");
    for (path, node) in here.nodes().filter(|(path, _)| path.starts_with("/sys")) {
        without.insert(path, node.clone());
    }
    let (facts, was_asked) = asked(&without);
    assert!(!was_asked && facts.cards.len() == 1 && !facts.here());
}
