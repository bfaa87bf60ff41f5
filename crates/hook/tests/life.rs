//! Containers' lives: the hook killed at any moment, many at once, a root that is read-only, a user namespace.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "tests build trees and run programs"
)]

mod common;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::bundle::{Bundle, HOOK, engine_command};
use common::{Random, is_root, program, put, run};
use formats::ldsocache::Cache;

/// The names below a tree, without what runtimes make there.
fn names(tree: &std::path::Path) -> Vec<String> {
    let listing = run(Command::new("find").arg(tree).args(["-xdev", "-printf", "%P\\n"]));
    listing.lines().map(str::to_owned).collect()
}

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").lines().count()
}

#[test]
fn a_root_that_is_read_only_from_the_start_is_written_once() {
    if !is_root() || program("busybox").is_none() {
        return println!("SKIP: needs root and busybox");
    }
    for engine in ["runc", "crun"] {
        let mut bundle = Bundle::whole();
        bundle.readonly = true;
        bundle.command =
            ["/bin/busybox", "sh", "-c", "cat /etc/ld.so.cache >/dev/null; echo x > /x"].map(str::to_owned).into();
        let Some(output) = bundle.container(engine) else {
            println!("SKIP: {engine} is not installed");
            continue;
        };
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("Read-only file system") && !text.contains("warning"), "{engine}: {text}");
        let cache = std::fs::read(bundle.root.join("etc/ld.so.cache"))
            .unwrap_or_else(|error| panic!("{engine}: {error} {text}"));
        assert!(Cache::parse(&cache).expect("a cache").named("libcuda.so.1").next().is_some(), "{engine}");
        assert_eq!(
            std::fs::read_link(bundle.root.join("usr/lib/x86_64-linux-gnu/libcuda.so")).expect("a link").to_str(),
            Some("libcuda.so.1")
        );
        assert!(!bundle.root.join("x").exists());
    }
}

/// By `unshare -Ur`: root in a user namespace of its own, as rootless engines have it.
#[test]
fn in_a_user_namespace_it_does_the_same() {
    let bundle = Bundle::whole();
    put(&bundle.root, "/proc/driver/nvidia/params", "ModifyDeviceFiles: 1\n");
    let direct = bundle.direct();
    let words: Vec<String> = direct.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let script = format!(
        "{HOOK} \"$@\" < {} && cat {}",
        bundle.dir.path().join("state").display(),
        bundle.root.join("proc/driver/nvidia/params").display()
    );
    // as an ordinary user where the test is root: what it has then comes from the namespace alone
    let mut command = if is_root() {
        run(Command::new("chown").args(["-R", "65534:65534"]).arg(bundle.dir.path()));
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare"]);
        command
    } else {
        Command::new("unshare")
    };
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]).args(words);
    let output = command.output().expect("unshare");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare failed") || text.contains("Operation not permitted") && !text.contains("thruway") {
        return println!("SKIP: no user namespaces here: {text}");
    }
    assert!(output.status.success(), "{text}");
    assert_eq!(text, "ModifyDeviceFiles: 0\n");
    let cache = Cache::parse(&std::fs::read(bundle.root.join("etc/ld.so.cache")).expect("a cache")).expect("a cache");
    assert!(cache.named("libcuda.so.1").next().is_some());
    assert!(bundle.root.join("usr/lib/x86_64-linux-gnu/libcuda.so").symlink_metadata().is_ok());
}

/// kill -9 at random moments: after each, every file is the old or the new one, and a next run leaves nothing over.
fn killed(containers: usize, threads: usize) {
    if !is_root() || program("busybox").is_none() || program("runc").is_none() {
        return println!("SKIP: needs root, runc and busybox");
    }
    let before = mounts();
    let (next, killed, ended) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (next, killed, ended) = (&next, &killed, &ended);
            scope.spawn(move || {
                let mut random = Random::new(thread as u64 + 1);
                while next.fetch_add(1, Ordering::Relaxed) < containers {
                    let mut bundle = Bundle::whole();
                    // a starter that writes its number down and becomes the hook
                    let pid = bundle.dir.path().join("pid");
                    let starter = bundle.dir.path().join("starter");
                    let words = bundle.args()[1..].join(" ");
                    put(
                        bundle.dir.path(),
                        "starter",
                        format!(
                            "#!/bin/sh\nread x < /proc/self/stat; echo $$ $x > {}\nexec {HOOK} {words}\n",
                            pid.display()
                        ),
                    );
                    std::fs::set_permissions(&starter, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                        .expect("mode");
                    bundle.hook = serde_json::json!({ "path": starter, "args": ["starter"], "env": ["PATH=/bin"] });
                    bundle.write();
                    let id = format!("thruway-kill-{}-{thread}-{}", std::process::id(), next.load(Ordering::Relaxed));
                    let mut command = engine_command("runc");
                    command.args(["run", "--bundle"]).arg(bundle.dir.path()).arg(&id);
                    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("runc");
                    let number = loop {
                        if let Ok(text) = std::fs::read_to_string(&pid) {
                            // the second word is the process's number outside of the container: /proc is the machine's
                            if let Some(number) = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()) {
                                break Some(number);
                            }
                        }
                        if child.try_wait().expect("runc").is_some() {
                            break None;
                        }
                        std::thread::sleep(Duration::from_micros(100));
                    };
                    std::thread::sleep(Duration::from_micros(random.below(2500) as u64));
                    if let Some(pid) = number.and_then(rustix::process::Pid::from_raw) {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                    let status = child.wait().expect("runc");
                    if status.success() { ended } else { killed }.fetch_add(1, Ordering::Relaxed);
                    // whatever stands there is whole
                    if let Ok(bytes) = std::fs::read(bundle.root.join("etc/ld.so.cache")) {
                        let cache = Cache::parse(&bytes).expect("no half-written cache");
                        assert!(cache.named("libcuda.so.1").next().is_some());
                    }
                    for name in names(&bundle.root) {
                        let full = bundle.root.join(&name);
                        if name.contains("/.thruway-") || !full.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
                            continue;
                        }
                        let text = std::fs::read_link(&full).expect("a link");
                        assert!(
                            matches!(
                                text.to_str(),
                                Some("busybox" | "libcuda.so.580.1.0" | "libcuda.so.1" | "libnvidia-ml.so.580.1.1")
                            ),
                            "{name}"
                        );
                    }
                    // the engine starts it again: the work is done, and what a kill left over is gone
                    assert!(bundle.direct_again().status().expect("the hook").success());
                    let left: Vec<String> =
                        names(&bundle.root).into_iter().filter(|name| name.contains(".thruway-")).collect();
                    assert_eq!(left, Vec::<String>::new());
                    let _ = engine_command("runc").args(["delete", "--force", &id]).stderr(Stdio::null()).status();
                }
            });
        }
    });
    println!("{killed:?} killed, {ended:?} had ended");
    assert!(killed.load(Ordering::Relaxed) > containers / 10, "the hook was hit");
    assert_eq!(mounts(), before, "no mount is left");
}

#[test]
fn killed_at_any_moment_nothing_is_half_done() {
    killed(30, 4);
}

#[test]
#[ignore = "a minute"]
fn killed_at_any_moment_five_hundred_times() {
    killed(500, 8);
}
