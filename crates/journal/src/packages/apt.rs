//! apt and dpkg.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use model::PackagesOp;
use rustix::fs::{FlockOperation, fcntl_lock};

use super::failed;
use crate::{HandError, Installed, RealHands, Stock};

/// For every run that changes something: no terminal of dpkg's own, progress on descriptor 3, questions about
/// changed configuration files answered by keeping the user's, and another apt is waited for.
pub(super) const OPTIONS: [&str; 8] = [
    "-oDPkg::Use-Pty=0",
    "-oAPT::Status-Fd=3",
    "-oDPkg::Options::=--force-confold",
    "-oDPkg::Options::=--force-confdef",
    "-oDPkg::Lock::Timeout=300",
    "-oAcquire::Retries=3",
    "-oAPT::Get::AutomaticRemove=false",
    "--quiet",
];

/// Every package that dpkg knows, with apt's mark.
pub(super) fn installed(hands: &RealHands) -> Result<Vec<Installed>, HandError> {
    let native = hands.read_program(&["dpkg", "--print-architecture"])?;
    let form = "-f=${Package}\t${Architecture}\t${Version}\t${db:Status-Status}\n";
    let text = hands.read_program(&["dpkg-query", "-W", form])?;
    let auto: BTreeSet<String> = hands.read_program(&["apt-mark", "showauto"])?.lines().map(str::to_owned).collect();
    Ok(list(&text, native.trim(), &auto))
}

fn list(text: &str, native: &str, auto: &BTreeSet<String>) -> Vec<Installed> {
    let one = |line: &str| {
        let mut fields = line.split('\t');
        let (name, arch, version) = (fields.next()?, fields.next()?, fields.next()?);
        let status = fields.next()?;
        let name = if arch == native || arch == "all" { name.to_owned() } else { format!("{name}:{arch}") };
        let auto = auto.contains(&name);
        (status != "not-installed").then(|| Installed {
            version: version.to_owned(),
            auto,
            remains: status == "config-files",
            name,
        })
    };
    text.lines().filter_map(one).collect()
}

/// Asks apt what it would do, and refuses what would touch a package that is there.
pub(super) fn stock(hands: &RealHands, op: &PackagesOp, before: Vec<Installed>) -> Result<Stock, HandError> {
    let mut argv = vec!["apt-get", "--simulate", "install", "--no-install-recommends"];
    argv.extend(op.install.iter().map(String::as_str));
    let words = argv.join(" ");
    let text = hands.read_program(&argv)?;
    let Simulated { comes, upgrades, removes } = simulated(&text);
    if !removes.is_empty() {
        let message = format!(
            "{} would be removed for it. Find out what needs them: apt-get --simulate remove {}",
            removes.join(", "),
            removes.join(" ")
        );
        return Err(failed(words, message));
    }
    if !upgrades.is_empty() {
        let message = format!(
            "{} would get another version, and what is there stays as it is. Bring the system up to date first \
             (sudo apt-get update && sudo apt-get upgrade), then plan again",
            upgrades.join(", ")
        );
        return Err(failed(words, message));
    }
    // The sizes stand only in a run that is broken off at its question.
    let mut argv = vec!["apt-get", "install", "--no-install-recommends", "--assume-no"];
    argv.extend(op.install.iter().map(String::as_str));
    let size = sizes(&hands.said_program(&argv)?);
    Ok(Stock { before, comes, size, known: Vec::new() })
}

#[derive(Debug, Default, PartialEq)]
struct Simulated {
    comes: Vec<(String, String)>,
    upgrades: Vec<String>,
    removes: Vec<String>,
}

/// `Inst NAME [OLD] (NEW ARCHIVE [ARCH])`, `Remv NAME [OLD]`: apt-get(8), --simulate.
fn simulated(text: &str) -> Simulated {
    let mut all = Simulated::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Inst"), Some(name)) => match words.next() {
                Some(old) if old.starts_with('[') => all.upgrades.push(name.to_owned()),
                Some(new) => all.comes.push((name.to_owned(), new.trim_start_matches('(').to_owned())),
                None => {}
            },
            (Some("Remv" | "Purg"), Some(name)) => all.removes.push(name.to_owned()),
            _ => {}
        }
    }
    all
}

/// "Need to get 186 MB of archives." and "After this operation, 812 MB of additional disk space will be used."
fn sizes(text: &str) -> String {
    let worth = |line: &&str| line.starts_with("Need to get") || line.starts_with("After this operation");
    text.lines().filter(worth).collect::<Vec<_>>().join(" ")
}

/// Does another process hold dpkg's lock? It is a lock of fcntl(2), and ours is given back with the file.
pub(super) fn locked(path: &Path) -> bool {
    let Ok(file) = std::fs::OpenOptions::new().write(true).open(path) else { return false };
    let plain = file.metadata().is_ok_and(|meta| meta.is_file() && !meta.file_type().is_fifo());
    plain && fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// After a run that was cut off dpkg has notes that are not yet in its database, and apt stops at them. Any change of
/// dpkg's takes them in; an empty list of selections changes nothing else. (`dpkg --configure -a` would do it too, and
/// build once more the very module that is about to be removed.)
pub(super) fn mend(hands: &RealHands) -> Result<(), HandError> {
    let notes = hands.root().join("var/lib/dpkg/updates");
    if std::fs::read_dir(notes).is_ok_and(|mut dir| dir.next().is_some()) {
        hands.tell("dpkg was interrupted: taking in what it had noted");
        hands.read_program(&["dpkg", "--set-selections"])?;
    }
    Ok(())
}

/// Once what came is gone: what is left half done is of packages that were there before, triggers for the most part.
pub(super) fn settle(hands: &RealHands) -> Result<(), HandError> {
    if hands.read_program(&["dpkg", "--audit"]).is_ok_and(|text| text.trim().is_empty()) {
        return Ok(());
    }
    hands.tell("dpkg has unfinished work: finishing it");
    hands.tell_program(&["dpkg", "--configure", "-a", "--force-confold", "--force-confdef"])
}

/// What dpkg was unpacking when it was cut off: half installed, or unpacked with the flag "reinstreq" still on (dpkg takes
/// that off with a note of its own). apt will not touch it: "package is in a very bad inconsistent state".
fn half(text: &str) -> BTreeSet<&str> {
    let rows = text.lines().filter_map(|line| line.split_once('\t'));
    let torn = |status: &str| status.split(' ').any(|word| matches!(word, "half-installed" | "reinstreq"));
    rows.filter(|(_, status)| torn(status)).map(|(name, _)| name).collect()
}

/// Removes exactly these, configuration and all, once apt says that nothing else would go with them.
pub(super) fn purge(hands: &RealHands, stock: &Stock, ours: &[String]) -> Result<(), HandError> {
    let text = hands.read_program(&["dpkg-query", "-W", "-f=${Package}\t${db:Status-Status} ${db:Status-Eflag}\n"])?;
    let half = half(&text);
    let torn: Vec<&str> = ours.iter().map(String::as_str).filter(|name| half.contains(name)).collect();
    let ours: Vec<String> = ours.iter().filter(|name| !half.contains(name.as_str())).cloned().collect();
    if !torn.is_empty() {
        // What depends on them goes with the rest.
        let force = ["dpkg", "--purge", "--force-remove-reinstreq", "--force-depends"];
        hands.tell_program(&[&force[..], &torn].concat())?;
    }
    if ours.is_empty() {
        return Ok(());
    }
    let ours = &ours[..];
    let mut argv = vec!["apt-get", "--simulate", "purge", "--no-auto-remove"];
    argv.extend(ours.iter().map(String::as_str));
    let plan = hands.read_program(&argv).map(|text| simulated(&text));
    let also = match &plan {
        Ok(plan) => plan.removes.iter().filter(|name| !ours.contains(name)).cloned().collect(),
        Err(_) => Vec::new(),
    };
    if !also.is_empty() {
        let message = format!(
            "{} would have to go too: installed since, and in need of what goes. Remove them first, then undo again",
            also.join(", ")
        );
        return Err(failed(argv.join(" "), message));
    }
    // A package of which configuration was left before keeps it: it is removed and not purged.
    let (keep, purge): (Vec<String>, Vec<String>) =
        ours.iter().cloned().partition(|name| stock.find(name).is_some_and(|package| package.remains));
    // dpkg itself, where apt cannot: a package that is half installed or whose archive is gone.
    let by_dpkg = plan.is_err() || plan.is_ok_and(|plan| !plan.comes.is_empty());
    for (verb, names) in [("remove", keep), ("purge", purge)] {
        if names.is_empty() {
            continue;
        }
        let mut argv = if by_dpkg {
            vec!["dpkg", if verb == "purge" { "--purge" } else { "--remove" }, "--force-remove-reinstreq"]
        } else {
            let mut argv = vec!["apt-get", verb, "--yes", "--no-auto-remove"];
            argv.extend(OPTIONS);
            argv
        };
        argv.extend(names.iter().map(String::as_str));
        hands.tell_program(&argv)?;
    }
    Ok(())
}

/// Is one of these modules built for this kernel, and known to depmod?
pub(super) fn modules(root: &Path, release: &str, any_of: &[String]) -> bool {
    let dep = root.join("lib/modules").join(release).join("modules.dep");
    let Ok(text) = std::fs::read_to_string(dep) else { return false };
    let files = text.lines().filter_map(|line| line.split(':').next()?.rsplit('/').next());
    let names: BTreeSet<String> = files.filter_map(|file| Some(file.split_once(".ko")?.0.replace('-', "_"))).collect();
    any_of.iter().any(|name| names.contains(&name.replace('-', "_")))
}

/// DKMS's record of the newest build that failed, and its last lines.
pub(super) fn make_log(root: &Path) -> Option<(String, String)> {
    let mut found = Vec::new();
    for module in std::fs::read_dir(root.join("var/lib/dkms")).ok()?.flatten() {
        for version in std::fs::read_dir(module.path()).into_iter().flatten().flatten() {
            let path = version.path().join("build/make.log");
            let time = std::fs::metadata(&path).and_then(|meta| meta.modified());
            found.extend(time.ok().map(|time| (time, path)));
        }
    }
    let (_, path) = found.into_iter().max()?;
    let text = String::from_utf8_lossy(&std::fs::read(&path).ok()?).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    // A compiler's line holds flags such as -Werror=…; what it says of an error has a colon.
    let says = |line: &&&str| line.contains("error:") || line.contains("ERROR:") || line.contains("fatal:");
    let errors = lines.iter().filter(says).take(3).copied().collect::<Vec<_>>();
    let last = if errors.is_empty() { lines.iter().rev().take(3).rev().copied().collect() } else { errors };
    let inside = path.strip_prefix(root).unwrap_or(&path);
    Some((format!("/{}", inside.display()), last.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_is_read() {
        let text = "Reading package lists...\nInst libc6 [2.36-9] (2.36-10 Debian:12.15/oldstable [amd64])\n\
            Inst dkms (3.0.10-8 Debian:12.15/oldstable [all])\nInst libc6:i386 (2.36 Debian:12 [i386])\n\
            Conf dkms (3.0.10-8)\nRemv old [1.0]\nPurg older [1]\n";
        let all = simulated(text);
        assert_eq!(all.comes, [("dkms".into(), "3.0.10-8".into()), ("libc6:i386".into(), "2.36".into())]);
        assert_eq!((all.upgrades, all.removes), (vec!["libc6".to_owned()], vec!["old".to_owned(), "older".to_owned()]));
    }

    #[test]
    fn packages_are_listed_with_marks_and_foreign_ones_by_their_architecture() {
        let text = "dkms\tall\t3.0\tinstalled\nlibc6\tamd64\t2\tinstalled\nlibc6\ti386\t2\tinstalled\n\
            old\tamd64\t1\tconfig-files\ngone\tamd64\t\tnot-installed\nbroken\tamd64\t1\thalf-configured\nx\n";
        let auto = BTreeSet::from(["libc6".to_owned()]);
        let all = list(text, "amd64", &auto);
        let names: Vec<(&str, bool, bool)> = all.iter().map(|p| (p.name.as_str(), p.auto, p.remains)).collect();
        assert_eq!(
            names,
            [
                ("dkms", false, false),
                ("libc6", true, false),
                ("libc6:i386", false, false),
                ("old", false, true),
                ("broken", false, false)
            ]
        );
    }

    #[test]
    fn what_was_being_unpacked_is_found() {
        let text =
            "gcc\tinstalled ok\nbzip2\thalf-installed ok\nlinux-libc-dev\tunpacked reinstreq\nmake\tunpacked ok\nx\n";
        assert_eq!(half(text), BTreeSet::from(["bzip2", "linux-libc-dev"]));
    }

    #[test]
    fn a_module_counts_where_depmod_lists_it() {
        let tree = tempfile::tempdir().expect("a directory");
        let dir = tree.path().join("lib/modules/6.1");
        std::fs::create_dir_all(&dir).expect("made");
        let any = ["nvidia".to_owned(), "nvidia-current".to_owned()];
        assert!(!modules(tree.path(), "6.1", &any));
        std::fs::write(dir.join("modules.dep"), "kernel/nvidiafb.ko:\nupdates/dkms/nvidia-current.ko.xz: a.ko\n")
            .unwrap();
        assert!(modules(tree.path(), "6.1", &any) && !modules(tree.path(), "6.1", &any[..1]));
    }
}
