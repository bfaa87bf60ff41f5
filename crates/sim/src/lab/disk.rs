//! The full lab's disks. One is a Debian host with its own GRUB, made by mmdebstrap without loop device or mount, and
//! kept in the cache. The other, made for each run, has thruway with its libraries and the guest's script, so that a
//! new thruway needs no new Debian.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::Digest;
use rustix::process::{Pid, Signal, geteuid, kill_process_group};

use super::{Event, LabError, parts};

const SUITE: &str = "bookworm";
/// The last line is for `up`: what a host with VMs has, and runc for the guest, which is made of this tree's programs.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,kmod,pciutils,initramfs-tools,zstd,linux-image-amd64,grub-pc,\
                        grub2-common,iproute2,\
                        openssh-server,sudo,libvirt-daemon-system,libvirt-clients,qemu-system-x86,runc";
/// grub-pc asks for a disk that a tree has not; the modules that the first boot needs are named, since there is no root
/// file system in sight from which they could be derived.
const HOOK: &str = r#"set -e
echo 'grub-pc grub-pc/install_devices_empty boolean true' | chroot "$1" debconf-set-selections
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/thruway-lab"
printf '%s\n' virtio_pci virtio_blk ext4 >"$1/usr/share/initramfs-tools/modules.d/thruway-lab""#;
/// What GRUB of Debian 12 reads, and no more: newer e2fsprogs have features of which it knows nothing.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
                        huge_file,dir_nlink,extra_isize,metadata_csum";
const UUID: &str = "7e570000-1ab0-4000-8000-000000000001";
/// Whole megabytes; the file is sparse.
const MEGABYTES: u64 = 3000;
const SECTOR: u64 = 512;
/// Where the only partition begins; before it there is room for GRUB.
const FIRST_SECTOR: u64 = 2048;
/// The label of the second disk, by which the guest finds it.
const TOOLS_LABEL: &str = "thruway-lab";
/// The kernel's arguments at the first boot: here the way is broken. Three of the others are for TCG: without
/// them it translates a library's code anew for each process, and forgets all addresses at each system call. On a busy machine
/// the emulated timer is late, and the kernel's early check of it would end in a panic.
const ARGUMENTS: &str = "console=ttyS0 systemd.show_status=no norandmaps nokaslr mitigations=off \
                         no_timer_check intel_iommu=off";

/// How its SSH server is reached: by one key, and with a host key that is known before it runs.
const SSHD: &str = "HostKey /run/thruway-lab-ssh/host_key\nAuthorizedKeysFile /run/thruway-lab-ssh/authorized_keys\n\
                    PasswordAuthentication no\nUseDNS no\n";
/// What installs itself to run at boot, and does not: the full form has no use for it, `up` starts what it needs.
const STILL: &[&str] = &[
    "ssh.service",
    "libvirtd.service",
    "libvirtd.socket",
    "libvirtd-ro.socket",
    "libvirtd-admin.socket",
    "libvirt-guests.service",
    "virtlogd.socket",
    "virtlogd-admin.socket",
    "virtlockd.socket",
    "virtlockd-admin.socket",
];
/// The user who comes in by SSH, and becomes root by sudo without a password.
pub const USER: &str = "lab";
/// What the guest of `up` is made of beside this machine's own programs: its SSH server, and the runtime of its containers.
const GUEST: &[&str] = &["/usr/sbin/sshd", "/usr/lib/openssh/sftp-server", "/usr/sbin/runc"];

/// Files of the host, with the staged trouble: the IOMMU is switched off.
const FILES: &[(&str, &str)] = &[
    ("/etc/hostname", "lab\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 lab\n"),
    ("/etc/machine-id", "7e5700001ab040008000000000000001\n"),
    // Without these, the first boot compiles the hardware database, which takes minutes here.
    ("/etc/.updated", ""),
    ("/var/.updated", ""),
    ("/etc/fstab", "UUID=7e570000-1ab0-4000-8000-000000000001 / ext4 errors=remount-ro 0 0\n"),
    (
        "/etc/default/grub",
        "GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_DISTRIBUTOR=Debian\n\
         # An old try: the GPU would not start with it on.\n\
         GRUB_CMDLINE_LINUX_DEFAULT=\"intel_iommu=off\"\n\
         GRUB_CMDLINE_LINUX=\"console=ttyS0 systemd.show_status=no norandmaps nokaslr mitigations=off no_timer_check\"\n\
         GRUB_TERMINAL=serial\nGRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"\n",
    ),
    // update-initramfs takes a minute so, and more than five with Debian's own.
    ("/etc/initramfs-tools/conf.d/thruway-lab", "MODULES=dep\nCOMPRESS=gzip\nCOMPRESSLEVEL=1\n"),
    // Its daemon stays, once it was started.
    ("/etc/default/libvirtd", "LIBVIRTD_ARGS=\"\"\n"),
    // Who may come in is said at each boot, by keys that are made for each run.
    ("/etc/ssh/sshd_config.d/thruway-lab.conf", SSHD),
    ("/etc/sudoers.d/lab", "lab ALL=(ALL:ALL) NOPASSWD: ALL\n"),
    (
        "/etc/systemd/system/thruway-lab.service",
        "[Unit]\nDescription=thruway's lab\n\n[Service]\n\
         ExecStartPre=/bin/mkdir -p /run/thruway-lab\n\
         ExecStartPre=/bin/mount -o ro LABEL=thruway-lab /run/thruway-lab\n\
         ExecStart=/bin/sh /run/thruway-lab/boot.sh\n",
    ),
];
/// Links of the host. The console is the script's alone, and nothing else is to run beside it.
const LINKS: &[(&str, &str)] = &[
    ("/etc/systemd/system/multi-user.target.wants/thruway-lab.service", "../thruway-lab.service"),
    ("/etc/systemd/system/getty.target", "/dev/null"),
    ("/etc/systemd/system/timers.target", "/dev/null"),
];

/// A Debian host on a disk.
pub struct Host {
    pub image: PathBuf,
    /// Its kernel, as `uname -r` prints it.
    pub release: String,
    /// A directory with what the guest of `up` is made of: programs and libraries of the same Debian, by their paths.
    pub guest: PathBuf,
}

/// The host's disk, from the cache or freshly made. The cache's name has the digest of all that is said above, so that
/// another thruway's disk is never taken for this one's.
pub fn host(cache: &Path, interrupted: &AtomicBool, tell: &mut dyn FnMut(Event)) -> Result<Host, LabError> {
    let recipe = format!(
        "{SUITE} {PACKAGES} {HOOK} {FEATURES} {UUID} {MEGABYTES} {ARGUMENTS} {FILES:?} {LINKS:?} {STILL:?} \
         {USER} {GUEST:?}"
    );
    let place = cache.join(format!("debian-host-{}", Digest::of(recipe.as_bytes()).short()));
    if !place.is_dir() {
        make(cache, &place, interrupted, tell)?;
    }
    let release = place.join("release");
    let release = std::fs::read_to_string(&release).map_err(LabError::io(release.display().to_string()))?;
    Ok(Host { image: place.join("disk.img"), release, guest: place.join("guest") })
}

fn make(cache: &Path, place: &Path, interrupted: &AtomicBool, tell: &mut dyn FnMut(Event)) -> Result<(), LabError> {
    if !geteuid().is_root() {
        return Err(LabError::Unfit(format!(
            "the lab's Debian disk is not in the cache, and to make it needs root: run `sudo thruway lab --full \
             --cache {}` (or lab up) once; later runs with that cache need no root",
            cache.display()
        )));
    }
    for (program, flag, package) in [
        ("mmdebstrap", "--version", "mmdebstrap"),
        ("mke2fs", "-V", "e2fsprogs"),
        ("unshare", "--version", "util-linux"),
    ] {
        parts::run(parts::admin(program).arg(flag), package)?;
    }
    std::fs::create_dir_all(cache).map_err(LabError::io(cache.display().to_string()))?;
    // Beside its last place, so that the rename is one step and a broken disk is never taken for a whole one.
    let part = tempfile::Builder::new().prefix(".part-").tempdir_in(cache);
    let part = part.map_err(LabError::io(cache.display().to_string()))?;
    let tree = part.path().join("tree");
    tell(Event::Preparing(format!("making a Debian 12 host (some minutes, once; kept in {})", place.display())));
    let mut mmdebstrap = Command::new("unshare");
    // mmdebstrap mounts /proc, /sys and /dev in the tree: in a namespace of its own, none can be left behind, not even
    // when it is killed.
    mmdebstrap.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--", "mmdebstrap"]);
    mmdebstrap.args(["--mode=root", "--variant=minbase", "--aptopt=APT::Install-Recommends \"false\""]);
    for unread in ["doc", "man", "locale", "info"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{unread}/*"));
    }
    mmdebstrap.arg(format!("--include={PACKAGES}")).arg(format!("--essential-hook={HOOK}")).arg(SUITE).arg(&tree);
    // What it leaves when it is killed goes with the rest.
    run(mmdebstrap.env("TMPDIR", part.path()), "mmdebstrap", interrupted)?;
    tell(Event::Preparing("putting GRUB and the host's files on its disk".into()));
    let release = furnish(&tree)?;
    let fresh = part.path().join("fresh");
    std::fs::create_dir(&fresh).map_err(LabError::io(fresh.display().to_string()))?;
    write(&fresh.join("release"), release.as_bytes())?;
    programs(&tree, &fresh.join("guest"))?;
    image(&tree, &fresh.join("disk.img"), interrupted)?;
    match std::fs::rename(&fresh, place) {
        Ok(()) => Ok(()),
        // Another lab was faster.
        Err(_) if place.is_dir() => Ok(()),
        Err(source) => Err(LabError::Io { what: place.display().to_string(), source }),
    }
}

/// Makes a host of the tree; answers with its kernel's release.
fn furnish(tree: &Path) -> Result<String, LabError> {
    let modules = tree.join("lib/modules");
    let release = std::fs::read_dir(&modules)
        .map_err(LabError::io(modules.display().to_string()))?
        .find_map(|entry| entry.ok()?.file_name().into_string().ok())
        .ok_or_else(|| LabError::Unfit("mmdebstrap installed no kernel".into()))?;
    let inside = |path: &str| tree.join(path.trim_start_matches('/'));
    for (path, text) in FILES {
        write(&inside(path), text.as_bytes())?;
    }
    for (path, to) in LINKS {
        let path = inside(path);
        parent(&path)?;
        symlink(to, &path).map_err(LabError::io(path.display().to_string()))?;
    }
    // A key that every copy of the disk has is nobody's.
    let kinds = ["rsa", "ecdsa", "ed25519"];
    let keys = kinds.iter().flat_map(|kind| ["", ".pub"].map(|end| format!("/etc/ssh/ssh_host_{kind}_key{end}")));
    // And libvirt's own network wants a DHCP server, which is not there.
    for path in keys.chain(["/etc/libvirt/qemu/networks/autostart/default.xml".to_owned()]) {
        match std::fs::remove_file(inside(&path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(LabError::io(path)(error)),
            _ => {}
        }
    }
    let sudoers = inside("/etc/sudoers.d/lab");
    std::fs::set_permissions(&sudoers, std::fs::Permissions::from_mode(0o440))
        .map_err(LabError::io(sudoers.display().to_string()))?;
    let within = |command: &[&str]| parts::run(Command::new("chroot").arg(tree).args(command), "coreutils");
    within(&["useradd", "--create-home", "--shell", "/bin/bash", USER])?;
    within(&[&["systemctl", "disable", "--quiet"], STILL].concat())?;
    // The first one by hand: update-grub looks at disks, and there is none yet.
    let first = format!(
        "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n\
         search --no-floppy --fs-uuid --set=root {UUID}\n\
         echo 'Loading Linux {release} ...'\n\
         linux /boot/vmlinuz-{release} root=UUID={UUID} ro {ARGUMENTS}\n\
         echo 'Loading initial ramdisk ...'\n\
         initrd /boot/initrd.img-{release}\nboot\n"
    );
    write(&inside("/boot/grub/grub.cfg"), first.as_bytes())?;
    let from = inside("/usr/lib/grub/i386-pc");
    for entry in std::fs::read_dir(&from).map_err(LabError::io(from.display().to_string()))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "mod" || extension == "lst") {
            write(&inside("/boot/grub/i386-pc").join(entry.file_name()), &parts::bytes(&path)?)?;
        }
    }
    let mut grub = Command::new("chroot");
    grub.arg(tree).args(["grub-mkimage", "-O", "i386-pc", "-o", "/tmp/core.img", "-p", "(hd0,msdos1)/boot/grub"]);
    parts::run(grub.args(["biosdisk", "part_msdos", "ext2"]), "coreutils")?;
    Ok(release)
}

/// Copies the guest's programs and all that they load out of the tree, by their paths in it.
fn programs(tree: &Path, to: &Path) -> Result<(), LabError> {
    for program in GUEST {
        let mut ldd = Command::new("chroot");
        let listed = parts::run(ldd.arg(tree).args(["ldd", program]), "coreutils")?;
        for path in listed.lines().filter_map(parts::library).chain([*program]) {
            let path = path.trim_start_matches('/');
            write(&to.join(path), &parts::bytes(&tree.join(path))?)?;
        }
    }
    Ok(())
}

/// Lays the tree out on a disk: master boot record, GRUB in the gap behind it, one partition.
fn image(tree: &Path, image: &Path, interrupted: &AtomicBool) -> Result<(), LabError> {
    let core = tree.join("tmp/core.img");
    let grub = parts::bytes(&core)?;
    let boot = parts::bytes(&tree.join("usr/lib/grub/i386-pc/boot.img"))?;
    let record = record(&boot, &grub)?;
    std::fs::remove_file(&core).map_err(LabError::io(core.display().to_string()))?;
    let failed = || LabError::io(image.display().to_string());
    let mut disk = std::fs::File::create_new(image).map_err(failed())?;
    disk.set_len(MEGABYTES << 20).map_err(failed())?;
    let mut mke2fs = parts::admin("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", FEATURES, "-U", UUID, "-E"]);
    mke2fs.arg(format!("offset={}", FIRST_SECTOR * SECTOR)).arg("-d").arg(tree).arg(image);
    run(mke2fs.arg(format!("{}k", ((MEGABYTES << 20) - FIRST_SECTOR * SECTOR) >> 10)), "mke2fs", interrupted)?;
    disk.seek(SeekFrom::Start(0)).map_err(failed())?;
    disk.write_all(&record).map_err(failed())?;
    disk.sync_all().map_err(failed())
}

/// The first sectors of the disk: the boot loader's first stage (440 bytes at most), the partition table, and GRUB.
fn record(boot: &[u8], grub: &[u8]) -> Result<Vec<u8>, LabError> {
    let count = u32::try_from((MEGABYTES << 20) / SECTOR - FIRST_SECTOR).unwrap_or(u32::MAX);
    if boot.len() < 440 || grub.len() as u64 > (FIRST_SECTOR - 1) * SECTOR {
        return Err(LabError::Unfit("GRUB's boot.img or core.img has not the size that it should have".into()));
    }
    let mut record: Vec<u8> = boot.iter().take(440).copied().collect();
    // Disk signature, and two bytes that are always zero.
    record.extend([0x1a, 0xb0, 0x57, 0x7e, 0, 0]);
    // Active, Linux; cylinders and heads are past what they can say.
    record.extend([0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
    record.extend(u32::try_from(FIRST_SECTOR).unwrap_or(u32::MAX).to_le_bytes());
    record.extend(count.to_le_bytes());
    record.resize(510, 0);
    record.extend([0x55, 0xaa]);
    record.extend(grub);
    Ok(record)
}

/// The second disk: the script, these programs with their libraries and their loader, and these files by their names.
/// The libraries are this machine's and not the host's, so that a newer C library here does no harm there.
pub fn tools(
    dir: &Path,
    script: &str,
    programs: &[(&str, &Path)],
    files: &[(String, Vec<u8>)],
) -> Result<PathBuf, LabError> {
    let tree = dir.join("tools");
    write(&tree.join("boot.sh"), script.as_bytes())?;
    let mut size = 0;
    let mut add = |content: &[u8], to: PathBuf| {
        size += content.len() as u64;
        write(&to, content)?;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))
            .map_err(LabError::io(to.display().to_string()))
    };
    for (name, program) in programs {
        add(&parts::bytes(program)?, tree.join(name))?;
        for library in parts::libraries(program)? {
            let name = library.rsplit('/').next().unwrap_or(&library);
            let name = if name.starts_with("ld-linux") { "loader" } else { name };
            let to = tree.join("lib").join(name);
            if !to.exists() {
                add(&parts::bytes(Path::new(&library))?, to)?;
            }
        }
    }
    for (name, content) in files {
        add(content, tree.join(name))?;
    }
    let image = dir.join("tools.img");
    let mut mke2fs = parts::admin("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext2", "-L", TOOLS_LABEL, "-d"]).arg(&tree).arg(&image);
    // A tenth for the file system itself.
    parts::run(mke2fs.arg(format!("{}M", size / 10 * 11 / (1 << 20) + 8)), "e2fsprogs")?;
    Ok(image)
}

fn parent(path: &Path) -> Result<(), LabError> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(LabError::io(path.display().to_string()))
}

fn write(path: &Path, content: &[u8]) -> Result<(), LabError> {
    parent(path)?;
    std::fs::write(path, content).map_err(LabError::io(path.display().to_string()))
}

/// Runs a long command to its end, or kills it and all that it started as soon as the lab is interrupted.
fn run(command: &mut Command, name: &str, interrupted: &AtomicBool) -> Result<(), LabError> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(LabError::io(name))?;
    let errors = child.stderr.take().map(|mut from| {
        std::thread::spawn(move || {
            let mut said = Vec::new();
            // What cannot be read is only not shown.
            let _ = from.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        })
    });
    let status = loop {
        if let Some(status) = child.try_wait().map_err(LabError::io(name))? {
            break Some(status);
        }
        if interrupted.load(Ordering::Relaxed) {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    // At the end of the stream everything that had it open has ended.
    let said = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
    match status {
        None => Err(LabError::Interrupted),
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            let lines: Vec<&str> = said.lines().rev().filter(|line| !line.trim().is_empty()).take(4).collect();
            let why = lines.into_iter().rev().collect::<Vec<_>>().join("; ");
            Err(LabError::Tool { command: name.into(), why: format!("{status}: {why}") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_record_has_its_parts_in_their_places() {
        let record = record(&[0xeb; 512], b"core").expect("sizes that fit");
        assert_eq!(&record[510..512], &[0x55, 0xaa]);
        assert_eq!(&record[512..], b"core", "GRUB stands in the second sector");
        assert_eq!(record[446], 0x80);
        assert_eq!(record[450], 0x83);
        assert_eq!(&record[454..458], &2048_u32.to_le_bytes());
        assert_eq!(&record[458..462], &(3000 * 2048_u32 - 2048).to_le_bytes());
        assert!(super::record(&[0; 512], &vec![0; 1 << 20]).is_err(), "it would run into the partition");
        assert!(super::record(&[0; 100], b"core").is_err());
    }

    #[test]
    fn the_files_agree_with_the_disk() {
        let text = |path: &str| FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text).expect("a file");
        assert!(text("/etc/fstab").contains(UUID));
        assert!(text("/etc/systemd/system/thruway-lab.service").contains(&format!("LABEL={TOOLS_LABEL} ")));
        for argument in ARGUMENTS.split(' ') {
            assert!(text("/etc/default/grub").contains(argument), "{argument}");
        }
    }

    #[test]
    fn a_long_command_is_killed_when_interrupted() {
        let interrupted = AtomicBool::new(true);
        let began = std::time::Instant::now();
        let result = run(Command::new("sleep").arg("60"), "sleep", &interrupted);
        assert!(matches!(result, Err(LabError::Interrupted)), "{result:?}");
        assert!(began.elapsed() < Duration::from_secs(30));
        let failed = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), "sh", &AtomicBool::new(false));
        assert!(matches!(&failed, Err(LabError::Tool { why, .. }) if why.contains("why")), "{failed:?}");
    }
}
