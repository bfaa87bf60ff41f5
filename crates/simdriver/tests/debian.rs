//! NVIDIA's real libraries, as Debian packs three branches of them, in their real layout: found by their own SONAMEs, and held
//! against NVIDIA's rules. Downloads some 500 MB, so it is asked for by name:
//! `cargo test -p thruway-simdriver --test debian -- --ignored --nocapture`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "unpacks packages")]

#[path = "common/items.rs"]
mod items;
#[path = "../../simnvml/tests/common/debian.rs"]
mod packages;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use machine::Root;
use packages::{Apt, run, unpack_all};
use simcards::view::View;
use simdriver::{Built, Layout, lay};

/// (suite, series in the packages' names, directory of the series, packages of the other names).
const SERIES: [(&str, &str, &str, &[&str]); 3] = [
    ("bookworm", "tesla-470-", "tesla-470", &["nvidia-tesla-470-smi", "libnvidia-tesla-470-cuda1"]),
    ("bookworm", "", "current", &["nvidia-smi", "libcuda1", "firmware-nvidia-gsp", "libnvidia-egl-gbm1"]),
    (
        "trixie",
        "",
        "current",
        &["nvidia-smi", "libcuda1", "firmware-nvidia-gsp", "libnvidia-egl-gbm1", "libnvidia-gpucomp"],
    ),
];

/// What every series has: "{}" is where the series stands, "[]" where it stands with a dash before it.
const PACKAGES: [&str; 18] = [
    "libnvidia-{}ml1",
    "libnvidia-{}cfg1",
    "libnvidia-{}ptxjitcompiler1",
    "libnvidia-{}encode1",
    "libnvidia-{}fbc1",
    "libnvidia-{}glcore",
    "libnvidia-{}eglcore",
    "libnvidia-{}glvkspirv",
    "libnvidia-{}rtcore",
    "libnvidia-{}allocator1",
    "libnvidia-{}opticalflow1",
    "libnvidia-{}nvvm4",
    "libglx-nvidia[]0",
    "libegl-nvidia[]0",
    "libgles-nvidia[]2",
    "nvidia-{}vulkan-icd",
    "nvidia-{}vdpau-driver",
    "nvidia-{}opencl-icd",
];

fn unpack(dir: &Path, root: &Path, suite: &str, packages: &[String]) -> Result<(), String> {
    let apt = Apt::of(dir, suite, "main contrib non-free non-free-firmware")?;
    let names = packages.iter().map(String::as_str);
    apt.get(&["download"].into_iter().chain(names).collect::<Vec<_>>())?;
    unpack_all(dir, root).map(|_| ())
}

#[test]
#[ignore = "downloads some 500 MB of Debian's packages"]
fn debians_packages_are_found_whole() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvidia_rules.py");
    for (suite, series, place, more) in SERIES {
        let folder = tempfile::tempdir().expect("a directory");
        let deps = std::env::current_exe().expect("this test").parent().expect("its folder").to_owned();
        let laid = lay(&folder.path().join("laid"), View::named("rtx3090").expect("a box"), Layout::Gke, &Built(deps));
        let laid = laid.expect("lays out");
        // the kernel's side of the simulated machine, and none of its files
        std::fs::remove_dir_all(laid.root.join("home")).expect("removes");
        let numbered = if series.is_empty() { String::new() } else { format!("-{series}") };
        let packages = PACKAGES.iter().map(|name| name.replace("{}", series).replace("[]", &numbered));
        let packages: Vec<String> = packages.chain(more.iter().map(|name| (*name).to_owned())).collect();
        if let Err(why) = unpack(folder.path(), &laid.root, suite, &packages) {
            println!("SKIP: {suite} {place}: {why}");
            continue;
        }
        let own = laid.root.join(format!("usr/lib/x86_64-linux-gnu/nvidia/{place}"));
        let files = || {
            std::fs::read_dir(&own)
                .expect("lists")
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        let version = files()
            .find_map(|name| name.strip_prefix("libcuda.so.").filter(|rest| rest.contains('.')).map(str::to_owned));
        let version = version.expect("libcuda has a version");
        for path in ["proc/driver/nvidia/version", "sys/module/nvidia/version"] {
            let text = std::fs::read_to_string(laid.root.join(path)).expect("reads");
            std::fs::remove_file(laid.root.join(path)).expect("removes");
            std::fs::write(laid.root.join(path), text.replace("580.159.04", &version)).expect("writes");
        }
        // as its alternatives and its ldconfig would leave it
        let _ = std::os::unix::fs::symlink(
            format!("/usr/lib/nvidia/{place}/nvidia-smi"),
            laid.root.join("usr/bin/nvidia-smi"),
        );
        std::fs::write(laid.root.join("etc/ld.so.conf"), format!("/usr/lib/x86_64-linux-gnu/nvidia/{place}\n"))
            .expect("writes");
        run(Command::new("/sbin/ldconfig").arg("-r").arg(&laid.root)).expect("root may");
        let machine = Root::tree(&laid.root).expect("a tree");
        let hook = cdi::HookWish::Path("/usr/bin/thruway-hook".into());
        let made = cdi::generate_here(&machine, &cdi::Options { hook, ..cdi::Options::default() });
        let made = made.unwrap_or_else(|error| panic!("{suite} {place}: {error}"));
        // every library under the SONAME that binutils reads from it
        for library in &made.files.libraries {
            let path = laid.root.join(library.path.trim_start_matches('/'));
            let Ok(text) = run(Command::new("readelf").arg("-d").arg(&path)) else { continue };
            let soname =
                text.lines().find(|line| line.contains("(SONAME)")).and_then(|line| line.split(['[', ']']).nth(1));
            // branch 470 has one without (libnvidia-vulkan-producer)
            let Some(wanted) = soname else { continue };
            assert!(library.names.iter().any(|name| name == wanted), "{wanted}: {:?}", library.names);
        }
        let ours = items::of(&made);
        let output = Command::new("python3").arg(&script).arg(&laid.root).arg(&version).output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs: BTreeSet<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        let more: Vec<&String> = ours.difference(&theirs).collect();
        let less: Vec<&String> = theirs.difference(&ours).filter(|item| !item.starts_with("env NVIDIA_CTK")).collect();
        println!(
            "{suite}, {place}, {version}: {} libraries, {} items alike",
            made.files.libraries.len(),
            ours.intersection(&theirs).count()
        );
        println!("  ours alone: {more:#?}\n  theirs alone: {less:#?}");
        assert!(made.files.libraries.len() >= 18, "{:#?}", made.files.libraries);
        assert!(less.is_empty(), "{less:#?}");
    }
}
