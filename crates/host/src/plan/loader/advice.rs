//! Where nothing is edited: systems made from a configuration of their own, appliances, and loaders that thruway does
//! not write for. The refusal is the advice: what to put where, in that system's own words.

use gpu::Function;
use model::PciId;

use super::Wish;
use crate::facts::{Appliance, Loader, Target};
use crate::plan::hold::{self, Held};
use crate::plan::steps::Steps;

/// A loader that is known, and whose file is not ours to write.
pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    let loader = steps.facts.boot.loader;
    let (add, drop) = (wish.add.join(" "), wish.drop.join(" "));
    let place = match loader {
        Loader::Limine => {
            "the line \"cmdline:\" of each entry in limine.conf, or KERNEL_CMDLINE[default] in /etc/default/limine where limine-entry-tool is used"
        }
        Loader::Refind => "both quoted lines of /boot/refind_linux.conf, or \"options\" in refind.conf",
        Loader::Appliance(_) => "this system's own configuration",
        _ => "the configuration of the boot loader",
    };
    let mut instead = Vec::new();
    if !add.is_empty() {
        instead.push(format!("add to {place}:\n{add}"));
    }
    if !drop.is_empty() {
        instead.push(format!("take away from {place}:\n{drop}"));
    }
    let says = format!("thruway does not edit the kernel command line of {}", loader.words());
    wish.refuse(steps, says, instead.join("\n"));
}

/// The whole of what an appliance needs, in its own words. `tokens` is what the kernel command line must have.
pub(in crate::plan) fn appliance(appliance: Appliance, tokens: &[String], targets: &[Target<'_>]) -> String {
    let functions: Vec<&Function> = targets.iter().flat_map(|target| target.functions.iter().copied()).collect();
    let addresses: Vec<String> = functions.iter().map(|f| f.bdf.to_string()).collect();
    let mut ids: Vec<PciId> = Vec::new();
    for function in &functions {
        if !ids.contains(&function.id) {
            ids.push(function.id);
        }
    }
    let ids = ids.iter().map(PciId::to_string).collect::<Vec<_>>().join(",");
    let with_ids: Vec<String> = tokens.iter().cloned().chain([format!("vfio-pci.ids={ids}")]).collect();
    let quoted = |words: &[String]| words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" ");
    let yaml = |words: &[String]| words.iter().map(|word| format!("\n    - {word}")).collect::<String>();
    match appliance {
        Appliance::NixOs => {
            let rules: String =
                functions.iter().map(|f| format!("\n  {}", hold::rule(&Held::of(f)).trim_end())).collect();
            let params = if tokens.is_empty() {
                String::new()
            } else {
                format!("boot.kernelParams = [ {} ];\n", quoted(tokens))
            };
            format!(
                "in configuration.nix, and then nixos-rebuild boot and a reboot:\n{params}boot.initrd.kernelModules = [ \"vfio_pci\" \"vfio_iommu_type1\" ];\nboot.initrd.services.udev.rules = ''{rules}\n'';\nboot.extraModprobeConfig = \"softdep nouveau pre: vfio-pci\";"
            )
        }
        Appliance::Guix => format!(
            "in the operating-system declaration, and then guix system reconfigure and a reboot:\n(kernel-arguments (append '({}) %default-kernel-arguments))\n(initrd-modules (cons \"vfio-pci\" %base-initrd-modules))",
            quoted(&with_ids)
        ),
        Appliance::Talos => format!(
            "in the machine configuration, and then talosctl upgrade (the arguments are part of the image):\nmachine:\n  install:\n    extraKernelArgs:{}\n  kernel:\n    modules:\n    - name: vfio_pci\n    - name: vfio_iommu_type1",
            yaml(&with_ids)
        ),
        Appliance::Unraid => {
            let bind: Vec<String> = functions.iter().map(|f| format!("{}|{}", f.bdf, f.id)).collect();
            let append = if tokens.is_empty() {
                String::new()
            } else {
                format!("\nand add to the append line of the boot entry (Main, Flash): {}", tokens.join(" "))
            };
            format!(
                "Tools, System Devices: tick the card and bind it to vfio at boot; that writes to /boot/config/vfio-pci.cfg:\nBIND={}{append}",
                bind.join(" ")
            )
        }
        Appliance::TrueNas => format!(
            "System, Advanced Settings, Isolated GPU Devices: choose the card; or by command:\nmidclt call system.advanced.update '{{\"isolated_gpu_pci_ids\": [{}]}}'{}",
            targets.iter().map(|t| format!("\"{}\"", t.card.identity.bdf)).collect::<Vec<_>>().join(", "),
            if tokens.is_empty() {
                String::new()
            } else {
                format!("\nmidclt call system.advanced.update '{{\"kernel_extra_options\": \"{}\"}}'", tokens.join(" "))
            }
        ),
        Appliance::Harvester => {
            let names: Vec<String> = addresses.iter().map(|address| address.replace([':', '.'], "-")).collect();
            format!(
                "enable the add-on pcidevices-controller, then Advanced, PCI Devices, Enable Passthrough for: {}\n(the claims are named by node and address: NODE-{})",
                addresses.join(" "),
                names.join(" NODE-")
            )
        }
        Appliance::HiveOs => {
            "HiveOS drives every card for mining and writes its boot files anew: keep VMs on another system".to_owned()
        }
        Appliance::VanillaOs => format!(
            "change the arguments in a transaction of ABRoot, and then reboot:\nabroot kargs edit\n(add: {})",
            with_ids.join(" ")
        ),
        Appliance::Flatcar => format!(
            "in the Butane file of this machine (kernel_arguments: should_exist), or now in /oem/grub.cfg:\nset linux_append=\"$linux_append {}\"",
            with_ids.join(" ")
        ),
        Appliance::Bottlerocket => format!(
            "in the machine's settings; it reboots by itself:\napiclient set --json '{{\"boot\": {{\"kernel-parameters\": {{{}}}, \"reboot-to-reconcile\": true}}}}'",
            with_ids
                .iter()
                .filter_map(|token| token.split_once('='))
                .map(|(name, value)| format!("\"{name}\": [\"{value}\"]"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Appliance::SteamOs => format!(
            "every update replaces the system's files; until then, after steamos-readonly disable, in /etc/default/grub and then update-grub:\nGRUB_CMDLINE_LINUX_DEFAULT=\"… {}\"",
            with_ids.join(" ")
        ),
        Appliance::Transactional => format!(
            "in a new snapshot, and then reboot:\ntransactional-update run sh -c 'sed -i \"s|$| {}|\" /etc/kernel/cmdline && echo \"force_drivers+=\\\" vfio-pci \\\"\" > /etc/dracut.conf.d/vfio.conf'\ntransactional-update --continue initrd\n(where GRUB boots it: GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub, and transactional-update --continue grub.cfg)",
            with_ids.join(" ")
        ),
    }
}
