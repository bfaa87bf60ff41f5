//! What cannot be held to this machine's own ldconfig: another processor's libraries.

use std::os::fd::AsFd;

use formats::ldsocache::{Arch, Cache};

use super::*;

/// A library's header for a machine: one segment, a dynamic section with a SONAME.
fn library(wide: bool, machine: u16, flags: u32, soname: &str) -> Vec<u8> {
    let word = |out: &mut Vec<u8>, value: u64| {
        if wide { out.extend(value.to_le_bytes()) } else { out.extend((value as u32).to_le_bytes()) }
    };
    let (header, program, row) = if wide { (64, 56, 16) } else { (52, 32, 8) };
    let dynamic = header + 2 * program;
    let strings = dynamic + 3 * row;
    let end = strings + soname.len() as u64 + 2;
    let mut out = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1];
    out.resize(16, 0);
    out.extend(3_u16.to_le_bytes());
    out.extend(machine.to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    for value in [0, header, 0] {
        word(&mut out, value);
    }
    out.extend(flags.to_le_bytes());
    for half in [header, program, 2, 0, 0, 0] {
        out.extend((half as u16).to_le_bytes());
    }
    for (kind, at, size) in [(1_u32, 0, end), (2, dynamic, 3 * row)] {
        out.extend(kind.to_le_bytes());
        if wide {
            out.extend(4_u32.to_le_bytes());
        }
        for value in [at, at, at, size, size] {
            word(&mut out, value);
        }
        if !wide {
            out.extend(4_u32.to_le_bytes());
        }
        word(&mut out, 8);
    }
    for (tag, value) in [(14, 1), (5, strings), (0, 0)] {
        word(&mut out, tag);
        word(&mut out, value);
    }
    out.push(0);
    out.extend(soname.as_bytes());
    out.push(0);
    out
}

#[test]
fn an_aarch64_image_has_its_own_kinds_and_directories() {
    let scratch = tempfile::tempdir().expect("a directory");
    let root = scratch.path();
    let put = |path: &str, bytes: &[u8]| {
        let full = root.join(path);
        std::fs::create_dir_all(full.parent().expect("a parent")).expect("directories");
        std::fs::write(full, bytes).expect("a file");
    };
    put("etc/debian_version", b"12\n");
    put("usr/lib/aarch64-linux-gnu/libcuda.so.1", &library(true, 183, 0, "libcuda.so.1"));
    put("usr/lib/libhard.so.1", &library(false, 40, 0x0500_0400, "libhard.so.1"));
    put("usr/lib/libsoft.so.1", &library(false, 40, 0x0500_0200, "libsoft.so.1"));
    put("usr/lib/libpc.so.1", &library(true, 62, 0, "libpc.so.1"));
    put("usr/lib/libbig.so.1", &[b"\x7fELF\x02\x02\x01".as_slice(), &[0; 80]].concat());
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let fd = rustix::fs::open(root, flags, rustix::fs::Mode::empty()).expect("the root");
    let cache = Cache::parse(&fresh(&Root::at(fd.as_fd()).expect("a root"), Family::Arm)).expect("a cache");
    let shown: Vec<_> = cache.entries.iter().map(|e| (e.path.as_str(), e.flags, e.arch())).collect();
    // FLAG_ARM_LIBHF | FLAG_ELF_LIBC6, FLAG_AARCH64_LIB64 | FLAG_ELF_LIBC6 (glibc, sysdeps/generic/ldconfig.h)
    assert_eq!(
        shown,
        [
            ("/usr/lib/libhard.so.1", 0x0903, Arch::Other(9)),
            ("/usr/lib/aarch64-linux-gnu/libcuda.so.1", 0x0a03, Arch::Aarch64),
        ]
    );
}
