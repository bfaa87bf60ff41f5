//! How functions are held for vfio-pci at boot: the text of our files, made and read back.

use gpu::{Function, Inventory};
use model::{Bdf, PciId};

/// One function, by address and identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub bdf: Bdf,
    /// `None` where a foreign rule names the address alone.
    pub id: Option<PciId>,
    pub subsystem: Option<PciId>,
}

impl Held {
    pub fn of(function: &Function) -> Self {
        Held { bdf: function.bdf, id: Some(function.id), subsystem: function.subsystem }
    }

    /// True where the function at this address is the one that is meant.
    pub fn matches(&self, gpus: &Inventory) -> bool {
        gpus.function(self.bdf).is_some_and(|function| {
            self.id.is_none_or(|id| id == function.id)
                && (self.subsystem.is_none() || self.subsystem == function.subsystem)
        })
    }
}

/// One function's udev rule, with its line end.
pub fn rule(held: &Held) -> String {
    held.rule()
}

impl Held {
    fn rule(&self) -> String {
        let mut rule = format!("ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"{}\"", self.bdf);
        if let Some(id) = self.id {
            rule += &format!(", ATTR{{vendor}}==\"0x{:04x}\", ATTR{{device}}==\"0x{:04x}\"", id.vendor, id.device);
        }
        if let Some(id) = self.subsystem {
            let (vendor, device) = (id.vendor, id.device);
            rule += &format!(
                ", ATTR{{subsystem_vendor}}==\"0x{vendor:04x}\", ATTR{{subsystem_device}}==\"0x{device:04x}\""
            );
        }
        rule + ", ATTR{driver_override}=\"vfio-pci\"\n"
    }
}

/// Rules that set `driver_override` to vfio-pci for an address, ours or another's, with their lines (1-based).
pub fn parse_rules(text: &str) -> Vec<(u32, Held)> {
    let one = |(at, line): (usize, &str)| {
        let line = line.trim();
        if line.starts_with('#') || !line.contains("ATTR{driver_override}=\"vfio-pci\"") {
            return None;
        }
        let value = |key: &str| {
            let rest = line.split_once(&format!("{key}==\""))?.1;
            rest.split_once('"').map(|(value, _)| value)
        };
        let hex = |key: &str| u16::from_str_radix(value(key)?.trim_start_matches("0x"), 16).ok();
        let pair = |vendor: &str, device: &str| Some(PciId::new(hex(vendor)?, hex(device)?));
        let bdf = value("KERNEL")?.parse().ok()?;
        let id = pair("ATTR{vendor}", "ATTR{device}");
        let subsystem = pair("ATTR{subsystem_vendor}", "ATTR{subsystem_device}");
        Some((u32::try_from(at + 1).unwrap_or(u32::MAX), Held { bdf, id, subsystem }))
    };
    text.lines().enumerate().filter_map(one).collect()
}

pub(super) const HEAD: &str = "# Written by thruway. Take it back with: thruway undo\n";

pub fn rules(held: &[Held]) -> String {
    let lines: String = held.iter().map(Held::rule).collect();
    format!(
        "{HEAD}# These functions go to vfio-pci, by address and identity, before 80-drivers.rules loads their own drivers.\n{lines}"
    )
}

/// initramfs-tools, init-top: runs before the script that starts udev (they run in alphabetical order), so that no
/// driver has been loaded yet.
pub fn script(held: &[Held]) -> String {
    let mut text = String::from("#!/bin/sh\n");
    text += HEAD;
    text += "# Gives functions to vfio-pci before udev loads their own drivers. A card that was swapped or moved is left\n\
             # alone: address, vendor:device and subsystem must all be as they were.\n\
             PREREQ=\"\"\n\
             case \"$1\" in\n\
             prereqs)\n\
             \techo \"$PREREQ\"\n\
             \texit 0\n\
             \t;;\n\
             esac\n\
             \n";
    text += HOLD;
    text += "\techo vfio-pci > \"$dev/driver_override\"\n\
             \t[ -e \"$dev/driver\" ] && [ ! -e \"/sys/bus/pci/drivers/vfio-pci/$1\" ] && echo \"$1\" > \"$dev/driver/unbind\"\n\
             \techo \"$1\" > /sys/bus/pci/drivers_probe\n\
             \treturn 0\n\
             }\n\
             \n\
             modprobe -q vfio-pci\n";
    text + &lines(held)
}

/// A function of the shell that checks address and identity; what it does with them follows.
const HOLD: &str = "# hold ADDRESS VENDOR:DEVICE SUBVENDOR:SUBDEVICE\n\
    hold() {\n\
    \tdev=\"/sys/bus/pci/devices/$1\"\n\
    \t[ -e \"$dev/driver_override\" ] || return 0\n\
    \tread -r vendor < \"$dev/vendor\" && read -r device < \"$dev/device\" || return 0\n\
    \t[ \"$2\" = - ] || [ \"${vendor#0x}:${device#0x}\" = \"$2\" ] || return 0\n\
    \tread -r vendor < \"$dev/subsystem_vendor\" && read -r device < \"$dev/subsystem_device\" || return 0\n\
    \t[ \"$3\" = - ] || [ \"${vendor#0x}:${device#0x}\" = \"$3\" ] || return 0\n";

fn lines(held: &[Held]) -> String {
    let name = |id: Option<PciId>| id.map_or("-".to_owned(), |id| id.to_string());
    held.iter().map(|one| format!("hold {} {} {}\n", one.bdf, name(one.id), name(one.subsystem))).collect()
}

/// What vfio-pci's `install` line runs before the module is loaded: the shell's own words only, since an initramfs
/// may hold no other program. A function that a driver has already is left to it: nothing is torn away here.
pub fn setter(held: &[Held]) -> String {
    let mut text = String::from("#!/bin/sh\n");
    text += HEAD;
    text += "# Run by modprobe before vfio-pci is loaded. A card that was swapped or moved is left alone: address,\n\
             # vendor:device and subsystem must all be as they were.\n";
    text += HOLD;
    text += "\techo vfio-pci > \"$dev/driver_override\"\n\
             \treturn 0\n\
             }\n\
             \n";
    text + &lines(held) + "exit 0\n"
}

/// modprobe.d for a hold by address: whoever loads a driver of the card loads vfio-pci first, and that sets the
/// override before it.
pub fn order(drivers: &[&str]) -> String {
    let softdeps: String = drivers.iter().map(|driver| format!("softdep {driver} pre: vfio-pci\n")).collect();
    let setter = super::files::SETTER;
    format!(
        "{HEAD}install vfio-pci /bin/sh {setter}; /sbin/modprobe --ignore-install vfio-pci $CMDLINE_OPTS\n{softdeps}"
    )
}

/// initramfs-tools hook: what the script needs goes into the image.
pub fn hook(by_ids: bool) -> String {
    let mut text = String::from("#!/bin/sh\n");
    text += HEAD;
    text += "PREREQ=\"\"\n\
             case \"$1\" in\n\
             prereqs)\n\
             \techo \"$PREREQ\"\n\
             \texit 0\n\
             \t;;\n\
             esac\n\
             . /usr/share/initramfs-tools/hook-functions\n\
             manual_add_modules vfio-pci\n";
    if by_ids {
        text += "force_load vfio-pci\n";
    }
    text
}

pub fn dracut(items: &[&str]) -> String {
    format!("{HEAD}force_drivers+=\" vfio-pci \"\ninstall_items+=\" {} \"\n", items.join(" "))
}

/// The drop-in is sourced behind mkinitcpio.conf: the front of the list is ours, the rest stays.
pub fn mkinitcpio(items: &[&str]) -> String {
    format!("{HEAD}MODULES=(vfio_pci \"${{MODULES[@]}}\")\nFILES+=({})\n", items.join(" "))
}

/// modprobe.d for ids=: vfio-pci loads before the drivers that would take the card.
pub fn modprobe(ids: &[PciId], drivers: &[&str]) -> String {
    let ids: Vec<String> = ids.iter().map(PciId::to_string).collect();
    let softdeps: String = drivers.iter().map(|driver| format!("softdep {driver} pre: vfio-pci\n")).collect();
    format!("{HEAD}options vfio-pci ids={}\n{softdeps}", ids.join(","))
}

pub fn modules(names: &[&str]) -> String {
    format!("{HEAD}{}", names.iter().map(|name| format!("{name}\n")).collect::<String>())
}

/// Debian's grub-mkconfig sources this behind /etc/default/grub.
pub fn grub(tokens: &[String]) -> String {
    format!("{HEAD}GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT {}\"\n", tokens.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rule_is_read_back_as_it_was_written() {
        let held = vec![
            Held {
                bdf: Bdf::new(0, 0x26, 0, 0),
                id: Some(PciId::new(0x10de, 0x1d01)),
                subsystem: Some(PciId::new(0x1043, 0x85f4)),
            },
            Held { bdf: Bdf::new(0, 0x26, 0, 1), id: Some(PciId::new(0x10de, 0x0fb8)), subsystem: None },
        ];
        let back: Vec<Held> = parse_rules(&rules(&held)).into_iter().map(|(_, held)| held).collect();
        assert_eq!(back, held);
        assert!(script(&held).ends_with("hold 0000:26:00.0 10de:1d01 1043:85f4\nhold 0000:26:00.1 10de:0fb8 -\n"));
        assert!(
            parse_rules("# ACTION==\"add\", KERNEL==\"0000:26:00.0\", ATTR{driver_override}=\"vfio-pci\"").is_empty()
        );
    }

    proptest! {
        #[test]
        fn foreign_rules_never_panic(text in "(KERNEL==\"|ATTR\\{driver_override\\}=\"vfio-pci\"|[\",0-9a-f:.{}\n]){0,30}") {
            let lines = text.lines().count();
            prop_assert!(parse_rules(&text).len() <= lines);
        }
    }
}
