//! `thruway vm … --pve URL` from a machine that is not the node: everything by the simulated Proxmox VE API.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs the program")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use common::{stderr, stdout};
use machine::scratch::Scratch;
use sim::pve::{Account, FINGERPRINT, Server};

const TOKEN: &str = "thruway@pve!t1=11111111-2222-4333-8444-555555555555";
const SECRET: &str = "11111111-2222";

/// A node with its API, and an empty home from which it is spoken to.
struct World {
    node: Scratch,
    home: tempfile::TempDir,
    server: Server,
}

/// What a token needs that may give cards to VMs, but for what `less` names.
fn may(less: &[&str]) -> BTreeMap<String, Vec<String>> {
    let all: &[(&str, &[&str])] = &[
        ("/", &["Sys.Audit"]),
        (
            "/vms",
            &[
                "VM.Audit",
                "VM.Config.CPU",
                "VM.Config.HWType",
                "VM.Config.Memory",
                "VM.Config.Disk",
                "VM.Config.Options",
            ],
        ),
        ("/mapping/pci", &["Mapping.Modify", "Mapping.Use"]),
        ("/storage", &["Datastore.Audit", "Datastore.AllocateSpace"]),
    ];
    let left = |all: &[&str]| all.iter().filter(|one| !less.contains(*one)).map(|one| (*one).to_owned()).collect();
    all.iter().map(|(path, all)| ((*path).to_owned(), left(all))).collect()
}

fn world(less: &[&str]) -> World {
    let node = Scratch::temporary().expect("a directory");
    sim::build_named("seed-host", &node).expect("the box");
    // a description, of which the config answer has another form: the digest is the API's own, not that of our print
    let text = std::fs::read_to_string(node.path().join(CONF)).expect("VM 100");
    put(&node.path().join(CONF), &format!("#a note\n{text}"));
    let (name, secret) = TOKEN.split_once('=').expect("a token");
    let accounts = vec![
        Account { name: name.into(), secret: secret.into(), may: may(less) },
        Account { name: "root@pam".into(), secret: "a password".into(), may: BTreeMap::new() },
    ];
    let server = Server::start(node.path(), accounts).expect("the server");
    World { node, home: tempfile::tempdir().expect("a directory"), server }
}

impl World {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
        command.args(args).args(["--pve", &self.server.url(), "--pve-fingerprint", FINGERPRINT]);
        command.env("NO_COLOR", "1").env("HOME", self.home.path()).env_remove("XDG_STATE_HOME");
        command.env_remove("THRUWAY_PVE_PASSWORD").env_remove("THRUWAY_PVE_TOKEN").stdin(std::process::Stdio::null());
        command
    }

    /// With the token; none of the output holds its secret.
    fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).env("THRUWAY_PVE_TOKEN", TOKEN).output().expect("thruway starts");
        assert!(!(stdout(&output) + &stderr(&output)).contains(SECRET), "{args:?} shows the secret");
        output
    }

    fn root(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        command.args(["--pve-user", "root@pam"]).env("THRUWAY_PVE_PASSWORD", "a password");
        command.output().expect("thruway starts")
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.node.path().join(path)
    }

    fn conf(&self) -> String {
        std::fs::read_to_string(self.path(CONF)).expect("VM 100")
    }

    fn mappings(&self) -> String {
        std::fs::read_to_string(self.path("etc/pve/mapping/pci.cfg")).unwrap_or_default()
    }

    /// What was asked of the server by this.
    fn calls(&self, act: impl FnOnce()) -> Vec<String> {
        let before = self.server.calls().len();
        act();
        self.server.calls().split_off(before)
    }
}

const CONF: &str = "etc/pve/nodes/pve/qemu-server/100.conf";
const GIVE: &[&str] = &["--give", "26:00.0", "--to", "vm:100"];

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    std::fs::write(path, text).expect("written");
}

fn good(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(output), stderr(output));
    stdout(output)
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

fn files(dir: &Path, look: &mut dyn FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => files(&path, look),
            path => look(&path, &std::fs::read(&path).unwrap_or_default()),
        }
    }
}

#[test]
fn a_plan_from_afar_asks_little_and_nothing_twice() {
    let world = world(&[]);
    for (args, root, most) in [(GIVE, false, 7), (GIVE, true, 7), (&[][..], false, 7)] {
        let args = [&["vm", "plan", "--json"], args].concat();
        let calls = world.calls(|| drop(good(&if root { world.root(&args) } else { world.run(&args) })));
        println!("{} round trips", calls.len());
        assert!(calls.len() < 10 && calls.len() <= most, "{calls:?}");
        assert_eq!(calls.iter().collect::<BTreeSet<_>>().len(), calls.len(), "one is asked twice: {calls:?}");
        let reads = |call: &&String| call.starts_with("GET ") || *call == "POST /access/ticket";
        assert_eq!(calls.iter().filter(reads).count(), calls.len(), "a plan only reads: {calls:?}");
    }
    // Each other VM of the node costs one call more: the API has no list of who names a device.
    put(&world.path("etc/pve/nodes/pve/qemu-server/101.conf"), "name: other\nmemory: 1024\nhostpci0: 0000:26:00\n");
    let args = [&["vm", "plan"], GIVE].concat();
    let mut page = String::new();
    let calls = world.calls(|| page = stdout(&world.run(&args)));
    assert_eq!(calls.len(), 8, "{calls:?}");
    assert!(page.contains("VM 101 (other) already names 26:00.0"), "{page}");
}

#[test]
fn a_card_goes_to_a_vm_by_a_mapping_and_back() {
    let world = world(&[]);
    let (before, digest) = (world.conf(), world.run(&["vm", "list", "--json"]));
    assert!(stdout(&digest).contains("\"id\": \"100\""), "{}{}", stdout(&digest), stderr(&digest));
    let plan = good(&world.run(&[&["vm", "plan"], GIVE].concat()));
    assert!(plan.contains("pvesh create /cluster/mapping/pci --id gpu-26-00"), "{plan}");
    assert!(plan.contains("node=pve,path=0000:26:00,id=10de:1d01,subsystem-id="), "{plan}");
    assert!(plan.contains("iommugroup=14") && plan.contains("mapping=gpu-26-00,pcie=1"), "{plan}");
    assert_eq!((world.conf(), world.mappings()), (before.clone(), String::new()), "a plan changes nothing");
    // The plan is data: written here, applied by its file.
    let file = world.home.path().join("plan.json");
    let file = file.to_str().expect("a path");
    good(&world.run(&[&["vm", "plan", "--out", file], GIVE].concat()));
    let applied = good(&world.run(&["vm", "apply", file, "--yes", "--verbose"]));
    assert!(applied.contains("Applied as change 1") && applied.contains("waits for a start of VM 100"), "{applied}");
    assert!(world.conf().contains("hostpci0: mapping=gpu-26-00,pcie=1\n"), "{}", world.conf());
    assert!(
        world.mappings().starts_with("gpu-26-00\n\tmap node=pve,path=0000:26:00,id=10de:1d01"),
        "{}",
        world.mappings()
    );
    let verified = good(&world.run(&["vm", "verify"]));
    assert!(verified.contains("hostpci0: mapping=gpu-26-00,pcie=1"), "{verified}");
    let again: serde_json::Value =
        serde_json::from_str(&good(&world.run(&[&["vm", "plan", "--json"], GIVE].concat()))).expect("JSON");
    assert_eq!(again["changes"].as_array().map(Vec::len), Some(0), "a second plan is empty: {again}");
    let log = good(&world.run(&["log", "--verbose"]));
    assert!(log.contains("mapping gpu-26-00"), "{log}");
    good(&world.run(&["vm", "undo", "--yes", "--json"]));
    let left: BTreeSet<String> = lines(&world.conf()).difference(&lines(&before)).cloned().collect();
    assert_eq!(left, BTreeSet::new(), "{}", world.conf());
    assert_eq!(lines(&before).difference(&lines(&world.conf())).count(), 0, "{}", world.conf());
    assert_eq!(world.mappings(), "", "the mapping is gone, too");
    let mut looked = 0;
    files(world.home.path(), &mut |path, bytes| {
        looked += 1;
        assert!(!String::from_utf8_lossy(bytes).contains(SECRET), "{} holds the secret", path.display());
    });
    assert!(looked > 2, "the journal is below the home: {looked} files");
}

#[test]
fn root_itself_gives_the_raw_address() {
    let world = world(&[]);
    let applied = good(&world.root(&[&["vm", "apply", "--yes"], GIVE].concat()));
    assert!(!applied.contains("mapping"), "{applied}");
    assert!(world.conf().contains("hostpci0: 0000:26:00,pcie=1\n"), "{}", world.conf());
}

#[test]
fn what_the_token_may_not_is_said_before_it_is_tried() {
    for (less, says, way) in [
        ("Mapping.Modify", "only root@pam itself may set hostpci0", "pvesh create /cluster/mapping/pci --id gpu-26-00"),
        ("Mapping.Use", "lacks Mapping.Use on /mapping/pci/gpu-26-00", "pveum acl modify /mapping/pci/gpu-26-00"),
        ("VM.Config.HWType", "lacks VM.Config.HWType on /vms/100", "pveum acl modify /vms/100"),
        ("Datastore.AllocateSpace", "lacks Datastore.AllocateSpace on /storage/", "pveum acl modify /storage/"),
    ] {
        let world = world(&[less]);
        let before = world.conf();
        let output = world.run(&[&["vm", "apply", "--yes"], GIVE].concat());
        assert_eq!(output.status.code(), Some(1), "{less}: {}{}", stdout(&output), stderr(&output));
        let page = stdout(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(page.contains(says) && page.contains(way), "{less}: {page}");
        assert_eq!((world.conf(), world.mappings()), (before, String::new()));
        assert!(world.server.calls().iter().all(|call| call.starts_with("GET ")), "{:?}", world.server.calls());
    }
}

#[test]
fn what_the_api_does_not_show_is_not_guessed() {
    let world = world(&["Sys.Audit"]);
    let output = world.run(&[&["vm", "plan"], GIVE].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stdout(&output).contains("Sys.Audit"), "the functions are hidden: {}", stdout(&output));
    let world = self::world(&[]);
    sim::physics::start_vm(world.node.path(), 100).expect("VM 100 starts");
    let page = stdout(&world.run(&["vm", "list"]));
    assert!(page.contains("100  mufti-4  runs\n"), "{page}");
    let list: serde_json::Value = serde_json::from_str(&good(&world.run(&["vm", "list", "--json"]))).expect("JSON");
    assert_eq!(list["vms"][0]["running"], true, "{list}");
    let check = world.run(&["vm", "check", "100"]);
    assert_eq!(check.status.code(), Some(2), "{}", stdout(&check));
    assert!(stdout(&check).contains("the API does not tell everything"), "{}", stdout(&check));
    // What the definition says is judged all the same.
    put(&world.path(CONF), &(world.conf() + "hostpci0: 0000:26:00\nballoon: 1024\n"));
    let check = world.run(&["vm", "check", "100"]);
    assert_eq!(check.status.code(), Some(1), "{}", stdout(&check));
    assert!(stdout(&check).contains("vm/machine-not-q35"), "{}", stdout(&check));
    let unknown = world.run(&["vm", "check", "200"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("no VM 200"), "{}", stderr(&unknown));
    let node = world.run(&["vm", "list", "--pve-node", "elsewhere"]);
    assert!(stderr(&node).contains("no node elsewhere in this cluster; its nodes: pve"), "{}", stderr(&node));
}

#[test]
fn what_was_changed_in_between_is_refused_and_named() {
    let world = world(&[]);
    let file = world.home.path().join("plan.json");
    let file = file.to_str().expect("a path");
    good(&world.run(&[&["vm", "plan", "--out", file], GIVE].concat()));
    let before = world.conf();
    put(&world.path(CONF), &(before.clone() + "tags: mine\n"));
    let stale = world.run(&["vm", "apply", file, "--yes"]);
    assert_eq!(stale.status.code(), Some(2));
    assert!(stderr(&stale).contains("no longer fits") && stderr(&stale).contains("100.conf"), "{}", stderr(&stale));
    assert_eq!(world.mappings(), "");
    // Applied, then edited by somebody: undo names what it found, and leaves it.
    put(&world.path(CONF), &before);
    good(&world.run(&["vm", "apply", file, "--yes"]));
    put(&world.path(CONF), &world.conf().replace("cpu: host", "cpu: x86-64-v3"));
    let edited = world.conf();
    let undo = world.run(&["vm", "undo", "--yes"]);
    assert_eq!(undo.status.code(), Some(2), "{}{}", stdout(&undo), stderr(&undo));
    assert!(stderr(&undo).contains("x86-64-v3") && stderr(&undo).contains("cpu"), "{}", stderr(&undo));
    assert_eq!(world.conf(), edited);
    // Set right again, and the mapping edited: the VM goes back, the mapping is named and stays.
    put(&world.path(CONF), &edited.replace("cpu: x86-64-v3", "cpu: host"));
    put(&world.path("etc/pve/mapping/pci.cfg"), &world.mappings().replace("iommugroup=14", "iommugroup=15"));
    let undo = world.run(&["vm", "undo", "--yes"]);
    assert!(stderr(&undo).contains("gpu-26-00") && stderr(&undo).contains("iommugroup=15"), "{}", stderr(&undo));
    assert!(world.mappings().contains("gpu-26-00"), "{}", world.mappings());
    assert_eq!(lines(&world.conf()).difference(&lines(&before)).count(), 0, "{}", world.conf());
}

#[test]
fn a_mapping_that_is_there_is_used_and_stays() {
    let world = world(&[]);
    let cards = "card\n\tmap node=pve,path=0000:26:00,id=10de:1d01,iommugroup=14\n";
    put(&world.path("etc/pve/mapping/pci.cfg"), cards);
    let applied = good(&world.run(&[&["vm", "apply", "--yes"], GIVE].concat()));
    assert!(!applied.contains("pvesh create"), "{applied}");
    assert!(world.conf().contains("hostpci0: mapping=card,pcie=1\n"), "{}", world.conf());
    good(&world.run(&["vm", "undo", "--yes"]));
    assert_eq!(world.mappings(), cards);
}

#[test]
fn pages() {
    let world = world(&[]);
    put(&world.path("etc/pve/nodes/pve/qemu-server/101.conf"), "name: other\nmemory: 1024\n");
    sim::physics::start_vm(world.node.path(), 101).expect("VM 101 starts");
    let narrow = self::world(&["Mapping.Modify", "VM.Audit"]);
    let plan = [&["vm", "plan"], GIVE].concat();
    let mut text = String::new();
    for (world, args) in
        [(&world, &["vm", "list"][..]), (&world, &plan), (&world, &["vm", "check", "100"]), (&narrow, &plan)]
    {
        let output = world.run(args);
        let page = (stdout(&output) + &stderr(&output)).replace(&world.server.url(), "https://192.0.2.10:8006");
        text.push_str(&format!("$ thruway {}   (exit {:?})\n{page}\n", args.join(" "), output.status.code()));
    }
    insta::assert_snapshot!(text);
}
