//! What the driver needs of this system: a kernel with DRM, headers and a compiler, keys that Secure Boot accepts.

use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use super::{not_here, unknown};
use crate::Facts;

pub const CLOUD: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/cloud-kernel"),
        layer: Layer::Guest,
        title: "the kernel is not a cut cloud flavour without DRM",
        why: "Debian's -cloud-amd64 and Ubuntu's -kvm kernels are built without DRM. nvidia-drm and nvidia-modeset then \
              fail with \"Unknown symbol\" in the kernel log, and DKMS ends in errors, though nvidia.ko alone may load. \
              Install the plain kernel and boot it.",
        source: "Debian's kernel packaging: the cloud flavour switches CONFIG_DRM off",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        let release = match &facts.release.value {
            Seen::Is(release) => release,
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "the kernel's release"),
        };
        let flavour = ["-cloud-amd64", "-cloud-arm64", "-kvm"].into_iter().find(|flavour| release.ends_with(flavour));
        let Some(flavour) = flavour else { return Verdict::Pass };
        let plain = if flavour == "-kvm" { "linux-generic" } else { "linux-image-amd64" };
        Verdict::Warn(
            Trouble::new(format!(
                "kernel {release} is a {} flavour, built without DRM",
                flavour.trim_start_matches('-')
            ))
            .seen(facts.release.source.clone(), release.clone())
            .fix(
                Fix::by_hand(
                    "install the plain kernel, boot it, then remove the cut one",
                    &[&format!("sudo apt-get install {plain}"), "sudo reboot"],
                    format!("sudo apt-get purge {plain}"),
                )
                .costs("a reboot of this machine"),
            ),
        )
    },
};

pub const HEADERS: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/headers-missing"),
        layer: Layer::Guest,
        title: "kernel headers and a compiler are here where the module must still be built",
        why: "NVIDIA's module is built for exactly the running kernel, unless a package brings it ready. Without headers \
              DKMS says \"Your kernel headers for kernel … cannot be found\", the .run installer \"Unable to find the \
              kernel source tree\". The module then is missing, often only after the next kernel update.",
        source: "dkms(8); NVIDIA driver README, minimum requirements",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        // A module that is there, however it came, needs no headers now.
        if facts.driver.kernel.is_there() || facts.has_module("nvidia") {
            return Verdict::Pass;
        }
        let mut missing = Vec::new();
        let mut trouble = Trouble::new(String::new());
        for (fact, name) in [(&facts.headers, "the kernel's headers"), (&facts.gcc, "gcc"), (&facts.make, "make")] {
            match &fact.value {
                Seen::Is(()) => {}
                Seen::Absent => {
                    missing.push(name);
                    trouble = trouble.seen(fact.source.clone(), "not there");
                }
                Seen::Unreadable(reason) => return unknown(reason, name),
            }
        }
        if missing.is_empty() {
            return Verdict::Pass;
        }
        let release = facts.release.get().map_or("$(uname -r)", String::as_str);
        trouble.says = format!("NVIDIA's module cannot be built for kernel {release}: {} missing", missing.join(", "));
        if crate::plan::installs(facts).is_some_and(|way| way.is_ok()) {
            let does = "install what builds kernel modules, with the driver";
            return Verdict::Fail(trouble.fix(Fix::planned(does, "sudo thruway guest apply")));
        }
        let line = match facts.os.id.as_str() {
            "fedora" | "rhel" | "rocky" | "almalinux" => format!("sudo dnf install gcc make kernel-devel-{release}"),
            "arch" => "sudo pacman -S base-devel linux-headers".to_owned(),
            _ => format!("sudo apt-get install build-essential linux-headers-{release}"),
        };
        Verdict::Fail(trouble.fix(Fix::by_hand(
            "install what builds kernel modules",
            &[&line],
            "remove the packages again",
        )))
    },
};

pub const SECURE_BOOT: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/secure-boot-unsigned"),
        layer: Layer::Guest,
        title: "Secure Boot does not keep NVIDIA's module out",
        why: "With Secure Boot on, the kernel loads only modules signed by a key it knows. A module that DKMS built is \
              signed by a key of this machine, which must be enrolled at the console: else \"modprobe: ERROR: could not \
              insert 'nvidia': Key was rejected by service\". In a VM the simplest way is an EFI disk without enrolled \
              keys; the other is the distribution's signed modules.",
        source: "Debian wiki: SecureBoot; Proxmox VE administration guide, OVMF and pre-enrolled keys",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        match &facts.secure_boot.value {
            // No variable: a BIOS boot, which has no Secure Boot.
            Seen::Absent | Seen::Is(false) => return Verdict::Pass,
            Seen::Unreadable(_) if facts.driver.kernel.is_there() => return Verdict::Pass,
            Seen::Unreadable(reason) => return unknown(reason, "whether Secure Boot is on"),
            Seen::Is(true) => {}
        }
        if facts.driver.kernel.is_there() {
            return Verdict::Pass;
        }
        let signed = facts
            .packages
            .get()
            .and_then(|all| all.iter().find(|package| package.name.starts_with("linux-modules-nvidia-")));
        if signed.is_some() {
            return Verdict::Pass;
        }
        // Its key is among those that shim believes: what keeps the module out is something else.
        if facts.enrolled.get() == Some(&true) {
            return Verdict::Pass;
        }
        let seen = |trouble: Trouble| {
            let trouble = trouble.seen(facts.secure_boot.source.clone(), "1 (on)");
            match &facts.enrolled.value {
                Seen::Is(_) => trouble.seen(facts.enrolled.source.clone(), "does not hold this machine's key"),
                _ => trouble,
            }
        };
        let mut fixes = Vec::new();
        if facts.vm.get() == Some(&true) {
            let fix = Fix::by_hand(
                "on the host: give the VM an EFI disk without enrolled keys",
                &["sudo thruway vm apply"],
                "thruway undo on the host",
            );
            fixes.push(
                fix.costs(
                    "a stop and start of the VM; a guest that seals its disk to the TPM asks for its recovery key",
                ),
            );
        }
        let key = if facts.os.id == "ubuntu" { "/var/lib/shim-signed/mok/MOK.der" } else { "/var/lib/dkms/mok.pub" };
        fixes.push(
            Fix::by_hand(
                "enrol the key that signs this machine's modules, and confirm it at the console",
                &[&format!("sudo mokutil --import {key}"), "sudo reboot"],
                "sudo mokutil --delete the same key",
            )
            .costs("a reboot, and a hand at the console"),
        );
        if facts.has_driver_module() {
            let mut trouble = seen(Trouble::new(
                "Secure Boot is on and NVIDIA's module, built for this kernel, is not loaded: its key is not enrolled",
            ))
            .seen(facts.built.source.clone(), "nvidia.ko is there");
            trouble.fixes = fixes;
            return Verdict::Fail(trouble);
        }
        let mut trouble = seen(Trouble::new(
            "Secure Boot is on: a module that is built here will be rejected unless its key is enrolled",
        ));
        trouble.fixes = fixes;
        if let Some(reason) = facts.built.value.unreadable() {
            trouble = trouble.seen(Source::Rule("no module seen".into()), reason.to_string());
        }
        Verdict::Warn(trouble)
    },
};

/// What a person does at the console so that a module that is built here may be loaded.
pub(crate) fn enrolment(facts: &Facts) -> Vec<String> {
    let key = if facts.os.id == "ubuntu" { "/var/lib/shim-signed/mok/MOK.der" } else { "/var/lib/dkms/mok.pub" };
    vec![
        "Secure Boot is on: the module that is built here is loaded only once its key is enrolled, and only at the console:"
            .into(),
        format!("sudo mokutil --import {key}   # asks for a password of your choice, for the next boot alone"),
        "at the next boot the blue screen of MokManager waits ten seconds: Enroll MOK, Continue, Yes, that password, Reboot"
            .into(),
    ]
}
