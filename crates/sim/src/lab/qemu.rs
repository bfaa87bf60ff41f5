//! The lab's machine: QEMU in a process group of its own, its console, and the threads that are its card.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process_group};

use super::LabError;
use super::card::{Function, GT1030, GT1030_AUDIO, Model};
use super::parts;
use super::wire::{Message, WireError, answer};

/// Where the fake card sits on a host that there is not.
const HINT: &str = "thruway.dev/gpu:1;id=10de:1d01;pci=0000:2b:00.0;slot=4;numa=0;max=16.0x16;now=2.5x16";

const QEMU: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// A longer line of the console is cut: the guest must not fill our memory.
const LONGEST_LINE: u64 = 4096;
/// How much of what was said last is kept.
const KEPT: usize = 20;

/// A host is judged as one: it does not see that it runs on QEMU, by the CPU's flag or the firmware's names. With SVM,
/// which TCG emulates, its KVM works: an emulator in the emulator would be ten times as slow.
const HOST: [&str; 4] = ["-cpu", "qemu64,-hypervisor,+svm,+npt", "-smbios", "type=1,manufacturer=thruway,product=lab"];

/// The first line of QEMU's version.
pub fn version() -> Result<String, LabError> {
    let said = parts::run(Command::new(QEMU).arg("--version"), PACKAGE)?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// What came from the console.
pub enum Heard {
    Line(String),
    /// Nothing in the time given.
    Nothing,
    /// QEMU closed its console: it has ended.
    End,
}

/// What QEMU boots.
pub enum Boot {
    /// A kernel with its initramfs, ended by the guest's power-off or reboot.
    Kernel { kernel: PathBuf, initramfs: PathBuf, memory: &'static str },
    /// A disk's own boot loader, through reboots, with a second disk for what is not Debian's. Neither is written to:
    /// what the guest writes goes to a temporary file in `scratch`.
    Disk { root: PathBuf, tools: PathBuf, scratch: PathBuf },
    /// The same with a root that is written to (qcow2) and outlives QEMU, a disk for a guest, and a network that reaches
    /// nothing: only this port of this machine leads to the host's SSH.
    Kept { root: PathBuf, tools: PathBuf, guest: PathBuf, port: u16 },
}

/// A disk in QEMU's words. What it writes may stay in this machine's memory: a kill of QEMU loses none of that.
fn drive(command: &mut Command, id: &str, form: &str, file: &Path) {
    // In a QEMU option a comma is written twice.
    let file = file.display().to_string().replace(',', ",,");
    command.arg("-drive").arg(format!("if=none,id={id},format={form},cache=unsafe,file={file}"));
    let first = if id == "root" { ",bootindex=0" } else { "" };
    command.arg("-device").arg(format!("virtio-blk-pci,drive={id},serial={id}{first}"));
}

impl Boot {
    fn memory(&self) -> &'static str {
        match self {
            Boot::Kernel { memory, .. } => memory,
            Boot::Disk { .. } => "2G",
            Boot::Kept { .. } => "3G",
        }
    }

    /// On a disk that boots thrice: with more room for translated code, what is left of the last boot makes GRUB take
    /// minutes, since a write to a page looks through all code that was ever translated of it. An initramfs boots once.
    fn accelerator(&self) -> &'static str {
        match self {
            Boot::Kernel { .. } => "tcg",
            Boot::Disk { .. } | Boot::Kept { .. } => "tcg,tb-size=64",
        }
    }

    fn arguments(&self, command: &mut Command) {
        match self {
            Boot::Kernel { kernel, initramfs, .. } => {
                command.arg("-no-reboot").arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
                // On a busy machine the emulated timer is late, and the kernel's early check of it would end in a panic.
                command.args(HOST);
                command.args(["-append", "console=ttyS0 intel_iommu=on no_timer_check panic=-1 quiet"]);
                // As a host would tell it that had the card in its slot 4.
                command.args(["-smbios", &format!("type=11,value={HINT}")]);
            }
            Boot::Disk { root, tools, scratch } => {
                command.args(HOST);
                drive(command, "root", "raw,snapshot=on", root);
                drive(command, "tools", "raw,snapshot=on", tools);
                // Otherwise the first seconds of a boot wait for randomness.
                command.args(["-device", "virtio-rng-pci"]);
                command.env("TMPDIR", scratch);
            }
            Boot::Kept { root, tools, guest, port } => {
                command.args(HOST);
                drive(command, "root", "qcow2", root);
                drive(command, "tools", "raw,readonly=on", tools);
                drive(command, "guest", "raw", guest);
                command.args(["-device", "virtio-rng-pci", "-netdev"]);
                command.arg(format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22"));
                // Without its ROM, which would look for something to boot from.
                command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
            }
        }
    }
}

/// A running QEMU. Dropping it kills its process group, whatever the reason.
pub struct Machine {
    child: Child,
    console: Receiver<String>,
    errors: Receiver<String>,
    card: Vec<JoinHandle<Result<(), WireError>>>,
    last: Vec<String>,
}

impl Machine {
    /// Starts QEMU with the fake card's two functions in one slot.
    pub fn start(boot: &Boot) -> Result<Machine, LabError> {
        let mut card = Vec::new();
        let mut ends = Vec::new();
        for model in [GT1030, GT1030_AUDIO] {
            let (ours, theirs) = UnixStream::pair().map_err(LabError::io("socket pair"))?;
            // QEMU inherits its end and is told the number.
            rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).map_err(|e| LabError::io("socket pair")(e.into()))?;
            ends.push(theirs);
            card.push(std::thread::spawn(move || serve(ours, model)));
        }
        let mut command = Command::new(QEMU);
        command
            .args(["-accel", boot.accelerator(), "-smp", "1", "-m", boot.memory()])
            // The proxy hands the guest's memory on as descriptors, so it must be a memfd.
            .args(["-object", &format!("memory-backend-memfd,id=ram0,size={},share=on", boot.memory())])
            .args(["-M", "q35,kernel-irqchip=split,memory-backend=ram0"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"])
            .args(["-device", "intel-iommu,intremap=on,caching-mode=on,aw-bits=48"])
            .args(["-device", "pcie-root-port,id=rp1,slot=1"]);
        for (number, end) in ends.iter().enumerate() {
            let multi = if number == 0 { ",multifunction=on" } else { "" };
            let fd = end.as_raw_fd();
            command.arg("-device").arg(format!("x-pci-proxy-dev,bus=rp1,addr=0.{number}{multi},fd={fd}"));
        }
        boot.arguments(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => LabError::Missing { what: QEMU.into(), package: PACKAGE },
            _ => LabError::Io { what: QEMU.into(), source },
        })?;
        // With our copies closed, the card's threads see the end of the stream when QEMU ends.
        drop(ends);
        let console = child.stdout.take().map(listen);
        let errors = child.stderr.take().map(listen);
        let nothing = || channel().1;
        Ok(Machine {
            child,
            console: console.unwrap_or_else(nothing),
            errors: errors.unwrap_or_else(nothing),
            card,
            last: Vec::new(),
        })
    }

    /// The next line of the console.
    pub fn line(&mut self, patience: Duration) -> Heard {
        match self.console.recv_timeout(patience) {
            Ok(line) => {
                if self.last.len() >= KEPT {
                    self.last.remove(0);
                }
                self.last.push(line.clone());
                Heard::Line(line)
            }
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::End,
        }
    }

    /// Whether QEMU, whose console has ended, was killed by a signal. Not for a QEMU that still runs.
    pub fn crashed(&mut self) -> bool {
        self.child.wait().is_ok_and(|status| status.signal().is_some())
    }

    /// Ends QEMU and gives the last lines of the console, what QEMU said, and what went wrong with the card.
    pub fn stop(mut self) -> Vec<String> {
        self.kill();
        let mut last = std::mem::take(&mut self.last);
        last.extend(self.errors.iter().take(KEPT).map(|line| format!("QEMU: {line}")));
        for function in self.card.drain(..) {
            match function.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => last.push(format!("the fake card: {error}")),
                Err(_) => last.push("the fake card: its thread panicked".into()),
            }
        }
        last
    }

    /// Ends QEMU at once, and all that it started.
    pub fn kill(&mut self) {
        // Only a child that was not waited for still owns its number.
        if let Ok(None) = self.child.try_wait() {
            if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads lines to the end, in a thread of its own.
pub fn listen(from: impl Read + Send + 'static) -> Receiver<String> {
    let (lines, heard) = channel();
    std::thread::spawn(move || read_lines(from, &lines));
    heard
}

fn read_lines(from: impl Read, lines: &Sender<String>) {
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        if lines.send(text).is_err() {
            return;
        }
    }
}

/// One function of the card: answers until QEMU ends.
fn serve(mut stream: UnixStream, model: Model) -> Result<(), WireError> {
    let mut function = Function::new(model);
    while let Some(message) = Message::read(&mut stream)? {
        let value = function.handle(&message);
        if message.wants_answer()
            && let Err(error) = stream.write_all(&answer(value))
        {
            // QEMU ended between question and answer.
            return if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error.into()) };
        }
    }
    Ok(())
}
