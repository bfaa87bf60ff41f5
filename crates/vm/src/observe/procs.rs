//! The QEMU processes that run.

use formats::qemuargs::QemuArgs;
use machine::{Machine, MachineExt};
use model::{Bdf, Reason, Seen};

use crate::Running;

/// Every QEMU process, by its command line.
pub struct Procs {
    pub list: Vec<(u32, QemuArgs)>,
    /// Why the list may be short: /proc is not to be read, or a process's command line is not.
    pub blind: Option<Reason>,
}

/// Looks at each process's name first: a command line is read of those only that may be QEMU.
pub fn observe(machine: &dyn Machine) -> Procs {
    let names = match machine.list("/proc") {
        Seen::Is(names) => names,
        Seen::Absent => return Procs { list: Vec::new(), blind: None },
        Seen::Unreadable(reason) => return Procs { list: Vec::new(), blind: Some(reason) },
    };
    let mut procs = Procs { list: Vec::new(), blind: None };
    for pid in names.iter().filter_map(|name| name.parse::<u32>().ok()) {
        // "qemu-system-x86", "kvm": the kernel keeps 15 letters
        let named = machine.value(&format!("/proc/{pid}/comm"));
        if !named.get().is_none_or(|name| name.starts_with("qemu") || name.contains("kvm")) {
            continue;
        }
        match machine.read(&format!("/proc/{pid}/cmdline")) {
            Seen::Is(bytes) => {
                // a relative path is the process's own; it stays unread, and is named
                let mut read = |path: &str| machine.text(path).is().filter(|_| path.starts_with('/'));
                let Some(mut args) = QemuArgs::from_cmdline_with(&bytes, &mut read) else { continue };
                for device in args.vfio.iter_mut().filter(|device| device.host.is_none()) {
                    device.host = device.fd.as_deref().and_then(|fd| by_descriptor(machine, pid, fd));
                }
                procs.list.push((pid, args));
            }
            // ended meanwhile
            Seen::Absent => {}
            Seen::Unreadable(Reason::NotCaptured) => {}
            Seen::Unreadable(reason) => procs.blind = Some(reason),
        }
    }
    procs
}

/// The function behind a descriptor of iommufd's kind: /proc/PID/fd/24 leads to /dev/vfio/devices/vfio0, whose device
/// the kernel names in /sys/class/vfio-dev.
fn by_descriptor(machine: &dyn Machine, pid: u32, fd: &str) -> Option<Bdf> {
    let fd: u32 = fd.parse().ok()?;
    let name = machine.link_name(&format!("/proc/{pid}/fd/{fd}")).is()?;
    let number = name.strip_prefix("vfio")?;
    number.parse::<u32>().ok()?;
    machine.link_name(&format!("/sys/class/vfio-dev/{name}/device")).is()?.parse().ok()
}

impl Procs {
    /// The process with this pid (from a pid file), else the first that `is` the VM.
    pub fn find(&self, pid: Seen<u32>, is: impl Fn(&QemuArgs) -> bool) -> Running {
        let by_pid = pid.get().and_then(|pid| self.list.iter().find(|(other, _)| other == pid));
        let found = by_pid.filter(|(_, args)| is(args)).or_else(|| self.list.iter().find(|(_, args)| is(args)));
        match (found, &self.blind) {
            (Some((pid, args)), _) => Running::Yes { pid: *pid, args: Box::new(args.clone()) },
            // a stale pid file is no process
            (None, None) => Running::No,
            (None, Some(reason)) => Running::Unknown(reason.clone()),
        }
    }
}
