use machine::{Answer, FileKind, KubeList, Memory, Node, NodeKind, Question, Stat};
use proptest::prelude::*;

use super::*;
use crate::Arch;

const GPU: &str = "/sys/bus/pci/devices/0000:26:00.0";

/// The seed's card as its host has it: in group 14 with its audio function, behind a bridge of another group.
fn seed(driver: Option<&str>) -> Memory {
    let mut memory = Memory::new("seed-host");
    let mut function = |bdf: &str, id: &str, class: &str, group: u32, driver: Option<&str>| {
        let dir = format!("/sys/bus/pci/devices/{bdf}");
        let driver_line = driver.map(|driver| format!("DRIVER={driver}\n")).unwrap_or_default();
        let text =
            format!("{driver_line}PCI_CLASS={class}\nPCI_ID={id}\nPCI_SUBSYS_ID=1043:85F4\nPCI_SLOT_NAME={bdf}\n");
        memory.insert_file(&format!("{dir}/uevent"), text.as_bytes());
        memory.insert_file(&format!("{dir}/revision"), b"0xa1\n");
        memory.insert_file(&format!("{dir}/driver_override"), b"(null)\n");
        memory.insert_file(&format!("{dir}/numa_node"), b"-1\n");
        memory.insert_link(&format!("{dir}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
        match driver {
            Some(driver) => memory.insert_link(&format!("{dir}/driver"), &format!("../../../bus/pci/drivers/{driver}")),
            None => memory.insert_gone(&format!("{dir}/driver"), Seen::Absent),
        }
    };
    function("0000:00:03.1", "1022:1453", "60400", 2, Some("pcieport"));
    function("0000:26:00.0", "10DE:1D01", "30000", 14, driver);
    function("0000:26:00.1", "10DE:0FB8", "40300", 14, driver);
    memory.insert_file(&format!("{GPU}/boot_vga"), b"1\n");
    memory.insert_file(&format!("{GPU}/power_state"), b"D0\n");
    memory.insert_file(&format!("{GPU}/reset_method"), b"bus\n");
    for (name, text) in [
        ("current_link_speed", "2.5 GT/s PCIe\n"),
        ("current_link_width", "4\n"),
        ("max_link_speed", "8.0 GT/s PCIe\n"),
        ("max_link_width", "4\n"),
    ] {
        memory.insert_file(&format!("{GPU}/{name}"), text.as_bytes());
    }
    let resource = "0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n\
0x00000000e0000000 0x00000000efffffff 0x000000000014220c\n\
0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
0x00000000f0000000 0x00000000f1ffffff 0x000000000014220c\n\
0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
0x000000000000e000 0x000000000000e07f 0x0000000000040101\n\
0x00000000f7000000 0x00000000f707ffff 0x0000000000046200\n";
    memory.insert_file(&format!("{GPU}/resource"), resource.as_bytes());
    memory.insert_file("/sys/kernel/iommu_groups/14/type", b"DMA\n");
    for name in ["26:00.0", "26:00.1"] {
        memory.insert_gone(&format!("/sys/bus/pci/devices/0000:{name}/physfn"), Seen::Absent);
    }
    memory.insert_gone("/proc/1", Seen::Absent);
    memory.insert_file("/proc/version", b"Linux version 5.13.19-2-pve\n");
    memory.insert_answer(Question::Nvml, Seen::Absent);
    memory
}

#[test]
fn sees_the_seeds_card_whole() {
    let inventory = observe(&seed(Some("nouveau")));
    assert_eq!(inventory.looked, Seen::Is(()));
    assert_eq!(inventory.functions.len(), 3);
    assert!(inventory.functions[0].bridge && !inventory.functions[1].bridge);
    let [card] = inventory.cards.as_slice() else { panic!("{:?}", inventory.cards) };
    assert_eq!(card.identity.bdf.short(), "26:00.0");
    assert_eq!(
        (card.vendor_name.as_str(), card.device_name.as_str()),
        ("NVIDIA Corporation", "GP108 [GeForce GT 1030]")
    );
    assert_eq!((card.short_name(), card.arch, card.revision), ("GeForce GT 1030", Some(Arch::Pascal), 0xa1));
    assert_eq!(card.subsystem_name.as_deref(), Some("ASUSTeK Computer Inc. Device 85f4"));
    assert_eq!(card.class_name, "VGA compatible controller");
    assert_eq!(card.companions, [Bdf::new(0, 0x26, 0, 1)]);
    assert_eq!(card.reset, Seen::Is(vec!["bus".into()]));
    assert_eq!(card.driver_override, Seen::Absent);
    assert!(card.boot_vga);
    let group = card.group.get().expect("group 14");
    assert_eq!((group.number, group.members.len(), group.kind.clone()), (14, 2, Seen::Is("DMA".into())));
    let sizes: Vec<(u8, u64, bool, bool)> =
        card.bars.iter().map(|bar| (bar.index, bar.size >> 20, bar.prefetchable, bar.wide)).collect();
    assert_eq!(sizes, [(0, 16, false, false), (1, 256, true, true), (3, 32, true, true)]);
    assert_eq!(card.bar_sum, 304 << 20);
    let link = card.link.get().expect("a PCIe card");
    assert_eq!((link.now, link.max), (Speed { gts_x10: 25, lanes: 4 }, Speed { gts_x10: 80, lanes: 4 }));
    assert_eq!(card.holder, Holder::Host(Vec::new()));
    assert_eq!(inventory.nvml, Seen::Absent);
}

#[test]
fn does_not_wake_a_sleeper() {
    let mut memory = seed(Some("vfio-pci"));
    memory.insert_file(&format!("{GPU}/power_state"), b"D3cold\n");
    let recorder = machine::Recorder::new(&memory);
    let inventory = observe(&recorder);
    assert!(matches!(inventory.cards[0].link, Seen::Unreadable(_)));
    assert_eq!(inventory.cards[0].power, Seen::Is("D3cold".into()));
    let touched: Vec<String> = recorder.finish().nodes().map(|(path, _)| path.to_owned()).collect();
    for file in ["config", "current_link_speed", "max_link_speed", "rom"] {
        assert!(!touched.contains(&format!("{GPU}/{file}")), "{file} was read");
    }
    assert!(touched.contains(&format!("{GPU}/uevent")));
}

#[test]
fn does_not_ask_nvml_over_a_sleeper() {
    let mut memory = seed(Some("nvidia"));
    assert_eq!(observe(&memory).nvml, Seen::Absent);
    memory.insert_file(&format!("{GPU}/power_state"), b"D3cold\n");
    assert!(matches!(observe(&memory).nvml, Seen::Unreadable(Reason::Other(why)) if why.contains("26:00.0 sleeps")));
}

#[test]
fn an_unbound_card_has_no_holder_and_an_unseen_driver_is_no_absence() {
    let free = observe(&seed(None));
    assert_eq!((&free.cards[0].driver, &free.cards[0].holder), (&Seen::Absent, &Holder::Nobody));
    let mut memory = seed(Some("nouveau"));
    memory.insert_gone(&format!("{GPU}/driver"), Seen::Unreadable(Reason::PermissionDenied));
    memory.insert_gone(&format!("{GPU}/uevent"), Seen::Unreadable(Reason::PermissionDenied));
    let mut bare = Memory::new("no uevent");
    for (path, node) in
        memory.nodes().filter(|(path, _)| !path.ends_with("26:00.0/uevent") && !path.ends_with("26:00.0/driver"))
    {
        bare.insert(path, node.clone());
    }
    for (name, text) in [("vendor", "0x10de"), ("device", "0x1d01"), ("class", "0x030000")] {
        bare.insert_file(&format!("{GPU}/{name}"), text.as_bytes());
    }
    let unseen = observe(&bare);
    assert_eq!(unseen.cards[0].identity.id, PciId::new(0x10de, 0x1d01));
    assert!(unseen.cards[0].driver.unreadable().is_some());
    assert!(matches!(unseen.cards[0].holder, Holder::Unknown(_)));
}

#[test]
fn a_function_that_cannot_be_read_spoils_the_look() {
    let mut memory = seed(None);
    memory.insert_file("/sys/bus/pci/devices/0000:01:00.0/revision", b"0xa1\n");
    assert!(observe(&memory).looked.unreadable().is_some());
    let mut hidden = Memory::new("no sysfs");
    hidden.insert_gone("/sys", Seen::Unreadable(Reason::PermissionDenied));
    assert_eq!(observe(&hidden).looked, Seen::Unreadable(Reason::PermissionDenied));
    let mut none = Memory::new("no PCI");
    none.insert_gone("/sys/bus/pci", Seen::Absent);
    assert_eq!(observe(&none).looked, Seen::Absent);
}

fn process(memory: &mut Memory, pid: u32, command: &[&str], open: &[&str], cgroup: &str) {
    memory.insert_file(&format!("/proc/{pid}/cmdline"), format!("{}\0", command.join("\0")).as_bytes());
    let name = command.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    memory.insert_file(&format!("/proc/{pid}/comm"), format!("{name}\n").as_bytes());
    memory.insert_file(&format!("/proc/{pid}/cgroup"), format!("0::{cgroup}\n").as_bytes());
    memory.insert_link(&format!("/proc/{pid}/fd/0"), "/dev/null");
    for (at, target) in open.iter().enumerate() {
        memory.insert_link(&format!("/proc/{pid}/fd/{}", at + 3), target);
    }
}

#[test]
fn names_the_vm_that_runs_with_it() {
    let mut memory = seed(Some("vfio-pci"));
    process(&mut memory, 1, &["/sbin/init"], &[], "/init.scope");
    assert_eq!(observe(&memory).cards[0].holder, Holder::Nobody);
    let arguments = [
        "/usr/bin/kvm",
        "-id",
        "100",
        "-name",
        "mufti-4,debug-threads=on",
        "-device",
        "vfio-pci,host=0000:26:00.0,id=hostpci0.0",
    ];
    process(&mut memory, 4242, &arguments, &["/dev/vfio/14"], "/qemu.slice/100.scope");
    assert_eq!(observe(&memory).cards[0].holder, Holder::Vm(vec!["100 (mufti-4)".into()]));
    // libvirt's form, and another card's address is not ours.
    let mut other = seed(Some("vfio-pci"));
    let json = "{\"driver\":\"vfio-pci\",\"host\":\"0000:27:00.0\"}";
    process(
        &mut other,
        7,
        &["/usr/bin/qemu-system-x86_64", "-name", "guest=games,debug-threads=on", "-device", json],
        &[],
        "/",
    );
    assert_eq!(observe(&other).cards[0].holder, Holder::Nobody);
    process(&mut other, 7, &["/usr/bin/qemu-system-x86_64", "-name", "guest=media"], &["/dev/vfio/14"], "/");
    assert_eq!(observe(&other).cards[0].holder, Holder::Vm(vec!["media".into()]));
}

#[test]
fn reads_proxmox_configuration_where_the_command_line_is_hidden() {
    let mut memory = seed(Some("vfio-pci"));
    memory.insert_file("/run/qemu-server/100.pid", b"40100\n");
    memory.insert_file("/etc/pve/qemu-server/100.conf", b"hostpci0: mapping=gpu0,pcie=1\nname: media\n[PENDING]\n");
    let mapping = b"gpu0\n\tmap node=pve,path=0000:26:00.0,id=10de:1d01\n\tmap node=other,path=0000:01:00.0\n";
    memory.insert_file("/etc/pve/mapping/pci.cfg", mapping);
    memory.insert_file("/proc/sys/kernel/hostname", b"pve\n");
    assert_eq!(observe(&memory).cards[0].holder, Holder::Vm(vec!["100 (media)".into()]));
    // A stale pid file: other processes are seen and this one is not.
    process(&mut memory, 1, &["/sbin/init"], &[], "/init.scope");
    memory.insert_gone("/proc/40100", Seen::Absent);
    assert_eq!(observe(&memory).cards[0].holder, Holder::Nobody);
}

#[test]
fn names_pods_containers_and_processes() {
    let id = "ab".repeat(32);
    let mut memory = seed(Some("nvidia"));
    process(&mut memory, 812, &["nvidia-persistenced"], &["/dev/nvidia0"], "/system.slice/nvidia-persistenced.service");
    assert_eq!(observe(&memory).cards[0].holder, Holder::Host(vec!["812 nvidia-persistenced".into()]));
    process(
        &mut memory,
        1719,
        &["/usr/lib/jellyfin-ffmpeg/ffmpeg"],
        &["/dev/nvidiactl", "/dev/nvidia0"],
        &format!("/system.slice/docker-{id}.scope"),
    );
    assert_eq!(observe(&memory).cards[0].holder, Holder::Containers(vec!["abababababab".into()]));
    memory.insert_file(&format!("/var/lib/docker/containers/{id}/config.v2.json"), b"{\"Name\": \"/jellyfin\"}");
    assert_eq!(observe(&memory).cards[0].holder, Holder::Containers(vec!["jellyfin".into()]));
    let uid = "8f1e5a2c-1111-4222-8333-444455556666";
    process(&mut memory, 1720, &["ffmpeg"], &["/dev/nvidia0"], &format!("/kubepods/burstable/pod{uid}/{id}"));
    memory.insert_file(&format!("/var/log/pods/media_jellyfin-0_{uid}/x"), b"");
    assert_eq!(observe(&memory).cards[0].holder, Holder::Pods(vec!["media/jellyfin-0".into()]));
}

/// Where the kubelet keeps its logs elsewhere, the API server knows a pod by its UID, or by its manifest's hash.
#[test]
fn names_pods_by_the_cluster() {
    let (uid, hash) = ("8f1e5a2c-1111-4222-8333-444455556666", "0123456789abcdef0123456789abcdef");
    for (uid, name) in [(uid, "media/jellyfin-0"), (hash, "kube-system/static-n1")] {
        let mut memory = seed(Some("nvidia"));
        let cgroup = format!("/kubepods/burstable/pod{uid}/{}", "ab".repeat(32));
        process(&mut memory, 1720, &["ffmpeg"], &["/dev/nvidia0"], &cgroup);
        assert_eq!(observe(&memory).cards[0].holder, Holder::Pods(vec![format!("with UID {uid}")]));
        let pods = serde_json::json!({"kind": "PodList", "items": [
            {"metadata": {"namespace": "media", "name": "jellyfin-0", "uid": "8f1e5a2c-1111-4222-8333-444455556666"}},
            {"metadata": {"namespace": "kube-system", "name": "static-n1", "uid": "00000000-1111-4222-8333-444455556666",
                "annotations": {"kubernetes.io/config.hash": hash}}},
        ]});
        memory.insert_answer(Question::Kube(KubeList::Pods), Seen::Is(Answer::Json(pods)));
        assert_eq!(observe(&memory).cards[0].holder, Holder::Pods(vec![name.into()]));
    }
}

#[test]
fn users_are_named_with_their_nodes_and_whom_to_stop() {
    let mut memory = seed(Some("nvidia"));
    let stat = |pid: u32, name: &str| format!("{pid} ({name}) S 1 {}7777 9\n", "0 ".repeat(17));
    memory.insert_file(&format!("{GPU}/drm/card0/dev"), b"226:0\n");
    memory.insert_file("/sys/bus/pci/devices/0000:26:00.1/sound/card1/id", b"NVidia\n");
    memory.insert_file("/dev/snd/pcmC1D3p", b"");
    memory.insert_file("/sys/module/nvidia_drm/parameters/modeset", b"Y\n");
    memory.insert_link("/etc/systemd/system/display-manager.service", "/usr/lib/systemd/system/gdm3.service");
    process(&mut memory, 700, &["gdm3"], &[], "/system.slice/gdm3.service");
    process(&mut memory, 812, &["nvidia-persiste"], &["/dev/nvidia0"], "/system.slice/nvidia-persistenced.service");
    process(
        &mut memory,
        900,
        &["Xorg"],
        &["/dev/dri/card0", "/dev/tty7"],
        "/user.slice/user-42.slice/session-c1.scope",
    );
    process(&mut memory, 950, &["pipewire"], &["/dev/snd/pcmC1D3p"], "/user.slice/user-1000.slice/session-2.scope");
    process(&mut memory, 960, &["other"], &["/dev/snd/pcmC0D0p", "/dev/nvidiactl"], "/system.slice/x.service");
    memory.insert_file("/proc/950/stat", stat(950, "pipe) wire").as_bytes());
    let inventory = observe(&memory);
    let all = crate::users(&memory, &inventory);
    let users = &all[&Bdf::new(0, 0x26, 0, 0)];
    let seen: Vec<(u32, Vec<&str>, crate::Who, Option<u64>)> = users
        .processes
        .iter()
        .map(|u| (u.pid, u.nodes.iter().map(String::as_str).collect(), u.who.clone(), u.started))
        .collect();
    let expected = [
        (812, vec!["/dev/nvidia0"], crate::Who::Unit("nvidia-persistenced.service".into()), None),
        (900, vec!["/dev/dri/card0"], crate::Who::Desktop("gdm3.service".into()), None),
        (950, vec!["/dev/snd/pcmC1D3p"], crate::Who::Process, Some(7777)),
    ];
    assert_eq!(seen, expected);
    let [kernel] = users.kernel.as_slice() else { panic!("{:?}", users.kernel) };
    assert!(kernel.says.contains("nvidia_drm"), "{kernel:?}");
    assert_eq!(users.unseen, None);
}

#[test]
fn hidden_descriptors_are_unknown_and_never_nobody() {
    for driver in ["vfio-pci", "nouveau"] {
        let mut memory = seed(Some(driver));
        process(&mut memory, 1, &["/sbin/init"], &[], "/init.scope");
        assert!(!matches!(observe(&memory).cards[0].holder, Holder::Unknown(_)));
        let stat = Stat { kind: FileKind::Dir, mode: 0o500, uid: 0, gid: 0, size: 0, mtime: 0, rdev: None };
        memory.insert("/proc/9/fd", Node { stat, kind: NodeKind::Dir(Seen::Unreadable(Reason::PermissionDenied)) });
        memory.insert_file("/proc/9/cmdline", b"other\0");
        let holder = observe(&memory).cards[0].holder.clone();
        assert!(matches!(&holder, Holder::Unknown(why) if why.contains("needs root")), "{driver}: {holder:?}");
    }
}

/// Two twins behind two ports, as a guest sees them.
fn twins() -> Memory {
    let mut memory = Memory::new("guest");
    for (bus, port) in [(1, 0), (2, 1)] {
        let dir = format!("/sys/bus/pci/devices/0000:0{bus}:00.0");
        let text = "PCI_CLASS=30000\nPCI_ID=10DE:1D01\nPCI_SUBSYS_ID=1043:85F4\n";
        let target = format!("/sys/devices/pci0000:00/0000:00:1c.{port}/0000:0{bus}:00.0");
        memory.insert_file(&format!("{target}/uevent"), text.as_bytes());
        memory.insert_file(&format!("{target}/revision"), b"0xa1\n");
        memory.insert_link(&dir, &format!("../../../devices/pci0000:00/0000:00:1c.{port}/0000:0{bus}:00.0"));
    }
    memory
}

fn told(memory: &mut Memory, hints: &[&str]) -> Inventory {
    let texts: Vec<String> = hints.iter().map(|hint| format!("thruway.dev/gpu:{hint}")).collect();
    memory.insert_file(machine::DMI_TABLE, &formats::smbios::table_of(&texts));
    observe(memory)
}

#[test]
fn twins_are_told_apart_by_their_ports_and_never_guessed() {
    let mut memory = twins();
    let all = observe(&memory);
    assert_eq!(all.cards.len(), 2);
    assert!(!all.hints.is_there() && all.astray().is_empty());
    let places = |all: &Inventory| -> Vec<Option<String>> {
        all.cards.iter().map(|card| all.place(card).map(|hint| hint.pci.short())).collect()
    };
    let (one, two) = ("1;id=10de:1d01;port=00:1c.0;pci=26:00.0", "1;id=10de:1d01;port=00:1c.1;pci=2d:00.0");
    let both = told(&mut memory, &[two, one]);
    assert_eq!(places(&both), [Some("26:00.0".into()), Some("2d:00.0".into())]);
    assert_eq!(both.astray(), []);
    let why = |all: &Inventory| all.astray().into_iter().map(|astray| astray.why).collect::<Vec<_>>().join("; ");
    let vague = told(&mut memory, &["1;id=10de:1d01;pci=26:00.0"]);
    assert_eq!(places(&vague), [None, None]);
    assert!(why(&vague).contains("which of 2 cards"), "{}", why(&vague));
    let twice = told(&mut memory, &[one, &one.replace("26", "27")]);
    assert_eq!(places(&twice), [None, None]);
    assert!(why(&twice).contains("2 hints are of one card"), "{}", why(&twice));
    let other = told(&mut memory, &[one, "1;id=10de:1d01;board=1458:0000;pci=26:00.0", "2;later"]);
    assert_eq!(places(&other), [Some("26:00.0".into()), None], "a hint gone astray spoils no other");
    assert!(why(&other).contains("not here: [10de:1d01, board 1458:0000]") && why(&other).contains("version \"2\""));
}

#[test]
fn the_slot_is_the_firmwares_own_name() {
    let mut memory = seed(None);
    assert!(!observe(&memory).cards[0].slot.is_there());
    memory.insert_file("/sys/bus/pci/slots/4-1/address", b"0000:26:00\n");
    memory.insert_file("/sys/bus/pci/slots/7/address", b"0000:27:00\n");
    assert_eq!(observe(&memory).cards[0].slot, Seen::Is("4-1".into()));
}

proptest! {
    #[test]
    fn garbage_in_sysfs_never_panics(
        files in proptest::collection::vec(
            (0_usize..14, proptest::collection::vec(any::<u8>(), 0..60)), 0..14,
        ),
        names in proptest::collection::vec("[0-9a-f:.]{1,14}", 0..4),
    ) {
        const FILES: [&str; 14] = [
            "uevent", "vendor", "device", "class", "revision", "resource", "reset_method", "boot_vga", "power_state",
            "current_link_speed", "current_link_width", "max_link_speed", "numa_node", "driver_override",
        ];
        let mut memory = seed(Some("nvidia"));
        for (at, bytes) in &files {
            memory.insert_file(&format!("{GPU}/{}", FILES[*at]), bytes);
        }
        for name in names.iter().filter(|name| !name.starts_with('.')) {
            memory.insert_file(&format!("/sys/bus/pci/devices/{name}/uevent"), b"PCI_ID=1:2\n");
        }
        let inventory = observe(&memory);
        // Either the card is there, or we say that something could not be looked at, or its text says another class.
        let hit = inventory.cards.iter().any(|card| card.identity.bdf == Bdf::new(0, 0x26, 0, 0));
        let other = inventory.function(Bdf::new(0, 0x26, 0, 0)).is_some_and(|f| f.class >> 16 != 3);
        prop_assert!(hit || other || inventory.looked.unreadable().is_some());
    }

    #[test]
    fn bars_of_any_text(text in "[0-9a-fx \n]{0,200}") {
        prop_assert!(bars(&text).len() <= 6);
    }
}

#[test]
fn whoever_looks_is_no_holder() {
    let mut memory = seed(Some("nvidia"));
    memory.insert_file("/proc/driver/nvidia/gpus/0000:26:00.0/information", b"Device Minor: \t 0\n");
    process(&mut memory, 1, &["/sbin/init"], &[], "/init.scope");
    process(&mut memory, 682, &["/usr/bin/thruway"], &["/dev/nvidia0"], "/user.slice");
    assert_eq!(observe(&memory).cards[0].holder, Holder::Host(vec!["682 thruway".into()]));
    memory.insert_link("/proc/self", "682");
    assert_eq!(observe(&memory).cards[0].holder, Holder::Host(Vec::new()));
}
