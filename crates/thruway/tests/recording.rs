//! The recording of the demo and the pictures below docs/ are what the program prints now.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "runs the program, reads the files below docs/"
)]

mod common;

use std::path::{Path, PathBuf};

use common::{stderr, stdout, thruway};
use serde_json::Value;

const AGAIN: &str = "it is old: scripts/record-demo.py (as root, where runc is)";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Without colours and carriage returns.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for (at, piece) in text.replace('\r', "").split("\x1b[").enumerate() {
        out.push_str(if at == 0 { piece } else { piece.split_once('m').expect("a colour").1 });
    }
    out
}

/// Without what differs between machines and moments: the container of runc (or why it was not shown), which ends at the next
/// prompt of a machine.
fn settled(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("» a container, for real") || line.starts_with("» not shown: a container") {
            inside = true;
            lines.push("A CONTAINER, OR WHY NOT".into());
        }
        inside &= !line.starts_with("guest$");
        if !inside {
            lines.push(line.trim_end().to_owned());
        }
    }
    lines
}

/// What the recorded scene prints now.
fn now() -> Vec<String> {
    let scene = root().join("scripts/demo.scene");
    let output = thruway(&["demo", "--script", scene.to_str().expect("a path")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    settled(&stdout(&output))
}

#[test]
fn the_recording_is_asciicast_2_and_what_the_program_prints_now() {
    let cast = text("docs/demo.cast");
    let mut lines = cast.lines();
    let header: Value = serde_json::from_str(lines.next().expect("a header")).expect("JSON");
    assert_eq!((&header["version"], &header["width"], &header["height"]), (&2.into(), &100.into(), &30.into()));
    let (mut last, mut shown) = (0.0, String::new());
    for line in lines {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let [when, kind, data] = event.as_array().map(Vec::as_slice).expect("an event") else { panic!("{line}") };
        let when = when.as_f64().expect("seconds");
        assert!(when >= last, "{line}: time goes back");
        assert_eq!(kind, "o", "{line}");
        shown.push_str(data.as_str().expect("text"));
        last = when;
    }
    assert!((20.0..60.0).contains(&last), "{last} s");
    let shown = plain(&shown);
    assert!(
        shown.contains("NVIDIA GeForce GT 1030") && shown.contains("container$ "),
        "no container is in it: {AGAIN}"
    );
    assert_eq!(settled(&shown), now(), "docs/demo.cast: {AGAIN}");
}

/// The lines of a picture, by the height at which each text stands.
fn lines_of(svg: &str) -> Vec<String> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for piece in svg.split("<text ").skip(1) {
        let attribute = |name: &str| {
            piece.split_once(&format!("{name}=\"")).expect("it").1.split('"').next().expect("it").to_owned()
        };
        let (height, style_end) = (attribute("y"), piece.split_once('>').expect("a text").1);
        let words = style_end.split("</text>").next().expect("its end");
        let words = words.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        match lines.last_mut() {
            Some((last, line)) if *last == height => line.push_str(&words),
            _ => lines.push((height, words)),
        }
    }
    lines.into_iter().map(|(_, line)| line.trim_end().to_owned()).collect()
}

#[test]
fn the_pictures_show_what_the_program_prints_now() {
    let doctor = stdout(&thruway(&["--sim", "seed-host", "doctor"]));
    let doctor: Vec<String> = doctor.lines().map(|line| line.trim_end().to_owned()).collect();
    for (path, all, how) in [
        ("docs/demo.svg", now(), AGAIN),
        ("docs/doctor.svg", doctor, "it is old: crates/thruway/examples/picture.rs says how it is made"),
    ] {
        let lines = lines_of(&text(path));
        assert!(lines.len() > 10, "{path}: {lines:?}");
        // a picture has no text where a line is empty
        let printed: Vec<&String> = all.iter().filter(|line| !line.is_empty()).collect();
        let found =
            printed.windows(lines.len()).any(|window| window.iter().zip(&lines).all(|(is, shown)| *is == shown));
        assert!(found, "{path}: {how}\n{}", lines.join("\n"));
    }
}
