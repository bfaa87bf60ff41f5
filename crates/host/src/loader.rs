//! The boot loaders that thruway knows, by what has to be edited and run.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loader {
    Grub,
    /// proxmox-boot-tool copies kernels to ESPs, GRUB boots them.
    ProxmoxGrub,
    /// proxmox-boot-tool, systemd-boot boots them.
    ProxmoxSystemdBoot,
    /// proxmox-boot-tool, the command line is inside the image.
    ProxmoxUnifiedImage,
    /// Entries that kernel-install makes from /etc/kernel/cmdline.
    SystemdBoot,
    /// systemd-boot with entries that a person wrote: each is its own source.
    Entries,
    /// Fedora's kind: GRUB reads entries of the Boot Loader Specification.
    GrubEntries,
    /// openSUSE's kind: entries for each snapshot, by sdbootutil.
    SuseEntries,
    /// Pop!_OS: systemd-boot, its entry made by kernelstub.
    Kernelstub,
    /// The command line is inside the kernel image.
    UnifiedImage,
    /// Deployments of ostree whose arguments rpm-ostree changes.
    Ostree,
    /// Deployments of ostree that come as container images, without rpm-ostree.
    Bootc,
    Limine,
    Refind,
    /// The system's own configuration, or its makers', decides.
    Appliance(Appliance),
    Unknown,
}

/// Systems whose boot files are made from elsewhere and would not keep an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Appliance {
    NixOs,
    Guix,
    Talos,
    Unraid,
    TrueNas,
    Harvester,
    HiveOs,
    VanillaOs,
    Flatcar,
    Bottlerocket,
    SteamOs,
    /// openSUSE MicroOS and its kin: a read-only root, changed in snapshots by transactional-update.
    Transactional,
}

impl Appliance {
    pub fn words(self) -> &'static str {
        match self {
            Appliance::NixOs => "NixOS",
            Appliance::Guix => "Guix System",
            Appliance::Talos => "Talos Linux",
            Appliance::Unraid => "Unraid",
            Appliance::TrueNas => "TrueNAS",
            Appliance::Harvester => "Harvester",
            Appliance::HiveOs => "HiveOS",
            Appliance::VanillaOs => "Vanilla OS",
            Appliance::Flatcar => "Flatcar",
            Appliance::Bottlerocket => "Bottlerocket",
            Appliance::SteamOs => "SteamOS",
            Appliance::Transactional => "a transactional SUSE system",
        }
    }
}

impl Loader {
    pub fn words(self) -> &'static str {
        match self {
            Loader::Grub => "GRUB",
            Loader::ProxmoxGrub => "GRUB, fed by proxmox-boot-tool",
            Loader::ProxmoxSystemdBoot => "systemd-boot, fed by proxmox-boot-tool",
            Loader::ProxmoxUnifiedImage => "a unified kernel image, fed by proxmox-boot-tool",
            Loader::SystemdBoot => "systemd-boot",
            Loader::Entries => "systemd-boot with hand-written entries",
            Loader::GrubEntries => "GRUB with loader entries",
            Loader::SuseEntries => "loader entries by sdbootutil",
            Loader::Kernelstub => "systemd-boot, by kernelstub",
            Loader::UnifiedImage => "a unified kernel image",
            Loader::Ostree => "ostree deployments",
            Loader::Bootc => "bootc deployments",
            Loader::Limine => "Limine",
            Loader::Refind => "rEFInd",
            Loader::Appliance(appliance) => appliance.words(),
            Loader::Unknown => "an unknown boot loader",
        }
    }

    /// The file whose command line this loader's generator reads.
    pub fn reads(self) -> Option<&'static str> {
        match self {
            Loader::Grub | Loader::ProxmoxGrub => Some("/etc/default/grub"),
            Loader::ProxmoxSystemdBoot
            | Loader::ProxmoxUnifiedImage
            | Loader::SystemdBoot
            | Loader::SuseEntries
            | Loader::UnifiedImage => Some("/etc/kernel/cmdline"),
            Loader::Kernelstub => Some("/etc/kernelstub/configuration"),
            _ => None,
        }
    }

    /// True where the entries on the boot partition are edited themselves, by hand or by a program that keeps them.
    pub fn entries_are_the_source(self) -> bool {
        matches!(self, Loader::Entries | Loader::GrubEntries | Loader::Ostree | Loader::Bootc)
    }

    /// What makes what is booted out of what is written, as it is to be typed.
    pub fn generator(self, mkconfig: &model::Tool) -> String {
        match self {
            Loader::ProxmoxGrub | Loader::ProxmoxSystemdBoot | Loader::ProxmoxUnifiedImage => {
                "proxmox-boot-tool refresh".into()
            }
            Loader::SystemdBoot | Loader::UnifiedImage => "kernel-install add-all".into(),
            Loader::SuseEntries => "sdbootutil update-all-entries".into(),
            Loader::Kernelstub => "kernelstub".into(),
            Loader::Grub => mkconfig.argv().join(" "),
            _ => "reboot".into(),
        }
    }
}
