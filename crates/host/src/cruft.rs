//! What guides hand on and this host does not need: found once, told by the check `host/cruft`, taken away by
//! `thruway host plan --clean`.

use formats::kcmdline::Cmdline;
use model::{Seen, Source};

use crate::facts::{Facts, is_module};

/// One leftover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    pub source: Source,
    /// "amd_iommu=on", "options kvm ignore_msrs=1".
    pub what: String,
    pub why: &'static str,
    pub weight: Weight,
    pub remove: Remove,
}

/// What it does to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Does nothing.
    Harmless,
    /// Stands in the way of something.
    Broken,
    /// Weakens a boundary.
    Risky,
}

impl Weight {
    pub fn word(self) -> &'static str {
        match self {
            Weight::Harmless => "harmless",
            Weight::Broken => "broken",
            Weight::Risky => "risky",
        }
    }
}

/// How it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remove {
    /// An argument of the kernel command line.
    Token(String),
    /// An option of a module, in modprobe.d; a line that has nothing else left goes with it.
    Option { path: String, module: String, option: String },
    /// A whole line, 1-based, of a file of such lines.
    Line { path: String, line: u32 },
}

/// Tokens of guides, and what is to be said of each (kernel-parameters.txt).
const TOKENS: [(&str, Weight, &str); 10] = [
    ("amd_iommu=on", Weight::Harmless, "is no value that the kernel knows; AMD's IOMMU is on by itself"),
    ("video=efifb:off", Weight::Harmless, "has no effect since the kernel's own framebuffer code takes the firmware's"),
    (
        "video=vesafb:off",
        Weight::Harmless,
        "has no effect since the kernel's own framebuffer code takes the firmware's",
    ),
    ("video=simplefb:off", Weight::Harmless, "has no effect: simpledrm does not read it"),
    ("nofb", Weight::Harmless, "has no effect on a kernel with DRM"),
    ("nomodeset", Weight::Broken, "switches every display driver off, the host's own too"),
    ("kvm.ignore_msrs=1", Weight::Harmless, "hides errors of every guest; only some guests need it"),
    ("vfio-pci.disable_vga=1", Weight::Harmless, "does nothing for a VM that starts by OVMF"),
    ("vfio_iommu_type1.allow_unsafe_interrupts=1", Weight::Risky, "lets guests inject interrupts into the host"),
    ("vfio.enable_unsafe_noiommu_mode=1", Weight::Risky, "lets devices reach all memory"),
];

/// Options of modules: module, option, and what is to be said of it.
const OPTIONS: [(&str, &str, Weight, &str); 5] = [
    ("kvm", "ignore_msrs", Weight::Harmless, "hides errors of every guest; only some guests need it"),
    ("kvm", "report_ignored_msrs", Weight::Harmless, "hides what ignore_msrs hides"),
    ("vfio_pci", "disable_vga", Weight::Harmless, "does nothing for a VM that starts by OVMF"),
    ("vfio_iommu_type1", "allow_unsafe_interrupts", Weight::Risky, "lets guests inject interrupts into the host"),
    ("vfio", "enable_unsafe_noiommu_mode", Weight::Risky, "lets devices reach all memory"),
];

/// Everything of the kind, in the order of its places. What this platform cannot do without is none.
pub fn find(facts: &Facts) -> Vec<Leftover> {
    // Without interrupt remapping there is no other way, and host/intremap-missing speaks of that.
    let unsafe_needed = facts.iommu.remaps.value == Seen::Is(false);
    let needed = |name: &str| name.contains("allow_unsafe_interrupts") && unsafe_needed;
    let mut found = tokens(facts);
    found.extend(modprobe(facts));
    found.retain(|leftover| !needed(&leftover.what));
    found.extend(lists(facts));
    found
}

fn tokens(facts: &Facts) -> Vec<Leftover> {
    let effective = Cmdline::parse(facts.boot.effective.get().map_or("", String::as_str));
    let written = Cmdline::parse(facts.boot.written.get().map_or("", String::as_str));
    let mut found = Vec::new();
    for (token, weight, why) in TOKENS {
        let source = if effective.has(token) {
            Source::file("/proc/cmdline")
        } else if written.has(token) {
            crate::plan::place(facts, token)
        } else {
            continue;
        };
        found.push(Leftover { source, what: token.into(), why, weight, remove: Remove::Token(token.into()) });
    }
    found
}

fn place_of(source: &Source) -> Option<(&str, u32)> {
    match source {
        Source::File { path, line: Some(line) } => Some((path, *line)),
        _ => None,
    }
}

fn modprobe(facts: &Facts) -> Vec<Leftover> {
    let mut found: Vec<Leftover> = Vec::new();
    let mut seen: Vec<(&str, String, String)> = Vec::new();
    for line in &facts.conf.modprobe {
        let Some((path, number)) = place_of(&line.source).filter(|(path, _)| path.starts_with("/etc/")) else {
            continue;
        };
        let ours = path == crate::plan::files::MODPROBE;
        // The same line twice says nothing new, and hides which one counts.
        let key = (line.verb, line.module.replace('-', "_"), line.args.join(" "));
        if seen.contains(&key) && !ours {
            found.push(Leftover {
                source: line.source.clone(),
                what: format!("{} {} {}", line.verb, line.module, line.args.join(" ")).trim_end().to_owned(),
                why: "stands twice",
                weight: Weight::Harmless,
                remove: Remove::Line { path: path.into(), line: number },
            });
            continue;
        }
        seen.push(key);
        for arg in line.args.iter().filter(|_| line.verb == "options") {
            let Some((name, value)) = arg.split_once('=') else { continue };
            let known = OPTIONS.iter().find(|(module, option, ..)| is_module(&line.module, module) && name == *option);
            let Some((_, option, weight, why)) = known else { continue };
            // What is switched off is switched off.
            let on = matches!(value, "1" | "Y" | "y") || *option == "report_ignored_msrs";
            if on {
                found.push(Leftover {
                    source: line.source.clone(),
                    what: format!("options {} {arg}", line.module),
                    why,
                    weight: *weight,
                    remove: Remove::Option { path: path.into(), module: line.module.clone(), option: arg.clone() },
                });
            }
        }
    }
    found
}

/// Modules that this kernel does not have, in lists of what is to be loaded.
fn lists(facts: &Facts) -> Vec<Leftover> {
    let Seen::Is(modules) = &facts.kernel.modules else { return Vec::new() };
    let here = |name: &str| modules.contains(&name.replace('-', "_")) || facts.kernel.is_builtin(name);
    let gone = facts.conf.listed.iter().filter(|listed| listed.module.starts_with("vfio") && !here(&listed.module));
    gone.filter_map(|listed| {
        let (path, line) = place_of(&listed.source).filter(|(path, _)| path.starts_with("/etc/"))?;
        Some(Leftover {
            source: listed.source.clone(),
            what: listed.module.clone(),
            why: "is no module of this kernel",
            weight: Weight::Broken,
            remove: Remove::Line { path: path.into(), line },
        })
    })
    .collect()
}
