//! Variable stores: OVMF's own, as raw files and as QEMU's images, and what the real firmware does with them.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs whole programs")]

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use formats::efistore::{SecureBoot, parse};
use formats::qcow2;
use proptest::prelude::*;

const OVMF: &str = "/usr/share/OVMF";

fn store(name: &str) -> Option<Vec<u8>> {
    let bytes = std::fs::read(Path::new(OVMF).join(name)).ok();
    if bytes.is_none() {
        println!("SKIP: {OVMF}/{name} is not here (package ovmf)");
    }
    bytes
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory can be written")
}

#[test]
fn ovmfs_own_stores_are_read() {
    for (name, keys) in [
        ("OVMF_VARS.fd", None),
        ("OVMF_VARS_4M.fd", None),
        ("OVMF_VARS_4M.ms.fd", Some("Microsoft Corporation UEFI CA 2011")),
        ("OVMF_VARS.ms.fd", Some("Microsoft Corporation UEFI CA 2011")),
        ("OVMF_VARS_4M.snakeoil.fd", Some("Snake")),
    ] {
        let Some(bytes) = store(name) else { return };
        let says = SecureBoot::of(&parse(&bytes).expect(name));
        assert_eq!(says.is_on(), keys.is_some(), "{name}: {says:?}");
        assert_eq!(says.platform_key, keys.is_some(), "{name}");
        if let Some(key) = keys {
            assert!(says.db.iter().any(|known| known.contains(key)), "{name}: {:?}", says.db);
        }
    }
}

#[test]
fn an_image_of_qemus_reads_as_the_raw_file() {
    let Some(raw) = store("OVMF_VARS_4M.ms.fd") else { return };
    let dir = scratch();
    let image = dir.path().join("vars.qcow2");
    for options in
        ["compat=1.1", "compat=0.10", "compat=1.1,cluster_size=512", "compat=1.1,extended_l2=on,cluster_size=64k"]
    {
        let made = Command::new("qemu-img")
            .args(["convert", "-q", "-f", "raw", "-O", "qcow2", "-o", options, "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"])
            .arg(&image)
            .output();
        let Ok(made) = made else {
            println!("SKIP: qemu-img is not here (package qemu-utils)");
            return;
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let bytes = std::fs::read(&image).expect("just made");
        let head = qcow2::head(&bytes, 8 << 20);
        if options.contains("extended_l2") {
            assert!(head.is_err(), "its tables have another form");
            continue;
        }
        assert!(head.as_ref().is_ok_and(|head| *head == raw), "{options}: {:?}", head.map(|head| head.len()));
        assert_eq!(qcow2::head(&bytes, 1000).map(|head| head.len()), Ok(1000));
    }
    // A backing file is another image's business.
    let over = dir.path().join("over.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([&image, &over])
        .status();
    assert!(made.is_ok_and(|made| made.success()));
    let error = qcow2::head(&std::fs::read(&over).expect("just made"), 1000).expect_err("it has a backing file");
    assert!(error.to_string().contains("backing file"), "{error}");
}

/// Boots OVMF with Secure Boot's build on this store, and a disk with a loader nobody signed. What it says on its console
/// until `until` is said, and the store after that.
fn boot(vars: &str, until: &[&str]) -> Option<(String, Vec<u8>)> {
    const LOADER: &str = "/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi";
    let (store, loader) = (store(vars)?, std::fs::read(LOADER));
    let Ok(loader) = loader else {
        println!("SKIP: {LOADER} is not here (package grub-efi-amd64-bin)");
        return None;
    };
    let dir = scratch();
    let path = dir.path().join("vars.fd");
    std::fs::write(&path, store).expect("a copy");
    std::fs::create_dir_all(dir.path().join("esp/EFI/BOOT")).expect("a directory");
    std::fs::write(dir.path().join("esp/EFI/BOOT/BOOTX64.EFI"), loader).expect("a copy");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "tcg",
        "-M",
        "q35,smm=on",
        "-m",
        "256",
        "-nodefaults",
        "-display",
        "none",
        "-serial",
        "stdio",
    ])
    .args(["-global", "driver=cfi.pflash01,property=secure,value=on", "-net", "none"])
    .args(["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.secboot.fd")])
    .args(["-drive", &format!("if=pflash,unit=1,format=raw,file={}", path.display())])
    .args(["-drive", &format!("if=none,id=esp,format=raw,file=fat:rw:{}", dir.path().join("esp").display())])
    .args(["-device", "virtio-blk-pci,drive=esp,bootindex=1"])
    .stdin(Stdio::null())
    .stdout(Stdio::piped())
    .stderr(Stdio::inherit());
    let Ok(mut qemu) = qemu.spawn() else {
        println!("SKIP: qemu-system-x86_64 is not here (package qemu-system-x86)");
        return None;
    };
    let mut console = qemu.stdout.take().expect("a pipe");
    let (sender, heard) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let began = Instant::now();
    let mut said = Vec::new();
    while began.elapsed() < Duration::from_secs(150) {
        match heard.recv_timeout(Duration::from_secs(1)) {
            Ok(bytes) => said.extend(bytes),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
        }
        let text = String::from_utf8_lossy(&said);
        if until.iter().any(|word| text.contains(word)) {
            break;
        }
    }
    let _ = qemu.kill();
    let _ = qemu.wait();
    drop(heard);
    let _ = reader.join();
    println!("{vars}: {:.1} s", began.elapsed().as_secs_f64());
    Some((String::from_utf8_lossy(&said).into_owned(), std::fs::read(&path).expect("the store")))
}

#[test]
fn the_real_firmware_does_what_the_store_foretells() {
    const ENDS: [&str; 2] = ["Access Denied", "grub>"];
    for vars in ["OVMF_VARS_4M.ms.fd", "OVMF_VARS_4M.fd"] {
        let Some((said, after)) = boot(vars, &ENDS) else { return };
        let before = SecureBoot::of(&parse(&store(vars).expect("it was here")).expect("a store"));
        let denied = said.contains("BdsDxe: failed to load Boot") && said.contains("Access Denied");
        assert_eq!(denied, before.is_on(), "{vars}:\n{said}");
        assert_eq!(said.contains("grub>"), !before.is_on(), "{vars}:\n{said}");
        // What the firmware itself wrote meanwhile is read, too.
        let after = SecureBoot::of(&parse(&after).expect("the firmware's own store"));
        assert_eq!(after.is_on(), before.is_on(), "{after:?}");
        assert!(!after.boots.is_empty(), "{after:?}");
    }
}

#[test]
fn a_store_that_is_none_says_where() {
    let Some(good) = store("OVMF_VARS_4M.ms.fd") else { return };
    for (bytes, at) in [
        (Vec::new(), 40),
        (vec![0xff; 4096], 40),
        (good.get(..60).unwrap_or_default().to_vec(), 72),
        (good.get(..4096).unwrap_or_default().to_vec(), 4096),
    ] {
        assert_eq!(parse(&bytes).map_err(|bad| bad.at), Err(at));
    }
    let mut torn = good.clone();
    if let Some(byte) = torn.get_mut(72 + 20) {
        *byte = 0;
    }
    assert!(parse(&torn).is_err_and(|bad| bad.to_string().contains("not formatted")));
}

proptest! {
    #[test]
    fn torn_stores_and_images_never_panic(at in 0usize..30_000, noise in proptest::collection::vec(any::<u8>(), 1..64)) {
        // Without the package the store is a header and noise.
        let mut bytes = std::fs::read(Path::new(OVMF).join("OVMF_VARS_4M.ms.fd")).unwrap_or_else(|_| {
            let mut bytes = vec![0xff; 540_672];
            bytes[40..44].copy_from_slice(b"_FVH");
            bytes
        });
        for (offset, byte) in noise.iter().enumerate() {
            bytes[at + offset] = *byte;
        }
        if let Ok(variables) = parse(&bytes) {
            let _ = SecureBoot::of(&variables);
        }
        let mut image = qcow2::MAGIC.to_vec();
        image.extend_from_slice(&[0, 0, 0, 3]);
        image.resize(8 + 64, 0);
        image.extend(&noise);
        image.resize(4096, at as u8);
        let _ = qcow2::head(&image, 1 << 20);
        for (offset, byte) in noise.iter().enumerate() {
            image[16 + offset] = *byte;
        }
        let _ = qcow2::head(&image, 1 << 20);
    }
}
