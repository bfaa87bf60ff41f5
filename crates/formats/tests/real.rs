//! libvirt itself and QEMU itself read what these formats write. Each prints SKIP and why where the program is not here.
//! libvirt: `virsh -c test:///default` (libvirt-clients) parses and checks against the RNG schemas, without a daemon.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs whole programs")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use formats::domxml::{Domain, NewHostDev};
use formats::hint::{PREFIX, in_args, with_args};
use formats::qemuargs::{QemuArgs, VfioDev};
use formats::smbios::oem_strings;
use model::Bdf;

/// A hint of the longest usual form.
const HINT: &str =
    "thruway.dev/gpu:1;id=10de:1d01;board=1043:85f4;pci=0000:26:00.0;slot=4;numa=0;max=8.0x4;now=2.5x4;host=pve";

/// True where the program answers `--version`.
fn here(program: &str) -> bool {
    let answer = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let here = answer.is_ok_and(|status| status.success());
    if !here {
        println!("SKIP: {program} is not installed");
    }
    here
}

fn scratch(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("real-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).expect("the target directory can be written");
    path
}

/// What libvirt says against this domain; empty: nothing.
fn libvirt(name: &str, xml: &str) -> String {
    let file = scratch(name, xml.as_bytes());
    let done = Command::new("virsh")
        .args(["-q", "-c", "test:///default", "define", "--validate"])
        .arg(&file)
        .output()
        .expect("virsh runs");
    let _ = std::fs::remove_file(&file);
    if done.status.success() { String::new() } else { String::from_utf8_lossy(&done.stderr).into_owned() }
}

#[test]
fn libvirt_accepts_the_corpus_and_what_is_spliced_into_it() {
    if !here("virsh") {
        return;
    }
    let bdf = |function| Bdf::new(0, 0x81, 0, function);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/domxml");
    let (mut looked, mut spliced, mut hinted) = (0, 0, 0);
    for entry in std::fs::read_dir(dir).expect("the corpus") {
        let path = entry.expect("a file").path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let bytes = std::fs::read(&path).expect("a file");
        let domain = Domain::parse(&bytes).expect("a domain");
        let before = libvirt(&name, domain.text());
        // maxphysaddr's `limit` came with libvirt 9.3.0
        if name.starts_with("13-") && before.contains("failed to validate") {
            println!("SKIP: {name}: this libvirt does not know maxphysaddr limit");
            continue;
        }
        assert_eq!(before, "", "{name}");
        looked += 1;
        let port = domain.is_q35().then(|| domain.next_index().max(1));
        let new: Vec<NewHostDev> = (0..2)
            .map(|function| NewHostDev {
                source: bdf(function),
                guest: port.map(|port| (port, 0, u32::from(function))),
                multifunction: function == 0,
            })
            .collect();
        let after = domain.with(port, &new).expect("devices");
        // i440fx: libvirt gives the addresses itself
        assert_eq!(libvirt(&name, &after), "", "{name}, spliced:\n{after}");
        spliced += 1;
        let again = Domain::parse(after.as_bytes()).expect("a domain");
        assert_eq!(libvirt(&name, &again.without(&[bdf(0), bdf(1)])), "", "{name}, taken back");
        if let Ok(told) = again.with_oem_strings(PREFIX, &[HINT.to_owned()]) {
            assert_eq!(libvirt(&name, &told), "", "{name}, with a hint:\n{told}");
            hinted += 1;
            let told = Domain::parse(told.as_bytes()).expect("a domain");
            assert_eq!(told.with_oem_strings(PREFIX, &[]).as_deref(), Ok(again.text()), "{name}, the hint taken back");
        }
    }
    assert!(
        looked >= 20 && spliced >= 20 && hinted >= 20,
        "{looked} looked at, {spliced} spliced, {hinted} with a hint"
    );
    println!("{looked} domains looked at, {spliced} spliced, {hinted} with a hint");
    let bad = libvirt("bad", "<domain type='kvm'><name>x</name><hostdev/></domain>");
    assert!(bad.contains("failed to validate"), "libvirt refuses nothing: {bad}");
}

/// QEMU's answers to monitor commands, and what it says on stderr. The machine does not start (-S).
fn qemu(args: &[String], commands: &str) -> (String, String) {
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-S", "-nodefaults", "-display", "none", "-monitor", "stdio"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("QEMU starts");
    // an error ends QEMU before it reads; that is seen in its words
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(format!("{commands}\nquit\n").as_bytes()));
    let done = child.wait_with_output().expect("QEMU ends");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(done.stdout), text(done.stderr))
}

#[test]
fn qemu_accepts_what_is_written() {
    if !here("qemu-system-x86_64") {
        return;
    }
    let firmware = scratch("code,4m.fd", &vec![0u8; 4 << 20]);
    let facts = QemuArgs {
        name: Some("media,one".into()),
        machine: Some("q35".into()),
        cpu: Some("qemu64".into()),
        memory_mib: Some(64),
        firmware: Some(firmware.to_string_lossy().into_owned()),
        balloon: true,
        ..QemuArgs::default()
    };
    let (says, errors) = qemu(&facts.to_args(), "info name\ninfo qtree\ninfo block");
    assert_eq!(errors, "", "{:?}", facts.to_args());
    assert!(
        says.contains("media,one") && says.contains("virtio-balloon-pci") && says.contains("q35-pcihost"),
        "{says}"
    );
    assert!(says.contains("code,4m.fd"), "{says}");
    // the same as a file
    let config = format!(
        "[machine]\n  type = \"q35\"\n\n[memory]\n  size = \"64M\"\n\n[name]\n  guest = \"media,one\"\n\n\
         [drive]\n  if = \"pflash\"\n  format = \"raw\"\n  readonly = \"on\"\n  file = \"{}\"\n\n\
         [device \"balloon0\"]\n  driver = \"virtio-balloon-pci\"\n",
        firmware.display()
    );
    let file = scratch("vm.cfg", config.as_bytes());
    let line = ["-readconfig".to_owned(), file.to_string_lossy().into_owned()];
    let (says, errors) = qemu(&line, "info name\ninfo qtree");
    assert_eq!(errors, "");
    assert!(says.contains("media,one") && says.contains("virtio-balloon-pci"), "{says}");
    let read = QemuArgs::from_args_with(&line, &mut |_| Some(config.clone()));
    assert_eq!(read, QemuArgs { cpu: None, ..facts.clone() });
    let _ = std::fs::remove_file(firmware);
    let _ = std::fs::remove_file(file);
}

#[test]
fn qemu_knows_every_property_of_a_passed_card() {
    if !here("qemu-system-x86_64") {
        return;
    }
    // an address that no machine has: QEMU has read all properties by the time it looks for the device
    let device = VfioDev {
        host: Some(Bdf::new(0xfffe, 0xfe, 0, 0)),
        id: Some("card".into()),
        bus: Some("pcie.0".into()),
        addr: Some("0x10.0".into()),
        multifunction: true,
        ..VfioDev::default()
    };
    let facts = QemuArgs { machine: Some("q35".into()), vfio: vec![device.clone()], ..QemuArgs::default() };
    let (_, errors) = qemu(&facts.to_args(), "info qtree");
    if errors.contains("'vfio-pci' is not a valid device model name") {
        println!("SKIP: this QEMU has no vfio-pci");
        return;
    }
    assert!(errors.contains("fffe:fe:00.0") && errors.contains("no such host device"), "{errors}");
    let odd = QemuArgs { vfio: vec![VfioDev { bus: Some("nowhere".into()), ..device }], ..facts };
    let (_, errors) = qemu(&odd.to_args(), "info qtree");
    assert!(errors.contains("nowhere"), "QEMU accepts any bus: {errors}");
}

/// The firmware puts the table into the guest's memory; it is looked for there, as a kernel without EFI would, and read.
#[test]
fn qemu_gives_a_hint_to_its_guest() {
    if !here("qemu-system-x86_64") {
        return;
    }
    let two = HINT.replace("26:00", "27:00");
    let line = with_args("-smbios type=11,value=myapp:1", &[HINT.to_owned(), two.clone()]);
    assert_eq!(in_args(&line), [HINT, two.as_str()]);
    let memory = scratch("memory", &[]);
    let mut args: Vec<String> = ["-machine", "q35", "-m", "32"].map(str::to_owned).to_vec();
    args.extend(line.split(' ').map(str::to_owned));
    assert_eq!(QemuArgs::from_args(&args).hints, [HINT, two.as_str()]);
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-nodefaults", "-display", "none", "-monitor", "stdio"])
        .args(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("QEMU starts");
    let mut stdin = child.stdin.take().expect("a monitor");
    let dump = format!("pmemsave 0 0x2000000 \"{}\"\n", memory.display());
    // SeaBIOS takes a second or two under TCG, and so does the dump
    let mut table = Vec::new();
    for _ in 0..12 {
        std::thread::sleep(std::time::Duration::from_millis(1000));
        stdin.write_all(dump.as_bytes()).expect("QEMU listens");
        let whole = || std::fs::metadata(&memory).is_ok_and(|file| file.len() == 32 << 20);
        (0..300).take_while(|_| !whole()).for_each(|_| std::thread::sleep(std::time::Duration::from_millis(100)));
        let bytes = std::fs::read(&memory).unwrap_or_default();
        table = dmi(&bytes).map(<[u8]>::to_vec).unwrap_or_default();
        if !table.is_empty() {
            break;
        }
        std::fs::write(&memory, []).expect("emptied for the next dump");
    }
    let _ = stdin.write_all(b"quit\n");
    let done = child.wait_with_output().expect("QEMU ends");
    let _ = std::fs::remove_file(&memory);
    assert_eq!(String::from_utf8_lossy(&done.stderr), "", "{args:?}");
    assert_eq!(oem_strings(&table), ["myapp:1", HINT, two.as_str()]);
}

/// The structure table that the entry point names, in the guest's first 32 MiB (DSP0134, 5.2: `_SM_` has the length at
/// 16h and the address at 18h, `_SM3_` at 0Ch and 10h; both stand on a paragraph of the last segment below 1 MiB).
fn dmi(memory: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| usize::try_from(u32::from_le_bytes(memory.get(at..at + 4)?.try_into().ok()?)).ok();
    let entry = (0xf0000..0x10_0000).step_by(16).find_map(|at| match memory.get(at..at + 5)? {
        [b'_', b'S', b'M', b'_', _] => Some((number(at + 0x16)? & 0xffff, number(at + 0x18)?)),
        b"_SM3_" => Some((number(at + 0x0c)?, number(at + 0x10)?)),
        _ => None,
    });
    let (length, from) = entry?;
    memory.get(from..from.checked_add(length)?)
}
