//! Installers made as NVIDIA's makeself makes them, their sums by the system's own cksum and md5sum.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the oracle is another program")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// All from line 4 on.
fn rest(payload: &[u8]) -> Vec<u8> {
    let mut text = b"skip=10\nskip_decompress=10\nsize_decompress=0\n\
        label=\"NVIDIA Accelerated Graphics Driver for Linux-x86_64 580.65.06\"\nversion_string=580.65.06\n\
        pkg_version=0\nscript=./nvidia-installer\ntargetdir=NVIDIA-Linux-x86_64-580.65.06\n\
        TARGET_OS=\"Linux\"\nTARGET_ARCH=\"x86_64\"\nexit $res\n"
        .to_vec();
    text.extend(payload);
    text
}

fn piped(program: &str, input: &[u8]) -> String {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}, of coreutils: {error}"));
    child.stdin.take().expect("its input").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("is text");
    text.split_whitespace().next().expect("a sum").to_owned()
}

fn made(rest: &[u8]) -> Vec<u8> {
    let sums = format!("#! /bin/sh\nCRCsum={}\nMD5={}\n", piped("cksum", rest), piped("md5sum", rest));
    [sums.as_bytes(), rest].concat()
}

fn check(file: &[u8]) -> Result<RunFile, RunFileError> {
    let run = head(file)?;
    let mut sums = Sums::default();
    for piece in file[run.body..].chunks(1000) {
        sums.update(piece);
    }
    sums.check(&run)?;
    Ok(run)
}

#[test]
fn an_installer_says_what_it_is_and_its_sums_hold() {
    // over 64 KiB, with zeros at its end, which only the appended length tells
    let payload: Vec<u8> = (0u32..200_000).map(|n| (n.wrapping_mul(n) >> 7) as u8).chain([0; 77]).collect();
    let run = check(&made(&rest(&payload))).expect("is sound");
    assert_eq!((run.version.as_str(), run.os.as_str(), run.arch.as_str()), ("580.65.06", "Linux", "x86_64"));
    assert_eq!(run.label, "NVIDIA Accelerated Graphics Driver for Linux-x86_64 580.65.06");
    assert!(run.md5.is_some());
}

#[test]
fn a_changed_or_cut_installer_is_found() {
    let whole = made(&rest(&[7; 5000]));
    let mut changed = whole.clone();
    *changed.last_mut().expect("not empty") ^= 1;
    assert!(matches!(check(&changed), Err(RunFileError::Crc { .. })));
    assert!(matches!(check(&whole[..whole.len() - 1]), Err(RunFileError::Crc { .. })));
    // as somebody would who sets the first sum right and forgets the second
    let text = String::from_utf8(whole.clone()).expect("is text");
    let (first, after) = text.split_once("MD5=").expect("has it");
    let other = if after.starts_with('0') { "1" } else { "0" };
    assert!(matches!(check(format!("{first}MD5={other}{}", &after[1..]).as_bytes()), Err(RunFileError::Md5 { .. })));
    let none = format!("{first}MD5={NO_MD5}{}", &after[32..]);
    assert_eq!(check(none.as_bytes()).expect("the first sum is enough").md5, None);
}

#[test]
fn what_is_no_installer_is_refused_with_its_line() {
    let said = |text: &str| head(text.as_bytes()).expect_err("refused").to_string();
    assert!(said("<!DOCTYPE html>\n").contains("does not begin with a shell script"));
    assert!(said("#!/bin/sh\necho hello\n").starts_with("line 2: CRCsum was expected"));
    assert!(said("#!/bin/sh\nCRCsum=x\nMD5=\n").starts_with("line 2: CRCsum=\"x\""));
    assert!(said("#!/bin/sh\nCRCsum=1\nMD5=12\n").starts_with("line 3: MD5=\"12\""));
    assert!(
        said(&format!("#!/bin/sh\nCRCsum=1\nMD5={NO_MD5}\nlabel=\"NVIDIA x\"\n")).contains("no line version_string=")
    );
    let evil = format!("#!/bin/sh\nCRCsum=1\nMD5={NO_MD5}\nlabel=\"NVIDIA x\"\nversion_string=1.2;reboot\n");
    assert!(said(&evil).starts_with("line 5: version_string="));
    assert!(said(&evil.replace("NVIDIA x", "Some game")).starts_with("line 4: label="));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..600) {
        let _ = head(&bytes);
        let whole = [format!("#! /bin/sh\nCRCsum=1\nMD5={NO_MD5}\n").as_bytes(), &rest(&bytes)].concat();
        let _ = head(&whole[..cut.min(whole.len())]);
    }
}
