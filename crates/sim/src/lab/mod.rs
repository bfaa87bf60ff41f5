//! The lab: stock QEMU boots a Debian kernel in which the real thruway runs against a fake NVIDIA card. The card is
//! served by this very process over QEMU's multi-process proxy, so no hardware and no KVM is needed.
//!
//! The short form is a kernel with an initramfs: a card goes to vfio-pci and back, in seconds. The nested one gives it to a
//! guest. The full one is a Debian host on a disk with its own GRUB: doctor, plan, apply, reboot, verify, undo, reboot. `up`
//! is such a host, reached by SSH, with libvirt, a guest of its own and a container in that.
//!
//! Everything shown of it is simulated: what the kernel does (IOMMU groups, vfio-pci, sysfs) is real, the machine is
//! QEMU's and the card is ours.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the lab builds a machine out of the host's programs and files; it looks at no machine and changes none, \
              and writes only below its temporary directory and its cache"
)]

mod card;
mod cpio;
mod disk;
mod full;
mod image;
mod nested;
mod parts;
mod progress;
mod qemu;
mod serial;
mod up;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

pub use serial::{Line, STEPS, Step};

/// Version of the report's JSON.
const SCHEMA: u32 = 1;

/// How much of a machine the lab is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Kernel and initramfs; bind and unbind. Seconds.
    #[default]
    Short,
    /// The same host gives the card to a guest of its own, by KVM in QEMU; what can go wrong at the start is staged
    /// first. A minute.
    Nested,
    /// A Debian host that boots through its own GRUB, three times. Minutes.
    Full,
    /// The whole way by `thruway up` over SSH, through VM and guest into a container, and back by `thruway down`. Minutes.
    Up,
    /// The same, with the host's power cut once while up is at work.
    UpCut,
}

impl Form {
    /// Every step in its order: its id and what it shows.
    pub fn steps(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Form::Short => STEPS,
            Form::Nested => nested::STEPS,
            Form::Full => full::STEPS,
            Form::Up => up::STEPS,
            Form::UpCut => up::CUT_STEPS,
        }
    }

    /// A guest that says nothing for so long will say nothing more. The full form has an `update-initramfs` to wait for.
    fn silence(self) -> Duration {
        Duration::from_secs(match self {
            Form::Short => 60,
            // A kernel boots in an emulator in an emulator.
            Form::Nested => 180,
            // Over SSH much is done of which the console says nothing.
            Form::Full | Form::Up | Form::UpCut => 600,
        })
    }

    /// How long QEMU may run where nothing else was said: several times what an idle machine without KVM needs.
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Form::Short => 150,
            Form::Nested => 400,
            Form::Full => 1800,
            Form::Up => 2400,
            Form::UpCut => 3600,
        })
    }
}

/// What the lab is made of and how long it may take.
pub struct Options {
    pub form: Form,
    /// The program that runs in the guest: a dynamically linked thruway of this machine.
    pub thruway: PathBuf,
    /// Where downloaded packages are kept from one run to the next.
    pub cache: PathBuf,
    /// The directory of the simulated driver's libraries (the form `Up`); without it, where cargo builds them.
    pub libraries: Option<PathBuf>,
    /// So long after up's start the power is cut (the form `UpCut`); without it, chance decides.
    pub cut_after: Option<Duration>,
    /// From QEMU's start to its end.
    pub limit: Duration,
    /// Set from outside (a signal) to end the lab early.
    pub interrupted: Arc<AtomicBool>,
}

/// What happens, told while it happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// Preparation, in words.
    Preparing(String),
    /// QEMU starts.
    Booting { kernel: String, qemu: String },
    /// What the machine does now: the number of its boot, seconds since QEMU's start, and words of which the guest's
    /// own are untrusted.
    Doing { boot: u32, seconds: f64, what: String },
    /// A line that a command in the guest printed. Untrusted text.
    Said(String),
    /// A step is done.
    Step(Step),
}

/// QEMU's proxy device is experimental: now and then it crashes QEMU or leaves the guest waiting for ever. That says
/// nothing of what the lab is to show, so such a run is made again.
const ATTEMPTS: u32 = 3;

/// How the machine's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// The guest said its last line.
    Finished,
    /// QEMU ended before that.
    Early,
    /// QEMU was killed by a signal.
    Crashed,
    /// The guest fell silent.
    Silent,
    TimeLimit,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub schema: u32,
    /// Always true: a machine of QEMU's, a card of ours.
    pub simulated: bool,
    pub form: Form,
    /// The guest kernel's release.
    pub kernel: String,
    /// The first line of `qemu-system-x86_64 --version`.
    pub qemu: String,
    /// From QEMU's start to its end.
    pub seconds: f64,
    pub ended: Ended,
    /// How often QEMU was started: again after a crash or a silence of its own.
    pub attempts: u32,
    /// How often the machine was booted.
    pub boots: u32,
    /// In the order they were done.
    pub steps: Vec<Step>,
    /// Ids of steps that the guest never came to.
    pub not_reached: Vec<&'static str>,
    /// The last lines of console and QEMU, where the run did not finish. Untrusted text.
    pub last_words: Vec<String>,
}

impl Report {
    /// 0 every step is well, 1 one is not or was never reached, 2 the kernel did not even boot.
    pub fn status(&self) -> u8 {
        if self.steps.is_empty() {
            2
        } else {
            u8::from(self.ended != Ended::Finished || !self.not_reached.is_empty() || self.steps.iter().any(|s| !s.ok))
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error(
        "the lab needs {what}, which is not here: install it with `apt-get install --no-install-recommends {package}`"
    )]
    Missing { what: String, package: &'static str },
    #[error("{command} failed: {why}")]
    Tool { command: String, why: String },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{0}")]
    Unfit(String),
    #[error("interrupted")]
    Interrupted,
}

impl LabError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LabError {
        move |source| LabError::Io { what: what.into(), source }
    }
}

/// Prepares, boots and watches the lab. Leaves nothing behind but the cache.
pub fn run(options: &Options, tell: &mut dyn FnMut(Event)) -> Result<Report, LabError> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Err(LabError::Unfit(
            "the lab's guest is an x86_64 Linux and runs this very program: it needs one".into(),
        ));
    }
    let began = Instant::now();
    let qemu = qemu::version()?;
    let dir = tempfile::Builder::new().prefix("thruway-lab-").tempdir().map_err(LabError::io("temporary directory"))?;
    let prepared = match options.form {
        Form::Short => Some(short(options, dir.path(), tell)?),
        Form::Nested => Some(nested::prepare(options, dir.path(), tell)?),
        Form::Full => Some(full::prepare(options, dir.path(), tell)?),
        // Its disks are written to: made for each attempt.
        Form::Up | Form::UpCut => None,
    };
    let mut attempt = 1;
    loop {
        let report = match &prepared {
            // What is booted is not written to, so that another attempt begins as the first did.
            Some((kernel, boot)) => watch(options, kernel, &qemu, boot, tell)?,
            None => {
                let own = dir.path().join(attempt.to_string());
                std::fs::create_dir(&own).map_err(LabError::io(own.display().to_string()))?;
                up::run(options, &own, &qemu, tell)?
            }
        };
        let report = Report { attempts: attempt, ..report };
        let why = match report.ended {
            Ended::Crashed => "QEMU crashed",
            Ended::Silent => "the guest fell silent",
            _ => return Ok(report),
        };
        if attempt == ATTEMPTS || began.elapsed() >= options.limit {
            return Ok(report);
        }
        attempt += 1;
        tell(Event::Preparing(format!(
            "{why}, as with QEMU's experimental proxy device it does now and then: once more ({attempt} of {ATTEMPTS})"
        )));
    }
}

/// Boots once and listens until the guest is through, or it or QEMU is not going to be.
fn watch(
    options: &Options,
    kernel: &str,
    qemu: &str,
    boot: &qemu::Boot,
    tell: &mut dyn FnMut(Event),
) -> Result<Report, LabError> {
    // A download may have taken a while.
    if options.interrupted.load(Ordering::Relaxed) {
        return Err(LabError::Interrupted);
    }
    tell(Event::Booting { kernel: kernel.to_owned(), qemu: qemu.to_owned() });
    let began = Instant::now();
    let mut machine = qemu::Machine::start(boot)?;
    let mut progress = progress::Progress::default();
    let mut steps = Vec::new();
    let mut heard = Instant::now();
    let ended = loop {
        if options.interrupted.load(Ordering::Relaxed) {
            return Err(LabError::Interrupted);
        }
        if began.elapsed() >= options.limit {
            break Ended::TimeLimit;
        }
        if heard.elapsed() >= options.form.silence() {
            break Ended::Silent;
        }
        let said = machine.line(Duration::from_millis(100));
        if matches!(said, qemu::Heard::Line(_)) {
            heard = Instant::now();
        }
        let doing = match said {
            qemu::Heard::Line(line) => match serial::parse(&line, options.form.steps()) {
                Line::Step(step) => {
                    tell(Event::Step(step.clone()));
                    steps.push(step);
                    continue;
                }
                Line::Said(text) => {
                    tell(Event::Said(text));
                    continue;
                }
                Line::Doing(text) => Some(text),
                Line::End => break Ended::Finished,
                Line::Console(line) if progress::dead(&line) => break Ended::Early,
                Line::Console(line) => progress.hear(&line).map(str::to_owned),
            },
            qemu::Heard::Nothing => None,
            qemu::Heard::End if machine.crashed() => break Ended::Crashed,
            qemu::Heard::End => break Ended::Early,
        };
        if let Some(what) = doing {
            tell(Event::Doing { boot: progress.boots(), seconds: tenths(began), what });
        }
    };
    let last_words = machine.stop();
    let reached = |id: &&str| !steps.iter().any(|step: &Step| step.id == *id);
    Ok(Report {
        schema: SCHEMA,
        simulated: true,
        form: options.form,
        kernel: kernel.to_owned(),
        qemu: qemu.to_owned(),
        seconds: tenths(began),
        ended,
        attempts: 1,
        boots: progress.boots(),
        not_reached: options.form.steps().iter().map(|(id, _)| *id).filter(reached).collect(),
        steps,
        last_words: if ended == Ended::Finished { Vec::new() } else { last_words },
    })
}

fn tenths(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 10.0).round() / 10.0
}

/// The short form's kernel release and what QEMU boots.
fn short(options: &Options, dir: &Path, tell: &mut dyn FnMut(Event)) -> Result<(String, qemu::Boot), LabError> {
    let kernel = parts::kernel(parts::GENERIC, &options.cache, tell)?;
    let busybox = parts::busybox(&options.cache, tell)?;
    tell(Event::Preparing("packing the initramfs".into()));
    let initramfs = dir.join("initramfs.cpio");
    let archive = image::build(&kernel, &busybox, &options.thruway)?;
    std::fs::write(&initramfs, archive).map_err(LabError::io(initramfs.display().to_string()))?;
    Ok((kernel.release, qemu::Boot::Kernel { kernel: kernel.image, initramfs, memory: "1G" }))
}
