//! One machine of a way, come to: it answers, thruway is there, and it is held for this up.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::reach::{Ask, At, Lost, News, Reach};
use crate::remote::{self, Here, Remote};
use crate::walk::{Came, Trouble, Walker};
use crate::way::Vm;

/// Where thruway is copied to by an `up`, where it may write there; the way's id is a directory below.
const SYSTEM: &str = "/var/lib/thruway/up";
const OWN: &str = ".local/state/thruway/up";
/// Between two tries to reach a machine that boots.
const AGAIN: Duration = Duration::from_secs(2);

/// What the way file says of a machine.
#[derive(Clone, Debug)]
pub struct Place {
    /// `host`, `guest`, `here`.
    pub role: &'static str,
    pub at: String,
    pub sudo: bool,
    pub root: Option<String>,
    pub thruway: Option<String>,
    pub copy: Option<String>,
    pub reboot: bool,
    pub wait: u64,
}

/// A machine that answers, with thruway on it.
pub struct Visit {
    pub place: Place,
    pub reach: Reach,
    /// What is copied and written there by this way; taken away by `down`.
    dir: String,
    program: String,
}

impl Visit {
    pub fn remote(&self) -> Remote<'_> {
        let machine = self.place.root.iter().flat_map(|root| ["--root".to_owned(), root.clone()]).collect();
        Remote { reach: &self.reach, program: self.program.clone(), machine, root: self.place.sudo }
    }

    /// thruway there, which speaks to Proxmox VE's API where the file names one for the VM.
    pub fn remote_of_vm(&self, vm: &Vm) -> Remote<'_> {
        let mut remote = self.remote();
        let flags =
            [("--pve", &vm.pve), ("--pve-token-file", &vm.pve_token_file), ("--pve-fingerprint", &vm.pve_fingerprint)];
        if vm.pve.is_some() {
            remote.machine = flags
                .into_iter()
                .flat_map(|(flag, value)| value.iter().flat_map(move |value| [flag.to_owned(), value.clone()]))
                .collect();
        }
        remote
    }

    /// A file of this way there.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    pub fn shell(&self, script: &str, root: bool, limit: Duration) -> Result<(i32, String), Lost> {
        shell(&self.reach, script, root && self.place.sudo, limit)
    }

    /// Takes away what was copied there.
    pub fn clean(&self) -> Result<(), Trouble> {
        let dir = &self.dir;
        let up = |path: &str| Path::new(path).parent().map(|path| path.display().to_string()).unwrap_or_default();
        let (parent, above) = (up(dir), up(&up(dir)));
        let [dir_, parent, above] = [dir, &parent, &above].map(|path| crate::quote(path));
        // what was made on the way there goes, too, where nothing else lies in it
        let script = format!("rm -rf -- {dir_}; rmdir -- {parent} && rmdir -- {above}; test ! -e {dir_}");
        match self.shell(&script, true, remote::SHORT)? {
            (0, _) => Ok(()),
            (_, said) => Err(Trouble::says(format!("{dir} could not be removed: {}", crate::reach::last(&said)))),
        }
    }
}

/// Exit status, and what was printed.
pub fn shell(reach: &Reach, script: &str, root: bool, limit: Duration) -> Result<(i32, String), Lost> {
    let words = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let ran = reach.run(&Ask { words: &words, root, file: None, limit }, &mut |_| {})?;
    Ok((ran.code, crate::tame(&String::from_utf8_lossy(&ran.out)) + &ran.err))
}

impl Walker<'_> {
    /// Comes to a machine: three steps. `patient`: it may still boot.
    pub fn visit(&mut self, place: &Place, patient: bool) -> Result<Rc<Visit>, crate::Stop> {
        let role = place.role;
        let (reach, arch, own) =
            self.step(role, &format!("{role}/reach"), &format!("{} answers", place.at), |walker| {
                walker.reach(place, patient)
            })?;
        let visit = self.step(role, &format!("{role}/program"), "thruway is there, of this very build", |walker| {
            walker.program(place, reach, &arch, &own)
        })?;
        let visit = Rc::new(visit);
        self.visits.push(Rc::clone(&visit));
        // what is done by an API is no machine's to be held
        if !self.go.dry_run && role != "here" {
            self.step(role, &format!("{role}/hold"), "nobody else's up is at work there", |walker| {
                walker.hold(&visit)
            })?;
        }
        Ok(visit)
    }

    fn reach(&mut self, place: &Place, patient: bool) -> Came<(Reach, String, Own)> {
        let go = self.go;
        let config = self.way.ssh.config.clone();
        let mut reach = Reach::new(At::of(&place.at), config, &go.control);
        let begun = std::time::Instant::now();
        let limit = Duration::from_secs(if patient { place.wait } else { 0 });
        loop {
            match reach.open(go.terminal && !patient) {
                Ok(()) => break,
                Err(Lost::Unreachable { .. }) if begun.elapsed() < limit => {
                    self.stopped()?;
                    self.waiting(begun.elapsed(), limit);
                    std::thread::sleep(AGAIN.min(limit / 20));
                }
                Err(lost) => return Err(lost.into()),
            }
        }
        let (code, text) = shell(&reach, "uname -m; id -u; printf '%s\\n' \"$HOME\"", false, remote::SHORT)?;
        let mut lines = text.lines();
        let (Some(arch), Some(uid), Some(home)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(Trouble::says(format!(
                "{} answers ssh and runs no shell (status {code}): {}",
                place.at,
                crate::reach::last(&text)
            )));
        };
        if place.sudo && uid != "0" {
            reach.prepare_sudo(go.password)?;
        }
        let own = Own { system: uid == "0" || place.sudo, home: home.to_owned() };
        let says = format!(
            "{arch}{}",
            if uid == "0" {
                ", as root"
            } else if place.sudo {
                ", by sudo"
            } else {
                ""
            }
        );
        Ok(((reach, arch.to_owned(), own), says, false))
    }

    fn program(&mut self, place: &Place, reach: Reach, arch: &str, own: &Own) -> Came<Visit> {
        let go = self.go;
        let id = &self.state.kept.id;
        let base = if own.system { SYSTEM.to_owned() } else { format!("{}/{OWN}", own.home) };
        let dir = if go.dry_run { format!("/tmp/thruway-look-{id}") } else { format!("{base}/{id}") };
        let mut visit = Visit { place: place.clone(), reach, dir: dir.clone(), program: String::new() };
        if let Some(program) = &place.thruway {
            visit.program.clone_from(program);
            let remote = visit.remote();
            let words = [program.clone(), "--version".to_owned()];
            let ran = remote.run(&words, remote::SHORT, &mut |_| {})?;
            let version = String::from_utf8_lossy(&ran.out).trim().trim_start_matches("thruway ").to_owned();
            let ours = env!("CARGO_PKG_VERSION");
            if ran.code != 0 || version != ours {
                let is = if ran.code == 0 { format!("is {}", crate::tame(&version)) } else { "does not run".into() };
                return Err(Trouble::says(format!(
                    "{program} on {} {is}, and this is {ours}: install {ours} there, or leave `thruway` out of the file to have it copied",
                    place.at
                )));
            }
            self.make_dir(&visit, &dir)?;
            return Ok((visit, format!("{program}, {version}"), false));
        }
        if visit.reach.is_here() {
            visit.program = go.program.display().to_string();
            self.make_dir(&visit, &dir)?;
            return Ok((visit, "this program".into(), false));
        }
        let ours = match &place.copy {
            Some(copy) => PathBuf::from(copy),
            None if arch == std::env::consts::ARCH => go.program.clone(),
            None => {
                return Err(Trouble::says(format!(
                    "{} is {arch}, and this thruway is for {}: name one for it as `copy = \"FILE\"`",
                    place.at,
                    std::env::consts::ARCH
                )));
            }
        };
        let unread = |error: std::io::Error| Trouble::says(format!("{}: {error}", ours.display()));
        let sum = remote::sum(&ours).map_err(unread)?;
        let size = std::fs::metadata(&ours).map_err(unread)?.len();
        let there = format!("{dir}/thruway");
        let installed = "/usr/bin/thruway";
        let sums = Remote::sums(&visit.reach, &[installed, &there])?;
        if sums.get(installed) == Some(&sum) {
            visit.program = installed.to_owned();
            self.make_dir(&visit, &dir)?;
            return Ok((visit, format!("{installed} is this very build"), false));
        }
        visit.program.clone_from(&there);
        if sums.get(&there) == Some(&sum) {
            return Ok((visit, format!("{there} is this very build"), false));
        }
        self.make_dir(&visit, &dir)?;
        self.upload(&visit, &ours, &there, &sum)?;
        let says = format!("{:.1} MB copied to {there}, sha256 {}…", size as f64 / 1e6, &sum[..12]);
        Ok((visit, says, true))
    }

    /// The way's own directory there, this user's or root's alone.
    fn make_dir(&mut self, visit: &Visit, dir: &str) -> Result<(), Trouble> {
        if !self.go.dry_run {
            self.state.touch(visit.place.role)?;
        }
        let (code, said) =
            visit.shell(&format!("umask 022; mkdir -p -- {}", crate::quote(dir)), true, remote::SHORT)?;
        if code == 0 {
            Ok(())
        } else {
            Err(Trouble::says(format!("{dir} cannot be made: {}", crate::reach::last(&said))))
        }
    }

    /// Beside its place, then moved there: a copy that was cut off is never taken for the program. Believed by its SHA-256.
    pub fn upload(&mut self, visit: &Visit, ours: &Path, there: &str, sum: &str) -> Result<(), Trouble> {
        let size =
            std::fs::metadata(ours).map_err(|error| Trouble::says(format!("{}: {error}", ours.display())))?.len();
        let new = crate::quote(&format!("{there}.new"));
        let script = format!("umask 022; cat > {new} && chmod 755 {new} && mv -f -- {new} {}", crate::quote(there));
        let words = ["sh".to_owned(), "-c".to_owned(), script];
        let ask = Ask { words: &words, root: visit.place.sudo, file: Some(ours), limit: remote::LONG };
        self.shown(&visit.reach.command(&ask));
        let ran = visit.reach.run(&ask, &mut |news| {
            if let News::Sent(done) = news {
                self.progress(done, size, "bytes");
            }
        })?;
        if ran.code != 0 {
            return Err(Trouble::says(format!("{there} cannot be written: {}", crate::reach::last(&ran.err))));
        }
        if Remote::sums(&visit.reach, &[there])?.get(there).is_some_and(|has| has == sum) {
            return Ok(());
        }
        Err(Trouble::says(format!("{there} on {} is not what was sent: its SHA-256 is another", visit.place.at)))
    }

    fn hold(&mut self, visit: &Visit) -> Came<()> {
        self.hold_again(visit)?;
        let here = self.idle(visit)?;
        Ok(((), crate::tame(&here.machine), true))
    }

    /// Says that this up is alive; refused where another is.
    pub fn hold_again(&mut self, visit: &Visit) -> Result<(), Trouble> {
        let go = self.go;
        let mut words = vec!["way", "hold", &self.state.kept.id, "--session", &self.session, "--who", &go.who];
        words.extend(["--controller", go.controller.as_str()]);
        if go.take_over {
            words.push("--take-over");
        }
        let remote = visit.remote();
        let ran = remote.run(&remote.words(&words), remote::SHORT, &mut |_| {})?;
        if ran.code == 0 { Ok(()) } else { Err(remote::said(&ran).into()) }
    }

    /// Waits until no other thruway is at work there: what an up that was cut off had begun goes on to its end.
    pub fn idle(&mut self, visit: &Visit) -> Result<Here, Trouble> {
        let begun = std::time::Instant::now();
        loop {
            let here = visit.remote().here()?;
            let Some(who) = &here.busy else { return Ok(here) };
            if begun.elapsed() > remote::LONG {
                return Err(Trouble::says(format!("{who} is still changing {}", visit.place.at)));
            }
            self.line(&format!("{} is still at a change there; it is waited for", crate::tame(who)));
            self.stopped()?;
            std::thread::sleep(AGAIN);
        }
    }

    /// Lets the machine go.
    pub fn release(&mut self, visit: &Visit) -> Result<(), Trouble> {
        let remote = visit.remote();
        let id = self.state.kept.id.clone();
        let ran = remote.run(&remote.words(&["way", "release", &id]), remote::SHORT, &mut |_| {})?;
        if ran.code == 0 { Ok(()) } else { Err(remote::said(&ran).into()) }
    }

    /// Reboots it and waits until it is back with another boot id.
    pub fn reboot(&mut self, visit: &Visit, before: Option<&str>) -> Result<(), Trouble> {
        let words = ["systemctl".to_owned(), "reboot".to_owned()];
        let ask = Ask { words: &words, root: visit.place.sudo, file: None, limit: remote::SHORT };
        self.shown(&visit.reach.command(&ask));
        match visit.reach.run(&ask, &mut |_| {}) {
            Ok(ran) if ran.code != 0 => return Err(remote::said(&ran).into()),
            // the connection may go before the answer comes
            Ok(_) | Err(Lost::Unreachable { .. }) => {}
            Err(lost) => return Err(lost.into()),
        }
        let begun = std::time::Instant::now();
        let limit = Duration::from_secs(visit.place.wait);
        let mut pause = Duration::from_millis(200);
        loop {
            self.stopped()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(AGAIN);
            visit.reach.close();
            let now = match visit.reach.open(false) {
                Ok(()) => visit.remote().here(),
                Err(lost) => Err(lost.into()),
            };
            match now {
                Ok(here) if here.boot.as_deref() != before => return Ok(()),
                Ok(_) | Err(_) if begun.elapsed() < limit => self.waiting(begun.elapsed(), limit),
                Ok(_) => {
                    return Err(Trouble::says(format!(
                        "{} was told to reboot {} s ago and has not",
                        visit.place.at, visit.place.wait
                    )));
                }
                Err(error) => {
                    return Err(Trouble::says(format!(
                        "{} did not come back within {} s of its reboot: {error}",
                        visit.place.at, visit.place.wait
                    )));
                }
            }
        }
    }
}

/// Whose directories there are written.
pub struct Own {
    system: bool,
    home: String,
}
