//! `thruway cdi refresh --watch`: the generated specs, for as long as it runs.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use journal::cache::Cache;
use machine::events::{Happened, Watcher};

use super::refresh::{Done, once, tell_others};
use crate::cli::{Global, RefreshArgs};
use crate::target::Target;
use crate::{DONE, warn};

/// So long nothing must happen before it is looked: a driver's load is dozens of announcements.
const QUIET: Duration = Duration::from_millis(60);
/// And no longer than this after the first of them.
const MOST: Duration = Duration::from_millis(600);

pub fn watch(global: &Global, args: &RefreshArgs) -> anyhow::Result<u8> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot watch for signals")?;
    }
    let target = Target::open(global)?;
    let root = target.path()?;
    let machine = target.machine();
    let cache = Cache::open(&root)?;
    let mut watcher = Watcher::new(&root);
    if !watcher.hears_kernel() {
        warn(&format!("the kernel's announcements are not to be had here; looking every {} s instead", args.every))?;
    }
    let mut told = String::new();
    let mut pulse = String::new();
    let mut first = true;
    while !stop.load(Ordering::Relaxed) {
        // before the look, so that nothing falls between
        let now = cdi::pulse(machine);
        match once(machine, Some(&cache), args) {
            Ok(done) => {
                for dir in &done.dirs {
                    watcher.watch(dir);
                }
                tell(&done, &mut told)?;
            }
            // a full /run, say: the next change tries again
            Err(error) => warn(&format!("{error:#}"))?,
        }
        pulse = if now.is_empty() { pulse } else { now };
        if first {
            notify("READY=1\nSTATUS=watching");
            first = false;
        }
        until_change(&mut watcher, machine, &pulse, args, &stop);
    }
    notify("STOPPING=1");
    Ok(DONE)
}

/// Returns where a look is due, or the end has come.
fn until_change(
    watcher: &mut Watcher,
    machine: &dyn machine::Machine,
    pulse: &str,
    args: &RefreshArgs,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        let heard = watcher.wait(Duration::from_secs(args.every));
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if heard.iter().any(matters) {
            let until = Instant::now() + MOST;
            while Instant::now() < until && !stop.load(Ordering::Relaxed) && !watcher.wait(QUIET).is_empty() {}
            return;
        }
        // procfs announces nothing
        if cdi::pulse(machine) != pulse {
            return;
        }
    }
}

/// Whether it can mean another spec.
fn matters(happened: &Happened) -> bool {
    match happened {
        Happened::Overflow => true,
        Happened::Kernel { subsystem, path, .. } => match subsystem.as_str() {
            "pci" | "drm" => true,
            "module" => path.rsplit('/').next().is_some_and(|name| name.starts_with("nvidia") || name.contains("vfio")),
            _ => false,
        },
        // a directory that went
        Happened::File { name, .. } if name.is_empty() => true,
        // what writers keep beside their file until it is whole
        Happened::File { name, .. } if name.starts_with('.') => false,
        Happened::File { dir, name } => match dir.as_str() {
            "/etc" => name == "ld.so.cache",
            "/dev" => name.starts_with("nvidia") || ["dri", "dxg", "gdrdrv"].contains(&name.as_str()),
            "/usr/bin" => name.starts_with("nvidia") || name == "thruway-hook",
            _ => true,
        },
    }
}

/// A line where something was done, or where why there is nothing is another than before.
fn tell(done: &Done, told: &mut String) -> anyhow::Result<()> {
    if done.changed() {
        warn(&done.line())?;
    }
    let mut now = done.notes.join("\n");
    now.push_str(done.none.as_deref().unwrap_or_default());
    now.push_str(&done.others.join("\n"));
    if now != *told {
        for note in &done.notes {
            warn(note)?;
        }
        if let Some(why) = &done.none {
            warn(&format!("no spec: {why}"))?;
        }
        tell_others(done)?;
        *told = now;
    }
    Ok(())
}

/// sd_notify(3): a datagram to the socket that systemd names, a path or an abstract name. Without one, nothing.
fn notify(state: &str) {
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    if let (Ok(socket), Ok(address)) = (UnixDatagram::unbound(), address) {
        let _ = socket.send_to_addr(state.as_bytes(), &address);
    }
}
