//! Our spec of every layout, held against a second opinion: NVIDIA's published rules as a Python script that knows nothing of our
//! code (`nvidia_rules.py`). Compared as sets; every difference must stand in `WHY`, and every line of `WHY` must be met.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs a script")]

#[path = "common/items.rs"]
mod items;
#[path = "common/nvml.rs"]
mod nvml;

use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;
use std::process::Command;

use machine::Root;
use simcards::view::View;
use simdriver::layout::ALL;
use simdriver::{Built, Laid, Layout, lay};

const VERSION: &str = "580.159.04";

/// (box, layouts or "*", "+" ours alone or "-" theirs alone, the item's start, why).
const WHY: &[(&str, &str, &str, &str, &str)] = &[
    (
        "*",
        "*",
        "-",
        "env NVIDIA_CTK_LIBCUDA_DIR=",
        "a word between their spec and their compat hook; our hook is told the driver's version and looks in the image",
    ),
    (
        "*",
        "*",
        "+",
        "twin ",
        "32-bit libraries: their CDI mode mounts none, so 32-bit games fail with it; here they are in the set compat32",
    ),
    (
        "*",
        "arch,gke,nixos",
        "+",
        "library libnvidia-egl-",
        "their locator knows neither /usr/lib, nor Google's directory, nor the Nix store, and the cache names libraries by SONAME",
    ),
    (
        "*",
        "gke,nixos",
        "+",
        "library ",
        "no directory of theirs has the driver, and no loader's cache: their spec is empty",
    ),
    ("*", "gke,nixos", "+", "link ", "the same"),
    ("*", "gke,nixos", "+", "program ", "the same: their PATH does not lead there"),
    ("*", "gke,nixos", "+", "firmware ", "the same"),
    ("*", "gke,nixos", "+", "data ", "the same"),
    (
        "*",
        "*",
        "+",
        "link libnvidia-egl-",
        "libraries with a version of their own get their SONAME's link here too; theirs come by ldconfig in the container",
    ),
    (
        "*",
        "guest",
        "+",
        "link libnvidia-",
        "developers' links that this host has to libraries whose SONAME is their file name: theirs are made for SONAMEs alone",
    ),
    ("*", "guest", "+", "firmware ", "below the driver's own root, where their list of directories does not lead"),
    ("*", "guest", "+", "data nvidia_layers.json", "the same"),
];

fn built() -> Built {
    Built(std::env::current_exe().expect("this test").parent().expect("its folder").to_owned())
}

/// Sockets as the daemons leave them.
fn sockets(laid: &Laid) -> Vec<UnixListener> {
    let mut kept = Vec::new();
    for path in ["run/nvidia-persistenced/socket", "run/nvidia-fabricmanager/socket"] {
        let place = laid.root.join(path);
        std::fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        // a socket's name may have 108 bytes: bound by a short one, then moved
        let short = std::env::temp_dir().join(format!("cdi-{}-{}", std::process::id(), kept.len()));
        let _ = std::fs::remove_file(&short);
        kept.push(UnixListener::bind(&short).expect("a socket"));
        if std::fs::rename(&short, &place).is_err() {
            std::fs::copy(&short, &place).ok();
        }
    }
    std::fs::create_dir_all(laid.root.join("tmp/nvidia-mps")).expect("a folder");
    kept
}

#[test]
fn every_difference_from_nvidias_rules_has_its_reason() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvidia_rules.py");
    for tool in ["python3", "readelf"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("SKIP: no {tool}");
            return;
        }
    }
    let mut met = vec![false; WHY.len()];
    let mut unexplained = Vec::new();
    let (mut compared, mut differ) = (0, 0);
    for name in ["rtx3090", "h100x8", "h100-mig"] {
        for (layout_name, layout) in ALL {
            // every layout with a card that draws; the others where they differ from it
            if (name == "h100-mig" && layout != Layout::Ubuntu) || (name == "h100x8" && layout != Layout::Guest) {
                continue;
            }
            let folder = tempfile::Builder::new().prefix("cdi").tempdir().expect("a directory");
            let laid = lay(folder.path(), View::named(name).expect("a box"), layout, &built()).expect("lays out");
            if !laid.missing_nodes.is_empty() {
                println!("SKIP: only root can make device nodes");
                return;
            }
            let _sockets = sockets(&laid);
            if name == "h100-mig" {
                nvml::answer(&laid, View::named(name).expect("a box"));
            }
            let machine = Root::tree(&laid.root).expect("a tree");
            let hook = cdi::HookWish::Path("/usr/bin/thruway-hook".into());
            let made = cdi::generate_here(&machine, &cdi::Options { hook, ..cdi::Options::default() });
            let made = made.unwrap_or_else(|error| panic!("{layout_name}: {error}"));
            let ours = items::of(&made);
            let output = Command::new("python3").arg(&script).arg(&laid.root).arg(VERSION).output().expect("runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let theirs: BTreeSet<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
            assert!(theirs.len() > 10, "{layout_name}: {theirs:?}");
            compared += ours.intersection(&theirs).count();
            let more = ours.difference(&theirs).map(|item| ("+", item));
            for (sign, item) in more.chain(theirs.difference(&ours).map(|item| ("-", item))) {
                differ += 1;
                let why = WHY.iter().position(|(of, layouts, side, start, _)| {
                    (*of == "*" || *of == name)
                        && (*layouts == "*" || layouts.split(',').any(|one| one == layout_name))
                        && *side == sign
                        && item.starts_with(start)
                });
                match why {
                    Some(at) => met[at] = true,
                    None => unexplained.push(format!("{name} {layout_name} {sign} {item}")),
                }
            }
        }
    }
    println!("{compared} items alike, {differ} different, each with a reason");
    assert!(unexplained.is_empty(), "no reason stands in WHY for\n{}", unexplained.join("\n"));
    for (row, met) in WHY.iter().zip(met) {
        println!("{} {} {}: {} ({})", row.1, row.2, row.3, row.4, if met { "met" } else { "not met" });
        assert!(met, "not met any more: {row:?}");
    }
    assert_eq!(Layout::Debian, ALL[0].1);
}
