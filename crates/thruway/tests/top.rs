//! `thruway top` on a real terminal: tmux draws it, resizes it, presses its keys and signals it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs the program")]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{stderr, stdout};

const THRUWAY: &str = env!("CARGO_BIN_EXE_thruway");

/// A shell in a tmux server of its own.
struct Tmux {
    folder: tempfile::TempDir,
}

impl Tmux {
    fn start(columns: u16, lines: u16) -> Option<Tmux> {
        if Command::new("tmux").arg("-V").output().is_err() {
            println!("SKIP: tmux is not installed (./test.sh installs it)");
            return None;
        }
        let tmux = Tmux { folder: tempfile::tempdir().expect("a directory") };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let shell = "env -i PATH=$PATH LANG=C.UTF-8 TERM=screen-256color PS1='> ' sh -c 'echo before; exec sh'";
        tmux.run(&["new-session", "-d", "-x", &columns, "-y", &lines, shell]);
        tmux.until("it is there", |screen| screen.lines().any(|line| line == "before"));
        Some(tmux)
    }

    fn run(&self, args: &[&str]) -> String {
        let socket = self.folder.path().join("tmux");
        let output =
            Command::new("tmux").arg("-f").arg("/dev/null").arg("-S").arg(socket).args(args).output().expect("tmux");
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        stdout(&output)
    }

    fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as wanted and stays: a picture may reach tmux in two halves.
    fn until(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        let mut last = String::new();
        loop {
            let screen = self.screen();
            if holds(&screen) && screen == last {
                return screen;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{what}: it is not so:\n{screen}");
            last = screen;
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts it on a simulated machine; one look, so that the picture stays.
    fn top(&self, words: &str) -> String {
        self.keys(&[words, "Enter"]);
        self.until("it draws", |screen| screen.contains(" quit") && screen.contains("WHOSE"))
    }

    /// What the shell runs.
    fn child(&self) -> String {
        let shell = self.run(&["display-message", "-p", "#{pane_pid}"]);
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.trim())).expect("children");
        children.split_whitespace().next().expect("a child").to_owned()
    }

    /// The shell is back, with its own screen and its own ways.
    fn is_back(&self) {
        self.until("the screen is as it was", |screen| screen.lines().any(|line| line == "before"));
        assert_eq!(self.run(&["display-message", "-p", "#{alternate_on}"]).trim(), "0");
        // typed before the shell has said its prompt, the answer stands behind it
        self.keys(&["echo off: $(stty -a | tr ';' '\\n' | grep -c -- -icanon)", "Enter"]);
        self.until("the terminal is as it was", |screen| screen.contains("off: 0"));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let socket = self.folder.path().join("tmux");
        let _ = Command::new("tmux").arg("-S").arg(socket).arg("kill-server").output();
    }
}

fn command(name: &str) -> String {
    format!("{THRUWAY} --sim {name} top --every 24h")
}

/// Without the time of day.
fn still(screen: &str) -> String {
    let time = |word: &str| word.len() == 8 && word.bytes().filter(|byte| *byte == b':').count() == 2;
    let line = |line: &str| {
        line.split(' ').map(|word| if time(word) { "HH:MM:SS" } else { word }).collect::<Vec<_>>().join(" ")
    };
    screen.lines().map(|text| line(text) + "\n").collect()
}

#[test]
fn a_film_is_seen_with_its_pod_at_every_size() {
    for (columns, lines) in [(80, 24), (120, 40)] {
        let Some(tmux) = Tmux::start(columns, lines) else { return };
        let screen = tmux.top(&command("watch-film"));
        for word in ["1719", "949 MiB", "36%", "media/jellyfin", "jellyfin-ffmpeg"] {
            assert!(screen.contains(word), "{word}: {screen}");
        }
        insta::assert_snapshot!(format!("top_film_{columns}x{lines}"), still(&screen));
        tmux.keys(&["q"]);
        tmux.is_back();
    }
}

#[test]
fn every_kind_of_owner_is_named() {
    for (columns, lines) in [(80, 24), (120, 40)] {
        let Some(tmux) = Tmux::start(columns, lines) else { return };
        let screen = tmux.top(&command("watch-many"));
        insta::assert_snapshot!(format!("top_many_{columns}x{lines}"), still(&screen));
        // one card alone
        tmux.keys(&["2"]);
        let screen = tmux.until("one card", |screen| screen.contains("card: 2"));
        assert!(screen.contains("podman jellyfin") && !screen.contains("ollama"), "{screen}");
        tmux.keys(&["a", "s"]);
        let screen = tmux.until("by SM", |screen| screen.contains("sort: SM") && screen.contains("ollama"));
        let at = |pid: &str| screen.find(pid).unwrap_or_else(|| panic!("{pid}: {screen}"));
        assert!(at("20200") < at("20101") && at("20400") < at("20500") && at("20500") < at("20301"), "{screen}");
        tmux.keys(&["h"]);
        insta::assert_snapshot!(
            format!("top_help_{columns}x{lines}"),
            still(&tmux.until("help", |screen| screen.contains("ctrl-C")))
        );
    }
}

#[test]
fn it_follows_the_size_down_to_nothing_and_gives_the_screen_back() {
    let Some(tmux) = Tmux::start(80, 24) else { return };
    tmux.top(&command("watch-many"));
    for (columns, lines) in [(120, 40), (40, 10), (20, 5), (10, 3), (5, 2), (2, 1), (80, 24)] {
        tmux.run(&["resize-window", "-x", &columns.to_string(), "-y", &lines.to_string()]);
        std::thread::sleep(Duration::from_millis(300));
        let screen = tmux.screen();
        assert!(!screen.contains("panicked"), "{screen}");
        if columns >= 40 {
            tmux.until("it fits", |screen| screen.contains("20200") && screen.contains(" quit"));
        }
    }
    tmux.keys(&["q"]);
    // tmux itself has lost what stood on the small screen
    tmux.until("it ends", |screen| !screen.contains("WHOSE"));
    tmux.keys(&["clear; echo before", "Enter"]);
    tmux.is_back();
}

#[test]
fn signals_give_the_screen_back_too() {
    let Some(tmux) = Tmux::start(80, 24) else { return };
    let pid = || tmux.child();
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &pid()]).status().expect("kill, of procps or the shell");
        assert!(status.success(), "{name}");
    };
    for name in ["-TERM", "-HUP", "-INT"] {
        tmux.top(&command("watch-film"));
        signal(name);
        tmux.is_back();
        tmux.keys(&["clear; echo before", "Enter"]);
    }
    // stopped by a signal and by its key, and both times it goes on
    for stop in ["-TSTP", "C-z"] {
        tmux.top(&command("watch-film"));
        match stop {
            "C-z" => tmux.keys(&["C-z"]),
            name => signal(name),
        }
        tmux.is_back();
        tmux.keys(&["fg", "Enter"]);
        tmux.until("it goes on", |screen| screen.contains(" quit") && screen.contains("WHOSE"));
        tmux.keys(&["q"]);
        tmux.is_back();
        tmux.keys(&["clear; echo before", "Enter"]);
    }
}

#[test]
fn another_character_set_gets_no_signs_that_it_lacks() {
    let Some(tmux) = Tmux::start(80, 24) else { return };
    let screen = tmux.top(&command("watch-many").replacen(THRUWAY, &format!("LANG=C {THRUWAY}"), 1));
    assert!(screen.is_ascii(), "{screen}");
    assert!(screen.contains("97 %") && screen.contains('#'), "{screen}");
}

/// Within a generous time; and it is not left to burn the machine where it is not so.
fn ends(pid: &str, why: &str) {
    let start = Instant::now();
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        if start.elapsed() > Duration::from_secs(5) {
            let _ = Command::new("kill").args(["-KILL", pid]).status();
            panic!("{why}: it goes on without a terminal");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_ends_with_its_terminal() {
    // the server is killed, so that nobody tells anybody anything; the window is closed; the shell is
    for how in ["server", "window", "deaf"] {
        let Some(tmux) = Tmux::start(80, 24) else { return };
        let before = if how == "deaf" { "trap '' HUP; " } else { "" };
        tmux.top(&format!("{before}{}", command("watch-film")));
        let pid = tmux.child();
        match how {
            "window" => drop(tmux.run(&["kill-window"])),
            _ => {
                let server = tmux.run(&["display-message", "-p", "#{pid}"]);
                let status = Command::new("kill").args(["-KILL", server.trim()]).status().expect("kill");
                assert!(status.success());
            }
        }
        ends(&pid, how);
    }
}

#[test]
fn colour_is_left_out_where_it_is_not_wanted() {
    for (before, colours) in [("", true), ("NO_COLOR=1 ", false)] {
        let Some(tmux) = Tmux::start(80, 24) else { return };
        tmux.top(&format!("clear; {before}{THRUWAY} --sim watch-many top --every 24h"));
        let raw = tmux.run(&["capture-pane", "-p", "-e"]);
        let coloured = raw.contains("[38;5;") || raw.contains("[31m") || raw.contains("[32m");
        assert_eq!(coloured, colours, "{before}{raw:?}");
    }
}

#[test]
fn where_it_cannot_draw_it_says_what_to_do() {
    let Some(tmux) = Tmux::start(100, 24) else { return };
    tmux.keys(&[&format!("clear; TERM=dumb {THRUWAY} --sim watch-film top; echo status $?"), "Enter"]);
    let screen = tmux.until("it says so", |screen| screen.contains("status 2"));
    assert!(screen.contains("TERM=dumb") && screen.contains("thruway top --once"), "{screen}");
    let piped = Command::new(THRUWAY).args(["--sim", "watch-film", "top"]).output().expect("runs");
    assert_eq!(piped.status.code(), Some(2));
    assert!(stderr(&piped).contains("no terminal") && stderr(&piped).contains("--once"), "{}", stderr(&piped));
}

#[test]
fn once_and_json_tell_the_same_without_a_terminal() {
    let run =
        |args: &[&str]| Command::new(THRUWAY).args(["--sim", "watch-many", "top"]).args(args).output().expect("runs");
    let once = run(&["--once"]);
    assert_eq!(once.status.code(), Some(0));
    insta::assert_snapshot!("top_once", stdout(&once));
    let report: serde_json::Value = serde_json::from_slice(&run(&["--json"]).stdout).expect("JSON");
    assert_eq!((&report["schema"], &report["simulated"], &report["blind"]), (&1.into(), &true.into(), &false.into()));
    let owner = &report["cards"][1]["processes"]["is"][0]["whose"]["owner"];
    assert_eq!(
        (&owner["kind"], &owner["pod"], &owner["container"]),
        (&"pod".into(), &"vllm-7c9d8b6f5-q2w4e".into(), &"server".into())
    );
    assert_eq!(report["away"][0]["holder"]["names"][0], "films");
    let one = run(&["--once", "52:00.0"]);
    assert!(stdout(&one).contains("podman jellyfin") && !stdout(&one).contains("ollama"), "{}", stdout(&one));
    let none = Command::new(THRUWAY).args(["--sim", "vm-good", "top", "--once"]).output().expect("runs");
    assert!(stdout(&none).contains("no NVIDIA driver runs here"), "{}", stdout(&none));
}
