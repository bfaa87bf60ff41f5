//! Field notes of a real H100 guest (driver 580.159.04, open modules), read as a capture.

use std::collections::BTreeMap;
use std::path::Path;

use gpu::{Arch, Holder, ModuleKind, Speed};
use machine::{Machine as _, MachineExt as _};
use model::{Bdf, PciId, Seen};

fn notes() -> machine::Memory {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/h100-guest");
    machine::capture::open(&dir).expect("the fixture is readable")
}

fn is<T: Clone>(seen: &Seen<T>) -> Option<T> {
    seen.get().cloned()
}

#[test]
fn the_card_the_driver_and_the_library() {
    let inventory = gpu::observe(&notes());
    let [card] = inventory.cards.as_slice() else { panic!("{} cards", inventory.cards.len()) };
    assert_eq!(card.identity.bdf, Bdf::new(0, 0, 6, 0));
    assert_eq!(card.identity.id, PciId::new(0x10de, 0x2330));
    assert_eq!(card.identity.subsystem, Some(PciId::new(0x10de, 0x16c1)));
    assert_eq!(card.identity.uuid.as_deref(), Some("GPU-11111111-2222-3333-4444-555555555555"));
    assert_eq!(card.device_name, "GH100 [H100 SXM5 80GB]");
    assert_eq!((card.class_name.as_str(), card.revision), ("3D controller", 0xa1));
    assert_eq!(card.arch, Some(Arch::Hopper));
    assert_eq!(card.driver, Seen::Is("nvidia".into()));
    assert_eq!(card.driver_override, Seen::Absent);
    assert_eq!(card.reset, Seen::Is(vec!["flr".into()]));
    assert!(!card.boot_vga && card.companions.is_empty());
    let gib: Vec<u64> = card.bars.iter().map(|bar| bar.size >> 20).collect();
    assert_eq!(gib, [16, 128 << 10, 32]);
    assert!(card.bars.iter().all(|bar| bar.wide && bar.prefetchable));
    let link = is(&card.link).expect("PCIe");
    assert_eq!((link.now, link.max), (Speed { gts_x10: 320, lanes: 16 }, Speed { gts_x10: 320, lanes: 16 }));
    // The notes hold no process table and no IOMMU links: neither is "none".
    assert!(card.group.unreadable().is_some());
    assert!(matches!(&card.holder, Holder::Unknown(why) if why.contains("nvidia has it")), "{:?}", card.holder);

    let driver = &inventory.driver;
    assert_eq!(driver.kernel, Seen::Is("580.159.04".into()));
    assert_eq!(driver.kind, Some(ModuleKind::Open));
    assert_eq!(driver.library, Seen::Is("580.159.04".into()));
    assert_eq!(driver.library_path, Seen::Is("/usr/local/nvidia/lib64/libnvidia-ml.so.580.159.04".into()));
    assert_eq!(driver.library_via.as_deref(), Some("ld.so.cache"));
}

/// The same card by `nvidia-smi --query-gpu` (query.csv) and by `nvidia-smi -q -x`, from which our report is made.
#[test]
fn nvml_agrees_with_the_drivers_own_query() {
    let machine = notes();
    let text = include_str!("fixtures/h100-guest/query.csv");
    let mut lines = text.lines().map(|line| line.split(", ").collect::<Vec<_>>());
    let (head, row) = (lines.next().expect("a head"), lines.next().expect("a row"));
    let said: BTreeMap<&str, &str> = head.into_iter().zip(row).collect();
    let inventory = gpu::observe(&machine);
    let report = is(&inventory.nvml).expect("q.xml");
    let gpu = &report.gpus[0];
    let text = |seen: &Seen<String>| is(seen).unwrap_or_default();
    assert_eq!(said["uuid"], text(&gpu.uuid));
    assert_eq!(said["name"], text(&gpu.name));
    assert_eq!(said["driver_version"], text(&report.driver_version));
    assert_eq!(said["pci.bus_id"], text(&gpu.bus_id));
    assert_eq!(said["memory.total [MiB]"], format!("{} MiB", is(&gpu.memory_total).expect("said") >> 20));
    assert_eq!(said["utilization.gpu [%]"], format!("{} %", is(&gpu.utilization_gpu).expect("said")));
    assert_eq!(said["encoder.stats.sessionCount"], is(&gpu.encoder_sessions).expect("said").to_string());

    assert_eq!(report.cuda_version, Seen::Is((13, 0)));
    assert_eq!((text(&gpu.architecture), text(&gpu.virtualization)), ("Hopper".into(), "Pass-Through".into()));
    assert_eq!(
        (gpu.pci_device_id.clone(), gpu.pci_subsystem_id.clone()),
        (Seen::Is(0x2330_10de), Seen::Is(0x16c1_10de))
    );
    assert_eq!((gpu.fan.clone(), gpu.temperature.clone()), (Seen::Absent, Seen::Is(34)));
    assert_eq!((gpu.power_draw.clone(), gpu.power_limit.clone()), (Seen::Is(73_580), Seen::Is(700_000)));
    assert_eq!((gpu.ecc_enabled.clone(), gpu.ecc_uncorrected_volatile.clone()), (Seen::Is(true), Seen::Is(0)));
    assert_eq!((gpu.mig_enabled.clone(), gpu.persistence.clone()), (Seen::Is(false), Seen::Is(true)));
    assert_eq!((gpu.pcie_gen_max.clone(), gpu.pcie_width_current.clone()), (Seen::Is(5), Seen::Is(16)));
    assert_eq!((gpu.clock_video.clone(), gpu.minor.clone()), (Seen::Is(765), Seen::Is(0)));
    assert_eq!(gpu.processes, Seen::Is(Vec::new()));
    assert_eq!(inventory.cards[0].nvml.as_deref(), Some(gpu));
}

#[test]
fn wrappers_and_device_nodes_are_seen_without_bytes() {
    let machine = notes();
    let wrapper = is(&machine.stat("/usr/bin/nvidia-smi")).expect("is noted");
    assert!(wrapper.size < 1024 && wrapper.mode & 0o111 != 0);
    assert!(machine.read("/usr/bin/nvidia-smi").unreadable().is_some());
    let real = is(&machine.stat("/usr/local/nvidia/bin/nvidia-smi")).expect("is noted");
    assert_eq!(real.size, 1_244_096);
    assert_eq!(is(&machine.stat("/dev/nvidia0")).and_then(|stat| stat.rdev), Some((195, 0)));
    assert_eq!(is(&machine.stat("/dev/nvidia-caps/nvidia-cap2")).and_then(|stat| stat.rdev), Some((241, 2)));
    let resolved = machine.resolve("/usr/local/nvidia/lib64/libnvidia-ml.so.1");
    assert_eq!(resolved, Seen::Is("/usr/local/nvidia/lib64/libnvidia-ml.so.580.159.04".into()));
}
