//! The table of boxes: every simulated machine is laid out, and every floor's checks say of it what the box promises.

mod common;

use common::lay_out;
use machine::{Kind, Machine, MachineExt};
use sim::Box;

#[test]
fn every_box_is_a_simulated_machine() {
    for name in Box::names() {
        let laid = lay_out(name);
        let root = &laid.root;
        assert_eq!(root.kind(), Kind::Simulated, "{name}");
        for link in root.names("/sys/bus/pci/devices") {
            let place = format!("/sys/bus/pci/devices/{link}");
            assert!(root.exists(&format!("{place}/uevent")), "{name}: {place} leads nowhere");
            for leads in ["driver", "iommu_group", "subsystem"] {
                let leads = format!("{place}/{leads}");
                let gone = root.link(&leads).is_there() && !root.is_dir(&leads);
                assert!(!gone, "{name}: {leads} leads nowhere");
            }
        }
    }
}

#[test]
fn the_seed_host_is_as_its_owner_wrote_down() {
    let laid = lay_out("seed-host");
    let root = &laid.root;
    let card = "/sys/bus/pci/devices/0000:26:00.0";
    assert_eq!(root.value(&format!("{card}/device")).is().as_deref(), Some("0x1d01"));
    assert_eq!(root.link_name(&format!("{card}/driver")).is().as_deref(), Some("nouveau"));
    assert_eq!(root.link_name(&format!("{card}/iommu_group")).is().as_deref(), Some("14"));
    assert_eq!(root.names("/sys/kernel/iommu_groups/14/devices"), ["0000:26:00.0", "0000:26:00.1"]);
    let resource = root.text(&format!("{card}/resource")).is().expect("resource");
    assert_eq!(resource.lines().next(), Some("0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200"));
    assert_eq!(resource.lines().nth(1), Some("0x00000000e0000000 0x00000000efffffff 0x000000000014220c"));
    let stat = root.stat("/dev/dri/card0").is().expect("the recorded node");
    assert_eq!(stat.rdev, Some((226, 0)));
    assert_eq!(root.names("/dev/dri"), ["card0", "renderD128"]);
    assert!(root.read("/dev/dri/card0").unreadable().is_some());
    assert_eq!(root.value("/sys/class/net/enp34s0/master/operstate").is().as_deref(), Some("up"));
    assert_eq!(root.value("/etc/pve/qemu-server/100.conf").is().map(|conf| conf.contains("mufti-4")), Some(true));
}
