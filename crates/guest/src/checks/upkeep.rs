//! What goes wrong later: the next kernel without a module, headers that do not follow, a card that sleeps in a VM, a
//! daemon that is not started, and what the kernel's log says of the card.

use gpu::xid;
use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use super::{not_here, unknown};
use crate::{Facts, ways};

/// NVIDIA's module is built here, by DKMS.
pub(crate) fn builds_here(facts: &Facts) -> bool {
    facts.packages.get().is_some_and(|all| all.iter().any(|package| package.name == "dkms"))
        && facts.packages.get().is_some_and(|all| all.iter().any(|package| package.driver()))
}

pub const NEXT_KERNEL: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/next-kernel-module"),
        layer: Layer::Guest,
        title: "the kernel that boots next has NVIDIA's module too",
        why: "A kernel update brings a new /lib/modules, and NVIDIA's module must be built for it. Where its headers are \
              missing, or the build fails, nothing is said that anybody reads: the machine runs on until the next boot, \
              and then there is no nvidia.ko, no /dev/nvidia0, \"NVIDIA-SMI has failed because it couldn't communicate \
              with the NVIDIA driver\".",
        source: "dkms(8), autoinstall",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        let running = match &facts.release.value {
            Seen::Is(running) => running,
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "the kernel that runs"),
        };
        if !facts.driver.kernel.is_there() && !facts.has_driver_module() {
            return Verdict::NotApplicable;
        }
        // The newest is what a boot loader takes unless told otherwise.
        let Some(next) = facts.kernels.last() else { return Verdict::NotApplicable };
        if next.driver || next.release == *running {
            return Verdict::Pass;
        }
        let release = &next.release;
        let mut trouble = Trouble::new(format!(
            "kernel {release} boots next and has no NVIDIA module; {running}, which runs, has one"
        ))
        .seen(Source::file(format!("/lib/modules/{release}/modules.dep")), "no nvidia.ko");
        let mut lines = Vec::new();
        if !next.headers {
            trouble = trouble.seen(Source::file(format!("/lib/modules/{release}/build")), "no headers");
            lines.push(match facts.os.id.as_str() {
                "fedora" => format!("sudo dnf install kernel-devel-{release}"),
                _ => format!("sudo apt-get install linux-headers-{release}"),
            });
        }
        lines.push(match facts.os.id.as_str() {
            "fedora" => format!("sudo akmods --force --kernels {release}"),
            _ => format!("sudo dkms autoinstall -k {release}"),
        });
        let paste: Vec<&str> = lines.iter().map(String::as_str).collect();
        let fix = Fix::by_hand(
            "build it before the next boot; a failure says why in /var/lib/dkms/nvidia*/*/build/make.log",
            &paste,
            format!("sudo dkms uninstall the same module -k {release}"),
        );
        Verdict::Fail(trouble.fix(fix.costs("some minutes of building")))
    },
};

pub const HEADERS_FOLLOW: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/headers-follow"),
        layer: Layer::Guest,
        title: "kernel updates bring their headers along",
        why: "The package linux-image-amd64 (Ubuntu: linux-image-generic) brings each new kernel. Only its sister \
              linux-headers-… brings that kernel's headers: where headers were installed for one kernel by its full name, \
              the next update cannot build NVIDIA's module, \"Your kernel headers for kernel … cannot be found\".",
        source: "Debian wiki: NvidiaGraphicsDrivers, prerequisites; dkms(8)",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        if let Some(reason) = facts.packages.value.unreadable() {
            return unknown(reason, "the installed packages");
        }
        let image = ways::meta(facts, "linux-image");
        if !builds_here(facts) || !facts.present.contains(&image) {
            return Verdict::NotApplicable;
        }
        let headers = ways::meta(facts, "linux-headers");
        if facts.present.contains(&headers) {
            return Verdict::Pass;
        }
        let trouble = Trouble::new(format!(
            "{image} brings new kernels, and nothing brings their headers: the next one will have no NVIDIA module"
        ))
        .seen(facts.packages.source.clone(), format!("no {headers}"));
        Verdict::Warn(trouble.fix(Fix::planned(format!("install {headers}"), "sudo thruway guest apply")))
    },
};

pub const POWER: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/dynamic-power"),
        layer: Layer::Guest,
        title: "the driver does not put a passed-through card to sleep",
        why: "NVreg_DynamicPowerManagement=1 or 2 lets the driver power an idle card down (D3). It is meant for notebooks. \
              In a VM the power state is the hypervisor's, and a card that was put to sleep may not come back: Xid 79, \
              \"GPU has fallen off the bus\", or Xid 62.",
        source: "NVIDIA driver README, chapter on PCI-Express runtime D3 power management",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        if facts.vm.get() != Some(&true) {
            return Verdict::NotApplicable;
        }
        let asks = |value: u32| matches!(value, 1 | 2);
        // NVIDIA's README writes it in hex.
        let value = |text: &str| {
            let text = text.rsplit('=').next()?.to_ascii_lowercase();
            text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())
        };
        let number = |text: &str| value(text).is_some_and(asks);
        let written: Vec<_> = facts.power.written.iter().filter(|line| number(&line.text)).collect();
        // The running module's word counts; the written one comes true at the next boot.
        let running = facts.power.running.as_ref().filter(|(value, _)| asks(*value));
        if running.is_none() && written.is_empty() {
            let looked = facts.power.running.is_some() || facts.modprobe_unread.is_none();
            return if looked && facts.driver.kernel.is_there() { Verdict::Pass } else { Verdict::NotApplicable };
        }
        let when = if running.is_some() { "lets" } else { "will let, from the next boot on," };
        let mut trouble = Trouble::new(format!("NVIDIA's driver {when} the card fall asleep in this VM"));
        if let Some((value, source)) = running {
            trouble = trouble.seen(source.clone(), format!("DynamicPowerManagement: {value}"));
        }
        let mut lines = Vec::new();
        for line in &written {
            trouble = trouble.seen(line.source.clone(), line.text.clone());
            if let Source::File { path, .. } = &line.source {
                lines.push(format!("sudo sed -i 's/{}/NVreg_DynamicPowerManagement=0/' {path}", line.text));
            }
        }
        if lines.is_empty() {
            let text = "options nvidia NVreg_DynamicPowerManagement=0";
            lines.push(format!("echo {text} | sudo tee /etc/modprobe.d/nvidia-power.conf"));
        }
        lines.push("sudo reboot".into());
        let paste: Vec<&str> = lines.iter().map(String::as_str).collect();
        Verdict::Warn(trouble.fix(
            Fix::by_hand("keep it awake", &paste, "set the old value again").costs("a reboot; some watts while idle"),
        ))
    },
};

pub const PERSISTENCE: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/persistenced-off"),
        layer: Layer::Guest,
        title: "nvidia-persistenced is started at every boot",
        why: "Without a user the driver lets the card's state go, and sets it up again for the next one: a second or more \
              before each first frame, clocks and limits that are forgotten, and on a machine without a screen no device \
              nodes until somebody runs nvidia-smi as root. nvidia-persistenced holds the card open.",
        source: "NVIDIA driver persistence documentation",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        if !facts.driver.kernel.is_there() {
            return Verdict::NotApplicable;
        }
        match &facts.persistenced.value {
            // No daemon here, or one that udev starts.
            Seen::Absent => Verdict::NotApplicable,
            Seen::Unreadable(reason) => unknown(reason, "nvidia-persistenced"),
            Seen::Is(true) => Verdict::Pass,
            Seen::Is(false) => Verdict::Warn(
                Trouble::new(
                    "nvidia-persistenced is installed and not started at boot: the first use after idle is slow",
                )
                .seen(facts.persistenced.source.clone(), "not there")
                .fix(Fix::planned("enable and start it", "sudo thruway guest apply")),
            ),
        }
    },
};

fn number(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("NVRM: Xid (")?.1.split_once("):")?;
    rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

pub const XID: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/card-errors"),
        layer: Layer::Guest,
        title: "the kernel's log has no error of the card itself since the boot",
        why: "The driver reports errors as numbers, Xids. Most blame a program; some blame the card or its seat: 79 (fallen \
              off the bus), 62 (controller halted), 48 (double bit error). After those NVML says \"GPU is lost\" or \
              \"Unknown Error\", and everything above fails until a reset or a boot.",
        source: "NVIDIA GPU debug guidelines, Xid catalogue",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        if !facts.driver.kernel.is_there() {
            return Verdict::NotApplicable;
        }
        let lines = match &facts.xids.value {
            Seen::Is(lines) => lines,
            // Only the systemd journal is here, whose form is binary.
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "the kernel's log"),
        };
        let known = |line: &&crate::observe::Line| {
            xid::meaning(number(&line.text)?).filter(|known| known.class == xid::Class::Hardware)
        };
        let Some((line, known)) = lines.iter().rev().find_map(|line| Some((line, known(&line)?))) else {
            return Verdict::Pass;
        };
        let paste = [
            "nvidia-smi",
            "sudo nvidia-smi --gpu-reset -i 0   # where nothing uses it; else a stop and start of the VM",
        ];
        Verdict::Fail(
            Trouble::new(format!("the card reported Xid {} since the boot: {}", known.number, known.says))
                .seen(line.source.clone(), line.text.clone())
                .fix(
                    Fix::by_hand(
                        format!("see whether it still answers, then {}", known.action),
                        &paste,
                        "nothing to take back",
                    )
                    .costs("an outage of what uses the card"),
                ),
        )
    },
};

#[cfg(test)]
mod tests {
    #[test]
    fn an_xid_s_number_is_read() {
        let line =
            "Nov 25 10:00:00 g kernel: [ 12.3] NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU";
        assert_eq!(super::number(line), Some(79));
        assert_eq!(super::number("NVRM: Xid (PCI:0000"), None);
        assert_eq!(super::number("NVRM: Xid (a): x"), None);
    }
}
