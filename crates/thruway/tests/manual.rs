//! Manual pages: every command has one, man finds nothing to say against them, and those written by hand are true.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs programs")]
#![allow(clippy::print_stdout, reason = "says what it skips")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::{stderr, stdout, thruway};

fn pages(dir: &Path) -> BTreeSet<String> {
    let made = thruway(&["man", "--all", dir.to_str().expect("a path")]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let names = std::fs::read_dir(dir).expect("the pages").map(|entry| entry.expect("an entry").file_name());
    names.map(|name| name.into_string().expect("a name")).collect()
}

/// The commands that `--help` lists, and those below them.
fn commands(words: &[&str], found: &mut Vec<String>) {
    let help = stdout(&thruway(&[words, &["--help"]].concat()));
    let list =
        help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest.split_once("\n\n").map_or(rest, |(list, _)| list));
    for line in list.lines() {
        let Some(name) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) else { continue };
        let name = name.split_whitespace().next().expect("a name");
        let words = [words, &[name]].concat();
        found.push(words.join("-"));
        // these hand their words to thruway-node, --help too
        if !matches!(words[..], ["node"] | ["kube", "doctor" | "manifests" | "cordon" | "uncordon"]) {
            commands(&words, found);
        }
    }
}

#[test]
fn every_command_has_a_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = pages(&dir.path().join("new"));
    let mut commands_of = Vec::new();
    commands(&[], &mut commands_of);
    assert!(commands_of.len() > 80, "{commands_of:?}");
    let wanted: BTreeSet<String> = commands_of
        .iter()
        .map(|command| format!("thruway-{command}.1"))
        .chain(["thruway.1", "thruway-hook.1", "thruway-runtime.1"].map(str::to_owned))
        .collect();
    assert_eq!(pages, wanted);
    for name in &pages {
        let text = std::fs::read_to_string(dir.path().join("new").join(name)).expect("a page");
        // every page that is named in another is there
        for word in text.replace("\\fB", "").replace("\\fR", "").replace('\\', "").split_whitespace() {
            let Some(other) = word.find("(1)").map(|end| &word[..end]).filter(|other| other.starts_with("thruway"))
            else {
                continue;
            };
            assert!(pages.contains(&format!("{other}.1")), "{name} names {other}(1)");
        }
    }
    let whole = std::fs::read_to_string(dir.path().join("new/thruway.1")).expect("the page");
    assert!(whole.contains("Speak to this node"), "short help's omissions are missing from the page");
    assert_eq!(stdout(&thruway(&["man"])), whole);
    let bind = std::fs::read_to_string(dir.path().join("new/thruway-host-bind.1")).expect("the page");
    assert!(bind.contains("stop\\-holders") && !bind.contains("pve\\-token"), "{bind}");
}

#[test]
fn man_prints_them_without_a_warning() {
    if Command::new("man").arg("--version").output().is_err()
        || Command::new("groff").arg("--version").output().is_err()
    {
        println!("SKIP: man or groff is not installed (./test.sh installs man-db)");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut count = 0;
    for name in pages(dir.path()) {
        let mut man = Command::new("man");
        man.args(["--warnings", "--encoding=UTF-8", "--local-file"]).arg(dir.path().join(&name));
        let shown = man.env("MANPAGER", "cat").env("MANWIDTH", "100").output().expect("man");
        let warned: Vec<String> =
            stderr(&shown).lines().filter(|line| !line.contains("locale")).map(str::to_owned).collect();
        assert!(shown.status.success() && warned.is_empty(), "{name}: {warned:?}");
        assert!(stdout(&shown).lines().count() > 10, "{name}: {}", stdout(&shown));
        count += 1;
    }
    println!("{count} pages");
}

#[test]
fn what_is_written_by_hand_is_what_the_programs_say() {
    for (program, words) in [("thruway-hook", 6), ("thruway-node", 8)] {
        let path = Path::new(env!("CARGO_BIN_EXE_thruway")).with_file_name(program);
        if !path.exists() {
            println!("SKIP: {program} is not built (cargo build --workspace)");
            continue;
        }
        let help = stdout(&Command::new(path).arg("--help").output().expect("it starts"));
        let page = format!("{}/../../dist/man/{program}.1", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(page).expect("the page").replace("\\-", "-");
        // two blanks before a command or an option, and no more, is a line that names one
        let named = help
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .filter(|rest| rest.starts_with("--") || rest.starts_with(|letter: char| letter.is_ascii_lowercase()));
        let named: Vec<&str> = named.filter_map(|rest| rest.split_whitespace().next()).collect();
        assert!(named.len() >= words, "{program}: {named:?}");
        for word in named.into_iter().map(|word| word.trim_end_matches([',', ';'])) {
            assert!(page.contains(word), "{program}.1 does not say {word}");
        }
    }
}
