//! The last start of a VM, by the logs that it left: Proxmox VE's task log, libvirt's log of the domain, the kernel's.

mod tasks;

use decode::{Explained, TableError};
use machine::{Machine, MachineExt as _};
use model::{Reason, Seen};
use serde::Serialize;

use crate::{Vm, VmKind};
pub use tasks::Upid;

/// How the last start of a VM went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Well,
    /// In the hypervisor's own words: "start failed: QEMU exited with code 1".
    Failed(String),
    /// It is under way, or was cut off.
    NoEnd,
}

/// The last start, and what its logs say of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastStart {
    pub log: String,
    /// Seconds since the epoch; only where the log has it.
    pub at: Option<i64>,
    pub ended: Ended,
    /// The known errors, by the log in which they stand. Empty where it ended well.
    pub explained: Vec<(String, Vec<Explained>)>,
    /// Logs that are there and could not be read.
    pub unread: Vec<(String, Reason)>,
}

/// The kernel's log as syslog keeps it; the journal's own form is binary.
const KERNEL_LOGS: &[&str] = &["/var/log/kern.log", "/var/log/messages", "/var/log/syslog"];

/// Looks for the last start of this VM. Absent: no log tells of any.
pub fn last_start(machine: &dyn Machine, vm: &Vm) -> Result<Seen<LastStart>, TableError> {
    let found = match vm.kind {
        VmKind::Proxmox => tasks::last_start(machine, &vm.id),
        VmKind::Libvirt => libvirt(machine, &vm.name),
    };
    let (mut start, text) = match found {
        Seen::Is(found) => found,
        Seen::Absent => return Ok(Seen::Absent),
        Seen::Unreadable(reason) => return Ok(Seen::Unreadable(reason)),
    };
    if !matches!(start.ended, Ended::Failed(_)) {
        return Ok(Seen::Is(start));
    }
    start.explained.push((start.log.clone(), decode::explain(&text)?));
    kernel(machine, vm, start).map(Seen::Is)
}

/// /var/log/libvirt/qemu/NAME.log, from the last start on. Source: libvirt, qemuProcessLaunch and qemuLogOperation.
fn libvirt(machine: &dyn Machine, name: &str) -> Seen<(LastStart, String)> {
    let log = format!("/var/log/libvirt/qemu/{name}.log");
    machine.text(&log).and_then(|text| {
        let starts = |line: &str| line.contains(": starting up libvirt version");
        let Some((first, head)) = text.lines().enumerate().filter(|(_, line)| starts(line)).last() else {
            return Seen::Absent;
        };
        // "2026-11-25 15:40:58.123+0000"
        let time = head.split(": ").next().unwrap_or_default();
        let at = jiff::Timestamp::strptime("%Y-%m-%d %H:%M:%S%.f%z", time).ok().map(jiff::Timestamp::as_second);
        let text = only(&text, |at, _| at >= first);
        let end = text.lines().rev().find_map(|line| line.split_once(": shutting down, reason="));
        let ended = match end.map(|(_, reason)| reason.trim()) {
            Some(reason @ ("failed" | "crashed")) => Ended::Failed(format!("shutting down, reason={reason}")),
            Some(_) => Ended::Well,
            None => Ended::NoEnd,
        };
        Seen::Is((LastStart { log, at, ended, explained: Vec::new(), unread: Vec::new() }, text))
    })
}

/// Adds what the kernel said of the VM's functions and of vfio, since this start where the log tells times.
fn kernel(machine: &dyn Machine, vm: &Vm, mut start: LastStart) -> Result<LastStart, TableError> {
    let functions: Vec<String> =
        vm.given.iter().flat_map(|given| &given.functions).map(|function| function.to_string()).collect();
    // A line of the kernel has the seconds since its boot, and that has a time.
    let since = start.at.zip(booted(machine)).map(|(at, boot)| at - boot - CLOCKS);
    for path in KERNEL_LOGS {
        let text = match machine.text(path) {
            Seen::Is(text) => text,
            Seen::Absent | Seen::Unreadable(Reason::NotCaptured) => continue,
            Seen::Unreadable(reason) => {
                start.unread.push(((*path).to_owned(), reason));
                continue;
            }
        };
        // Syslog holds other programs' words, too; only the kernel's count.
        let ours = |line: &str| {
            line.contains("kernel:")
                && (line.contains("vfio") || functions.iter().any(|function| line.contains(function)))
        };
        let boot = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.contains("kernel:") && line.contains("] Linux version "))
            .map(|(at, _)| at)
            .last();
        let now = |at: usize, line: &str| {
            since.is_none_or(|since| at >= boot.unwrap_or(0) && uptime(line).is_none_or(|seconds| seconds >= since))
        };
        let found = decode::explain(&only(&text, |at, line| ours(line) && now(at, line)))?;
        if !found.is_empty() {
            start.explained.push(((*path).to_owned(), found));
            break;
        }
    }
    Ok(start)
}

/// How far the kernel's count of seconds and the clock may be apart: the clock is set while the machine runs.
const CLOCKS: i64 = 5;

/// When the running kernel was booted, in seconds since the epoch. Source: proc(5), /proc/stat, btime.
fn booted(machine: &dyn Machine) -> Option<i64> {
    let stat = machine.text("/proc/stat");
    stat.get()?.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// The seconds since boot of "… kernel: [   18.790566] vfio_pin_pages_remote: …".
fn uptime(line: &str) -> Option<i64> {
    let (_, stamp) = line.split_once("kernel:")?;
    stamp.trim_start().strip_prefix('[')?.trim_start().split('.').next()?.parse().ok()
}

/// The text with every other line emptied, so that lines keep their numbers.
fn only(text: &str, keep: impl Fn(usize, &str) -> bool) -> String {
    let lines = text.lines().enumerate().map(|(at, line)| if keep(at, line) { line } else { "" });
    lines.collect::<Vec<_>>().join("\n")
}
