//! `thruway-hook`: one start for all that a container needs inside its root.
//!
//! Started by C's own `main`: Rust's runtime would first read /proc/self/maps, make a stack for signals and set handlers, which
//! every container would pay for, and which nothing here needs.
#![no_main]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a program of its own"
)]

use std::ffi::{c_char, c_int};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

use hook::args::{self, Command};

const SUCCESS: c_int = 0;
const FAILURE: c_int = 1;
const BAD_WORDS: c_int = 2;

/// The C library calls it once, with its own arguments, which std reads from there by itself.
// SAFETY: no other `main` is in this program (no_main), and it has the type that C gives it.
#[allow(unsafe_code, reason = "`main` is C's name for the entry")]
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _words: *const *const c_char) -> c_int {
    // a panic must not unwind into C
    std::panic::catch_unwind(work).unwrap_or(101)
}

fn work() -> c_int {
    // As Rust's runtime does: a warning that nobody reads is no reason to be killed by a signal, and a file of the image
    // must not become standard error where whoever starts the hook closed that.
    ignore_broken_pipes();
    if let Err(error) = fill_standard_descriptors() {
        return failed(&format!("no standard descriptors and no /dev/null: {error}"));
    }
    // The container's environment is the image's: a runtime passes it on where a spec forgot to say otherwise.
    for (name, _) in std::env::vars_os() {
        // SAFETY: no other thread is there yet, and none reads the environment later.
        #[allow(unsafe_code, reason = "remove_var is unsafe where other threads may read")]
        unsafe {
            std::env::remove_var(name);
        }
    }
    // Runtimes start hooks with the container's root as working directory.
    if let Err(error) = rustix::process::chdir("/") {
        return failed(&format!("cannot leave the working directory: {error}"));
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let argv: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let parsed = match args::parse(&argv) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("thruway-hook: {error}");
            return BAD_WORDS;
        }
    };
    warn(&parsed.warnings);
    let options = match parsed.command {
        Command::Carry(options) => options,
        Command::Help => {
            print!("{}", args::HELP);
            return SUCCESS;
        }
        Command::Version => {
            println!("thruway-hook {}", env!("CARGO_PKG_VERSION"));
            return SUCCESS;
        }
        Command::Nothing(why) => {
            warn(&[why]);
            return SUCCESS;
        }
    };
    let root = match hook::State::read(std::io::stdin().lock()).and_then(|state| hook::open_root(&state.bundle)) {
        Ok(root) => root,
        Err(error) => return failed(&error.to_string()),
    };
    match hook::carry_out_confined(root.as_fd(), &options) {
        Ok(report) => {
            warn(&report.warnings);
            SUCCESS
        }
        Err(error) => failed(&error.to_string()),
    }
}

fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is no function of ours that could be called at a bad moment; no other thread is there.
    #[allow(unsafe_code, reason = "std sets no signals")]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

fn fill_standard_descriptors() -> std::io::Result<()> {
    loop {
        // the lowest free number is taken: while that is one of the three, it stays open
        let filled = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        if filled.as_raw_fd() > 2 {
            return Ok(());
        }
        let _ = filled.into_raw_fd();
    }
}

/// Runtimes show a hook's standard error where it fails, and keep it in their log.
fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("thruway-hook: warning: {warning}");
    }
}

fn failed(what: &str) -> c_int {
    eprintln!("thruway-hook: {what}");
    FAILURE
}
