//! Definitions that nobody in his right mind would write: looked at and judged without a panic, the same each time.

use machine::{Memory, Missing};
use model::{Verdict, run_all};
use proptest::prelude::*;

const CONFS: [&str; 6] = [
    include_str!("../../formats/tests/corpus/pve/22-hugepages-numa.conf"),
    include_str!("../../formats/tests/corpus/pve/24-cpu-properties.conf"),
    include_str!("../../formats/tests/corpus/pve/35-pending-and-snapshots.conf"),
    include_str!("../../formats/tests/corpus/pve/39-odd-spacing.conf"),
    include_str!("../../formats/tests/corpus/pve/45-garbage.conf"),
    include_str!("../../formats/tests/corpus/pve/10-romfile.conf"),
];
const DOMAIN: &str = include_str!("../../formats/tests/corpus/domxml/11-hugepages-numa.xml");

/// A node with the GT 1030, two NUMA nodes, huge pages and a narrow IOMMU.
fn node() -> Memory {
    let mut memory = Memory::new("hostile").missing_as(Missing::Absent);
    for (function, id, class) in [("0", "10DE:1D01", "30000"), ("1", "10DE:0FB8", "40300")] {
        let bdf = format!("0000:26:00.{function}");
        let dir = format!("/sys/bus/pci/devices/{bdf}");
        let text =
            format!("DRIVER=vfio-pci\nPCI_CLASS={class}\nPCI_ID={id}\nPCI_SUBSYS_ID=1043:85F4\nPCI_SLOT_NAME={bdf}\n");
        memory.insert_file(&format!("{dir}/uevent"), text.as_bytes());
        memory.insert_file(&format!("{dir}/numa_node"), b"1\n");
        memory.insert_link(&format!("{dir}/iommu_group"), "../../../kernel/iommu_groups/14");
        memory.insert_link(&format!("{dir}/driver"), "../../../bus/pci/drivers/vfio-pci");
    }
    for (path, text) in [
        ("/sys/class/iommu/dmar0/intel-iommu/cap", "d2008c40660462\n"),
        ("/sys/devices/system/node/node0/cpulist", "0-5\n"),
        ("/sys/devices/system/node/node1/cpulist", "6-11\n"),
        ("/sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages", "4\n"),
        ("/sys/devices/system/node/node1/hugepages/hugepages-1048576kB/free_hugepages", "4\n"),
        (
            "/proc/cpuinfo",
            "vendor_id\t: GenuineIntel\nflags\t\t: vmx pdpe1gb\naddress sizes\t: 46 bits physical, 48 bits virtual\n",
        ),
        ("/proc/meminfo", "MemTotal: 32868384 kB\nMemAvailable: 29560112 kB\n"),
        ("/etc/hostname", "pve\n"),
        ("/etc/pve/ha/resources.cfg", "vm: 100\n\tstate started\n"),
        ("/usr/sbin/libvirtd", "program"),
    ] {
        memory.insert_file(path, text.as_bytes());
    }
    memory
}

/// What the checks say, and how many VMs have a card.
fn judged(memory: &Memory) -> (Vec<Verdict>, usize) {
    let gpus = gpu::observe(memory);
    let facts = vm::observe(memory, &gpus);
    let _ = vm::presence(&facts);
    let verdicts = run_all(vm::CHECKS, &facts).into_iter().map(|finding| finding.verdict).collect();
    (verdicts, facts.with_card().count())
}

/// Puts `noise` at `at` of the text, at a letter's edge.
fn torn(text: &str, at: usize, noise: &str) -> String {
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (front, back) = text.split_at(at);
    format!("{front}{noise}{back}")
}

#[test]
fn the_node_is_one_on_which_the_checks_have_something_to_say() {
    let mut memory = node();
    memory.insert_file("/etc/pve/qemu-server/100.conf", CONFS[0].as_bytes());
    memory.insert_file("/etc/libvirt/qemu/pages.xml", DOMAIN.as_bytes());
    let (verdicts, cards) = judged(&memory);
    assert_eq!(cards, 2);
    let troubles = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Warn(_) | Verdict::Fail(_)));
    assert!(troubles.count() >= 5, "{verdicts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_definition_is_judged(
        which in 0usize..CONFS.len(),
        at in 0usize..900,
        noise in "(\\PC|[0-9,;=:\n\\[\\]-]){0,30}",
        number in "(18446744073709551615|-1|4294967296|0|64|[0-9]{1,30})",
    ) {
        let mut memory = node();
        let conf = torn(CONFS[which], at, &noise);
        let sums = format!(
            "{conf}\nargs: -smbios type=11,value=thruway.dev/gpu:1;id=10de:1d01;numa={number};{noise}\nmemory: {number}\nhugepages: {number}\nnuma0: hostnodes={number}\ncpu: host,phys-bits={number}\n"
        );
        memory.insert_file("/etc/pve/qemu-server/100.conf", conf.as_bytes());
        memory.insert_file("/etc/pve/qemu-server/101.conf", sums.as_bytes());
        let wide = format!("hostpci0: 0000:26:00\nbios: ovmf\nmemory: {number}\ncpu: kvm64,phys-bits={number},guest-phys-bits={number}\naffinity: 0-{number}\n");
        memory.insert_file("/etc/pve/qemu-server/102.conf", wide.as_bytes());
        let domain = torn(DOMAIN, at * 2, &noise).replace("'GiB'>10<", &format!("'GiB'>{number}<"));
        memory.insert_file("/etc/libvirt/qemu/pages.xml", domain.as_bytes());
        let (first, cards) = judged(&memory);
        prop_assert!(cards >= 1);
        prop_assert_eq!(first, judged(&memory).0);
    }
}
