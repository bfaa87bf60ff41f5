//! A machine come by: the user's own ssh, or a shell here. What comes back is a stranger's text and is tamed.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// More of an answer is a mistake or an attack.
const ANSWER: u64 = 32 << 20;
/// So long is a line of progress at most, in characters.
const LINE: usize = 1000;
/// Lines of a program's complaint that are kept.
const KEPT: usize = 200;
/// A child that left a grandchild with our pipe: what it still says is not waited for longer.
const GRACE: Duration = Duration::from_millis(300);
/// What ssh itself ends with where it could not reach or lost the machine.
const SSH_LOST: i32 = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    Here,
    /// A destination as ssh takes it.
    Ssh(String),
}

impl At {
    pub fn of(at: &str) -> Self {
        if at == "here" { At::Here } else { At::Ssh(at.to_owned()) }
    }
}

/// How sudo is come by on a machine.
#[derive(Clone, Default)]
enum Sudo {
    /// The login is root, or nothing needs it.
    #[default]
    No,
    /// It asks for nothing.
    Free,
    /// Asked for once; it is held in memory alone, and goes to sudo by its standard input.
    Password(String),
}

/// One machine.
pub struct Reach {
    at: At,
    config: Option<String>,
    /// The socket of the one connection that all commands share.
    control: PathBuf,
    sudo: Sudo,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; 128 and more by a signal.
    pub code: i32,
    pub out: Vec<u8>,
    /// Tamed lines, the last of them.
    pub err: String,
}

/// It was not run to its end, as far as is known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("{at} cannot be reached: {says}")]
    Unreachable { at: String, says: String },
    #[error("{at} has not answered for {seconds} s")]
    Late { at: String, seconds: u64 },
    #[error("{0}")]
    Local(String),
}

/// What is to be run.
pub struct Ask<'a> {
    pub words: &'a [String],
    /// By sudo where the login is no root.
    pub root: bool,
    /// Given to its standard input.
    pub file: Option<&'a Path>,
    pub limit: Duration,
}

/// What is heard while it runs.
pub enum News<'a> {
    /// A line of its standard error, tamed.
    Line(&'a str),
    /// So many bytes of the file went.
    Sent(u64),
}

enum Said {
    Out(Vec<u8>),
    Line(String),
}

impl Reach {
    /// `control_dir`: a directory of this user's alone, for the connection's socket.
    pub fn new(at: At, config: Option<String>, control_dir: &Path) -> Self {
        let control = control_dir.join("%C");
        Reach { at, config, control, sudo: Sudo::No }
    }

    pub fn at(&self) -> String {
        match &self.at {
            At::Here => "this machine".into(),
            At::Ssh(to) => to.clone(),
        }
    }

    pub fn is_here(&self) -> bool {
        self.at == At::Here
    }

    fn ssh(&self, to: &str, options: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        if let Some(config) = &self.config {
            command.arg("-F").arg(config);
        }
        // known_hosts and everything else that the user has said of this machine stays as it is
        command.args(["-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"]);
        command.arg("-o").arg(format!("ControlPath={}", self.control.display()));
        command.args(options).arg("--").arg(to);
        command
    }

    /// Logs in, once for all that follows: ssh may ask for a passphrase, or whether this host is known, on the terminal.
    /// `ask`: there is a terminal to ask on.
    pub fn open(&self, ask: bool) -> Result<(), Lost> {
        let At::Ssh(to) = &self.at else { return Ok(()) };
        let batch = if ask { "BatchMode=no" } else { "BatchMode=yes" };
        let mut command =
            self.ssh(to, &["-o", batch, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", "-N", "-f"]);
        // the connection stays with its descriptors: a pipe would never end
        let said = self.control.with_file_name(format!("said-{}", std::process::id()));
        let local = |error: std::io::Error| Lost::Local(format!("ssh cannot be run: {error}"));
        let file = std::fs::File::create(&said).map_err(local)?;
        let stdin = if ask { Stdio::inherit() } else { Stdio::null() };
        let mut child = command.stdin(stdin).stdout(Stdio::null()).stderr(file).spawn().map_err(local)?;
        let status = self.wait(&mut child, Duration::from_secs(if ask { 180 } else { 40 }), &mut || {});
        let text = std::fs::read(&said).unwrap_or_default();
        let _ = std::fs::remove_file(&said);
        let status = status?;
        if status.success() {
            return Ok(());
        }
        let says = last(&String::from_utf8_lossy(&text));
        Err(Lost::Unreachable { at: to.clone(), says: if says.is_empty() { "ssh says nothing".into() } else { says } })
    }

    /// Ends the shared connection: of a machine that boots, or at the end.
    pub fn close(&self) {
        let At::Ssh(to) = &self.at else { return };
        let mut command = self.ssh(to, &["-O", "exit"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if let Ok(mut child) = child {
            let _ = self.wait(&mut child, Duration::from_secs(5), &mut || {});
        }
    }

    /// Finds out how sudo is come by; `password` asks the user, once.
    pub fn prepare_sudo(&mut self, password: &dyn Fn(&str) -> Option<String>) -> Result<(), Lost> {
        let words = ["true".to_owned()];
        let ask = |words| Ask { words, root: true, file: None, limit: Duration::from_secs(60) };
        self.sudo = Sudo::Free;
        if self.run(&ask(&words), &mut |_| {})?.code == 0 {
            return Ok(());
        }
        let at = self.at();
        let Some(secret) = password(&at) else {
            self.sudo = Sudo::No;
            return Err(Lost::Local(format!(
                "sudo on {at} wants a password, and there is no terminal to ask on: give the login NOPASSWD there, or log in as root"
            )));
        };
        self.sudo = Sudo::Password(secret);
        let ran = self.run(&ask(&words), &mut |_| {})?;
        if ran.code == 0 {
            return Ok(());
        }
        self.sudo = Sudo::No;
        Err(Lost::Local(format!("sudo on {at} refuses: {}", last(&ran.err))))
    }

    /// The command line as it is run there.
    pub fn command(&self, ask: &Ask<'_>) -> String {
        let line = ask.words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
        match (&self.sudo, ask.root) {
            (_, false) | (Sudo::No, _) => line,
            (Sudo::Free, true) => format!("sudo -n -- {line}"),
            // -k: what was asked before is not remembered, so that the password is always what is read first
            (Sudo::Password(_), true) => format!("sudo -k -S -p '' -- {line}"),
        }
    }

    /// Runs it to its end.
    pub fn run(&self, ask: &Ask<'_>, tell: &mut dyn FnMut(News<'_>)) -> Result<Ran, Lost> {
        let line = self.command(ask);
        let mut command = match &self.at {
            At::Here => {
                let mut command = Command::new("sh");
                command.arg("-c").arg(&line);
                command
            }
            At::Ssh(to) => {
                let mut command = self.ssh(to, &["-o", "BatchMode=yes", "-o", "ControlMaster=no", "-T"]);
                command.arg(&line);
                command
            }
        };
        // ctrl-C is this program's to hear: what runs there is not torn from its work
        command.process_group(0);
        let stdin = if matches!(self.sudo, Sudo::Password(_)) && ask.root || ask.file.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let mut child =
            command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| {
                Lost::Local(format!("{} cannot be run: {error}", command.get_program().to_string_lossy()))
            })?;
        let went = self.feed(&mut child, ask)?;
        let mut sent = 0;
        let (sender, said) = channel();
        if let Some(out) = child.stdout.take() {
            let sender = sender.clone();
            std::thread::spawn(move || read_out(out, &sender));
        }
        if let Some(err) = child.stderr.take() {
            std::thread::spawn(move || read_lines(err, &sender));
        }
        let mut heard = Heard { out: Vec::new(), err: Vec::new() };
        let status = self.wait(&mut child, ask.limit, &mut || {
            heard.take(&said, Duration::from_millis(20), tell);
            let now = went.load(Ordering::Relaxed);
            if now != sent {
                sent = now;
                tell(News::Sent(now));
            }
        });
        let ends = Instant::now() + GRACE;
        while Instant::now() < ends && heard.open(&said, tell) {}
        let status = status?;
        let code = code(status);
        let err = heard.err.join("\n");
        if code == SSH_LOST && !self.is_here() {
            return Err(Lost::Unreachable { at: self.at(), says: last(&err) });
        }
        Ok(Ran { code, out: heard.out, err })
    }

    /// Writes password and file to the child, the file in a thread: a child that does not read is no reason to hang.
    /// How many bytes of the file went is in what is given back.
    fn feed(&self, child: &mut Child, ask: &Ask<'_>) -> Result<Arc<AtomicU64>, Lost> {
        let went = Arc::new(AtomicU64::new(0));
        let Some(mut stdin) = child.stdin.take() else { return Ok(went) };
        if let (Sudo::Password(secret), true) = (&self.sudo, ask.root) {
            let _ = stdin.write_all(format!("{secret}\n").as_bytes());
        }
        let Some(path) = ask.file else { return Ok(went) };
        let mut file =
            std::fs::File::open(path).map_err(|error| Lost::Local(format!("{}: {error}", path.display())))?;
        let counter = Arc::clone(&went);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            while let Ok(n) = file.read(&mut buffer)
                && n > 0
                && stdin.write_all(&buffer[..n]).is_ok()
            {
                counter.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
        Ok(went)
    }

    fn wait(&self, child: &mut Child, limit: Duration, between: &mut dyn FnMut()) -> Result<ExitStatus, Lost> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => {}
                Err(error) => return Err(Lost::Local(format!("a child cannot be waited for: {error}"))),
            }
            if begun.elapsed() > limit {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Lost::Late { at: self.at(), seconds: limit.as_secs() });
            }
            between();
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

struct Heard {
    out: Vec<u8>,
    err: Vec<String>,
}

impl Heard {
    fn keep(&mut self, said: Said, tell: &mut dyn FnMut(News<'_>)) {
        match said {
            Said::Out(bytes) => self.out.extend(bytes),
            Said::Line(line) => {
                tell(News::Line(&line));
                if self.err.len() == KEPT {
                    self.err.remove(0);
                }
                self.err.push(line);
            }
        }
    }

    fn take(&mut self, said: &Receiver<Said>, wait: Duration, tell: &mut dyn FnMut(News<'_>)) {
        if let Ok(first) = said.recv_timeout(wait) {
            self.keep(first, tell);
        }
        while let Ok(more) = said.try_recv() {
            self.keep(more, tell);
        }
    }

    /// Takes one more; whether there may be others.
    fn open(&mut self, said: &Receiver<Said>, tell: &mut dyn FnMut(News<'_>)) -> bool {
        match said.recv_timeout(Duration::from_millis(20)) {
            Ok(more) => {
                self.keep(more, tell);
                true
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }
}

fn read_out(from: impl Read, to: &Sender<Said>) {
    let mut from = from.take(ANSWER);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer)
        && n > 0
        && to.send(Said::Out(buffer[..n].to_vec())).is_ok()
    {}
}

fn read_lines(from: impl Read, to: &Sender<Said>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        // bounded: a line without an end is cut, and goes on as the next
        match (&mut from).take(LINE as u64 * 4).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = tame(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        if to.send(Said::Line(text)).is_err() {
            return;
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The last line that says something.
pub fn last(text: &str) -> String {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(tame).unwrap_or_default()
}

/// A stranger's text as a terminal may have it: no control characters but line ends and tabs, bounded lines.
pub fn tame(text: &str) -> String {
    let line = |line: &str| {
        let mut out = String::with_capacity(line.len());
        for c in line.chars().take(LINE) {
            match c {
                '\t' => out.push_str("    "),
                c if c.is_control()
                    || ('\u{202a}'..='\u{202e}').contains(&c)
                    || ('\u{2066}'..='\u{2069}').contains(&c) =>
                {
                    out.extend(c.escape_default());
                }
                c => out.push(c),
            }
        }
        out
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// A word as every shell takes it.
pub fn quote(word: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ',' | ':' | '=' | '/' | '+' | '@' | '%');
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn here() -> Reach {
        Reach::new(At::Here, None, Path::new("/nonexistent"))
    }

    fn run(reach: &Reach, words: &[&str], limit: Duration) -> Result<Ran, Lost> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        reach.run(&Ask { words: &words, root: false, file: None, limit }, &mut |_| {})
    }

    #[test]
    fn what_is_run_says_its_words_and_status() {
        let ran = run(
            &here(),
            &["sh", "-c", "echo out; echo 'one\x1b[2J' >&2; echo two >&2; exit 3"],
            Duration::from_secs(20),
        )
        .unwrap();
        assert_eq!((ran.code, ran.out.as_slice()), (3, &b"out\n"[..]));
        assert_eq!(ran.err, "one\\u{1b}[2J\ntwo");
    }

    #[test]
    fn who_does_not_end_is_ended_and_who_leaves_a_child_is_not_waited_for() {
        let late = run(&here(), &["sleep", "60"], Duration::from_millis(200));
        assert_eq!(late.unwrap_err(), Lost::Late { at: "this machine".into(), seconds: 0 });
        let begun = Instant::now();
        let ran = run(&here(), &["sh", "-c", "sleep 20 & echo well"], Duration::from_secs(20)).unwrap();
        assert_eq!(ran.out, b"well\n");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_file_goes_to_its_standard_input() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![b'x'; 3 << 20]).unwrap();
        let words = ["wc".to_owned(), "-c".to_owned()];
        let ask = Ask { words: &words, root: false, file: Some(&path), limit: Duration::from_secs(20) };
        let mut most = 0;
        let ran = here()
            .run(&ask, &mut |news| {
                if let News::Sent(sent) = news {
                    most = sent
                }
            })
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.out).trim(), (3 << 20).to_string());
        assert!(most > 0 && most <= 3 << 20, "{most}");
    }

    proptest! {
        #[test]
        fn any_word_comes_through_a_shell(word in "[^\\x00]{0,40}") {
            let ran = run(&here(), &["printf", "%s", &word], Duration::from_secs(20)).unwrap();
            prop_assert_eq!(String::from_utf8(ran.out).unwrap(), word);
        }

        #[test]
        fn nothing_tamed_moves_a_cursor(text in any::<String>()) {
            prop_assert!(tame(&text).chars().all(|c| c == '\n' || !c.is_control()));
        }
    }
}
