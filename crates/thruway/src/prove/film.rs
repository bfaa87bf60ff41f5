//! A film of our own: the app's ffmpeg makes it on the CPU, a second one transcodes it as Jellyfin would ask, and every frame is
//! counted. What is started ends with its pipe: a transcode whose film stops coming ends by itself, in a container too.

#![allow(clippy::disallowed_types, reason = "starts the app's own ffmpeg, here or by the engine's client")]

use std::io::Read as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use app::prove::{Half, Proof, Verdict, asked, words};
use machine::{Machine, MachineExt as _};
use model::{Evidence, Source};

/// Frames for each second that it is to be watched: as fast as two cores make them.
const RATE: u64 = 60;
const LOG: usize = 1 << 20;
/// Where a start with a cold driver takes long.
const START: Duration = Duration::from_secs(20);
const JELLYFIN: &str = "/usr/lib/jellyfin-ffmpeg/ffmpeg";

/// Where it runs.
pub enum Inside {
    Here,
    Docker(String),
    Podman(String),
    Pod { namespace: String, pod: String, container: Option<String> },
}

impl Inside {
    /// The words before the program's.
    fn front(&self) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match self {
            Inside::Here => Vec::new(),
            Inside::Docker(id) => words(&["docker", "exec", "-i", id]),
            Inside::Podman(id) => words(&["podman", "exec", "-i", id]),
            Inside::Pod { namespace, pod, container } => {
                let mut all = words(&["kubectl", "-n", namespace, "exec", "-i", pod]);
                if let Some(container) = container {
                    all.extend(words(&["-c", container]));
                }
                all.push("--".into());
                all
            }
        }
    }

    fn command(&self, words: &[String]) -> Command {
        let all: Vec<String> = self.front().into_iter().chain(words.iter().cloned()).collect();
        let mut all = all.into_iter();
        let mut command = Command::new(all.next().unwrap_or_default());
        command.args(all);
        command
    }
}

/// Both programs, running.
pub struct Film {
    maker: Child,
    transcode: Mutex<Child>,
    words: Vec<String>,
    mark: String,
    frames: u64,
    log: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// What is known when it is over.
pub struct Ended {
    pub words: Vec<String>,
    /// What the log is called in the report.
    pub name: String,
    pub log: String,
    frames: u64,
    status: Option<ExitStatus>,
}

impl Film {
    /// Starts both. `encodes`: the card has an encoder, so it is asked for.
    ///
    /// # Errors
    /// No ffmpeg is in there; a program cannot be started.
    pub fn start(inside: &Inside, ffmpeg: Option<&str>, encodes: bool, span: Duration) -> anyhow::Result<Film> {
        let program = program(inside, ffmpeg)?;
        let frames = span.as_secs().max(1) * RATE;
        let mark = format!("thruway-prove-{}", std::process::id());
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut making = vec![program.clone()];
        making.extend(words("-nostdin -hide_banner -loglevel error -f lavfi -i testsrc2=size=1280x720:rate=30"));
        making.extend(words(&format!(
            "-frames:v {frames} -c:v libx264 -preset ultrafast -pix_fmt yuv420p -f matroska pipe:1"
        )));
        let mut transcoding = vec![program];
        transcoding.extend(words("-hide_banner -hwaccel cuda"));
        if encodes {
            transcoding.extend(words("-hwaccel_output_format cuda"));
        }
        transcoding.extend(words("-i pipe:0 -an -c:v"));
        transcoding.push(if encodes { "h264_nvenc" } else { "libx264" }.into());
        if !encodes {
            transcoding.extend(words("-preset ultrafast"));
        }
        transcoding.extend(words(&format!("-metadata comment={mark} -f null -")));
        let mut maker = inside
            .command(&making)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", making.join(" ")))?;
        let film = maker.stdout.take().context("the film has no pipe")?;
        let transcode = inside.command(&transcoding).stdin(film).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut transcode = match transcode {
            Ok(child) => child,
            Err(error) => {
                let _ = maker.kill();
                let _ = maker.wait();
                return Err(error).with_context(|| format!("cannot start {}", transcoding.join(" ")));
            }
        };
        let log: Arc<Mutex<Vec<u8>>> = Arc::default();
        let into = Arc::clone(&log);
        let mut said = transcode.stderr.take().context("the transcode has no log")?;
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = said.read(&mut piece) {
                let mut log = into.lock().unwrap_or_else(PoisonError::into_inner);
                let room = LOG.saturating_sub(log.len());
                log.extend(piece.iter().take(count.min(room)));
            }
        });
        Ok(Film {
            maker,
            transcode: Mutex::new(transcode),
            words: transcoding,
            mark,
            frames,
            log,
            reader: Some(reader),
        })
    }

    /// The transcode's number on this machine, as soon as it is seen. None: it ended first, or is on another machine.
    pub fn pid(&self, machine: &dyn Machine, stop: &AtomicBool) -> Option<u32> {
        let begun = Instant::now();
        while begun.elapsed() < START && !stop.load(Ordering::Relaxed) {
            for pid in machine.names("/proc").iter().filter_map(|name| name.parse::<u32>().ok()) {
                let Some(words) = words(machine, pid).is() else { continue };
                // an engine's client has the same words behind its own
                if words.iter().any(|word| word.ends_with(&self.mark)) && asked(&words).is_some() {
                    return Some(pid);
                }
            }
            if self.ended() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    pub fn ended(&self) -> bool {
        let mut child = self.transcode.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(child.try_wait(), Ok(None))
    }

    /// Ends what still runs, and gives what it said.
    pub fn end(mut self) -> Ended {
        let mut child = self.transcode.lock().unwrap_or_else(PoisonError::into_inner);
        let status = match child.try_wait() {
            Ok(Some(status)) => Some(status),
            _ => {
                let _ = self.maker.kill();
                let _ = child.kill();
                let _ = child.wait();
                None
            }
        };
        drop(child);
        let _ = self.maker.kill();
        let _ = self.maker.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        Ended {
            words: std::mem::take(&mut self.words),
            name: "ffmpeg's log".into(),
            log: String::from_utf8_lossy(&log).into_owned(),
            frames: self.frames,
            status,
        }
    }
}

impl Ended {
    /// The verdict with what its end says: a transcode that failed, or lost frames, proves nothing else.
    pub fn hold(&self, proof: &mut Proof) {
        let frames = app::prove::told(&self.log).frames.unwrap_or(0);
        let source = Source::Answer("the transcode's end".into());
        let failed = match self.status {
            Some(status) if status.success() && frames == self.frames => {
                let value = format!("all {frames} frames came out");
                proof.evidence.push(Evidence { source, value });
                return;
            }
            Some(status) if status.success() => format!("{frames} of {} frames came out", self.frames),
            Some(status) => format!("ffmpeg ended with {status}"),
            None => format!("it was stopped after {frames} of {} frames", self.frames),
        };
        if self.status.is_some() {
            let last = self.log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
            // the first line that is known to say something, else the last
            let known = app::prove::told(&self.log).trouble.map(|(_, line)| line.text);
            proof.verdict = Verdict::None;
            proof.pass = false;
            proof.says = format!("the transcode that was started failed: {}", known.as_deref().unwrap_or(last));
            proof.decode = Half::Unknown("it failed".into());
            proof.encode = Half::Unknown("it failed".into());
            proof
                .evidence
                .push(Evidence { source: Source::Answer("ffmpeg's last line".into()), value: last.to_owned() });
            if proof.fixes.is_empty() {
                proof.fixes.push("thruway explain --log FILE   # of ffmpeg's whole log".into());
            }
        }
        proof.evidence.push(Evidence { source, value: failed });
    }
}

/// Jellyfin's ffmpeg, or the one on the path in there.
fn program(inside: &Inside, wanted: Option<&str>) -> anyhow::Result<String> {
    let all = wanted.map_or_else(|| vec![JELLYFIN, "ffmpeg"], |wanted| vec![wanted]);
    for program in &all {
        let words = [(*program).to_owned(), "-version".to_owned()];
        let mut command = inside.command(&words);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => return Ok((*program).to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && matches!(inside, Inside::Here) => {}
            Err(error) => bail!("cannot run {}: {error}", inside.front().first().map_or("ffmpeg", String::as_str)),
        }
    }
    bail!("no ffmpeg runs there ({}): name one with --ffmpeg", all.join(", "))
}
