//! Simulated hosts behind a simulated `ssh`: for `thruway up`, which starts `ssh` from the path.
//!
//! Under the name `ssh` it takes the options that thruway gives, and refuses others as the real one does; a command is run by a
//! shell here, with this program in the place of `systemctl`, `qm` and `id`. Each host is a directory of `$SIMHOSTS`:
//!
//! - `tree`: its machine, laid out by `thruway demo --build`
//! - `guest`: the name of the host that its VM is
//! - `down`: it does not answer
//! - `cut`: the number of commands after which the link is lost; the command that is lost goes on to its end
//! - `refuse`: what systemctl or qm fail with
//! - `count`: how many commands it was given
//! - `password`: what sudo wants to hear, by `-S`; without it sudo asks for nothing
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a program of the tests"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let name = words.first().map_or("", |word| word.rsplit('/').next().unwrap_or_default()).to_owned();
    let hosts = PathBuf::from(std::env::var_os("SIMHOSTS").expect("SIMHOSTS names the hosts' directory"));
    let status = match name.as_str() {
        "ssh" => ssh(&hosts, &words[1..]),
        "id" => {
            println!("1000");
            0
        }
        "sudo" => sudo(&hosts, &words[1..]),
        program => on_host(&hosts, program, &words[1..]),
    };
    ExitCode::from(status)
}

fn ssh(hosts: &Path, words: &[String]) -> u8 {
    let mut rest = words.iter();
    let (mut opens, mut ends, mut to) = (false, false, None);
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-F" | "-o" => drop(rest.next()),
            "-N" => opens = true,
            "-f" | "-T" => {}
            "-O" => ends = rest.next().is_some_and(|verb| verb == "exit"),
            "--" => {
                to = rest.next();
                break;
            }
            other => {
                eprintln!("unknown option -- {other}");
                return 255;
            }
        }
    }
    let Some(to) = to else {
        eprintln!("usage: ssh [options] destination [command]");
        return 255;
    };
    let host = hosts.join(to);
    if !host.is_dir() {
        eprintln!("ssh: Could not resolve hostname {to}: Name or service not known");
        return 255;
    }
    if ends {
        return 0;
    }
    if host.join("down").exists() {
        eprintln!("ssh: connect to host {to} port 22: Connection refused");
        return 255;
    }
    if opens {
        return 0;
    }
    let command: Vec<&str> = rest.map(String::as_str).collect();
    let count = number(&host.join("count")).unwrap_or(0) + 1;
    std::fs::write(host.join("count"), count.to_string()).expect("count");
    let path = format!("{}:{}", hosts.join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command.join(" ")).env("PATH", path).env("SIMHOST", to).env("HOME", host.join("home"));
    if number(&host.join("cut")).is_some_and(|after| count > after) {
        let _ = std::fs::remove_file(host.join("cut"));
        // the link is lost: what was begun there goes on alone
        let null = (Stdio::null(), Stdio::null(), Stdio::null());
        let _ = shell.stdin(null.0).stdout(null.1).stderr(null.2).spawn();
        eprintln!("Connection to {to} closed by remote host.");
        return 255;
    }
    match shell.status() {
        Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255),
        Err(error) => {
            eprintln!("{error}");
            255
        }
    }
}

/// sudo as far as thruway uses it, and refusing what else is asked.
fn sudo(hosts: &Path, words: &[String]) -> u8 {
    let password =
        std::fs::read_to_string(hosts.join(std::env::var("SIMHOST").expect("SIMHOST")).join("password")).ok();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let command = match (words.as_slice(), &password) {
        (["-n", "--", command @ ..], None) => command,
        (["-n", ..], Some(_)) => {
            eprintln!("sudo: a password is required");
            return 1;
        }
        (["-k", "-S", "-p", "", "--", command @ ..], Some(password)) => {
            // byte by byte: what follows the line is the command's
            let mut line = Vec::new();
            let mut byte = [0];
            while std::io::Read::read(&mut std::io::stdin(), &mut byte).is_ok_and(|n| n == 1) && byte[0] != b'\n' {
                line.push(byte[0]);
            }
            if line != password.trim_end().as_bytes() {
                eprintln!("sudo: 1 incorrect password attempt");
                return 1;
            }
            command
        }
        _ => {
            eprintln!("usage: sudo -n -- command");
            return 1;
        }
    };
    let Some((program, words)) = command.split_first() else { return 1 };
    let status = Command::new(program).args(words).env("SUDO_UID", "1000").status();
    status.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// What a program of the host does to its simulated machine.
fn on_host(hosts: &Path, program: &str, words: &[String]) -> u8 {
    let name = std::env::var("SIMHOST").expect("SIMHOST names the host");
    let host = hosts.join(&name);
    if let Ok(says) = std::fs::read_to_string(host.join("refuse")) {
        eprintln!("{program}: {says}");
        return 1;
    }
    let tree = host.join("tree");
    let guest = std::fs::read_to_string(host.join("guest")).ok().map(|guest| hosts.join(guest.trim()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match (program, words.as_slice()) {
        ("systemctl", ["reboot"]) => sim::physics::boot(&tree).map(|_| {
            if let Some(guest) = &guest {
                let _ = std::fs::write(guest.join("down"), "");
            }
        }),
        ("qm", ["start", id]) => sim::physics::start_vm(&tree, id.parse().expect("a number")).and_then(|vm| {
            let Some(guest) = &guest else { return Ok(()) };
            sim::physics::plug_into(&guest.join("tree"), &vm)?;
            let _ = std::fs::remove_file(guest.join("down"));
            Ok(())
        }),
        ("qm", ["shutdown", id, ..]) => sim::physics::stop_vm(&tree, id.parse().expect("a number")).map(|()| {
            if let Some(guest) = &guest {
                let _ = std::fs::write(guest.join("down"), "");
            }
        }),
        _ => {
            eprintln!("{program} {}: no such thing on a simulated host", words.join(" "));
            return 2;
        }
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
