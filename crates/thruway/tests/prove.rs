//! `thruway app prove`: on simulated machines, and with Debian's own ffmpeg over the simulated driver, which decodes nothing: so
//! ffmpeg falls back to software as it does for people, and goes on without an error.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs the program")]

mod common;
#[path = "common/live.rs"]
mod live;

use std::process::{Command, Output, Stdio};

use common::{stderr, stdout};
use live::{Live, namespaces};
use serde_json::Value;

fn ffmpeg() -> bool {
    let here = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let here = here.is_ok_and(|status| status.success());
    if !here {
        println!("SKIP: ffmpeg is not installed");
    }
    here
}

fn report(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap_or_else(|_| panic!("{}{}", stdout(output), stderr(output)))
}

fn thruway(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thruway")).args(args).stdin(Stdio::null()).output().expect("the program")
}

#[test]
fn the_silent_fall_back_of_a_real_ffmpeg_is_found() {
    if !namespaces() || !ffmpeg() {
        return;
    }
    let live = Live::whole("guest-good", "gtx1660");
    let output = live.thruway(&["app", "prove", "--start", "--for", "1s", "--ffmpeg", "ffmpeg", "--json"]);
    let report = report(&output);
    let proof = &report["processes"][0]["proof"];
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["simulated"], true);
    assert_ne!(proof["verdict"], "full", "{report:#}");
    let text = report.to_string();
    // an encoder was asked for, since this card has one; the simulated one opens no session for frames
    assert!(text.contains("h264_nvenc"), "{report:#}");
    assert!(proof["fixes"].as_array().is_some_and(|fixes| !fixes.is_empty()), "{report:#}");

    // a card without an encoder: the CPU encodes, and the decoder was to be the card's
    let live = Live::whole("guest-good", "gt1030");
    let output = live.thruway(&["app", "prove", "--start", "--for", "1s", "--ffmpeg", "ffmpeg", "--json"]);
    let report = self::report(&output);
    let proof = &report["processes"][0]["proof"];
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(proof["verdict"], "none", "{report:#}");
    assert!(proof["decode"]["why"].as_str().is_some_and(|why| why.contains("fell back")), "{report:#}");
    let text = report.to_string();
    assert!(text.contains("all 60 frames came out") && text.contains("Failed setup for format cuda"), "{report:#}");
}

#[test]
fn without_a_driver_the_transcode_fails_and_its_own_line_says_why() {
    if !ffmpeg() {
        return;
    }
    if std::path::Path::new("/dev/nvidiactl").exists() {
        println!("SKIP: a driver runs here");
        return;
    }
    let output = thruway(&["app", "prove", "--start", "--for", "1s", "--ffmpeg", "ffmpeg"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("the transcode that was started failed") && said.contains("libcuda"), "{said}");
}

#[test]
fn who_is_not_there_is_not_proved() {
    let output = thruway(&["app", "prove", "--container", "no-such-container"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stderr(&output).contains("no process of no-such-container is on this machine"), "{}", stderr(&output));
    let output = thruway(&["app", "prove", "--pid", "4000000"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no process 4000000"), "{}", stderr(&output));
    let output = thruway(&["app", "prove", "--start", "--sim", "seed-guest"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--start runs the app's own ffmpeg on this machine"), "{}", stderr(&output));
    let output = thruway(&["app", "prove", "--start", "--ffmpeg", "/no/such/ffmpeg"]);
    assert!(stderr(&output).contains("no ffmpeg runs there (/no/such/ffmpeg)"), "{}", stderr(&output));
}
