//! `--pve URL`: a VM changed by the simulated Proxmox VE API, from the command line.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs the program")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use common::{stderr, stdout};
use machine::scratch::Scratch;
use model::{Before, Change, Effective, Intent, Layer, Op, Plan, Undo};
use sim::pve::{Account, FINGERPRINT, Server};

const TOKEN: &str = "thruway@pve!t1=11111111-2222-4333-8444-555555555555";

fn built() -> (Scratch, Server) {
    let scratch = Scratch::temporary().expect("a directory");
    sim::build_named("seed-host", &scratch).expect("the box");
    let (name, secret) = TOKEN.split_once('=').expect("a token");
    let all = ["VM.Audit", "VM.Config.CPU", "VM.Config.HWType", "VM.PowerMgmt"].map(str::to_owned).to_vec();
    let may = BTreeMap::from([("/vms/100".to_owned(), all)]);
    let account = Account { name: name.into(), secret: secret.into(), may };
    let server = Server::start(scratch.path(), vec![account]).expect("the server");
    (scratch, server)
}

/// A plan of one change by Proxmox VE, as a node makes it.
fn plan(at: &Path, set: &[(&str, &str)]) -> String {
    let set = set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut plan = Plan::new(Layer::Vm, &Intent::default(), BTreeMap::new());
    plan.layers.clear();
    plan.changes.push(Change {
        layer: Layer::Vm,
        title: "VM 100".into(),
        op: Op::Proxmox { vmid: 100, set, delete: vec![], digest: String::new(), before: vec![] },
        expects: Before::Nothing,
        because: vec!["vm/cpu-not-host".into()],
        risk: vec![],
        effective: Effective::NextVmStart,
        undo: Undo::Inverse,
    });
    let path = at.join("plan.json");
    std::fs::write(&path, serde_json::to_string(&plan).expect("JSON")).expect("written");
    path.display().to_string()
}

fn run(root: &Path, url: &str, token: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
    command.arg("--root").arg(root).args(["--pve", url, "--pve-fingerprint", FINGERPRINT]).args(args);
    command.env("NO_COLOR", "1").env_remove("THRUWAY_PVE_TOKEN").stdin(std::process::Stdio::null());
    if let Some(token) = token {
        command.env("THRUWAY_PVE_TOKEN", token);
    }
    command.output().expect("thruway starts")
}

fn conf(root: &Path) -> String {
    std::fs::read_to_string(root.join("etc/pve/nodes/pve/qemu-server/100.conf")).expect("VM 100")
}

#[test]
fn a_change_goes_by_the_api_and_back() {
    let (scratch, server) = built();
    let dir = tempfile::tempdir().expect("a directory");
    let before = conf(scratch.path());
    // A key that the seed's VM does not set: undo takes it away again.
    let plan = plan(dir.path(), &[("numa", "1")]);
    let had = before.lines().any(|line| line.starts_with("numa:"));
    let output = run(scratch.path(), &server.url(), Some(TOKEN), &["apply", &plan, "--yes"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(conf(scratch.path()).contains("numa: 1\n"), "{}", conf(scratch.path()));
    assert!(server.calls().contains(&"POST /nodes/pve/qemu/100/config".to_owned()), "{:?}", server.calls());
    let undo = run(scratch.path(), &server.url(), Some(TOKEN), &["undo", "--yes"]);
    assert_eq!(undo.status.code(), Some(0), "{}{}", stdout(&undo), stderr(&undo));
    assert!(!conf(scratch.path()).contains("numa: 1\n"), "it had numa before: {had}\n{}", conf(scratch.path()));
    for output in [&output, &undo] {
        assert!(!(stdout(output) + &stderr(output)).contains("11111111"), "the secret was shown");
    }
    let log = std::fs::read_dir(scratch.path().join("var/lib/thruway")).expect("the journal");
    for file in log.flatten().filter(|entry| entry.path().is_file()) {
        let bytes = std::fs::read(file.path()).expect("a file");
        assert!(!String::from_utf8_lossy(&bytes).contains("11111111"), "{:?} holds the secret", file.path());
    }
}

#[test]
fn what_the_api_would_refuse_is_said_before_anything_is_changed() {
    let (scratch, server) = built();
    let dir = tempfile::tempdir().expect("a directory");
    let before = conf(scratch.path());
    let plan = plan(dir.path(), &[("hostpci0", "0000:26:00,pcie=1")]);
    let output = run(scratch.path(), &server.url(), Some(TOKEN), &["apply", &plan, "--yes"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("only root@pam itself") && text.contains("mapping"), "{text}");
    assert_eq!(conf(scratch.path()), before);
    assert!(!scratch.path().join("var/lib/thruway").exists(), "nothing was begun");
}

#[test]
fn a_start_that_failed_by_the_api_is_explained_by_vm_check() {
    let (scratch, server) = built();
    let path = scratch.path().join("etc/pve/nodes/pve/qemu-server/100.conf");
    std::fs::write(&path, conf(scratch.path()) + "hostpci0: 0000:99:00\n").expect("written");
    let trust = pve::Trust::pin(FINGERPRINT).expect("a pin");
    let login = pve::Login::token(TOKEN).expect("a token");
    let client = pve::Client::new(&server.url(), login, &trust).expect("a client");
    let upid = client.start("pve", 100).expect("a task");
    let error = client.wait(&upid).expect_err("the card is not there").to_string();
    assert!(error.contains("vm/card-gone"), "{error}");
    let check = common::on(scratch.path(), &["vm", "check", "100"]);
    assert_eq!(check.status.code(), Some(1));
    let text = stdout(&check);
    assert!(text.contains("The last start") && text.contains("pve/no-pci-device"), "{text}");
}

#[test]
fn without_a_login_it_says_how_to_give_one() {
    let (scratch, server) = built();
    let dir = tempfile::tempdir().expect("a directory");
    let plan = plan(dir.path(), &[("cpu", "host")]);
    let output = run(scratch.path(), &server.url(), None, &["apply", &plan, "--yes"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("THRUWAY_PVE_TOKEN"), "{}", stderr(&output));
    let bad = run(scratch.path(), &server.url(), Some("hunter2"), &["apply", &plan, "--yes"]);
    assert!(stderr(&bad).contains("USER@REALM!NAME=SECRET") && !stderr(&bad).contains("hunter2"), "{}", stderr(&bad));
    assert!(server.calls().is_empty(), "{:?}", server.calls());
}
