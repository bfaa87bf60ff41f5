//! What the tests share: library files made by hand, trees, and random numbers that can be had again.
#![allow(
    dead_code,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests build trees and run programs"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub mod bundle;

/// A shared library's file: header, one segment, dynamic section, notes. Nothing in it runs.
#[derive(Clone, Debug)]
pub struct Elf {
    pub wide: bool,
    /// e_machine: 62 x86-64, 3 i386, 183 aarch64.
    pub machine: u16,
    pub soname: Option<String>,
    pub needs_libc: bool,
    /// GNU_PROPERTY_X86_ISA_1_NEEDED.
    pub isa: Option<u32>,
    /// Content of `.note.cuda.fwd_compatibility`.
    pub compat: Option<String>,
}

impl Elf {
    pub fn x86_64(soname: &str) -> Elf {
        let soname = Some(soname.to_owned());
        Elf { wide: true, machine: 62, soname, needs_libc: true, isa: None, compat: None }
    }

    pub fn i386(soname: &str) -> Elf {
        Elf { wide: false, machine: 3, ..Elf::x86_64(soname) }
    }

    /// An address, an offset, a size.
    fn word(&self, out: &mut Vec<u8>, value: u64) {
        if self.wide { out.extend(value.to_le_bytes()) } else { out.extend((value as u32).to_le_bytes()) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (header, program, section) = if self.wide { (64, 56, 64) } else { (52, 32, 40) };
        let align = if self.wide { 8 } else { 4 };
        let mut strings = vec![0];
        let mut add = |text: &str| {
            let at = strings.len() as u64;
            strings.extend(text.as_bytes());
            strings.push(0);
            at
        };
        let mut rows: Vec<(u64, u64)> = Vec::new();
        if self.needs_libc {
            rows.push((1, add("libc.so.6")));
        }
        if let Some(soname) = &self.soname {
            rows.push((14, add(soname)));
        }
        let property = self.isa.map(|isa| {
            let mut out = Vec::new();
            let size = 8 + if self.wide { 8_u32 } else { 4 };
            for word in [4, size, 5] {
                out.extend(word.to_le_bytes());
            }
            out.extend(b"GNU\0");
            for word in [0xc000_8002, 4, isa] {
                out.extend(word.to_le_bytes());
            }
            out.resize(out.len().next_multiple_of(align), 0);
            out
        });
        let note = self.compat.as_ref().map(|text| {
            let name = b"NVIDIA Corporation\0";
            let mut out = Vec::new();
            for word in [name.len() as u32, text.len() as u32, 1] {
                out.extend(word.to_le_bytes());
            }
            out.extend(name);
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend(text.as_bytes());
            out.resize(out.len().next_multiple_of(4), 0);
            out
        });
        let count = 2 + u64::from(property.is_some());
        let dynamic_at = header + program * count;
        let dynamic_size = (rows.len() as u64 + 2) * 2 * align as u64;
        let strings_at = dynamic_at + dynamic_size;
        let property_at = (strings_at + strings.len() as u64).next_multiple_of(8);
        let note_at = (property_at + property.as_ref().map_or(0, Vec::len) as u64).next_multiple_of(8);
        let names = b"\0.note.cuda.fwd_compatibility\0.shstrtab\0";
        let names_at = note_at + note.as_ref().map_or(0, Vec::len) as u64;
        let sections_at = (names_at + names.len() as u64).next_multiple_of(8);
        let base = 0x10000;
        rows.push((5, base + strings_at));
        let mut out = vec![0x7f, b'E', b'L', b'F', if self.wide { 2 } else { 1 }, 1, 1];
        out.resize(16, 0);
        out.extend(3_u16.to_le_bytes());
        out.extend(self.machine.to_le_bytes());
        out.extend(1_u32.to_le_bytes());
        self.word(&mut out, 0);
        self.word(&mut out, header);
        self.word(&mut out, sections_at);
        out.extend(0_u32.to_le_bytes());
        for half in [header, program, count, section, 3, 2] {
            out.extend((half as u16).to_le_bytes());
        }
        let mut segments = vec![(1_u32, 0, names_at), (2, dynamic_at, dynamic_size)];
        if let Some(property) = &property {
            segments.push((0x6474_e553, property_at, property.len() as u64));
        }
        for (kind, at, size) in segments {
            out.extend(kind.to_le_bytes());
            if self.wide {
                out.extend(4_u32.to_le_bytes());
            }
            for value in [at, base + at, base + at, size, size] {
                self.word(&mut out, value);
            }
            if !self.wide {
                out.extend(4_u32.to_le_bytes());
            }
            self.word(&mut out, align as u64);
        }
        rows.push((0, 0));
        assert_eq!(out.len() as u64, dynamic_at);
        for (tag, value) in &rows {
            self.word(&mut out, *tag);
            self.word(&mut out, *value);
        }
        out.resize(strings_at as usize, 0);
        out.extend(strings);
        out.resize(property_at as usize, 0);
        out.extend(property.unwrap_or_default());
        out.resize(note_at as usize, 0);
        let note_size = note.as_ref().map_or(0, Vec::len) as u64;
        out.extend(note.unwrap_or_default());
        out.extend(names);
        out.resize(sections_at as usize, 0);
        let no_note = note_size == 0;
        let rows =
            [(0, 0, 0, 0), (if no_note { 0 } else { 1 }, 7, note_at, note_size), (30, 3, names_at, names.len() as u64)];
        for (name, kind, at, size) in rows {
            out.extend((name as u32).to_le_bytes());
            out.extend((kind as u32).to_le_bytes());
            for value in [0, 0, at, size] {
                self.word(&mut out, value);
            }
            out.extend([0; 8]);
            self.word(&mut out, 4);
            self.word(&mut out, 0);
        }
        out
    }
}

/// xorshift: a seed gives the same numbers again.
pub struct Random(pub u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Writes a file below a tree, with its directories.
pub fn put(tree: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let full = tree.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(full.parent().expect("has a parent")).expect("directories");
    std::fs::write(full, bytes).expect("a file");
}

pub fn link(tree: &Path, path: &str, text: &str) {
    let full = tree.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(full.parent().expect("has a parent")).expect("directories");
    std::os::unix::fs::symlink(text, full).expect("a link");
}

pub fn root_of(tree: &Path) -> std::os::fd::OwnedFd {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    rustix::fs::open(tree, flags, rustix::fs::Mode::empty()).expect("the tree's root")
}

/// Where a program is, if this machine has it.
pub fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// A directory in memory where there is one: the tests make thousands of files.
pub fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let made = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    made.expect("a directory")
}

pub fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {}\n{text}{errors}", out.status);
    text.into_owned()
}

/// Both streams of a program.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
