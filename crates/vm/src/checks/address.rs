//! Address arithmetic: what the guest's CPU claims, where its firmware puts the card, and how far the IOMMU reaches.
//!
//! edk2's rule (OvmfPkg/Library/PlatformInitLib/MemDetect.c). The CPU's width W is believed where guest-phys-bits says
//! it, or it is over 40, or it is a real CPU's (36 and 39 of Intel, 40 of AMD); QEMU's default of 40 on Intel is not.
//! W is cut to 46, and to 40 where the guest has no pages of 1 GiB. Then the window is 2^(W-3) at the top of 2^W. It is
//! the classic 32 GiB above the memory where W is not believed, 2^(W-3) is not more, or the memory leaves no room.

use formats::propstr::PropStr;
use model::{Check, Fix, Reason, Seen, Source, Trouble};

use super::{Says, about, cards, each, mend};
use crate::{Facts, Vm, VmKind};

const GIB: u64 = 1 << 30;
const CLASSIC: u64 = 32 * GIB;

/// What the guest's CPU says of addresses, with the terms of the sum.
struct Width {
    /// Bits of the guest's addresses as its CPU says them.
    bits: u32,
    /// The firmware believes it, and this is what it makes of it.
    trusted: Option<u32>,
    memory_mib: u64,
    terms: Vec<String>,
}

impl Width {
    /// Bytes of the window for 64-bit BARs.
    fn window(&self) -> u64 {
        self.trusted.and_then(|bits| dynamic(bits, self.memory_mib)).unwrap_or(CLASSIC)
    }

    /// The bit below which everything lies that the firmware places; none where the window is the classic one.
    fn top(&self) -> Option<u32> {
        self.trusted.filter(|bits| dynamic(*bits, self.memory_mib).is_some())
    }
}

/// Bytes of the window at the top of 2^bits; none where the firmware keeps the classic one.
fn dynamic(bits: u32, memory_mib: u64) -> Option<u64> {
    let space = 1u64.checked_shl(bits)?;
    let window = space >> 3;
    // memory from 4 GiB on, and the classic window's alignment
    let base = memory_mib.saturating_mul(1 << 20).saturating_add(4 * GIB).div_ceil(CLASSIC).saturating_mul(CLASSIC);
    (window > CLASSIC && base.saturating_add(window) < space).then_some(window)
}

/// The width that the firmware works with; none: it does not believe the CPU.
fn believed(bits: u32, guest: Option<u32>, vendor: &str, gib_pages: bool) -> Option<u32> {
    let real = match vendor {
        "AuthenticAMD" => bits == 40,
        "GenuineIntel" => bits == 36 || bits == 39,
        _ => false,
    };
    if guest.is_none() && bits <= 40 && !real {
        return None;
    }
    Some(bits.min(guest.unwrap_or(bits)).min(if gib_pages { 46 } else { 40 }))
}

/// An option of Proxmox VE's `cpu:` line.
fn cpu_option(vm: &Vm, key: &str) -> Option<String> {
    let conf = vm.conf.as_ref()?;
    PropStr::parse(conf.get("cpu")?.value).get(key).map(str::to_owned)
}

fn limited(vm: &Vm) -> Option<u32> {
    let domain = vm.domain.as_ref().and_then(|domain| domain.phys_bits);
    cpu_option(vm, "guest-phys-bits").and_then(|bits| bits.parse().ok()).or(domain)
}

fn width(facts: &Facts, vm: &Vm) -> Result<Width, Says> {
    let unknown = |reason: &Reason| Says::Unknown(reason.clone(), "/proc/cpuinfo".into());
    let host_bits = || match &facts.phys_bits {
        Seen::Is(bits) => Ok(*bits),
        Seen::Absent => Err(Says::Skip),
        Seen::Unreadable(reason) => Err(unknown(reason)),
    };
    let vendor = match &facts.cpu_vendor {
        Seen::Is(vendor) => vendor.as_str(),
        Seen::Absent => return Err(Says::Skip),
        Seen::Unreadable(reason) => return Err(unknown(reason)),
    };
    let model = vm.cpu.as_ref().map_or("not set", |cpu| cpu.value.as_str());
    let host = model == "host";
    let mut terms = Vec::new();
    let asked = cpu_option(vm, "phys-bits");
    let bits = match asked.as_deref() {
        Some("host") => host_bits()?,
        Some(text) => text.parse().map_err(|_| Says::Skip)?,
        None if host => host_bits()?,
        None => 40,
    };
    terms.push(match (&asked, host) {
        (Some(text), _) => format!("phys-bits={text}: {bits} bits"),
        (None, true) => format!("cpu host: the host's {bits} bits"),
        (None, false) => format!("cpu {model}: QEMU's default of 40 bits"),
    });
    let guest = limited(vm);
    let pages = if host { facts.host.gib_pages.get().copied().unwrap_or(true) } else { has_flag(vm, "pdpe1gb") };
    let trusted = believed(bits, guest, vendor, pages);
    terms.extend(guest.map(|guest| format!("guest-phys-bits {guest}")));
    match trusted {
        None => terms.push(format!("{bits} bits on {vendor} is not believed: the classic 32 GiB")),
        Some(used) if used < bits.min(guest.unwrap_or(bits)) => {
            terms.push(format!("cut to {used} ({})", if pages { "4-level paging" } else { "no pages of 1 GiB" }));
        }
        Some(_) => {}
    }
    Ok(Width { bits, trusted, memory_mib: vm.memory.value, terms })
}

/// `flags=+pdpe1gb`, or a model that has it.
fn has_flag(vm: &Vm, flag: &str) -> bool {
    let named = cpu_option(vm, "flags").is_some_and(|flags| flags.split(';').any(|one| one == format!("+{flag}")));
    let model = vm.cpu.as_ref().map_or("kvm64", |cpu| cpu.value.as_str());
    // of QEMU's models those before Westmere's successors and the x86-64-vN line have none
    let old =
        ["kvm", "qemu", "x86-64-v", "486", "pentium", "core2", "coreduo", "Conroe", "Penryn", "Nehalem", "Opteron_G"];
    named || !old.iter().any(|start| model.starts_with(start))
}

/// The card's 64-bit BARs, each at the size that its alignment costs.
fn need(facts: &Facts, vm: &Vm) -> (u64, String) {
    let bars = facts.cards_of(vm).into_iter().flat_map(|card| card.bars.iter()).filter(|bar| bar.wide);
    let sizes: Vec<u64> = bars.map(|bar| bar.size.checked_next_power_of_two().unwrap_or(u64::MAX)).collect();
    let words: Vec<String> = sizes.iter().map(|size| human(*size)).collect();
    (sizes.iter().fold(0, |sum, size| sum.saturating_add(*size)), words.join(" + "))
}

fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        0x10_0000..GIB => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{} GiB", bytes.div_ceil(GIB)),
    }
}

/// Where the definition sizes the window itself.
fn sized(vm: &Vm) -> bool {
    let args = vm.conf.as_ref().and_then(|conf| conf.get("args")).map(|args| args.value);
    args.or(vm.domain.as_ref().map(|domain| domain.text())).is_some_and(|text| text.contains("X-PciMmio64Mb"))
}

pub(super) const WINDOW_TOO_SMALL: Check<Facts> = Check {
    about: about(
        "vm/window-too-small",
        "the guest's firmware has room for the card's memory",
        "OVMF sizes its window for 64-bit BARs by the address width that the guest's CPU claims: an eighth of the space \
         where it believes the width, else 32 GiB. With a CPU model other than `host` on Intel that is 32 GiB, on AMD \
         128 GiB. A card with resizable BAR does not fit in 32 GiB together with its second BAR; the guest says \"BAR 1: no \
         space for\" and \"This PCI I/O region assigned to your NVIDIA device is invalid\".",
        "edk2 OvmfPkg PlatformInitLib, MemDetect.c",
    ),
    run: |facts| each(facts, |vm| window(facts, vm)),
};

fn window(facts: &Facts, vm: &Vm) -> Says {
    if !vm.uefi {
        return Says::Skip;
    }
    let (need, sum) = need(facts, vm);
    if need <= CLASSIC || sized(vm) {
        return Says::Well;
    }
    let width = match width(facts, vm) {
        Ok(width) => width,
        Err(says) => return says,
    };
    let room = width.window();
    if need <= room {
        return Says::Well;
    }
    let trouble = Trouble::new(format!(
        "{}'s firmware has {} GiB of address space for {}, which needs {} GiB",
        vm.title(),
        room / GIB,
        cards(facts, vm),
        need.div_ceil(GIB)
    ))
    .seen(vm.source(vm.cpu.as_ref().and_then(|cpu| cpu.line)), width.terms.join("; "))
    .seen(Source::Rule("edk2, MemDetect.c".into()), format!("{sum} = {} against {}", human(need), human(room)));
    let host = vm.cpu.as_ref().is_some_and(|cpu| cpu.value == "host");
    let fix = if host {
        let mib = need.saturating_mul(2) >> 20;
        Fix::by_hand(
            "give the firmware a larger window (root only)",
            &[&format!("qm set {} --args '-fw_cfg name=opt/ovmf/X-PciMmio64Mb,string={mib}'", vm.id)],
            format!("qm set {} --delete args", vm.id),
        )
    } else {
        mend(facts, vm, "show the guest the host's CPU", "<cpu mode='host-passthrough'/>")
    };
    Says::Fail(trouble.fix(fix))
}

pub(super) const BEYOND_IOMMU: Check<Facts> = Check {
    about: about(
        "vm/beyond-iommu",
        "the guest's firmware puts the card where the IOMMU reaches",
        "Consumer boards of Intel have IOMMUs of 39 bits, and CPUs of 46. OVMF puts the card at the top of what the guest's \
         CPU claims: \"vfio_container_dma_map(…, 0x382800000000, …) = -22 (Invalid argument)\", a black screen, or two \
         cards that cannot reach each other. guest-phys-bits tells the guest how far it may go.",
        "VT-d specification, CAP register, MGAW; QEMU, guest-phys-bits; edk2 MemDetect.c",
    ),
    run: |facts| each(facts, |vm| beyond(facts, vm)),
};

fn beyond(facts: &Facts, vm: &Vm) -> Says {
    let (reach, path) = match &facts.host.iommu_bits {
        Seen::Is((bits, path)) => (*bits, path),
        // AMD's units reach as far as the CPU
        Seen::Absent => return Says::Skip,
        Seen::Unreadable(reason) => return Says::Unknown(reason.clone(), "/sys/class/iommu".into()),
    };
    if !vm.uefi {
        return Says::Skip;
    }
    let width = match width(facts, vm) {
        Ok(width) => width,
        Err(says) => return says,
    };
    let Some(top) = width.top().filter(|top| *top > reach) else { return Says::Well };
    let trouble = Trouble::new(format!(
        "{}'s firmware puts {} below bit {top}, and this host's IOMMU reaches {reach} bits",
        vm.title(),
        cards(facts, vm)
    ))
    .seen(vm.source(vm.cpu.as_ref().and_then(|cpu| cpu.line)), width.terms.join("; "))
    .seen(
        Source::file(path.as_str()),
        format!(
            "{reach} bits; the window is {} to {} GiB",
            (1u64 << top.min(60)) / GIB / 8 * 7,
            (1u64 << top.min(60)) / GIB
        ),
    );
    let model = vm.cpu.as_ref().map_or("host", |cpu| cpu.value.as_str());
    let fix = match vm.kind {
        VmKind::Proxmox => Fix::by_hand(
            "tell the guest how far it may go (QEMU 9.1 or newer)",
            &[&format!("qm set {} --cpu {model},guest-phys-bits={reach}", vm.id)],
            format!("qm set {} --cpu {model}", vm.id),
        ),
        VmKind::Libvirt => Fix::by_hand(
            format!("tell the guest how far it may go: <maxphysaddr mode='passthrough' limit='{reach}'/> inside <cpu>"),
            &[&format!("virsh edit {}", vm.id)],
            "virsh edit, and take the line out",
        ),
    };
    Says::Warn(trouble.fix(super::restart(vm, fix)))
}

pub(super) const PHYS_BITS_TOO_MANY: Check<Facts> = Check {
    about: about(
        "vm/phys-bits-too-many",
        "the guest claims no more address bits than the host's CPU has",
        "With `phys-bits` over the host's the guest uses addresses that the processor cannot translate: the card's memory \
         reads as ones, or the guest dies at its first access.",
        "QEMU, phys-bits; Intel SDM volume 3, MAXPHYADDR",
    ),
    run: |facts| {
        each(facts, |vm| {
            let host = match &facts.phys_bits {
                Seen::Is(bits) => *bits,
                Seen::Absent => return Says::Skip,
                Seen::Unreadable(reason) => return Says::Unknown(reason.clone(), "/proc/cpuinfo".into()),
            };
            let width = match width(facts, vm) {
                Ok(width) => width,
                Err(says) => return says,
            };
            if width.bits <= host {
                return Says::Well;
            }
            let line = vm.cpu.as_ref().and_then(|cpu| cpu.line);
            // QEMU's own 40 on a CPU of 39: the firmware is told so, and most memory lies lower
            let trouble = Trouble::new(format!(
                "{} claims {} address bits, and this host's CPU has {host}",
                vm.title(),
                width.bits
            ))
            .seen(vm.source(line), width.terms.join("; "))
            .seen(Source::file("/proc/cpuinfo"), format!("{host} bits physical"));
            let fix = mend(facts, vm, "show the guest the host's CPU", "<cpu mode='host-passthrough'/>");
            Says::Warn(trouble.fix(fix))
        })
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmwares_window_by_edk2s_rule() {
        let (amd, intel) = ("AuthenticAMD", "GenuineIntel");
        let window = |bits, guest, vendor, pages| {
            believed(bits, guest, vendor, pages).map_or(32, |bits| dynamic(bits, 8192).map_or(32, |bytes| bytes / GIB))
        };
        // (bits, guest-phys-bits, vendor, 1 GiB pages): window in GiB
        for (bits, guest, vendor, pages, gib) in [
            (40, None, intel, false, 32),
            (40, None, amd, false, 128),
            (40, None, "HygonGenuine", true, 32),
            (36, None, intel, true, 32),
            (39, None, intel, true, 64),
            (39, None, amd, true, 32),
            (43, None, amd, true, 1024),
            (46, None, intel, true, 8192),
            (46, None, intel, false, 128),
            (52, None, intel, true, 8192),
            (46, Some(39), intel, true, 64),
            (40, Some(40), intel, true, 128),
            (52, Some(64), amd, true, 8192),
        ] {
            assert_eq!(window(bits, guest, vendor, pages), gib, "{bits} {guest:?} {vendor} {pages}");
        }
    }

    #[test]
    fn memory_up_to_the_top_leaves_the_classic_window() {
        assert_eq!(dynamic(39, 400 << 10), Some(64 * GIB));
        assert_eq!(dynamic(39, 444 << 10), None);
        assert_eq!(dynamic(64, 1), None);
        assert_eq!(dynamic(46, u64::MAX), None);
    }
}
