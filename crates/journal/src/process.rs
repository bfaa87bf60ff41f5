//! Ending a process that uses a card: SIGTERM, a time to go, and no more than that.

use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::HandError;

/// How long a process may take to go.
const LIMIT: Duration = Duration::from_secs(10);

/// SIGTERM to the process that had this number at `started` (field 22 of /proc/PID/stat). One that is gone already is
/// well; one that stays is an error, and SIGKILL is never sent: what it would lose is not ours to judge.
pub(crate) fn end(pid: u32, name: &str, started: u64) -> Result<(), HandError> {
    end_within(pid, name, started, LIMIT)
}

fn end_within(pid: u32, name: &str, started: u64, limit: Duration) -> Result<(), HandError> {
    let what = format!("SIGTERM to process {pid} ({name})");
    let fail = |message: String| HandError::Failed { command: what.clone(), status: "refused".into(), message };
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| fail("is no process number".into()))?;
    // The descriptor first, then the look: from here on the number cannot come to mean another process.
    let process = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(fail(errno.to_string())),
    };
    if !runs(pid, started) {
        return Ok(());
    }
    match pidfd_send_signal(&process, Signal::TERM) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(fail(errno.to_string())),
    }
    let began = Instant::now();
    while runs(pid, started) {
        if began.elapsed() >= limit {
            let message = format!("it is still there after {} s; end it by hand", limit.as_secs());
            return Err(HandError::Failed { command: what, status: "no effect".into(), message });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether that very process still runs. A zombie has closed its files and so uses nothing.
fn runs(pid: u32, started: u64) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let mut fields = rest.split(' ');
    let state = fields.next().unwrap_or("Z");
    // After the name and the state (field 3), field 22 is the nineteenth.
    let start = fields.nth(18).and_then(|text| text.parse::<u64>().ok());
    !matches!(state, "Z" | "X") && start == Some(started)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn child(script: &str) -> (Child, u64) {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        // The shell sets its trap before it says so by this name.
        std::thread::sleep(Duration::from_millis(200));
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let started = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
        (child, started)
    }

    #[test]
    fn a_process_goes_and_a_stubborn_one_is_named() {
        let (mut meek, started) = child("exec sleep 60");
        end(meek.id(), "sleep", started).unwrap();
        assert!(!meek.wait().unwrap().success());
        // Gone already, or another process by now: nothing to do.
        end(meek.id(), "sleep", started).unwrap();
        let (mut stubborn, started) = child("trap '' TERM; while :; do sleep 0.1; done");
        let says = end_within(stubborn.id(), "Xorg", started, Duration::from_millis(300)).unwrap_err().to_string();
        let survived = stubborn.try_wait().unwrap().is_none();
        stubborn.kill().unwrap();
        stubborn.wait().unwrap();
        assert!(survived && says.contains("(Xorg)") && says.contains("still there"), "{says}");
    }

    #[test]
    fn a_reused_number_is_left_alone() {
        let (mut other, started) = child("exec sleep 60");
        end(other.id(), "ffmpeg", started + 1).unwrap();
        let runs = other.try_wait().unwrap().is_none();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(runs, "another process was ended");
    }
}
