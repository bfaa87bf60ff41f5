//! Redaction: what must go, what must stay, and that nothing is left anywhere in the written bytes.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a test looks at raw bytes"
)]

use std::io::Read as _;

use machine::redact::redact;
use machine::{Answer, Engine, Machine as _, MachineExt as _, Memory, Question, capture};
use model::Seen;
use proptest::prelude::*;
use serde_json::json;

fn text(content: &str) -> String {
    let mut memory = Memory::new("this machine");
    memory.insert_file("/etc/hostname", b"mufti-4\n");
    memory.insert_file("/etc/hosts", b"127.0.0.1 localhost\n127.0.1.1 mufti-4.corp.example.org mufti-4\n");
    memory.insert_file("/x", content.as_bytes());
    let once = redact(&memory);
    assert_eq!(redact(&once), once, "redacting twice changes nothing more: {content}");
    once.text("/x").is().unwrap()
}

#[test]
fn these_go() {
    for (before, after) in [
        ("uuid=GPU-5f0c1d2e-aaaa-bbbb-cccc-0123456789ab", "uuid=GPU-00000000-0000-4000-8000-000000000001"),
        ("root=UUID=8c1f2a3b-1111-2222-3333-444455556666 ro", "root=UUID=00000000-0000-4000-8000-000000000001 ro"),
        ("UUID=ABCD-12EF /boot/efi", "UUID=0000-0001 /boot/efi"),
        ("3f2b8c9d0e1f4a5b8c9d0e1f2a3b4c5d\n", "00000000000040008000000000000001\n"),
        ("net0: virtio=AA:BB:CC:DD:EE:01,bridge=vmbr0", "net0: virtio=02:00:00:00:00:01,bridge=vmbr0"),
        ("inet 192.168.1.17/24 brd 192.168.1.255", "inet 192.0.2.1/24 brd 192.0.2.2"),
        ("nameserver 10.0.0.1.", "nameserver 192.0.2.1."),
        ("10.0.0.1-10.0.0.9", "192.0.2.1-192.0.2.2"),
        ("inet6 fe80::1ff:fe23:4567:890a/64", "inet6 2001:db8::1/64"),
        ("on mufti-4 and Mufti-4.corp.example.org.", "on host-1 and host-1.net-1.invalid."),
        ("/dev/mapper/mufti--4--vg-root", "/dev/mapper/host--1--vg-root"),
        ("home=/home/alice/.kube alice", "home=/home/user-1/.kube user-1"),
        ("mail bob@corp.example.org now", "mail user-1@example.invalid now"),
        ("Authorization: PVEAPIToken=root@pam!ci=abc-def-123", "Authorization: REDACTED-1"),
        ("Authorization: Bearer abcdefghij", "Authorization: REDACTED-1"),
        ("curl -H Bearer abcdefghij", "curl -H Bearer REDACTED-1"),
        ("url=/x?token=s3cr3t&y=1", "url=/x?token=REDACTED-1&y=1"),
        ("\"auth\": \"dXNlcjpwYXNz\"", "\"auth\": \"REDACTED-1\""),
        ("  client-key-data: AAECAwQFBgc=\n", "  client-key-data: REDACTED-1\n"),
        ("env:\n- name: DB_PASSWORD\n  value: hunter2\n", "env:\n- name: DB_PASSWORD\n  value: REDACTED-1\n"),
        ("DB_PASSWORD=hunter2 x", "DB_PASSWORD=REDACTED-1 x"),
        ("kubeadm join --token abcdef.0123456789abcdef", "kubeadm join --token REDACTED-1"),
        ("https://bob:pass@proxy:3128/", "https://REDACTED-1@proxy:3128/"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nxyz\n-----END RSA PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nREDACTED-1\n-----END RSA PRIVATE KEY-----\n",
        ),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIabcdef me@laptop\n", "ssh-ed25519 REDACTED-1\n"),
        (
            "smbios1: uuid=8c1f2a3b-1111-2222-3333-444455556666,serial=ABC123456",
            "smbios1: uuid=00000000-0000-4000-8000-000000000001,serial=000000001",
        ),
        ("by-id/ata-Samsung_SSD_860_S3Z9NB0K123456A-part1", "by-id/ata-Samsung_SSD_860_000000000000001-part1"),
        ("enxa0b1c2d3e4f5: up", "enx020000000001: up"),
    ] {
        assert_eq!(text(before), after);
    }
}

#[test]
fn these_stay() {
    for kept in [
        "26:00.0 0000:26:00.1 10000:e1:00.0 pci0000:00/0000:00:01.0",
        "10de:1d01 1043:85f4 [10de:0fb8]",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue",
        "nvml 13.580.159.04, containerd version 1.2.3.4, \"version\": \"10.2.3.4\"",
        "libcuda.so.1.2.3.4 foo-1.2.3.4 v10.1.2.3",
        "Video BIOS: 96.00.74.00.1C",
        "5.13.19-2-pve #1 SMP PVE 5.13.19-4",
        "127.0.0.1 127.0.1.1 0.0.0.0 255.255.255.0 ::1 ::",
        "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "at 12:34:56 on 2026-11-24",
        "getty@tty1.service user@1000.service root@pam",
        "secretName: foo\ntokenExpirationSeconds: 3600\nautomountServiceAccountToken: true\n",
        "-vnc unix:/run/100.vnc,password=on",
        "console=ttyS0 terminal_output=serial serial0: socket",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "std::string dead::beef::x a::z",
        "00000000-00000fff : Reserved",
        "hostpci0: 0000:26:00,pcie=1,x-vga=1 boot: order=scsi0 vga: std",
        "/home/ubuntu",
        "Serial: To be filled by O.E.M.",
        "00:00:00:00:00:00 ff:ff:ff:ff:ff:ff",
    ] {
        assert_eq!(text(kept), kept);
    }
}

#[test]
fn hex_addresses_of_proc_net_go_with_their_dotted_form() {
    let mut memory = Memory::new("m");
    memory.insert_file("/etc/a", b"via 192.168.1.1\n");
    let route = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    memory.insert_file("/proc/net/route", route.as_bytes());
    let done = redact(&memory);
    assert_eq!(done.text("/etc/a"), Seen::Is("via 192.0.2.1\n".into()));
    assert_eq!(done.text("/proc/net/route"), Seen::Is(route.replace("0101A8C0", "010200C0")));
}

#[test]
fn versions_of_packages_stay() {
    let mut memory = Memory::new("m");
    let status = "Package: libcublas-13-0\nMaintainer: Jo Doe <jo@corp.example.org>\nVersion: 13.1.0.3-1\n\
                  Depends: libcusparse-13-0 (>= 12.6.3.3), zlib1g (>= 1:1.2.3.4), x (<< 10.0.0.11)\n";
    memory.insert_file("/var/lib/dpkg/status", status.as_bytes());
    let done = redact(&memory).text("/var/lib/dpkg/status");
    assert_eq!(done, Seen::Is(status.replace("jo@corp.example.org", "user-1@example.invalid")));
}

#[test]
fn who_built_the_kernel_and_where_goes() {
    let version = |who: &str| format!("Linux version 6.18.44-media ({who}) (gcc (GCC) 15.3.0) #1 SMP\n");
    for (before, after) in [
        ("zoe@mufti-4", "user-1@host-1"),
        ("root@attic", "root@host-1"),
        ("build@proxmox", "build@proxmox"),
        ("user-3@host-2", "user-3@host-2"),
        ("debian-kernel@lists.debian.org", "user-1@example.invalid"),
    ] {
        let mut memory = Memory::new("m");
        memory.insert_file("/proc/version", version(before).as_bytes());
        let once = redact(&memory);
        assert_eq!(once.text("/proc/version"), Seen::Is(version(after)));
        assert_eq!(redact(&once), once);
    }
}

#[test]
fn names_in_lists_and_paths_become_the_same() {
    let mut memory = Memory::new("m");
    let dir = machine::Node {
        stat: machine::Stat {
            kind: machine::FileKind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            rdev: None,
        },
        kind: machine::NodeKind::Dir(Seen::Is(vec!["bob".into(), "zoe".into()])),
    };
    memory.insert("/home", dir);
    memory.insert_file("/home/zoe/x", b"1");
    memory.insert_link("/home/bob/link", "/home/zoe/x");
    let done = redact(&memory);
    assert_eq!(done.list("/home"), Seen::Is(vec!["user-1".into(), "user-2".into()]));
    assert_eq!(done.read("/home/user-1/link"), Seen::Is(b"1".to_vec()), "links still lead where they led");
    assert_eq!(done.read("/home/user-3"), Seen::Absent);
}

#[test]
fn answers_are_redacted_by_key_and_by_shape() {
    let mut memory = Memory::new("the tree at /home/alice/disk");
    let mut report: machine::nvml::NvmlReport = serde_json::from_value(json!({
        "driver_version": {"is": "580.159.04"}, "nvml_version": {"is": "13.580.159.04"}, "cuda_version": "absent", "gpus": []
    })).unwrap();
    let mut gpu = machine::nvml::NvmlGpu::blank(0);
    gpu.serial = Seen::Is("1654922003714".into());
    let board = machine::nvml::NvmlBoard {
        pdi: Seen::Is("0xb7d3158c39f17a62".into()),
        chassis_serial: Seen::Is("1827364554637".into()),
        ..Default::default()
    };
    gpu.board = Seen::Is(Box::new(board));
    gpu.uuid = Seen::Is("GPU-5f0c1d2e-aaaa-bbbb-cccc-0123456789ab".into());
    gpu.bus_id = Seen::Is("00000000:26:00.0".into());
    gpu.vbios = Seen::Is("86.08.46.00.1B".into());
    report.gpus.push(gpu);
    memory.insert_answer(Question::Nvml, Seen::Is(Answer::Nvml(Box::new(report))));
    memory.insert_answer(Question::Containers(Engine::Docker), Seen::Is(Answer::Json(json!([{
        "Config": {"Env": ["API_TOKEN=t0ps3cret", "NVIDIA_VISIBLE_DEVICES=all"], "Cmd": ["--password", "hunter2", "x"]},
        "Annotation": "{\"env\":[{\"name\":\"DB_PASSWORD\",\"value\":\"hunter3\"}]}\n",
        "env": [{"name": "MY_SECRET", "value": "hunter4"}, {"name": "PLAIN", "value": "kept"}],
        "serial": "XK-99887766"
    }]))));
    let done = redact(&memory);
    assert_eq!(redact(&done), done);
    let Seen::Is(Answer::Nvml(report)) = done.ask(&Question::Nvml) else { panic!("the report is there") };
    assert_eq!(report.gpus[0].serial, Seen::Is("0000000000001".into()));
    assert_eq!(report.gpus[0].uuid, Seen::Is("GPU-00000000-0000-4000-8000-000000000001".into()));
    assert_eq!(report.gpus[0].bus_id, Seen::Is("00000000:26:00.0".into()));
    assert_eq!(report.gpus[0].vbios, Seen::Is("86.08.46.00.1B".into()));
    let board = serde_json::to_string(&report.gpus[0].board).expect("is JSON");
    for secret in ["b7d3158c39f17a62", "1827364554637"] {
        assert!(!board.contains(secret), "{board}");
    }
    assert_eq!(report.nvml_version, Seen::Is("13.580.159.04".into()));
    let shown = format!("{:?}{}", done.ask(&Question::Containers(Engine::Docker)), done.name());
    for secret in ["t0ps3cret", "hunter", "99887766", "alice"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    assert!(shown.contains("NVIDIA_VISIBLE_DEVICES=all") && shown.contains("kept"), "{shown}");
}

#[test]
fn a_binary_file_keeps_its_length() {
    let mut memory = Memory::new("m");
    let mut bytes = b"\x7fELF\xff\xfe\0/home/alice/lib.so\0".to_vec();
    bytes.extend_from_slice(b"GPU-5f0c1d2e-aaaa-bbbb-cccc-0123456789ab\0\x80");
    memory.insert_file("/bin", &bytes);
    let done = redact(&memory).read("/bin").is().unwrap();
    assert_eq!(done.len(), bytes.len());
    assert!(!String::from_utf8_lossy(&done).contains("alice"));
    assert!(!String::from_utf8_lossy(&done).contains("5f0c1d2e"));
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(bytes).unwrap().read_to_end(&mut out).unwrap();
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_secret_is_left_in_the_written_bytes(
        uuid in "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[1-9a-f][0-9a-f]{11}",
        mac in "[4-9a-f]e(:[1-9a-f][0-9a-f]){5}",
        host in "q[a-z]{5,8}-[1-9][0-9]",
        user in "w[a-z]{5,9}",
        serial in "Z[A-Z1-9]{4}[1-9]{4,8}",
        password in "P[a-zA-Z0-9]{9,14}",
        ip in (11u8..99, 1u8..250, 1u8..250, 1u8..250),
        between in prop::collection::vec(prop::sample::select(vec![" ", "\n", "\"", ",", "(", ") ", "\t", "=", "/", "; "]), 8),
    ) {
        let ip = format!("{}.{}.{}.{}", ip.0, ip.1, ip.2, ip.3);
        let mut memory = Memory::new(format!("the tree at /home/{user}/t"));
        memory.insert_file("/etc/hostname", format!("{host}\n").as_bytes());
        memory.insert_file("/sys/class/dmi/id/product_serial", format!("{serial}\n").as_bytes());
        memory.insert_file(&format!("/home/{user}/{host}.txt"), b"x");
        let b = &between;
        let content = format!(
            "{}{uuid}{}{mac}{}{host}{}/home/{user}/x {user}{}{serial}{}{ip} password={password}{}x",
            b[0], b[1], b[2], b[3], b[4], b[5], b[6]
        );
        memory.insert_file("/etc/mixed", content.as_bytes());
        memory.insert_link(&format!("/dev/disk/by-uuid/{uuid}"), &format!("../{host}"));
        memory.insert_gone(&format!("/run/{host}/{mac}"), Seen::Absent);
        memory.insert_answer(Question::Kube(machine::KubeList::Nodes), Seen::Is(Answer::Json(json!({
            "items": [{"metadata": {"name": host, "uid": uuid}, "x": content, host.clone(): [ip.clone(), mac.clone()]}]
        }))));
        let done = redact(&memory);
        let bytes = unpacked(&capture::write(&done));
        let all = String::from_utf8_lossy(&bytes).to_lowercase();
        for secret in [&uuid, &mac, &host, &user, &serial, &password, &ip] {
            prop_assert!(!all.contains(&secret.to_lowercase()), "{} is left for {:?}", secret, content);
        }
        prop_assert_eq!(&redact(&done), &done);
        prop_assert_eq!(capture::write(&redact(&memory)), capture::write(&done));
    }

    #[test]
    fn any_bytes_can_be_redacted(bytes in prop::collection::vec(any::<u8>(), 0..300), words in "[-a-f0-9:=./@ \"'\n\\\\A-Z$]{0,200}") {
        let mut memory = Memory::new("m");
        memory.insert_file("/a", &bytes);
        memory.insert_file("/proc/net/x", words.as_bytes());
        let done = redact(&memory);
        prop_assert!(done.read("/a").is_there());
    }
}
