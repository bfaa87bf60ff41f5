//! The real hands at work with a package manager: what would come, the installation, and its removal.
//!
//! Nothing that is there is removed or gets another version: a plan that would need that is refused, so that undo has
//! only to remove what came. apt is run with `--no-remove`, dnf and pacman are held to their own answer before.

mod apt;
mod leftovers;
mod others;

use std::time::{Duration, Instant};

use model::{Builds, Manager, PackagesOp};

use crate::run::{self, progress};
use crate::{HandError, Installed, RealHands, Stock};

/// How long another run of the package manager is waited for.
const LOCK_LIMIT: Duration = Duration::from_secs(300);

fn failed(command: impl Into<String>, message: impl Into<String>) -> HandError {
    HandError::Failed { command: command.into(), status: "refused".into(), message: message.into() }
}

impl RealHands {
    pub(crate) fn stock_of(&self, op: &PackagesOp) -> Result<Stock, HandError> {
        plain_names(&op.install)?;
        self.managed(op.manager)?;
        self.quiet_manager(op.manager)?;
        if let Some(argv) = op.manager.refresh().filter(|_| op.refresh) {
            self.tell_program(argv)?;
        }
        let before = self.installed(op.manager)?;
        let mut stock = match op.manager {
            Manager::Apt => apt::stock(self, op, before)?,
            Manager::Dnf | Manager::Pacman => others::stock(self, op, before)?,
        };
        stock.known = leftovers::known(self.root());
        if !stock.size.is_empty() {
            self.tell(&format!("{} packages come: {}", stock.comes.len(), stock.size));
        }
        Ok(stock)
    }

    pub(crate) fn install_packages(&self, op: &PackagesOp) -> Result<(), HandError> {
        plain_names(&op.install)?;
        let mut argv = op.manager.install(&op.install);
        if op.manager == Manager::Apt {
            argv.extend(apt::OPTIONS.map(str::to_owned));
        }
        self.tell_program(&words(&argv)).map_err(|error| self.with_log(op, error))?;
        op.builds.as_ref().map_or(Ok(()), |builds| self.built(builds))
    }

    /// Where the manager failed over a module that does not build, DKMS's own record says why.
    fn with_log(&self, op: &PackagesOp, error: HandError) -> HandError {
        match (error, op.builds.as_ref().and_then(|_| apt::make_log(self.root()))) {
            (HandError::Failed { command, status, message }, Some((path, tail))) if message.contains("dkms") => {
                HandError::Failed { command, status, message: format!("{message}. The last lines of {path}: {tail}") }
            }
            (error, _) => error,
        }
    }

    /// DKMS may fail to build and its package still be configured: the module's file is the proof.
    pub(crate) fn built(&self, builds: &Builds) -> Result<(), HandError> {
        let there = || apt::modules(self.root(), &builds.release, &builds.any_of);
        if there() {
            return Ok(());
        }
        let names = builds.any_of.join(" or ");
        let again = ["dkms", "autoinstall", "-k", &builds.release];
        self.tell(&format!("no module {names} for {} came of it: asking dkms to build it", builds.release));
        let tried = self.tell_program(&again);
        if there() {
            return Ok(());
        }
        let log = apt::make_log(self.root());
        let why = match (tried, log) {
            (_, Some((path, tail))) => format!("the last lines of {path}: {tail}"),
            (Err(error), None) => error.to_string(),
            (Ok(()), None) => "dkms says that it built everything".to_owned(),
        };
        let message =
            format!("the driver was installed, but no module {names} was built for {}: {why}", builds.release);
        Err(failed(again.join(" "), message))
    }

    pub(crate) fn remove_packages(&self, op: &PackagesOp, stock: &Stock) -> Result<Vec<String>, HandError> {
        self.managed(op.manager)?;
        self.quiet_manager(op.manager)?;
        if op.manager == Manager::Apt {
            apt::mend(self)?;
        }
        let now = self.installed(op.manager)?;
        let ours = stock.brought(&now);
        if !ours.is_empty() {
            match op.manager {
                Manager::Apt => apt::purge(self, stock, &ours)?,
                Manager::Dnf | Manager::Pacman => others::remove(self, op.manager, &ours)?,
            }
        }
        if op.manager == Manager::Apt {
            apt::settle(self)?;
        }
        let now = self.installed(op.manager)?;
        let left = stock.brought(&now);
        if !left.is_empty() {
            return Err(failed(format!("removing {}", left.join(", ")), "they are still installed".to_owned()));
        }
        leftovers::clear(self, stock)?;
        for auto in [true, false] {
            let marks = stock.marks(&now);
            let names: Vec<&str> =
                marks.iter().filter(|(_, was)| *was == auto).map(|(name, _)| name.as_str()).collect();
            if !names.is_empty() {
                self.mark(op.manager, &names, auto)?;
            }
        }
        let note = |(name, then, today): (String, String, Option<String>)| match today {
            Some(today) => format!("{name} was {then} and is {today}: changed by somebody else since"),
            None => format!("{name} {then} is gone: removed by somebody else since"),
        };
        let mut notes: Vec<String> = stock.moved(&now).into_iter().take(5).map(note).collect();
        let loaded = std::fs::read_to_string(self.root().join("proc/modules")).unwrap_or_default();
        if op.builds.is_some() && loaded.lines().any(|line| line.starts_with("nvidia ")) {
            notes.push("NVIDIA's modules are removed from the disk and stay loaded until the next boot".into());
        }
        Ok(notes)
    }

    fn mark(&self, manager: Manager, names: &[&str], auto: bool) -> Result<(), HandError> {
        let front: &[&str] = match (manager, auto) {
            (Manager::Apt, true) => &["apt-mark", "auto"],
            (Manager::Apt, false) => &["apt-mark", "manual"],
            (Manager::Dnf, true) => &["dnf", "mark", "dependency"],
            (Manager::Dnf, false) => &["dnf", "mark", "user"],
            (Manager::Pacman, true) => &["pacman", "-D", "--asdeps"],
            (Manager::Pacman, false) => &["pacman", "-D", "--asexplicit"],
        };
        self.read_program(&[front, names].concat()).map(|_| ())
    }

    fn installed(&self, manager: Manager) -> Result<Vec<Installed>, HandError> {
        match manager {
            Manager::Apt => apt::installed(self),
            Manager::Dnf | Manager::Pacman => others::installed(self, manager),
        }
    }

    fn managed(&self, manager: Manager) -> Result<(), HandError> {
        let program = match manager {
            Manager::Apt => "usr/bin/apt-get",
            Manager::Dnf => "usr/bin/dnf",
            Manager::Pacman => "usr/bin/pacman",
        };
        if self.root().join(program).exists() {
            return Ok(());
        }
        let why = format!("there is no /{program}");
        Err(HandError::NotHere { what: format!("work with {}", manager.name()), why })
    }

    /// Waits until no other run of the manager holds its lock: somebody's own, or what a killed thruway left running.
    fn quiet_manager(&self, manager: Manager) -> Result<(), HandError> {
        let lock = match manager {
            Manager::Apt => "var/lib/dpkg/lock",
            Manager::Pacman => "var/lib/pacman/db.lck",
            // dnf waits by itself.
            Manager::Dnf => return Ok(()),
        };
        let path = self.root().join(lock);
        let began = Instant::now();
        let mut told = false;
        while if manager == Manager::Apt { apt::locked(&path) } else { path.exists() } {
            if began.elapsed() >= LOCK_LIMIT {
                let message = format!("another {} holds /{lock} for {} s", manager.name(), LOCK_LIMIT.as_secs());
                return Err(failed("waiting for the package manager", message));
            }
            if !told {
                self.tell(&format!("another {} is at work: waiting for it", manager.name()));
                told = true;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Runs a program of the machine that takes long, and tells what it does.
    fn tell_program(&self, argv: &[&str]) -> Result<(), HandError> {
        // apt keeps its status descriptor from its children: it must be none that they write on.
        let wrapped: Vec<&str> = ["sh", "-c", "exec \"$@\" 3>&1", "sh"].iter().chain(argv).copied().collect();
        let (command, _) = self.command(&wrapped)?;
        let words = self.named(argv);
        run::tell(command, words, &progress, &|says| self.tell(says))
    }

    /// What a program of the machine prints on either stream, however it ends.
    fn said_program(&self, argv: &[&str]) -> Result<String, HandError> {
        let (mut command, words) = self.command(argv)?;
        run::said(&mut command, words)
    }

    /// What a program of the machine prints.
    fn read_program(&self, argv: &[&str]) -> Result<String, HandError> {
        let (mut command, words) = self.command(argv)?;
        run::output(&mut command, words, None)
    }
}

fn words(argv: &[String]) -> Vec<&str> {
    argv.iter().map(String::as_str).collect()
}

/// A plan is a file that anybody may have written: no name may be an option, a file or a version.
fn plain_names(names: &[String]) -> Result<(), HandError> {
    let plain = |name: &&String| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            // apt reads a name with a dash at its end as one to remove.
            && !name.ends_with('-')
            && name.len() <= 128
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_'))
    };
    match names.iter().find(|name| !plain(name)) {
        Some(bad) => Err(failed("reading the plan", format!("{bad:?} is no package's name"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_an_option_or_a_file() {
        for bad in ["-o=x", "./a.deb", "a=1", "a b", "", "a/b", "a-"] {
            assert!(plain_names(&[bad.to_owned()]).is_err(), "{bad}");
        }
        plain_names(&["libstdc++-12-dev".to_owned(), "linux-headers-6.1.0-35-amd64".to_owned()]).expect("plain");
    }
}
