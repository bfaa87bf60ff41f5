//! One run of the hook on a Debian-like image with a driver's sixty libraries, beside /bin/true in the same run.
//! `cargo bench -p thruway-hook` (a release build). Prints milliseconds, the difference, binary size and peak memory.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a bench builds trees and runs programs"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::bundle::HOOK;
use common::{Elf, put, run, scratch};

const VERSION: &str = "580.159.04";
const DIR: &str = "/usr/lib/x86_64-linux-gnu";

/// The size of a plain Debian image with a few hundred libraries, whose own ldconfig has run.
fn image(root: &Path, libraries: usize) {
    put(root, "/etc/debian_version", "12\n");
    put(root, "/etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n");
    put(root, "/etc/ld.so.conf.d/libc.conf", "/usr/local/lib\n");
    put(root, "/etc/ld.so.conf.d/x86_64-linux-gnu.conf", format!("{}\n{DIR}\n", &DIR[4..]));
    std::fs::create_dir_all(root.join("usr/local/lib")).expect("a directory");
    std::os::unix::fs::symlink("usr/lib", root.join("lib")).expect("a link");
    for at in 0..libraries {
        let soname = format!("libimage{at}.so.{}", at % 7);
        put(root, &format!("{DIR}/{soname}.{}.{}", at % 5, at % 3), Elf::x86_64(&soname).bytes());
    }
    run(Command::new("ldconfig").arg("-r").arg(root));
}

/// A new container of the image: its writable layer is empty, the driver's files are there.
fn driver(root: &Path) -> Vec<String> {
    let mut words = vec!["create-container".to_owned()];
    for at in 0..60 {
        let soname = format!("libnvidia-part{at}.so.1");
        put(root, &format!("{DIR}/libnvidia-part{at}.so.{VERSION}"), Elf::x86_64(&soname).bytes());
        words.extend(["--link".to_owned(), format!("libnvidia-part{at}.so.{VERSION}::{DIR}/{soname}")]);
    }
    for word in ["--folder", DIR, "--driver", VERSION, "--cuda", "13.0", "--guard-params", "--application-profile"] {
        words.push(word.to_owned());
    }
    words
}

fn time(mut command: Command) -> Duration {
    command.stdout(Stdio::null());
    let started = Instant::now();
    let status = command.status().expect("starts");
    let took = started.elapsed();
    assert!(status.success(), "{command:?}");
    took
}

fn middle(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    (milliseconds(times[0]), milliseconds(times[times.len() / 2]))
}

fn main() {
    if cfg!(debug_assertions) {
        // `cargo test` builds benches too, and runs them once
        return;
    }
    let scratch = scratch();
    let root = scratch.path().join("rootfs");
    image(&root, 300);
    let words = driver(&root);
    put(scratch.path(), "config.json", "{\"root\":{\"path\":\"rootfs\"}}");
    put(scratch.path(), "state", format!("{{\"bundle\":{:?}}}", scratch.path()));
    let cache = std::fs::read(root.join("etc/ld.so.cache")).expect("the image's cache");
    let hook = |words: &[String]| {
        let mut command = Command::new(HOOK);
        command.args(words).env_clear().env("THRUWAY_HOOK", "1");
        command.stdin(std::fs::File::open(scratch.path().join("state")).expect("the state"));
        command
    };
    let fresh = || {
        put(&root, "/etc/ld.so.cache", &cache);
        for at in 0..60 {
            let _ = std::fs::remove_file(root.join(format!("{DIR}/libnvidia-part{at}.so.1").trim_start_matches('/')));
        }
    };
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..200 {
        times[0].push(time(Command::new("/bin/true")));
        fresh();
        times[1].push(time(hook(&words)));
        times[2].push(time(hook(&words)));
        fresh();
        std::fs::remove_file(root.join("etc/ld.so.cache")).expect("the cache");
        times[3].push(time(hook(&words)));
        times[4].push(time(hook(&["--version".to_owned()])));
    }
    let (_, empty) = middle(times[0].clone());
    let names =
        ["/bin/true", "the hook, a new container", "again (a restart)", "an image without a cache", "--version"];
    for (name, times) in names.iter().zip(times) {
        let (least, median) = middle(times);
        println!(
            "{name:28} least {least:.2} median {median:.2} ms, {:.2} x, {:+.2} ms",
            median / empty,
            median - empty
        );
    }
    println!("binary: {} KiB", std::fs::metadata(HOOK).expect("the hook").len() >> 10);
    fresh();
    let mut child = hook(&words).spawn().expect("starts");
    let usage = wait(&mut child);
    println!("peak memory: {usage} KiB");
}

/// Waits for a child; its peak resident memory in KiB.
fn wait(child: &mut std::process::Child) -> i64 {
    let mut usage: libc::rusage = {
        // SAFETY: a rusage is numbers only; all zeros is one.
        #[allow(unsafe_code, reason = "std tells no memory of a child")]
        unsafe {
            std::mem::zeroed()
        }
    };
    // SAFETY: waits for our own child and fills `usage`, which outlives the call.
    #[allow(unsafe_code, reason = "std tells no memory of a child")]
    unsafe {
        libc::wait4(child.id() as libc::pid_t, std::ptr::null_mut(), 0, &raw mut usage);
    }
    usage.ru_maxrss
}
