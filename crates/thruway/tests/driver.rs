//! NVIDIA's driver by the real apt, in real Debian trees, by `thruway --root`: planned, installed, and taken back.
//!
//! The trees are made once by mmdebstrap and kept below target/, as is what apt downloads. The card is simulated: a PCI
//! function's sysfs, laid into the tree. Needs root (chroot, mounts), mmdebstrap and Debian's archive; prints why it is
//! skipped otherwise. The short form is part of every run; the long form downloads some hundred megabytes and lets DKMS
//! build the modules:
//!
//!     cargo test -p thruway --test driver -- --ignored --nocapture
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks at the tree from outside")]
#![allow(clippy::print_stdout, reason = "says what it skips and counts")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use common::{differ, snapshot};
use model::{Op, Plan};

const PACKAGES: &str = "kmod,initramfs-tools,linux-image-amd64,udev,ca-certificates,passwd";

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

fn temporary() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A suite's tree as mmdebstrap made it, with apt's lists, kept between runs; `Err`: why it cannot be had here.
fn base(suite: &str) -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root: chroot and mounts are needed".into());
    }
    let dir = temporary().join(format!("guest-{suite}"));
    if dir.is_dir() {
        return Ok(dir);
    }
    let making = dir.with_extension("making");
    let _ = std::fs::remove_dir_all(&making);
    println!("making a Debian tree of {suite} (a minute; kept for later runs)");
    let made = Command::new("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--skip=cleanup/apt"])
        .args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
        .args(["doc", "man", "locale"].map(|dir| format!("--dpkgopt=path-exclude=/usr/share/{dir}/*")))
        .args([&format!("--include={PACKAGES}"), suite])
        .arg(&making)
        .arg("http://deb.debian.org/debian")
        .output()
        .map_err(|error| format!("mmdebstrap: {error}"))?;
    if !made.status.success() {
        return Err(format!("mmdebstrap made no tree: {}", String::from_utf8_lossy(&made.stderr)));
    }
    std::fs::rename(&making, &dir).expect("the finished tree takes its name");
    Ok(dir)
}

/// A machine of that suite that has this card, as a VM.
struct Guest {
    _work: tempfile::TempDir,
    root: PathBuf,
    release: String,
    downloads: PathBuf,
}

impl Guest {
    fn new(suite: &str, id: (&str, &str), class: &str) -> Result<Guest, String> {
        let base = base(suite)?;
        let work = tempfile::Builder::new().prefix("driver-").tempdir_in(scratch()).expect("a directory");
        let root = work.path().join("root");
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(base).arg(&root));
        let downloads = temporary().join(format!("debs-{suite}"));
        std::fs::create_dir_all(&downloads).expect("a directory");
        run(Command::new("cp").arg("-a").arg(downloads.join(".")).arg(root.join("var/cache/apt/archives/")));
        // The tree asks the archive by this machine's own resolver.
        let _ = std::fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf"));
        let kernels = std::fs::read_dir(root.join("lib/modules")).expect("the tree has a kernel");
        let release = kernels.map(|e| e.expect("an entry").file_name().into_string().expect("a name")).next();
        let release = release.expect("a kernel");
        let guest = Guest { _work: work, root, release, downloads };
        guest.card(id, class);
        Ok(guest)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("its directory");
        std::fs::write(path, text).expect("written");
    }

    fn card(&self, (vendor_device, subsystem): (&str, &str), class: &str) {
        let (vendor, device) = vendor_device.split_once(':').expect("an id");
        let dir = "sys/bus/pci/devices/0000:01:00.0";
        let uevent = format!(
            "PCI_CLASS={}\nPCI_ID={}\nPCI_SUBSYS_ID={}\nPCI_SLOT_NAME=0000:01:00.0\n",
            class.trim_start_matches('0'),
            vendor_device.to_uppercase(),
            subsystem.to_uppercase()
        );
        self.write(&format!("{dir}/uevent"), &uevent);
        self.write(&format!("{dir}/vendor"), &format!("0x{vendor}\n"));
        self.write(&format!("{dir}/device"), &format!("0x{device}\n"));
        self.write(&format!("{dir}/class"), &format!("0x{class}\n"));
        self.write(&format!("{dir}/revision"), "0xa1\n");
        self.write(&format!("{dir}/resource"), "");
        self.write("proc/cpuinfo", "processor : 0\nflags : fpu hypervisor\n");
        self.write("proc/modules", "");
        self.write("proc/devices", "Character devices:\n  1 mem\n");
        self.write("proc/cmdline", "root=/dev/sda1 ro\n");
        self.write("proc/sys/kernel/osrelease", &format!("{}\n", self.release));
    }

    fn thruway(&self, args: &[&str]) -> Result<String, String> {
        let output = common::on(&self.root, args);
        let text = format!("{}{}", common::stdout(&output), common::stderr(&output));
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    fn done(&self, args: &[&str]) -> String {
        self.thruway(args).unwrap_or_else(|text| panic!("{args:?}:\n{text}"))
    }

    fn plan(&self) -> Plan {
        let plan = self.done(&["guest", "plan", "--json"]);
        serde_json::from_str(plan.get(..plan.rfind('}').map_or(0, |at| at + 1)).expect("JSON")).expect("a plan")
    }

    /// In the tree, with its own /proc and /sys as they are: nothing is mounted.
    fn inside(&self, args: &[&str]) -> String {
        run(Command::new("chroot").arg(&self.root).args(args).env("LC_ALL", "C"))
    }

    fn packages(&self) -> String {
        let form = "${binary:Package} ${Version} ${Status}\n";
        let all = self.inside(&["dpkg-query", "-W", "-f", form]);
        let marks = self.inside(&["apt-mark", "showmanual"]);
        format!("{all}{marks}")
    }

    fn snapshot(&self) -> BTreeMap<String, (u32, u32, u32, i64, String)> {
        let mut all = snapshot(&self.root, &skip);
        // A file that was made again with the same bytes has another time.
        all.values_mut().for_each(|(.., time, _)| *time = 0);
        all
    }

    fn keep_downloads(&self) {
        let from = self.root.join("var/cache/apt/archives");
        for entry in std::fs::read_dir(from).expect("the cache").flatten() {
            let to = self.downloads.join(entry.file_name());
            if entry.path().extension().is_some_and(|end| end == "deb") && !to.exists() {
                let _ = std::fs::copy(entry.path(), to);
            }
        }
    }
}

/// In memory where there is room: a driver's tree is three gigabytes.
fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    if room > 6 << 30 { memory.to_owned() } else { temporary().to_owned() }
}

/// What undo may leave otherwise: caches and logs; backups that dpkg, shadow and update-alternatives keep of their own
/// files; initramfs images, which are made again and are compared by their lists; what is mounted or volatile.
fn skip(name: &str) -> bool {
    let backups = ["/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"];
    let volatile = ["/proc", "/sys", "/dev", "/tmp", "/run", "/var/cache", "/var/log", "/var/lib/apt/lists"];
    // tmp.ci: where dpkg unpacks a package's control files; emptied at its next unpacking.
    let dpkg = name.starts_with("/var/lib/dpkg/")
        && (name.ends_with("-old") || name.contains("/lock") || name.starts_with("/var/lib/dpkg/tmp.ci"));
    volatile.contains(&name)
        || backups.contains(&name)
        || dpkg
        || name.starts_with("/boot/initrd.img")
        || name.starts_with("/var/lib/initramfs-tools/")
}

const GT_1030: (&str, &str) = ("10de:1d01", "1043:85f4");
const RTX_4090: (&str, &str) = ("10de:2684", "1043:889a");
const GTX_780: (&str, &str) = ("10de:1004", "3842:2780");
const H100: (&str, &str) = ("10de:2330", "10de:16c1");
const RTX_5090: (&str, &str) = ("10de:2b85", "1043:89e3");

/// The packages that the plan asks for, if it asks for any.
fn asked(plan: &Plan) -> Option<&model::PackagesOp> {
    plan.changes.iter().find_map(|change| match &change.op {
        Op::Packages(op) => Some(op),
        _ => None,
    })
}

/// What is planned is what the archive has: apt resolves it with nothing removed and nothing upgraded.
#[test]
fn apt_resolves_what_is_planned_and_undo_is_exact() {
    for (suite, cards) in [
        ("bookworm", [(GT_1030, Some("nvidia-kernel-dkms")), (GTX_780, Some("nvidia-tesla-470-kernel-dkms"))]),
        ("trixie", [(RTX_4090, Some("nvidia-open-kernel-dkms")), (RTX_5090, None)]),
    ] {
        let began = Instant::now();
        let guest = match Guest::new(suite, cards[0].0, "030000") {
            Ok(guest) => guest,
            Err(why) => {
                println!("SKIP: {why}");
                return;
            }
        };
        let first = guest.plan();
        let mut planned: Vec<Vec<String>> = Vec::new();
        for (card, wanted) in cards {
            guest.card(card, "030000");
            let plan = guest.plan();
            let op = asked(&plan);
            assert_eq!(op.is_some(), wanted.is_some(), "{suite} {card:?}: {plan:#?}");
            let Some((op, wanted)) = op.zip(wanted) else {
                assert!(plan.notes.iter().any(|note| note.contains(".run")), "no way out is named: {:?}", plan.notes);
                continue;
            };
            assert!(op.install.iter().any(|name| name == wanted), "{suite}: {:?}", op.install);
            planned.push(op.install.clone());
        }
        guest.card(cards[0].0, "030000");
        let before = (guest.snapshot(), guest.packages());

        // A plan cut down to small packages goes through the same hands: the source, apt-get update, an installation,
        // and back. In between apt is asked for each whole driver.
        let mut small = first.clone();
        for change in &mut small.changes {
            if let Op::Packages(op) = &mut change.op {
                op.install = vec!["nvidia-modprobe".into(), "patch".into()];
                op.builds = None;
            }
        }
        small.changes.retain(|change| !matches!(change.op, Op::Regenerate(_)));
        let path = guest.downloads.with_extension("plan.json");
        std::fs::write(&path, serde_json::to_string(&small).expect("JSON")).expect("written");
        let said = guest.done(&["apply", path.to_str().expect("a path"), "--yes"]);
        assert!(said.contains("packages come: Need to get"), "no size was told:\n{said}");
        guest.keep_downloads();
        assert!(guest.packages().contains("nvidia-modprobe "), "nothing was installed:\n{said}");
        for names in &planned {
            let mut all = vec!["apt-get", "--simulate", "install", "--no-install-recommends"];
            all.extend(names.iter().map(String::as_str));
            let resolved = guest.inside(&all);
            assert!(resolved.contains("Inst dkms ") && !resolved.contains("\nRemv "), "{resolved}");
            let old = |line: &&str| line.split(' ').nth(2).is_some_and(|word| word.starts_with('['));
            let upgrades: Vec<&str> = resolved.lines().filter(|line| line.starts_with("Inst ")).filter(old).collect();
            assert_eq!(upgrades, Vec::<&str>::new());
        }

        let undone = guest.done(&["undo", "--yes"]);
        let after = (guest.snapshot(), guest.packages());
        assert_eq!(differ(&before.0, &after.0), Vec::<String>::new(), "undo left differences:\n{undone}");
        assert_eq!(before.1, after.1, "dpkg's list and apt's marks");
        println!("{suite}: {:.0} s", began.elapsed().as_secs_f32());
    }
}

/// thruway and apt are killed while dpkg unpacks; the next run says so and takes it back.
#[test]
fn a_killed_installation_is_taken_back() {
    use std::os::unix::process::CommandExt as _;
    let guest = match Guest::new("bookworm", GT_1030, "030000") {
        Ok(guest) => guest,
        Err(why) => {
            println!("SKIP: {why}");
            return;
        }
    };
    let before = (guest.snapshot(), guest.packages());
    let mut plan = guest.plan();
    for change in &mut plan.changes {
        if let Op::Packages(op) = &mut change.op {
            op.install = vec!["build-essential".into()];
            op.builds = None;
        }
    }
    plan.changes.retain(|change| !matches!(change.op, Op::Regenerate(_)));
    let path = guest.downloads.with_extension("killed.json");
    std::fs::write(&path, serde_json::to_string(&plan).expect("JSON")).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
    command.arg("--root").arg(&guest.root).arg("apply").arg(&path).arg("--yes").process_group(0);
    let null = std::process::Stdio::null;
    let mut child = command.stdin(null()).stdout(null()).stderr(null()).spawn().expect("starts");
    let began = Instant::now();
    // In the middle: some packages are unpacked, none of the last is configured.
    let log = guest.root.join("var/log/dpkg.log");
    let unpacked = || std::fs::read_to_string(&log).map_or(0, |text| text.matches(" status unpacked ").count());
    let start = unpacked();
    while unpacked() < start + 12 {
        assert!(child.try_wait().expect("its state").is_none(), "it ended before it could be killed");
        assert!(began.elapsed().as_secs() < 240, "dpkg never began");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let group = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("killed");
    child.wait().expect("ended");
    guest.keep_downloads();
    assert!(guest.packages().contains("unpacked"), "nothing was half done");

    let undone = guest.done(&["undo", "--yes"]);
    assert!(undone.contains("had been interrupted: it was taken back"), "{undone}");
    let after = (guest.snapshot(), guest.packages());
    assert_eq!(differ(&before.0, &after.0), Vec::<String>::new(), "differences are left:\n{undone}");
    assert_eq!(before.1, after.1, "dpkg's list and apt's marks");
}

fn whole(suite: &str, card: (&str, &str), class: &str, kind: &str, module: &str, branch: &str) {
    match Guest::new(suite, card, class) {
        Ok(guest) => installed(&guest, kind, module, branch),
        Err(why) => println!("SKIP: {why}"),
    }
}

fn installed(guest: &Guest, kind: &str, module: &str, branch: &str) {
    let began = Instant::now();
    let release = guest.release.clone();
    // Images as this tree's generators make them before any change.
    guest.inside(&["update-initramfs", "-u", "-k", "all"]);
    let listing = || guest.inside(&["lsinitramfs", &format!("/boot/initrd.img-{release}")]);
    let before = (guest.snapshot(), guest.packages(), listing());
    println!("{}", guest.done(&["guest", "plan"]));
    let start = Instant::now();
    let said = guest.done(&["guest", "apply", "--yes"]);
    let applied = start.elapsed();
    println!("{said}");
    guest.keep_downloads();
    assert!(said.contains(kind), "{said}");

    // The real modules, of this kernel, known to depmod, of the kind that was planned.
    let info = guest.inside(&["modinfo", "-k", &release, module]);
    assert!(info.contains(&format!("version:        {branch}.")), "{info}");
    assert!(info.contains(&format!("vermagic:       {release} ")), "{info}");
    let license = if kind == "open" { "Dual MIT/GPL" } else { "NVIDIA" };
    assert!(info.contains(&format!("license:        {license}")), "{info}");
    let dep =
        std::fs::read_to_string(guest.root.join(format!("lib/modules/{release}/modules.dep"))).expect("depmod ran");
    assert!(dep.contains(&format!("{module}-uvm.ko")), "depmod does not know {module}-uvm");
    assert!(
        guest
            .root
            .join("usr/lib/x86_64-linux-gnu")
            .read_dir()
            .expect("libraries")
            .flatten()
            .any(|entry| { entry.file_name().to_string_lossy().starts_with("libcuda.so") })
    );
    let again = guest.done(&["guest", "plan"]);
    assert!(again.contains("Nothing to change"), "a second plan is not empty:\n{again}");
    let verified = guest.done(&["verify"]);
    assert!(verified.contains(&format!("NVIDIA's module is built for {release}")), "{verified}");
    assert!(verified.contains("a reboot of this machine"), "{verified}");

    let start = Instant::now();
    let undone = guest.done(&["undo", "--yes"]);
    let back = start.elapsed();
    println!("{undone}");
    let after = (guest.snapshot(), guest.packages(), listing());
    assert_eq!(differ(&before.0, &after.0), Vec::<String>::new(), "undo left differences");
    assert_eq!(before.1, after.1, "dpkg's list and apt's marks");
    assert_eq!(before.2, after.2, "the initramfs is not equal in meaning");
    println!(
        "{release}, {kind} {branch}: installed in {:.0} s, taken back in {:.0} s, the whole test {:.0} s",
        applied.as_secs_f32(),
        back.as_secs_f32(),
        began.elapsed().as_secs_f32()
    );
}

#[test]
#[ignore = "downloads the driver and builds its modules: minutes"]
fn the_proprietary_driver_on_debian_12() {
    whole("bookworm", GT_1030, "030000", "proprietary", "nvidia-current", "535");
}

#[test]
#[ignore = "downloads the driver and builds its modules: minutes"]
fn the_open_driver_on_debian_13() {
    let guest = match Guest::new("trixie", RTX_4090, "030000") {
        Ok(guest) => guest,
        Err(why) => {
            println!("SKIP: {why}");
            return;
        }
    };
    let shown = guest.done(&["guest", "plan"]).replace('\n', " ");
    if !shown.contains("does not build") {
        return installed(&guest, "open", "nvidia-current-open", "550");
    }
    // Debian 13's driver does not build for its kernel 6.12.117. That is found, named and taken back.
    println!("{} cannot build this driver: the failure is looked at", guest.release);
    let before = (guest.snapshot(), guest.packages());
    let failed = guest.thruway(&["guest", "apply", "--yes"]).expect_err("a build that cannot succeed");
    guest.keep_downloads();
    println!("{failed}");
    assert!(failed.contains("build/make.log") && failed.contains("error:"), "{failed}");
    assert!(failed.contains("everything before it was taken back"), "{failed}");
    let after = (guest.snapshot(), guest.packages());
    assert_eq!(differ(&before.0, &after.0), Vec::<String>::new(), "differences are left");
    assert_eq!(before.1, after.1, "dpkg's list and apt's marks");
}

/// A data centre's card gets the open modules already of a branch where others do not.
#[test]
#[ignore = "downloads the driver and builds its modules: minutes"]
fn the_open_driver_on_debian_12() {
    whole("bookworm", H100, "030200", "open", "nvidia-current-open", "535");
}
