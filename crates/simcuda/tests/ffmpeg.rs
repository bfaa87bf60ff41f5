//! FFmpeg as Debian ships it, on the simulated libraries: it loads all three and is not told more than they can do.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs a program")]

mod common;

use std::process::{Command, Output};

use common::driver;

const SOURCE: [&str; 4] = ["-f", "lavfi", "-i", "testsrc=size=320x180:rate=10:duration=1"];

/// None where there is no ffmpeg with NVIDIA's interfaces.
fn ffmpeg(name: &str, args: &[&str]) -> Option<Output> {
    let has = Command::new("ffmpeg").args(["-hide_banner", "-encoders"]).output();
    if !has.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("h264_nvenc")) {
        println!("SKIP: no ffmpeg with h264_nvenc");
        return None;
    }
    let folder = driver(name);
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin", "-loglevel", "verbose"]).args(args).env("LD_LIBRARY_PATH", folder.path());
    Some(command.output().expect("ffmpeg"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_card_without_nvenc_refuses_as_a_real_one_does() {
    for name in ["h100", "gt1030", "gt1030-470"] {
        let Some(output) = ffmpeg(name, &[&SOURCE[..], &["-c:v", "h264_nvenc", "-f", "null", "-"]].concat()) else {
            return;
        };
        let text = said(&output);
        assert!(!output.status.success());
        assert!(text.contains("OpenEncodeSessionEx failed: unsupported device (2)"), "{name}: {text}");
        assert!(text.contains("No capable devices found"), "{name}: {text}");
    }
}

#[test]
fn a_card_with_nvenc_passes_all_questions() {
    for (name, version) in [("rtx4090", "13.0"), ("rtx3090-535", "12.1"), ("t4", "13.0")] {
        let Some(output) = ffmpeg(name, &[&SOURCE[..], &["-c:v", "h264_nvenc", "-f", "null", "-"]].concat()) else {
            return;
        };
        let text = said(&output);
        assert!(text.contains(&format!("Loaded Nvenc version {version}")), "{name}: {text}");
        assert!(text.contains("supports NVENC"), "{name}: {text}");
        // as far as it goes here, and it says so
        assert!(text.contains("(simulated): pictures are not encoded here"), "{name}: {text}");
        assert!(text.contains("Cannot get the preset configuration: unimplemented (22)"), "{name}: {text}");
    }
}

/// Frames that went to the card and came back are the same.
#[test]
fn frames_go_up_and_come_down() {
    let plain = [&SOURCE[..], &["-vf", "format=yuv420p", "-f", "md5", "-"]].concat();
    let there = ["-init_hw_device", "cuda=cu:0", "-filter_hw_device", "cu"];
    let round = ["-vf", "format=yuv420p,hwupload_cuda,hwdownload,format=yuv420p", "-f", "md5", "-"];
    let (Some(plain), Some(round)) = (ffmpeg("t4", &plain), ffmpeg("t4", &[&there[..], &SOURCE, &round].concat()))
    else {
        return;
    };
    assert!(round.status.success(), "{}", said(&round));
    assert!(said(&round).contains("libcuda (simulated)"), "{}", said(&round));
    assert!(plain.stdout.starts_with(b"MD5=") && plain.stdout == round.stdout);
}

/// Decoding falls back to software with the line that a real failure has.
#[test]
fn decoding_is_asked_about_and_not_done() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("a.mpg");
    let file = file.to_str().expect("UTF-8");
    let Some(made) = ffmpeg("t4", &[&SOURCE[..], &["-r", "25", "-c:v", "mpeg2video", file]].concat()) else { return };
    assert!(made.status.success(), "{}", said(&made));
    let output = ffmpeg("t4", &["-hwaccel", "cuda", "-i", file, "-f", "null", "-"]).expect("it was there");
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("NVDEC capabilities:")
            && text.contains("(simulated): cuvidCreateDecoder: pictures are not decoded"),
        "{text}"
    );
    assert!(text.contains("Failed setup for format cuda: hwaccel initialisation returned error"), "{text}");
}
