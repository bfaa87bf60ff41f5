//! Second opinions on both halves of Proxmox VE's API: the client `proxmoxer` (PyPI) against the simulated server, and
//! this client against the fake server `fakepve` (PyPI). Each is installed into a virtual environment below target/ on
//! first use; where python3 or an index of packages is not here, it prints SKIP and why.
//!
//! What they cannot say. proxmoxer passes parameters through and judges none: it shows that the server speaks HTTP, TLS
//! and JSON as a client of others expects. fakepve checks every parameter against Proxmox VE's own schema, but stores
//! nothing of /cluster/mapping/pci and synthesises /hardware/pci; it knows no "raw hostpci is root@pam's alone"; its
//! config GET leaves pending changes out, which the API's description has in ("with pending configuration changes
//! applied"); and its POST of a config is always a task.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs whole programs")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use machine::MachineExt as _;
use machine::scratch::Scratch;
use pve::{Answers, Client, Login, Secret, Trust};
use sim::pve::{Account, CA, Server};

const TOKEN: &str = "thruway@pve!t1";
const SECRET: &str = "11111111-2222-4333-8444-555555555555";

/// The interpreter of a virtual environment that has these packages; none where that cannot be.
fn python(name: &str, packages: &[&str]) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (python, done) = (dir.join("bin/python"), dir.join("installed"));
    if done.exists() {
        return Some(python);
    }
    let run = |command: &mut Command| match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&dir));
    let quiet = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"];
    let why = made.or_else(|| run(Command::new(&python).args(quiet).args(packages)));
    if let Some(why) = why {
        println!("SKIP: {} cannot be installed here: {why}", packages.join(" "));
        return None;
    }
    std::fs::write(done, "").expect("the target directory can be written");
    Some(python)
}

const CLIENT: &str = r#"
import sys
from proxmoxer import ProxmoxAPI
from proxmoxer.core import ResourceException
host, port, ca, user, name, secret = sys.argv[1:7]
api = ProxmoxAPI(host, port=int(port), user=user, token_name=name, token_value=secret, verify_ssl=ca)
def refused(call):
    try:
        call()
    except ResourceException as error:
        return "%s %s" % (error.status_code, error)
    return "taken"
print("nodes", [one["node"] for one in api.nodes.get()])
print("version", api.version.get()["version"])
vm = api.nodes("pve").qemu(100)
config = vm.config.get()
print("memory", config["memory"])
vm.config.put(cores=3, digest=config["digest"])
print("cores", vm.config.get()["cores"])
print("stale", refused(lambda: vm.config.put(cores=4, digest=config["digest"])))
print("cores again", vm.config.get()["cores"])
vm.config.put(delete="cores", digest=vm.config.get()["digest"])
print("deleted", "cores" not in vm.config.get())
entry = "node=pve,path=0000:26:00,id=10de:1d01,iommugroup=14"
api.cluster.mapping.pci.post(id="gpu1", map=[entry])
print("mapping", api.cluster.mapping.pci("gpu1").get()["map"] == [entry])
print("twice", refused(lambda: api.cluster.mapping.pci.post(id="gpu1", map=[entry])))
print("out of form", refused(lambda: api.cluster.mapping.pci.post(id="gpu2", map=["node=pve,path=26"])))
print("raw", refused(lambda: vm.config.put(hostpci0="0000:26:00")))
vm.config.put(hostpci0="mapping=gpu1,pcie=1")
print("hostpci0", vm.config.get()["hostpci0"])
print("denied", refused(lambda: vm.config.put(memory="4096")))
print("pci", [one["iommugroup"] for one in api.nodes("pve").hardware.pci.get() if one["vendor"] == "0x10de"])
api.cluster.mapping.pci("gpu1").delete()
print("gone", [one["id"] for one in api.cluster.mapping.pci.get()])
"#;

#[test]
fn proxmoxer_is_served_as_by_the_real_one() {
    let Some(python) = python("second-proxmoxer", &["proxmoxer", "requests"]) else { return };
    let scratch = Scratch::temporary().expect("a directory");
    sim::build_named("seed-host", &scratch).expect("the box");
    let all = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    let may = BTreeMap::from([
        ("/".to_owned(), all(&["Sys.Audit"])),
        ("/vms/100".to_owned(), all(&["VM.Audit", "VM.Config.CPU", "VM.Config.HWType"])),
        ("/mapping/pci".to_owned(), all(&["Mapping.Modify", "Mapping.Use"])),
    ]);
    let server = Server::start(scratch.path(), vec![Account { name: TOKEN.into(), secret: SECRET.into(), may }]);
    let server = server.expect("the server");
    let url = server.url();
    let (host, port) = url.trim_start_matches("https://").rsplit_once(':').expect("a port");
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, CA).expect("written");
    let done = Command::new(python)
        .args(["-c", CLIENT, host, port])
        .arg(&ca)
        .args(["thruway@pve", "t1", SECRET])
        .output()
        .expect("python runs");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    println!("{said}");
    let line = |key: &str| {
        let found = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no line {key}: {said}")).to_owned()
    };
    assert_eq!(line("nodes"), "['pve']");
    assert_eq!(line("cores"), "3");
    assert!(line("stale").contains("500") && line("stale").contains("detected modified configuration"), "{said}");
    assert_eq!(line("cores again"), "3", "the stale write changed nothing");
    assert_eq!((line("deleted"), line("mapping")), ("True".into(), "True".into()));
    assert!(line("twice").contains("already defined"), "{said}");
    assert!(line("out of form").starts_with("400"), "{said}");
    assert!(line("raw").contains("only root can set 'hostpci0' config for non-mapped devices"), "{said}");
    assert_eq!(line("hostpci0"), "mapping=gpu1,pcie=1");
    assert!(line("denied").contains("403") && line("denied").contains("VM.Config.Memory"), "{said}");
    assert!(line("pci").contains("14"), "{said}");
    assert_eq!(line("gone"), "[]");
}

const SERVER: &str = r#"
import asyncio, hashlib, sys, tempfile
from fakepve import FakePve
from fakepve.certs import make_cert
async def main():
    cert, key, der = make_cert(tempfile.mkdtemp(dir=sys.argv[1]))
    pve = FakePve(user="root@pam", password="secret", host="127.0.0.1", port=0)
    pve.time_scale = 0
    pve.add_vm(100, "media", config={"memory": "4096", "machine": "pc", "scsi0": "local-lvm:vm-100-disk-0"})
    pve.add_vm(101, "busy", status="running", config={"memory": "2048"})
    await pve.start(cert, key)
    print(pve.port, hashlib.sha256(der).hexdigest(), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"#;

/// fakepve, ended with this value.
struct Fake {
    child: Child,
    url: String,
    trust: Trust,
    _dir: tempfile::TempDir,
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fake() -> Option<Fake> {
    let python = python("second-fakepve", &["fakepve[crypto]"])?;
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(python)
        .args(["-c", SERVER])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    let (port, pin) = line.trim().split_once(' ').expect("port and fingerprint");
    let trust = Trust::pin(pin).expect("a fingerprint");
    Some(Fake { child, url: format!("https://127.0.0.1:{port}"), trust, _dir: dir })
}

impl Fake {
    fn client(&self, password: &str) -> Client {
        let login = Login::Password { user: "root@pam".into(), password: Secret::new(password) };
        Client::new(&self.url, login, &self.trust).expect("a client")
    }
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn fakepve_takes_what_this_client_sends() {
    let Some(fake) = fake() else { return };
    let client = fake.client("secret");
    assert_eq!(client.node_of(100).expect("its node"), "pve1");
    assert!(client.permissions().expect("permissions").get("/").is_some());
    let config = client.config("pve1", 100).expect("its configuration");
    let digest = config["digest"].as_str().expect("a digest").to_owned();
    let set = pairs(&[("machine", "q35"), ("cpu", "host"), ("hostpci0", "mapping=gpu0,pcie=1"), ("balloon", "0")]);
    let task = client.set("pve1", 100, &set, &[], Some(&digest)).expect("taken");
    client.wait(&task.expect("fakepve makes a task of it")).expect("the task ends well");
    let after = client.config("pve1", 100).expect("its configuration");
    assert_eq!(after["hostpci0"], "mapping=gpu0,pcie=1", "{after}");
    // The digest has changed: the old one is refused, and nothing with it. The task's own words are explained.
    let task = client.set("pve1", 100, &pairs(&[("cpu", "kvm64")]), &[], Some(&digest)).expect("a task");
    let error = client.wait(&task.expect("a task")).expect_err("a stale digest").to_string();
    assert!(error.contains("checksum mismatch"), "{error}");
    assert_eq!(client.config("pve1", 100).expect("its configuration")["cpu"], "host");
    let digest = after["digest"].as_str().map(str::to_owned);
    let task = client.set("pve1", 100, &[], &["hostpci0".into(), "balloon".into()], digest.as_deref()).expect("taken");
    client.wait(&task.expect("a task")).expect("the task ends well");
    assert!(client.config("pve1", 100).expect("its configuration").get("hostpci0").is_none());
    // What a running VM takes over later.
    let task = client.set("pve1", 101, &pairs(&[("cpu", "host")]), &[], None).expect("taken");
    client.wait(&task.expect("a task")).expect("the task ends well");
    let pending = client.pending("pve1", 101).expect("what waits");
    // fakepve takes a parameter of the call for a key of the configuration
    let keys = pending.iter().map(|one| one.key.as_str()).filter(|key| *key != "background_delay");
    assert_eq!(keys.collect::<Vec<_>>(), ["cpu"]);
    // Proxmox VE's own schema judges the parameters.
    let error = client.set("pve1", 100, &pairs(&[("colour", "red")]), &[], None).expect_err("no such key").to_string();
    assert!(error.contains("400") && error.contains("colour"), "{error}");
    let error = client.set("pve1", 100, &pairs(&[("bios", "coreboot")]), &[], None).expect_err("no such firmware");
    assert!(error.to_string().contains("bios"), "{error}");
    // Everything that a plan from afar asks has its form by Proxmox VE's schema, in query and answer.
    let answers = Answers::ask(&client, Some("pve1"), Some("vm:media")).expect("answers");
    assert_eq!(answers.vms.keys().copied().collect::<Vec<_>>(), [100, 101]);
    assert_eq!((answers.vms[&100].runs, answers.vms[&101].runs), (Some(false), Some(true)));
    assert!(
        answers.vms[&100].pending.is_some() && answers.vms[&101].pending.is_none(),
        "only of the one that is meant"
    );
    assert!(answers.functions.is_there() && answers.mappings.is_there(), "{answers:?}");
    let text = answers.machine().text("/etc/pve/qemu-server/100.conf").is().expect("its file");
    assert!(text.contains("cpu: host\n") && text.contains("machine: q35\n"), "{text}");
    let upid = client.start("pve1", 100).expect("a task");
    client.wait(&upid).expect("it starts");
    assert!(client.config("pve1", 999).is_err());
    let error = fake.client("wrong").permissions().expect_err("a wrong password").to_string();
    assert!(error.contains("401") && !error.contains("wrong"), "{error}");
}
