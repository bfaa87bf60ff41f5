//! The cache used by the real loader, in a tree of its own; formats old and new; images that make it hard.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "tests build trees and run programs"
)]

mod common;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Elf, Random, is_root, link, program, put, root_of, run, scratch};
use formats::ldsocache::Cache;
use hook::{Link, Options};

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Libraries that the test's program needs.
const COUNT: usize = 6;

/// A library and a program that needs six of its kind, compiled once: SONAMEs of one length are put in afterwards.
struct Made {
    library: Vec<u8>,
    program: Vec<u8>,
}

impl Made {
    fn new() -> Option<Made> {
        let gcc = program("gcc").or_else(|| {
            println!("SKIP: this machine has no gcc");
            None
        })?;
        if !is_root() || !Path::new(LOADER).exists() {
            println!("SKIP: needs root (chroot) and glibc's loader for x86-64");
            return None;
        }
        let dir = scratch();
        put(dir.path(), "k.c", "int k;\n");
        let build = |out: &str, soname: &str, needs: &[PathBuf]| {
            let mut command = Command::new(&gcc);
            command.args(["-shared", "-nostdlib", "-Wl,--no-as-needed", &format!("-Wl,-soname,{soname}"), "-o"]);
            run(command.arg(dir.path().join(out)).arg(dir.path().join("k.c")).args(needs));
            std::fs::read(dir.path().join(out)).expect("what gcc made")
        };
        let library = build("libk000.so", "libk000.so.1", &[]);
        let mut needs = Vec::new();
        for at in 0..COUNT {
            std::fs::write(dir.path().join(format!("libk00{at}.so")), named(&library, at)).expect("a library");
            needs.push(dir.path().join(format!("libk00{at}.so")));
        }
        Some(Made { library, program: build("program", "program", &needs) })
    }
}

fn named(library: &[u8], at: usize) -> Vec<u8> {
    let (old, new) = (b"libk000.so.1", format!("libk00{at}.so.1"));
    let mut out = library.to_vec();
    let place = out.windows(old.len()).position(|window| window == old).expect("its SONAME");
    out[place..place + old.len()].copy_from_slice(new.as_bytes());
    out
}

/// What the loader takes for the program's libraries, inside the tree.
fn loaded(root: &Path) -> Vec<String> {
    let mut command = Command::new("chroot");
    let out = command.arg(root).arg(LOADER).args(["--list", "/program"]).output().expect("chroot");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let lines = text.lines().filter(|line| line.contains("libk0"));
    let mut lines: Vec<String> = lines.map(|line| line.split(" (").next().unwrap_or(line).trim().to_owned()).collect();
    lines.sort();
    lines
}

fn base(root: &Path, made: &Made) {
    put(root, LOADER, std::fs::read(LOADER).expect("the loader"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(root.join(&LOADER[1..]), mode).expect("its mode");
    put(root, "/program", &made.program);
    put(root, "/etc/debian_version", "12\n");
}

#[test]
fn the_real_loader_finds_what_it_finds_with_ldconfigs_own() {
    let Some(made) = Made::new() else { return };
    let ldconfig = program("ldconfig").expect("glibc brings ldconfig");
    let mut found = 0;
    for seed in 0..50 {
        let scratch = scratch();
        let root = scratch.path();
        let mut random = Random::new(seed);
        base(root, &made);
        let mut dirs = vec!["/opt/a", "/opt/b", "/srv/lib", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu"];
        for at in (1..dirs.len()).rev() {
            dirs.swap(at, random.below(at + 1));
        }
        let conf: Vec<String> = dirs.iter().filter(|_| random.chance(80)).map(|dir| format!("{dir}\n")).collect();
        put(root, "/etc/ld.so.conf", conf.concat());
        for at in 0..COUNT {
            for _ in 0..1 + random.below(3) {
                let dir = *random.pick(&dirs);
                let below = *random.pick(&["", "", "", "/glibc-hwcaps/x86-64-v2", "/glibc-hwcaps/x86-64-v3"]);
                let file = format!("libk00{at}.so.1{}", random.pick(&["", ".0", ".2.9", ".2.10"]));
                put(root, &format!("{dir}{below}/{file}"), named(&made.library, at));
            }
        }
        // links by SONAME, as every package has them
        let _ = Command::new(&ldconfig).arg("-r").arg(root).args(["-C", "/away"]).output().expect("ldconfig");
        let ours = hook::fresh_cache(root_of(root).as_fd()).expect("a cache");
        put(root, "/etc/ld.so.cache", &ours);
        let with_ours = loaded(root);
        run(Command::new(&ldconfig).arg("-r").arg(root).args(["-c", "new"]));
        assert_eq!(with_ours, loaded(root), "seed {seed}");
        // in the combined form glibc's loader passes over glibc-hwcaps: it is held to ldconfig's own of that form
        let form = if random.chance(50) { "new" } else { "compat" };
        run(Command::new(&ldconfig).arg("-r").arg(root).args(["-c", form]));
        let with_theirs = loaded(root);
        // over a cache of that form, ours has the same form
        let theirs = std::fs::read(root.join("etc/ld.so.cache")).expect("a cache");
        put(root, "/opt/driver/libnvidia-x.so.580.1.2", Elf::x86_64("libnvidia-x.so.1").bytes());
        let options = Options { folders: vec!["/opt/driver".to_owned()], ..Options::default() };
        hook::carry_out(root_of(root).as_fd(), &options).expect("carried out");
        let ours = std::fs::read(root.join("etc/ld.so.cache")).expect("a cache");
        assert_eq!(ours[..11], theirs[..11], "seed {seed}: the form stays");
        assert_eq!(loaded(root), with_theirs, "seed {seed}: {form}");
        let listing = run(Command::new(&ldconfig).arg("-r").arg(root).arg("-p"));
        assert!(listing.contains("=> /opt/driver/libnvidia-x.so.1"), "{listing}");
        found += with_ours.iter().filter(|line| !line.contains("error")).count();
    }
    println!("{found} libraries loaded over 50 trees");
    assert!(found > 100, "{found}: the trees have libraries");
}

#[test]
fn the_driver_comes_before_what_an_image_has_of_it() {
    let Some(made) = Made::new() else { return };
    let scratch = scratch();
    let root = scratch.path();
    base(root, &made);
    put(root, "/etc/ld.so.conf", "/usr/local/lib\n");
    // an image that was saved from a container with an older driver
    put(root, "/usr/local/lib/libk000.so.1", named(&made.library, 0));
    run(Command::new("ldconfig").arg("-r").arg(root));
    put(root, "/usr/lib/x86_64-linux-gnu/libk000.so.580.1.2", named(&made.library, 0));
    put(root, "/usr/lib/x86_64-linux-gnu/libk001.so.580.1.2", named(&made.library, 1));
    for at in 2..COUNT {
        put(root, &format!("/usr/lib/x86_64-linux-gnu/libk00{at}.so.1"), named(&made.library, at));
    }
    let link = |target: &str, link: &str| Link { target: target.into(), link: link.into(), dangling: false };
    let options = Options {
        folders: vec!["/usr/lib/x86_64-linux-gnu".to_owned()],
        driver: Some("580.1.2".to_owned()),
        links: vec![
            // in an order that needs a second look, and one whose library this capability set has not
            link("libk000.so.1", "/usr/lib/x86_64-linux-gnu/libk000.so"),
            link("libk000.so.580.1.2", "/usr/lib/x86_64-linux-gnu/libk000.so.1"),
            link("libk009.so.580.1.2", "/usr/lib/x86_64-linux-gnu/libk009.so.1"),
        ],
        ..Options::default()
    };
    hook::carry_out(root_of(root).as_fd(), &options).expect("carried out");
    let lines = loaded(root);
    assert_eq!(lines[0], "libk000.so.1 => /lib/x86_64-linux-gnu/libk000.so.1".replace("/lib/", "/usr/lib/"));
    assert_eq!(lines[1], "libk001.so.1 => /usr/lib/x86_64-linux-gnu/libk001.so.1");
    let names = |path: &str| std::fs::read_link(root.join(path)).ok().map(|text| text.display().to_string());
    assert_eq!(names("usr/lib/x86_64-linux-gnu/libk000.so").as_deref(), Some("libk000.so.1"));
    assert_eq!(names("usr/lib/x86_64-linux-gnu/libk009.so.1"), None, "a link to nothing is not made");
    assert!(!root.join("etc/ld.so.conf.d").exists(), "the image's loader knows that directory");

    // compatibility libraries that the note allows come before the driver's
    put(root, "/usr/local/cuda-13/compat/libk000.so.1", named(&made.library, 0));
    let note = r#"{"Format":1,"CUDA Version":"13.1","Driver":[570,580],"Device":[9]}"#;
    let cuda = Elf { compat: Some(note.to_owned()), ..Elf::x86_64("libcuda.so.1") };
    put(root, "/usr/local/cuda-13/compat/libcuda.so.590.44.01", cuda.bytes());
    std::os::unix::fs::symlink("/usr/local/cuda-13", root.join("usr/local/cuda")).expect("a link");
    hook::carry_out(root_of(root).as_fd(), &options).expect("carried out");
    assert_eq!(loaded(root)[0], "libk000.so.1 => /usr/local/cuda/compat/libk000.so.1");
    // a later ldconfig in the container keeps it so
    run(Command::new("ldconfig").arg("-r").arg(root));
    assert_eq!(loaded(root)[0], "libk000.so.1 => /usr/local/cuda/compat/libk000.so.1");
    // and a driver that needs no help takes it back
    let newer = Options { driver: Some("595.1.2".to_owned()), ..options };
    put(root, "/usr/lib/x86_64-linux-gnu/libk000.so.595.1.2", named(&made.library, 0));
    hook::carry_out(root_of(root).as_fd(), &newer).expect("carried out");
    assert_eq!(loaded(root)[0], "libk000.so.1 => /usr/lib/x86_64-linux-gnu/libk000.so.1");
}

#[test]
fn folders_that_the_image_does_not_search_are_kept_for_a_later_ldconfig() {
    let scratch = scratch();
    let root = scratch.path();
    put(root, "/opt/nvidia/libcuda.so.580.1.2", Elf::x86_64("libcuda.so.1").bytes());
    put(root, "/etc/ld.so.conf", "/opt/own\n");
    let options = Options { folders: vec!["/opt/nvidia".into(), "/absent".into()], ..Options::default() };
    hook::carry_out(root_of(root).as_fd(), &options).expect("carried out");
    let text = |path: &str| std::fs::read_to_string(root.join(path)).expect("is there");
    assert_eq!(text("etc/ld.so.conf"), "include /etc/ld.so.conf.d/*.conf\n/opt/own\n");
    assert!(text("etc/ld.so.conf.d/00-thruway.conf").ends_with("\n/opt/nvidia\n"));
    let Some(ldconfig) = program("ldconfig") else { return println!("SKIP: this machine has no ldconfig") };
    run(Command::new(&ldconfig).arg("-r").arg(root));
    let listing = run(Command::new(&ldconfig).arg("-r").arg(root).arg("-p"));
    assert!(listing.contains("libcuda.so.1 (libc6,x86-64) => /opt/nvidia/libcuda.so.1"), "{listing}");
    // where the folder is gone, so is the drop-in
    hook::carry_out(root_of(root).as_fd(), &Options { folders: vec!["/lib".into()], ..Options::default() })
        .expect("done");
    assert!(!root.join("etc/ld.so.conf.d/00-thruway.conf").exists());
}

#[test]
fn a_musl_image_gets_its_path_file_and_no_cache() {
    let scratch = scratch();
    let root = scratch.path();
    put(root, "/etc/alpine-release", "3.20\n");
    put(root, "/lib/ld-musl-x86_64.so.1", "musl");
    put(root, "/usr/lib/x86_64-linux-gnu/libcuda.so.580.1.2", Elf::x86_64("libcuda.so.1").bytes());
    let options = Options { folders: vec!["/usr/lib/x86_64-linux-gnu".into()], ..Options::default() };
    for _ in 0..2 {
        hook::carry_out(root_of(root).as_fd(), &options).expect("carried out");
        let text = std::fs::read_to_string(root.join("etc/ld-musl-x86_64.path")).expect("is there");
        assert_eq!(text, "/lib\n/usr/local/lib\n/usr/lib\n/usr/lib/x86_64-linux-gnu\n");
    }
    assert!(!root.join("etc/ld.so.cache").exists());
}

/// What may stand at the cache's place, and that the driver is found after it.
#[test]
fn a_cache_that_is_absent_a_link_huge_or_broken_is_made_anew() {
    type Make = fn(&Path);
    let cases: [(&str, Make); 7] = [
        ("absent", |_| {}),
        ("a link", |root| link(root, "/etc/ld.so.cache", "/etc/elsewhere")),
        ("a link to a cache", |root| {
            put(root, "/etc/other", Cache::default().to_bytes());
            link(root, "/etc/ld.so.cache", "other");
        }),
        ("empty", |root| put(root, "/etc/ld.so.cache", "")),
        ("broken", |root| put(root, "/etc/ld.so.cache", b"glibc-ld.so.cache1.1\xff\xff\xff\xff\xff\xff\xff\xff")),
        ("huge", |root| {
            put(root, "/etc/ld.so.cache", Cache::default().to_bytes());
            let file = std::fs::File::options().write(true).open(root.join("etc/ld.so.cache")).expect("a file");
            file.set_len(1 << 33).expect("a hole");
        }),
        ("a fifo", |root| {
            std::fs::create_dir_all(root.join("etc")).expect("a directory");
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, root.join("etc/ld.so.cache"), kind, mode, 0).expect("a fifo");
        }),
    ];
    for (what, make) in cases {
        let scratch = scratch();
        let root = scratch.path();
        make(root);
        put(root, "/usr/lib64/libcuda.so.580.1.2", Elf::x86_64("libcuda.so.1").bytes());
        put(root, "/usr/lib/libz.so.1.2", Elf::x86_64("libz.so.1").bytes());
        let options = Options { folders: vec!["/usr/lib64".into()], ..Options::default() };
        let report = hook::carry_out(root_of(root).as_fd(), &options).expect(what);
        let full = root.join("etc/ld.so.cache");
        assert!(full.symlink_metadata().expect("is there").is_file(), "{what}: {report:?}");
        let cache = Cache::parse(&std::fs::read(&full).expect("is there")).expect(what);
        let path = |name: &str| cache.named(name).next().map(|entry| entry.path.clone());
        assert_eq!(path("libcuda.so.1").as_deref(), Some("/usr/lib64/libcuda.so.1"), "{what}");
        assert_eq!(path("libz.so.1").as_deref(), Some("/usr/lib/libz.so.1.2"), "{what}: no links in the image's own");
        assert!(!root.join("etc/elsewhere").exists(), "{what}: a link is not followed");
    }
    // a directory there is the image's own doing: it is left, with a word
    let scratch = scratch();
    put(scratch.path(), "/etc/ld.so.cache/x", "");
    put(scratch.path(), "/usr/lib64/libcuda.so.580.1.2", Elf::x86_64("libcuda.so.1").bytes());
    let options = Options { folders: vec!["/usr/lib64".into()], ..Options::default() };
    let report = hook::carry_out(root_of(scratch.path()).as_fd(), &options).expect("a warning");
    assert!(report.warnings[0].contains("/etc/ld.so.cache"), "{report:?}");
    assert_eq!(std::fs::read_dir(scratch.path().join("etc")).expect("etc").count(), 1, "nothing is left behind");
}
