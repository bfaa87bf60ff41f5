//! The loader's cache against the real ldconfig and the real loader.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "tests build trees and run programs"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use common::{Elf, Random, link, program, put, root_of, run, scratch};
use formats::ldsocache::{Arch, Cache, Entry};
use hook::Options;

const DIRS: [&str; 9] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib",
    "/lib",
    "/opt/a/lib",
    "/opt/b",
    "/usr/local/lib",
    "/usr/local/lib/x86_64-linux-gnu",
    "/srv/deep/down/lib",
];

/// A tree as an image might have it: a configuration with drop-ins, directories that are links, libraries of many versions.
fn tree(random: &mut Random, root: &Path) {
    put(root, "/etc/debian_version", "12\n");
    if random.chance(40) {
        // merged /usr
        std::fs::create_dir_all(root.join("usr/lib")).expect("a directory");
        link(root, "/lib", "usr/lib");
    }
    let mut named: Vec<&str> = DIRS[4..].to_vec();
    named.retain(|_| random.chance(70));
    for at in (1..named.len()).rev() {
        named.swap(at, random.below(at + 1));
    }
    let cut = random.below(named.len() + 1);
    let (inline, dropped) = named.split_at(cut);
    let mut conf = String::from("# libraries\n");
    let include = *random.pick(&["include /etc/ld.so.conf.d/*.conf\n", "include ld.so.conf.d/[a-z]*.conf\n"]);
    if random.chance(50) {
        conf.push_str(include);
    }
    for dir in inline {
        conf.push_str(*random.pick(&["", "  "]));
        conf.push_str(dir);
        conf.push_str(*random.pick(&["\n", "/\n", " # here\n", "\t\n"]));
    }
    if !conf.contains("include") {
        conf.push_str(include);
    }
    put(root, "/etc/ld.so.conf", conf);
    for (at, dir) in dropped.iter().enumerate() {
        put(root, &format!("/etc/ld.so.conf.d/{}{at}.conf", random.pick(&["a", "z", "m"])), format!("{dir}\n"));
    }
    if random.chance(50) {
        put(root, "/etc/ld.so.conf.d/x86_64-linux-gnu.conf", "/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n");
    }
    for _ in 0..random.below(30) {
        let dir = *random.pick(&DIRS);
        library(random, root, dir);
    }
    if random.chance(20) {
        // one directory under two names
        std::fs::create_dir_all(root.join("opt/b")).expect("a directory");
        let _ = std::os::unix::fs::symlink("opt/b", root.join("srv"));
        put(root, "/etc/ld.so.conf.d/twice.conf", "/srv\n/opt/b\n");
    }
}

/// One library, with the links that a package brings, or that it forgot.
fn library(random: &mut Random, root: &Path, dir: &str) {
    let name = format!("lib{}", random.pick(&["a", "b", "cuda", "nvidia-ml", "GLX_nvidia", "z-1", "c++"]));
    let major = random.below(12);
    let minor = format!("{major}.{}.{}", random.below(12), random.below(3));
    let soname = format!("{name}.so.{major}");
    let file = format!("{name}.so.{minor}");
    let mut elf = Elf::x86_64(&soname);
    let mut dir = dir.to_owned();
    if random.chance(15) {
        // 32-bit libraries have directories of their own: ldconfig warns where both have one name in one place
        elf = Elf { needs_libc: random.chance(80), ..Elf::i386(&soname) };
        dir = "/opt/b".to_owned();
    } else if dir == "/opt/b" {
        dir = "/opt/a/lib".to_owned();
    }
    if random.chance(15) {
        let level = random.below(4);
        elf.isa = Some((1 << (level + 1)) - 1);
        let below = *random.pick(&["x86-64-v2", "x86-64-v3", "x86-64-v4", "power9"]);
        put(root, &format!("{dir}/glibc-hwcaps/{below}/{file}"), elf.bytes());
        return;
    }
    match random.below(20) {
        0 => put(root, &format!("{dir}/{name}.so"), "/* GNU ld script */\nINPUT(libx.a)\n"),
        1 => put(root, &format!("{dir}/{name}.so.{major}"), b"\x7fELF"),
        2 => put(root, &format!("{dir}/{name}-plugin.so"), Elf { soname: None, ..elf }.bytes()),
        3 => put(root, &format!("{dir}/{name}.so.x{major}"), Elf { machine: 183, ..elf }.bytes()),
        _ => {
            put(root, &format!("{dir}/{file}"), elf.bytes());
            let at = |name: &str| root.join(format!("{dir}/{name}").trim_start_matches('/'));
            if random.chance(60) {
                let _ = std::os::unix::fs::symlink(&file, at(&soname));
            }
            if random.chance(30) {
                let _ = std::os::unix::fs::symlink(*random.pick(&[&soname, &file]), at(&format!("{name}.so")));
            }
        }
    }
}

/// What the loader would open for each name: the first entry of name, kind and capability, its file after all links.
fn resolved(cache: &Cache, root: &Path) -> BTreeMap<(String, String, u32), String> {
    let mut found = BTreeMap::new();
    for entry in &cache.entries {
        let key = (entry.soname.clone(), entry.hwcaps.clone().unwrap_or_default(), entry.flags);
        found.entry(key).or_insert_with(|| real(root, &entry.path));
    }
    found
}

/// A path after all links, in the tree.
fn real(root: &Path, path: &str) -> String {
    let full = root.join(path.trim_start_matches('/'));
    std::fs::canonicalize(&full).map_or(format!("nothing at {path}"), |path| path.display().to_string())
}

/// As `ldconfig -p` prints an entry.
fn shown(entry: &Entry) -> (String, String, Option<String>, String) {
    let arch = match entry.arch() {
        Arch::I386 => "i386".to_owned(),
        other => format!("{other:?}"),
    };
    (entry.soname.clone(), arch, entry.hwcaps.clone(), entry.path.clone())
}

fn listing_of(bytes: &[u8]) -> Vec<String> {
    let cache = Cache::parse(bytes).expect("our bytes");
    cache.entries.iter().map(|entry| format!("{:?}", shown(entry))).collect()
}

fn sets(count: u64) {
    let Some(ldconfig) = program("ldconfig") else {
        println!("SKIP: this machine has no ldconfig");
        return;
    };
    let (mut libraries, mut links) = (0, 0);
    for seed in 0..count {
        let scratch = scratch();
        let root = scratch.path();
        let mut random = Random::new(seed);
        tree(&mut random, root);
        let ours = hook::fresh_cache(root_of(root).as_fd()).expect("a cache");
        // the real tool lists from our bytes what we put in
        put(root, "/ours", &ours);
        let listing = run(Command::new(&ldconfig).arg("-p").arg("-C").arg(root.join("ours")));
        let listed = Cache::from_listing(&listing).expect("a listing");
        let parsed = Cache::parse(&ours).expect("our bytes");
        let both = |cache: &Cache| cache.entries.iter().map(shown).collect::<Vec<_>>();
        assert_eq!(both(&listed), both(&parsed), "seed {seed}");
        std::fs::remove_file(root.join("ours")).expect("ours");
        // what it makes of the same tree itself
        let _ = Command::new(&ldconfig).arg("-r").arg(root).output().expect("ldconfig");
        let theirs = Cache::parse(&std::fs::read(root.join("etc/ld.so.cache")).expect("a cache")).expect("theirs");
        assert_eq!(resolved(&parsed, root), resolved(&theirs, root), "seed {seed}: ours, theirs");
        let level = |cache: &Cache| -> BTreeSet<(String, Option<String>, u16)> {
            cache.entries.iter().map(|e| (e.soname.clone(), e.hwcaps.clone(), e.isa_level)).collect()
        };
        assert_eq!(level(&parsed), level(&theirs), "seed {seed}: levels");
        libraries += parsed.entries.len();

        // and when libraries come later: the sound cache is taken over, the folder and what is newer are read
        let folder = *random.pick(&DIRS[..6]);
        for at in 0..random.below(4) {
            let soname = format!("libnvidia-{at}.so.1");
            put(root, &format!("{folder}/libnvidia-{at}.so.580.9.{at}"), Elf::x86_64(&soname).bytes());
            links += 1;
        }
        let elsewhere = *random.pick(&DIRS);
        library(&mut random, root, elsewhere);
        // a directory below glibc-hwcaps changes without the one above it
        if let Ok(dir) = std::fs::File::open(root.join(elsewhere.trim_start_matches('/'))) {
            dir.set_modified(std::time::SystemTime::now()).expect("its time");
        }
        // a change in the tick of the clock in which the cache was written cannot be seen: it lies behind it here
        let hour = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        let cache = std::fs::File::options().write(true).open(root.join("etc/ld.so.cache")).expect("a cache");
        cache.set_modified(hour).expect("its time");
        let options = Options { folders: vec![folder.to_owned()], ..Options::default() };
        let report = hook::carry_out(root_of(root).as_fd(), &options).expect("carried out");
        assert_eq!(report.warnings, Vec::<String>::new(), "seed {seed}");
        // a link made in the first run may let a developer's link lead somewhere in the second; then nothing changes more
        hook::carry_out(root_of(root).as_fd(), &options).expect("carried out again");
        let second = std::fs::read(root.join("etc/ld.so.cache")).expect("a cache");
        let third = hook::carry_out(root_of(root).as_fd(), &options).expect("and again");
        let now = std::fs::read(root.join("etc/ld.so.cache")).expect("a cache");
        assert_eq!(listing_of(&second), listing_of(&now), "seed {seed}: the third run");
        assert_eq!(third.changed, Vec::<String>::new(), "seed {seed}: a third run changes nothing");
        let ours = Cache::parse(&std::fs::read(root.join("etc/ld.so.cache")).expect("a cache")).expect("ours");
        let _ = Command::new(&ldconfig).arg("-r").arg(root).output().expect("ldconfig");
        let theirs = Cache::parse(&std::fs::read(root.join("etc/ld.so.cache")).expect("a cache")).expect("theirs");
        assert_eq!(resolved(&ours, root), resolved(&theirs, root), "seed {seed}: ours, theirs, later");
    }
    println!("{count} sets, {libraries} libraries, {links} that came later");
    assert!(libraries > count as usize * 5, "the sets are not empty");
}

#[test]
fn a_hundred_sets_resolve_as_ldconfigs_own() {
    sets(100);
}

#[test]
#[ignore = "a minute"]
fn a_thousand_sets_resolve_as_ldconfigs_own() {
    sets(1000);
}
