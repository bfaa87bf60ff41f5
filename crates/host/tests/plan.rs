//! The host floor's planner on small machines in a scratch tree: what it writes, what it refuses, and that a second
//! plan over the written files is empty.

#![allow(clippy::unwrap_used, reason = "a test's own machine is laid out or the test is over")]

use host::{CHECKS, Facts, observe, plan, presence, verify};
use machine::Root;
use machine::scratch::Scratch;
use model::{Bdf, Content, Intent, Op, OutcomeState, Presence, Tool, Verdict, run_all};

const CARD: Bdf = Bdf::new(0, 0x26, 0, 0);

struct Host(Scratch);

impl Host {
    /// Debian with initramfs-tools and GRUB; a GT 1030 with its audio function in group 14.
    fn new(vendor: &str, second_screen: bool) -> Self {
        let host = Host(Scratch::temporary().unwrap());
        host.write("/proc/cpuinfo", &format!("vendor_id : {vendor}\nflags : fpu svm vmx\n"));
        host.write("/proc/sys/kernel/osrelease", "5.13.19-2-pve\n");
        host.write("/proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz root=/dev/sda1 ro quiet\n");
        host.write("/proc/iomem", "00000000-00000fff : Reserved\n");
        host.write("/etc/os-release", "ID=debian\n");
        host.write("/etc/default/grub", "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n");
        host.write("/boot/grub/grub.cfg", "menuentry 'Debian' {\n linux /boot/vmlinuz root=/dev/sda1 ro quiet\n}\n");
        host.write("/etc/initramfs-tools/initramfs.conf", "MODULES=most\n");
        host.write("/lib/modules/5.13.19-2-pve/modules.dep", "k/vfio-pci.ko:\nk/vfio_iommu_type1.ko.zst: k/vfio.ko\n");
        host.write("/lib/modules/5.13.19-2-pve/modules.builtin", "kernel/efifb.ko\n");
        host.function("26:00.0", ["10de", "1d01", "030000"], "nouveau", 14);
        host.function("26:00.1", ["10de", "0fb8", "040300"], "snd_hda_intel", 14);
        if second_screen {
            host.function("02:00.0", ["1a03", "2000", "030000"], "ast", 3);
        }
        host.write("/sys/class/iommu/ivhd0/x", "");
        host.write("/sys/firmware/acpi/tables/IVRS", "IVRS");
        host
    }

    fn write(&self, path: &str, text: &str) {
        self.0.write(path, text.as_bytes(), 0o644).unwrap();
    }

    fn function(&self, short: &str, [vendor, device, class]: [&str; 3], driver: &str, group: u32) {
        let place = format!("/sys/bus/pci/devices/0000:{short}");
        let numbers = [("vendor", vendor), ("device", device), ("class", class)];
        for (name, text) in numbers.into_iter().chain([("subsystem_vendor", "1043"), ("subsystem_device", "85f4")]) {
            self.write(&format!("{place}/{name}"), &format!("0x{text}\n"));
        }
        self.write(&format!("{place}/driver_override"), "(null)\n");
        let (v, d) = (vendor.to_uppercase(), device.to_uppercase());
        let uevent = format!(
            "DRIVER={driver}\nPCI_CLASS={class}\nPCI_ID={v}:{d}\nPCI_SUBSYS_ID=1043:85F4\nPCI_SLOT_NAME=0000:{short}\n"
        );
        self.write(&format!("{place}/uevent"), &uevent);
        self.0.mkdir(&format!("/sys/bus/pci/drivers/{driver}")).unwrap();
        self.0.link(&format!("{place}/driver"), &format!("../../drivers/{driver}")).unwrap();
        let groups = format!("/sys/kernel/iommu_groups/{group}");
        self.write(&format!("{groups}/type"), "DMA\n");
        let device = format!("../../../../bus/pci/devices/0000:{short}");
        self.0.link(&format!("{groups}/devices/0000:{short}"), &device).unwrap();
        self.0.link(&format!("{place}/iommu_group"), &format!("../../../../kernel/iommu_groups/{group}")).unwrap();
    }

    fn look(&self) -> Facts {
        let root = Root::tree(self.0.path()).unwrap();
        let gpus = gpu::observe(&root);
        observe(&root, &gpus)
    }

    /// Writes a plan's files; update-grub puts the written line into grub.cfg.
    fn apply(&self, plan: &model::Plan) {
        for change in &plan.changes {
            match &change.op {
                Op::WriteFile { path, content: Content::Text(text), .. } => self.write(path, text),
                Op::Regenerate(Tool::UpdateGrub) => {
                    let line = self.look().boot.written.get().cloned().unwrap_or_default();
                    let cfg = format!("menuentry 'Debian' {{\n linux /boot/vmlinuz root=/dev/sda1 ro {line}\n}}\n");
                    self.write("/boot/grub/grub.cfg", &cfg);
                }
                Op::Regenerate(Tool::UpdateInitramfs) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn give() -> Intent {
    Intent { give: vec![CARD], ..Intent::default() }
}

fn paths(plan: &model::Plan) -> Vec<&str> {
    let written = plan.changes.iter().filter_map(|change| match &change.op {
        Op::WriteFile { path, .. } => Some(path.as_str()),
        _ => None,
    });
    written.collect()
}

#[test]
fn an_amd_host_gets_rule_script_hook_and_modules_and_no_token() {
    let host = Host::new("AuthenticAMD", true);
    let first = plan(&host.look(), &give());
    assert_eq!(first.refusals, []);
    let ours = [host::files::RULES, host::files::SCRIPT, host::files::HOOK, host::files::MODULES];
    assert_eq!(paths(&first), ours);
    assert_eq!(first.changes.last().map(|change| &change.op), Some(&Op::Regenerate(Tool::UpdateInitramfs)));
    host.apply(&first);
    let facts = host.look();
    let second = plan(&facts, &give());
    assert!(second.is_empty(), "{second:?}");
    let outcomes = verify(&facts, &give());
    let waits = outcomes.iter().filter(|o| matches!(o.state, OutcomeState::Pending(_))).count();
    assert_eq!(waits, 2, "both functions wait for the boot: {outcomes:?}");
    let rules = facts.text(host::files::RULES).unwrap();
    assert!(rules.contains("KERNEL==\"0000:26:00.1\", ATTR{vendor}==\"0x10de\", ATTR{device}==\"0x0fb8\""), "{rules}");
}

#[test]
fn an_intel_host_without_an_iommu_gets_a_drop_in_and_update_grub_last() {
    let host = Host::new("GenuineIntel", true);
    host.0.remove("/sys/class/iommu/ivhd0").unwrap();
    host.0.remove("/sys/firmware/acpi/tables/IVRS").unwrap();
    host.write("/sys/firmware/acpi/tables/DMAR", "DMAR");
    let first = plan(&host.look(), &give());
    assert!(paths(&first).contains(&host::files::GRUB), "{first:?}");
    assert_eq!(first.changes.last().map(|change| &change.op), Some(&Op::Regenerate(Tool::UpdateGrub)));
    host.apply(&first);
    let facts = host.look();
    assert_eq!(facts.boot.written.get().map(String::as_str), Some("quiet intel_iommu=on"));
    let second = plan(&facts, &give());
    assert!(second.is_empty(), "{second:?}");
}

#[test]
fn the_only_screen_is_refused_until_its_loss_is_named() {
    let host = Host::new("AuthenticAMD", false);
    let facts = host.look();
    let refused = plan(&facts, &give());
    assert_eq!(refused.refusals.iter().map(|r| r.because.as_str()).collect::<Vec<_>>(), ["host/console-lost"]);
    let allowed = Intent { allow: vec!["host/console-lost".into()], ..give() };
    let plan = plan(&facts, &allowed);
    assert_eq!(plan.refusals, []);
    assert!(plan.notes.iter().any(|note| note.starts_with("allowed (host/console-lost)")));
}

#[test]
fn by_ids_writes_modprobe_d_with_a_softdep_for_each_driver() {
    let host = Host::new("AuthenticAMD", true);
    let intent = Intent { by_ids: true, ..give() };
    host.apply(&plan(&host.look(), &intent));
    let facts = host.look();
    let text = facts.text(host::files::MODPROBE).unwrap();
    assert!(text.contains("options vfio-pci ids=10de:1d01,10de:0fb8\n"), "{text}");
    assert!(text.contains("softdep nouveau pre: vfio-pci\n") && text.contains("softdep snd_hda_intel pre: vfio-pci\n"));
    assert!(plan(&facts, &intent).is_empty());
}

#[test]
fn a_guest_has_no_host_floor() {
    let host = Host::new("AuthenticAMD", true);
    host.write("/proc/cpuinfo", "vendor_id : AuthenticAMD\nflags : fpu hypervisor\n");
    let facts = host.look();
    assert!(matches!(presence(&facts), Presence::NotHere(_)));
    assert!(run_all(CHECKS, &facts).iter().all(|finding| finding.verdict == Verdict::NotApplicable));
    assert!(plan(&facts, &give()).is_empty());
}

#[test]
fn what_cannot_be_read_never_passes() {
    let blind = machine::Memory::new("an empty capture");
    let gpus = gpu::observe(&blind);
    for finding in run_all(CHECKS, &observe(&blind, &gpus)) {
        assert!(matches!(finding.verdict, Verdict::Unknown { .. }), "{}: {:?}", finding.about.id, finding.verdict);
    }
}

#[test]
fn a_server_with_no_wish_for_vms_is_left_alone() {
    let host = Host::new("AuthenticAMD", true);
    let facts = host.look();
    assert_eq!(facts.wanted, []);
    assert!(plan(&facts, &Intent::default()).is_empty());
    let complains = |f: &model::Finding| matches!(f.verdict, Verdict::Warn(_) | Verdict::Fail(_));
    assert_eq!(run_all(CHECKS, &facts).into_iter().filter(complains).collect::<Vec<_>>(), []);
}

#[test]
fn ids_that_come_too_late_are_replaced_by_the_address() {
    let host = Host::new("AuthenticAMD", true);
    host.write("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=10de:1d01,10de:0fb8\n");
    let first = plan(&host.look(), &give());
    assert!(paths(&first).contains(&host::files::RULES), "{first:?}");
    host.write("/etc/modprobe.d/order.conf", "softdep nouveau pre: vfio-pci\nsoftdep snd_hda_intel pre: vfio-pci\n");
    assert!(plan(&host.look(), &give()).is_empty(), "a whole claim needs nothing of ours");
}

#[test]
fn a_twin_is_freed_from_ids_and_other_options_stay() {
    let host = Host::new("AuthenticAMD", true);
    host.function("2d:00.0", ["10de", "1d01", "030000"], "nouveau", 16);
    let theirs = "# mine\noptions vfio-pci ids=10de:1d01,10de:0fb8 disable_vga=1\n";
    host.write("/etc/modprobe.d/vfio.conf", theirs);
    let first = plan(&host.look(), &give());
    host.apply(&first);
    let facts = host.look();
    assert_eq!(facts.text("/etc/modprobe.d/vfio.conf"), Some("# mine\noptions vfio-pci disable_vga=1\n"));
    assert!(plan(&facts, &give()).is_empty());
}

#[test]
fn clean_and_give_edit_one_file_together() {
    let host = Host::new("GenuineIntel", true);
    host.0.remove("/sys/class/iommu/ivhd0").unwrap();
    host.0.remove("/sys/firmware/acpi/tables/IVRS").unwrap();
    host.write("/sys/firmware/acpi/tables/DMAR", "DMAR");
    host.write("/etc/default/grub", "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet nofb intel_iommu=off\"\n");
    let intent = Intent { clean: true, ..give() };
    host.apply(&plan(&host.look(), &intent));
    let facts = host.look();
    assert_eq!(facts.text("/etc/default/grub"), Some("GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n"));
    assert_eq!(facts.boot.written.get().map(String::as_str), Some("quiet intel_iommu=on"));
    assert!(plan(&facts, &intent).is_empty());
}
