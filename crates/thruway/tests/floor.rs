//! On which C library the programs run: what their symbol tables ask of it.
//!
//! Releases are linked on Debian 11 (scripts/release.sh) and ask for nothing above 2.31. A build of this machine asks for what its
//! own C library renamed when it took libpthread and libdl into itself; that, and nothing else, may stand above. A function
//! that came later (pidfd_open, close_range) would keep the programs from Debian 11 however they are linked.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "reads programs")]
#![allow(clippy::print_stdout, reason = "says what it found")]

#[path = "common/elf.rs"]
mod elf;

use std::path::{Path, PathBuf};
use std::process::Command;

use elf::{Version, Wanted};

/// Debian 11, Proxmox VE 7 and Ubuntu 20.04.
const FLOOR: Version = (2, 31);

/// Symbols that 2.31 has as well, under an older version or in the start files and libgcc of its own compiler.
const RENAMED: [&str; 29] = [
    // the start files' call into the C library
    "__libc_start_main",
    // macros of 2.31 over __xstat and its like
    "fstat",
    "fstat64",
    "fstatat64",
    "lstat64",
    "mknod",
    "mknodat",
    "stat64",
    // from libdl
    "dlclose",
    "dlerror",
    "dlopen",
    "dlsym",
    // from libpthread
    "__pthread_key_create",
    "pthread_once",
    "pthread_attr_getguardsize",
    "pthread_attr_getstack",
    "pthread_attr_setguardsize",
    "pthread_attr_setstacksize",
    "pthread_create",
    "pthread_detach",
    "pthread_getattr_np",
    "pthread_join",
    "pthread_key_create",
    "pthread_key_delete",
    "pthread_setname_np",
    "pthread_setspecific",
    "pthread_getspecific",
    "pthread_sigmask",
    // libgcc's unwinder asks for it where it was built against 2.35; older ones walk by dl_iterate_phdr
    "_dl_find_object",
];

/// What a program may be linked with: the C library, its loader, and what were parts of it before 2.34.
const LIBRARIES: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];

/// What is above the floor, as a sentence each.
fn above(wanted: &[Wanted], renamed: bool) -> Vec<String> {
    let allowed = |one: &Wanted| renamed && RENAMED.contains(&one.symbol.as_str());
    let found = wanted.iter().filter(|one| match one.glibc() {
        Some(version) => version > FLOOR && !allowed(one),
        // GLIBC_PRIVATE is of one build alone; GCC_3.0 would be libgcc_s
        None => true,
    });
    found.map(|one| format!("{} of {} in {}", one.symbol, one.version, one.library)).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The package says the same.
#[test]
fn the_package_asks_for_the_floor() {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).expect("Cargo.toml");
    assert!(manifest.contains(&format!("\ndepends = \"libc6 (>= {}.{})\"\n", FLOOR.0, FLOOR.1)));
}

fn check(dir: &Path, renamed: bool) {
    for name in ["thruway-hook", "thruway-runtime"] {
        let bytes = read(&dir.join(name));
        assert!(elf::is_static(&bytes), "{name} asks for a loader");
        assert_eq!(elf::wanted(&bytes), Vec::new(), "{name} is to be static");
    }
    for name in ["thruway", "thruway-node"] {
        let bytes = read(&dir.join(name));
        let wanted = elf::wanted(&bytes);
        assert!(wanted.len() > 50, "{name}: only {} symbols were read", wanted.len());
        assert_eq!(above(&wanted, renamed), Vec::<String>::new(), "{name}: above {FLOOR:?}");
        let other: Vec<&Wanted> = wanted.iter().filter(|one| !LIBRARIES.contains(&one.library.as_str())).collect();
        assert!(other.is_empty(), "{name} is linked with more than the C library: {other:?}");
        let newest = wanted.iter().filter_map(Wanted::glibc).max().expect("a version");
        println!("{}: asks for C library {}.{}", dir.join(name).display(), newest.0, newest.1);
    }
}

#[test]
fn the_programs_ask_for_nothing_that_debian_11_has_not() {
    let built = Path::new(env!("CARGO_BIN_EXE_thruway")).parent().expect("a directory");
    let missing =
        ["thruway-hook", "thruway-node", "thruway-runtime"].into_iter().find(|name| !built.join(name).exists());
    match missing {
        Some(name) => println!("SKIP: {name} is not built (cargo build --workspace)"),
        None => check(built, true),
    }
}

/// What scripts/release.sh has built, where it did.
#[test]
fn a_release_runs_on_debian_11() {
    let release = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../release-debian-11/release");
    if !release.join("thruway-node").exists() {
        println!("SKIP: no release was built here (scripts/release.sh)");
        return;
    }
    check(&release, false);
}

/// A program of this machine's own compiler, which calls `call`.
fn compiled(dir: &Path, call: &str) -> Option<Vec<u8>> {
    let source = dir.join("program.c");
    let text = format!("#define _GNU_SOURCE\n#include <unistd.h>\n#include <sys/types.h>\n{call}\n");
    std::fs::write(&source, text).expect("a source");
    let program = dir.join("program");
    let made = Command::new("cc").arg("-o").arg(&program).arg(&source).output().ok()?;
    made.status.success().then(|| read(&program))
}

/// The reader itself, on programs of which it is known what they ask for.
#[test]
fn a_newer_function_is_seen() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(old) = compiled(dir.path(), "int main(void) { return getpid() == 0; }") else {
        println!("SKIP: no C compiler");
        return;
    };
    let symbols = elf::wanted(&old);
    let getpid = symbols.iter().find(|one| one.symbol == "getpid").expect("getpid");
    assert_eq!((getpid.glibc(), getpid.library.as_str()), (Some((2, 2)), "libc.so.6"));
    assert_eq!(above(&symbols, true), Vec::<String>::new());
    let new = "int close_range(unsigned, unsigned, int);\nint main(void) { return close_range(9, 9, 0); }";
    let Some(new) = compiled(dir.path(), new) else {
        println!("SKIP: this C library has no close_range, which came with 2.34");
        return;
    };
    let found = above(&elf::wanted(&new), true);
    assert_eq!(found, ["close_range of GLIBC_2.34 in libc.so.6"]);
}
