//! dnf with rpm, and pacman.

use std::collections::BTreeSet;

use model::{Manager, PackagesOp};

use super::failed;
use crate::{HandError, Installed, RealHands, Stock};

pub(super) fn installed(hands: &RealHands, manager: Manager) -> Result<Vec<Installed>, HandError> {
    let (all, auto) = match manager {
        Manager::Pacman => (hands.read_program(&["pacman", "-Q"])?, quiet(hands, &["pacman", "-Qdq"])),
        _ => {
            let all =
                hands.read_program(&["rpm", "-qa", "--qf", "%{NAME}.%{ARCH} %{EPOCHNUM}:%{VERSION}-%{RELEASE}\\n"])?;
            // What the user asked for by name is listed; all else is somebody's dependency.
            let form = "--qf=%{name}.%{arch}\\n";
            let asked = hands.read_program(&["dnf", "repoquery", "--userinstalled", form, "--quiet"])?;
            let asked: BTreeSet<&str> = asked.lines().collect();
            let names = all.lines().filter_map(|line| line.split(' ').next());
            let auto: Vec<&str> = names.filter(|name| !asked.contains(name)).collect();
            let auto = auto.join("\n");
            (all, auto)
        }
    };
    let auto: BTreeSet<&str> = auto.lines().collect();
    let mut list: Vec<Installed> = Vec::new();
    for (name, version) in all.lines().filter_map(|line| line.split_once(' ')) {
        // Kernels and their headers: several versions stand beside each other under one name.
        let name = if list.iter().any(|known| known.name == name) { format!("{name} {version}") } else { name.into() };
        list.push(Installed { version: version.into(), auto: auto.contains(name.as_str()), remains: false, name });
    }
    Ok(list)
}

/// pacman exits with 1 where the list is empty.
fn quiet(hands: &RealHands, argv: &[&str]) -> String {
    hands.read_program(argv).unwrap_or_default()
}

pub(super) fn stock(hands: &RealHands, op: &PackagesOp, before: Vec<Installed>) -> Result<Stock, HandError> {
    let names = op.install.iter().map(String::as_str);
    let comes: Vec<(String, String)> = match op.manager {
        Manager::Pacman => {
            let argv: Vec<&str> =
                ["pacman", "-S", "--print", "--needed", "--print-format", "%n %v"].into_iter().chain(names).collect();
            let text = hands.read_program(&argv)?;
            text.lines().filter_map(|line| line.split_once(' ')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
        }
        _ => {
            let front = ["dnf", "install", "--assumeno", "--setopt=install_weak_deps=False"];
            let argv: Vec<&str> = front.into_iter().chain(names).collect();
            let text = hands.said_program(&argv)?;
            let all = transaction(&text);
            if all.is_empty() && !text.contains("Nothing to do") {
                let last = text.lines().rev().filter(|line| !line.trim().is_empty()).take(4).collect::<Vec<_>>();
                return Err(failed(argv.join(" "), last.into_iter().rev().collect::<Vec<_>>().join("; ")));
            }
            all
        }
    };
    let there = |name: &String| before.iter().any(|package| package.name == *name);
    let touched: Vec<&str> =
        comes.iter().map(|(name, _)| name).filter(|name| there(name)).map(String::as_str).collect();
    if !touched.is_empty() {
        let message = format!(
            "{} would get another version, and what is there stays as it is. Bring the system up to date first, then \
             plan again",
            touched.join(", ")
        );
        return Err(failed(format!("{} install", op.manager.name()), message));
    }
    Ok(Stock { before, comes, ..Stock::default() })
}

/// dnf's table: lines of ` NAME ARCH VERSION REPOSITORY SIZE UNIT` below "Installing…", "Upgrading", "Removing".
fn transaction(text: &str) -> Vec<(String, String)> {
    let mut inside = false;
    let mut all = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with("Transaction Summary") {
            break;
        }
        if !line.starts_with(' ') {
            inside = ["Installing", "Upgrading", "Removing", "Downgrading", "Reinstalling"]
                .iter()
                .any(|front| line.starts_with(front));
        } else if let (true, [name, arch, version, _, ..]) = (inside, words.as_slice()) {
            all.push((format!("{name}.{arch}"), (*version).to_owned()));
        }
    }
    all
}

pub(super) fn remove(hands: &RealHands, manager: Manager, ours: &[String]) -> Result<(), HandError> {
    let argv = manager.purge(ours);
    hands.tell_program(&super::words(&argv))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dnf_s_table_is_read() {
        let text = "Dependencies resolved.\n=====\n Package   Arch   Version   Repository  Size\n=====\nInstalling:\n \
            akmod-nvidia x86_64 3:580.95.05-1.fc43 rpmfusion-nonfree-updates 41 k\nInstalling dependencies:\n \
            akmods noarch 0.6.0-6 fedora 31 k\n\nTransaction Summary\n=====\nInstall 2 Packages\n";
        let names: Vec<String> = transaction(text).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["akmod-nvidia.x86_64", "akmods.noarch"]);
    }
}
