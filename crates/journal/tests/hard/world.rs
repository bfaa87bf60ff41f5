//! What the tests share: a small bootable tree, its generators, plans over it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use crate::common::snapshot;
use journal::{HandError, Hands};
use model::{Before, Change, Content, Digest, Effective, Intent, Layer, Op, Plan, Risk, ServiceVerb, Tool, Undo};

pub const GRUB: &str = "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n";
pub const WANTED: &str = "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet intel_iommu=on\"\n";
/// What a whole generated file ends in.
pub const WHOLE: &str = "# whole\n";
pub const GRUB_CFG: &str = "boot/grub/grub.cfg";
pub const INITRD: &str = "boot/initrd.img-6.1.0-1";

/// Stands in for update-grub and update-initramfs: each writes beside and renames, as the real ones do.
pub struct Boot {
    pub root: PathBuf,
    pub said: Mutex<Vec<String>>,
    /// Generators stop halfway, their output cut short in place, from this run on (0: the first).
    pub breaks_from: Option<usize>,
    pub runs: Mutex<usize>,
    /// The service step fails.
    pub no_service: bool,
    /// Called with each file that a generator has put in place.
    pub placed: Box<dyn Fn(&Path)>,
}

impl Boot {
    pub fn new(root: &Path) -> Self {
        let (said, runs) = (Mutex::default(), Mutex::default());
        Boot { root: root.to_owned(), said, breaks_from: None, runs, no_service: false, placed: Box::new(|_| {}) }
    }

    pub fn generate(&self, tool: &Tool) -> Result<(), HandError> {
        let run = {
            let mut runs = self.runs.lock().unwrap();
            *runs += 1;
            *runs - 1
        };
        let (input, output) = match tool {
            Tool::UpdateGrub => ("etc/default/grub", GRUB_CFG),
            _ => ("etc/initramfs-tools/modules", INITRD),
        };
        let mut text = std::fs::read_to_string(self.root.join(input)).unwrap_or_default();
        text.push_str(WHOLE);
        let output = self.root.join(output);
        if self.breaks_from.is_some_and(|from| run >= from) {
            std::fs::write(&output, &text[..4]).unwrap();
            let message = "no space left on device".into();
            return Err(HandError::Failed { command: "generator".into(), status: "exit status 1".into(), message });
        }
        let mut beside = output.clone().into_os_string();
        beside.push(".new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, &output).unwrap();
        (self.placed)(&output);
        Ok(())
    }

    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

impl Hands for Boot {
    fn act(&self, op: &Op) -> Result<(), HandError> {
        self.said.lock().unwrap().push(format!("act {op:?}"));
        match op {
            Op::Regenerate(tool) => self.generate(tool),
            Op::Service { .. } if self.no_service => {
                Err(HandError::NotHere { what: "systemctl".into(), why: "told to fail".into() })
            }
            _ => Ok(()),
        }
    }

    fn take_back(&self, op: &Op) -> Result<(), HandError> {
        self.said.lock().unwrap().push(format!("back {op:?}"));
        match op {
            Op::Regenerate(tool) => self.generate(tool),
            _ => Ok(()),
        }
    }
}

pub fn change(title: &str, op: Op, expects: Before) -> Change {
    Change {
        layer: Layer::Host,
        title: title.into(),
        op,
        expects,
        because: vec!["host/test".into()],
        risk: vec![Risk::Reboot],
        effective: Effective::NextBoot,
        undo: Undo::Exact,
    }
}

pub fn write(path: &str, text: &str, expects: Before) -> Change {
    let op = Op::WriteFile { path: path.into(), content: Content::Text(text.into()), mode: 0o640 };
    change(&format!("write {path}"), op, expects)
}

pub fn remove(path: &str, text: &str) -> Change {
    change(&format!("remove {path}"), Op::RemoveFile { path: path.into() }, file(text))
}

pub fn file(text: &str) -> Before {
    Before::File(Digest::of(text.as_bytes()))
}

pub fn regenerate(tool: Tool) -> Change {
    change(tool.argv()[0], Op::Regenerate(tool), Before::Nothing)
}

pub fn service(verb: ServiceVerb) -> Change {
    change("the service", Op::Service { unit: "x.service".into(), verb }, Before::Nothing)
}

pub fn plan_of(changes: Vec<Change>) -> Plan {
    let mut plan = Plan::new(Layer::Host, &Intent::default(), BTreeMap::new());
    plan.changes = changes;
    plan
}

/// The host floor's usual plan: an edit, a new file in new directories, a removal, both generators, a service.
pub fn plan() -> Plan {
    plan_of(vec![
        write("/etc/default/grub", WANTED, file(GRUB)),
        write("/etc/udev/rules.d/61-thruway.rules", "ACTION==\"add\"\n", Before::NoFile),
        write("/etc/initramfs-tools/modules", "loop\nvfio-pci\n", file("loop\n")),
        remove("/etc/old.conf", "old\n"),
        regenerate(Tool::UpdateInitramfs),
        regenerate(Tool::UpdateGrub),
        service(ServiceVerb::Restart),
    ])
}

/// In memory where the machine has such a place: these tests fsync some ten thousand times.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub fn lay(root: &Path) {
    for dir in ["etc/default", "etc/initramfs-tools", "boot/grub", "var/lib"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::write(root.join("etc/default/grub"), GRUB).unwrap();
    std::fs::set_permissions(root.join("etc/default/grub"), PermissionsExt::from_mode(0o604)).unwrap();
    std::fs::write(root.join("etc/initramfs-tools/modules"), "loop\n").unwrap();
    std::fs::write(root.join("etc/old.conf"), "old\n").unwrap();
    let boot = Boot::new(root);
    boot.generate(&Tool::UpdateGrub).unwrap();
    boot.generate(&Tool::UpdateInitramfs).unwrap();
}

pub fn tree() -> tempfile::TempDir {
    let dir = directory();
    lay(dir.path());
    dir
}

/// GRUB's configuration and the initrd are there, and neither is cut short.
pub fn bootable(root: &Path) -> Result<(), String> {
    for name in [GRUB_CFG, INITRD] {
        let text = std::fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"))?;
        if !text.ends_with(WHOLE) {
            return Err(format!("{name} is not whole: {text:?}"));
        }
    }
    Ok(())
}

pub fn log_path(root: &Path) -> PathBuf {
    root.join("var/lib/thruway/journal")
}

/// A mount that goes when the test ends, whatever its end.
pub struct Mounted(PathBuf);

impl Mounted {
    /// `None`, and why on stdout, where this process may not mount.
    pub fn new(args: &[&str], at: &Path) -> Option<Self> {
        let done = std::process::Command::new("mount").args(args).arg(at).output();
        match done {
            Ok(output) if output.status.success() => Some(Mounted(at.to_owned())),
            Ok(output) => {
                println!("SKIP mount: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("SKIP mount: {error}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
