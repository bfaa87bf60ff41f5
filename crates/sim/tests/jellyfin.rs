//! The client of Jellyfin's API against the simulated server.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a journal of its own in a temporary directory"
)]

use app::Settings;
use gpu::codecs::by_name;
use jellyfin::{Client, Error, JellyfinHands, digest};
use journal::{HandError, Hands, Journal};
use machine::scratch::Scratch;
use model::{Before, Change, Effective, Intent, JellyfinOp, Layer, Op, Plan, Undo};
use rest::{Secret, Trust};
use serde_json::{Map, Value, json};
use sim::SimHands;
use sim::jellyfin::{Role, Server};

const ADMIN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const USER: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const PATH: &str = "/System/Configuration/encoding";

fn server(release: &str) -> Server {
    Server::start(release, &[(ADMIN, Role::Administrator), (USER, Role::User)], false).expect("a server")
}

fn client(server: &Server, token: &str) -> Client {
    Client::new(&server.url(), Secret::new(token), &Trust::Roots(Vec::new())).expect("a client")
}

fn hands(server: &Server, token: &str) -> JellyfinHands {
    let nowhere = Scratch::temporary().expect("a directory");
    JellyfinHands::new(client(server, token), Box::new(SimHands::new(nowhere.path())))
}

fn op(server: &Server, set: Value) -> JellyfinOp {
    let now = server.options();
    let Value::Object(set) = set else { panic!("an object") };
    let before = set.keys().map(|key| (key.clone(), now[key].clone())).collect();
    JellyfinOp { url: server.url(), set, before, digest: digest(&now) }
}

fn of_status(error: Error) -> u16 {
    match error {
        Error::Refused { status, .. } => status,
        other => panic!("{other}"),
    }
}

#[test]
fn every_release_is_fitted_once_by_the_api_and_keeps_all_else() {
    let wanted: Settings = app::settings::fitting(&by_name("GP108").expect("the chip"));
    for release in sim::jellyfin::releases() {
        let server = server(&release);
        server.edit("H264Crf", 19);
        let before = client(&server, ADMIN).options().expect("settings");
        let mut new = before.clone();
        assert!(!wanted.write(&mut new).is_empty(), "{release}");
        let set: Map<String, Value> =
            new.iter().filter(|(key, value)| before[*key] != **value).map(|(k, v)| (k.clone(), v.clone())).collect();
        assert!(set.keys().all(|key| before.contains_key(key)), "{release}: only what it knows is sent");
        let op = op(&server, Value::Object(set));
        hands(&server, ADMIN).act(&Op::Jellyfin(op.clone())).expect("done");
        let after = server.options();
        assert_eq!(after["EnableHardwareEncoding"], json!(false), "{release}");
        assert_eq!(after["H264Crf"], json!(19), "{release}: another's value stays");
        let keys = |map: &Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&after), keys(&before), "{release}");
        assert!(wanted.write(&mut after.clone()).is_empty(), "{release}: a second plan is empty");
        hands(&server, ADMIN).take_back(&Op::Jellyfin(op)).expect("back");
        assert_eq!(server.options(), before, "{release}");
    }
}

#[test]
fn who_may_not_is_told_why_and_nothing_changes() {
    let server = server("10.10");
    let before = server.options();
    let op = Op::Jellyfin(op(&server, json!({ "HardwareAccelerationType": "nvenc" })));
    assert_eq!(of_status(client(&server, "cccc").options().expect_err("unknown")), 401);
    client(&server, USER).options().expect("any user reads");
    let error = hands(&server, USER).act(&op).expect_err("no administrator").to_string();
    assert!(error.contains("403") && error.contains("administrator"), "{error}");
    assert!(!error.contains(USER), "{error}");
    server.starting(true);
    assert_eq!(of_status(client(&server, ADMIN).public().expect_err("starts")), 503);
    assert_eq!(server.options(), before);
}

#[test]
fn the_token_goes_by_the_new_header_and_not_to_the_public_call() {
    let server = server("10.11");
    let client = client(&server, ADMIN);
    assert_eq!(client.public().expect("public").version, "10.11.1");
    client.options().expect("settings");
    let calls = server.calls();
    assert_eq!(calls[0], ("GET /System/Info/Public 200".into(), None));
    let login = calls[1].1.clone().expect("a header");
    assert!(login.starts_with(&format!("MediaBrowser Token=\"{ADMIN}\"")), "{login}");
}

#[test]
fn what_was_set_meanwhile_is_not_overwritten() {
    let server = server("10.10");
    let op = op(&server, json!({ "HardwareAccelerationType": "nvenc", "EnableTonemapping": true }));
    server.edit("EncodingThreadCount", 4);
    let error = hands(&server, ADMIN).act(&Op::Jellyfin(op)).expect_err("it has moved");
    assert!(matches!(error, HandError::Moved { .. }), "{error}");
    assert_eq!(server.options()["HardwareAccelerationType"], json!("none"));
    assert!(!server.calls().iter().any(|(call, _)| call.starts_with("POST")), "{:?}", server.calls());
}

fn plan(op: JellyfinOp) -> Plan {
    let mut plan = Plan::new(Layer::App, &Intent::default(), Default::default());
    plan.changes.push(Change {
        layer: Layer::App,
        title: "Jellyfin".into(),
        op: Op::Jellyfin(op),
        expects: Before::Nothing,
        because: vec![],
        risk: vec![],
        effective: Effective::Now,
        undo: Undo::Inverse,
    });
    plan
}

#[test]
fn undo_puts_its_own_values_back_and_leaves_another_s() {
    let home = Scratch::temporary().expect("a directory");
    let server = server("10.10");
    let hands = hands(&server, ADMIN);
    let mut journal = Journal::open(home.path(), &hands).expect("a journal");
    let one = op(&server, json!({ "HardwareAccelerationType": "nvenc", "HardwareDecodingCodecs": ["h264", "hevc"] }));
    let number = journal.apply(&plan(one), &mut |_| {}).expect("applied").number;
    server.edit("H264Crf", 18);
    server.edit("HardwareDecodingCodecs", json!(["hevc", "h264"]));
    journal.undo(number).expect("the order of a list says nothing");
    let now = server.options();
    assert_eq!((&now["HardwareAccelerationType"], &now["H264Crf"]), (&json!("none"), &json!(18)));
    assert_eq!(now["HardwareDecodingCodecs"], json!(["h264", "vc1"]));

    let two = op(&server, json!({ "HardwareAccelerationType": "nvenc" }));
    let number = journal.apply(&plan(two), &mut |_| {}).expect("applied").number;
    server.edit("HardwareAccelerationType", "vaapi");
    let error = journal.undo(number).expect_err("another has set it since").to_string();
    assert!(error.contains("vaapi") || error.contains("changed since"), "{error}");
    assert_eq!(server.options()["HardwareAccelerationType"], json!("vaapi"));
    let log = std::fs::read_dir(home.path().join("var/lib/thruway")).expect("the journal");
    for file in log.flatten().filter(|entry| entry.path().is_file()) {
        let bytes = std::fs::read(file.path()).expect("a file");
        assert!(!String::from_utf8_lossy(&bytes).contains(ADMIN), "{:?} holds the token", file.path());
    }
}

#[test]
fn a_refused_change_is_taken_back_as_nothing() {
    let home = Scratch::temporary().expect("a directory");
    let server = server("10.10");
    let before = server.options();
    let hands = hands(&server, ADMIN);
    let mut journal = Journal::open(home.path(), &hands).expect("a journal");
    for set in [
        json!({ "TranscodingTempPath": "/not/there" }),
        json!({ "EncoderAppPath": "/bin/ffmpeg" }),
        json!({ "HardwareAccelerationType": "cuda" }),
        json!({ "EnableTonemapping": "yes" }),
    ] {
        journal.apply(&plan(op(&server, set.clone())), &mut |_| {}).expect_err("refused");
        assert_eq!(server.options(), before, "{set}");
    }
    let unknown =
        JellyfinOp { set: json!({ "NoSuchKey": 1 }).as_object().cloned().expect("it"), ..op(&server, json!({})) };
    journal.apply(&plan(unknown), &mut |_| {}).expect_err("not known");
    assert!(journal.log().iter().all(|t| t.state == journal::State::Undone));
}

#[test]
fn the_certificate_is_held_to_the_pin_and_the_ca() {
    let server = Server::start("10.11", &[(ADMIN, Role::Administrator)], true).expect("a server");
    let ask = |trust: Trust| Client::new(&server.url(), Secret::new(ADMIN), &trust).expect("a client").options();
    ask(Trust::pin(sim::pve::FINGERPRINT).expect("a pin")).expect("pinned");
    ask(Trust::Roots(sim::pve::CA.to_vec())).expect("signed by the CA");
    let error = ask(Trust::pin(&"00".repeat(32)).expect("a pin")).expect_err("another certificate").to_string();
    assert!(error.contains("fingerprint"), "{error}");
}

/// The server itself: what the real one does, and a client of today must reckon with.
#[test]
fn a_post_replaces_the_whole_object() {
    let server = server("10.9");
    server.edit("H264Crf", 18);
    let agent = rest::http(std::time::Duration::from_secs(5));
    let post = |login: (&str, String), query: &str, body: &str| {
        let request = agent.post(format!("{}{PATH}{query}", server.url())).header(login.0, login.1);
        request.header("Content-Type", "application/json").send(body).expect("an answer").status().as_u16()
    };
    let token = || ("Authorization", format!("MediaBrowser Token=\"{ADMIN}\""));
    assert_eq!(post(("X-Emby-Token", ADMIN.into()), "", "{}"), 401, "the older header is off");
    assert_eq!(post(("X-A", "b".into()), &format!("?api_key={ADMIN}"), "{}"), 401);
    assert_eq!(post(token(), "", "no JSON"), 400);
    assert_eq!(server.options()["H264Crf"], json!(18));
    assert_eq!(post(token(), "", "{\"NoSuchKey\": 1}"), 204);
    assert_eq!(server.options()["H264Crf"], json!(23), "what is left out becomes its default");
    assert!(!server.options().contains_key("NoSuchKey"));
    server.legacy(true);
    assert_eq!(post(("X-Emby-Token", ADMIN.into()), "", "{}"), 204);
}
