//! The published CVEs of NVIDIA's container toolkit as attacks by an image on this hook: directly, and in containers by the
//! real runc and crun. A canary tree outside of the root sees every look (inotify) and every change.
//!
//! Each was seen red with a protection taken out. Names opened below the descriptor without RESOLVE_IN_ROOT: 0132, 0133, 0134,
//! 0135, 23359, 23267, 24260. A program run: 0135. Names opened before it is known what they are: 0136 (it waits for ever).
//! Privileges kept: 0137. A hook that is linked dynamically: 23266 and 0135. With absolute names and no RESOLVE_IN_ROOT the
//! hook refuses all work, for it takes the machine's root for what it is.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "tests build trees and run programs"
)]

mod common;

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::bundle::{Bundle, Watch};
use common::{Elf, is_root, link, program, put, root_of, run, said};
use hook::{Link, Options};

/// Ways out of a root of `depth` directories to a path of the machine, as texts of links.
fn ways_out(path: &Path) -> Vec<String> {
    let path = path.display();
    vec![
        path.to_string(),
        // from each depth: ".." stops at the machine's own root
        format!("{}{path}", "../".repeat(24).trim_end_matches('/')),
        format!("/proc/self/root{path}"),
        format!("/proc/1/root{path}"),
        format!("/proc/self/cwd/../canary/{}", path.to_string().rsplit_once("/canary/").map_or("", |(_, rest)| rest)),
        "../canary".to_owned(),
    ]
}

/// Builds an image for each way out, runs the hook over it directly and in containers, and asks the canary. What the hook
/// answers does not matter: it may refuse such an image.
fn attack(name: &str, mut build: impl FnMut(&mut Bundle, &str), target: &str) {
    let mut runs = 0;
    for at in 0..ways_out(Path::new("/x")).len() {
        for engine in ["", "runc", "crun"] {
            if !engine.is_empty() && !is_root() {
                continue;
            }
            let mut bundle = Bundle::whole();
            let way = ways_out(&bundle.canary.join(target)).swap_remove(at);
            build(&mut bundle, &way);
            let watch = Watch::on(&bundle.canary);
            if engine.is_empty() {
                let _ = bundle.direct().output().expect("the hook starts");
                runs += 1;
            } else if bundle.container(engine).is_some() {
                runs += 1;
            }
            watch.untouched(&format!("{name} by {way}, {engine}"));
            assert!(!bundle.root.join("usr/lib/x86_64-linux-gnu/.thruway").exists());
        }
    }
    println!("{name}: {runs} runs");
}

/// While a thread exchanges two names of the image as fast as it can, the hook works `count` times.
fn race(name: &str, bundle: &Bundle, a: &str, b: &str, options: &Options, count: usize) {
    let (a, b) = (bundle.root.join(a), bundle.root.join(b));
    let stop = AtomicBool::new(false);
    let watch = Watch::on(&bundle.canary);
    let (mut done, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let racer = scope.spawn(|| {
            let mut swaps = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                if rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, flags).is_ok() {
                    swaps += 1;
                }
            }
            swaps
        });
        let root = root_of(&bundle.root);
        for _ in 0..count {
            match hook::carry_out(root.as_fd(), options) {
                Ok(_) => done += 1,
                Err(_) => refused += 1,
            }
            // what was made is taken away, so that each run makes it anew; by a descriptor, for the test is raced too
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
            let below = rustix::fs::ResolveFlags::IN_ROOT;
            if let Ok(etc) = rustix::fs::openat2(&root, "etc", flags, rustix::fs::Mode::empty(), below) {
                let _ = rustix::fs::unlinkat(etc, "ld.so.cache", rustix::fs::AtFlags::empty());
            }
        }
        stop.store(true, Ordering::Relaxed);
        let swaps = racer.join().expect("the racer");
        println!("{name}: {count} runs, {done} done, {refused} refused, {swaps} exchanges");
        assert!(swaps as usize > count / 4, "{name}: the race was on");
    });
    watch.untouched(name);
}

fn options() -> Options {
    let link = |target: &str, link: &str| Link { target: target.into(), link: link.into(), dangling: true };
    Options {
        links: vec![
            link("libcuda.so.580.1.0", "/usr/lib/x86_64-linux-gnu/libcuda.so.1"),
            link("libcuda.so.1", "/usr/lib/x86_64-linux-gnu/sub/dir/libcuda.so"),
        ],
        folders: vec!["/usr/lib/x86_64-linux-gnu".into(), "/opt/driver".into()],
        driver: Some("580.1.0".into()),
        ..Options::default()
    }
}

/// CVE-2024-0132: a compatibility library that the image names is taken from the machine. The image makes its directory, and
/// the library in it, links to the machine's files. Nothing is mounted, and nothing outside is looked at.
#[test]
fn cve_2024_0132_a_library_that_is_found_is_no_mounts_source() {
    attack("0132, the directory", |bundle, way| link(&bundle.root, "/usr/local/cuda/compat", way), "compat");
    attack("0132, above it", |bundle, way| link(&bundle.root, "/usr/local/cuda", way), "");
    attack(
        "0132, the library",
        |bundle, way| link(&bundle.root, "/usr/local/cuda/compat/libcuda.so.590.44.01", way),
        "compat/libcuda.so.590.44.01",
    );
    if !is_root() || program("runc").is_none() || program("busybox").is_none() {
        return println!("SKIP: needs root, runc and busybox");
    }
    let mut bundle = Bundle::whole();
    let note = r#"{"Format":1,"CUDA Version":"13.1","Driver":[580]}"#;
    let compat = Elf { compat: Some(note.into()), ..Elf::x86_64("libcuda.so.1") };
    put(&bundle.root, "/usr/local/cuda/compat/libcuda.so.590.44.01", compat.bytes());
    bundle.command = ["/bin/busybox", "cat", "/proc/self/mountinfo"].map(str::to_owned).into();
    let output = bundle.container("runc").expect("runc");
    let text = said(&output);
    assert_eq!(text.lines().count(), 3, "root, proc and dev: {text}");
    assert!(bundle.root.join("etc/ld.so.conf.d/00-thruway-compat.conf").exists(), "the honest library is used");
}

/// CVE-2024-0133: targets of mounts and files are made through the image's links. The image links the directories in which
/// the hook writes to the machine's.
#[test]
fn cve_2024_0133_no_file_is_made_through_a_link() {
    for place in ["/etc/ld.so.conf.d", "/usr/lib/x86_64-linux-gnu/sub", "/lib/firmware", "/etc/nvidia", "/opt"] {
        attack(
            &format!("0133, {place}"),
            |bundle, way| {
                let _ = std::fs::remove_dir_all(bundle.root.join(&place[1..]));
                link(&bundle.root, place, way);
                bundle.push(&[
                    "--link",
                    &format!("/bin/busybox::{place}/made/gsp_ga10x.bin"),
                    "--folder",
                    "/opt/driver",
                ]);
                bundle.push(&["--link", "/bin/busybox::/lib/firmware/nvidia/580.1.0/gsp_ga10x.bin"]);
                put(&bundle.root, "/srv/driver/libx.so.580.1.0", Elf::x86_64("libx.so.1").bytes());
                bundle.push(&["--folder", "/srv/driver"]);
            },
            "empty",
        );
    }
}

/// CVE-2024-0134: create-symlinks follows the image's links, and makes links on the machine. NVIDIA's own form of the hook.
#[test]
fn cve_2024_0134_a_link_is_made_inside_or_not_at_all() {
    let rename = |bundle: &mut Bundle, link: &str| {
        bundle.hook["args"] = serde_json::json!(["nvidia-cdi-hook", "create-symlinks", "--link", link]);
    };
    attack(
        "0134, its directory",
        |bundle, way| {
            link(&bundle.root, "/usr/lib64", way);
            rename(bundle, "libcuda.so.580.1.0::/usr/lib64/libcuda.so.1");
        },
        "empty",
    );
    attack(
        "0134, a chain",
        |bundle, way| {
            link(&bundle.root, "/usr/lib64", "/opt/one");
            link(&bundle.root, "/opt/one", "two/../../usr/three");
            std::fs::create_dir_all(bundle.root.join("opt/two")).expect("a directory");
            link(&bundle.root, "/usr/three", way);
            rename(bundle, "libcuda.so.580.1.0::/usr/lib64/deeper/still/libcuda.so.1");
        },
        "empty",
    );
    attack(
        "0134, the link itself",
        |bundle, way| {
            link(&bundle.root, "/usr/lib64/libcuda.so.1", way);
            rename(bundle, "libcuda.so.580.1.0::/usr/lib64/libcuda.so.1");
        },
        "secret",
    );
    attack("0134, by its text", |bundle, way| rename(bundle, &format!("{way}::/usr/lib64/libcuda.so.1")), "secret");
    attack("0134, by dots", |bundle, way| rename(bundle, &format!("x::/usr/lib/..{way}/libcuda.so.1")), "empty");
}

/// CVE-2024-0135: a program of the machine (ldconfig) runs in the image's root, and the image alters it or is run in its
/// place. The image has an ldconfig and a shell that would tell; strace sees the only program that runs.
#[test]
fn cve_2024_0135_no_program_runs_in_the_image() {
    let Some(strace) = program("strace") else { return println!("SKIP: needs strace") };
    let mut bundle = Bundle::whole();
    let marker = bundle.canary.join("ran");
    for path in ["/sbin/ldconfig", "/sbin/ldconfig.real", "/usr/sbin/ldconfig", "/usr/bin/nvidia-cdi-hook"] {
        put(&bundle.root, path, format!("#!/bin/sh\ntouch {}\n", marker.display()));
        std::fs::set_permissions(bundle.root.join(&path[1..]), PermissionsExt::from_mode(0o755)).expect("its mode");
    }
    bundle.env.push("PATH=/sbin:/usr/sbin:/usr/bin:/bin".into());
    for args in [
        None,
        Some(["nvidia-ctk", "hook", "update-ldcache", "--ldconfig-path", "/sbin/ldconfig", "--folder", "/usr/lib"]),
    ] {
        if let Some(args) = args {
            bundle.hook["args"] = serde_json::json!(args);
        }
        let watch = Watch::on(&bundle.canary);
        let log = bundle.dir.path().join("trace");
        let direct = bundle.direct();
        let mut traced = Command::new(&strace);
        traced.args(["-f", "-e", "trace=%process,%network,openat,open,openat2,mount", "-o"]).arg(&log);
        traced.arg(direct.get_program()).args(direct.get_args()).env_clear().current_dir(&bundle.root);
        traced.stdin(std::fs::File::open(bundle.dir.path().join("state")).expect("the state"));
        let output = traced.output().expect("strace");
        let trace = std::fs::read_to_string(&log).unwrap_or_default();
        if !trace.contains("execve") {
            return println!("SKIP: strace may not trace here: {}", said(&output));
        }
        watch.untouched("0135");
        assert_eq!(trace.matches("execve").count(), 1, "one program only: {trace}");
        for call in ["clone(", "clone3(", "fork(", "socket(", "connect("] {
            assert!(!trace.contains(call), "{call} {trace}");
        }
        // once the root is open, every name is opened by openat2 below it
        let (_, after) = trace.split_once("RESOLVE_IN_ROOT").expect("the root is used");
        assert!(!after.contains("openat(") && !after.contains("open("), "{after}");
        let named = after.lines().filter(|line| line.contains("openat2("));
        for line in named {
            assert!(line.contains("RESOLVE_NO_MAGICLINKS") && line.contains("RESOLVE_IN_ROOT"), "{line}");
        }
    }
    // no loader has a part in it: the file asks for none (PT_INTERP)
    let program = std::fs::read(common::bundle::HOOK).expect("the hook");
    let half = |at: usize| usize::from(u16::from_le_bytes([program[at], program[at + 1]]));
    let headers = (0..half(56)).map(|at| &program[half(32) + at * half(54)..][..4]);
    let kinds: Vec<u32> = headers.map(|kind| u32::from_le_bytes(*kind.first_chunk::<4>().expect("four"))).collect();
    assert!(kinds.contains(&1) && !kinds.contains(&3), "the hook is linked statically: {kinds:?}");
}

/// CVE-2024-0136: code of the image gets at the machine's devices. Here: names of the image that are devices and fifos are
/// never opened as such, and NVIDIA's option that names an ldconfig names nothing.
#[test]
fn cve_2024_0136_devices_and_fifos_of_the_image_are_not_opened() {
    if !is_root() {
        return println!("SKIP: needs root for device nodes");
    }
    let mut bundle = Bundle::whole();
    bundle.push(&["--ldconfig-path", "/sbin/ldconfig"]);
    let places = [
        ("etc/ld.so.conf", rustix::fs::FileType::Fifo),
        ("etc/ld.so.conf.d/a.conf", rustix::fs::FileType::CharacterDevice),
        ("etc/ld.so.cache", rustix::fs::FileType::CharacterDevice),
        ("usr/lib/x86_64-linux-gnu/libdev.so.580.1.0", rustix::fs::FileType::CharacterDevice),
        ("usr/lib/x86_64-linux-gnu/libfifo.so.1", rustix::fs::FileType::Fifo),
        ("usr/local/cuda/compat/libcuda.so.590.44.01", rustix::fs::FileType::Fifo),
        ("proc/driver/nvidia/params", rustix::fs::FileType::Fifo),
    ];
    for (path, kind) in places {
        let full = bundle.root.join(path);
        std::fs::create_dir_all(full.parent().expect("a parent")).expect("directories");
        // /dev/zero would never end
        let device = rustix::fs::makedev(1, 5);
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, &full, kind, mode, device).expect("a node");
        link(
            &bundle.root,
            &format!("/usr/lib/x86_64-linux-gnu/lib{}.so.9", path.replace('/', "-")),
            &format!("/{path}"),
        );
    }
    let watches: Vec<Watch> = places
        .iter()
        .filter(|(path, _)| {
            !path.starts_with("usr/lib/") && *path != "etc/ld.so.cache" && !path.starts_with("etc/ld.so.conf")
        })
        .map(|(path, _)| Watch::on(bundle.root.join(path).parent().expect("a parent")))
        .collect();
    let started = Instant::now();
    let output = bundle.direct().output().expect("the hook starts");
    assert!(started.elapsed() < Duration::from_secs(5), "nothing is waited for");
    // the guard's file is no file: that is refused, and with it the container
    assert!(!output.status.success() && said(&output).contains("/proc/driver/nvidia/params"), "{}", said(&output));
    drop(watches);
    std::fs::remove_file(bundle.root.join("proc/driver/nvidia/params")).expect("the fifo");
    let started = Instant::now();
    let output = bundle.direct().output().expect("the hook starts");
    assert!(output.status.success(), "{}", said(&output));
    assert!(started.elapsed() < Duration::from_secs(5), "nothing is waited for");
    let cache = std::fs::read(bundle.root.join("etc/ld.so.cache")).expect("the device there was replaced");
    assert!(formats::ldsocache::Cache::parse(&cache).is_ok());
}

/// CVE-2024-0137: code of the image runs in the machine's network namespace. The hook runs none; what the process itself
/// could do is taken away before it looks at the image: it has one capability, no new privileges, and no sockets.
#[test]
fn cve_2024_0137_the_hook_gives_up_what_it_does_not_need() {
    let Some(strace) = program("strace") else { return println!("SKIP: needs strace") };
    let bundle = Bundle::whole();
    let log = bundle.dir.path().join("trace");
    let direct = bundle.direct();
    let mut traced = Command::new(&strace);
    traced.args(["-f", "-o"]).arg(&log).arg(direct.get_program()).args(direct.get_args()).env_clear();
    traced.stdin(std::fs::File::open(bundle.dir.path().join("state")).expect("the state"));
    let output = traced.output().expect("strace");
    let trace = std::fs::read_to_string(&log).unwrap_or_default();
    if !trace.contains("execve") {
        return println!("SKIP: strace may not trace here: {}", said(&output));
    }
    assert!(output.status.success(), "{}", said(&output));
    let (before, after) = trace.split_once("PR_SET_SECCOMP").expect("a filter is set");
    assert!(before.contains("PR_SET_NO_NEW_PRIVS, 1"), "{before}");
    if is_root() {
        let sets = before.lines().rev().find(|line| line.contains("capset(")).expect("capabilities are dropped");
        assert!(sets.contains("effective=1<<CAP_DAC_OVERRIDE, permitted=1<<CAP_DAC_OVERRIDE, inheritable=0"), "{sets}");
    }
    // nothing of the image has been opened before that but its root
    let opened: Vec<&str> = before.lines().filter(|line| line.contains("openat2(")).collect();
    assert!(
        opened.iter().all(|line| line.contains("\"/\"") || line.contains("/proc/driver/nvidia/params")),
        "{opened:?}"
    );
    let libraries =
        after.lines().filter(|line| line.contains("libnvidia-ml.so.580.1.1\"") && line.contains("openat2("));
    let libraries = libraries.count();
    assert!(libraries > 0, "and the work is done behind it");
}

/// CVE-2025-23359: the check of 0132 is raced. A thread exchanges the compatibility directory with a link to the machine's
/// while the hook decides thousands of times.
#[test]
fn cve_2025_23359_a_race_for_the_compatibility_library() {
    let bundle = Bundle::whole();
    let note = r#"{"Format":1,"CUDA Version":"13.1","Driver":[580]}"#;
    let compat = Elf { compat: Some(note.into()), ..Elf::x86_64("libcuda.so.1") };
    put(&bundle.root, "/usr/local/cuda/compat/libcuda.so.590.44.01", compat.bytes());
    link(&bundle.root, "/usr/local/cuda/other", &bundle.canary.join("compat").display().to_string());
    race("23359, absolute", &bundle, "usr/local/cuda/compat", "usr/local/cuda/other", &options(), 1000);
    let out = format!("{}{}", "../".repeat(24), bundle.canary.join("compat").display());
    link(&bundle.root, "/usr/local/cuda/relative", &out);
    race("23359, relative", &bundle, "usr/local/cuda/compat", "usr/local/cuda/relative", &options(), 1000);
}

/// CVE-2025-23266: the hook's entry has no environment, so runc passes the container's, and LD_PRELOAD loads a library of the
/// image into a process with the machine's rights. A program that is linked dynamically shows that the attack works.
#[test]
fn cve_2025_23266_ld_preload_of_the_image_loads_nothing() {
    let Some(gcc) = program("gcc") else { return println!("SKIP: needs gcc") };
    let build = |bundle: &mut Bundle| {
        let marker = bundle.canary.join("ran");
        let source = format!(
            "#include <fcntl.h>\nunsigned la_version(unsigned v) {{ return v; }}\n\
             __attribute__((constructor)) static void evil(void) {{ open(\"{}\", O_CREAT | O_WRONLY, 0644); }}\n",
            marker.display()
        );
        put(bundle.dir.path(), "evil.c", source);
        let mut command = Command::new(&gcc);
        command.args(["-shared", "-fPIC", "-o"]).arg(bundle.root.join("evil.so"));
        run(command.arg(bundle.dir.path().join("evil.c")));
        let root = bundle.root.display();
        for name in ["LD_PRELOAD", "LD_AUDIT"] {
            // as the published attack: the working directory of a hook is the container's root
            bundle.env.push(format!("{name}=/proc/self/cwd/evil.so:{root}/evil.so"));
        }
        for more in ["RUST_BACKTRACE=full", "GCONV_PATH=/proc/self/cwd", "GLIBC_TUNABLES=glibc.malloc.check=3"] {
            bundle.env.push(more.to_owned());
        }
        bundle.env.push(format!("LD_LIBRARY_PATH={root}"));
        bundle.hook.as_object_mut().expect("an entry").remove("env");
        marker
    };
    let mut bundle = Bundle::whole();
    let marker = build(&mut bundle);
    let watch = Watch::on(&bundle.canary);
    let output = bundle.direct().output().expect("the hook starts");
    assert!(output.status.success(), "{}", said(&output));
    watch.untouched("23266, directly");
    if !is_root() || program("runc").is_none() || program("busybox").is_none() {
        return println!("SKIP: needs root, runc and busybox for the rest");
    }
    for engine in ["runc", "crun"] {
        let watch = Watch::on(&bundle.canary);
        let Some(output) = bundle.container(engine) else { continue };
        assert!(output.status.success(), "{engine}: {}", said(&output));
        watch.untouched(engine);
    }
    // the attack is real: a hook of another make is caught by it
    bundle.hook = serde_json::json!({ "path": "/bin/true", "args": ["true"] });
    let output = bundle.container("runc").expect("runc");
    println!("23266: /bin/true as a hook of runc loads the image's library: {}", marker.exists());
    assert!(output.status.success(), "{}", said(&output));
}

/// CVE-2025-23267: update-ldcache writes and reads through the image's links, and a hostile configuration keeps it busy.
#[test]
fn cve_2025_23267_the_cache_is_written_inside_whatever_the_configuration_says() {
    for (place, target) in [
        ("/etc/ld.so.cache", "etc/ld.so.cache"),
        ("/etc/ld.so.conf", "etc/ld.so.conf"),
        ("/etc/ld.so.conf.d/00-thruway.conf", "secret"),
        ("/etc/ld.so.conf.d/x.conf", "etc/ld.so.conf"),
        ("/etc", "etc"),
        ("/usr/lib/x86_64-linux-gnu/libevil.so.1", "lib/libevil.so.1"),
        ("/etc/ld-musl-x86_64.path", "secret"),
    ] {
        attack(
            &format!("23267, {place}"),
            |bundle, way| {
                let _ = std::fs::remove_dir(bundle.root.join(&place[1..]));
                link(&bundle.root, place, way);
                put(&bundle.root, "/srv/driver/libx.so.580.1.0", Elf::x86_64("libx.so.1").bytes());
                bundle.push(&["--folder", "/srv/driver"]);
                if place.ends_with(".path") {
                    put(&bundle.root, "/lib/ld-musl-x86_64.so.1", "musl");
                }
            },
            target,
        );
    }
    // the configuration itself: out by names, loops, fifos, /proc, and a line without an end
    let bundle = Bundle::whole();
    let canary = bundle.canary.display().to_string();
    let dots = "../".repeat(24);
    let conf = format!(
        "include /etc/ld.so.conf\ninclude /etc/ld.so.conf.d/*\ninclude {dots}{canary}/etc/ld.so.conf\n\
         include {canary}/etc/*\ninclude /proc/self/root{canary}/etc/ld.so.conf /proc/self/mem /proc/kmsg\n\
         {canary}/lib\n/{dots}{canary}/lib\n/proc/self/root{canary}/lib\n/proc/self/fd\n/dev/fd\n{}\n\
         include /{}\ninclude {}\n",
        "/x".repeat(3000),
        "*/".repeat(200),
        "[!".repeat(5000),
    );
    put(&bundle.root, "/etc/ld.so.conf", conf);
    put(&bundle.root, "/etc/ld.so.conf.d/loop.conf", "include /etc/ld.so.conf\n".repeat(1000));
    put(&bundle.root, "/etc/ld.so.conf.d/long.conf", "/");
    let long =
        std::fs::File::options().write(true).open(bundle.root.join("etc/ld.so.conf.d/long.conf")).expect("a file");
    long.set_len(1 << 30).expect("a hole");
    for at in 0..600 {
        put(&bundle.root, &format!("/etc/ld.so.conf.d/m{at}.conf"), format!("/opt/{at}\n"));
    }
    let fifo = bundle.root.join("etc/ld.so.conf.d/fifo.conf");
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("a fifo");
    let watch = Watch::on(&bundle.canary);
    let started = Instant::now();
    let output = bundle.direct().output().expect("the hook starts");
    let took = started.elapsed();
    assert!(output.status.success(), "{}", said(&output));
    assert!(took < Duration::from_secs(5), "{took:?}");
    println!("23267: a hostile configuration took {took:?}");
    watch.untouched("23267, the configuration");
    let cache = formats::ldsocache::Cache::parse(&std::fs::read(bundle.root.join("etc/ld.so.cache")).expect("a cache"));
    assert!(cache.expect("a cache").named("libcuda.so.1").next().is_some());
}

/// CVE-2026-24260: between a resolved path and its use the image exchanges a directory for a link (or back). Thousands of
/// tries at each place that the hook writes or reads.
#[test]
fn cve_2026_24260_races_between_a_name_and_its_use() {
    let places = [
        ("usr/lib/x86_64-linux-gnu", "empty"),
        ("usr/lib/x86_64-linux-gnu", "lib"),
        ("usr/lib", "empty"),
        ("usr/lib/x86_64-linux-gnu/sub", "empty"),
        ("etc", "etc"),
        ("etc/ld.so.conf.d", "empty"),
    ];
    for (place, target) in places {
        for at in 0..2 {
            let bundle = Bundle::whole();
            std::fs::create_dir_all(bundle.root.join(place)).expect("a directory");
            put(&bundle.root, "/opt/driver/libx.so.580.1.0", Elf::x86_64("libx.so.1").bytes());
            put(&bundle.root, "/etc/ld.so.conf.d/a.conf", "/opt/a\n");
            let way = ways_out(&bundle.canary.join(target)).swap_remove(at);
            link(&bundle.root, "swap", &way);
            race(&format!("24260, {place} to {target} by way {at}"), &bundle, place, "swap", &options(), 300);
        }
    }
    // ".." while directories move: the kernel says EAGAIN, and we ask again
    let bundle = Bundle::whole();
    std::fs::create_dir_all(bundle.root.join("opt/a/b/c")).expect("directories");
    std::fs::create_dir_all(bundle.root.join("opt/z")).expect("directories");
    let text = format!("a/b/c/../../../../{}", "../".repeat(8));
    link(&bundle.root, "/opt/up", &text);
    let up = format!("/opt/up{}/empty", bundle.canary.display());
    let link = Link { target: "x".into(), link: format!("{up}/libcuda.so.1"), dangling: true };
    let options = Options { links: vec![link], folders: vec![up], ..Options::default() };
    race("24260, dots", &bundle, "opt/a/b", "opt/z", &options, 1000);
}
