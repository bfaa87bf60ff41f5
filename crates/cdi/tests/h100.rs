//! The spec of a real machine: an H100 in a VM whose driver lives in /usr/local/nvidia, with wrapper scripts in
//! /usr/bin. Recorded as lists of files (mode, size, path, link) and of device nodes.
#![allow(clippy::unwrap_used, reason = "a test may end by a panic")]

use gpu::{Card, DriverFacts, Holder, Inventory};
use machine::{FileKind, Memory, Node, NodeKind, Stat};
use model::{Bdf, Identity, PciId, Reason, Seen};

const VERSION: &str = "580.159.04";
const FILES: &str = include_str!("fixtures/h100-guest/driver-files.txt");
const LINKS: &str = include_str!("fixtures/h100-guest/driver-links.txt");
const NODES: &str = include_str!("fixtures/h100-guest/dev-nvidia.txt");
const INFORMATION: &str = include_str!("fixtures/h100-guest/information");

fn stat(kind: FileKind, size: u64, rdev: Option<(u32, u32)>) -> Stat {
    Stat { kind, mode: 0o755, uid: 0, gid: 0, size, mtime: 0, rdev }
}

fn machine() -> Memory {
    let mut memory = Memory::new("the H100 guest");
    for line in FILES.lines().chain(LINKS.lines()) {
        let (front, target) = line.split_once(" -> ").unwrap();
        let mut words = front.split(' ').filter(|word| !word.is_empty());
        let (mode, size, path) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        match mode.as_bytes()[0] {
            b'l' => memory.insert_link(path, target),
            b'-' => {
                let kind = NodeKind::File(Seen::Unreadable(Reason::NotCaptured));
                memory.insert(path, Node { stat: stat(FileKind::File, size.parse().unwrap(), None), kind });
            }
            _ => {}
        }
    }
    let mut dir = "/dev";
    for line in NODES.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [one] => dir = one.trim_end_matches(':'),
            [mode, _, _, _, major, minor, .., name] if mode.starts_with('c') => {
                let rdev = (major.trim_end_matches(',').parse().unwrap(), minor.parse().unwrap());
                let node = Node { stat: stat(FileKind::CharDevice, 0, Some(rdev)), kind: NodeKind::Special };
                memory.insert(&format!("{dir}/{name}"), node);
            }
            _ => {}
        }
    }
    let mut names: Vec<String> =
        ["nvidia0", "nvidia-caps", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"].map(str::to_owned).to_vec();
    names.sort();
    memory.insert("/dev", Node { stat: stat(FileKind::Dir, 0, None), kind: NodeKind::Dir(Seen::Is(names)) });
    memory.insert_file("/proc/driver/nvidia/gpus/0000:00:06.0/information", INFORMATION.as_bytes());
    memory
}

fn inventory() -> Inventory {
    let bdf = Bdf::new(0, 0, 6, 0);
    let id = PciId::new(0x10de, 0x2330);
    let card = Card {
        identity: Identity { bdf, id, subsystem: None, uuid: None },
        class: 0x030200,
        class_name: "3D controller".into(),
        vendor_name: "NVIDIA Corporation".into(),
        device_name: "GH100 [H100 SXM5 80GB]".into(),
        subsystem_name: None,
        revision: 0xa1,
        driver: Seen::Is("nvidia".into()),
        driver_override: Seen::Absent,
        group: Seen::Absent,
        companions: Vec::new(),
        reset: Seen::Absent,
        boot_vga: false,
        bars: Vec::new(),
        bar_sum: 0,
        link: Seen::Absent,
        numa: None,
        slot: Seen::Absent,
        port: None,
        power: Seen::Absent,
        arch: None,
        nvml: None,
        holder: Holder::Host(Vec::new()),
    };
    Inventory {
        cards: vec![card],
        functions: Vec::new(),
        looked: Seen::Is(()),
        nvml: Seen::Absent,
        driver: DriverFacts {
            kernel: Seen::Is(VERSION.into()),
            kind: None,
            library: Seen::Is(VERSION.into()),
            library_path: Seen::Is("/usr/local/nvidia/lib64/libnvidia-ml.so.580.159.04".into()),
            library_via: Some("ld.so.cache".into()),
        },
        hints: Seen::Absent,
    }
}

#[test]
fn the_spec_of_the_h100_guest() {
    let made = cdi::generate(&machine(), &inventory(), &cdi::Options::default()).unwrap();
    let spec = &made.spec;
    assert_eq!(spec.problems(), Vec::<String>::new());
    // "0" begins with a digit, and nothing else here needs more: Docker 25 knows this version.
    assert_eq!(spec.cdi_version, "0.5.0");
    let names: Vec<&str> = spec.devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["0", "GPU-11111111-2222-3333-4444-555555555555", "all"]);
    for device in &spec.devices {
        let nodes: Vec<&str> = device.container_edits.device_nodes.iter().map(|node| node.path.as_str()).collect();
        assert_eq!(nodes, ["/dev/nvidia0"], "{}", device.name);
    }
    let common = &spec.container_edits;
    let nodes: Vec<&str> = common.device_nodes.iter().map(|node| node.path.as_str()).collect();
    assert_eq!(nodes, ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl"], "this guest has no modeset node");
    assert!(
        spec.edits().all(|edits| edits.device_nodes.iter().all(|node| node.major.is_none() && node.minor.is_none()))
    );
    assert_eq!(common.env, ["NVIDIA_VISIBLE_DEVICES=void"]);
    assert!(common.hooks.is_empty());
}

#[test]
fn every_library_of_the_driver_under_every_name_it_is_asked_by() {
    let made = cdi::generate(&machine(), &inventory(), &cdi::Options::default()).unwrap();
    let mounts = &made.spec.container_edits.mounts;
    let host = |container: &str| {
        mounts.iter().find(|mount| mount.container_path == container).map(|mount| mount.host_path.as_str())
    };
    let lib = "/usr/lib/x86_64-linux-gnu";
    for name in ["libcuda.so", "libcuda.so.1", "libcuda.so.580.159.04"] {
        let file = Some("/usr/local/nvidia/lib64/libcuda.so.580.159.04");
        assert_eq!(host(&format!("{lib}/{name}")), file);
        assert_eq!(host(&format!("/usr/lib64/{name}")), file);
    }
    assert_eq!(
        host(&format!("{lib}/libnvidia-nvvm.so.4")),
        Some("/usr/local/nvidia/lib64/libnvidia-nvvm.so.580.159.04")
    );
    assert_eq!(host(&format!("{lib}/libnvidia-ml.so")), None, "a developer's link that no program opens");
    // The whole driver: each versioned file of the recording, and nothing that is not the driver's.
    let recorded =
        FILES.lines().filter(|line| line.starts_with('-') && line.contains(&format!(".so.{VERSION} "))).count();
    assert_eq!(made.files.libraries.len(), recorded);
    assert!(mounts.iter().all(|mount| mount.host_path.starts_with("/usr/local/nvidia/")));
    assert!(mounts.iter().all(|mount| !mount.host_path.contains("/glibc/")));
    assert!(mounts.iter().all(|mount| mount.options == ["ro", "nosuid", "nodev", "rbind", "rprivate"]));
}

/// With the hook each library is mounted once, and the hook is told the names.
#[test]
fn with_the_hook_a_library_is_one_mount() {
    let options = cdi::Options { hook: cdi::HookWish::Path("/usr/bin/thruway-hook".into()), ..cdi::Options::default() };
    let made = cdi::generate(&machine(), &inventory(), &options).unwrap();
    assert_eq!(made.spec.problems(), Vec::<String>::new());
    assert_eq!(made.spec.cdi_version, "0.5.0");
    let common = &made.spec.container_edits;
    let cuda: Vec<&str> = common
        .mounts
        .iter()
        .filter(|mount| mount.container_path.contains("/libcuda.so"))
        .map(|mount| mount.container_path.as_str())
        .collect();
    assert_eq!(cuda, ["/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04"]);
    let [hook] = common.hooks.as_slice() else { panic!("{:?}", common.hooks) };
    assert_eq!((hook.hook_name.as_str(), hook.path.as_str()), ("createContainer", "/usr/bin/thruway-hook"));
    assert_eq!(hook.args[..2], ["thruway-hook", "create-container"]);
    assert_eq!(hook.env, ["THRUWAY_HOOK=1"]);
    let has = |words: &[&str]| hook.args.windows(words.len()).any(|window| window == words);
    let lib = "/usr/lib/x86_64-linux-gnu";
    assert!(has(&["--link", &format!("libcuda.so.580.159.04::{lib}/libcuda.so.1")]), "{:?}", hook.args);
    assert!(has(&["--link", &format!("libcuda.so.1::{lib}/libcuda.so")]));
    assert!(has(&["--link", &format!("libnvidia-ml.so.1::{lib}/libnvidia-ml.so")]), "the host has it");
    assert!(has(&["--link", &format!("libGLX_nvidia.so.580.159.04::{lib}/libGLX_indirect.so.0")]));
    assert!(has(&["--link", &format!("../libnvidia-allocator.so.1::{lib}/gbm/nvidia-drm_gbm.so")]));
    assert!(has(&["--folder", lib]));
    assert!(has(&["--driver", VERSION, "--cuda", "13.0", "--guard-params", "--application-profile"]));
    // the set that a container without graphics asks for
    let sets = model::Capabilities::parse("utility").unwrap();
    let few = cdi::Options { capabilities: Some(cdi::Wanted::Sets(sets)), ..options };
    let made = cdi::generate(&machine(), &inventory(), &few).unwrap();
    let mounts = &made.spec.container_edits.mounts;
    assert!(mounts.iter().any(|mount| mount.container_path.ends_with("/nvidia-smi")));
    assert!(!mounts.iter().any(|mount| mount.container_path.contains("libcuda.so")), "{mounts:#?}");
    let args = &made.spec.container_edits.hooks[0].args;
    assert!(!args.iter().any(|arg| arg.contains("libcuda") || arg == "--application-profile"), "{args:?}");
}

#[test]
fn wrappers_are_seen_through() {
    let made = cdi::generate(&machine(), &inventory(), &cdi::Options::default()).unwrap();
    let smi =
        made.spec.container_edits.mounts.iter().find(|mount| mount.container_path == "/usr/bin/nvidia-smi").unwrap();
    assert_eq!(smi.host_path, "/usr/local/nvidia/bin/nvidia-smi");
    assert_eq!(made.files.binaries.len(), 5);
    assert!(made.notes.iter().any(|note| note.starts_with("/usr/bin/nvidia-smi is a wrapper script")));
    let firmware: Vec<&str> = made.files.firmware.iter().map(|file| file.host.as_str()).collect();
    let dir = "/usr/local/nvidia/firmware/nvidia/580.159.04";
    assert_eq!(firmware, [format!("{dir}/gsp_ga10x.bin"), format!("{dir}/gsp_tu10x.bin")]);
    let icd =
        made.files.loader_files.iter().find(|file| file.container == "/etc/vulkan/icd.d/nvidia_icd.json").unwrap();
    assert_eq!(icd.host, "/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json");
}

#[test]
fn what_is_made_is_true_of_its_machine_and_of_no_other() {
    let machine = machine();
    let made = cdi::generate(&machine, &inventory(), &cdi::Options::default()).unwrap();
    let judged = cdi::judge(&machine, &made.spec, Some(VERSION), &made.gpus);
    assert_eq!(judged, cdi::Judged::default());
    let after = cdi::judge(&machine, &made.spec, Some("590.10.01"), &made.gpus);
    assert_eq!(after.faults.len(), made.files.libraries.len());
    let mut frozen = made.spec.clone();
    for node in &mut frozen.container_edits.device_nodes {
        node.major = Some(if node.path.contains("uvm") { 511 } else { 195 });
        node.minor = Some(if node.path.ends_with("ctl") { 255 } else { i64::from(node.path.ends_with("tools")) });
    }
    let faults = cdi::judge(&machine, &frozen, Some(VERSION), &made.gpus).faults;
    let says: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        says,
        [
            "/dev/nvidia-uvm is written as 511:0 and is 238:0 now",
            "/dev/nvidia-uvm-tools is written as 511:1 and is 238:1 now"
        ]
    );
}

#[test]
fn no_spec_without_a_whole_driver() {
    let machine = machine();
    let options = cdi::Options::default();
    let mut none = inventory();
    none.cards.clear();
    assert_eq!(cdi::generate(&machine, &none, &options), Err(cdi::NoSpec::NoCard));
    none.looked = Seen::Unreadable(Reason::PermissionDenied);
    assert_eq!(cdi::generate(&machine, &none, &options), Err(cdi::NoSpec::Unknown(Reason::PermissionDenied)));
    let mut idle = inventory();
    idle.driver.kernel = Seen::Absent;
    assert_eq!(cdi::generate(&machine, &idle, &options), Err(cdi::NoSpec::NoDriver));
    let mut mid_update = inventory();
    mid_update.driver.kernel = Seen::Is("570.1.2".into());
    let error = cdi::generate(&machine, &mid_update, &options).unwrap_err();
    assert_eq!(error, cdi::NoSpec::Mismatch { kernel: "570.1.2".into(), library: VERSION.into() });
    mid_update.driver.library = Seen::Absent;
    let error = cdi::generate(&machine, &mid_update, &options).unwrap_err();
    assert_eq!(error, cdi::NoSpec::NoLibraries { version: "570.1.2".into() });
}

/// The same driver in a place that no distribution uses, known to the loader's cache alone, and through a link at that.
#[test]
fn a_driver_that_only_the_loaders_cache_knows() {
    use formats::ldsocache::{Arch, Cache, Entry};
    let mut machine = Memory::new("odd");
    let file = format!("/srv/driver/lib/libcuda.so.{VERSION}");
    machine.insert_file(&file, b"\x7fELF");
    machine.insert_link("/usr/lib/libcuda.so.1", &file);
    let old = Entry::new("libcuda.so.1", "/usr/lib32/libcuda.so.1", Arch::I386);
    let entry = Entry::new("libcuda.so.1", "/usr/lib/libcuda.so.1", Arch::X86_64);
    let cache = Cache { entries: vec![old, entry], generator: None };
    machine.insert_file("/etc/ld.so.cache", &cache.to_bytes());
    let mut inventory = inventory();
    inventory.driver.library_path = Seen::Absent;
    let files = cdi::driver_files(&machine, &inventory, VERSION);
    let paths: Vec<&str> = files.libraries.iter().map(|library| library.path.as_str()).collect();
    assert_eq!(paths, [file.as_str()]);
    // No link beside it says the SONAME, which is known for NVIDIA's libraries.
    assert_eq!(files.libraries[0].names, [format!("libcuda.so.{VERSION}").as_str(), "libcuda.so.1", "libcuda.so"]);
}
