//! `lab up`: the whole way by `thruway up`, over SSH. A Debian host in QEMU boots through its own GRUB, with libvirt and a VM
//! that has no card; up brings the card to the VM, over a reboot of the host, and into a container of the guest; down
//! takes all of it back. What is shown is asked of the machines themselves, not of up.

mod disk;
mod files;
mod prepare;

use std::hash::{BuildHasher as _, Hasher as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::progress::{self, Progress};
use super::qemu::{self, Heard, Machine};
use super::serial::{self, Line};
use super::{Ended, Event, Form, LabError, Options, Report, Step, tenths};
use files::{GUEST, HOST};
use prepare::{Lab, prepare};

/// How it is looked at.
const LOOK: &str = include_str!("look.sh");
macro_rules! steps {
    ($($cut:expr)?) => {
        &[
            ("ssh", "the host is reached by SSH, by a key known beforehand"),
            ("boot", "Debian booted through its own GRUB"),
            ("off", "its kernel runs no IOMMU"),
            ("card", "a sound driver holds the card's audio function"),
            ("vm", "libvirt knows a VM, which has no card"),
            $($cut,)?
            ("up", "thruway up goes the whole way"),
            ("reboot", "GRUB booted the new command line"),
            ("bound", "vfio-pci holds both functions"),
            ("started", "libvirt runs the VM with the card"),
            ("guest", "the guest is reached by SSH through the host"),
            ("guest-gpu", "its thruway names the card"),
            ("spec", "the guest has a CDI spec of the driver"),
            ("container", "thruway smi in a container of runc says GeForce GT 1030"),
            ("again", "a second up changes nothing"),
            ("down", "thruway down takes it back"),
            ("reboot-back", "GRUB booted the old command line"),
            ("drivers-back", "both functions have the drivers that they had"),
            ("files", "/etc and /boot are as before"),
            ("vm-back", "the VM is off and has no card"),
            ("node-gone", "no group, no module and no node of vfio is left but what was there at first"),
            ("seen-back", "thruway sees the card as before"),
        ]
    };
}

/// Every step, in order: its id and what it shows.
pub const STEPS: &[(&str, &str)] = steps!();
/// And where the power is cut.
pub const CUT_STEPS: &[(&str, &str)] = steps!(("cut", "the host's power is cut while thruway up is at work"));

/// Within so many seconds of up's start the power is cut where nothing else was said: from its first look at the host to the
/// guest's containers.
const CUT_WITHIN: u64 = 200;

/// How long the host may take from its boot loader to an answer by SSH.
const HOST_BOOTS: Duration = Duration::from_secs(400);

/// Why a run goes no further.
enum Stop {
    Ended(Ended),
    Error(LabError),
}

impl From<LabError> for Stop {
    fn from(error: LabError) -> Stop {
        Stop::Error(error)
    }
}

/// A run in which things happen.
struct Run<'a> {
    options: &'a Options,
    lab: &'a Lab,
    tell: &'a mut dyn FnMut(Event),
    machine: Machine,
    progress: Progress,
    began: Instant,
    steps: Vec<Step>,
    /// A crash of QEMU is survived, by a start on the same disks.
    survives: bool,
    crashes: u32,
}

/// Prepares, boots, and goes up and down once.
pub fn run(options: &Options, dir: &Path, qemu: &str, tell: &mut dyn FnMut(Event)) -> Result<Report, LabError> {
    let lab = prepare(options, dir, tell)?;
    if options.interrupted.load(Ordering::Relaxed) {
        return Err(LabError::Interrupted);
    }
    tell(Event::Booting { kernel: lab.release.clone(), qemu: qemu.to_owned() });
    let mut run = Run {
        options,
        lab: &lab,
        tell,
        machine: Machine::start(&lab.boot)?,
        progress: Progress::default(),
        began: Instant::now(),
        steps: Vec::new(),
        survives: false,
        crashes: 0,
    };
    let ended = match run.whole() {
        Ok(()) => Ended::Finished,
        Err(Stop::Ended(ended)) => ended,
        Err(Stop::Error(error)) => return Err(error),
    };
    let last_words = run.machine.stop();
    let reached = |id: &&str| !run.steps.iter().any(|step: &Step| step.id == *id);
    Ok(Report {
        schema: super::SCHEMA,
        simulated: true,
        form: options.form,
        kernel: lab.release.clone(),
        qemu: qemu.to_owned(),
        seconds: tenths(run.began),
        ended,
        attempts: 1,
        boots: run.progress.boots(),
        not_reached: options.form.steps().iter().map(|(id, _)| *id).filter(reached).collect(),
        steps: run.steps,
        last_words: if ended == Ended::Finished { Vec::new() } else { last_words },
    })
}

/// What a command did.
struct Done {
    status: ExitStatus,
    lines: Vec<String>,
}

impl Run<'_> {
    fn whole(&mut self) -> Result<(), Stop> {
        self.answers()?;
        self.step("ssh", true, "127.0.0.1, StrictHostKeyChecking yes".into());
        self.look("before")?;
        self.up()?;
        self.look("up")?;
        self.guest()?;
        self.second()?;
        self.way("down")?;
        self.answers()?;
        self.look("down")
    }

    /// Waits until the host's own script has come through and its SSH answers.
    fn answers(&mut self) -> Result<(), Stop> {
        let until = Instant::now() + HOST_BOOTS;
        loop {
            let done = self.ssh(HOST, "test -e /run/thruway-lab-ssh/ready", false)?;
            if done.status.success() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Stop::Ended(Ended::Silent));
            }
            self.hear_for(Duration::from_secs(2))?;
        }
    }

    /// Runs the look script on the host; its steps are ours.
    fn look(&mut self, when: &str) -> Result<(), Stop> {
        let done = self.ssh(HOST, &format!("sudo sh /run/thruway-lab/look.sh {when}"), false)?;
        for line in &done.lines {
            match serial::parse(line, STEPS) {
                Line::Step(step) => self.keep(step),
                _ => (self.tell)(Event::Said(line.clone())),
            }
        }
        Ok(())
    }

    /// `thruway up`, where told so with the host's power cut once while it is at work, and then once more.
    fn up(&mut self) -> Result<(), Stop> {
        if self.options.form == Form::UpCut {
            let after = self.options.cut_after.unwrap_or_else(|| Duration::from_secs(chance(CUT_WITHIN)));
            let at = Instant::now() + after;
            let mut cut = None;
            let done = self.child(self.thruway("up"), "up", &mut |run, line| {
                if cut.is_none() && Instant::now() >= at {
                    cut = Some(line.to_owned());
                    run.cut()?;
                }
                Ok(())
            })?;
            let how = format!(
                "{} s after its start, {}",
                after.as_secs(),
                match &cut {
                    Some(line) => format!("when it had said: {}", line.trim()),
                    None => "when it had ended".to_owned(),
                }
            );
            if cut.is_none() {
                self.cut()?;
            }
            self.step("cut", true, format!("{how}; up: {}", evidence(&done)));
            self.answers()?;
        }
        self.way("up")
    }

    /// The host's power goes, and comes back: what was not written is lost.
    fn cut(&mut self) -> Result<(), Stop> {
        self.machine.kill();
        self.doing("the power is cut".into());
        self.progress.restarted();
        self.machine = Machine::start(&self.lab.boot)?;
        Ok(())
    }

    /// `thruway up` or `down` with the way's file. A QEMU that crashed meanwhile was a power cut: it is run again.
    fn way(&mut self, verb: &str) -> Result<(), Stop> {
        loop {
            let crashes = self.crashes;
            self.survives = true;
            let done = self.child(self.thruway(verb), verb, &mut |_, _| Ok(()));
            self.survives = false;
            let done = done?;
            if done.status.success() || self.crashes == crashes {
                self.step(verb, done.status.success(), evidence(&done));
                return Ok(());
            }
            self.answers()?;
        }
    }

    fn thruway(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.lab.thruway);
        command.arg(verb).arg(self.lab.dir.join("way.toml")).arg("--yes");
        command.env("XDG_STATE_HOME", self.lab.dir.join("state")).env("NO_COLOR", "1");
        command
    }

    fn guest(&mut self) -> Result<(), Stop> {
        let done = self.ssh(GUEST, "uname -nr", true)?;
        self.step("guest", done.status.success(), evidence(&done));
        let done = self.ssh(GUEST, "thruway gpus", true)?;
        let named = done.lines.iter().find(|line| line.contains("10de:1d01")).cloned();
        self.step("guest-gpu", named.is_some(), named.unwrap_or_else(|| evidence(&done)));
        let done = self.ssh(GUEST, "grep -l libnvidia-ml /etc/cdi/* /var/run/cdi/* 2>/dev/null | grep .", true)?;
        self.step("spec", done.status.success(), evidence(&done));
        let done = self.ssh(GUEST, files::CONTAINER, true)?;
        let named = done.lines.iter().find(|line| line.contains("GeForce GT 1030")).cloned();
        self.step("container", named.is_some(), named.unwrap_or_else(|| evidence(&done)));
        Ok(())
    }

    fn second(&mut self) -> Result<(), Stop> {
        let boots = self.progress.boots();
        let done = self.child(self.thruway("up"), "up", &mut |_, _| Ok(()))?;
        let well = done.status.success() && self.progress.boots() == boots;
        self.step("again", well, evidence(&done));
        Ok(())
    }

    /// A command on one of the machines. `shown`: what it says is told.
    fn ssh(&mut self, whom: &str, command: &str, shown: bool) -> Result<Done, Stop> {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(self.lab.dir.join("ssh_config")).args([whom, command]);
        self.child(ssh, if shown { "" } else { "-" }, &mut |_, _| Ok(()))
    }

    /// Runs a command to its end; the machine's console is heard meanwhile. `name` stands before what is news of its lines in
    /// the progress; with "" they are what a command printed, with "-" not told at all. `also` is called ten times a second, with its last line.
    fn child(
        &mut self,
        mut command: Command,
        name: &str,
        also: &mut dyn FnMut(&mut Self, &str) -> Result<(), Stop>,
    ) -> Result<Done, Stop> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut group = Group(command.spawn().map_err(LabError::io(program.clone()))?);
        let mut streams: Vec<Receiver<String>> = Vec::new();
        streams.extend(group.0.stdout.take().map(qemu::listen));
        streams.extend(group.0.stderr.take().map(qemu::listen));
        let mut lines: Vec<String> = Vec::new();
        while !streams.is_empty() {
            streams.retain(|from| {
                loop {
                    match from.try_recv() {
                        Ok(line) => {
                            match name {
                                "-" => {}
                                "" => (self.tell)(Event::Said(line.clone())),
                                name if news(&line) => self.doing(format!("{name}: {}", line.trim())),
                                _ => (self.tell)(Event::Said(line.clone())),
                            }
                            lines.push(line);
                        }
                        Err(error) => return error == TryRecvError::Empty,
                    }
                }
            });
            also(self, lines.last().map_or("", String::as_str))?;
            self.hear_for(Duration::from_millis(100))?;
        }
        let status = group.0.wait().map_err(LabError::io(program))?;
        Ok(Done { status, lines })
    }

    /// Hears the console for so long.
    fn hear_for(&mut self, time: Duration) -> Result<(), Stop> {
        let until = Instant::now() + time;
        loop {
            if self.options.interrupted.load(Ordering::Relaxed) {
                return Err(Stop::Error(LabError::Interrupted));
            }
            if self.began.elapsed() >= self.options.limit {
                return Err(Stop::Ended(Ended::TimeLimit));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            match self.machine.line(left.min(Duration::from_millis(100))) {
                Heard::Line(line) => match serial::parse(&line, STEPS) {
                    Line::Doing(text) => self.doing(text),
                    Line::Console(line) if progress::dead(&line) => return Err(Stop::Ended(Ended::Early)),
                    Line::Console(line) => {
                        if let Some(what) = self.progress.hear(&line) {
                            self.doing(what.to_owned());
                        }
                    }
                    _ => {}
                },
                Heard::Nothing => {}
                Heard::End if self.machine.crashed() => {
                    self.crashes += 1;
                    if !self.survives || self.crashes > super::ATTEMPTS {
                        return Err(Stop::Ended(Ended::Crashed));
                    }
                    self.doing("QEMU crashed, as its proxy device has it now and then: a power cut".into());
                    self.cut()?;
                }
                Heard::End => return Err(Stop::Ended(Ended::Early)),
            }
        }
    }

    fn doing(&mut self, what: String) {
        (self.tell)(Event::Doing { boot: self.progress.boots(), seconds: tenths(self.began), what });
    }

    fn step(&mut self, id: &str, ok: bool, evidence: String) {
        let title = CUT_STEPS.iter().find(|(known, _)| *known == id).map_or("", |(_, title)| *title);
        self.keep(Step { id: id.to_owned(), title, ok, evidence });
    }

    fn keep(&mut self, step: Step) {
        (self.tell)(Event::Step(step.clone()));
        self.steps.push(step);
    }
}

/// Whether a line of up's is a step of its own, and no plan or other detail.
fn news(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("$ ") || line.starts_with(['●', '○', '✗', '!', '['])
}

/// The last words of a command: its last word of a step, or whatever it said last.
fn evidence(done: &Done) -> String {
    let step = done.lines.iter().rfind(|line| line.trim_start().starts_with(['●', '✗', '!']));
    let last = step.or_else(|| done.lines.iter().rfind(|line| !line.trim().is_empty()));
    let last = last.map_or("no word", |line| line.trim());
    match done.status.code() {
        Some(0) => last.to_owned(),
        Some(code) => format!("exit status {code}: {last}"),
        None => format!("ended by a signal: {last}"),
    }
}

/// A child in a process group of its own, which goes with it.
struct Group(std::process::Child);

impl Group {
    fn kill(&mut self) {
        // Only a child that was not waited for still owns its number.
        if let Ok(None) = self.0.try_wait()
            && let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

/// A number from 1 to this one.
fn chance(most: u64) -> u64 {
    // Every one of these has keys of its own, which are random.
    let random = std::hash::RandomState::new().build_hasher().finish();
    1 + random % most.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_said_by_the_script_or_by_us() {
        let ours = include_str!("mod.rs");
        for (id, _) in CUT_STEPS {
            let said = LOOK.contains(&format!("judge {id} "))
                || ours.contains(&format!("step(\"{id}\""))
                || ours.contains(&format!("way(\"{id}\")"));
            assert!(said, "{id}");
        }
    }
}
