//! A panic while the screen is taken: it is given back, and the message can be read on it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs tmux")]

use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn a_panic_gives_the_screen_back_and_its_message_stands_there() {
    if Command::new("tmux").arg("-V").output().is_err() {
        return println!("SKIP: tmux is not installed (./test.sh installs it)");
    }
    let deps = std::env::current_exe().expect("this test").parent().expect("its folder").to_owned();
    let program = deps.parent().expect("target/debug").join("examples/panics");
    if !program.exists() {
        return println!("SKIP: {} is not built", program.display());
    }
    let folder = tempfile::tempdir().expect("a directory");
    let tmux = |args: &[&str]| {
        let output = Command::new("tmux")
            .arg("-f")
            .arg("/dev/null")
            .arg("-S")
            .arg(folder.path().join("tmux"))
            .args(args)
            .output();
        String::from_utf8_lossy(&output.expect("tmux").stdout).into_owned()
    };
    let shell = format!(
        "RUST_BACKTRACE=0 LANG=C.UTF-8 sh -c 'echo before; {}; stty -a | tr \";\" \"\\n\" | grep -c -- -icanon; sleep 60'",
        program.display()
    );
    tmux(&["new-session", "-d", "-x", "80", "-y", "24", &shell]);
    let start = Instant::now();
    let holds = |screen: &str| {
        screen.contains("on purpose")
            && screen.contains("ended: false")
            && screen.lines().any(|line| line.trim() == "0")
    };
    let screen = loop {
        let screen = tmux(&["capture-pane", "-p"]);
        if holds(&screen) || start.elapsed() > Duration::from_secs(20) {
            break screen;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let alternate = tmux(&["display-message", "-p", "#{alternate_on}"]);
    tmux(&["kill-server"]);
    assert!(holds(&screen) && screen.lines().any(|line| line == "before"), "{screen}");
    assert_eq!(alternate.trim(), "0");
}
