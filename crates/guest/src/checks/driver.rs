//! Is NVIDIA's driver here, and does it fit the card and itself?

use gpu::ModuleKind;
use gpu::branch::{Fit, branch_of};
use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use super::{not_here, unknown};
use crate::{Facts, advice};

pub const MISSING: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/driver-missing"),
        layer: Layer::Guest,
        title: "NVIDIA's kernel module is loaded",
        why: "Without NVIDIA's kernel module there is no /dev/nvidia0, and nothing above this floor can work: containers, \
              Kubernetes and applications all end at \"NVIDIA-SMI has failed because it couldn't communicate with the \
              NVIDIA driver\". Which branch and which kind of module the card needs depends on its generation.",
        source: "NVIDIA driver README",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        match &facts.driver.kernel {
            Seen::Is(_) => return Verdict::Pass,
            Seen::Unreadable(reason) => return unknown(reason, "whether NVIDIA's module is loaded"),
            Seen::Absent => {}
        }
        let card = facts.usable().next().map(|card| format!("{} ({})", card.identity.bdf.short(), card.short_name()));
        let card = card.unwrap_or_default();
        let absent = Source::file("/proc/driver/nvidia/version");
        if facts.has_driver_module() {
            let trouble = Trouble::new(format!("NVIDIA's driver is installed but not loaded, so nothing runs {card}"))
                .seen(absent, "not there")
                .seen(facts.built.source.clone(), "nvidia.ko is there");
            let lines = ["sudo modprobe nvidia", "sudo dmesg | grep -iE 'nvrm|nvidia'"];
            return Verdict::Fail(trouble.fix(Fix::by_hand(
                "load it, and read why if it fails",
                &lines,
                "sudo modprobe -r nvidia",
            )));
        }
        let trouble = Trouble::new(format!("no NVIDIA driver is installed for {card}")).seen(absent, "not there");
        Verdict::Fail(trouble.fix(advice::fix(facts)))
    },
};

/// What stands for the driver here: the running module, else the installed packages. (version or name, branch, kind, source)
fn standing(facts: &Facts) -> Option<(String, u32, Option<ModuleKind>, Source)> {
    if let Seen::Is(version) = &facts.driver.kernel {
        let source = Source::file("/proc/driver/nvidia/version");
        return Some((version.clone(), branch_of(version)?, facts.driver.kind, source));
    }
    let packages = facts.packages.get()?;
    packages.iter().filter(|package| package.driver()).find_map(|package| {
        let kind = package.open().then_some(ModuleKind::Open);
        Some((format!("{} {}", package.name, package.version), package.branch()?, kind, package.source.clone()))
    })
}

pub const BRANCH: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/driver-branch"),
        layer: Layer::Guest,
        title: "the driver's branch still knows the card's generation",
        why: "Each branch of NVIDIA's driver drops old generations: 470 is the last for Kepler, 580 the last for Maxwell, \
              Pascal and Volta. A newer one loads and ignores the card: \"NVRM: … supported through the NVIDIA 580.xx \
              Legacy drivers. The 595.71.05 NVIDIA driver will ignore this GPU\", \"No NVIDIA GPU found\". A package \
              manager that takes the newest driver brings this about by an ordinary upgrade: pin the branch.",
        source: "NVIDIA's deprecation notices; the driver's own kernel messages",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        let cards: Vec<_> = facts.usable().collect();
        if let Some(reason) = facts.driver.kernel.unreadable() {
            return unknown(reason, "the driver's version");
        }
        if let Some((name, branch, _, source)) = standing(facts) {
            for card in &cards {
                let trouble = match advice::unfit(card, branch, None) {
                    Some((arch, Fit::TooNew { newest })) => Trouble::new(format!(
                        "driver branch {branch} ignores {} ({}): {newest} is the last branch for {}",
                        card.identity.bdf.short(),
                        card.short_name(),
                        arch.name()
                    )),
                    Some((arch, Fit::TooOld { oldest })) => Trouble::new(format!(
                        "driver branch {branch} does not know {} ({}): {} begins with branch {oldest}",
                        card.identity.bdf.short(),
                        card.short_name(),
                        arch.name()
                    )),
                    _ => continue,
                };
                return Verdict::Fail(trouble.seen(source, name).fix(advice::fix(facts)));
            }
            return match cards.iter().find(|card| card.arch.is_none()) {
                Some(card) => unknown(
                    &model::Reason::Other("its generation is not in the table".into()),
                    format!("which branch {} needs", card.device_name),
                ),
                None => Verdict::Pass,
            };
        }
        let Some(package) = advice::unversioned(facts) else { return Verdict::NotApplicable };
        let Some(branch) = package.branch() else { return Verdict::NotApplicable };
        match cards.iter().find_map(|card| Some((card, advice::unfit(card, branch, None)?))) {
            Some((card, (arch, Fit::TooNew { newest }))) => Verdict::Warn(
                Trouble::new(format!(
                    "apt offers {} of branch {branch}, which ignores the {}: {newest} is the last branch for {}",
                    package.name,
                    card.short_name(),
                    arch.name()
                ))
                .seen(package.source.clone(), package.version.clone())
                .fix(advice::fix(facts)),
            ),
            _ => Verdict::Pass,
        }
    },
};

pub const MODULE_KIND: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/module-kind"),
        layer: Layer::Guest,
        title: "open or proprietary modules, as the card needs",
        why: "NVIDIA ships two kinds of kernel modules. The open ones need the GSP processor of Turing and later and pass \
              an older card by (\"NVRM: The NVIDIA GPU … is not supported by open nvidia.ko\"); Blackwell runs with the \
              open ones alone. Packages with -open in their name bring the open kind.",
        source: "NVIDIA driver README, chapter on open kernel modules",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        if let Some(reason) = facts.driver.kernel.unreadable() {
            return unknown(reason, "the kind of the loaded module");
        }
        let Some((name, branch, Some(kind), source)) = standing(facts) else { return Verdict::NotApplicable };
        for card in facts.usable() {
            let (has, needs) = match advice::unfit(card, branch, Some(kind)) {
                Some((_, Fit::NeedsProprietary)) => ("open", "proprietary"),
                Some((_, Fit::NeedsOpen)) => ("proprietary", "open"),
                _ => continue,
            };
            let says = format!(
                "the {has} kernel modules do not run {} ({}): it needs the {needs} ones",
                card.identity.bdf.short(),
                card.short_name()
            );
            return Verdict::Fail(Trouble::new(says).seen(source, name).fix(advice::fix(facts)));
        }
        Verdict::Pass
    },
};

pub const LIBRARY: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/library-mismatch"),
        layer: Layer::Guest,
        title: "the driver's libraries have the loaded module's version",
        why: "The libraries of NVIDIA's driver work only with a kernel module of exactly their version. After an upgrade \
              without a reboot the old module is still loaded: \"Failed to initialize NVML: Driver/library version \
              mismatch\". Every container started from then on fails too. A reboot loads the new module.",
        source: "NVML: NVML_ERROR_LIB_RM_VERSION_MISMATCH",
    },
    run: |facts| {
        if let Some(verdict) = not_here(facts) {
            return verdict;
        }
        let module = match &facts.driver.kernel {
            Seen::Is(version) => version,
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "the loaded module's version"),
        };
        let path = facts.driver.library_path.get().cloned().unwrap_or_else(|| "libnvidia-ml.so.1".into());
        let library = match &facts.driver.library {
            Seen::Is(version) => version,
            Seen::Absent => {
                let trouble = Trouble::new(format!("module {module} is loaded, but its libraries are not installed"))
                    .seen(Source::Rule("the loader's paths".into()), "no libnvidia-ml.so.1");
                return Verdict::Fail(trouble.fix(advice::fix(facts)));
            }
            Seen::Unreadable(reason) => return unknown(reason, "the driver's libraries"),
        };
        if library == module {
            return Verdict::Pass;
        }
        Verdict::Fail(
            Trouble::new(format!(
                "the loaded module is {module} and the libraries are {library}: NVML refuses to start"
            ))
            .seen(Source::file("/proc/driver/nvidia/version"), module.clone())
            .seen(Source::file(path), library.clone())
            .fix(reload(facts)),
        )
    },
};

/// The module of the libraries' version, without a boot where nothing holds the old one.
fn reload(facts: &Facts) -> Fix {
    let loaded: Vec<&str> = ["nvidia_uvm", "nvidia_drm", "nvidia_modeset", "nvidia"]
        .into_iter()
        .filter(|module| facts.loaded(module) == Seen::Is(true))
        .collect();
    if facts.in_use.is_empty() && facts.modules.value.is_there() && !loaded.is_empty() {
        let unload = format!("sudo rmmod {}", loaded.join(" "));
        let lines = [unload.as_str(), "sudo modprobe nvidia", "sudo modprobe nvidia-uvm"];
        return Fix::by_hand(
            "nothing uses the old module: load the new one in its place",
            &lines,
            "nothing to take back",
        );
    }
    let held: Vec<String> = facts.in_use.iter().map(|(module, users)| format!("{module}, {users} users")).collect();
    let why = if held.is_empty() { String::new() } else { format!(" (the old one is held: {})", held.join("; ")) };
    Fix::by_hand(
        format!("reboot, so that the module of the libraries' version is loaded{why}"),
        &["sudo reboot"],
        "nothing to take back",
    )
    .costs("an outage of this machine")
}
