//! CUDA forward compatibility: what is decided from which note, and that broken files decide nothing.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "tests build trees")]

mod common;

use std::os::fd::AsFd;

use common::{Elf, Random, put, root_of, scratch};
use hook::{Compat, Host, Note, Options, decide};

fn note(cuda: &str, drivers: &[u32]) -> Option<Note> {
    Some(Note { cuda: cuda.into(), drivers: drivers.to_vec() })
}

#[test]
fn decisions() {
    let drivers: &[u32] = &[535, 550, 570, 580];
    for (version, note, driver, cuda, used) in [
        // the note names branches
        ("590.44.01", note("13.1", drivers), Some("570.86.15"), None, true),
        ("590.44.01", note("13.1", drivers), Some("565.57.01"), None, false),
        ("590.44.01", note("13.1", drivers), Some("595.10"), None, false),
        ("580.65.06", note("13.0", drivers), Some("580.65.06"), None, false),
        ("580.95.05", note("13.0", drivers), Some("580.65.06"), None, true),
        ("580.65.06", note("13.0", drivers), Some("580.105.08"), None, false),
        // or the CUDA version alone decides
        ("590.44.01", note("13.1", &[]), Some("570.86.15"), Some((12, 8)), true),
        ("590.44.01", note("13.1", drivers), None, Some((13, 0)), true),
        ("590.44.01", note("13.1", drivers), None, Some((13, 1)), false),
        ("590.44.01", note("", drivers), None, Some((12, 0)), false),
        ("590.44.01", note("13.1", &[]), Some("570.86.15"), None, false),
        // without a note: the newer branch
        ("550.54.15", None, Some("535.183.01"), None, true),
        ("550.54.15", None, Some("550.40.07"), None, false),
        ("550.54.15", None, Some("560.1.1"), None, false),
        ("550.54.15", None, None, Some((12, 0)), false),
        ("1.1", None, Some("540.3.0"), None, false),
        ("x.y", None, Some("535.1.1"), None, false),
    ] {
        let compat = Compat { version: version.into(), note };
        let host = Host { driver, cuda };
        assert_eq!(decide(&compat, host), used, "{compat:?} over {host:?}");
    }
}

/// Runs the hook's work over an image with these files in its compat directory; is that directory used?
fn used(files: &[(&str, Vec<u8>)], driver: &str) -> (bool, Vec<String>) {
    let scratch = scratch();
    for (name, bytes) in files {
        put(scratch.path(), &format!("/usr/local/cuda/compat/{name}"), bytes);
    }
    put(scratch.path(), "/usr/lib64/libcuda.so.1", Elf::x86_64("libcuda.so.1").bytes());
    let options = Options { driver: Some(driver.into()), folders: vec!["/usr/lib64".into()], ..Options::default() };
    let report = hook::carry_out(root_of(scratch.path()).as_fd(), &options).expect("carried out");
    let cache = std::fs::read(scratch.path().join("etc/ld.so.cache")).expect("a cache");
    let cache = formats::ldsocache::Cache::parse(&cache).expect("a cache");
    let first = cache.named("libcuda.so.1").next().expect("one of them").path.clone();
    let written = scratch.path().join("etc/ld.so.conf.d/00-thruway-compat.conf").exists();
    // a file that was broken on purpose may have another name in it
    assert!(written || first == "/usr/lib64/libcuda.so.1", "what is not used is not in the cache: {first}");
    (written && first.starts_with("/usr/local/cuda/compat/"), report.warnings)
}

fn library(text: &str) -> Vec<u8> {
    Elf { compat: Some(text.into()), ..Elf::x86_64("libcuda.so.1") }.bytes()
}

#[test]
fn notes_are_read_from_the_images_library() {
    let honest = library(r#"{"Format":1,"CUDA Version":"13.1","Driver":[535,580],"Device":[7,9]}"#);
    assert_eq!(used(&[("libcuda.so.590.44.01", honest.clone())], "580.1.2"), (true, vec![]));
    assert_eq!(used(&[("libcuda.so.590.44.01", honest.clone())], "550.1.2"), (false, vec![]));
    let both = [("libcuda.so.590.44.01", honest.clone()), ("libcuda.so.591.1", honest.clone())];
    assert_eq!(used(&both, "580.1.2"), (false, vec![]), "one of two is not guessed");
    let plain = Elf::x86_64("libcuda.so.1").bytes();
    assert_eq!(
        used(&[("libcuda.so.550.54.15", plain.clone())], "535.1.2"),
        (true, vec![]),
        "no note: the newer branch"
    );
    assert_eq!(used(&[("libcuda.so.1", plain)], "535.1.2"), (false, vec![]));
    let (is_used, warnings) = used(&[("libcuda.so.590.44.01", library("{\"Driver\":"))], "580.1.2");
    assert!(!is_used && warnings[0].contains("cannot be read"), "{warnings:?}");
}

#[test]
fn broken_libraries_decide_nothing_and_end_nothing() {
    let honest = library(r#"{"Format":1,"CUDA Version":"13.1","Driver":[535,580],"Device":[7,9]}"#);
    let mut random = Random::new(7);
    for _ in 0..300 {
        let mut bytes = honest.clone();
        for _ in 0..1 + random.below(6) {
            let at = random.below(bytes.len());
            bytes[at] = *random.pick(&[0, 1, 0x7f, 0xff, 0x80, 8]);
        }
        bytes.truncate(random.below(bytes.len()) + 1);
        used(&[("libcuda.so.590.44.01", bytes)], "580.1.2");
    }
}
