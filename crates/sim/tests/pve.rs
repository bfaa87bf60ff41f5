//! The client of Proxmox VE's API against the simulated server, over real TLS.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks at the simulated tree from outside")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use journal::{HandError, Hands, Journal};
use machine::scratch::Scratch;
use model::{Before, Change, Effective, Intent, Layer, Op, Plan, Undo};
use pve::{Client, Error, Login, PveHands, Secret, Trust};
use sim::SimHands;
use sim::pve::{Account, FINGERPRINT, Server};

const TOKEN: &str = "thruway@pve!t1";
const SECRET: &str = "11111111-2222-4333-8444-555555555555";
const CONF: &str = "etc/pve/nodes/pve/qemu-server/100.conf";

struct World {
    scratch: Scratch,
    server: Server,
}

fn account(name: &str, secret: &str, may: &[(&str, &[&str])]) -> Account {
    let may = may.iter().map(|(path, all)| ((*path).to_owned(), all.iter().map(|one| (*one).to_owned()).collect()));
    Account { name: name.into(), secret: secret.into(), may: may.collect::<BTreeMap<_, _>>() }
}

const VM_ALL: &[&str] = &[
    "VM.Audit",
    "VM.Config.HWType",
    "VM.Config.CPU",
    "VM.Config.Memory",
    "VM.Config.Disk",
    "VM.Config.Options",
    "VM.PowerMgmt",
];

/// The box's machine with a token that may change VM 100 and use the mapping gpu0.
fn world(name: &str) -> World {
    let scratch = Scratch::temporary().expect("a directory");
    sim::build_named(name, &scratch).expect("the box");
    put(scratch.path(), "etc/pve/mapping/pci.cfg", "gpu0\n\tmap node=pve,path=0000:26:00,id=10de:1d01,iommugroup=14\n");
    let accounts = vec![
        account(TOKEN, SECRET, &[("/vms/100", VM_ALL), ("/mapping/pci/gpu0", &["Mapping.Use"])]),
        account("root@pam!t", "22222222", &[("/", VM_ALL)]),
        account("weak@pve!t", "33333333", &[("/vms", &["VM.Audit"])]),
        account("root@pam", "a password", &[]),
    ];
    let server = Server::start(scratch.path(), accounts).expect("the server");
    World { scratch, server }
}

fn put(root: &Path, path: &str, text: &str) {
    std::fs::create_dir_all(root.join(path).parent().expect("a parent")).expect("a directory");
    std::fs::write(root.join(path), text).expect("written");
}

impl World {
    fn text(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join(CONF)).expect("VM 100")
    }

    fn client(&self, token: &str) -> Client {
        let trust = Trust::pin(FINGERPRINT).expect("a fingerprint");
        Client::new(&self.server.url(), Login::token(token).expect("a token"), &trust).expect("a client")
    }

    fn ours(&self) -> Client {
        self.client(&format!("{TOKEN}={SECRET}"))
    }

    fn digest(&self) -> String {
        let config = self.ours().config("pve", 100).expect("its configuration");
        config["digest"].as_str().expect("a digest").to_owned()
    }

    fn hands(&self, client: Client) -> (PveHands, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let kept = told.clone();
        let tell = move |text: &str| kept.lock().expect("unpoisoned").push(text.to_owned());
        (PveHands::new(client, Box::new(SimHands::new(self.scratch.path())), Box::new(tell)), told)
    }
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn op(set: &[(&str, &str)], digest: &str, before: &[(&str, &str)]) -> Op {
    Op::Proxmox { vmid: 100, set: pairs(set), delete: vec![], digest: digest.into(), before: pairs(before) }
}

fn plan(op: Op) -> Plan {
    let mut plan = Plan::new(Layer::Vm, &Intent::default(), BTreeMap::new());
    plan.changes.push(Change {
        layer: Layer::Vm,
        title: "VM 100".into(),
        op,
        expects: Before::Nothing,
        because: vec!["vm/card-not-given".into()],
        risk: vec![],
        effective: Effective::NextVmStart,
        undo: Undo::Inverse,
    });
    plan
}

const GIVE: &[(&str, &str)] =
    &[("hostpci0", "mapping=gpu0,pcie=1"), ("cpu", "host"), ("balloon", "0"), ("machine", "q35")];

#[test]
fn a_plan_is_applied_and_undone_by_rest_in_few_round_trips() {
    let world = world("seed-host");
    let before = world.text();
    let digest = world.digest();
    let old = |key: &str| before.lines().find_map(|line| line.strip_prefix(&format!("{key}: "))).map(str::to_owned);
    let kept: Vec<(String, String)> = GIVE.iter().filter_map(|(key, _)| Some(((*key).to_owned(), old(key)?))).collect();
    let kept: Vec<(&str, &str)> = kept.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let asked = world.server.calls().len();
    let (hands, _) = world.hands(world.ours());
    let mut journal = Journal::open(world.scratch.path(), &hands).expect("a journal");
    let applied = journal.apply(&plan(op(GIVE, &digest, &kept)), &mut |_| {}).expect("applied");
    let calls: Vec<String> = world.server.calls().split_off(asked);
    assert!(calls.len() < 10, "{calls:?}");
    assert_eq!(calls.iter().collect::<BTreeSet<_>>().len(), calls.len(), "none is repeated: {calls:?}");
    let after = world.text();
    assert!(after.contains("hostpci0: mapping=gpu0,pcie=1\n") && after.contains("balloon: 0\n"), "{after}");
    journal.undo(applied.number).expect("undone");
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(sorted(&world.text()), sorted(&before));
}

#[test]
fn what_somebody_set_since_is_not_taken_back() {
    let world = world("seed-host");
    let (hands, _) = world.hands(world.ours());
    let op = op(&[("cpu", "host")], &world.digest(), &[]);
    hands.act(&op).expect("set");
    put(world.scratch.path(), CONF, &world.text().replace("cpu: host", "cpu: x86-64-v3"));
    let error = hands.take_back(&op).expect_err("another's edit").to_string();
    assert!(error.contains("x86-64-v3"), "{error}");
    assert!(world.text().contains("cpu: x86-64-v3"));
}

#[test]
fn a_stale_digest_changes_nothing() {
    let world = world("seed-host");
    let digest = world.digest();
    put(world.scratch.path(), CONF, &(world.text() + "tags: mine\n"));
    let before = world.text();
    let (hands, _) = world.hands(world.ours());
    let error = hands.act(&op(&[("cpu", "host")], &digest, &[])).expect_err("stale").to_string();
    assert!(error.contains("detected modified configuration"), "{error}");
    assert_eq!(world.text(), before);
}

#[test]
fn a_raw_address_by_token_is_refused_before_it_is_tried() {
    let world = world("seed-host");
    for token in [format!("{TOKEN}={SECRET}"), "root@pam!t=22222222".into()] {
        let (hands, _) = world.hands(world.client(&token));
        let error = hands.act(&op(&[("hostpci0", "0000:26:00,pcie=1")], "", &[])).expect_err("refused").to_string();
        assert!(error.contains("only root@pam itself") && error.contains("mapping"), "{error}");
    }
    let (hands, _) = world.hands(world.ours());
    let ahead = hands.ahead(100, &pairs(&[("hostpci0", "0000:26:00,pcie=1")]), &[]).expect_err("refused").to_string();
    assert!(ahead.contains("set hostpci0 to mapping=gpu0,pcie=1"), "{ahead}");
    assert!(!world.server.calls().iter().any(|call| call.starts_with("POST")), "{:?}", world.server.calls());
    // The server refuses the same, in the real one's words.
    let error = world.ours().set("pve", 100, &pairs(&[("hostpci0", "0000:26:00")]), &[], None).expect_err("refused");
    assert!(error.to_string().contains("only root can set 'hostpci0' config for non-mapped devices"), "{error}");
    // root@pam itself, by its password, may.
    let login = Login::Password { user: "root@pam".into(), password: Secret::new("a password") };
    let root = Client::new(&world.server.url(), login, &Trust::pin(FINGERPRINT).expect("a pin")).expect("a client");
    let (hands, _) = world.hands(root);
    hands.act(&op(&[("hostpci0", "0000:26:00,pcie=1")], "", &[])).expect("root may");
    assert!(world.text().contains("hostpci0: 0000:26:00,pcie=1"));
    assert_eq!(world.server.calls().iter().filter(|call| call.ends_with("/access/ticket")).count(), 1, "one ticket");
}

#[test]
fn what_the_user_lacks_is_named() {
    let world = world("seed-host");
    let (hands, _) = world.hands(world.client("weak@pve!t=33333333"));
    let error = hands.act(&op(&[("cpu", "host")], "", &[])).expect_err("refused");
    assert!(matches!(error, HandError::NotHere { .. }), "{error}");
    assert!(error.to_string().contains("VM.Config.CPU on /vms/100"), "{error}");
    let error = world.client("weak@pve!t=33333333").set("pve", 100, &pairs(&[("cpu", "host")]), &[], None);
    assert!(error.expect_err("refused").to_string().contains("Permission check failed (/vms/100, VM.Config.CPU)"));
}

#[test]
fn a_running_vm_is_told_to_wait_for_its_stop() {
    let world = world("seed-host");
    sim::physics::start_vm(world.scratch.path(), 100).expect("VM 100 starts");
    let (hands, told) = world.hands(world.ours());
    hands.act(&op(&[("cpu", "host"), ("balloon", "0")], &world.digest(), &[])).expect("set");
    let told = told.lock().expect("unpoisoned").join("\n");
    assert!(told.contains("cpu wait for a stop and start") && !told.contains("balloon"), "{told}");
    let pending = world.ours().pending("pve", 100).expect("pending");
    assert_eq!(pending.len(), 1, "{pending:?}");
    assert_eq!(pending[0].then.as_deref(), Some("host"));
    assert!(world.text().contains("[PENDING]\ncpu: host\n"), "{}", world.text());
}

#[test]
fn a_slow_change_is_waited_for_and_a_failed_start_explained() {
    let world = world("seed-host");
    world.server.slow(true);
    let (hands, _) = world.hands(world.ours());
    hands.act(&op(&[("cpu", "host")], &world.digest(), &[])).expect("set");
    assert!(
        world.server.calls().iter().filter(|call| call.ends_with("/status")).count() >= 2,
        "{:?}",
        world.server.calls()
    );
    // The start of a VM that names a card that is not there.
    put(world.scratch.path(), CONF, &(world.text() + "hostpci0: 0000:99:00\n"));
    let client = world.ours();
    let upid = client.start("pve", 100).expect("a task");
    let error = client.wait(&upid).expect_err("it fails").to_string();
    assert!(error.contains("no PCI device found for '0000:99:00'") && error.contains("vm/card-gone"), "{error}");
}

#[test]
fn a_certificate_that_is_not_known_is_not_spoken_to() {
    let world = world("seed-host");
    let login = || Login::token(&format!("{TOKEN}={SECRET}")).expect("a token");
    let ask = |url: &str, trust: Trust| Client::new(url, login(), &trust).expect("a client").permissions();
    let pin = Trust::pin(&"00".repeat(32)).expect("a pin");
    let error = ask(&world.server.url(), pin).expect_err("another certificate");
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(error.to_string().contains(FINGERPRINT) && error.to_string().contains("pvenode cert info"), "{error}");
    assert!(!error.to_string().contains(SECRET));
    ask(&world.server.url(), Trust::Roots(sim::pve::CA.to_vec())).expect("signed by the CA");
    // A CA that did not sign it: the server's own certificate alone is none.
    let system = std::fs::read("/etc/ssl/certs/ca-certificates.crt");
    if let Ok(system) = system {
        let error = ask(&world.server.url(), Trust::Roots(system)).expect_err("not signed by these").to_string();
        assert!(error.contains("--pve-fingerprint"), "{error}");
    } else {
        println!("SKIPPED: this machine has no list of CAs");
    }
    assert!(Client::new("http://127.0.0.1:8006", login(), &Trust::pin(FINGERPRINT).expect("a pin")).is_err(), "no TLS");
    assert!(world.server.calls().iter().all(|call| call == "GET /access/permissions"), "no secret went to a stranger");
    assert_eq!(world.server.calls().len(), 1);
}

#[test]
fn a_wrong_secret_is_refused_and_not_repeated() {
    let world = world("seed-host");
    let error = world.client(&format!("{TOKEN}=99999999")).permissions().expect_err("wrong").to_string();
    assert!(error.contains("401") && !error.contains("99999999"), "{error}");
}

#[test]
fn the_server_refuses_what_is_out_of_form() {
    let world = world("seed-host");
    let says = |set: &[(&str, &str)]| match world.ours().set("pve", 100, &pairs(set), &[], None) {
        Ok(_) => "taken".to_owned(),
        Err(error) => error.to_string(),
    };
    for (key, value, why) in [
        ("colour", "red", "not defined in schema"),
        ("bios", "coreboot", "enumeration"),
        ("balloon", "many", "type check"),
        ("hostpci16", "mapping=gpu0", "not defined in schema"),
        ("hostpci0", "mapping=gpu0,host=0000:26:00", "Cannot set both"),
        ("hostpci0", "26:00:zz", "regex"),
        ("hostpci0", "mapping=nobody", "Permission check failed"),
        ("digest", &"0".repeat(41), "40 characters"),
    ] {
        assert!(says(&[(key, value)]).contains(why), "{key}={value}: {}", says(&[(key, value)]));
    }
    put(world.scratch.path(), CONF, &(world.text() + "lock: backup\n"));
    assert!(says(&[("cpu", "host")]).contains("VM is locked (backup)"));
    let error = world.ours().config("pve", 999).expect_err("no such VM").to_string();
    assert!(error.contains("does not exist"), "{error}");
    assert!(world.ours().node_of(999).expect_err("no such VM").to_string().contains("no VM 999"));
    assert!(world.ours().config("../../access", 100).is_err(), "a node's name leads nowhere else");
}
