//! A real libvirt daemon (`qemu:///session`, of a user without rights) takes what we write and gives back what we read,
//! and `virt-xml-validate` judges it by the RNG schemas. SKIP and why where they are not here.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs whole programs")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use formats::domxml::{Domain, NewHostDev};
use model::Bdf;

/// What this daemon cannot do, in its own words, and is no fault of the document's: no KVM, or an older libvirt's schema.
const CANNOT: &[&str] = &["KVM", "kvm", "maximum", "host-model", "Unable to validate doc"];

fn corpus() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/domxml");
    let mut found: Vec<(String, String)> = std::fs::read_dir(dir)
        .expect("the corpus")
        .map(|entry| entry.expect("a file").path())
        .map(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            (name, std::fs::read_to_string(&path).expect("UTF-8"))
        })
        .collect();
    found.sort();
    found
}

/// The domain with both functions of a card more.
fn given(domain: &Domain) -> Option<String> {
    let new = |function| NewHostDev {
        source: Bdf::new(0, 0x81, 0, function),
        guest: domain.is_q35().then(|| (domain.next_index(), 0, u32::from(function))),
        multifunction: domain.is_q35() && function == 0,
    };
    domain.with(domain.is_q35().then(|| domain.next_index()), &[new(0), new(1)])
}

/// A user's own daemon, which ends by itself some time after its last client.
struct Session {
    dir: tempfile::TempDir,
    nobody: bool,
}

impl Session {
    fn start() -> Option<Session> {
        let root = rustix::process::geteuid().is_root();
        let needed: &[&str] = if root { &["virsh", "libvirtd", "setpriv"] } else { &["virsh", "libvirtd"] };
        for program in needed {
            if Command::new(program).arg("--version").output().is_err() {
                println!("SKIP: {program} is not installed (libvirt-clients, libvirt-daemon, util-linux)");
                return None;
            }
        }
        // A socket's path is short, and the target directory's may not be.
        let dir = tempfile::Builder::new().prefix("lv").tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("run")).expect("a directory");
        for path in [dir.path().to_owned(), dir.path().join("run")] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("ours");
            if root {
                std::os::unix::fs::chown(&path, Some(65534), Some(65534)).expect("root may");
            }
        }
        let session = Session { dir, nobody: root };
        // The system's own configuration keeps root from a session of its own.
        let answer = session.virsh(&["version"]);
        if !answer.status.success() {
            println!("SKIP: no session daemon: {}", String::from_utf8_lossy(&answer.stderr).trim());
            return None;
        }
        Some(session)
    }

    fn virsh(&self, args: &[&str]) -> Output {
        let mut command = if self.nobody {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "virsh"]);
            command
        } else {
            Command::new("virsh")
        };
        let dir = self.dir.path();
        command.args(["-q", "-c", "qemu:///session"]).args(args).current_dir("/");
        command.env("HOME", dir).env("XDG_RUNTIME_DIR", dir.join("run")).env("XDG_CONFIG_HOME", dir.join("c"));
        command.env("XDG_CACHE_HOME", dir.join("k")).env("LC_ALL", "C");
        command.output().expect("virsh runs")
    }

    /// Defines it and gives what libvirt made of it, or its words against it.
    fn define(&self, xml: &str) -> Result<Domain, String> {
        let file: PathBuf = self.dir.path().join("domain.xml");
        std::fs::write(&file, xml).expect("our directory");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("ours");
        let words = |output: &Output| String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let done = self.virsh(&["define", "--validate", &file.to_string_lossy()]);
        if !done.status.success() {
            return Err(words(&done));
        }
        let name = Domain::parse(xml.as_bytes()).expect("it was accepted").name;
        let dumped = self.virsh(&["dumpxml", "--inactive", &name]);
        let gone = self.virsh(&["undefine", "--nvram", &name]);
        assert!(gone.status.success(), "{}", words(&gone));
        Ok(Domain::parse(&dumped.stdout).expect("what libvirt prints is read"))
    }
}

#[test]
fn a_session_daemon_gives_back_what_we_read() {
    let Some(session) = Session::start() else { return };
    let kvm = session.virsh(&["domcapabilities", "--virttype", "kvm"]).status.success();
    let (mut same, mut spliced, mut without) = (0, 0, Vec::new());
    for (name, text) in corpus() {
        let text = if kvm {
            text
        } else {
            let text = text.replace("type='kvm'", "type='qemu'").replace("type=\"kvm\"", "type=\"qemu\"");
            text.replace("mode='host-passthrough'", "mode='maximum'")
                .replace("mode=\"host-passthrough\"", "mode=\"maximum\"")
        };
        let ours = Domain::parse(text.as_bytes()).expect("a domain");
        let theirs = match session.define(ours.text()) {
            Ok(theirs) => theirs,
            Err(words) if CANNOT.iter().any(|word| words.contains(word)) => {
                without.push(format!("{name}: {}", words.lines().last().unwrap_or_default()));
                continue;
            }
            Err(words) => panic!("{name}: {words}"),
        };
        let facts = |domain: &Domain| {
            let given: Vec<_> = domain.hostdevs.iter().map(|one| (one.source, one.managed)).collect();
            (domain.is_q35(), domain.is_uefi(), domain.kvm_hidden, domain.memory_mib, domain.hard_limit_mib, given)
        };
        assert_eq!(facts(&ours), facts(&theirs), "{name}:\n{}", theirs.text());
        same += 1;
        let Some(with) = given(&ours) else { continue };
        let theirs = session.define(&with).unwrap_or_else(|words| panic!("{name} with a card: {words}\n{with}"));
        let card = [Bdf::new(0, 0x81, 0, 0), Bdf::new(0, 0x81, 0, 1)];
        let has = |domain: &Domain| card.iter().all(|bdf| domain.hostdevs.iter().any(|one| one.source == *bdf));
        assert!(has(&theirs), "{name}:\n{}", theirs.text());
        // Taken out of libvirt's own print, it is gone and nothing else is.
        let left = Domain::parse(theirs.without(&card).as_bytes()).expect("what we write is read");
        assert_eq!(left.hostdevs.len(), ours.hostdevs.len(), "{name}");
        spliced += 1;
    }
    println!("{same} domains read alike, {spliced} with a card spliced in; not by this daemon: {without:#?}");
    assert!(same >= 20, "{without:#?}");
}

#[test]
fn virt_xml_validate_accepts_what_is_spliced() {
    if Command::new("virt-xml-validate").arg("--version").output().is_err() {
        println!("SKIP: virt-xml-validate is not installed (package libvirt-clients)");
        return;
    }
    if Command::new("xmllint").arg("--version").output().is_err() {
        println!("SKIP: xmllint is not installed (package libxml2-utils)");
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory can be written");
    let file = dir.path().join("domain.xml");
    let judge = |text: &str| {
        std::fs::write(&file, text).expect("our directory");
        let judged = Command::new("virt-xml-validate").arg(&file).arg("domain").output().expect("it runs");
        if judged.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&judged.stderr).into_owned()) }
    };
    let (mut well, mut newer) = (0, Vec::new());
    for (name, text) in corpus() {
        // Attributes of a newer libvirt than the one here.
        if let Err(words) = judge(&text) {
            newer.push(format!("{name}: {}", words.lines().next().unwrap_or_default()));
            continue;
        }
        let domain = Domain::parse(text.as_bytes()).expect("a domain");
        let Some(with) = given(&domain) else { continue };
        assert_eq!(judge(&with), Ok(()), "{name}");
        well += 1;
    }
    println!("{well} domains valid with a card spliced in; of a newer libvirt: {newer:#?}");
    assert!(well >= 24, "{newer:#?}");
}
