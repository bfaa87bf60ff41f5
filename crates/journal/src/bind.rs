//! A PCI function changes hands now: `driver_override` first, then unbind, then bind, each write in a child of its own.
//!
//! A write to `unbind` returns when the driver has let go, and a driver that is in use may never do so: nvidia's waits
//! in `nv_pci_remove` until the last user is gone, vfio-pci's until the VM has closed the device. Such a writer sleeps
//! uninterruptibly, and a process of which one thread sleeps so cannot end. Hence the child: it may be left behind, and
//! thruway says so instead of hanging. Source of the attributes: Documentation/ABI/testing/sysfs-bus-pci of the kernel.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use machine::{Machine, MachineExt as _, Root};
use model::{Bdf, BindOp, Hold, PciId, Seen, Taker};

use crate::HandError;

/// How long a write to `unbind` or `bind` may take unless the user says otherwise. A driver that is not in use needs
/// two or three seconds for a data-centre card.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How long we wait for a child that was killed. One that sleeps uninterruptibly does not go.
const GRACE: Duration = Duration::from_millis(500);

/// The function's directory, `/sys/bus/pci/devices/0000:26:00.0`.
pub fn device(bdf: Bdf) -> String {
    format!("/sys/bus/pci/devices/{bdf}")
}

/// Who has a function now. What cannot be read counts as nobody: whoever acts on it looks at the identity first.
pub fn seen(machine: &dyn Machine, bdf: Bdf) -> Hold {
    let driver = match machine.link_name(&format!("{}/driver", device(bdf))) {
        Seen::Is(name) if !name.is_empty() => Taker::Driver(name),
        _ => Taker::Nobody,
    };
    let forced = machine.value(&format!("{}/driver_override", device(bdf))).is();
    Hold { driver, forced: forced.filter(|name| !name.is_empty() && name != "(null)") }
}

/// Refuses where another card (or none) sits at the address than the plan was made for.
pub fn same_card(machine: &dyn Machine, op: &BindOp) -> Result<(), HandError> {
    let number = |name: &str| {
        let text = machine.value(&format!("{}/{name}", device(op.bdf))).is()?;
        u16::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let found = number("vendor").zip(number("device")).map(|(vendor, device)| PciId::new(vendor, device));
    if found == Some(op.id) {
        return Ok(());
    }
    let found = found.map_or("nothing".to_owned(), |id| id.to_string());
    Err(HandError::Moved { what: op.bdf.to_string(), wanted: op.id.to_string(), found })
}

/// How a function is moved on the machine at `root`.
pub(crate) struct Binder<'a> {
    pub root: &'a Path,
    pub limit: Duration,
    /// A program that copies its standard input to its standard output: `cat`.
    pub writer: &'a [String],
}

impl Binder<'_> {
    /// Makes `op`'s function `to`'s. Nothing is written where it is so already.
    pub fn carry(&self, op: &BindOp, to: &Hold) -> Result<(), HandError> {
        let machine = if self.root == Path::new("/") { Root::live() } else { Root::tree(self.root) };
        let machine = machine.map_err(|source| HandError::Io { path: self.root.display().to_string(), source })?;
        same_card(&machine, op)?;
        let now = seen(&machine, op.bdf);
        if to.met_by(&now) {
            return Ok(());
        }
        let at = device(op.bdf);
        if let Taker::Driver(name) = &to.driver {
            self.load(&machine, name)?;
        }
        // Before the driver is told to let go: between the two no other driver may come, and udev tries one at once.
        if now.forced != to.forced {
            self.write(op, &format!("{at}/driver_override"), to.forced.as_deref().unwrap_or_default())?;
        }
        if now.driver != to.driver {
            if let Taker::Driver(_) = &now.driver {
                self.write(op, &format!("{at}/driver/unbind"), &op.bdf.to_string())?;
            }
            match &to.driver {
                Taker::Driver(name) => {
                    self.write(op, &format!("/sys/bus/pci/drivers/{name}/bind"), &op.bdf.to_string())?;
                }
                Taker::Kernel => self.write(op, "/sys/bus/pci/drivers_probe", &op.bdf.to_string())?,
                Taker::Nobody => {}
            }
        }
        let now = seen(&machine, op.bdf);
        if to.met_by(&now) {
            return Ok(());
        }
        let message = format!("{} has it; look at the last lines of dmesg", now.driver);
        Err(HandError::Failed {
            command: format!("giving {} to {}", op.bdf, to.driver),
            status: "no effect".into(),
            message,
        })
    }

    /// Loads a driver's module where the driver is not there yet.
    fn load(&self, machine: &Root, driver: &str) -> Result<(), HandError> {
        if machine.exists(&format!("/sys/bus/pci/drivers/{driver}")) {
            return Ok(());
        }
        let words = format!("modprobe -- {driver}");
        let mut command = Command::new("modprobe");
        command.args(["--", driver]).stdin(Stdio::null()).stdout(Stdio::null());
        let start = |source| HandError::Start { command: words.clone(), source };
        let child = command.env("LC_ALL", "C").stderr(Stdio::piped()).process_group(0).spawn().map_err(start)?;
        self.end(child, &words)
    }

    fn write(&self, op: &BindOp, path: &str, value: &str) -> Result<(), HandError> {
        let io = |source| HandError::Io { path: path.to_owned(), source };
        let full = self.root.join(path.trim_start_matches('/'));
        // Opened here: that takes no lock in the kernel, and a missing attribute is said with its name.
        let file = std::fs::OpenOptions::new().write(true).open(full).map_err(io)?;
        let what = format!("writing \"{value}\" to {path}");
        let (program, args) =
            self.writer.split_first().map_or(("cat", &[][..]), |(first, rest)| (first.as_str(), rest));
        let start = |source| HandError::Start { command: program.to_owned(), source };
        let mut command = Command::new(program);
        // A group of its own, so that a Ctrl-C at our terminal does not end a bind midway.
        command.args(args).env("LC_ALL", "C").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::from(file)).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(start)?;
        if let Some(mut pipe) = child.stdin.take() {
            // A program that does not read to the end says why by its own status.
            let _ = pipe.write_all(format!("{value}\n").as_bytes());
        }
        self.end(child, &what).map_err(|error| match error {
            HandError::Hung { what, seconds, evidence, stuck, .. } => {
                let instead = format!(
                    "Something that cannot be seen from outside still uses {}. What is under way goes through by itself \
                     once that is gone; if it never goes, only a reboot frees the card",
                    op.bdf
                );
                HandError::Hung { what, seconds, evidence, instead, stuck }
            }
            other => other,
        })
    }

    /// Waits for a child, but not for ever.
    fn end(&self, mut child: Child, what: &str) -> Result<(), HandError> {
        let lost = |source| HandError::Start { command: what.to_owned(), source };
        if let Some(status) = wait(&mut child, self.limit).map_err(lost)? {
            if status.success() {
                return Ok(());
            }
            let mut text = String::new();
            if let Some(pipe) = child.stderr.take() {
                let _ = pipe.take(4096).read_to_string(&mut text);
            }
            // "cat: write error: Device or resource busy": the kernel's own words stand last.
            let message = text.lines().last().unwrap_or_default().trim().to_owned();
            let status = status.code().map_or("killed".to_owned(), |code| format!("exit status {code}"));
            return Err(HandError::Failed { command: what.to_owned(), status, message });
        }
        let evidence = asleep(child.id());
        let _ = child.kill();
        let stuck = !matches!(wait(&mut child, GRACE), Ok(Some(_)));
        let fate = if stuck { "and cannot be killed" } else { "and went when it was killed" };
        let (seconds, evidence) = (self.limit.as_secs(), format!("{evidence}, {fate}"));
        Err(HandError::Hung { what: what.to_owned(), seconds, evidence, instead: String::new(), stuck })
    }
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() >= limit {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// What a process waits for: "process 4711, state D in nv_pci_remove".
fn asleep(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may itself hold blanks and brackets.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
    let place = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    match place.trim() {
        "" | "0" => format!("process {pid}, state {state}"),
        place => format!("process {pid}, state {state} in {place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("sys/bus/pci");
        for (path, text) in [
            ("devices/0000:26:00.0/vendor", "0x10de\n"),
            ("devices/0000:26:00.0/device", "0x1d01\n"),
            ("devices/0000:26:00.0/driver_override", "(null)\n"),
            ("drivers/nouveau/unbind", ""),
            ("drivers/nouveau/bind", ""),
            ("drivers/vfio-pci/bind", ""),
        ] {
            std::fs::create_dir_all(at.join(path).parent().unwrap()).unwrap();
            std::fs::write(at.join(path), text).unwrap();
        }
        std::os::unix::fs::symlink("../../drivers/nouveau", at.join("devices/0000:26:00.0/driver")).unwrap();
        dir
    }

    fn op() -> BindOp {
        let bdf = Bdf::new(0, 0x26, 0, 0);
        let from = Hold { driver: Taker::Driver("nouveau".into()), forced: None };
        let to = Hold { driver: Taker::Driver("vfio-pci".into()), forced: Some("vfio-pci".into()) };
        BindOp { bdf, id: PciId::new(0x10de, 0x1d01), from, to }
    }

    fn text(dir: &tempfile::TempDir, path: &str) -> String {
        std::fs::read_to_string(dir.path().join("sys/bus/pci").join(path)).unwrap()
    }

    fn words(argv: &[&str]) -> Vec<String> {
        argv.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn writes_override_unbind_and_bind_and_believes_only_the_link() {
        let dir = tree();
        let writer = words(&["cat"]);
        let binder = Binder { root: dir.path(), limit: LIMIT, writer: &writer };
        let error = binder.carry(&op(), &op().to).unwrap_err();
        // A tree's link does not follow the write, as with a driver that refuses.
        assert!(error.to_string().contains("nouveau has it"), "{error}");
        assert!(text(&dir, "devices/0000:26:00.0/driver_override").starts_with("vfio-pci\n"));
        assert_eq!(text(&dir, "drivers/nouveau/unbind"), "0000:26:00.0\n");
        assert_eq!(text(&dir, "drivers/vfio-pci/bind"), "0000:26:00.0\n");
    }

    #[test]
    fn an_unbind_that_does_not_come_back_is_told_in_time() {
        let dir = tree();
        let writer = words(&["sleep", "60"]);
        let binder = Binder { root: dir.path(), limit: Duration::from_millis(300), writer: &writer };
        let began = Instant::now();
        let error = binder.carry(&op(), &op().to).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(matches!(&error, HandError::Hung { .. }), "{error}");
        let says = error.to_string();
        assert!(says.contains("driver_override") && says.contains("state S"), "{says}");
        // The first write hung, so nothing after it was tried.
        assert_eq!(text(&dir, "drivers/nouveau/unbind"), "");
    }

    #[test]
    fn what_the_kernel_says_is_passed_on() {
        let dir = tree();
        // Every write to it fails as a busy device's does, whoever writes.
        std::fs::remove_file(dir.path().join("sys/bus/pci/drivers/nouveau/unbind")).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("sys/bus/pci/drivers/nouveau/unbind")).unwrap();
        let writer = words(&["cat"]);
        let binder = Binder { root: dir.path(), limit: LIMIT, writer: &writer };
        let says = binder.carry(&op(), &op().to).unwrap_err().to_string();
        assert!(says.contains("driver/unbind") && says.contains("No space left on device"), "{says}");
        assert_eq!(text(&dir, "drivers/vfio-pci/bind"), "", "bound although unbinding failed");
    }

    #[test]
    fn another_card_at_the_address_is_refused() {
        let dir = tree();
        let writer = words(&["cat"]);
        let binder = Binder { root: dir.path(), limit: LIMIT, writer: &writer };
        let other = BindOp { id: PciId::new(0x10de, 0x2204), ..op() };
        let says = binder.carry(&other, &other.to).unwrap_err().to_string();
        assert!(says.contains("10de:1d01 is there now") && says.contains("10de:2204"), "{says}");
        assert!(text(&dir, "devices/0000:26:00.0/driver_override").starts_with("(null)"));
    }

    #[test]
    fn nothing_is_written_where_it_is_so_already() {
        let dir = tree();
        let writer = words(&["false"]);
        let binder = Binder { root: dir.path(), limit: LIMIT, writer: &writer };
        binder.carry(&op(), &op().from).unwrap();
    }
}
