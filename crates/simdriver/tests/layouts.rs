//! Every layout, looked at by the code that looks at real ones, and by the C library's own tools.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "reads what it laid out")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use machine::Root;
use simcards::view::View;
use simdriver::layout::ALL;
use simdriver::{Built, Laid, Layout, elf, files, lay};

fn laid(name: &str, layout: Layout) -> (tempfile::TempDir, Laid) {
    let folder = tempfile::tempdir().expect("a directory");
    let deps = std::env::current_exe().expect("this test").parent().expect("its folder").to_owned();
    let text = View::named(name).expect("a box");
    let laid = lay(folder.path(), text, layout, &Built(deps)).expect("lays out");
    (folder, laid)
}

#[test]
fn a_spec_finds_the_same_driver_in_every_layout() {
    let version = "580.159.04";
    for (name, layout) in ALL {
        let (_folder, laid) = laid("rtx3090", layout);
        let machine = Root::tree(&laid.root).expect("a tree");
        let inventory = gpu::observe(&machine);
        assert_eq!(inventory.driver.kernel.get().map(String::as_str), Some(version), "{name}");
        let made = cdi::generate(&machine, &inventory, &cdi::Options::default());
        let made = made.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(made.spec.problems(), Vec::<String>::new(), "{name}");
        let server = layout == Layout::Guest;
        let found: BTreeSet<&str> =
            made.files.libraries.iter().filter_map(|library| library.names.first().map(String::as_str)).collect();
        let mut wanted: Vec<String> = files::of(580, server).map(|library| library.file(version)).collect();
        if !(server || layout == Layout::Gke || layout == Layout::Nix) {
            wanted.extend([files::XORG[0].to_owned(), format!("{}.{version}", files::XORG[1])]);
        }
        let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
        assert_eq!(found, wanted, "{name}: libraries");
        for library in &made.files.libraries {
            assert!(!library.path.contains("32") && !library.path.contains("i386"), "{name}: {}", library.path);
        }
        let twins = match layout {
            Layout::Debian | Layout::Ubuntu | Layout::Fedora | Layout::Arch => {
                files::of(580, false).filter(|library| library.narrow).count()
            }
            Layout::Container => 0,
            _ => 0,
        };
        assert_eq!(made.files.twins.len(), twins, "{name}: {:?}", made.files.twins);
        let programs: BTreeSet<&str> = made.files.binaries.iter().map(|binary| binary.name.as_str()).collect();
        assert_eq!(programs, BTreeSet::from(files::PROGRAMS), "{name}: programs {:?}", made.notes);
        assert_eq!(made.files.firmware.len(), 2, "{name}: firmware");
        let data = files::DATA.iter().filter(|(.., on_server)| *on_server || !server).count();
        assert_eq!(made.files.loader_files.len(), data, "{name}: {:?}", made.files.loader_files);
        if laid.missing_nodes.is_empty() {
            assert_eq!(made.gpus[0].nodes, ["/dev/nvidia0", "/dev/dri/card0", "/dev/dri/renderD128"], "{name}");
            assert_eq!(made.spec.cdi_version, "0.7.0", "{name}: the groups of video and render");
            assert_eq!(made.spec.devices[0].container_edits.additional_gids, [44, 105], "{name}");
        } else {
            println!("SKIP: device nodes of {name}, which only root can make");
        }
    }
}

/// The recorded files: those below /usr/local/nvidia, and the links and scripts beside them.
#[test]
fn the_guest_is_laid_out_as_the_recorded_one() {
    let (_folder, laid) = laid("h100", Layout::Guest);
    let recorded = [
        include_str!("../../gpu/tests/fixtures/h100-guest/driver-files.txt"),
        include_str!("../../gpu/tests/fixtures/h100-guest/driver-links.txt"),
    ];
    let line = |line: &str| {
        let (front, target) = line.split_once(" -> ")?;
        let mut words = front.split_whitespace();
        let (mode, path) = (words.next()?, words.nth(1)?);
        Some(format!("{} {path} {target}", mode.get(..1)?).trim_end().to_owned())
    };
    let real: BTreeSet<String> = recorded.iter().flat_map(|text| text.lines()).filter_map(line).collect();
    assert!(real.len() > 150, "{}", real.len());
    let mut ours = BTreeSet::new();
    walk(&laid.root, "", &mut ours);
    let missing: Vec<&String> = real.difference(&ours).collect();
    println!("recorded and not laid out: {missing:#?}");
    assert!(missing.is_empty(), "{missing:#?}");
    let below = |entry: &&String| entry.contains(" /usr/local/nvidia/") && !entry.contains("/thruway-sim");
    let more: Vec<&String> = ours.difference(&real).filter(below).collect();
    println!("laid out and not recorded: {more:#?}");
    assert!(more.is_empty(), "{more:#?}");
}

/// "l /usr/lib/libcuda.so.1 /usr/local/nvidia/lib64/libcuda.so.1", "- FILE", "d FOLDER".
fn walk(root: &Path, below: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(root.join(below)).expect("a folder").flatten() {
        let path = format!("{below}/{}", entry.file_name().to_string_lossy()).trim_start_matches('/').to_owned();
        let kind = entry.file_type().expect("its kind");
        if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).expect("a link");
            found.insert(format!("l /{path} {}", target.display()));
        } else if kind.is_dir() {
            found.insert(format!("d /{path}"));
            walk(root, &path, found);
        } else {
            found.insert(format!("- /{path}"));
        }
    }
}

#[test]
fn stubs_are_libraries_to_the_c_library() {
    let folder = tempfile::tempdir().expect("a directory");
    let lib = folder.path().join("usr/lib");
    std::fs::create_dir_all(&lib).expect("a folder");
    std::fs::write(lib.join("libwide.so.1.2"), elf::stub("libwide.so.1", elf::Class::Wide)).expect("writes");
    std::fs::write(lib.join("libnarrow.so.1.2"), elf::stub("libnarrow.so.1", elf::Class::Narrow)).expect("writes");
    for (file, class, name) in
        [("libwide.so.1.2", "ELF64", "libwide.so.1"), ("libnarrow.so.1.2", "ELF32", "libnarrow.so.1")]
    {
        let Ok(output) = Command::new("readelf").args(["-hd"]).arg(lib.join(file)).output() else {
            println!("SKIP: no readelf");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(class) && text.contains(&format!("soname: [{name}]")), "{text}");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // the loader takes it
    let script = format!("import ctypes; ctypes.CDLL('{}'); print('loaded')", lib.join("libwide.so.1.2").display());
    match Command::new("python3").args(["-c", &script]).output() {
        Ok(output) => assert_eq!(output.stdout, b"loaded\n", "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => println!("SKIP: no python3"),
    }
    // and ldconfig makes its link and knows its name
    std::fs::create_dir_all(folder.path().join("etc")).expect("a folder");
    std::fs::write(folder.path().join("etc/ld.so.conf"), "/usr/lib\n").expect("writes");
    let Ok(output) = Command::new("/sbin/ldconfig").arg("-r").arg(folder.path()).output() else {
        println!("SKIP: no ldconfig");
        return;
    };
    if !output.status.success() {
        println!("SKIP: ldconfig -r needs root");
        return;
    }
    let link = std::fs::read_link(lib.join("libwide.so.1")).expect("ldconfig's link");
    assert_eq!(link, Path::new("libwide.so.1.2"));
    assert!(lib.join("libnarrow.so.1").exists());
}

/// The cache that is written by hand and the one that ldconfig would write lead to the same files.
#[test]
fn the_cache_is_ldconfigs() {
    use formats::ldsocache::{Arch, Cache};
    for (name, layout) in [("ubuntu", Layout::Ubuntu), ("fedora", Layout::Fedora), ("guest", Layout::Guest)] {
        let (_folder, laid) = laid("rtx3090", layout);
        let place = laid.root.join("etc/ld.so.cache");
        let read = || Cache::parse(&std::fs::read(&place).expect("a cache")).expect("a cache");
        let names = |cache: &Cache| -> BTreeSet<(String, String)> {
            let wide =
                cache.entries.iter().filter(|entry| entry.arch() == Arch::X86_64 && entry.path.contains("nvidia"));
            wide.map(|entry| (entry.soname.clone(), entry.path.clone())).collect()
        };
        let ours = names(&read());
        std::fs::write(laid.root.join("etc/ld.so.conf"), format!("{}\n", laid.libraries)).expect("writes");
        let run = Command::new("/sbin/ldconfig").arg("-X").arg("-r").arg(&laid.root).output();
        if !run.is_ok_and(|output| output.status.success()) {
            println!("SKIP: ldconfig -r needs root");
            return;
        }
        let theirs = names(&read());
        let lost: Vec<_> = ours.difference(&theirs).collect();
        assert!(lost.is_empty(), "{name}: {lost:#?}");
    }
}
