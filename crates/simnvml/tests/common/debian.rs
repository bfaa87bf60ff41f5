//! Programs out of Debian's packages, unpacked and not installed. The package lists are apart from the machine's.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests; runs apt-get and dpkg")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Runs it; what it says on both streams, or the reason where it cannot be run or fails.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{command:?}: {said}")) }
}

/// `program` of a suite's package, below `dir`, from where this machine has Debian 12's main: with the components that it
/// may not have too.
pub fn unpacked(dir: &Path, suite: &str, package: &str, program: &str) -> Result<PathBuf, String> {
    // apt-get locks its lists: two tests that want the same would make one of them skip
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let found = dir.join(program);
    if found.is_file() {
        return Ok(found);
    }
    for part in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(dir.join(part)).map_err(|error| error.to_string())?;
    }
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    // where this machine has Debian 12's main from, the components that it may not have too
    let format = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)";
    let known = run(Command::new("apt-get").args(["indextargets", "--format", format, "Identifier: Packages"]))?;
    let place = known.lines().find_map(|line| line.strip_suffix("|bookworm|main|Debian"));
    let place = place.ok_or(format!("{package}: apt-get of this machine knows no Debian 12"))?;
    let source = format!("deb [signed-by={keys}] {place} {suite} main contrib non-free\n");
    std::fs::write(dir.join("sources.list"), source).map_err(|error| error.to_string())?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        for (key, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "none"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{key}={}", dir.join(path).display()));
        }
        // another user could not write below the target directory
        run(command.args(["-qq", "-o", "APT::Sandbox::User=root"]).args(arguments).current_dir(dir))
    };
    apt(&["update"])?;
    apt(&["download", package])?;
    let entries = std::fs::read_dir(dir).map_err(|error| error.to_string())?;
    let archive =
        entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|it| it == "deb"));
    run(Command::new("dpkg").arg("-x").arg(archive.ok_or("no package came")?).arg(dir))?;
    if found.is_file() { Ok(found) } else { Err(format!("{package} of {suite} has no {program}")) }
}
