//! What a boot, a VM's start, a driver's installation do: the real rules, on simulated machines.

mod common;

use common::{Laid, lay_out};
use journal::Hands;
use machine::{Answer, Engine, Machine, MachineExt, Question};
use model::{Op, Seen, ServiceVerb, Tool};
use sim::SimHands;
use sim::physics::{boot, install_driver, install_packages, play_film, plug_into, start_vm, stop_film, stop_vm};

const CARD: &str = "0000:26:00.0";
const AUDIO: &str = "0000:26:00.1";

fn act(machine: &Laid, op: Op) -> Result<(), String> {
    SimHands::new(machine.path()).act(&op).map_err(|error| error.to_string())
}

/// Rows 2 to 6 of the journey, as they were done by hand.
fn by_hand(host: &Laid) {
    host.write("/etc/modules", "vfio\nvfio_iommu_type1\nvfio_pci\nvfio_virqfd\n");
    host.write("/etc/modprobe.d/iommu_unsafe_interrupts.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=1\n");
    host.write("/etc/modprobe.d/kvm.conf", "options kvm ignore_msrs=1\n");
    host.write("/etc/modprobe.d/blacklist.conf", "blacklist radeon\nblacklist nouveau\nblacklist nvidia\n");
    host.write("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=10de:1d01,10de:0fb8 disable_vga=1\n");
}

#[test]
fn a_boot_changes_nothing_that_nobody_changed() {
    let host = lay_out("seed-host");
    let before = host.value("/proc/cmdline");
    let booted = boot(host.path()).expect("boots");
    assert_eq!(booted.cmdline, before);
    assert!(booted.iommu);
    assert_eq!(host.driver(CARD), "nouveau");
    assert_eq!(host.driver(AUDIO), "snd_hda_intel");
    assert_eq!(host.driver("0000:22:00.0"), "r8169");
    assert_eq!(host.driver("0000:03:00.0"), "xhci_hcd");
    assert_eq!(host.value("/proc/sys/kernel/random/boot_id"), "0000b007-0000-4000-8000-000000000001");
    assert!(!host.again().exists("/dev/vfio/14"));
    assert_eq!(booted.messages, Vec::<String>::new());
}

#[test]
fn the_owners_way_gives_both_functions_to_vfio() {
    let host = lay_out("seed-host");
    by_hand(&host);
    act(&host, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(host.path()).expect("boots");
    assert_eq!((host.driver(CARD).as_str(), host.driver(AUDIO).as_str()), ("vfio-pci", "vfio-pci"));
    // Shared ids and a blacklist, yet the board's own sound stays: it has another id.
    assert_eq!(host.driver("0000:28:00.3"), "snd_hda_intel");
    assert!(host.again().exists("/dev/vfio/14"));
    assert!(!host.again().exists("/dev/dri/card0"));
    assert_eq!(host.value("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"), "Y");
    assert_eq!(host.value("/sys/module/kvm/parameters/ignore_msrs"), "Y");
    assert!(host.value("/proc/iomem").contains("e0000000-efffffff : vfio-pci"));
    assert!(!host.value("/proc/modules").contains("nouveau "));
    assert!(host.value(&format!("/sys/bus/pci/devices/{CARD}/uevent")).starts_with("DRIVER=vfio-pci"));
}

#[test]
fn a_stale_initramfs_still_loads_nouveau() {
    let host = lay_out("seed-host");
    by_hand(&host);
    boot(host.path()).expect("boots");
    assert_eq!(host.driver(CARD), "nouveau");
    // The sound driver comes from the root file system, where vfio-pci is loaded before it.
    assert_eq!(host.driver(AUDIO), "vfio-pci");
}

#[test]
fn ids_catch_the_twin_and_an_address_does_not() {
    let host = lay_out("twin-cards");
    host.write("/etc/modprobe.d/blacklist.conf", "blacklist nouveau\n");
    act(&host, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(host.path()).expect("boots");
    assert_eq!(host.driver(CARD), "vfio-pci");
    assert_eq!(host.driver("0000:2d:00.0"), "vfio-pci");

    let host = lay_out("twin-cards");
    host.tree.remove("/etc/modprobe.d/vfio.conf").expect("removed");
    host.write("/etc/initramfs-tools/modules", "vfio_pci\n");
    host.script("/etc/initramfs-tools/scripts/init-top/bind", "#!/bin/sh\nfor d in 0000:26:00.0 0000:26:00.1; do\n  echo vfio-pci > /sys/bus/pci/devices/$d/driver_override\ndone\n");
    act(&host, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(host.path()).expect("boots");
    assert_eq!((host.driver(CARD).as_str(), host.driver(AUDIO).as_str()), ("vfio-pci", "vfio-pci"));
    assert_eq!(host.driver("0000:2d:00.0"), "nouveau");
    assert_eq!(host.value(&format!("/sys/bus/pci/devices/{CARD}/driver_override")), "vfio-pci");
}

#[test]
fn a_udev_rule_comes_too_late_unless_a_hook_copies_it() {
    let rule = "ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"0000:26:00.0\", ATTR{vendor}==\"0x10de\", ATTR{device}==\"0x1d01\", ATTR{driver_override}=\"vfio-pci\"\n";
    let host = lay_out("seed-host");
    host.write("/etc/udev/rules.d/61-card.rules", rule);
    host.write("/etc/initramfs-tools/modules", "vfio_pci\n");
    act(&host, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(host.path()).expect("boots");
    assert_eq!(host.driver(CARD), "nouveau");
    host.script(
        "/etc/initramfs-tools/hooks/card",
        "#!/bin/sh\ncp /etc/udev/rules.d/61-card.rules \"$DESTDIR/lib/udev/rules.d/\"\n",
    );
    act(&host, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(host.path()).expect("boots");
    assert_eq!(host.driver(CARD), "vfio-pci");
}

#[test]
fn the_loader_that_is_in_use_decides() {
    let host = lay_out("pve-zfs-systemd-boot");
    let before = host.value("/proc/cmdline");
    act(&host, Op::Regenerate(Tool::UpdateGrub)).expect("update-grub");
    assert_eq!(boot(host.path()).expect("boots").cmdline, before);
    host.write("/etc/kernel/cmdline", "root=ZFS=rpool/ROOT/pve-1 boot=zfs iommu=pt\n");
    assert_eq!(boot(host.path()).expect("boots").cmdline, before);
    act(&host, Op::Regenerate(Tool::ProxmoxBootTool)).expect("refresh");
    assert_eq!(boot(host.path()).expect("boots").cmdline, format!("{before} iommu=pt"));
    assert_eq!(host.value("/sys/kernel/iommu_groups/1/type"), "identity");
    assert_eq!(host.driver("0000:01:00.2"), "xhci_hcd");
}

#[test]
fn a_drop_in_wins_and_intel_needs_the_token() {
    let host = lay_out("ubuntu-grub-d");
    act(&host, Op::Regenerate(Tool::UpdateGrub)).expect("update-grub");
    let booted = boot(host.path()).expect("boots");
    assert!(!booted.iommu);
    assert!(!booted.cmdline.contains("intel_iommu"));
    assert!(host.root.names("/sys/class/iommu").is_empty());
    host.write(
        "/etc/default/grub.d/99-more.cfg",
        "GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on\"\n",
    );
    act(&host, Op::Regenerate(Tool::UpdateGrub)).expect("update-grub");
    let booted = boot(host.path()).expect("boots");
    assert!(booted.cmdline.ends_with("console=ttyS0 intel_iommu=on"), "{}", booted.cmdline);
    assert!(booted.iommu);
    assert_eq!(host.root.names("/sys/class/iommu"), ["dmar0"]);
    let group = host.root.link_name("/sys/bus/pci/devices/0000:01:00.0/iommu_group").is().expect("a group");
    assert_eq!(host.root.names(&format!("/sys/kernel/iommu_groups/{group}/devices")), ["0000:01:00.0", "0000:01:00.1"]);
}

#[test]
fn update_grub_over_the_same_inputs_keeps_the_bytes() {
    for name in ["seed-host", "seed-guest", "ubuntu-grub-d", "eight-gpu", "pve-zfs-systemd-boot"] {
        let machine = lay_out(name);
        let before = machine.root.read("/boot/grub/grub.cfg");
        act(&machine, Op::Regenerate(Tool::UpdateGrub)).expect("update-grub");
        assert_eq!(machine.root.read("/boot/grub/grub.cfg"), before, "{name}");
        assert!(before.is_there());
    }
}

#[test]
fn a_module_that_is_gone_is_named_at_boot() {
    let host = lay_out("pve-zfs-systemd-boot");
    host.write("/etc/modules", "vfio_virqfd\n");
    let booted = boot(host.path()).expect("boots");
    assert_eq!(
        booted.messages,
        ["modprobe: FATAL: Module vfio_virqfd not found in directory /lib/modules/6.8.12-4-pve"]
    );
}

fn conf(host: &Laid, lines: &str) {
    let name = "/etc/pve/nodes/pve/qemu-server/100.conf";
    host.append(name, lines);
}

#[test]
fn a_vm_start_is_refused_in_the_hypervisors_words() {
    let host = lay_out("seed-host");
    let started = start_vm(host.path(), 100).expect("no card, no trouble");
    assert!(started.functions.is_empty());
    assert_eq!(start_vm(host.path(), 100).unwrap_err().to_string(), "VM 100 already running");
    stop_vm(host.path(), 100).expect("stops");
    conf(&host, "hostpci0: 0000:26:00,pcie=1\n");
    assert_eq!(start_vm(host.path(), 100).unwrap_err().to_string(), "q35 machine model is not enabled");
    conf(&host, "machine: q35\n");
    let started = start_vm(host.path(), 100).expect("starts");
    assert_eq!(started.functions.len(), 2);
    assert_eq!(host.driver(CARD), "vfio-pci");
    let pid = host.value("/run/qemu-server/100.pid");
    let cmdline = host.root.text(&format!("/proc/{pid}/cmdline")).is().unwrap_or_default();
    assert!(cmdline.contains("vfio-pci,host=0000:26:00.0"), "{cmdline}");
    stop_vm(host.path(), 100).expect("stops");
    // Nothing is given back at the stop.
    assert_eq!(host.driver(CARD), "vfio-pci");
    conf(&host, "hostpci1: 0000:26:00.1\n");
    let error = start_vm(host.path(), 100).unwrap_err().to_string();
    assert_eq!(error, "device '0000:26:00.1' assigned more than once");

    let host = lay_out("seed-host");
    conf(
        &host,
        "hostpci0: 0000:26:00\nbios: ovmf\nefidisk0: local-lvm:vm-100-disk-1,efitype=4m,pre-enrolled-keys=1,size=4M\n",
    );
    let started = start_vm(host.path(), 100).expect("starts");
    let screen = started.screen.as_deref().unwrap_or_default();
    assert!(screen.starts_with("bdsdxe: failed to load Boot0001") && screen.ends_with("Access Denied"), "{screen}");
    let guest = lay_out("seed-guest");
    assert!(plug_into(guest.path(), &started).is_err());

    let host = lay_out("ubuntu-grub-d");
    host.write("/etc/pve/qemu-server/100.conf", "hostpci0: 0000:01:00\nmachine: q35\n");
    let error = start_vm(host.path(), 100).unwrap_err().to_string();
    assert_eq!(error, "cannot prepare PCI pass-through, IOMMU not present");
}

#[test]
fn the_whole_group_goes_with_the_card() {
    let mut this = sim::Box::load("seed-host").expect("the box");
    this.pci.iter_mut().filter(|f| f.bdf.bus == 0x26).for_each(|f| f.group = Some(13));
    let host = common::lay(&this);
    conf(&host, "hostpci0: 0000:26:00\n");
    let started = start_vm(host.path(), 100).expect("starts");
    assert_eq!(started.host_lost, ["0000:03:00.0 xhci_hcd", "0000:03:00.1 ahci", "0000:22:00.0 r8169"]);
}

#[test]
fn the_guest_gets_the_card_and_the_driver_and_a_film() {
    let host = lay_out("seed-host");
    let guest = lay_out("seed-guest");
    conf(
        &host,
        "hostpci0: 0000:26:00,pcie=1\nmachine: q35\nbios: ovmf\nefidisk0: local-lvm:vm-100-disk-1,efitype=4m,pre-enrolled-keys=0,size=4M\n",
    );
    let vm = start_vm(host.path(), 100).expect("starts");
    plug_into(guest.path(), &vm).expect("boots");
    assert_eq!(guest.driver("0000:01:00.0"), "nouveau");
    let refused = |what: &str| {
        let error = install_driver(guest.path(), "510.54").unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    refused("development tool `cc`");
    install_packages(guest.path(), &["build-essential"]).expect("apt");
    refused("Nouveau kernel driver is currently in use");
    guest.write("/etc/modprobe.d/blacklist-nouveau.conf", "blacklist nouveau\noptions nouveau modeset=0\n");
    act(&guest, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(guest.path()).expect("boots");
    assert_eq!(guest.driver("0000:01:00.0"), "");
    refused("kernel source tree");
    install_packages(guest.path(), &["linux-headers-5.4.0-100-generic"]).expect("apt");
    let error = install_driver(guest.path(), "595.45").unwrap_err().to_string();
    assert!(error.contains("is not supported by the NVIDIA 595.45 driver release"), "{error}");
    install_driver(guest.path(), "510.54").expect("installs");
    assert_eq!(guest.driver("0000:01:00.0"), "nvidia");
    assert_eq!(guest.again().stat("/dev/nvidia0").is().and_then(|stat| stat.rdev), Some((195, 0)));

    let report = || match guest.root.ask(&Question::Nvml) {
        Seen::Is(Answer::Nvml(report)) => report,
        other => panic!("{other:?}"),
    };
    let idle = report();
    assert_eq!(idle.driver_version, Seen::Is("510.54".into()));
    assert_eq!(idle.cuda_version, Seen::Is((11, 6)));
    let gpu = idle.gpus.first().expect("a card");
    assert_eq!(gpu.bus_id, Seen::Is("00000000:01:00.0".into()));
    assert_eq!(
        (gpu.fan.clone(), gpu.temperature.clone(), gpu.pstate.clone()),
        (Seen::Is(38), Seen::Is(33), Seen::Is(0))
    );
    assert_eq!((gpu.power_draw.clone(), gpu.power_limit.clone()), (Seen::Absent, Seen::Is(30_000)));
    assert_eq!((gpu.memory_used.clone(), gpu.memory_total.clone()), (Seen::Is(0), Seen::Is(2048 << 20)));
    assert_eq!(gpu.mig_enabled, Seen::Absent);

    play_film(guest.path()).expect("plays");
    let playing = report();
    let gpu = playing.gpus.first().expect("a card");
    assert_eq!((gpu.memory_used.clone(), gpu.utilization_gpu.clone()), (Seen::Is(951 << 20), Seen::Is(36)));
    let process = gpu.processes.get().and_then(|all| all.first()).cloned().expect("a process");
    assert_eq!((process.pid, process.kind.as_str(), process.memory), (1719, "C", Seen::Is(949 << 20)));
    assert!(guest.value("/proc/1719/cgroup").contains("kubepods"));
    stop_film(guest.path()).expect("stops");
    assert_eq!(report(), idle);
    assert!(!guest.root.exists("/proc/1719"));

    boot(guest.path()).expect("boots");
    assert_eq!(report(), idle);
    guest.tree.remove("/etc/modprobe.d/blacklist-nouveau.conf").expect("removed");
    act(&guest, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(guest.path()).expect("boots");
    assert_eq!(guest.driver("0000:01:00.0"), "nouveau");
    assert_eq!(guest.root.ask(&Question::Nvml), Seen::Absent);
    assert!(!guest.again().exists("/dev/nvidia0"));
}

#[test]
fn services_and_docker() {
    let guest = lay_out("seed-guest");
    let restart = |unit: &str| act(&guest, Op::Service { unit: unit.into(), verb: ServiceVerb::Restart });
    let error = restart("jellyfin.service").unwrap_err();
    assert!(error.contains("Unit jellyfin.service not found"), "{error}");
    guest.write("/etc/docker/daemon.json", "{\"default-runtime\": \"nvidia\"}\n");
    assert!(restart("docker").unwrap_err().contains("specified default runtime 'nvidia' does not exist"));
    guest.write("/etc/docker/daemon.json", "{\"default-runtime\": \"nvidia\", \"runtimes\": {\"nvidia\": {\"path\": \"/usr/bin/nvidia-container-runtime\", \"runtimeArgs\": []}}}\n");
    restart("docker").expect("restarts");
    let info = guest.root.ask(&Question::EngineInfo(Engine::Docker)).is().expect("an answer");
    assert_eq!(info.json().and_then(|info| info["DefaultRuntime"].as_str()), Some("nvidia"));
    guest.write("/etc/docker/daemon.json", "{,}\n");
    assert!(restart("docker").unwrap_err().contains("unable to configure the Docker daemon"));
}

#[test]
fn sysfs_binds_at_run_time() {
    let host = lay_out("seed-host");
    let device = format!("/sys/bus/pci/devices/{CARD}");
    let write = |path: String, value: &str| act(&host, Op::Sysfs { path, value: value.into(), back: String::new() });
    write(format!("{device}/driver_override"), "vfio-pci").expect("override");
    assert_eq!(host.driver(CARD), "nouveau");
    write(format!("{device}/driver/unbind"), CARD).expect("unbind");
    assert_eq!(host.driver(CARD), "");
    write("/sys/bus/pci/drivers_probe".into(), CARD).expect("probe");
    assert_eq!(host.driver(CARD), "vfio-pci");
    assert!(host.again().exists("/dev/vfio/14"));
    assert!(write("/sys/bus/pci/drivers/nouveau/unbind".into(), "0000:99:00.0").is_err());
    // What is written to sysfs is gone after a boot.
    boot(host.path()).expect("boots");
    assert_eq!(host.value(&format!("{device}/driver_override")), "(null)");
    assert_eq!(host.driver(CARD), "nouveau");
}

#[test]
fn qm_set_and_back() {
    let host = lay_out("seed-host");
    let path = "/etc/pve/qemu-server/100.conf";
    let before = host.value(path);
    let op = Op::Proxmox {
        vmid: 100,
        set: vec![
            ("bios".into(), "ovmf".into()),
            ("efidisk0".into(), "local-lvm:1,efitype=4m,pre-enrolled-keys=0".into()),
        ],
        delete: vec![],
        digest: String::new(),
        before: vec![],
    };
    act(&host, op.clone()).expect("qm set");
    let after = host.value(path);
    assert!(after.contains("\nefidisk0: local-lvm:vm-100-disk-1,efitype=4m,pre-enrolled-keys=0,size=4M\n"), "{after}");
    SimHands::new(host.path()).take_back(&op).expect("back");
    assert_eq!(host.value(path), before);
}

#[test]
fn the_firmwares_framebuffer_stays_on_a_card_that_nobody_drives() {
    let mut this = sim::Box::load("seed-host").expect("the box");
    let iomem = this.files.get_mut("/proc/iomem").expect("a map");
    *iomem = iomem.replace("e0000000-efffffff : nouveau", "e0000000-e02fffff : BOOTFB");
    let host = common::lay(&this);
    by_hand(&host);
    act(&host, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(host.path()).expect("boots");
    assert!(host.value("/proc/iomem").contains("e0000000-e02fffff : BOOTFB"));
    conf(&host, "hostpci0: 0000:26:00\n");
    let started = start_vm(host.path(), 100).expect("starts");
    assert_eq!(started.messages, ["vfio-pci 0000:26:00.0: BAR 1: can't reserve [mem 64bit pref]"]);
    host.write("/etc/default/grub.d/fb.cfg", "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet initcall_blacklist=sysfb_init\"\n");
    act(&host, Op::Regenerate(Tool::UpdateGrub)).expect("update-grub");
    boot(host.path()).expect("boots");
    assert!(!host.value("/proc/iomem").contains("BOOTFB"));
    assert!(!host.root.exists("/run/qemu-server/100.pid"));
}

#[test]
fn a_script_without_the_bit_is_not_run() {
    let host = lay_out("seed-host");
    host.write("/etc/initramfs-tools/modules", "vfio_pci\n");
    host.write(
        "/etc/initramfs-tools/scripts/init-top/bind",
        "echo vfio-pci > /sys/bus/pci/devices/0000:26:00.0/driver_override\n",
    );
    act(&host, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(host.path()).expect("boots");
    assert_eq!(host.driver(CARD), "nouveau");
}

#[test]
fn a_script_leaves_another_card_at_that_address_alone() {
    let script = |id: &str| {
        format!(
            "modprobe -q vfio-pci\nhold() {{ echo vfio-pci > /sys/bus/pci/devices/$1/driver_override; echo $1 > /sys/bus/pci/drivers_probe; }}\nhold 0000:26:00.0 {id} 1043:85f4\n"
        )
    };
    for (id, driver) in [("10de:1d01", "vfio-pci"), ("10de:1c82", "nouveau")] {
        let host = lay_out("seed-host");
        host.script("/etc/initramfs-tools/hooks/vfio", "manual_add_modules vfio-pci\n");
        host.script("/etc/initramfs-tools/scripts/init-top/vfio", &script(id));
        act(&host, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
        boot(host.path()).expect("boots");
        assert_eq!(host.driver(CARD), driver);
    }
    // Without the hook vfio-pci is not in the image: the function is kept from nouveau and bound once the root is there.
    let host = lay_out("seed-host");
    host.script("/etc/initramfs-tools/scripts/init-top/vfio", &script("10de:1d01"));
    act(&host, Op::Regenerate(Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(host.path()).expect("boots");
    assert_eq!(host.driver(CARD), "");
    host.write("/etc/modules", "vfio-pci\n");
    boot(host.path()).expect("boots");
    assert_eq!(host.driver(CARD), "vfio-pci");
}
