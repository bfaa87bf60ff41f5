//! `thruway app jellyfin`: a server's settings by the simulated API, and a file's, from the command line.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs the program")]

mod common;
#[path = "common/live.rs"]
mod live;

use std::path::Path;
use std::process::{Command, Output};

use common::{stderr, stdout};
use live::{Live, namespaces};
use serde_json::json;
use sim::jellyfin::{Role, Server};

const ADMIN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn run(home: &Path, token: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
    command
        .args(["--sim", "app-as-found", "app", "jellyfin"])
        .args(args)
        .env("XDG_STATE_HOME", home)
        .env("NO_COLOR", "1");
    command.env_remove("THRUWAY_JELLYFIN_TOKEN").stdin(std::process::Stdio::null());
    if let Some(token) = token {
        command.env("THRUWAY_JELLYFIN_TOKEN", token);
    }
    command.output().expect("thruway starts")
}

fn server() -> Server {
    Server::start("10.10", &[(ADMIN, Role::Administrator)], false).expect("a server")
}

#[test]
fn a_server_is_fitted_verified_and_put_back() {
    let (server, home) = (server(), tempfile::tempdir().expect("a directory"));
    let url = server.url();
    let before = server.options();
    let ours = |args: &[&str]| run(home.path(), Some(ADMIN), &[args, &["--url", &url]].concat());
    let planned = ours(&["plan"]);
    assert_eq!(planned.status.code(), Some(0), "{}{}", stdout(&planned), stderr(&planned));
    let text = stdout(&planned);
    assert!(text.contains("GeForce GT 1030") && text.contains("+ EnableHardwareEncoding: false"), "{text}");
    assert!(text.contains("static table"), "who says so is said: {text}");
    assert_eq!(server.options(), before, "a plan changes nothing");
    let applied = ours(&["apply", "--yes"]);
    assert_eq!(applied.status.code(), Some(0), "{}{}", stdout(&applied), stderr(&applied));
    assert!(stdout(&applied).contains(&format!("thruway app jellyfin undo 1 --url {url}")), "{}", stdout(&applied));
    assert_eq!(server.options()["EnableHardwareEncoding"], json!(false));
    assert!(stdout(&ours(&["plan"])).contains("Nothing to change"));
    assert_eq!(ours(&["verify"]).status.code(), Some(0));
    server.edit("EnableHardwareEncoding", true);
    assert_eq!(ours(&["verify"]).status.code(), Some(1));
    let undo = ours(&["undo", "--yes"]);
    assert_eq!(undo.status.code(), Some(0), "the old value is there already: {}{}", stdout(&undo), stderr(&undo));
    assert_eq!(server.options(), before);
    let log = run(home.path(), None, &["log", "--url", &url]);
    assert!(stdout(&log).contains("taken back"), "{}", stdout(&log));
    for output in [&planned, &applied, &undo] {
        assert!(!(stdout(output) + &stderr(output)).contains(ADMIN), "the token was shown");
    }
}

#[test]
fn a_plan_s_file_is_of_its_server_and_of_its_settings() {
    let (server, home) = (server(), tempfile::tempdir().expect("a directory"));
    let url = server.url();
    let file = home.path().join("plan.json").display().to_string();
    let made = run(home.path(), Some(ADMIN), &["plan", "--url", &url, "--out", &file]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    assert!(!std::fs::read_to_string(&file).expect("the plan").contains(ADMIN), "the plan holds the token");
    server.edit("H264Crf", 18);
    let stale = run(home.path(), Some(ADMIN), &["apply", &file, "--yes"]);
    assert_eq!(stale.status.code(), Some(2));
    assert!(stderr(&stale).contains("plan again"), "{}", stderr(&stale));
    server.edit("H264Crf", 23);
    // its server stands in the plan
    let key = home.path().join("key");
    std::fs::write(&key, format!("{ADMIN}\n")).expect("written");
    let key = key.display().to_string();
    let applied = run(home.path(), None, &["apply", &file, "--yes", "--token-file", &key]);
    assert!(stderr(&applied).contains("can be read by others"), "{}", stderr(&applied));
    assert_eq!(applied.status.code(), Some(0), "{}{}", stdout(&applied), stderr(&applied));
    assert_eq!(server.options()["HardwareAccelerationType"], json!("nvenc"));
}

#[test]
fn another_card_than_this_machine_s_is_named_by_its_chip() {
    let (server, home) = (server(), tempfile::tempdir().expect("a directory"));
    let url = server.url();
    let plan = |chip: &str| run(home.path(), Some(ADMIN), &["plan", "--url", &url, "--codecs-from", chip]);
    let ada = stdout(&plan("AD102"));
    assert!(ada.contains("decodes and encodes with it") && ada.contains("\"av1\""), "{ada}");
    let none = plan("GX999");
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("GP108"), "{}", stderr(&none));
}

#[test]
fn without_a_key_or_with_a_wrong_one_it_says_what_to_do() {
    let (server, home) = (server(), tempfile::tempdir().expect("a directory"));
    let url = server.url();
    let none = run(home.path(), None, &["plan", "--url", &url]);
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("THRUWAY_JELLYFIN_TOKEN"), "{}", stderr(&none));
    let wrong = run(home.path(), Some("0123456789"), &["plan", "--url", &url]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("401") && !stderr(&wrong).contains("0123456789"), "{}", stderr(&wrong));
    let nowhere = run(home.path(), None, &["plan", "--ca", "/ca.pem"]);
    assert!(nowhere.status.code() == Some(2) && stderr(&nowhere).contains("--url"), "{}", stderr(&nowhere));
    let in_url = run(home.path(), Some(ADMIN), &["plan", "--url", "http://admin:hunter2@127.0.0.1"]);
    assert!(!stderr(&in_url).contains("hunter2"), "{}", stderr(&in_url));
}

#[test]
fn without_a_server_the_files_of_the_machine_are_fitted() {
    let home = tempfile::tempdir().expect("a directory");
    let plan = run(home.path(), None, &["plan"]);
    assert_eq!(plan.status.code(), Some(0), "{}", stderr(&plan));
    assert!(stdout(&plan).contains("encoding.xml"), "{}", stdout(&plan));
}

#[test]
fn a_container_of_proxmox_and_a_compose_file_are_given_the_card_and_taken_back() {
    let scratch = machine::scratch::Scratch::temporary().expect("a directory");
    sim::build_named("app-as-found", &scratch).expect("the box");
    let (conf, compose) = (scratch.path().join("etc/pve/lxc/101.conf"), scratch.path().join("srv/media/compose.yaml"));
    let put = |path: &Path, text: &str| {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, text).expect("written");
    };
    let old = ("arch: amd64\n# mine\n", "services:\n  jf:\n    image: jellyfin/jellyfin # mine\n");
    put(&conf, old.0);
    put(&compose, old.1);
    for name in ["nvidia0", "nvidiactl"] {
        put(&scratch.path().join("dev").join(name), "");
    }
    let wish = ["--ct", "101", "--compose", "/srv/media/compose.yaml"];
    let run = |args: &[&str]| common::on(scratch.path(), &[&["app", "jellyfin"], args].concat());
    let applied = run(&[&["apply", "--yes"][..], &wish].concat());
    assert_eq!(applied.status.code(), Some(0), "{}{}", stdout(&applied), stderr(&applied));
    let text = |path: &Path| std::fs::read_to_string(path).expect("the file");
    assert!(text(&conf).contains("lxc.mount.entry: /dev/nvidia0 dev/nvidia0"), "{}", text(&conf));
    assert!(text(&compose).contains("image: jellyfin/jellyfin # mine\n    deploy:"), "{}", text(&compose));
    let plan = run(&[&["plan"][..], &wish].concat());
    assert!(stdout(&plan).contains("Nothing to change"), "{}", stdout(&plan));
    let verify = run(&["verify"]);
    assert!(stdout(&verify).contains("given the card by container 101"), "{}", stdout(&verify));
    let undo = run(&["undo", "--yes"]);
    assert_eq!(undo.status.code(), Some(0), "{}{}", stdout(&undo), stderr(&undo));
    assert_eq!((text(&conf).as_str(), text(&compose).as_str()), old);
}

const FILE: &str = "/etc/jellyfin/encoding.xml";
const TEXT: &[u8] = include_bytes!("../../app/tests/encoding/10.11.xml");

/// The file after `apply` on a machine with this card; what plan and verify said.
fn fitted(card: &str) -> Option<(String, String)> {
    let live = Live::whole("guest-good", card);
    live.lay(FILE, TEXT);
    let plan = live.thruway(&["app", "jellyfin", "plan"]);
    assert_eq!(plan.status.code(), Some(0), "{card}: {}{}", stdout(&plan), stderr(&plan));
    let apply = live.thruway(&["app", "jellyfin", "apply", "--yes"]);
    assert_eq!(apply.status.code(), Some(0), "{card}: {}{}", stdout(&apply), stderr(&apply));
    let after = live.thruway(&["app", "jellyfin", "verify"]);
    assert_eq!(after.status.code(), Some(0), "{card}: {}", stdout(&after));
    let text = live.left(FILE);
    let undo = live.thruway(&["app", "jellyfin", "undo", "--yes"]);
    assert_eq!(undo.status.code(), Some(0), "{card}: {}{}", stdout(&undo), stderr(&undo));
    assert_eq!(live.left(FILE).as_deref().map(str::as_bytes), Some(TEXT), "{card}: undone to the byte");
    Some((stdout(&plan), text?))
}

#[test]
fn the_card_s_own_word_decides() {
    if !namespaces() {
        return;
    }
    for (card, encodes, av1) in
        [("gt1030", false, false), ("gtx1660", true, false), ("rtx4090", true, true), ("h100", false, false)]
    {
        let (plan, text) = fitted(card).expect("a file");
        assert!(plan.contains("the card's own answer"), "{card}: {plan}");
        assert!(
            text.contains(&format!("<EnableHardwareEncoding>{encodes}</EnableHardwareEncoding>")),
            "{card}: {text}"
        );
        assert_eq!(text.contains("<string>av1</string>"), av1, "{card}: {text}");
        assert!(text.contains("<H264Crf>23</H264Crf>"), "{card}: {text}");
    }
}
