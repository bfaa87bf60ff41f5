//! The Debian package: what is in it, and what a real dpkg leaves in a real Debian 12 tree after it came and went.
//!
//! The package is built by dpkg-deb of the debug programs, from the table that cargo-deb reads (see common/deb.rs); where
//! cargo-deb is installed, its package is held against that one.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks at the tree from outside")]
#![allow(clippy::print_stdout, reason = "says what it skips and counts")]

mod common;
#[path = "common/deb.rs"]
mod deb;
#[path = "common/systemd.rs"]
mod systemd;
#[path = "common/tree.rs"]
mod tree;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{differ, snapshot, stderr, stdout};
use deb::{Metadata, run};

/// A package and a tree to put it into.
struct Bench {
    work: tempfile::TempDir,
    root: PathBuf,
}

impl Bench {
    /// None, with the reason printed, where this machine cannot.
    fn new() -> Option<Bench> {
        if let Some(why) = tree::can_run().err().or_else(deb::cannot) {
            println!("SKIP: {why}");
            return None;
        }
        let work =
            tempfile::Builder::new().prefix("package-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let root = work.path().join("root");
        tree::copy(&root);
        Some(Bench { work, root })
    }

    /// The package of that version, in the tree's /root.
    fn package(&self, version: &str) -> String {
        let package = deb::build(self.work.path(), version);
        let inside = format!("/root/{}", package.file_name().expect("a name").to_string_lossy());
        std::fs::rename(package, self.root.join(&inside[1..])).expect("the package");
        inside
    }

    fn try_in(&self, script: &str) -> Output {
        tree::inside(&self.root, script)
    }

    fn run_in(&self, script: &str) -> String {
        let output = self.try_in(script);
        let text = format!("{}{}", stdout(&output), stderr(&output));
        assert!(output.status.success(), "{script}: {}\n{text}", output.status);
        text
    }

    fn there(&self, path: &str) -> bool {
        self.root.join(path.trim_start_matches('/')).symlink_metadata().is_ok()
    }

    /// All names of the tree with modes, owners, times and digests; thruway's own state too.
    fn everything(&self) -> std::collections::BTreeMap<String, (u32, u32, u32, i64, String)> {
        // what dpkg itself keeps of a package that came and went, its log and its lists of what is there
        const DPKGS: [&str; 6] = [
            "/var/log/dpkg.log",
            "/var/lib/dpkg/status",
            "/var/lib/dpkg/status-old",
            "/var/lib/dpkg/lock",
            "/var/lib/dpkg/lock-frontend",
            "/var/lib/dpkg/triggers/Lock",
        ];
        let mut found = snapshot(&self.root, &|name| DPKGS.contains(&name) || name.starts_with("/root/thruway_"));
        // lists of packages with the same directories are written anew, in another order
        for (name, what) in found.iter_mut().filter(|(name, _)| name.starts_with("/var/lib/dpkg/info/")) {
            let bytes = std::fs::read(self.root.join(&name[1..])).expect("a list");
            let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
            lines.sort_unstable();
            (what.3, what.4) = (0, model::Digest::of(&lines.join(&b'\n')).0);
        }
        let state = self.root.join("var/lib/thruway");
        if state.exists() {
            for (name, what) in snapshot(&state, &|_| false) {
                found.insert(format!("/var/lib/thruway{name}"), what);
            }
            found.insert("/var/lib/thruway".to_owned(), (0, 0, 0, 0, String::new()));
        }
        found
    }

    /// Makes a change by the journal, as `thruway apply` does: a file is written.
    fn change(&self, path: &str) {
        let mut plan = model::Plan::new(model::Layer::Host, &model::Intent::default(), Default::default());
        let content = model::Content::Text("options vfio-pci ids=10de:1d01\n".into());
        plan.changes = vec![model::Change {
            layer: model::Layer::Host,
            title: "write".into(),
            op: model::Op::WriteFile { path: path.to_owned(), content, mode: 0o644 },
            expects: model::Before::Nothing,
            because: Vec::new(),
            risk: Vec::new(),
            effective: model::Effective::Now,
            undo: model::Undo::Exact,
        }];
        let hands = sim::SimHands::new(&self.root);
        let mut journal = journal::Journal::open(&self.root, &hands).expect("a journal");
        journal.apply(&plan, &mut |_| {}).expect("applied");
    }
}

const CURRENT: &str = concat!(env!("CARGO_PKG_VERSION"), "-1");

#[test]
fn installed_tried_and_purged_nothing_is_left() {
    let Some(bench) = Bench::new() else { return };
    let before = bench.everything();
    let package = bench.package(CURRENT);
    bench.run_in(&format!("dpkg -i {package}"));
    assert_eq!(bench.run_in("dpkg --verify thruway"), "");
    assert!(
        bench.run_in("dpkg-query -W -f '${Conffiles}' thruway").trim().is_empty(),
        "settings are examples, no conffiles"
    );
    let wants = bench.run_in("ls /etc/systemd/system /etc/systemd/system/multi-user.target.wants");
    assert!(!wants.contains("thruway"), "a unit was enabled by installing:\n{wants}");

    for program in deb::PROGRAMS {
        let words = if program == "thruway-runtime" { "--version 2>&1 || true" } else { "--version" };
        let said = bench.run_in(&format!("{program} {words}"));
        assert!(said.contains(program) || program == "thruway-runtime", "{program}: {said}");
    }
    let demo = bench.run_in("thruway demo");
    assert!(demo.contains("simulated"), "{demo}");
    let doctor = bench.try_in("thruway doctor --json");
    let report: serde_json::Value = serde_json::from_str(&stdout(&doctor)).expect("JSON");
    assert_eq!(report["floors"].as_array().expect("floors").len(), 6);
    let offered = bench.run_in(
        "exec bash -c '. /usr/share/bash-completion/completions/thruway; COMP_WORDS=(thruway doc) COMP_CWORD=1; \
        _thruway thruway doc thruway; echo ${COMPREPLY[@]}'",
    );
    assert_eq!(offered.trim(), "doctor");
    for unit in ["thruway-cdi-refresh", "thruway-node", "thruway-serve"] {
        // the documentation's pages are looked up by man, which is not in the tree
        let said = bench.run_in(&format!("mount --no-mtab -t tmpfs tmpfs /run; systemd-analyze verify --man=no /usr/lib/systemd/system/{unit}.service 2>&1"));
        assert!(!said.contains(unit), "{said}");
    }
    // a module that every machine has stands for NVIDIA's; udev says what it would do
    let wanted = |with: &str| {
        bench.run_in(&format!(
            "mount --no-mtab -t tmpfs tmpfs /run; mkdir -p /run/udev/rules.d; {with}; cd /run/udev/rules.d; \
             sed 's/KERNEL==\"nvidia\"/KERNEL==\"kernel\"/' /usr/lib/udev/rules.d/71-thruway-cdi.rules > 71-thruway-cdi.rules; \
             udevadm test --action=add /module/kernel 2>&1 | grep SYSTEMD_WANTS || true; \
             rm -f /etc/systemd/system/multi-user.target.wants/thruway-cdi-refresh.service"
        ))
    };
    assert!(!wanted("true").contains("thruway"), "the driver's load starts a service that nobody enabled");
    assert!(wanted("systemctl enable thruway-cdi-refresh.service").contains("thruway-cdi-refresh.service"));

    let between = differ(&before, &bench.everything());
    assert!(between.iter().any(|name| name == "/usr/bin/thruway"), "nothing was installed: {between:?}");
    bench.run_in("dpkg --purge thruway");
    assert_eq!(differ(&before, &bench.everything()), Vec::<String>::new(), "left by a purge");
    assert!(!bench.run_in("cat /var/lib/dpkg/status").contains("Package: thruway"));
    println!("{} names came and went", between.len());
}

#[test]
fn an_upgrade_keeps_all_and_a_removal_keeps_the_settings() {
    let Some(bench) = Bench::new() else { return };
    let before = bench.everything();
    let old = bench.package("0.0.9-1");
    bench.run_in(&format!("dpkg -i {old}"));
    bench.run_in(
        "systemctl enable thruway-serve.service; mkdir /etc/thruway; echo OPTIONS=--x > /etc/thruway/serve.env",
    );
    bench.change("/var/lib/thruway/ledger/0000:26:00.0.json");
    let link = "/etc/systemd/system/multi-user.target.wants/thruway-serve.service";
    let journal = std::fs::read(bench.root.join("var/lib/thruway/journal")).expect("the journal");
    let same = |what: &str| {
        assert!(bench.there(link), "{what}: no longer enabled");
        assert!(bench.there("/etc/thruway/serve.env"), "{what}: the settings are gone");
        let now = std::fs::read(bench.root.join("var/lib/thruway/journal")).expect("the journal");
        assert_eq!(now, journal, "{what}: the journal");
    };
    let new = bench.package(CURRENT);
    bench.run_in(&format!("dpkg -i {new}"));
    same("after the upgrade");
    // again, as after a run that was cut off
    bench.run_in(&format!("dpkg --unpack {new}; dpkg --configure thruway; dpkg-reconfigure thruway"));
    same("configured again");
    let said = bench.run_in("dpkg --remove thruway 2>&1");
    assert!(!said.contains("thruway undo"), "a promise is no change that stays on the machine:\n{said}");
    same("removed");
    assert!(!bench.there("/usr/bin/thruway"));
    bench.run_in(&format!("dpkg -i {new}"));
    same("installed again");
    assert!(!bench.there("/var/lib/thruway/nothing-stands"), "what a removal noted is no longer so");
    bench.run_in("dpkg --purge thruway");
    assert_eq!(differ(&before, &bench.everything()), Vec::<String>::new(), "left by a purge");
}

#[test]
fn the_way_back_of_what_stands_outlives_a_purge() {
    let Some(bench) = Bench::new() else { return };
    let before = bench.everything();
    let package = bench.package(CURRENT);
    bench.run_in(&format!("dpkg -i {package}"));
    let path = "/etc/modprobe.d/kept.conf";
    std::fs::write(bench.root.join(&path[1..]), "# mine\n").expect("a file");
    bench.change(path);
    let said = bench.run_in("dpkg --remove thruway 2>&1");
    assert!(said.contains("thruway undo") && said.contains("still stand"), "no warning:\n{said}");
    let said = bench.run_in("dpkg --purge thruway 2>&1");
    assert!(said.contains("/var/lib/thruway is kept"), "{said}");
    assert!(bench.there("/var/lib/thruway/journal"), "the way back is lost");
    let now = std::fs::read_to_string(bench.root.join(&path[1..])).expect("the file");
    assert!(now.contains("vfio-pci"), "a purge is no undo: {now}");

    bench.run_in(&format!("dpkg -i {package}"));
    let standing = bench.try_in("thruway log --standing");
    assert_eq!(standing.status.code(), Some(1), "{}", stdout(&standing));
    bench.run_in("thruway undo --yes");
    let now = std::fs::read_to_string(bench.root.join(&path[1..])).expect("the file");
    assert_eq!(now, "# mine\n", "taken back after a purge");
    assert_eq!(bench.try_in("thruway log --standing").status.code(), Some(0));
    bench.run_in(&format!("dpkg --purge thruway; rm {path}"));
    assert_eq!(differ(&before, &bench.everything()), Vec::<String>::new(), "left by a purge");
}

/// What maintainer scripts do where systemd runs, and whether the units run as they are shipped.
#[test]
fn units_run_over_an_upgrade_and_end_with_the_package() {
    if let Some(why) = deb::cannot() {
        println!("SKIP: {why}");
        return;
    }
    let Some(machine) = systemd::Systemd::start() else { return };
    let work = tempfile::Builder::new().prefix("units-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let place = |version: &str| {
        let path = format!("/root/thruway_{version}.deb");
        std::fs::copy(deb::build(work.path(), version), machine.path(&path)).expect("the package");
        path
    };
    let done = |script: &str| {
        let output = machine.output(script);
        let text = format!("{}{}", stdout(&output), stderr(&output));
        assert!(output.status.success(), "{script}: {}\n{text}", output.status);
        text
    };
    const UNITS: &str = "thruway-cdi-refresh thruway-node thruway-serve";
    // a machine that is a container forbids packages to start anything
    done("rm -rf /var/lib/thruway /etc/thruway /usr/sbin/policy-rc.d; mkdir -p /var/lib/kubelet/device-plugins");
    done(&format!("dpkg -i {}", place("0.0.9-1")));
    assert_eq!(machine.run(&format!("systemctl is-enabled {UNITS}")), "disabled\n".repeat(3));
    assert_eq!(machine.run(&format!("systemctl is-active {UNITS}")), "inactive\n".repeat(3));
    done(&format!("systemctl enable --now {UNITS}"));
    let state = || {
        let shown = machine.run(&format!("sleep 1; systemctl show -p ActiveState,NRestarts,MainPID {UNITS}"));
        assert_eq!(shown.matches("ActiveState=active").count(), 3, "{shown}{}", machine.run("journalctl -n 30 2>&1"));
        assert_eq!(shown.matches("NRestarts=0").count(), 3, "{shown}");
        let number = |line: &str| line.strip_prefix("MainPID=").map(str::to_owned);
        shown.lines().filter_map(number).collect::<BTreeSet<String>>()
    };
    let before = state();
    done("systemctl reload thruway-serve thruway-node");
    assert_eq!(state(), before, "a reload is no restart");
    done(&format!("dpkg -i {}", place(CURRENT)));
    let after = state();
    assert!(after.is_disjoint(&before), "an upgrade left old programs running: {before:?}, {after:?}");
    done("mkdir -p /run/cdi; touch /run/cdi/nvidia.com-gpu.json /run/cdi/vendor.json");
    done("dpkg --remove thruway");
    assert_eq!(machine.run("ls /run/cdi"), "vendor.json\n", "a spec that names programs that are gone");
    assert!(!machine.run("ps -e").contains("thruway"), "{}", machine.run("ps -e"));
    done("dpkg --purge thruway");
    assert_eq!(machine.run("find /etc/systemd /var/lib/systemd -name '*thruway-[cns]*'"), "");
    assert!(!machine.path("/var/lib/thruway").exists(), "{}", machine.run("find /var/lib/thruway"));
}

#[test]
fn the_table_and_the_scripts_agree() {
    let metadata = Metadata::read();
    let changelog = std::fs::read_to_string(deb::home().join(metadata.word("changelog"))).expect("the changelog");
    assert!(changelog.starts_with(&format!("thruway ({CURRENT}) ")), "the changelog's newest entry is another version");
    let units = std::fs::read_dir(deb::home().join("../../dist/systemd")).expect("dist/systemd");
    let units: BTreeSet<String> =
        units.map(|e| e.expect("an entry").file_name().into_string().expect("a name")).collect();
    for script in ["postinst", "prerm", "postrm"] {
        let path = metadata.scripts().join(script);
        let text = std::fs::read_to_string(&path).expect("a script");
        assert!(text.starts_with("#!/bin/sh\n") && text.contains("\nset -e\n"), "{script}");
        for unit in &units {
            assert!(text.contains(unit), "{script} does not know {unit}");
        }
        run(Command::new("sh").arg("-n").arg(&path));
    }
    let names: Vec<String> = metadata.assets().into_iter().map(|asset| asset.dest).collect();
    for wanted in ["usr/lib/systemd/system/", "usr/lib/udev/rules.d/", "usr/share/man/man1/"] {
        assert!(names.iter().any(|name| name == wanted), "{wanted} is no asset's place");
    }
    assert!(names.iter().all(|name| !name.starts_with("etc/")), "a file in /etc would be a conffile: {names:?}");
}

/// "name-version" of each crate of others whose places in its source a program has in it, for its panics.
fn crates_in(program: &Path, found: &mut BTreeSet<String>) {
    const PLACE: &[u8] = b"/registry/src/";
    let bytes = std::fs::read(program).expect("a program");
    for start in (0..bytes.len()).filter(|at| bytes[*at..].starts_with(PLACE)) {
        let rest = &bytes[start + PLACE.len()..];
        let mut parts = rest[..rest.len().min(300)].split(|byte| *byte == b'/').skip(1);
        if let Some(name) = parts.next().and_then(|name| std::str::from_utf8(name).ok()) {
            found.insert(name.to_owned());
        }
    }
}

#[test]
fn what_is_built_in_is_listed() {
    if let Some(why) = deb::cannot() {
        println!("SKIP: {why}");
        return;
    }
    let text = std::fs::read_to_string(deb::generated().join("package/sbom.cdx.json")).expect("the list");
    let sbom: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((sbom["bomFormat"].as_str(), sbom["specVersion"].as_str()), (Some("CycloneDX"), Some("1.5")));
    let lock = std::fs::read_to_string(deb::home().join("../../Cargo.lock")).expect("Cargo.lock");
    let mut listed = BTreeSet::new();
    for component in sbom["components"].as_array().expect("components") {
        let word = |key: &str| component[key].as_str().unwrap_or_default();
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        listed.insert(format!("{}-{}", word("name"), word("version")));
        if let Some(sum) = component["hashes"][0]["content"].as_str() {
            let line = format!("name = \"{}\"\nversion = \"{}\"\n", word("name"), word("version"));
            let entry = lock.split("[[package]]").find(|entry| entry.contains(&line)).expect("its entry in Cargo.lock");
            assert!(entry.contains(sum), "{component}");
        }
    }
    let mut found = BTreeSet::new();
    for program in deb::PROGRAMS {
        crates_in(&deb::generated().join(program), &mut found);
    }
    assert!(found.len() > 40, "only these were found in the programs: {found:?}");
    let missing: Vec<&String> = found.difference(&listed).collect();
    assert!(missing.is_empty(), "in the programs and not in the list: {missing:?}");
    for never in ["insta-", "proptest-", "serde_derive-", "protox-", "cc-"] {
        assert!(!listed.iter().any(|name| name.starts_with(never)), "{never} is in no program");
    }
    println!("{} components, {} of them seen in the programs", listed.len(), found.len());
}

/// The package of scripts/release.sh on the systems for which it is meant, each as small as it can be had.
#[test]
#[ignore = "needs a release (scripts/release.sh) and downloads three small Debian trees: cargo test -p thruway --test package -- --ignored"]
fn a_release_runs_on_debian_11_to_13() {
    if let Err(why) = tree::can_run() {
        println!("SKIP: {why}");
        return;
    }
    let dist = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../dist");
    let packages = std::fs::read_dir(&dist).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let Some(package) = packages.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb")) else {
        println!("SKIP: no package in {} (scripts/release.sh)", dist.display());
        return;
    };
    for suite in ["bullseye", "bookworm", "trixie"] {
        let root = tree::small(suite);
        let before = snapshot(&root, &|name| name.starts_with("/var/lib/dpkg/") || name == "/var/log/dpkg.log");
        let script = "dpkg -i /root/thruway.deb && thruway demo && thruway --version && thruway-node --version && \
                      thruway-hook --version && { thruway doctor || [ $? = 1 ]; } && dpkg --purge thruway";
        std::fs::copy(&package, root.join("root/thruway.deb")).expect("the package");
        let output = tree::inside(&root, script);
        let text = format!("{}{}", stdout(&output), stderr(&output));
        assert!(output.status.success(), "{suite}: {}\n{text}", output.status);
        assert!(text.contains("simulated") && text.contains("thruway-hook 0."), "{suite}: {text}");
        std::fs::remove_file(root.join("root/thruway.deb")).expect("the package");
        let after = snapshot(&root, &|name| name.starts_with("/var/lib/dpkg/") || name == "/var/log/dpkg.log");
        assert_eq!(differ(&before, &after), Vec::<String>::new(), "{suite}: left by a purge");
        println!("{suite}: installed, tried, purged");
    }
}

/// (name, mode, whose) of what a package has.
fn listing(package: &Path) -> BTreeSet<String> {
    let text = run(Command::new("dpkg-deb").arg("--contents").arg(package));
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // cargo-deb gives root by its number
        let whose = words[1].replace("root/root", "0/0");
        format!("{} {whose} {}", words[0], words[5..].join(" ").trim_start_matches("./").trim_end_matches('/'))
    };
    text.lines().map(line).filter(|line| !line.starts_with('d')).collect()
}

#[test]
fn cargo_deb_builds_the_same() {
    if let Some(why) = deb::cannot() {
        println!("SKIP: {why}");
        return;
    }
    if !deb::here("cargo-deb") || !deb::here("dpkg-shlibdeps") {
        println!(
            "SKIP: cargo-deb or dpkg-dev is not installed (cargo install cargo-deb): held against its table alone"
        );
        return;
    }
    let work = tempfile::Builder::new().prefix("deb-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let ours = deb::build(work.path(), CURRENT);
    let target = work.path().join("target");
    std::fs::create_dir(&target).expect("a directory");
    std::os::unix::fs::symlink(deb::generated(), target.join("release")).expect("a link");
    let theirs = work.path().join("theirs.deb");
    run(Command::new("cargo")
        .args([
            "deb",
            "--package",
            "thruway",
            "--no-build",
            "--no-strip",
            "--fast",
            "--locked",
            "--offline",
            "--output",
        ])
        .arg(&theirs)
        .current_dir(deb::home().join("../.."))
        .env("CARGO_TARGET_DIR", &target));
    assert_eq!(listing(&ours), listing(&theirs));
    for field in [
        "Package",
        "Version",
        "Architecture",
        "Maintainer",
        "Section",
        "Priority",
        "Depends",
        "Recommends",
        "Suggests",
        "Description",
    ] {
        let of = |package: &Path| run(Command::new("dpkg-deb").arg("--field").arg(package).arg(field));
        let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(of(&ours)), words(of(&theirs)), "{field}");
    }
    let unpacked = |package: &Path| {
        let into = package.with_extension("unpacked");
        run(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&into));
        // the two pack changelogs differently
        run(Command::new("gunzip").args(["-r", "-q"]).arg(into.join("usr/share/doc")));
        // what each builder writes its own way was compared above
        let skip = |name: &str| ["/DEBIAN/control", "/DEBIAN/md5sums"].contains(&name);
        let bytes = |(name, (mode, _, _, _, what))| (name, (mode & 0o111, what));
        snapshot(&into, &skip).into_iter().map(bytes).collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(
        differ(&unpacked(&ours), &unpacked(&theirs)),
        Vec::<String>::new(),
        "in one of the packages alone, or otherwise"
    );
}
