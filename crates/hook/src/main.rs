//! `thruway-hook`: one start for all that a container needs inside its root.
#![allow(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout, reason = "a program of its own")]

use std::os::fd::AsFd;
use std::process::ExitCode;

use hook::args::{self, Command};

fn main() -> ExitCode {
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
            return ExitCode::from(2);
        }
    };
    warn(&parsed.warnings);
    let options = match parsed.command {
        Command::Carry(options) => options,
        Command::Help => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Command::Version => {
            println!("thruway-hook {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Command::Nothing(why) => {
            warn(&[why]);
            return ExitCode::SUCCESS;
        }
    };
    let root = match hook::State::read(std::io::stdin().lock()).and_then(|state| hook::open_root(&state.bundle)) {
        Ok(root) => root,
        Err(error) => return failed(&error.to_string()),
    };
    match hook::carry_out_confined(root.as_fd(), &options) {
        Ok(report) => {
            warn(&report.warnings);
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error.to_string()),
    }
}

/// Runtimes show a hook's standard error where it fails, and keep it in their log.
fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("thruway-hook: warning: {warning}");
    }
}

fn failed(what: &str) -> ExitCode {
    eprintln!("thruway-hook: {what}");
    ExitCode::FAILURE
}
