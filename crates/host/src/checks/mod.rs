//! The host floor's table of checks, in the order of the way: firmware, kernel, group, losses, owner, boot.

pub(crate) mod binding;
mod boot;
mod claims;
pub(crate) mod console;
pub(crate) mod group;
pub(crate) mod holders;
mod iommu;
pub(crate) mod loss;
mod platform;

use model::{About, Check, CheckId, Layer, Reason, Verdict};

use crate::facts::{Facts, Place, Target};

/// One row: id, title, why, source, function.
macro_rules! row {
    ($id:literal, $title:literal, $why:literal, $source:literal, $run:path) => {
        Check {
            about: About { id: CheckId($id), layer: Layer::Host, title: $title, why: $why, source: $source },
            run: |facts| metal(facts, $run),
        }
    };
}

pub static CHECKS: &[Check<Facts>] = &[
    row!(
        "host/iommu-firmware-off",
        "the firmware offers an IOMMU",
        "Without VT-d (Intel) or AMD-Vi no device can be given to a VM: Proxmox VE says \"cannot prepare PCI pass-through, IOMMU not present\". The firmware hides its table (DMAR or IVRS) while the option is off. VT-x and SVM are other options and not enough.",
        "/sys/class/iommu and /sys/firmware/acpi/tables; qemu-server PCI.pm",
        iommu::firmware
    ),
    row!(
        "host/iommu-kernel-off",
        "the kernel runs the IOMMU that the firmware offers",
        "Judged by /sys/class/iommu, never by a token. Intel's needs intel_iommu=on where the kernel was not built with CONFIG_INTEL_IOMMU_DEFAULT_ON; AMD's is on by itself, and amd_iommu=on is no value that the kernel knows. iommu=off, intel_iommu=off and amd_iommu=off switch it off.",
        "kernel-parameters.txt; drivers/iommu",
        iommu::kernel
    ),
    row!(
        "host/intremap-missing",
        "interrupts are remapped",
        "Without interrupt remapping a guest could send interrupts to the host, so the kernel refuses: \"No interrupt remapping support. Use the module param allow_unsafe_interrupts\"; QEMU says \"failed to set iommu for container: Operation not permitted\".",
        "drivers/vfio/vfio_iommu_type1.c; VT-d specification, ECAP bit 3",
        iommu::remapping
    ),
    row!(
        "host/unsafe-interrupts-needless",
        "allow_unsafe_interrupts is not set without need",
        "allow_unsafe_interrupts=1 lets a guest inject interrupts into the host. It is for platforms without interrupt remapping only; many guides set it everywhere.",
        "drivers/vfio/vfio_iommu_type1.c; Proxmox VE, PCI(e) passthrough",
        iommu::unsafe_interrupts
    ),
    row!(
        "host/rmrr-ineligible",
        "the firmware keeps no memory of the card for itself",
        "A reserved region of type direct in the card's group makes the kernel refuse: \"Device is ineligible for IOMMU domain attach due to platform RMRR requirement\", newer: \"Firmware has requested this device have a 1:1 IOMMU mapping\". Only the board's vendor can mend it.",
        "Documentation/ABI/testing/sysfs-kernel-iommu_groups; drivers/iommu/iommu.c",
        group::rmrr_all
    ),
    row!(
        "host/group-shared",
        "every device of the card's IOMMU group can go to the VM",
        "A group is the smallest thing that can be given away. While another endpoint of the group has a host driver, QEMU says \"group N is not viable. Please ensure all devices within the iommu_group are bound to their vfio bus driver\". Proxmox VE takes the whole group from the host instead, and does not give it back.",
        "Documentation/driver-api/vfio.rst; pve-common SysFSTools.pm",
        group::shared_all
    ),
    row!(
        "host/network-lost",
        "the host keeps its network when the card's group goes",
        "Proxmox VE binds every device of the group to vfio-pci when the VM starts. If the network card is one of them, the host is cut off that moment, and the VM's stop does not bring it back.",
        "pve-common SysFSTools.pm, pci_dev_group_bind_to_vfio",
        loss::network_all
    ),
    row!(
        "host/disk-lost",
        "the host keeps its disks when the card's group goes",
        "As with the network: a disk controller in the card's group is taken away with all mounted file systems on it.",
        "pve-common SysFSTools.pm, pci_dev_group_bind_to_vfio",
        loss::disk_all
    ),
    row!(
        "host/console-lost",
        "the host keeps a console when the card goes",
        "If the card is the only display and no serial console is set up, the host can be reached by network alone once the card is vfio-pci's. That is fine for a server that answers ssh, and hard where it does not.",
        "/sys/bus/pci/devices/*/boot_vga; /proc/consoles",
        console::lost_all
    ),
    row!(
        "host/acs-override",
        "IOMMU groups are the hardware's own",
        "pcie_acs_override splits groups on paper: devices that can reach each other's memory are said to be isolated. The mainline kernel does not know the token; Proxmox VE's does.",
        "pve-kernel patch 0004 (ACS override)",
        group::acs
    ),
    row!(
        "host/igfx-off",
        "the integrated graphics are behind the IOMMU",
        "intel_iommu=igfx_off leaves Intel's integrated graphics out of the IOMMU: they have no group and cannot go to a VM. It was a cure for picture trouble of old kernels.",
        "kernel-parameters.txt, intel_iommu=; pve-kernel patch 0011",
        platform::igfx
    ),
    row!(
        "host/gpu-behind-vmd",
        "no card sits behind Intel's VMD",
        "VMD puts devices into a PCI domain of five digits (10000:) behind one controller. They share its place in the IOMMU and cannot be given away one by one.",
        "drivers/pci/controller/vmd.c",
        platform::vmd
    ),
    row!(
        "host/iommu-address-width",
        "the IOMMU reaches as far as the CPU",
        "Consumer boards of Intel have IOMMUs of 39 bits. A guest that sees more address bits puts the card's memory at their top: \"vfio_container_dma_map(…, 0x382800000000, …) = -22 (Invalid argument)\", and a black screen.",
        "VT-d specification, CAP register, MGAW; QEMU, guest-phys-bits",
        platform::width
    ),
    row!(
        "host/legacy-boot",
        "a host with a large card was booted by UEFI",
        "With CSM the firmware keeps device memory below 4 GiB and arbitrates VGA as in 1987: large cards get no room, and a guest finds no UEFI picture in the card.",
        "/sys/firmware/efi; firmware manuals, CSM and Above 4G Decoding",
        platform::legacy
    ),
    row!(
        "host/bar-unassigned",
        "every memory region of the card has a place",
        "\"BAR 1 [mem size 0x… 64bit pref]: can't assign; no space\": the firmware lacks memory above 4 GiB for devices, and the card cannot be used at all.",
        "Documentation/ABI/testing/sysfs-bus-pci, resource; drivers/pci/setup-res.c",
        platform::unassigned
    ),
    row!(
        "host/bar-size",
        "the card's memory regions have a size that it offers",
        "The host's firmware fixes the size of resizable regions, and a guest cannot change it. A size that the card does not list makes the guest's driver fail with code 43, or run slowly.",
        "Documentation/ABI/testing/sysfs-bus-pci, resourceN_resize",
        platform::size
    ),
    row!(
        "host/noiommu",
        "vfio does not run without an IOMMU",
        "enable_unsafe_noiommu_mode lets programs drive devices with no protection at all: the device, and so its user, reads and writes all memory. No VM can use it.",
        "drivers/vfio/Kconfig, VFIO_NOIOMMU",
        platform::noiommu
    ),
    row!(
        "host/rmrr-relaxed",
        "reserved memory of the firmware is respected",
        "intel_iommu=relax_rmrr (Proxmox VE's kernel) gives devices away whose memory the firmware goes on using. The kernel itself says that this can lead to instability or data loss.",
        "pve-kernel patch 0009",
        platform::relaxed
    ),
    row!(
        "host/card-asleep-dead",
        "the card answers",
        "\"Unable to change power state from D3cold to D0, device inaccessible\": a card that fell asleep and was not woken reads as all ones (revision ff) until the power is cut.",
        "Documentation/ABI/testing/sysfs-bus-pci, power_state; Documentation/power/pci.rst",
        platform::power
    ),
    row!(
        "host/reset-bug",
        "the card is of no kind that is known to stay stuck after a VM",
        "Some chips do not come back from the reset between two guests: \"not ready 65535ms after FLR; giving up\". GeForce RTX 50 and RTX PRO Blackwell, AMD's Vega and Navi 1x.",
        "open-gpu-kernel-modules issues 853 and 1353; gnif/vendor-reset",
        platform::reset_bug
    ),
    row!(
        "host/vgpu-mode",
        "the card is not set up to be shared out",
        "With NVIDIA's vGPU driver or SR-IOV a card is given in parts (mdev, virtual functions). Giving it whole takes it away from all of them.",
        "qemu-server PCI.pm; NVIDIA vGPU, creatable_vgpu_types",
        platform::vgpu
    ),
    row!(
        "host/link-narrow",
        "the card has all of its lanes",
        "A card in a narrow slot or on a poor riser works with fewer lanes than it has. Judged by the width: the speed drops by itself while a card idles.",
        "Documentation/ABI/testing/sysfs-bus-pci, current_link_width",
        platform::link
    ),
    row!(
        "host/link-errors",
        "the card's link has no errors",
        "Corrected errors by the thousand, or fatal ones, are a riser's, a cable's or a slot's. In the guest they become Xid 79, \"GPU has fallen off the bus\".",
        "Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats",
        platform::errors
    ),
    row!(
        "host/driver-owns-card",
        "vfio-pci holds every function of a card that is meant for a VM",
        "While nouveau, nvidia or snd_hda_intel hold a function, the VM's start has to tear it from them, which can hang for ever, or fails. Held from the boot on, by address and identity, it cannot happen.",
        "Documentation/ABI/testing/sysfs-bus-pci, driver_override; open-gpu-kernel-modules issue 1374",
        binding::owner
    ),
    row!(
        "host/softdep-order",
        "vfio-pci loads before the drivers that would take the card",
        "ids= is a claim of vfio-pci alone: a driver that loads first has the card. modprobe.d needs \"softdep nouveau pre: vfio-pci\" for each of them, or the card must be held by address.",
        "modprobe.d(5); Proxmox VE, PCI(e) passthrough",
        binding::softdep
    ),
    row!(
        "host/builtin-driver",
        "options for vfio-pci are where the kernel reads them",
        "Where vfio-pci is built into the kernel, \"options vfio-pci ids=\" in modprobe.d is not read by anybody; only vfio-pci.ids= on the kernel command line is.",
        "kernel-parameters.txt; modules.builtin",
        binding::builtin
    ),
    row!(
        "host/ids-catch-twin",
        "ids= takes no card that the host keeps",
        "ids= and new_id match vendor and device, not a slot: a second card of the same kind goes black with the first, and HDMI audio functions share ids over many models.",
        "drivers/vfio/pci/vfio_pci.c",
        binding::twin
    ),
    row!(
        "host/blacklist-kills-host-gpu",
        "no driver is kept off the cards that the host keeps",
        "blacklist nouveau or nvidia keeps the driver off every card, not off one. A second card of that driver is then dead on the host. driver_override holds a single card by its address.",
        "modprobe.d(5)",
        binding::blacklist
    ),
    row!(
        "host/override-blocks",
        "no driver_override keeps vfio-pci away from the card",
        "driver_override names the only driver that may take a device. If it is another than vfio-pci (driverctl sets it so), Proxmox VE says \"can't unbind/bind PCI group to VFIO\".",
        "Documentation/ABI/testing/sysfs-bus-pci, driver_override",
        holders::blocked_all
    ),
    row!(
        "host/in-use",
        "nobody on the host uses a card that is meant for a VM",
        "To take a card from a program that has it open can hang the kernel: \"Attempting to remove device with non-zero usage count\", and the write to unbind never returns.",
        "open-gpu-kernel-modules issues 1119 and 1374",
        holders::in_use
    ),
    row!(
        "host/bootfb-holds-bar",
        "no firmware framebuffer lies in the card's memory",
        "\"vfio-pci 0000:26:00.0: BAR 1: can't reserve [mem 0x… 64bit pref]\": the firmware's picture (BOOTFB, simpledrm, efifb) still occupies the card's memory. Judged by /proc/iomem, since video=efifb:off has no effect on today's kernels.",
        "/proc/iomem; drivers/firmware/sysfb.c",
        console::bootfb
    ),
    row!(
        "host/reset-none",
        "the card can be reset between two starts of a VM",
        "Without a reset method the card stays as the last guest left it: it works once, and after the VM's restart it is dead until the host reboots.",
        "Documentation/ABI/testing/sysfs-bus-pci, reset_method",
        holders::reset
    ),
    row!(
        "host/virqfd-gone",
        "every listed vfio module exists on this kernel",
        "vfio_virqfd became part of vfio in Linux 6.2. Lists that still name it give \"Module vfio_virqfd not found\", and with dracut or mkinitcpio a boot that stops.",
        "Linux 6.2, drivers/vfio/Makefile; GPU-Passthrough-Manager issue 40",
        boot::virqfd
    ),
    row!(
        "host/address-drift",
        "the devices that rules hold are still at their addresses",
        "Adding or taking out a card renumbers the buses, and a rule by address then means another device. Rules with an identity let it alone, and the card goes to its own driver.",
        "driverctl's TODO; Documentation/ABI/testing/sysfs-bus-pci, driver_override",
        claims::drift
    ),
    row!(
        "host/vfio-grabbed",
        "vfio-pci has no device that nothing gives it",
        "A vendor and device written to new_id stay in force until remove_id or a reboot: the next device of that kind without a driver is taken too.",
        "Documentation/ABI/testing/sysfs-bus-pci, new_id; pve-common SysFSTools.pm",
        claims::grabbed
    ),
    row!(
        "host/nvidia-on-host",
        "no NVIDIA driver on the host waits for a card that is meant for a VM",
        "A driver that was installed for containers or LXC takes the card again at the next boot or kernel update. One card is for the host's containers or for a VM, not for both.",
        "Proxmox VE, PCI(e) passthrough; dkms(8)",
        claims::leftover
    ),
    row!(
        "host/blacklist-not-enough",
        "no blacklisted driver has the card",
        "blacklist in modprobe.d stops loading for a device, not loading by name or as another module's need, and it does not reach an initramfs that was made before.",
        "modprobe.d(5)",
        claims::weak_blacklist
    ),
    row!(
        "host/sysfb-blacklist-ineffective",
        "where the firmware's framebuffer is forbidden it is gone",
        "On some kernels initcall_blacklist=sysfb_init is taken and simpledrm comes up all the same. What counts is /proc/iomem.",
        "talos issue 14356; negativo17 issue 129",
        claims::sysfb
    ),
    row!(
        "host/mkinitcpio-modconf",
        "mkinitcpio's image holds modprobe.d",
        "Without the hook modconf nothing of /etc/modprobe.d is in the image: ids=, softdep and blacklist come when the drivers are loaded already.",
        "mkinitcpio(8), HOOKS",
        claims::modconf
    ),
    row!(
        "host/dracut-without-vfio",
        "dracut's image holds vfio-pci",
        "In host-only mode dracut takes the modules that this host uses now. vfio-pci is not among them unless force_drivers+=\" vfio-pci \" says so, blanks inside the quotes.",
        "dracut.conf(5), force_drivers",
        claims::dracut
    ),
    row!(
        "host/module-list-unread",
        "modules are listed where somebody reads the list",
        "/etc/modules is Debian's. Fedora, Arch and SUSE read /etc/modules-load.d alone.",
        "modules-load.d(5)",
        claims::unread_list
    ),
    row!(
        "host/initramfs-stale",
        "the initramfs is newer than what goes into it",
        "modprobe.d and hooks act in the early boot only as they were when the initramfs was made. Without update-initramfs -u -k all a right file has no effect.",
        "initramfs-tools(7)",
        boot::stale
    ),
    row!(
        "host/edit-without-effect",
        "what was written to the kernel command line is in effect",
        "Four states: written, generated, effective, absent. A token in /etc/default/grub does nothing on a host that systemd-boot boots (Proxmox VE on ZFS), nothing when a later file in grub.d replaces it, nothing before update-grub, and nothing before the reboot.",
        "proxmox-boot-tool(8); Debian's grub-mkconfig",
        boot::edits
    ),
    row!(
        "host/cruft",
        "no settings of old guides are left",
        "Tokens and options that guides hand on though they do nothing, or harm: amd_iommu=on, video=efifb:off, nofb, nomodeset, kvm ignore_msrs, disable_vga. Harmless ones are listed so that nobody takes them for the cause or the cure.",
        "kernel-parameters.txt",
        boot::cruft
    ),
];

/// The host floor's checks speak of kernels on the metal only.
fn metal(facts: &Facts, run: fn(&Facts) -> Verdict) -> Verdict {
    match &facts.place {
        Place::Guest { .. } => Verdict::NotApplicable,
        Place::Unknown(why) => Verdict::Unknown {
            reason: Reason::Other(why.clone()),
            what: "whether this machine is itself a guest".into(),
        },
        Place::Metal => run(facts),
    }
}

/// Runs a check over the wanted cards; not applicable where none is wanted.
fn wanted(facts: &Facts, run: impl Fn(&Facts, &[Target<'_>]) -> Verdict) -> Verdict {
    if let Some(reason) = facts.inventory.looked.unreadable() {
        return unknown(reason, "the PCI devices");
    }
    let targets = facts.targets();
    if targets.is_empty() { Verdict::NotApplicable } else { run(facts, &targets) }
}

fn unknown(reason: &Reason, what: impl Into<String>) -> Verdict {
    Verdict::Unknown { reason: reason.clone(), what: what.into() }
}

/// `thruway host plan` for these cards.
fn plan_command(targets: &[Target<'_>]) -> String {
    let give: Vec<String> = targets.iter().map(|t| format!(" --give {}", t.card.identity.bdf.short())).collect();
    format!("thruway host plan{}", give.concat())
}
