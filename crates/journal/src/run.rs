//! Running a program to its end: quietly, or with its lines told while it runs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::HandError;

/// The last lines of a program that become its error.
const TAIL: usize = 8;
/// How often progress is told at most, and at least.
const BEAT: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_secs(20);

/// No questions, and words that can be read back.
fn environment(command: &mut Command) {
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
}

fn status(status: std::process::ExitStatus) -> String {
    status.code().map_or("killed".to_owned(), |code| format!("exit status {code}"))
}

/// Runs a program to its end; its last words become the error.
pub(crate) fn run(command: &mut Command, words: String, input: Option<String>) -> Result<(), HandError> {
    output(command, words, input).map(|_| ())
}

/// What it prints on either stream, however it ends: of programs that answer with a failure.
pub(crate) fn said(command: &mut Command, words: String) -> Result<String, HandError> {
    environment(command);
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| HandError::Start { command: words, source })?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// As [`run`], and what it printed on its standard output.
pub(crate) fn output(command: &mut Command, words: String, input: Option<String>) -> Result<String, HandError> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let start = |source| HandError::Start { command: words.clone(), source };
    environment(command);
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(start)?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // A program that does not read to the end says why by its own status.
        let _ = pipe.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(text);
    let tail: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(4).collect();
    let message = tail.into_iter().rev().collect::<Vec<_>>().join("; ");
    Err(HandError::Failed { command: words, status: status(output.status), message })
}

/// Runs a program that takes long. What it prints on either stream is told as `shown` makes it (`None`: not worth
/// telling), not too often; in silence the last thing is told again with the time. Its last lines become the error.
pub(crate) fn tell(
    mut command: Command,
    words: String,
    shown: &dyn Fn(&str) -> Option<String>,
    tell: &dyn Fn(&str),
) -> Result<(), HandError> {
    let start = |source| HandError::Start { command: words.clone(), source };
    environment(&mut command);
    let (reader, writer) = std::io::pipe().map_err(start)?;
    let twin = writer.try_clone().map_err(start)?;
    let mut child = command.stdin(Stdio::null()).stdout(twin).stderr(writer).spawn().map_err(start)?;
    // It holds the writing ends: while it lives, the reader never comes to an end.
    drop(command);
    let (send, receive) = channel();
    let lines = std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let began = Instant::now();
    let mut told = began;
    let (mut tail, mut last) = (std::collections::VecDeque::new(), String::new());
    loop {
        match receive.recv_timeout(SILENCE) {
            Ok(line) => {
                if !line.is_empty() && !is_status(&line) {
                    tail.push_back(line.clone());
                    if tail.len() > TAIL {
                        tail.pop_front();
                    }
                }
                if let Some(says) = shown(&line) {
                    last = says;
                    if told.elapsed() >= BEAT || told == began {
                        tell(&last);
                        told = Instant::now();
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                let seconds = began.elapsed().as_secs();
                tell(&format!("{last} ({} min {} s so far)", seconds / 60, seconds % 60));
                told = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let ended = child.wait().map_err(start)?;
    let _ = lines.join();
    if ended.success() {
        return Ok(());
    }
    let message = Vec::from(tail).join("; ");
    Err(HandError::Failed { command: words, status: status(ended), message })
}

/// apt's lines for machines (APT::Status-Fd).
fn is_status(line: &str) -> bool {
    line.starts_with("dlstatus:") || line.starts_with("pmstatus:")
}

/// A line of apt, dpkg or DKMS as progress: the machine lines with their percentage, and what DKMS builds.
pub(crate) fn progress(line: &str) -> Option<String> {
    if is_status(line) {
        let mut fields = line.splitn(4, ':').skip(2);
        let percent: f32 = fields.next()?.trim().parse().ok()?;
        return Some(format!("{percent:.0} % {}", fields.next()?.trim()));
    }
    let worth = ["Building", "Signing", "Loading new", "update-initramfs:", "Fetched", "Get:", "Installing", "Running"];
    worth.iter().any(|front| line.trim_start().starts_with(front)).then(|| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn apt_s_lines_become_progress() {
        let says = |line| progress(line).unwrap_or_default();
        assert_eq!(
            says("dlstatus:12:34.5678:Retrieving file 12 of 40 (3min 2s remaining)"),
            "35 % Retrieving file 12 of 40 (3min 2s remaining)"
        );
        assert_eq!(says("pmstatus:gcc-12:45.2:Unpacking gcc-12 (amd64)"), "45 % Unpacking gcc-12 (amd64)");
        assert_eq!(says("Building initial module for 6.1.0-35-amd64"), "Building initial module for 6.1.0-35-amd64");
        assert_eq!(progress("pmstatus:"), None);
        assert_eq!(progress("(Reading database ... 10%"), None);
    }

    #[test]
    fn the_last_lines_of_both_streams_are_the_error() {
        let told: RefCell<Vec<String>> = RefCell::default();
        let script = "echo pmstatus:a:5:Unpacking a; echo reading; echo 'E: no room' >&2; exit 100";
        let done =
            tell(shell(script), "apt-get install a".into(), &progress, &|says| told.borrow_mut().push(says.into()));
        let Err(HandError::Failed { command, status, message }) = done else { panic!("{done:?}") };
        assert_eq!((command.as_str(), status.as_str()), ("apt-get install a", "exit status 100"));
        assert!(message.contains("reading") && message.contains("E: no room") && !message.contains("pmstatus"));
        assert_eq!(*told.borrow(), ["5 % Unpacking a"]);
        tell(shell("true"), "true".into(), &progress, &|_| {}).expect("ends well");
    }
}
