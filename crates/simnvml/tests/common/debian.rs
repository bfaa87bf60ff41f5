//! Programs out of Debian's packages, unpacked and not installed. The package lists are apart from the machine's.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    dead_code,
    reason = "tests run apt-get and dpkg; each uses a part"
)]

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

/// apt-get with lists, sources and archives of its own below a directory.
pub struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// A suite's components, from where this machine has Debian 12's main: those that it may not have too.
    pub fn of(dir: &Path, suite: &str, components: &str) -> Result<Apt, String> {
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(part)).map_err(|error| error.to_string())?;
        }
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let format = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)";
        let known = run(Command::new("apt-get").args(["indextargets", "--format", format, "Identifier: Packages"]))?;
        let place = known.lines().find_map(|line| line.strip_suffix("|bookworm|main|Debian"));
        let place = place.ok_or("apt-get of this machine knows no Debian 12")?;
        let source = format!("deb [signed-by={keys}] {place} {suite} {components}\n");
        std::fs::write(dir.join("sources.list"), source).map_err(|error| error.to_string())?;
        let apt = Apt { dir: dir.to_owned() };
        apt.get(&["update"])?;
        Ok(apt)
    }

    /// Runs it in the directory, where it also puts what it downloads.
    pub fn get(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("apt-get");
        for (key, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "none"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{key}={}", self.dir.join(path).display()));
        }
        // another user could not write below the target directory
        command.args(["-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]).args(arguments);
        run(command.current_dir(&self.dir))
    }
}

/// Unpacks, and removes, every package that lies in a directory.
pub fn unpack_all(from: &Path, root: &Path) -> Result<usize, String> {
    let entries = std::fs::read_dir(from).map_err(|error| error.to_string())?;
    let mut count = 0;
    for archive in
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "deb"))
    {
        run(Command::new("dpkg").arg("-x").arg(&archive).arg(root))?;
        std::fs::remove_file(&archive).map_err(|error| error.to_string())?;
        count += 1;
    }
    Ok(count)
}

/// `program` of a suite's package, below `dir`.
pub fn unpacked(dir: &Path, suite: &str, package: &str, program: &str) -> Result<PathBuf, String> {
    // apt-get locks its lists: two tests that want the same would make one of them skip
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let found = dir.join(program);
    if found.is_file() {
        return Ok(found);
    }
    let apt = Apt::of(dir, suite, "main contrib non-free").map_err(|why| format!("{package}: {why}"))?;
    apt.get(&["download", package])?;
    if unpack_all(dir, dir)? == 0 {
        return Err("no package came".to_owned());
    }
    if found.is_file() { Ok(found) } else { Err(format!("{package} of {suite} has no {program}")) }
}
