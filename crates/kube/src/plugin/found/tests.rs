use gpu::{DriverFacts, Group, Holder};
use machine::nvml::{NvmlBoard, NvmlLink, NvmlLinks};
use machine::{Memory, Missing};
use model::{Identity, PciId, Reason};

use super::*;
use crate::plugin::{Config, offer};

fn nvml(index: u32, bdf: Bdf) -> NvmlGpu {
    NvmlGpu {
        bus_id: Seen::Is(format!("0000{}", bdf.to_string().to_uppercase())),
        name: Seen::Is("NVIDIA H100 80GB HBM3".into()),
        uuid: Seen::Is(format!("GPU-{index}")),
        minor: Seen::Is(index),
        mig_enabled: Seen::Is(false),
        ..NvmlGpu::blank(index)
    }
}

fn bdf(index: u32) -> Bdf {
    Bdf::new(0, 0x10 + index as u8, 0, 0)
}

fn card(index: u32) -> Card {
    let bdf = bdf(index);
    let id = PciId::new(0x10de, 0x2330);
    Card {
        identity: Identity { bdf, id, subsystem: None, uuid: Some(format!("GPU-{index}")) },
        class: 0x03_0200,
        class_name: "3D controller".into(),
        vendor_name: "NVIDIA Corporation".into(),
        device_name: "GH100 [H100 SXM5 80GB]".into(),
        subsystem_name: None,
        revision: 0,
        driver: Seen::Is("nvidia".into()),
        driver_override: Seen::Absent,
        group: Seen::<Group>::Absent,
        companions: Vec::new(),
        reset: Seen::Absent,
        boot_vga: false,
        bars: Vec::new(),
        bar_sum: 0,
        link: Seen::Absent,
        numa: Some(i32::from(index > 1) - i32::from(index > 2) * 2),
        slot: Seen::Absent,
        port: None,
        power: Seen::Absent,
        arch: None,
        nvml: Some(Box::new(nvml(index, bdf))),
        holder: Holder::Nobody,
    }
}

fn inventory(cards: Vec<Card>) -> Inventory {
    let gpus = cards.iter().filter_map(|card| card.nvml.as_deref().cloned()).collect();
    let report = NvmlReport {
        driver_version: Seen::Is("580.159.04".into()),
        nvml_version: Seen::Absent,
        cuda_version: Seen::Is((13, 0)),
        confidential: Seen::Absent,
        gpus,
    };
    let driver = DriverFacts {
        kernel: Seen::Is("580.159.04".into()),
        kind: None,
        library: Seen::Absent,
        library_path: Seen::Absent,
        library_via: None,
    };
    let nvml = Seen::Is(report);
    Inventory { cards, functions: Vec::new(), looked: Seen::Is(()), nvml, driver, hints: Seen::Absent }
}

fn machine(count: u32) -> Memory {
    let mut machine = Memory::new("a node").missing_as(Missing::Absent);
    let mut node = |path: String| {
        let stat = machine::Stat {
            kind: machine::FileKind::CharDevice,
            mode: 0o666,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            rdev: None,
        };
        machine.insert(&path, machine::Node { stat, kind: machine::NodeKind::Special });
    };
    (0..count).for_each(|index| node(format!("/dev/nvidia{index}")));
    node("/dev/nvidiactl".into());
    node("/dev/nvidia-caps-imex-channels/channel0".into());
    for index in 0..count {
        let target = format!("../../../devices/pci0000:17/0000:17:01.0/{}", bdf(index));
        machine.insert_link(&format!("/sys/bus/pci/devices/{}", bdf(index)), &target);
    }
    machine
}

#[test]
fn cards_as_the_agent_needs_them() {
    let mut cards: Vec<Card> = (0..4).map(card).collect();
    let link = |number: u32, remote: Option<u32>, kind: Option<&str>, active: bool| NvmlLink {
        link: number,
        active: Seen::Is(active),
        version: Seen::Absent,
        remote: remote.map(|index| format!("00000000:{:02X}:00.0", 0x10 + index)).into(),
        remote_kind: kind.map(str::to_owned).into(),
        errors: Seen::Absent,
    };
    let links = vec![
        link(0, Some(1), Some("GPU"), true),
        link(1, Some(1), None, true),
        link(2, Some(1), Some("GPU"), false),
        link(3, Some(9), Some("switch"), true),
        link(4, Some(9), Some("IBM NPU"), true),
    ];
    if let Some(gpu) = &mut cards[0].nvml {
        gpu.nvlink = Seen::Is(Box::new(NvmlLinks { links, ..NvmlLinks::default() }));
        let board = NvmlBoard { board_id: Seen::Is(0x700), multi_gpu: Seen::Is(true), ..NvmlBoard::default() };
        gpu.board = Seen::Is(Box::new(board));
    }
    let found = look(&machine(4), &inventory(cards));
    assert!(found.nvml && found.form == FORM && found.imex == [0] && found.control == ["/dev/nvidiactl"], "{found:?}");
    let gpu = &found.gpus[0];
    assert_eq!((gpu.uuid.as_deref(), gpu.product.as_str()), (Some("GPU-0"), "NVIDIA H100 80GB HBM3"));
    assert_eq!((gpu.nodes.as_slice(), gpu.minor), (["/dev/nvidia0".to_owned()].as_slice(), Some(0)));
    assert_eq!(gpu.path, ["pci0000:17", "0000:17:01.0"]);
    assert_eq!((gpu.nvlinks.as_slice(), gpu.board), ([(None, 1), (Some(bdf(1)), 2)].as_slice(), Some(0x700)));
    // -1 is no node
    let numa: Vec<Option<u32>> = found.gpus.iter().map(|gpu| gpu.numa).collect();
    assert_eq!(numa, [Some(0), Some(0), Some(1), None]);
    // kept and read again
    let text = serde_json::to_string(&found).expect("is JSON");
    assert_eq!(serde_json::from_str::<Found>(&text).expect("reads"), found);
    assert_eq!(offer(&Config::default(), &found).expect("an offer").resources[0].devices.len(), 4);
}

#[test]
fn what_another_has_is_withheld() {
    let mut cards: Vec<Card> = (0..7).map(card).collect();
    cards[0].driver = Seen::Is("vfio-pci".into());
    cards[1].driver = Seen::Is("nouveau".into());
    cards[2].driver = Seen::Absent;
    let mut machine = machine(7);
    for (index, to) in [(3, "vm:100"), (4, "containers"), (5, "pods")] {
        let promise = journal::ledger::Promise {
            form: journal::ledger::FORM,
            gpu: cards[index].identity.clone(),
            name: "H100".into(),
            to: to.parse().expect("an owner"),
        };
        machine.insert_file(&journal::ledger::path(cards[index].identity.bdf), promise.text().as_bytes());
    }
    let found = look(&machine, &inventory(cards));
    let why: Vec<&str> = found.gpus.iter().map(|gpu| gpu.withheld.as_deref().unwrap_or("")).collect();
    assert!(why[0].contains("vfio-pci") && why[1].contains("nouveau") && why[2].contains("no driver"), "{why:?}");
    assert!(why[3].contains("vm:100") && why[4].contains("containers"), "{why:?}");
    assert_eq!(why[5..], ["", ""]);
    machine.insert_file("/var/lib/thruway/ledger/0000:16:00.0.json", b"{");
    let found = look(&machine, &inventory((0..7).map(card).collect()));
    assert!(found.gpus[6].withheld.as_deref().is_some_and(|why| why.contains("cannot be read")), "{:?}", found.gpus[6]);
}

#[test]
fn a_driver_that_does_not_answer_is_not_proved() {
    let mut node = inventory(vec![card(0)]);
    node.nvml = Seen::Unreadable(Reason::TimedOut);
    node.cards[0].nvml = None;
    let found = look(&machine(1), &node);
    assert!(!found.nvml && found.driver.is_some());
    // /proc tells nothing here; the card's identity does
    assert_eq!((found.gpus[0].uuid.as_deref(), found.gpus[0].product.as_str()), (Some("GPU-0"), "H100 SXM5 80GB"));
    assert_eq!(look(&machine(0), &inventory(Vec::new())).gpus, []);
}
